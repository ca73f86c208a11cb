"""How to train an energy of images on a CPU: objectives and networks, by what they learn.

All learn images plus noise, so that one loss judges them: that of denoising, on held-out
images. Draws are denoised by one step along the score. Those that a classifier recognises have
a class to which it gives a probability above 0.9; it has never seen an energy. How far they are
from training images tells whether they are copies. `python benchmarks/images.py digits mnist`
prints two tables.
"""

import dataclasses
import sys
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import optax
from sklearn.neighbors import NearestNeighbors
from sklearn.neural_network import MLPClassifier

import numpyro_ebm as ebm

NOISE_SCALE = 0.3
SCALES = np.geomspace(2.0, 0.1, 12)


class Case:
    """Images, a classifier that judges draws, and a Gaussian of the images plus noise."""

    def __init__(self, name):
        self.train, self.test = (np.float32(x) for x in getattr(ebm.datasets, name)())
        self.dim = self.train.shape[1]
        labels = {"digits": ebm.datasets.digit_labels, "mnist": ebm.datasets.mnist_labels}
        self.judge = MLPClassifier((200,), max_iter=1000, random_state=0)
        self.judge.fit(self.train, labels[name]().train)
        self.neighbours = NearestNeighbors(n_neighbors=1).fit(self.train)
        covariance = np.cov(self.train.T) + NOISE_SCALE**2 * np.eye(self.dim)
        self.gaussian = ebm.Gaussian(self.train.mean(0), covariance)

    def noisy(self, num_steps, batch_size=128):
        """Batches of images plus noise."""
        rng = np.random.default_rng(0)
        for _ in range(num_steps):
            images = self.train[rng.integers(len(self.train), size=batch_size)]
            yield images + NOISE_SCALE * rng.normal(size=images.shape).astype(np.float32)

    def loss(self, energy):
        """Of denoising, per held-out image."""
        objective = ebm.DenoisingScoreMatching(NOISE_SCALE)
        at = eqx.filter_jit(eqx.filter_vmap(objective.at, in_axes=(0, None, 0)))
        keys = jr.split(jr.key(9), (4, len(self.test)))
        return float(np.mean([at(some, energy, self.test).mean() for some in keys]))

    def recognised(self, draws):
        """The share that the classifier is sure of, that of the most frequent class, and
        the median distance to the nearest training image."""
        images = np.clip(draws, 0, 1)
        probs = self.judge.predict_proba(images)
        most = np.bincount(probs.argmax(1)).max() / len(images)
        near = np.median(self.neighbours.kneighbors(images)[0])
        return (probs.max(1) > 0.9).mean(), most, near


class Denoiser(eqx.Module):
    r"""$\lVert x - d(x, \sigma)\rVert^2/2\sigma^2$, where the pixels of $d$ lie in (0, 1)."""

    network: eqx.nn.MLP

    def __call__(self, x, noise_scale):
        inputs = (x - 0.3) / jnp.sqrt(noise_scale**2 + 0.1)
        clean = jax.nn.sigmoid(self.network(jnp.append(inputs, jnp.log(noise_scale))))
        return 0.5 * jnp.sum((x - clean) ** 2) / noise_scale**2


class Flat(eqx.Module):
    """A network of images, on flat ones."""

    network: eqx.Module
    side: int = eqx.field(static=True)

    def __call__(self, x):
        return self.network(x.reshape(self.side, self.side))


def run(objective, energy, data, num_steps, rate=1e-3, ema_decay=0.99):
    optim = optax.adam(optax.cosine_decay_schedule(rate, num_steps))
    estimator = ebm.Estimator(objective, optim, ema_decay=ema_decay)
    settings = {} if not isinstance(data, np.ndarray) else {"batch_size": 128}
    done = estimator.run(jr.key(2), num_steps, energy, data, progress_bar=False, **settings)
    return done.energy


def tilted(case, **settings):
    network = ebm.MLPEnergy(case.dim, 256, 2, reference=None, key=jr.key(1), **settings)
    return ebm.Tilted(network, case.gaussian)


def convolutional(case):
    side = int(np.sqrt(case.dim))
    network = ebm.ConvEnergy(
        (side, side), (16, 32), strides=(1, 2), reference=None, key=jr.key(1)
    )
    return ebm.Tilted(Flat(network, side), case.gaussian)


def denoising(case):
    objective = ebm.DenoisingScoreMatching(NOISE_SCALE)
    return run(objective, tilted(case), case.train, 3000, 2e-3)


def denoising_conv(case):
    objective = ebm.DenoisingScoreMatching(NOISE_SCALE)
    return run(objective, convolutional(case), case.train, 1500, 2e-3)


def contrastive(case, rate=1e-2, **settings):
    start = ebm.Persistent(1024, 0.01)
    objective = ebm.ContrastiveDivergence(ebm.MALA(step_size=0.03), 10, start)
    return run(objective, tilted(case, **settings), case.noisy(1500), 1500, rate)


