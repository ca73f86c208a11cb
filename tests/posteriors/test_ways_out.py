"""What the guard suggests runs, and each way out finds the same posterior."""

import re

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import assert_means
from numpyro.infer import MCMC, NUTS

import numpyro_ebm as ebm

X = np.random.default_rng(0).normal(size=50) / np.sqrt(2)
#: The posterior of a precision is a Gamma distribution.
POSTERIOR = dist.Gamma(2 + len(X) / 2, 1 + (X**2).sum() / 2)


def family(precision):
    return ebm.as_energy(lambda x: 0.5 * precision * x**2, ())


def model(x, make=family):
    precision = numpyro.sample("precision", dist.Gamma(2.0, 1.0))
    with numpyro.plate("data", len(x)):
        numpyro.sample("x", ebm.EnergyDistribution(make(precision)), obs=x)


def without_constant(x, weight=1.0):
    precision = numpyro.sample("precision", dist.Gamma(2.0, 1.0))
    ebm.loss_factor("x", ebm.ScoreMatching(), family(precision), x, weight=weight)


def draws(kernel, *args, num_samples=1000):
    mcmc = MCMC(
        kernel,
        num_warmup=500,
        num_samples=num_samples,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jr.key(1), *args)
    return np.asarray(mcmc.get_samples(group_by_chain=True)["precision"])


def by_exact_constant():
    return draws(
        NUTS(model), X, lambda p: ebm.normalized_by(family(p), ebm.Quadrature(-9.0, 9.0))
    )


def by_surrogate():
    surrogate = ebm.surrogate_log_z(
        jr.key(0),
        family,
        (0.2, 8.0),
        data=X,
        support=dist.constraints.positive,
        progress_bar=False,
    )
    return draws(NUTS(model), X, surrogate)


def by_exchange():
    return draws(ebm.Exchange(model, auxiliary=ebm.MALA()), X, num_samples=3000)


WAYS = {
    "normalized_by": by_exact_constant,
    "surrogate_log_z": by_surrogate,
    "Exchange": by_exchange,
}


def test_the_guard_names_all_ways():
    with pytest.raises(ebm.UnnormalizedError) as error:
        draws(ebm.NUTS(model), X)
    named = set(re.findall(r"ebm\.(\w+)", str(error.value)))
    assert {*WAYS, "loss_factor", "calibrate_weight", "MALA"} <= named
    assert all(ebm.__dict__.get(name) is not None for name in named)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_each_way_finds_the_posterior(way):
    found = way()[..., None]
    mean, variance = float(POSTERIOR.mean), float(POSTERIOR.variance)
    assert_means(np.concatenate([found, (found - mean) ** 2], -1), [mean, variance])


@pytest.mark.slow
def test_without_a_constant_the_spread_is_that_of_the_estimate():
    """Score matching estimates a precision as well as maximum likelihood does."""
    calibration = ebm.calibrate_weight(jr.key(0), without_constant, X)
    found = draws(NUTS(without_constant), X, calibration.weight)
    assert found.mean() == pytest.approx(float(POSTERIOR.mean), rel=0.1)
    assert found.std() == pytest.approx(float(jnp.sqrt(POSTERIOR.variance)), rel=0.35)
