"""The default flow, and how well an approximation says what it lacks."""

import subprocess
import sys

import equinox as eqx
import flowjax.distributions as fd
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import COVARIANCE, MEAN, quadrature, trees_equal

import numpyro_ebm as ebm
from numpyro_ebm.flows import approximate, coupling_flow

UNIT = np.tile(np.eye(2), (2, 1, 1))
PAIR = ebm.GaussianMixture([0.7, 0.3], [[-4.0, 0.0], [4.0, 0.0]], UNIT)


def normal():
    return fd.MultivariateNormal(jnp.zeros(2), jnp.eye(2))


def fit(energy, flow=None, **kwargs):
    sizes = {"num_steps": 600, "learning_rate": 0.03, "num_samples": 4000} | kwargs
    return approximate(jr.key(0), energy, flow, progress_bar=False, **sizes)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((), marks=pytest.mark.slow),
        pytest.param((3,), marks=pytest.mark.slow),
        (2, 2),
    ],
)
def test_the_default_flow_begins_as_a_normal_law(shape):
    flow = ebm.as_energy(coupling_flow(jr.key(0), shape, loc=2.0, scale=0.5, num_layers=2))
    truth = ebm.as_energy(dist.Normal(2.0, 0.5).expand(shape).to_event(len(shape)))
    x = truth.sample(jr.key(1), (5,))
    np.testing.assert_allclose(jax.vmap(flow)(x), jax.vmap(truth)(x), rtol=1e-4)
    assert flow.sample(jr.key(2), (3,)).shape == (3, *shape)


def test_equal_flows_are_one_structure():
    one, other = (coupling_flow(jr.key(i), (2,), num_layers=2) for i in range(2))
    assert jax.tree.structure(one) == jax.tree.structure(other)
    assert eqx.filter(one, eqx.is_array, inverse=True) == eqx.filter(
        other, eqx.is_array, inverse=True
    )
    assert not trees_equal(*(eqx.filter(flow, eqx.is_array) for flow in (one, other)))


def test_a_flow_with_other_parameters_is_normalised():
    flow = coupling_flow(jr.key(0), (2,), num_layers=2, num_knots=4, nn_width=8)
    keys = iter(jr.split(jr.key(1), 100))

    def moved(x):
        is_number = isinstance(x, jax.Array)
        return x + 0.3 * jr.normal(next(keys), x.shape) if is_number else x

    energy = ebm.as_energy(jax.tree.map(moved, flow))
    np.testing.assert_allclose(quadrature(energy, 30.0, 1001)[0], 0, atol=5e-3)


def test_an_exact_family_is_found_and_its_log_z():
    target = ebm.Gaussian(MEAN, COVARIANCE)
    found = fit(target, normal(), num_draws=20_000)
    assert found.ok
    assert found.ess > 0.99
    np.testing.assert_allclose(found.log_z.estimate, target.log_z, atol=0.01)
    assert found.elbo - 1e-3 <= target.log_z <= found.eubo + 0.01
    assert isinstance(found.flow, fd.MultivariateNormal)
    assert "missed" in repr(found)


def test_draws_come_from_a_reference_if_there_is_no_sampler():
    hidden = ebm.as_energy(lambda x: ebm.Gaussian(MEAN, COVARIANCE)(x), (2,))
    with pytest.raises(ValueError, match="`reference` is needed"):
        fit(hidden, normal())
    wide = dist.Normal(0, 4).expand([2]).to_event(1)
    found = fit(hidden, normal(), reference=wide, num_draws=1000)
    assert found.ess > 0.98
    low, high = found.log_z.interval(0.9973)
    assert low < float(ebm.Gaussian(MEAN, COVARIANCE).log_z) < high


def test_a_constrained_target_is_fitted_in_unconstrained_space():
    """A log-normal law is normal there."""
    target = dist.LogNormal(0.5, 0.7)
    found = fit(target, fd.Normal(jnp.zeros(()), jnp.ones(())), num_draws=20_000)
    assert found.ess > 0.99
    x = jnp.array(2.0)
    np.testing.assert_allclose(found.density(x), -target.log_prob(x), atol=0.02)
    draws = found.density.sample(jr.key(0), (5,))
    assert (draws > 0).all()
    log_z = ebm.log_partition(jr.key(0), target, ebm.ImportanceSampling(found.density))
    np.testing.assert_allclose(log_z.estimate, 0, atol=0.01)


