"""Means and variances of every kernel against the truth, by z-scores with an ESS gate."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import COVARIANCE, MEAN, assert_moments, mixture
from numpyro.infer import MCMC

import numpyro_ebm as ebm

#: The kernel, and how many draws of 500 chains carry the ESS that a variance needs.
KERNELS = {"MALA": (ebm.MALA, 1500), "NUTS": (ebm.NUTS, 300)}
each_kernel = pytest.mark.parametrize(("Kernel", "num_samples"), KERNELS.values(), ids=KERNELS)

MIXTURE_MEAN = 0.4 * np.array([-1, 0]) + 0.6 * np.array([1, 0.5])
MIXTURE_VARIANCE = 0.4 * np.array([2, 1]) + 0.6 * np.array([1.5, 1.05]) - MIXTURE_MEAN**2
TARGETS = {
    "Gaussian": (ebm.Gaussian(MEAN, COVARIANCE), MEAN, np.diag(COVARIANCE)),
    "GaussianMixture": (mixture(), MIXTURE_MEAN, MIXTURE_VARIANCE),
}

PRIOR_SCALE, NOISE, Y = 2.0, 0.7, np.array([1.0, 1.8, 0.4])
POSTERIOR_VARIANCE = 1 / (1 / PRIOR_SCALE**2 + len(Y) / NOISE**2)
POSTERIOR_MEAN = POSTERIOR_VARIANCE * Y.sum() / NOISE**2
A, B, FLIPS = 2.0, 3.0, jnp.array([1.0, 1.0, 0.0, 1.0, 1.0])


def conjugate(y, flips):
    """A Gaussian mean under a Gaussian prior that is an energy, and a coin under a Beta."""
    prior = ebm.EnergyDistribution(lambda x: 0.5 * (x / PRIOR_SCALE) ** 2, ())
    mean = numpyro.sample("mean", prior)
    numpyro.sample("y", dist.Normal(mean, NOISE), obs=y)
    coin = numpyro.sample("coin", dist.Beta(A, B))
    numpyro.sample("flips", dist.Bernoulli(coin), obs=flips)


BETA = dist.Beta(A + 4, B + 1)
TRUTH = {"mean": (POSTERIOR_MEAN, POSTERIOR_VARIANCE), "coin": (BETA.mean, BETA.variance)}


def run(kernel, num_samples, *args, num_chains=500, method="vectorized"):
    mcmc = MCMC(
        kernel,
        num_warmup=300,
        num_samples=num_samples,
        num_chains=num_chains,
        chain_method=method,
        progress_bar=False,
    )
    mcmc.run(jax.random.key(0), *args)
    return mcmc.get_samples(group_by_chain=True)


@each_kernel
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_energies(Kernel, num_samples, target):
    energy, mean, variance = target
    assert_moments(run(Kernel(potential_fn=energy), num_samples), mean, variance)


@each_kernel
def test_conjugate_model(Kernel, num_samples):
    draws = run(Kernel(conjugate), num_samples, jnp.asarray(Y), FLIPS)
    for name, (mean, variance) in TRUTH.items():
        assert_moments(draws[name][..., None], [mean], [variance])


@each_kernel
@pytest.mark.parametrize(
    "method", [pytest.param("sequential", marks=pytest.mark.slow), "parallel"]
)
def test_few_long_chains(Kernel, num_samples, method):
    data = (jnp.asarray(Y), FLIPS)
    draws = run(Kernel(conjugate), 200 * num_samples, *data, num_chains=2, method=method)
    for name, (mean, variance) in TRUTH.items():
        assert_moments(draws[name][..., None], [mean], [variance], num_blocks=200)


@each_kernel
def test_a_wrong_target_would_be_seen(Kernel, num_samples):
    # A likelihood counted 5 % too often, as a doubled factor or a wrong scale would do.
    energy, mean, variance = TARGETS["Gaussian"]
    with pytest.raises(AssertionError, match="variance: z"):
        assert_moments(run(Kernel(potential_fn=1.05 * energy), num_samples), mean, variance)


def test_an_unadjusted_step_would_be_seen():
    """Without the Metropolis correction the variance is that of ULA, $1/(1-\\eta a/2)$."""
    eta = 0.1
    keys = jax.random.split(jax.random.key(0), 4000)

    def chain(key):
        def step(x, key):
            x = x - eta * x + jnp.sqrt(2 * eta) * jax.random.normal(key, (1,))
            return x, x

        return jax.lax.scan(step, jnp.zeros(1), jax.random.split(key, 400))[1][50:]

    draws = jax.vmap(chain)(keys)
    assert_moments(draws, [0.0], [1 / (1 - eta / 2)])
    with pytest.raises(AssertionError, match="variance: z"):
        assert_moments(draws, [0.0], [1.0])
