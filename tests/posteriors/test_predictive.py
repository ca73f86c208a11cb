"""Posterior predictive densities and draws, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import assert_means
from numpyro.infer import Predictive

import numpyro_ebm as ebm
from numpyro_ebm.posteriors import predictive_draws, predictive_log_likelihood

KEY = jax.random.key(0)
BOX = ebm.Quadrature(-40.0, 40.0, 4097)
HELD_OUT = jnp.array([-2.0, 0.1, 0.7, 3.0])
SHAPE, RATE = 6.0, 4.0


def spring(precision):
    return ebm.as_energy(lambda x: 0.5 * precision * x**2, ())


def normalized(precision):
    return ebm.normalized_by(spring(precision), BOX)


def precisions(size=8000):
    return dist.Gamma(SHAPE, RATE).sample(KEY, (size,))


def test_the_predictive_density_divides_by_z_inside_of_the_average():
    found = predictive_log_likelihood(normalized, precisions(), HELD_OUT)
    truth = dist.StudentT(2 * SHAPE, 0.0, (RATE / SHAPE) ** 0.5).log_prob(HELD_OUT)
    assert np.all(np.abs(found.values - truth) < 4 * found.mc_error)
    assert found.mc_error.max() < 0.02
    assert abs(found.values.sum() - truth.sum()) < 4 * found.total_mc_error
    assert found.std_error > found.total_mc_error / 4
    assert "posterior predictive log-likelihood" in repr(found)
    # Outside of the average, the constant would give another density.
    outside = jnp.log(jnp.mean(jnp.exp(-0.5 * precisions()[:, None] * HELD_OUT**2), 0))
    outside -= jnp.mean(jax.vmap(lambda p: 0.5 * jnp.log(2 * jnp.pi / p))(precisions()))
    assert np.any(np.abs(outside - truth) > 10 * found.mc_error)


def test_its_error_does_not_take_correlated_draws_for_independent():
    draws = jnp.repeat(precisions(400), 50)
    apart = predictive_log_likelihood(normalized, precisions(20_000), HELD_OUT)
    together = predictive_log_likelihood(normalized, draws, HELD_OUT)
    assert together.total_mc_error > 3 * apart.total_mc_error


def test_energies_without_a_constant_are_refused():
    with pytest.raises(ValueError, match="`family` must give energies that know their `log_z`"):
        predictive_log_likelihood(spring, precisions(10), HELD_OUT)

    def broken(precision):
        return ebm.Normalized(spring(precision), jnp.sqrt(1 - precision))

    with pytest.raises(ValueError, match="is NaN for some of the draws"):
        predictive_log_likelihood(broken, jnp.linspace(0.5, 1.5, 10), HELD_OUT)


@pytest.mark.slow
def test_numpyro_draws_replicates_of_a_site_and_so_do_we():
    def model(x=None):
        precision = numpyro.sample("precision", dist.Gamma(SHAPE, RATE))
        with numpyro.plate("data", 10):
            numpyro.sample("x", ebm.EnergyDistribution(normalized(precision)), obs=x)

    draws = precisions(400)
    theirs = Predictive(model, {"precision": draws}, parallel=True)(KEY)["x"]
    ours = predictive_draws(KEY, spring, draws, 10, num_steps=200)
    variance = RATE / (SHAPE - 1)
    for found in (theirs, ours):
        assert found.shape == (400, 10)
        assert_means(found[..., None], [0.0], ess_min=390)
        assert_means(found[..., None] ** 2, [variance], name="variance", ess_min=200)
    with pytest.raises(AssertionError, match="variance: z = "):
        assert_means(0.8 * ours[..., None] ** 2, [variance], name="variance", ess_min=200)


def test_replicates_of_spins():
    couplings = jnp.linspace(0.1, 0.4, 80)

    def lattice(coupling):
        return ebm.IsingModel((2, 3), coupling, periodic=False)

    def family(coupling):
        return 1.0 * lattice(coupling)  # Without an exact sampler.

    truth = jax.vmap(jax.grad(lambda k: lattice(k).log_z))(couplings)
    for make, num_steps in ((family, 100), (lattice, 1)):
        draws = predictive_draws(KEY, make, couplings, 20, num_steps=num_steps)
        bonds = -jax.vmap(jax.vmap(lattice(1.0)))(draws)
        assert_means((bonds - truth[:, None])[..., None], [0.0])


def test_chains_that_never_move_are_seen():
    def broken(precision):
        return ebm.as_energy(lambda x: precision * jnp.where(x > 9, x, jnp.nan), ())

    with pytest.warns(UserWarning, match="`predictive_draws`: 8 draws, .* 8 stuck"):
        predictive_draws(KEY, broken, jnp.ones(2), 4, num_steps=20)
