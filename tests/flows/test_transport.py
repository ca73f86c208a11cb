"""Chains in the space of a flow's base distribution."""

import flowjax.bijections as fb
import flowjax.distributions as fd
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
import paramax
import pytest
from helpers import COVARIANCE, MEAN, assert_means, assert_moments, assert_uniform
from kernels.test_ranks import LENGTH, STATISTICS, ranks
from numpyro.infer import MCMC

import numpyro_ebm as ebm
from numpyro_ebm.flows import FlowJump, FlowTransport, coupling_flow, transport
from numpyro_ebm.flows._choice import kernel_for
from numpyro_ebm.flows._flow import FlowMap
from numpyro_ebm.flows._jump_move import JumpMove
from numpyro_ebm.flows._transport_move import TransportMove
from numpyro_ebm.kernels import MALAMove

QUIET = {"progress_bar": False}
ROOT = np.linalg.cholesky(COVARIANCE)


def affine():
    """The map that makes the Gaussian of the helpers standard; its triangle is wrapped."""
    flow = fd.MultivariateNormal(jnp.asarray(MEAN, float), jnp.asarray(COVARIANCE, float))
    assert any(isinstance(x, paramax.AbstractUnwrappable) for x in leaves(flow))
    return flow


def leaves(tree):
    return jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, paramax.AbstractUnwrappable))


class Neck(fb.AbstractBijection):
    """The map that makes a funnel in three dimensions standard."""

    shape: tuple = (3,)
    cond_shape: None = None

    def transform_and_log_det(self, x, condition=None):
        v = 3 * x[0]
        return jnp.append(v, x[1:] * jnp.exp(v / 2)), jnp.log(3.0) + v

    def inverse_and_log_det(self, y, condition=None):
        x = jnp.append(y[0] / 3, y[1:] * jnp.exp(-y[0] / 2))
        return x, -jnp.log(3.0) - y[0]


FUNNEL = ebm.energies.Funnel(dim=3)
NECK = fd.Transformed(fd.StandardNormal((3,)), Neck())


def test_an_affine_flow_makes_a_gaussian_standard():
    target = ebm.Gaussian(MEAN, COVARIANCE)
    base = transport(target, affine())
    assert base.event_shape == (2,)
    z = jnp.array([0.3, -1.2])
    np.testing.assert_allclose(base(z) + base.log_z, 0.5 * z @ z + np.log(2 * np.pi), rtol=1e-5)
    np.testing.assert_allclose(base.log_z, target.log_z)
    np.testing.assert_allclose(base.push_forward(z), MEAN + ROOT @ z, rtol=1e-5)
    draws = base.sample(jr.key(0), (4, 5000))
    assert_moments(draws, np.zeros(2), np.ones(2), num_blocks=40, ess_variance=10_000)
    forth = base.push_forward(draws)
    assert forth.shape == (4, 5000, 2)
    assert_moments(forth, MEAN, np.diag(COVARIANCE), num_blocks=40, ess_variance=10_000)


def test_a_constrained_energy_is_reached_through_its_bijection():
    """The exponential of a normal law is the log-normal law."""
    target, flow = dist.LogNormal(0.5, 0.7), fd.Normal(jnp.array(0.5), jnp.array(0.7))
    base = transport(target, flow)
    np.testing.assert_allclose(
        base(jnp.array(1.3)) - base(jnp.array(0.0)), 1.3**2 / 2, rtol=1e-4
    )
    np.testing.assert_allclose(
        base.push_forward(jnp.ones(3)), np.exp(1.2) * np.ones(3), rtol=1e-5
    )
    local = ebm.MALA(step_size=0.5, adapt_step_size=False)
    kernel = FlowTransport(local, flow)
    draws = ebm.sample(jr.key(0), target, kernel, num_chains=20, num_samples=300, **QUIET)
    assert (draws.values > 0).all()
    assert_means(jnp.log(draws.values)[..., None], 0.5)


@pytest.mark.slow
def test_the_constant_survives():
    modes = [[-4.0, 0.0], [4.0, 0.0]]
    target = ebm.GaussianMixture([0.7, 0.3], modes, np.tile(np.eye(2), (2, 1, 1)))
    base = transport(target, coupling_flow(jr.key(0), (2,), scale=4.0, num_layers=2))
    box = ebm.Quadrature([-4.0] * 2, [4.0] * 2)
    hidden = ebm.as_energy(lambda z: base(z), (2,))
    log_z = ebm.log_partition(jr.key(0), hidden, box, **QUIET)
    np.testing.assert_allclose(log_z.estimate, target.log_z, atol=5e-3)


