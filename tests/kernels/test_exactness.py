"""Means and variances of every kernel against the truth, by z-scores with an ESS gate."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
from helpers import EXACT, MEAN, assert_means, assert_moments, mixture, quadrature
from numpyro.infer import MCMC

import numpyro_ebm as ebm

each_kernel = pytest.mark.parametrize("Kernel", EXACT.values(), ids=EXACT)

RHO = np.array([[1.0, 0.95], [0.95, 1.0]])
MIXTURE_MEAN = 0.4 * np.array([-1, 0]) + 0.6 * np.array([1, 0.5])
MIXTURE_VARIANCE = 0.4 * np.array([2, 1]) + 0.6 * np.array([1.5, 1.05]) - MIXTURE_MEAN**2
BANANA, WELL = ebm.energies.Banana(b=0.3, c=0.7), ebm.energies.DoubleWell(dim=2)
TARGETS = {
    "correlated": (ebm.Gaussian(MEAN, RHO), MEAN, np.diag(RHO)),
    "banana": (BANANA, BANANA.mean, BANANA.variance),
    "mixture": (mixture(), MIXTURE_MEAN, MIXTURE_VARIANCE),
    "double well": (WELL, [0.0, 0.0], quadrature(WELL, 4.0, 201)[2]),
}


def draw(kernel, energy, num_chains=2000, num_warmup=400, num_draws=1000, **kwargs):
    settings = {"num_chains": num_chains, "num_warmup": num_warmup, "progress_bar": False}
    num_samples = num_draws * kwargs.get("thinning", 1)
    draws = ebm.sample(
        jax.random.key(0), energy, kernel, num_samples=num_samples, **settings, **kwargs
    )
    return draws.values


#: Chains, draws and thinning that carry the ESS of a variance on a correlated Gaussian.
SIZES = {"NUTS": (500, 400, 1), "HMC": (1000, 400, 1), "AdjustedMCLMC": (1000, 500, 1)}


def draw_enough(Kernel, energy, times=1):
    num_chains, num_draws, thinning = SIZES.get(Kernel.__name__, (2000, 1000, 2))
    return draw(Kernel(), energy, num_chains, 300, times * num_draws, thinning=thinning)


@each_kernel
def test_means_and_variances(Kernel):
    energy, mean, variance = TARGETS["correlated"]
    assert_moments(draw_enough(Kernel, energy), mean, variance)


@pytest.mark.slow
@each_kernel
@pytest.mark.parametrize("name", ["banana", "mixture", "double well"])
@pytest.mark.filterwarnings("ignore:`sample`")  # Of chains that hardly move for a while.
def test_means_and_variances_where_it_is_harder(Kernel, name):
    energy, mean, variance = TARGETS[name]
    assert_moments(draw_enough(Kernel, energy, 6), mean, variance)


@pytest.mark.parametrize("Kernel", [ebm.MALA, pytest.param(ebm.NUTS, marks=pytest.mark.slow)])
def test_a_wrong_target_would_be_seen(Kernel):
    # A likelihood counted 5 % too often, as a doubled factor or a wrong scale would do.
    energy, mean, variance = TARGETS["correlated"]
    with pytest.raises(AssertionError, match="variance: z"):
        assert_moments(draw_enough(Kernel, 1.05 * energy), mean, variance)


@pytest.mark.slow
@each_kernel
def test_heavy_tails(Kernel):
    """Student's t of 5 degrees, whose moments converge slowly: by shares and by |x|."""
    thinning = 1 if Kernel is ebm.NUTS else 5
    x = draw(Kernel(), ebm.energies.StudentT(5.0, np.zeros(2), np.eye(2)), thinning=thinning)
    t = scipy.stats.t(5)
    tail = t.ppf(0.95)
    assert_means(x < 0, [0.5, 0.5], name="median")
    assert_means(np.abs(x), [t.expect(abs)] * 2, name="E|x|")
    assert_means(x > tail, [0.05, 0.05], name="tail")
    with pytest.raises(AssertionError, match="tail: z"):
        assert_means(x > 0.95 * tail, [0.05, 0.05], name="tail")


