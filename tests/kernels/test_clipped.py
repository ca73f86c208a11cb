"""Langevin steps with clipped gradients and pixels, which draw from no density."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest

import numpyro_ebm as ebm
from numpyro_ebm.kernels import ClippedLangevin, run_chains

FREE = {"max_gradient": 1e6, "bounds": (-1e6, 1e6)}


def ends(kernel, energy, starts, num_steps):
    points, state, _ = run_chains(jr.key(0), kernel.move, energy, starts, num_steps)
    return np.asarray(points), state


def test_its_variance_on_a_gaussian_is_that_of_its_recursion():
    r"""$v = (1-a)^2(v + \sigma^2)$, $a = \eta/s$; for small $a$ it is $sT$, that of $E/T$."""
    s, eta, sigma = 2.0, 0.6, 0.1
    kernel = ClippedLangevin(step_size=eta, noise_scale=sigma, **FREE)
    energy = ebm.Gaussian(jnp.zeros(2), s * jnp.eye(2))
    points, _ = ends(kernel, energy, jnp.zeros((30_000, 2)), 60)
    keep = (1 - eta / s) ** 2
    expected = keep * sigma**2 / (1 - keep)
    error = expected * np.sqrt(2 / points.size)
    assert abs(points.var() - expected) < 4 * error
    small = (1 - 1e-4) ** 2
    of_temperature = s * sigma**2 / (2 * 1e-4 * s)
    np.testing.assert_allclose(small * sigma**2 / (1 - small), of_temperature, rtol=1e-3)
    # The mutant: noise after the gradient, whose variance is larger by the factor 1 / keep.
    assert abs(expected / keep - points.var()) > 20 * error


def test_gradients_and_pixels_are_clipped():
    kernel = ClippedLangevin(step_size=10.0, noise_scale=1e-6, max_gradient=0.03)
    energy = ebm.as_energy(lambda x: 100 * x[0] + 0.01 * x[1] - 100 * x[2], event_shape=(3,))
    points, state = ends(kernel, energy, jnp.zeros((4, 3)), 1)
    np.testing.assert_allclose(points, [[-0.3, -0.1, 0.3]] * 4, atol=1e-4)
    points, _ = ends(kernel, energy, points, 9)
    np.testing.assert_allclose(points, [[-1, -1, 1]] * 4, atol=1e-4)
    assert np.abs(points).max() <= 1
    assert (state.accept_prob == 1).all()


def test_it_stays_where_the_energy_is_not_a_number():
    def energy(x):
        return jnp.where(x[0] > 0, jnp.nan, -jnp.sum(x))

    kernel = ClippedLangevin(step_size=1.0, noise_scale=1e-3)
    points, state = ends(kernel, ebm.as_energy(energy, event_shape=(2,)), -jnp.ones((5, 2)), 50)
    assert (points[:, 0] <= 0).all()
    assert (state.num_diverging > 0).all()


def test_one_chain_is_many():
    """`step` and `step_all` differ in how they draw noise only."""
    kernel = ClippedLangevin(noise_scale=1e-9)
    energy = ebm.Gaussian(jnp.full(2, 0.5), jnp.eye(2))
    starts = jr.uniform(jr.key(1), (6, 2), minval=-1)
    many, _ = ends(kernel, energy, starts, 5)
    one = np.concatenate([ends(kernel, energy, x[None], 5)[0] for x in starts[:2]])
    np.testing.assert_allclose(many[:2], one, atol=1e-6)


def test_only_samplers_say_so():
    assert not ClippedLangevin().move.is_sampler
    assert not ClippedLangevin().move.is_exact
    assert ebm.MALA().move.is_sampler
    assert ebm.UnadjustedLangevin().move.is_sampler


GAUSSIAN = ebm.Gaussian(jnp.zeros(2), jnp.eye(2))


def site():
    return ebm.EnergyDistribution(lambda x: 0.5 * x @ x, (2,), sampler=ClippedLangevin())


def tempered():
    return ebm.ParallelTempering(ClippedLangevin(), 10.0)


def jumping():
    return ebm.flows.FlowJump(ClippedLangevin(), GAUSSIAN)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: ebm.sample(jr.key(0), GAUSSIAN, ClippedLangevin()),
        lambda: ebm.sample_moments(jr.key(0), GAUSSIAN, ClippedLangevin()),
        lambda: ebm.sample(jr.key(0), GAUSSIAN, tempered()),
        lambda: ebm.sample(jr.key(0), GAUSSIAN, jumping()),
        lambda: ClippedLangevin(potential_fn=GAUSSIAN).init(jr.key(0), 0, jnp.zeros(2)),
        lambda: site().sample(jr.key(0)),
        lambda: ebm.tasks.denoise(jr.key(0), GAUSSIAN, np.zeros((1, 2)), 1, ClippedLangevin()),
        lambda: ebm.tasks.translate(jr.key(0), GAUSSIAN, np.zeros((1, 2)), ClippedLangevin()),
        lambda: ebm.normalizers.MonteCarloLogZ(ClippedLangevin()),
        lambda: ebm.TemperedSMC(ClippedLangevin(), dist.Normal(0, 1)),
    ],
)
def test_all_that_draws_from_an_energy_refuses_it(draw):
    with pytest.raises(ValueError, match=r"does not sample|must leave its target invariant"):
        draw()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step_size": 0.0}, "`step_size` must be positive"),
        ({"noise_scale": -1.0}, "`noise_scale` must be positive"),
        ({"max_gradient": np.inf}, "`max_gradient` must be positive"),
        ({"bounds": (1.0, -1.0)}, "`bounds` must be two numbers that rise"),
        ({"bounds": (0.0, np.nan)}, "`bounds` must be finite"),
        ({"bounds": (0.0, 1.0, 2.0)}, "`bounds` must be two numbers"),
    ],
)
def test_bad_input(settings, message):
    with pytest.raises(ValueError, match=message):
        ClippedLangevin(**settings)


def test_it_prints_as_it_was_made():
    assert repr(ClippedLangevin()) == "ClippedLangevin()"
    assert repr(ClippedLangevin(step_size=1.0)) == "ClippedLangevin(step_size=1.0)"
    assert ClippedLangevin() == ClippedLangevin()
    assert ClippedLangevin() != ClippedLangevin(noise_scale=0.01)
    assert jax.tree.leaves(ClippedLangevin().move)