def multiscale(case):
    width = 256 if case.dim == 64 else 512
    network = eqx.nn.MLP(case.dim + 1, case.dim, width, 2, jax.nn.silu, key=jr.key(1))
    start = ebm.ConditionalEnergy(Denoiser(network), (case.dim,))
    return run(ebm.MultiscaleDenoisingScoreMatching(SCALES), start, case.train, 2400)


@eqx.filter_jit
def denoised(energy, draws, noise_scale):
    """One step along the score."""
    return draws + noise_scale**2 * eqx.filter_vmap(ebm.score, in_axes=(None, 0))(energy, draws)


def chains(case, energy, num_steps, num=100):
    """Ends of chains from the Gaussian, denoised."""
    starts = np.asarray(case.gaussian.sample(jr.key(4), (num,)))
    settings = {"num_chains": num, "num_warmup": num_steps, "num_samples": 1}
    draws = ebm.sample(
        jr.key(3), energy, ebm.MALA(), init_params=starts, progress_bar=False, **settings
    )
    return denoised(energy, draws.values[:, -1], NOISE_SCALE)


def annealed(energy, num=100):
    kernel = ebm.UnadjustedLangevin(step_size=0.1)
    descent = ebm.AnnealedLangevin(SCALES, kernel=kernel, num_steps=30)
    settings = {"num_chains": 1, "num_samples": num, "progress_bar": False}
    draws = ebm.sample(jr.key(3), energy, descent, **settings).values[0]
    last = SCALES[-1]
    return denoised(energy.given(last), draws, last)


def tutorial(case, num_steps=1000):
    """The recipe of "Deep Energy Models", on pixels from -1 to 1; it needs no noisy images."""
    pixels = dist.Uniform(-1, 1).expand([case.dim]).to_event(1)
    start = ebm.objectives.Replayed(noise=pixels)
    kernel = ebm.kernels.ClippedLangevin()
    objective = ebm.ContrastiveDivergence(kernel, 60, start, energy_penalty=0.1)
    optim = optax.chain(optax.clip_by_global_norm(0.1), optax.adam(1e-4, b1=0.0))
    rng = np.random.default_rng(0)

    def batches():
        for _ in range(num_steps):
            images = 2 * case.train[rng.integers(len(case.train), size=128)] - 1
            noise = 0.005 * rng.normal(size=images.shape)
            yield np.float32(np.clip(images + noise, -1, 1))

    network = ebm.MLPEnergy(case.dim, 256, 2, reference=None, key=jr.key(1))
    estimator = ebm.Estimator(objective, optim)
    return estimator.run(jr.key(2), num_steps, network, batches(), progress_bar=False).energy


ROWS = {
    "digits": {
        "Gaussian": lambda case: case.gaussian,
        "denoising": denoising,
        "denoising, convolutions": denoising_conv,
        "contrastive divergence": contrastive,
        "the same, spectral norm": lambda case: contrastive(case, spectral_norm=True),
        "multi-scale denoising": multiscale,
        "tutorial": tutorial,
    },
    "mnist": {
        "Gaussian": lambda case: case.gaussian,
        "denoising": denoising,
        "multi-scale denoising": multiscale,
    },
}


def draws_of(name, case, learned):
    """Short and long runs of whatever was learned."""
    if name == "multi-scale denoising":
        yield "annealed", annealed(learned)
    elif name == "tutorial":
        for num_steps in (256, 2560):
            longer = dataclasses.replace(learned, num_steps=num_steps)
            yield num_steps, 0.5 * (longer.sample(jr.key(3), (100,)) + 1)
    else:
        for num_steps in (300, 3000) if case.dim == 64 else (300,):
            yield num_steps, chains(case, learned, num_steps)


def row(name, case, make):
    """The held-out loss, and what a classifier thinks of draws."""
    start = time.perf_counter()
    learned = make(case)
    seconds = time.perf_counter() - start
    energy = learned.given(NOISE_SCALE) if name.startswith("multi") else learned
    loss = np.nan if name == "tutorial" else case.loss(energy)
    print(f"{name:26}{seconds:5.0f} s{loss:8.2f}", end="", flush=True)
    found = {}
    for steps, draws in draws_of(name, case, learned):
        found[steps] = case.recognised(np.asarray(draws))
        share, most, near = found[steps]
        print(f"   {steps}: {share:.2f}, {most:.2f}, {near:.2f}", end="", flush=True)
    print()
    return loss, found


def table(name, rows=None):
    """Of one data set: all rows, or some."""
    case = Case(name)
    share, most, near = case.recognised(case.test)
    print(f"{name}: of the test images {share:.2f}, {most:.2f}, {near:.2f}")
    return {k: row(k, case, make) for k, make in ROWS[name].items() if not rows or k in rows}


if __name__ == "__main__":
    for name in sys.argv[1:] or ROWS:
        table(name)