SCALES = np.geomspace(1, 1e-3, 50) ** 0.5
ILL_CONDITIONED = {
    "HMC": (ebm.HMC(), 1),
    "NUTS": (ebm.NUTS(), 1),
    "AdjustedMCLMC": (ebm.AdjustedMCLMC(), 1),
    "MALA with its metric": (ebm.MALA(inverse_mass_matrix=SCALES**2), 10),
    "BarkerMH": (ebm.BarkerMH(inverse_mass_matrix=SCALES**2, adapt_mass_matrix=False), 10),
    "GHMC": (ebm.GHMC(inverse_mass_matrix=SCALES**2, adapt_mass_matrix=False), 10),
}
ILL_PARAMS = [
    pytest.param(*value, id=name, marks=pytest.mark.slow)
    for name, value in ILL_CONDITIONED.items()
]


@pytest.mark.parametrize(("kernel", "thinning"), ILL_PARAMS)
def test_a_condition_number_of_a_thousand_in_50_dimensions(kernel, thinning):
    energy = ebm.Gaussian(np.zeros(50), np.diag(SCALES**2))
    start = SCALES * jax.random.normal(jax.random.key(1), (500, 50))
    x = draw(kernel, energy, None, 600, 400, thinning=thinning, init_params=start)
    assert_moments(x / SCALES, np.zeros(50), np.ones(50))


@pytest.mark.slow
def test_a_random_walk_in_five_dimensions():
    covariance = 0.5 * np.eye(5) + 0.5
    x = draw(ebm.RandomWalkMetropolis(), ebm.Gaussian(np.zeros(5), covariance), thinning=4)
    assert_moments(x, np.zeros(5), np.ones(5))


@pytest.mark.parametrize("energy_variance", [5e-4, pytest.param(5e-2, marks=pytest.mark.slow)])
def test_unadjusted_mclmc_is_biased_as_its_step_is(energy_variance):
    """A few percent at the default, many where a hundred times the error is allowed."""
    scales = np.geomspace(0.3, 3, 10)
    kernel = ebm.UnadjustedMCLMC(energy_variance=energy_variance)
    x = draw(kernel, ebm.Gaussian(np.zeros(10), np.diag(scales**2)), 500, thinning=2) / scales
    error = np.abs(np.asarray(x).var((0, 1)) - 1).max()
    print(f"error of variances {error:.3f} at energy variance {energy_variance}")
    assert (error < 0.04) == (energy_variance < 1e-3)
    assert error < 0.3


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


#: How many draws of 500 chains under `MCMC` carry the ESS that a variance needs.
LONG = {"MALA": 1500, "NUTS": 300, "HMC": 300, "AdjustedMCLMC": 600}
MCMC_PARAMS = [
    pytest.param(kernel, LONG.get(name, 3000), id=name, marks=pytest.mark.slow)
    for name, kernel in EXACT.items()
]
each_under_mcmc = pytest.mark.parametrize(("Kernel", "num_samples"), MCMC_PARAMS)


@each_under_mcmc
def test_conjugate_model(Kernel, num_samples):
    draws = run(Kernel(conjugate), num_samples, jnp.asarray(Y), FLIPS)
    for name, (mean, variance) in TRUTH.items():
        assert_moments(draws[name][..., None], [mean], [variance])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MALA", "NUTS"])
@pytest.mark.parametrize("method", ["sequential", "parallel"])
def test_few_long_chains(name, method):
    data = (jnp.asarray(Y), FLIPS)
    num_samples = 200 * LONG[name]
    draws = run(EXACT[name](conjugate), num_samples, *data, num_chains=2, method=method)
    for site, (mean, variance) in TRUTH.items():
        assert_moments(draws[site][..., None], [mean], [variance], num_blocks=200)


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
