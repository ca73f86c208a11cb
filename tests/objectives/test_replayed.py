"""The recipe of the tutorial "Deep Energy Models" [Lippe 2022], number by number."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import numpyro_ebm as ebm
from numpyro_ebm.kernels import ClippedLangevin
from numpyro_ebm.objectives import JointLikelihood, Replayed, ShortRunGenerator

SHAPE, BATCH, STEPS, SIZE = (6, 6), 8, 7, 24
PIXELS = dist.Uniform(-1, 1).expand(SHAPE).to_event(2)
IMAGES = np.sign(np.asarray(jr.normal(jr.key(0), (BATCH, *SHAPE))))
#: Steep enough for gradients, weights and pixels to be clipped.
START = ebm.MLPEnergy(SHAPE, 16, 1, reference=None, key=jr.key(1))
START = eqx.tree_at(
    lambda e: e.network.layers[1].weight, START, replace_fn=lambda weight: 3 * weight
)
OBJECTIVE = ebm.ContrastiveDivergence(
    ClippedLangevin(), STEPS, Replayed(SIZE, noise=PIXELS), energy_penalty=0.1
)
OPTIM = optax.chain(optax.clip_by_global_norm(0.1), optax.adam(1e-4, b1=0.0))


def by_the_library(num_steps):
    """Losses, weights, and the end points of chains, of each step."""
    energy, state = OBJECTIVE.init(jr.key(2), START, IMAGES)
    params, rest = eqx.partition(energy, eqx.is_inexact_array)
    opt_state = OPTIM.init(params)

    @jax.jit
    def update(params, state, opt_state, rng_key):
        def loss(params):
            energy = eqx.combine(params, rest)
            return OBJECTIVE.loss(rng_key, energy, state, jnp.asarray(IMAGES), None)

        (value, (state, metrics)), slope = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = OPTIM.update(slope, opt_state)
        return optax.apply_updates(params, updates), state, opt_state, value, metrics

    for i in range(num_steps):
        params, state, opt_state, value, metrics = update(
            params, state, opt_state, jr.fold_in(jr.key(3), i)
        )
        yield value, jax.tree.leaves(params), state.starts, metrics


class Tutorial:
    """Its loops, with the library's random numbers; `mutant` is what is done wrong."""

    def __init__(self, mutant=None):
        self.mutant = mutant
        params, self.rest = eqx.partition(START, eqx.is_inexact_array)
        leaves, self.treedef = jax.tree.flatten(params)
        self.weights = [np.asarray(x) for x in leaves]
        self.squares = [np.zeros_like(x) for x in self.weights]
        noise = PIXELS.sample(jr.key(2), (SIZE,))
        self.examples = list(np.asarray(noise)[:BATCH])  # the oldest first
        self.gradient = jax.jit(jax.vmap(jax.grad(self.energy, 1), (None, 0)))
        self.slope = jax.jit(jax.value_and_grad(self.loss))
        self.was_clipped = set()

    def energy(self, weights, x):
        return eqx.combine(jax.tree.unflatten(self.treedef, weights), self.rest)(x)

    def loss(self, weights, real, fake):
        real_out, fake_out = (
            -jax.vmap(self.energy, (None, 0))(weights, images) for images in (real, fake)
        )
        alpha = 0.0 if self.mutant == "no penalty" else 0.1
        reg_loss = alpha * (real_out**2 + fake_out**2).mean()
        return reg_loss + fake_out.mean() - real_out.mean()

    def sample_new_examples(self, rng_key, age):
        slot_key, again_key, noise_key = jr.split(rng_key, 3)
        chosen = np.asarray(jr.randint(slot_key, (BATCH,), 0, len(self.examples)))
        # The library's buffer is a ring: its slot 0 is not always the oldest.
        shift = age * BATCH % SIZE if len(self.examples) == SIZE else 0
        old = [self.examples[(i - shift) % len(self.examples)] for i in chosen]
        is_new = np.array(jr.bernoulli(again_key, 0.05, (BATCH,)))
        new = np.asarray(PIXELS.sample(noise_key, (BATCH,)))
        if self.mutant == "no fresh noise":
            is_new[:] = False
        self.was_clipped |= {"fresh"} if is_new.any() else set()
        return np.stack([new[i] if is_new[i] else old[i] for i in range(BATCH)])

    def generate_samples(self, rng_key, images):
        _, chain_key = jr.split(rng_key)
        first = jr.split(chain_key, BATCH)[0]
        for i in range(STEPS):
            noise = np.asarray(jr.normal(jr.fold_in(first, i), (images.size,)))
            noise = 0.005 * noise.reshape(images.shape)
            if self.mutant != "noise last":
                images = self.clamp(images + noise, 1.0, "pixels")
            gradient = np.asarray(self.gradient(self.weights, images))
            images = images - 10 * self.clamp(gradient, 0.03, "gradients")
            if self.mutant == "noise last":
                images = images + noise
            images = self.clamp(images, 1.0, "pixels")
        return images

    def clamp(self, x, limit, name):
        if (np.abs(x) > limit).any():
            self.was_clipped.add(name)
        return x if self.mutant == f"free {name}" else np.clip(x, -limit, limit)

    def step(self, i):
        start_key, chain_key, _ = jr.split(jr.fold_in(jr.key(3), i), 3)
        fake = self.generate_samples(chain_key, self.sample_new_examples(start_key, i + 1))
        self.examples = [*self.examples, *fake][-SIZE:]
        value, slopes = self.slope(self.weights, IMAGES, fake)
        norm = np.sqrt(sum((np.asarray(g) ** 2).sum() for g in slopes))
        if norm > 0.1:
            self.was_clipped.add("norm")
            slopes = [g * 0.1 / norm for g in slopes]
        for k, g in enumerate(map(np.asarray, slopes)):
            self.squares[k] = 0.999 * self.squares[k] + 0.001 * g**2
            size = np.sqrt(self.squares[k] / (1 - 0.999 ** (i + 1))) + 1e-8
            self.weights[k] = self.weights[k] - 1e-4 * g / size
        return value, fake


