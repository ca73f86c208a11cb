"""Run times of the library, relative to hand-written JAX loops that do the same work.

Both run in one process, interleaved. A row is the median ratio of neighbouring runs; below 1,
the library is faster. Compilation is not counted. Run with `make bench`.
"""

import os
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer import MCMC

import numpyro_ebm as ebm

ROUNDS = 9
KEY = jr.key(0)
NETWORK = eqx.nn.MLP(2, "scalar", 128, 3, jax.nn.silu, key=KEY)
DATA = ebm.datasets.two_moons(KEY, 8192)


def compare(name, ours, theirs):
    for run in (ours, theirs):
        jax.block_until_ready(run())
    seconds = []
    for _ in range(ROUNDS):
        pair = []
        for run in (ours, theirs):
            start = time.perf_counter()
            jax.block_until_ready(run())
            pair.append(time.perf_counter() - start)
        seconds.append(pair)
    ours, theirs = np.array(seconds).T
    low, mid, high = np.quantile(ours / theirs, [0.25, 0.5, 0.75])
    print(f"{name:<44}{mid:>6.2f}  [{low:.2f}, {high:.2f}]  {np.median(theirs):.3f} s")


class Energy(eqx.Module):
    network: eqx.nn.MLP

    def __call__(self, x):
        return self.network(x) + 0.5 * x @ x


ENERGY = ebm.as_energy(Energy(NETWORK), (2,))
PARAMS, STATIC = eqx.partition(Energy(NETWORK), eqx.is_array)


def network_energy(params, x):
    return eqx.combine(params, STATIC)(x)


def mala(num_chains, num_steps, step_size=0.05):
    """A move of the library, and textbook MALA, both in a jitted scan."""
    start = jr.normal(KEY, (num_chains, 2))
    move = ebm.MALA(step_size=step_size).move

    @eqx.filter_jit
    def ours(energy, start):
        def step(state, key):
            keys = jr.split(key, num_chains)
            state, info = jax.vmap(lambda k, s: move.step(k, s, energy))(keys, state)
            return state, info.acceptance_rate.mean()

        state = jax.vmap(lambda x: move.init(KEY, x, energy))(start)
        return jax.lax.scan(step, state, jr.split(KEY, num_steps))

    @jax.jit
    def theirs(params, start):
        value_and_grad = jax.vmap(jax.value_and_grad(lambda x: network_energy(params, x)))

        def step(carry, key):
            x, energy, gradient = carry
            noise_key, accept_key = jr.split(key)
            noise = jr.normal(noise_key, x.shape)
            y = x - step_size * gradient + jnp.sqrt(2 * step_size) * noise
            energy_y, gradient_y = value_and_grad(y)
            forth = jnp.sum((y - x + step_size * gradient) ** 2, -1)
            back = jnp.sum((x - y + step_size * gradient_y) ** 2, -1)
            log_ratio = energy - energy_y + (forth - back) / (4 * step_size)
            accept = jnp.log(jr.uniform(accept_key, (num_chains,))) < log_ratio
            carry = (
                jnp.where(accept[:, None], y, x),
                jnp.where(accept, energy_y, energy),
                jnp.where(accept[:, None], gradient_y, gradient),
            )
            return carry, jnp.exp(jnp.minimum(0, log_ratio)).mean()

        return jax.lax.scan(step, (start, *value_and_grad(start)), jr.split(KEY, num_steps))

    return lambda: ours(ENERGY, start), lambda: theirs(PARAMS, start)


