"""New images and translated ones: their laws where they have one."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest
from helpers import assert_means

import numpyro_ebm as ebm
from numpyro_ebm.tasks import synthesize, translate

WIDE = dist.Normal(0, 5).expand([2]).to_event(1)
QUIET = {"progress_bar": False}


def two_modes(scale=1.0):
    locs = scale * np.array([[-3.0, 0.0], [3.0, 1.0]])
    return ebm.GaussianMixture([0.25, 0.75], locs, 0.5 * np.eye(2))


def test_translation_starts_at_the_source_and_forgets_it():
    target, x = ebm.Gaussian([2.0, 1.0], 0.3 * np.eye(2)), np.array([[-3.0, 0.5], [0.0, 4.0]])
    moved = translate(jr.key(0), target, x, num_steps=40, num_frames=4, num_warmup=60, **QUIET)
    assert moved.frames.shape == (2, 5, 2)
    np.testing.assert_array_equal(moved.frames[:, 0], x.astype("f4"))
    np.testing.assert_allclose(moved.energies[0, 0], target(jnp.asarray(x[0])), rtol=1e-5)
    assert (moved.energies[:, -1] < moved.energies[:, 0]).all()
    np.testing.assert_allclose(moved.correlation[:, 0], 1, atol=1e-5)
    assert (moved.distance[:, 0] == 0).all()
    assert (moved.distance[:, -1] > 1).all()
    np.testing.assert_array_equal(moved.images, moved.frames[:, -1])
    assert "2 images after 40 steps: mean energy" in repr(moved)


@pytest.mark.slow
def test_long_translation_draws_from_the_target():
    target = ebm.Gaussian([2.0, 1.0], np.array([[0.3, 0.1], [0.1, 0.5]]))
    x = np.tile([[-3.0, 0.5]], (400, 1))
    moved = translate(jr.key(0), target, x, num_steps=3000, num_frames=20, **QUIET)
    late = moved.frames[:, 5:]
    assert_means(late, np.array([2.0, 1.0]))
    assert_means((late - jnp.array([2.0, 1.0])) ** 2, np.array([0.3, 0.5]))


def test_modes_come_in_their_proportions():
    smc = ebm.TemperedSMC(ebm.MALA(), WIDE, 3)
    found = synthesize(jr.key(0), two_modes(), 300, smc, num_particles=2000, **QUIET)
    assert found.images.shape == (300, 2)
    share = float((found.images[:, 0] > 0).mean())
    # The population errs by about .02, and the choice of 300 by .025.
    assert abs(share - 0.75) < 0.12
    assert abs(float(found.log_z)) < 0.15
    assert found.ok
    assert "300 images after" in repr(found)


def test_classes_are_drawn_together():
    conditional = ebm.ConditionalEnergy(lambda x, k: 0.5 * jnp.sum((x - k) ** 2), (2,))
    places = np.array([[-3.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    smc = ebm.TemperedSMC(ebm.MALA(), WIDE, 3)
    settings = {"conditions": places, "num_particles": 500, **QUIET}
    found = synthesize(jr.key(0), conditional, 400, smc, **settings)
    assert found.images.shape == (3, 400, 2)
    assert found.energies.shape == (3, 400)
    np.testing.assert_allclose(found.images.mean(1), places, atol=0.25)
    np.testing.assert_allclose(found.log_z, np.log(2 * np.pi), atol=0.3)


def test_an_energy_with_exact_draws_needs_no_population():
    found = synthesize(jr.key(0), two_modes(), 4000)
    assert found.num_steps == 0
    assert abs(float((found.images[:, 0] > 0).mean()) - 0.75) < 4 * np.sqrt(0.19 / 4000)


@pytest.mark.slow
def test_composed_energies():
    """AND in closed form, OR in its proportions, NOT that has no normaliser."""
    a, b = ebm.Gaussian([1.0, 0.0], np.eye(2)), ebm.Gaussian([0.0, 2.0], 0.5 * np.eye(2))
    smc = ebm.TemperedSMC(ebm.MALA(), WIDE, 3)
    settings = {"num_particles": 4000, **QUIET}
    both = synthesize(jr.key(0), a + b, 2000, smc, **settings).images
    np.testing.assert_allclose(both.mean(0), [1 / 3, 4 / 3], atol=0.06)
    np.testing.assert_allclose(both.var(0), 1 / 3, atol=0.05)
    either = synthesize(jr.key(0), ebm.Mixture([a, b], [0.2, 0.8]), 2000, smc, **settings)
    np.testing.assert_allclose(either.images.mean(0), [0.2, 1.6], atol=0.15)
    with pytest.raises(ValueError, match="is NOT integrable"):
        synthesize(jr.key(0), a - 2 * b, 20, smc)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("energy", "reference"),
    [
        (dist.Gamma(2.0, 1.0).expand([2]).to_event(1), dist.Exponential(0.3).expand([2])),
        (dist.Beta(2.0, 5.0).expand([2]).to_event(1), dist.Uniform(0, 1).expand([2])),
        (dist.Dirichlet(np.array([2.0, 3.0, 4.0])), dist.Dirichlet(np.ones(3))),
        (ebm.IsingModel((3,), 0.3, 0.4, periodic=False), None),
    ],
    ids=["positive", "box", "simplex", "spins"],
)
def test_every_kind_of_support(energy, reference):
    exact = ebm.as_energy(energy)
    hidden = ebm.energies.Referenced(exact, exact)  # Whether it has a sampler does not count.
    kernel = ebm.GibbsWithGradients() if reference is None else ebm.MALA()
    if reference is not None and reference.event_dim == 0:
        reference = reference.to_event(1)
    smc = ebm.TemperedSMC(kernel, reference)
    found = synthesize(jr.key(0), hidden, 1000, smc, num_particles=2000, **QUIET)
    mean = exact.sample(jr.key(1), (50_000,)).mean(0)
    np.testing.assert_allclose(found.images.mean(0), mean, atol=0.12)
    points = exact.sample(jr.key(2), (5,))
    moved = translate(jr.key(0), energy, points, num_steps=100, **QUIET)
    assert np.isfinite(moved.energies).all()


def test_annealed_langevin_needs_no_conditions():
    energy = ebm.ConditionalEnergy(lambda x, s: 0.5 * jnp.sum(x**2) / (1 + s**2), (2,))
    annealed = ebm.AnnealedLangevin([2.0, 0.5, 0.1], num_steps=30)
    found = synthesize(jr.key(0), energy, 200, annealed, **QUIET)
    assert found.images.shape == (200, 2)
    assert np.isnan(found.log_z)
    assert (found.images.std(0) < 2).all()


GAUSSIAN, ROWS = ebm.Gaussian(np.zeros(2), np.eye(2)), np.ones((3, 2))
CONDITIONAL = ebm.ConditionalEnergy(lambda x, k: jnp.sum((x - k) ** 2), (2,))
POISSON = dist.Poisson(2.0).expand([2]).to_event(1)
PLAIN = ebm.as_energy(lambda x: jnp.sum(x**2), (2,))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: translate(0, GAUSSIAN, ROWS), "random key"),
        (lambda: translate(jr.key(0), GAUSSIAN, ROWS, num_steps=25), "a multiple of"),
        (lambda: translate(jr.key(0), GAUSSIAN, ROWS[0]), r"pass `x\[None\]`"),
        (lambda: translate(jr.key(0), POISSON, ROWS), "units with the same few values"),
        (
            lambda: translate(
                jr.key(0), GAUSSIAN, ROWS, ebm.ParallelTempering(ebm.MALA(), 9.0)
            ),
            "`kernel` must move by itself",
        ),
        (lambda: synthesize(jr.key(0), PLAIN, 5), "`reference` is needed"),
        (lambda: synthesize(jr.key(0), CONDITIONAL, 5), "`conditions` are needed for"),
        (lambda: synthesize(jr.key(0), GAUSSIAN, 5, conditions=ROWS), "for a `Conditional"),
        (lambda: synthesize(jr.key(0), PLAIN, 5, ebm.MALA()), "must be a population"),
        (
            lambda: synthesize(jr.key(0), POISSON, 5, ebm.TemperedSMC(ebm.MALA(), POISSON)),
            "MALA",
        ),
        (
            lambda: synthesize(
                jr.key(0), CONDITIONAL, 5, ebm.AnnealedLangevin([1.0, 0.1]), conditions=ROWS
            ),
            "whose condition is the noise scale",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
