"""Posteriors under an energy as prior, against closed forms."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from helpers import assert_moments, assert_uniform
from jax.scipy.special import logsumexp
from numpyro.contrib.module import random_eqx_module
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal

import numpyro_ebm as ebm

NOISE, Y = 0.5, 0.5
WEIGHTS = np.array([0.4, 0.6])
LOCS = np.array([[-2.0, 0.0], [2.0, 1.0]])
COVARIANCES = np.array([[[1.0, 0.5], [0.5, 1.0]], [[0.5, -0.2], [-0.2, 0.8]]])
MIXTURE = ebm.GaussianMixture(WEIGHTS, LOCS, COVARIANCES)


def model(y, energy=lambda x: MIXTURE(x) + 3.7):
    """The prior is known up to a constant only, and the first coordinate is seen with noise."""
    x = numpyro.sample("x", ebm.EnergyDistribution(energy, (2,)))
    numpyro.sample("y", dist.Normal(x[0], NOISE), obs=y)


def posterior(y):
    """Weights, means and covariances of the components, each conditioned on `y`."""
    variance = COVARIANCES[:, 0, 0] + NOISE**2
    log_weights = np.log(WEIGHTS) + np.asarray(
        dist.Normal(LOCS[:, 0], variance**0.5).log_prob(y)
    )
    gains = COVARIANCES[:, :, 0] / variance[:, None]
    locs = LOCS + gains * (y - LOCS[:, 0])[:, None]
    covariances = COVARIANCES - gains[:, :, None] * COVARIANCES[:, None, 0]
    return np.exp(log_weights - logsumexp(log_weights)), locs, covariances


def moments(y):
    weights, locs, covariances = posterior(y)
    mean = weights @ locs
    inner = np.diagonal(covariances, axis1=1, axis2=2)
    return mean, weights @ (inner + (locs - mean) ** 2)


def run(kernel, num_samples, *args, num_chains=400):
    mcmc = MCMC(
        kernel,
        num_warmup=300,
        num_samples=num_samples,
        num_chains=num_chains,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(0), *args)
    return mcmc.get_samples(group_by_chain=True)["x"]


def test_the_closed_form_is_the_published_one():
    weights, _, _ = posterior(Y)
    mean, variance = moments(Y)
    np.testing.assert_allclose(weights, [0.15964, 0.84036], atol=1e-5)
    np.testing.assert_allclose(mean, [0.840356, 1.336142], atol=1e-6)
    np.testing.assert_allclose(variance, [0.306146, 0.776646], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("Kernel", "num_samples"),
    [
        pytest.param(NUTS, 400, marks=pytest.mark.slow, id="NumPyro's NUTS"),
        pytest.param(ebm.NUTS, 400, id="NUTS"),
        pytest.param(ebm.MALA, 1500, id="MALA"),
    ],
)
def test_a_mixture_as_prior(Kernel, num_samples):
    assert_moments(run(Kernel(model), num_samples, Y), *moments(Y))


@pytest.mark.slow
def test_a_prior_of_another_temperature_would_be_seen():
    draws = run(ebm.MALA(model), 1500, Y, 1.05 * MIXTURE)
    with pytest.raises(AssertionError, match="mean: z = "):
        assert_moments(draws, *moments(Y))


@pytest.mark.slow
def test_variational_inference_with_a_full_rank_guide():
    """Where the posterior is Gaussian, a Gaussian guide can be exact."""
    energy = ebm.as_energy(lambda x: gaussian()(x) + 3.7, (2,))
    guide = AutoMultivariateNormal(model)
    optimiser = optax.adam(optax.cosine_decay_schedule(0.03, 4000))
    svi = SVI(model, guide, optimiser, Trace_ELBO(num_particles=32))
    result = svi.run(jax.random.key(0), 4000, Y, energy, progress_bar=False)
    draws = guide.sample_posterior(jax.random.key(1), result.params, sample_shape=(400, 100))[
        "x"
    ]
    _, locs, covariances = posterior(Y)
    assert_moments(draws, locs[0], np.diag(covariances[0]))


def gaussian(i=0):
    return ebm.Gaussian(LOCS[i], COVARIANCES[i])


PRECISION = np.linalg.inv(COVARIANCES[0])


def normal(loc, precision):
    return dist.MultivariateNormal(jnp.asarray(loc), precision_matrix=jnp.asarray(precision))


def product():
    """Of two Gaussians, as one."""
    precisions = np.linalg.inv(COVARIANCES)
    total = precisions.sum(0)
    return normal(np.linalg.solve(total, np.einsum("kij,kj->i", precisions, LOCS)), total)


#: An energy without its constant, and the NumPyro distribution that it is.
PRIORS = {
    "plain": lambda: (lambda x: gaussian()(x) + 3.7, normal(LOCS[0], PRECISION)),
    "tempered": lambda: (gaussian() / 2.0, normal(LOCS[0], PRECISION / 2)),
    "tilted": lambda: (
        ebm.Tilted(lambda x: 0.5 * jnp.sum(x**2), dist.Normal(0, 1).expand([2]).to_event(1)),
        normal(np.zeros(2), 2 * np.eye(2)),
    ),
    "product": lambda: (gaussian(0) + gaussian(1), product()),
    "mixture": lambda: (
        ebm.Mixture([gaussian(0), gaussian(1)], WEIGHTS),
        dist.MixtureSameFamily(
            dist.Categorical(jnp.asarray(WEIGHTS)), dist.MultivariateNormal(LOCS, COVARIANCES)
        ),
    ),
}


def beside_a_likelihood(prior):
    x = numpyro.sample("x", prior)
    numpyro.sample("y", dist.Normal(x[0], NOISE), obs=Y)


def hierarchical(prior):
    scale = numpyro.sample("scale", dist.LogNormal(0, 1))
    with numpyro.plate("n", 4):
        x = numpyro.sample("x", prior)
        numpyro.sample("y", dist.Normal(x.sum(-1), scale), obs=jnp.arange(4.0))


def moved(prior):
    """A latent frame for a fixed energy."""
    loc = numpyro.sample("loc", dist.Normal(0, 1))
    scale = numpyro.sample("scale", dist.LogNormal(0, 1))
    transform = dist.transforms.AffineTransform(loc, scale)
    with numpyro.plate("n", 4):
        x = jnp.arange(8.0).reshape(4, 2)
        numpyro.sample("x", dist.TransformedDistribution(prior, transform), obs=x)


@pytest.mark.parametrize("model", [beside_a_likelihood, hierarchical, moved])
@pytest.mark.parametrize("make", PRIORS.values(), ids=PRIORS)
def test_the_same_posterior_as_with_numpyros_distribution(make, model, x64):
    """Potentials differ by a constant; a mutant of the prior by more."""
    energy, theirs = make()
    ours = ebm.EnergyDistribution(energy, (2,))
    mutant = ebm.EnergyDistribution(1.05 * ebm.as_energy(energy, (2,)))
    potentials = [ebm.ModelEnergy(model, prior) for prior in (ours, theirs, mutant)]
    start = potentials[0].init(jax.random.key(0))
    steps = jnp.array([0.0, 0.3, -0.5])
    points = jax.vmap(lambda step: jax.tree.map(lambda z: z + step, start))(steps)
    ours, theirs, mutant = (np.diff(jax.jit(jax.vmap(u))(points)) for u in potentials)
    np.testing.assert_allclose(ours, theirs, rtol=1e-8)
    assert np.abs(mutant - theirs).max() > 1e-3


@pytest.mark.slow
def test_the_posterior_of_the_weights_of_a_network(x64):
    """The constant by quadrature, inside of the model, against the likelihood by hand."""
    template = eqx.nn.MLP(1, "scalar", 3, 1, jax.nn.silu, key=jax.random.key(0))
    grid, step = jnp.linspace(-8, 8, 401, retstep=True)
    x = jnp.array([0.5, -1.0, 2.0])

    def log_z_of(energy):
        return logsumexp(-jax.vmap(energy)(grid)) + jnp.log(step)

    def model():
        net = random_eqx_module("net", template, dist.Normal(0, 1))
        energy = ebm.Tilted(lambda x: net(x[None]), dist.Normal(0, 2))
        with numpyro.plate("n", 3):
            density = ebm.Normalized(energy, log_z_of(energy))
            numpyro.sample("x", ebm.EnergyDistribution(density, ()), obs=x)

    ebm.sites.check_normalization(model)
    posterior = ebm.ModelEnergy(model)
    weights = posterior.init(jax.random.key(1))

    def by_hand(weights):
        net = eqx.tree_at(
            lambda n: [
                n.layers[0].weight,
                n.layers[0].bias,
                n.layers[1].weight,
                n.layers[1].bias,
            ],
            template,
            [weights[f"net/layers[{i}].{name}"] for i in (0, 1) for name in ("weight", "bias")],
        )

        def energy(x):
            return net(x[None]) - dist.Normal(0, 2).log_prob(x)

        prior = sum(dist.Normal(0, 1).log_prob(w).sum() for w in weights.values())
        return -prior + jax.vmap(energy)(x).sum() + 3 * log_z_of(energy)

    ours, truth = (jax.jit(jax.value_and_grad(u))(weights) for u in (posterior, by_hand))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), ours, truth)


REPLICATES = 2000


def many_posteriors(energy, num_draws, rng_key):
    """Ranks of draws from the prior among draws from their posteriors, many times over."""
    prior_key, noise_key, chain_key = jax.random.split(rng_key, 3)
    x = MIXTURE.sample(prior_key, (REPLICATES,))
    ys = x[:, 0] + NOISE * jax.random.normal(noise_key, (REPLICATES,))

    @jax.jit
    @jax.vmap
    def draw(rng_key, y):
        mcmc = MCMC(
            ebm.MALA(model),
            num_warmup=500,
            num_samples=30 * num_draws,
            thinning=30,
            progress_bar=False,
        )
        mcmc.run(rng_key, y, energy)
        return mcmc.get_samples()["x"]

    draws = draw(jax.random.split(chain_key, REPLICATES), ys)
    return (draws < x[:, None]).sum(1)


@pytest.mark.slow
def test_simulation_based_calibration():
    ranks = many_posteriors(MIXTURE, 99, jax.random.key(0))
    for coordinate in ranks.T:
        assert_uniform(coordinate, 99)


@pytest.mark.slow
def test_a_prior_that_is_not_the_data_s_would_be_seen():
    ranks = many_posteriors(2.0 * MIXTURE, 99, jax.random.key(0))
    for coordinate in ranks.T:
        with pytest.raises(AssertionError, match="this far out"):
            assert_uniform(coordinate, 99)