def fitting(objective, loss_fn, carried=None, num_steps=1000, batch_size=256, bar=False):
    """`Estimator.run`, and one jitted scan of the same steps.

    `loss_fn(key, energy, batch, carried)` returns a loss and the state for the next step.
    """
    optim = optax.adam(1e-3)
    estimator = ebm.Estimator(objective, optim)
    trained = {"network": PARAMS, "log_z": jnp.zeros(())}

    @jax.jit
    def theirs(trained, data, key):
        def step(carry, key):
            trained, opt_state, carried = carry
            row_key, loss_key = jr.split(key)
            batch = data[jr.randint(row_key, (batch_size,), 0, len(data))]

            def loss_of(trained):
                def energy(x, params=trained):
                    return network_energy(params["network"], x) + params["log_z"]

                return loss_fn(loss_key, energy, batch, carried)

            (loss, carried), grads = jax.value_and_grad(loss_of, has_aux=True)(trained)
            updates, opt_state = optim.update(grads, opt_state)
            return (optax.apply_updates(trained, updates), opt_state, carried), loss

        start = (trained, optim.init(trained), carried)
        return jax.lax.scan(step, start, jr.split(key, num_steps))

    def ours():
        settings = {"batch_size": batch_size, "progress_bar": bar}
        return estimator.run(KEY, num_steps, ENERGY, DATA, **settings).losses

    return ours, lambda: theirs(trained, DATA, KEY)


def fixed(energy):
    """The same energy, with nothing to differentiate."""
    (params,) = jax.lax.stop_gradient(energy.__defaults__)
    return lambda x: energy(x, params)


def pointwise(loss_at):
    def loss_fn(key, energy, batch, carried):
        keys = jr.split(key, len(batch))
        return jax.vmap(lambda k, x: loss_at(k, energy, x))(keys, batch).mean(), carried

    return loss_fn


@pointwise
def denoising(key, energy, x):
    noise = jr.normal(key, x.shape)
    return 0.5 * jnp.sum((noise - 0.1 * jax.grad(energy)(x + 0.1 * noise)) ** 2)


@pointwise
def sliced(key, energy, x):
    v = jr.rademacher(key, x.shape, x.dtype)
    gradient, slope = jax.jvp(jax.grad(energy), (x,), (v,))
    return -jnp.sum(v * slope) + 0.5 * jnp.sum(gradient**2)


@pointwise
def implicit(key, energy, x):
    gradient, slope = jax.linearize(jax.grad(energy), x)
    laplacian = sum(slope(v)[i] for i, v in enumerate(jnp.eye(2)))
    return -laplacian + 0.5 * jnp.sum(gradient**2)


def contrast(key, energy, batch, carried):
    """Five draws per data point from the Gaussian that `NoiseContrastiveEstimation` fits."""
    loc, root = carried
    noise = loc + jr.normal(key, (5, len(batch), 2)) @ root.T

    def logit(x):
        z = jax.scipy.linalg.solve_triangular(root, x - loc, lower=True)
        log_noise = -0.5 * z @ z - jnp.log(2 * jnp.pi * root[0, 0] * root[1, 1])
        return -energy(x) - log_noise - jnp.log(5)

    of_noise = jax.vmap(jax.vmap(logit))(noise)
    losses = jax.nn.softplus(-jax.vmap(logit)(batch)) + jax.nn.softplus(of_noise).sum(0)
    return losses.mean(), carried


def chains(persistent, adjusted, step_size=0.01, num_steps=10):
    """Contrastive divergence with MALA or Langevin chains, written by hand."""

    def moved(key, energy, x):
        value_and_grad = jax.vmap(jax.value_and_grad(energy))

        def langevin(carry, key):
            x, _, gradient = carry
            y = x - step_size * gradient + jnp.sqrt(2 * step_size) * jr.normal(key, x.shape)
            return (y, *value_and_grad(y)), None

        def mala(carry, key):
            noise_key, accept_key = jr.split(key)
            x, value, gradient = carry
            (y, value_y, gradient_y), _ = langevin(carry, noise_key)
            forth = jnp.sum((y - x + step_size * gradient) ** 2, -1)
            back = jnp.sum((x - y + step_size * gradient_y) ** 2, -1)
            log_ratio = value - value_y + (forth - back) / (4 * step_size)
            accept = jnp.log(jr.uniform(accept_key, value.shape)) < log_ratio
            new = (
                jnp.where(accept[:, None], y, x),
                jnp.where(accept, value_y, value),
                jnp.where(accept[:, None], gradient_y, gradient),
            )
            return new, None

        step = mala if adjusted else langevin
        start = (x, *value_and_grad(x))
        return jax.lax.stop_gradient(jax.lax.scan(step, start, jr.split(key, num_steps))[0][0])

    def loss_fn(key, energy, batch, buffer):
        slot_key, again_key, noise_key, chain_key = jr.split(key, 4)
        start = batch
        if persistent:
            slots = jr.randint(slot_key, (len(batch),), 0, len(buffer))
            again = jr.bernoulli(again_key, 0.05, (len(batch), 1))
            start = jnp.where(again, jr.normal(noise_key, batch.shape), buffer[slots])
        ends = moved(chain_key, fixed(energy), start)
        if persistent:
            buffer = buffer.at[slots].set(ends)
        return (jax.vmap(energy)(batch) - jax.vmap(energy)(ends)).mean(), buffer

    return loss_fn


