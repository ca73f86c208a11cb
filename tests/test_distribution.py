import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import COVARIANCE, ENERGIES, MEAN, assert_moments, network
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.infer import MCMC, Predictive, init_to_median, init_to_sample, init_to_uniform
from numpyro.infer.util import log_density

import numpyro_ebm as ebm

each_energy = pytest.mark.parametrize("make", ENERGIES.values(), ids=ENERGIES)
X = jnp.array([0.3, -1.2])


@each_energy
def test_log_prob_is_minus_the_energy_less_log_z(make):
    energy = make()
    site = ebm.EnergyDistribution(energy)
    log_z = getattr(energy, "log_z", 0.0)
    assert site.event_shape == (2,)
    np.testing.assert_allclose(site.log_prob(X), -energy(X) - log_z, rtol=1e-6)
    assert site.log_prob(jnp.zeros((3, 4, 2))).shape == (3, 4)


@each_energy
def test_a_pytree_through_jit_grad_and_vmap(make):
    site = ebm.EnergyDistribution(make())
    jitted = jax.jit(lambda d, x: d.log_prob(x))(site, X)
    np.testing.assert_allclose(jitted, site.log_prob(X), rtol=1e-5)
    gradient = eqx.filter_grad(lambda d: d.log_prob(X))(site)
    assert isinstance(gradient, ebm.EnergyDistribution)
    doubled = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), site)
    both = jax.vmap(lambda d: d.log_prob(X))(doubled)
    np.testing.assert_allclose(both, jnp.full(2, site.log_prob(X)), rtol=1e-5)


def test_equal_structure_shares_one_compilation():
    traces = []

    @jax.jit
    def evaluate(site):
        traces.append(None)
        return site.log_prob(X)

    for seed in range(3):
        net = ebm.as_energy(ENERGIES["Tilted"]())
        evaluate(ebm.EnergyDistribution(jax.tree.map(lambda x: x, net)))
        evaluate(ebm.EnergyDistribution(ebm.Gaussian(MEAN + seed, COVARIANCE)))
    assert len(traces) == 2


def test_it_is_a_site_with_plates_and_handlers():
    site = ebm.EnergyDistribution(ENERGIES["Gaussian"]())

    def model(data=None):
        with numpyro.plate("n", 5):
            return numpyro.sample("x", site, obs=data)

    x = handlers.seed(model, jax.random.key(0))()
    assert x.shape == (5, 2)
    joint, trace = log_density(model, (x,), {}, {})
    np.testing.assert_allclose(joint, site.log_prob(x).sum(), rtol=1e-5)
    assert trace["x"]["fn"].batch_shape == (5,)
    assert site.expand([3]).to_event(1).event_shape == (3, 2)
    assert site.mask(False).log_prob(x).sum() == 0
    draws = Predictive(model, num_samples=3)(jax.random.key(1))
    assert draws["x"].shape == (3, 5, 2)


def test_exact_samples_where_the_energy_has_them():
    site = ebm.EnergyDistribution(ENERGIES["Gaussian"](), sampler=None)
    draws = site.sample(jax.random.key(0), (400, 100))
    assert_moments(draws, MEAN, np.diag(COVARIANCE))


def test_chain_samples_elsewhere():
    gaussian = ENERGIES["Gaussian"]()
    site = ebm.EnergyDistribution(lambda x: gaussian(x), (2,))
    draws = jax.jit(lambda key: site.sample(key, (200, 200)))(jax.random.key(0))
    assert_moments(draws, MEAN, np.diag(COVARIANCE))
    assert site.sample(jax.random.key(0)).shape == (2,)
    assert jnp.array_equal(site.sample(jax.random.key(1)), site.sample(jax.random.key(1)))
    assert jax.eval_shape(site.sample, jax.random.PRNGKey(0)).shape == (2,)


SUPPORTS = {
    "positive": (constraints.positive, dist.Gamma(3.0, 2.0)),
    "unit_interval": pytest.param(
        constraints.unit_interval, dist.Beta(2.0, 3.0), marks=pytest.mark.slow
    ),
}


@pytest.mark.parametrize(("support", "truth"), SUPPORTS.values(), ids=SUPPORTS)
def test_constrained_supports_are_sampled_with_their_jacobian(support, truth):
    site = ebm.EnergyDistribution(
        lambda x: -truth.log_prob(x).sum(), (2,), support=support, num_steps=300
    )
    draws = site.sample(jax.random.key(0), (200, 200))
    assert_moments(draws, np.full(2, truth.mean), np.full(2, truth.variance))

    mcmc = MCMC(
        ebm.NUTS(lambda: numpyro.sample("x", site)),
        num_warmup=200,
        num_samples=200,
        num_chains=400,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(1))
    draws = mcmc.get_samples(group_by_chain=True)["x"]
    assert_moments(draws, np.full(2, truth.mean), np.full(2, truth.variance))


def test_a_missing_jacobian_would_be_seen():
    truth = dist.Gamma(3.0, 2.0)
    # Without its Jacobian, exp maps a chain on z to Gamma(3 - 1, 2).
    mutant = dist.Gamma(2.0, 2.0).sample(jax.random.key(0), (200, 160, 2))
    with pytest.raises(AssertionError, match="mean: z"):
        assert_moments(mutant, np.full(2, truth.mean), np.full(2, truth.variance))


def test_support_of_the_whole_event():
    site = ebm.EnergyDistribution(
        lambda x: -dist.Dirichlet(jnp.array([2.0, 3.0, 4.0])).log_prob(x),
        (3,),
        support=constraints.simplex,
    )
    draw = site.sample(jax.random.key(0))
    np.testing.assert_allclose(draw.sum(), 1, rtol=1e-5)
    assert site.support.event_dim == 1


@pytest.mark.parametrize("strategy", [init_to_uniform, init_to_median, init_to_sample])
@pytest.mark.parametrize("sampler", [None, ebm.MALA()], ids=["none", "mala"])
def test_initialisation(strategy, sampler):
    if strategy is init_to_sample and sampler is None:
        pytest.skip("there is nothing to draw from")
    energy = ebm.as_energy(ENERGIES["Tilted"]())
    site = ebm.EnergyDistribution(energy, sampler=sampler, num_steps=20)
    kernel = ebm.MALA(lambda: numpyro.sample("x", site), init_strategy=strategy)
    mcmc = MCMC(kernel, num_warmup=10, num_samples=10, progress_bar=False)
    mcmc.run(jax.random.key(0))
    assert np.isfinite(mcmc.get_samples()["x"]).all()


def test_no_gradient_flows_through_sample():
    assert not ebm.EnergyDistribution(network(), (2,)).has_rsample


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ebm.EnergyDistribution(network()), ValueError, "`event_shape`, the shape of"),
        (
            lambda: ebm.EnergyDistribution(network(), (3,)),
            ValueError,
            r"cannot be evaluated on one point of shape \(3,\)",
        ),
        (
            lambda: ebm.EnergyDistribution(ENERGIES["Gaussian"](), (10, 2)),
            ValueError,
            r"lives on points of shape \(2,\)",
        ),
        (lambda: ebm.EnergyDistribution(network(1), (2,)), ValueError, "must be a scalar"),
        (lambda: ebm.EnergyDistribution("net", (2,)), TypeError, "must be an energy"),
        (
            lambda: ebm.EnergyDistribution(network(), (2,), sampler=None).sample(
                jax.random.key(0)
            ),
            NotImplementedError,
            "sampler=ebm.NUTS",
        ),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()