def test_the_gaps_are_the_divergences_of_two_normal_laws():
    r"""Both directions and $\chi^2$, in closed form, of a law whose scale is not fitted."""
    target, scale = ebm.Gaussian(np.zeros(1), np.eye(1)), 1.3
    flow = fd.Normal(jnp.zeros(1), jnp.array([scale]))
    found = fit(target, flow, num_steps=1, learning_rate=1e-7, num_samples=100_000)
    reverse = scale**2 / 2 - 0.5 - np.log(scale)
    forward = 0.5 / scale**2 - 0.5 + np.log(scale)
    np.testing.assert_allclose(target.log_z - found.elbo, reverse, atol=0.01)
    np.testing.assert_allclose(found.eubo - target.log_z, forward, atol=0.03)
    np.testing.assert_allclose(found.ess, np.sqrt(2 * scale**2 - 1) / scale**2, atol=0.01)


def test_a_missed_mode_is_seen():
    """The draws that fit the flow know both modes, and the flow, a narrow law, only one."""
    flow = fd.Normal(jnp.array([-4.0, 0.0]), jnp.ones(2))
    found = fit(PAIR, flow, num_steps=1, learning_rate=1e-7)
    assert not found.ok
    np.testing.assert_allclose(found.missed, 0.3, atol=0.07)


def test_what_it_refuses():
    with pytest.raises(ValueError, match="which are discrete"):
        fit(ebm.IsingModel((2, 2), 0.1))
    with pytest.raises(ValueError, match="`draws` must be 40 points or more of shape"):
        fit(PAIR, draws=np.zeros((100, 3)))
    with pytest.raises(ValueError, match="`draws` must be finite"):
        fit(PAIR, draws=np.full((100, 2), np.nan))
    with pytest.raises(ValueError, match="`flow` lives on points of shape"):
        fit(PAIR, fd.StandardNormal((3,)))


def test_without_flowjax_the_message_names_the_extra():
    code = (
        "import sys, jax\n"
        "sys.modules['flowjax'] = None\n"
        "import numpyro_ebm as ebm\n"
        "ebm.flows.coupling_flow(jax.random.key(0), (2,))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'pip install "numpyro-ebm[flows]"' in done.stderr


@pytest.mark.slow
def test_a_model_is_approximated_and_its_chains_jump():
    """Its posterior has two modes of equal mass, as only the square of `x` is seen."""

    def model(y):
        x = numpyro.sample("x", dist.Normal(0, 3))
        scale = numpyro.sample("scale", dist.HalfNormal(0.2))
        numpyro.sample("y", dist.Normal(x**2, scale), obs=y)

    y = 4 + 0.1 * np.random.default_rng(0).normal(size=20)
    found = approximate(jr.key(0), ebm.ModelEnergy(model, y), progress_bar=False)
    assert found.is_covering
    assert found.ess > 0.5
    kernel = ebm.flows.FlowJump(ebm.NUTS(model), found.flow)
    mcmc = numpyro.infer.MCMC(kernel, num_warmup=300, num_samples=1000, progress_bar=False)
    mcmc.run(jr.key(1), y)
    assert 0.4 < (mcmc.get_samples()["x"] > 0).mean() < 0.6
    assert mcmc.get_extra_fields()["move_state.jump_prob"].mean() > 0.5


@pytest.mark.slow
def test_the_flow_takes_sites_as_chains_do_and_the_density_as_normalisers_do():
    """With sites out of alphabetical order, a mistake would leave hardly a jump."""

    def model():
        numpyro.sample("z", dist.Normal(5, 1))
        numpyro.sample("a", dist.Normal(-5, 0.5).expand([2]).to_event(1))

    energy = ebm.ModelEnergy(model)
    sizes = {"num_steps": 800, "learning_rate": 0.05, "num_draws": 2000}
    found = fit(energy, fd.Normal(jnp.zeros(3), jnp.ones(3)), **sizes)
    np.testing.assert_allclose(found.flow.loc, [-5, -5, 5], atol=0.1)
    proposal = ebm.ImportanceSampling(found.density)
    log_z = ebm.log_partition(jr.key(1), energy, proposal)
    np.testing.assert_allclose(log_z.estimate, 0, atol=0.01)
    kernel = ebm.flows.FlowJump(ebm.MALA(step_size=0.1, adapt_step_size=False), found.flow)
    sizes = {"num_warmup": 50, "num_samples": 200, "progress_bar": False}
    assert ebm.sample(jr.key(2), energy, kernel, **sizes).stats["jump_prob"].mean() > 0.9