def site(num_chains=1000, num_steps=500, step_size=1e-3):
    """Descent on the potential of a model with an energy site, and the same by hand."""
    start = jr.normal(KEY, (num_chains, 2))

    def model(energy):
        x = numpyro.sample("x", ebm.EnergyDistribution(energy))
        numpyro.sample("y", dist.Normal(x, 1.0).to_event(1), obs=jnp.ones(2))

    def descend(potential, start):
        def step(x, _):
            return x - step_size * jax.vmap(jax.grad(potential))(x), None

        return jax.lax.scan(step, start, length=num_steps)[0]

    @eqx.filter_jit
    def ours(energy, start):
        potential = ebm.ModelEnergy(model, energy)
        return descend(lambda x: potential({"x": x}), start)

    @jax.jit
    def theirs(params, start):
        return descend(lambda x: network_energy(params, x) + 0.5 * jnp.sum((x - 1) ** 2), start)

    return lambda: ours(ENERGY, start), lambda: theirs(PARAMS, start)


def driver():
    """NumPyro's `MCMC` around our kernel, and the same transitions in one jitted scan."""
    kernel = ebm.MALA(potential_fn=ENERGY, adapt_step_size=False, step_size=0.05)
    settings = {"num_chains": 1000, "chain_method": "vectorized", "progress_bar": False}
    mcmc = MCMC(kernel, num_warmup=0, num_samples=500, **settings)

    def ours():
        mcmc.run(KEY)
        return mcmc.get_samples()

    return ours, mala(1000, 500)[1]


def fits():
    noise = ebm.NoiseContrastiveEstimation().init(KEY, ENERGY, DATA)[1]
    buffer = jr.normal(KEY, (10_000, 2))
    fixed = {"step_size": 0.01, "adapt_step_size": False}
    mala, langevin = ebm.MALA(**fixed), ebm.UnadjustedLangevin(**fixed)
    divergence = ebm.ContrastiveDivergence
    rows = {
        "DenoisingScoreMatching": (ebm.DenoisingScoreMatching(0.1), denoising),
        "SlicedScoreMatching": (ebm.SlicedScoreMatching(), sliced),
        "ScoreMatching": (ebm.ScoreMatching(), implicit),
        "NoiseContrastiveEstimation": (
            ebm.NoiseContrastiveEstimation(),
            contrast,
            (noise.loc, noise.scale_tril),
        ),
        "CD-10 from data, MALA": (divergence(mala, 10, ebm.FromData()), chains(False, True)),
        "CD-10 persistent, MALA": (divergence(mala, 10), chains(True, True), buffer),
        "CD-10 persistent, Langevin": (divergence(langevin, 10), chains(True, False), buffer),
    }
    steps = {name: fitting(*row, num_steps=600) for name, row in rows.items()}
    bar = fitting(ebm.DenoisingScoreMatching(0.1), denoising, num_steps=1000, bar=True)
    return {**steps, "DenoisingScoreMatching, with its bar": bar}


if __name__ == "__main__":
    print(f"{'':<44}{'ratio':>6}  quartiles     hand-written")
    compare("MALA, 1 chain x 20000", *mala(1, 20_000))
    compare("MALA, 100 chains x 2000", *mala(100, 2000))
    compare("MALA, 1000 chains x 500", *mala(1000, 500))
    compare("MALA under MCMC (compiles each run)", *driver())
    compare("gradient of a model with an energy site", *site())
    for name, row in fits().items():
        compare(name, *row)