@pytest.mark.parametrize("kernel", [ebm.MALA, pytest.param(ebm.NUTS, marks=pytest.mark.slow)])
def test_a_funnel_is_sampled_where_it_is_normal(kernel):
    """The neck, which no step of one size enters, holds its share of the draws."""
    kernel = FlowTransport(kernel(), NECK)
    sizes = {"num_chains": 40, "num_warmup": 300, "num_samples": 500}
    draws = ebm.sample(jr.key(0), FUNNEL, kernel, **sizes, **QUIET)
    v = draws.values[..., :1]
    assert_means(jnp.concatenate([v, v < -3], -1), [0, dist.Normal(0, 3).cdf(-3.0)])
    energies = jax.vmap(jax.vmap(FUNNEL))(draws.values)
    np.testing.assert_allclose(draws.stats["potential_energy"], energies, atol=2e-3)


class Forgetful(FlowMap):
    """A mutant: it forgets how the map stretches."""

    def push(self, z):
        return super().push(z)[0], jnp.zeros(())


def test_ranks_are_uniform_unless_the_jacobian_is_forgotten():
    moves = [TransportMove(MALAMove(0.3), kind.of(NECK)) for kind in (FlowMap, Forgetful)]
    right, wrong = (ranks(move, FUNNEL, FUNNEL, STATISTICS["first"]) for move in moves)
    assert_uniform(right, LENGTH)
    with pytest.raises(AssertionError, match="an ECDF this far out"):
        assert_uniform(wrong, LENGTH)


@pytest.mark.slow
def test_it_runs_on_a_model_and_under_jumps():
    def model():
        numpyro.sample("scale", dist.HalfNormal(2.0))
        numpyro.sample("a", dist.Normal(3.0, 1.5).expand([2]).to_event(1))

    # Sites in alphabetical order: the logarithm of the scale comes last.
    flow = fd.Normal(jnp.array([3.0, 3.0, 0.0]), jnp.array([1.0, 1.0, 0.7]))
    local = ebm.MALA(model, step_size=0.2, adapt_step_size=False)
    kernel = FlowJump(FlowTransport(local, flow), flow, share=0.5)
    sizes = {"num_warmup": 100, "num_samples": 500, "num_chains": 20}
    mcmc = MCMC(kernel, chain_method="vectorized", **sizes, **QUIET)
    mcmc.run(jr.key(0))
    samples = mcmc.get_samples(group_by_chain=True)
    values = np.concatenate([samples["a"], samples["scale"][..., None]], -1)
    assert_means(values, [3, 3, 2 * np.sqrt(2 / np.pi)])
    assert 0.1 < mcmc.get_extra_fields()["move_state.jump_prob"].mean() < 0.9


def test_the_choice_by_the_ess_of_the_flow():
    for ess, inner in ((0.5, MALAMove), (0.001, TransportMove)):
        move = kernel_for(affine(), jnp.array(ess), ebm.MALA()).move
        assert isinstance(move, JumpMove)
        assert isinstance(move.inner, inner)
    # A density without a map can only be jumped to.
    normal = ebm.Gaussian(MEAN, COVARIANCE)
    assert isinstance(kernel_for(normal, jnp.array(0.001), ebm.MALA()).move.inner, MALAMove)


def test_what_it_refuses():
    energy = ebm.Gaussian(MEAN, COVARIANCE)
    with pytest.raises(TypeError, match="transforms another one"):
        FlowTransport(ebm.MALA(), fd.StandardNormal((2,)))
    with pytest.raises(TypeError, match="transforms another one"):
        transport(energy, ebm.Gaussian(MEAN, COVARIANCE))
    with pytest.raises(ValueError, match=r"`flow` lives on points of shape \(3,\)"):
        transport(energy, fd.Normal(jnp.zeros(3)))
    with pytest.raises(ValueError, match="lives on 3 coordinates, and the chains move on 2"):
        ebm.sample(jr.key(0), energy, FlowTransport(ebm.MALA(), fd.Normal(jnp.zeros(3))))
    with pytest.raises(TypeError, match="must move by itself"):
        FlowTransport(ebm.ParallelTempering(ebm.MALA(), reference=affine()), affine())
    model = ebm.ModelEnergy(lambda: numpyro.sample("x", dist.Normal(0, 1)))
    with pytest.raises(ValueError, match="dicts of sites, which no flow maps"):
        transport(model, fd.Normal(jnp.zeros(1)))