def gaps(mutant=None, num_steps=5):
    """How far the library is from a loop, in losses, chains and weights."""
    loop, errors = Tutorial(mutant), []
    for i, (value, weights, buffer, _) in enumerate(by_the_library(num_steps)):
        expected, fake = loop.step(i)
        ends = np.asarray(buffer.points)[(np.arange(BATCH) + (i + 1) * BATCH) % SIZE]
        differences = [value - expected, ends - fake]
        differences += [a - b for a, b in zip(weights, loop.weights, strict=True)]
        errors.append([np.abs(x).max() for x in differences])
    return np.array(errors), loop


def test_the_recipe_is_that_of_the_tutorial():
    errors, loop = gaps()
    assert errors.max() < 1e-5
    # Nothing that it does was idle, and the buffer has overwritten its oldest points.
    assert loop.was_clipped == {"pixels", "gradients", "norm", "fresh"}
    assert len(loop.examples) == SIZE


@pytest.mark.parametrize(
    "mutant", ["no penalty", "no fresh noise", "noise last", "free pixels", "free gradients"]
)
def test_a_recipe_that_differs_is_told_apart(mutant):
    assert gaps(mutant)[0].max() > 1e-3


def test_a_clipped_chain_trains_a_generator():
    """Over the mean life of its chains; what it has learned is no energy of the data."""
    noisy = (np.clip(IMAGES + 0.005 * z, -1, 1) for z in np.random.normal(size=(9, 8, 6, 6)))
    run = ebm.Estimator(OBJECTIVE, OPTIM).run(jr.key(4), 9, START, noisy, progress_bar=False)
    generator = run.energy
    assert isinstance(generator, ShortRunGenerator)
    assert generator.num_steps == STEPS * 20
    draws = generator.sample(jr.key(5), (3,))
    assert draws.shape == (3, *SHAPE)
    assert jnp.abs(draws).max() <= 1
    with pytest.raises(TypeError, match="ShortRunGenerator"):
        ebm.log_partition(jr.key(6), generator)
    persistent = ebm.ContrastiveDivergence(
        ClippedLangevin(), 5, ebm.Persistent(16, 0.5, PIXELS)
    )
    energy, state = persistent.init(jr.key(7), START, IMAGES)
    assert persistent.finalize(energy, state).num_steps == 10
    sampler = ebm.ContrastiveDivergence(ebm.MALA(), 5, Replayed(16, 0.5, PIXELS))
    energy, state = sampler.init(jr.key(8), START, IMAGES)
    assert sampler.finalize(energy, state) is energy


def test_ages_are_those_of_what_is_in_the_buffer():
    """Of chains that restart with probability 0.5, two runs on average."""
    start = Replayed(64, 0.5, PIXELS)
    state = start.init(jr.key(0), START, jnp.asarray(IMAGES))

    def step(state, rng_key):
        points = jnp.zeros((32, *SHAPE))
        starts, state = start.begin(rng_key, state, points, jax.vmap(START))
        state = start.end(state, starts, starts.points + 1, jnp.zeros(32, bool), 10)
        return state, state.ages.mean()

    state, means = jax.lax.scan(step, state, jr.split(jr.key(1), 400))
    assert abs(means[50:].mean() - 20) < 1
    # One is added to an image in each run.
    runs = jnp.round(state.points.mean((1, 2)))
    np.testing.assert_array_equal(jnp.maximum(runs, 1), state.ages // 10)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: Replayed(0), "`size` must be positive"),
        (lambda: Replayed(reinit=2.0), "`reinit` must lie between 0 and 1"),
        (lambda: begin(ebm.ContrastiveDivergence(start=Replayed(4))), "`size` of the buffer"),
        (lambda: begin(clipped(ebm.FromData())), "trains a generator"),
        (lambda: begin(clipped(Replayed(16, reinit=0.0))), "trains a generator"),
        (lambda: begin(JointLikelihood(clipped(Replayed(16)))), "learns a generator"),
    ],
)
def test_bad_input(run, message):
    with pytest.raises(ValueError, match=message):
        run()


def clipped(start):
    return ebm.ContrastiveDivergence(ClippedLangevin(), 2, start)


def begin(objective):
    energy, data = START, IMAGES
    if isinstance(objective, JointLikelihood):
        network = eqx.nn.MLP(36, 2, 4, 1, key=jr.key(0))
        energy = ebm.energies.ClassEnergy(network, 2, (36,))
        data = np.zeros(BATCH), IMAGES.reshape(BATCH, 36)
    trainable, state = objective.init(jr.key(1), energy, data)
    return objective.loss(jr.key(2), trainable, state, data, None)
