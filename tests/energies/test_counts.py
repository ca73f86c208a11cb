"""Conway-Maxwell-Poisson counts, against long sums in double precision."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer.util import log_density
from scipy.special import gammaln, logsumexp
from scipy.stats import chisquare, poisson

import numpyro_ebm as ebm
from numpyro_ebm.energies import ConwayMaxwellPoisson
from numpyro_ebm.energies._counts import _expansion


def pmf(rate, nu, size=200_000):
    y = np.arange(size)
    terms = y * np.log(rate) - nu * gammaln(y + 1)
    return np.exp(terms - logsumexp(terms))


CASES = [(3.0, 1.0), (0.5, 0.3), (20.0, 2.5), (1.0, 0.05), (900.0, 1.0), (1e4, 1.2), (4.0, 0.2)]


@pytest.mark.parametrize(("rate", "nu"), CASES)
def test_mass_mean_and_variance(x64, rate, nu):
    site = ConwayMaxwellPoisson(rate, nu)
    truth, y = pmf(rate, nu), np.arange(200_000)
    near = y[truth > 1e-12]
    np.testing.assert_allclose(site.log_prob(near), np.log(truth[near]), rtol=1e-8, atol=2e-6)
    np.testing.assert_allclose(site.mean, truth @ y, rtol=1e-6)
    np.testing.assert_allclose(site.variance, truth @ (y - truth @ y) ** 2, rtol=1e-5)


def test_series_and_expansion_meet(x64):
    """At the standard deviation of 50 where one takes over."""
    for nu in (0.1, 0.3, 1.0, 3.0):
        log_rate = nu * np.log(2500 * nu)
        y = np.arange(200_000)
        truth = logsumexp(y * log_rate - nu * gammaln(y + 1))
        np.testing.assert_allclose(
            _expansion(jnp.array(log_rate / nu), jnp.array(nu)), truth, atol=1e-6
        )


def test_poisson_at_one(x64):
    y = np.arange(30)
    found = ConwayMaxwellPoisson(7.0, 1.0).log_prob(y)
    np.testing.assert_allclose(found, poisson(7.0).logpmf(y), rtol=1e-10)


def test_what_cannot_be_summed_is_nan(x64):
    """A geometric tail that is longer than the series."""
    assert np.isnan(ConwayMaxwellPoisson(0.999, 1e-4).log_prob(3))


@pytest.mark.parametrize(("rate", "nu"), [(3.0, 1.0), (1.3, 0.3), (20.0, 2.5), (0.9, 0.5)])
def test_draws_are_exact(rate, nu):
    """By a chi-squared test, which sees another dispersion."""
    draws = np.asarray(ConwayMaxwellPoisson(rate, nu).sample(jr.key(3), (20_000,)))

    def p_value(rate, nu):
        truth = pmf(rate, nu, 500)
        cells = np.flatnonzero(truth * len(draws) > 10)
        counts = np.bincount(draws, minlength=500)
        seen = np.append(counts[cells], len(draws) - counts[cells].sum())
        share = np.append(truth[cells], 1 - truth[cells].sum())
        keep = share * len(draws) > 5
        return chisquare(seen[keep], share[keep] / share[keep].sum() * seen[keep].sum()).pvalue

    assert p_value(rate, nu) > 1e-3
    assert p_value(rate, 1.2 * nu) < 1e-3


def test_draws_with_a_standard_deviation_of_hundreds():
    site = ConwayMaxwellPoisson(jnp.array([2.0, 1e4]), jnp.array([0.1, 1.0]))
    draws = np.asarray(site.sample(jr.key(1), (4000,)), float)
    z = (draws.mean(0) - site.mean) / np.sqrt(site.variance / 4000)
    assert np.abs(z).max() < 4


def test_a_regression(x64):
    x = np.linspace(-1, 1, 20)
    y = np.asarray(ConwayMaxwellPoisson(np.exp(2 * (1 + x)), 2.0).sample(jr.key(2)))

    def model(x, y=None):
        slope = numpyro.sample("slope", dist.Normal(0, 1))
        nu = numpyro.sample("nu", dist.LogNormal(0, 1))
        with numpyro.plate("data", len(x)):
            rate = jnp.exp(nu * (1 + slope * x))
            numpyro.sample("y", ConwayMaxwellPoisson(rate, nu), obs=y)

    def found(slope, nu):
        return log_density(model, (x, y), {}, {"slope": slope, "nu": nu})[0]

    def truth(slope, nu):
        rates = np.exp(nu * (1 + slope * x))
        logs = [np.log(pmf(r, nu, 2000)[b]) for r, b in zip(rates, y, strict=True)]
        return sum(logs) + dist.Normal(0, 1).log_prob(slope) + dist.LogNormal(0, 1).log_prob(nu)

    for point in [(0.5, 1.5), (1.2, 0.7)]:
        np.testing.assert_allclose(found(*point), truth(*point), rtol=1e-8)
    slope, nu = jnp.array(0.8), jnp.array(1.4)
    gradient = jax.jit(jax.grad(found, argnums=1))(slope, nu)
    steps = (found(slope, nu + 1e-5) - found(slope, nu - 1e-5)) / 2e-5
    np.testing.assert_allclose(gradient, steps, rtol=1e-5)


def test_it_is_an_energy():
    energy = ebm.as_energy(ConwayMaxwellPoisson(3.0, 1.5))
    assert energy.log_z == 0
    np.testing.assert_allclose(
        energy(2.0), -ConwayMaxwellPoisson(3.0, 1.5).log_prob(2), rtol=1e-6
    )
    with pytest.raises(TypeError, match="discrete"):
        ebm.MALA(potential_fn=energy)


@pytest.mark.parametrize("arguments", [(-1.0, 1.0), (1.0, 0.0), (np.nan, 1.0)])
def test_errors(arguments):
    with pytest.raises(ValueError, match="invalid"):
        ConwayMaxwellPoisson(*arguments, validate_args=True)
