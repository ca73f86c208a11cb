"""FlowJAX's distributions as energies, wherever an energy is taken."""

import equinox as eqx
import flowjax.bijections as fb
import flowjax.distributions as fd
import flowjax.flows as ff
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import paramax
import pytest
from helpers import COVARIANCE, MEAN, quadrature, trees_equal
from numpyro import handlers

import numpyro_ebm as ebm
from numpyro_ebm.energies import ConditionalFlow, FlowEnergy
from numpyro_ebm.objectives import ForwardKL


def normal():
    return fd.MultivariateNormal(jnp.asarray(MEAN, float), jnp.asarray(COVARIANCE, float))


def coupling(dim=2, **kwargs):
    spline = fb.RationalQuadraticSpline(knots=4, interval=3)
    base = fd.StandardNormal((dim,))
    sizes = {"flow_layers": 2, "nn_width": 8}
    return ff.coupling_flow(jr.key(0), base_dist=base, transformer=spline, **sizes, **kwargs)


def test_a_flow_is_a_normalised_energy_with_exact_draws():
    energy = ebm.as_energy(coupling())
    assert isinstance(energy, FlowEnergy)
    assert energy.event_shape == (2,)
    assert float(energy.log_z) == 0
    assert float(energy.partition.std_error) == 0
    log_z, mean, variance = quadrature(energy, 7.0, 401)
    np.testing.assert_allclose(log_z, 0, atol=2e-3)
    draws = energy.sample(jr.key(1), (20_000,))
    errors = np.sqrt(variance / len(draws))
    assert np.abs((draws.mean(0) - mean) / errors).max() < 4
    np.testing.assert_allclose(draws.var(0), variance, rtol=0.06)
    assert repr(energy) == "-log Transformed"


def test_it_is_the_gaussian_it_says():
    x = jnp.array([0.3, -1.0])
    truth = ebm.Gaussian(MEAN, COVARIANCE)
    energy = ebm.as_energy(normal())
    np.testing.assert_allclose(energy(x), truth(x) + truth.log_z, rtol=1e-5)
    np.testing.assert_allclose(ebm.score(energy, x), ebm.score(truth, x), rtol=1e-4)


def test_legacy_keys_and_strict_ranks():
    energy = ebm.as_energy(normal())
    legacy = energy.sample(jr.PRNGKey(3), (2,))
    assert trees_equal(legacy, energy.sample(jr.key(3), (2,)))
    with jax.numpy_rank_promotion("raise"):
        assert jnp.isfinite(jax.vmap(energy)(legacy)).all()


def test_what_it_composes_to():
    flow, wide = normal(), dist.Normal(0, 3).expand([2]).to_event(1)
    tilted = ebm.Tilted(lambda x: jnp.sin(x[0]), flow)
    assert isinstance(ebm.energies.reference_for(None, tilted, "reference"), FlowEnergy)
    mixture = ebm.Mixture([flow, wide], [0.3, 0.7])
    assert float(mixture.log_z) == 0
    assert mixture.sample(jr.key(0), (3,)).shape == (3, 2)
    assert (ebm.as_energy(flow) + wide).reference is not None


def test_every_normaliser_takes_one():
    target = ebm.Gaussian(MEAN, 0.5 * COVARIANCE)
    truth, hidden = float(target.log_z), ebm.as_energy(lambda x: target(x), (2,))
    for method in (
        ebm.ImportanceSampling(normal(), num_samples=4000),
        ebm.SequentialMonteCarlo(reference=normal(), num_particles=64),
    ):
        low, high = ebm.log_partition(jr.key(0), hidden, method).interval(0.9973)
        assert low < truth < high
        assert high - low < 0.3


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        lambda q: ebm.AnnealedImportanceSampling(reference=q, num_temperatures=100),
        lambda q: ebm.ThermodynamicIntegration(reference=q),
        lambda q: ebm.BridgeSampling(proposal=q),
    ],
)
def test_the_slow_normalisers_take_one(method):
    target = ebm.Gaussian(MEAN, 0.5 * COVARIANCE)
    hidden = ebm.as_energy(lambda x: target(x), (2,))
    low, high = ebm.log_partition(jr.key(0), hidden, method(normal())).interval(0.9973)
    assert low < float(target.log_z) < high


def test_it_is_a_site_and_is_scored():
    def model():
        return numpyro.sample("x", ebm.EnergyDistribution(normal()))

    site = handlers.trace(handlers.seed(model, jr.key(0))).get_trace()["x"]
    expected = normal().log_prob(site["value"])
    np.testing.assert_allclose(site["fn"].log_prob(site["value"]), expected, rtol=1e-5)
    scores = ebm.log_likelihood(normal(), np.zeros((4, 2)))
    assert scores is not None


def test_what_trains_follows_paramax_and_freeze():
    flow, data = normal(), np.asarray(ebm.as_energy(normal()).sample(jr.key(0), (64,))) + 1
    # `MultivariateNormal` has a location and a triangle.
    held = eqx.tree_at(lambda f: f.bijection.loc, flow, replace_fn=paramax.NonTrainable)
    frozen = eqx.tree_at(lambda f: f.bijection.loc, flow, replace_fn=ebm.freeze)
    for given in (held, frozen):
        estimator = ebm.Estimator(ForwardKL(), optax.adam(0.1))
        found = estimator.run(jr.key(0), 3, given, data, progress_bar=False).energy
        assert isinstance(found, fd.MultivariateNormal)
        changed = jax.tree.map(lambda a, b: bool((a != b).any()), *map(arrays, (given, found)))
        assert jax.tree.leaves(changed).count(True) == 1
        assert trees_equal(given.bijection.loc, found.bijection.loc)


def arrays(tree):
    return eqx.filter(tree, eqx.is_inexact_array)


def test_flows_that_are_conditional():
    flow = coupling(cond_dim=1)
    with pytest.raises(TypeError, match=r"ConditionalFlow\(energy\)\.given\(x\)"):
        ebm.as_energy(flow)
    with pytest.raises(TypeError, match="`cond_shape`"):
        ConditionalFlow(coupling())
    with pytest.raises(ValueError, match="needs a `condition`"):
        FlowEnergy(flow)
    conditional = ConditionalFlow(flow)
    given = conditional.given(jnp.ones(1))
    np.testing.assert_allclose(quadrature(given, 7.0, 401)[0], 0, atol=2e-3)
    assert given.sample(jr.key(0), (3,)).shape == (3, 2)
    y, x = np.zeros((8, 2)), np.ones((8, 1))
    estimator = ebm.Estimator(ForwardKL(), optax.adam(1e-2))
    found = estimator.run(jr.key(0), 5, conditional, (y, x), progress_bar=False)
    assert found.losses[-1] < found.losses[0]


def test_other_modules_are_what_they_were_before():
    network = eqx.nn.MLP(2, "scalar", 8, 1, key=jr.key(0))
    assert isinstance(ebm.as_energy(network, (2,)), ebm.energies.FunctionEnergy)
    with pytest.raises(TypeError, match="must be an energy, a NumPyro distribution"):
        ebm.as_energy(fb.Affine(jnp.zeros(2)))
