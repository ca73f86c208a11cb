"""`FlowJump`: exact whatever the flow, and quick with a good one."""

import time

import flowjax.distributions as fd
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import assert_means, assert_uniform, trees_equal
from kernels.test_ranks import LENGTH, STATISTICS, ranks
from numpyro.infer import MCMC

import numpyro_ebm as ebm
from numpyro_ebm.flows import FlowJump, approximate, coupling_flow
from numpyro_ebm.flows._flow import Flow
from numpyro_ebm.flows._jump_move import JumpMove
from numpyro_ebm.flows._jump_share import share_of
from numpyro_ebm.kernels._still import StillMove

UNIT = np.tile(np.eye(2), (2, 1, 1))


def two_modes(distance=8.0):
    half = distance / 2
    return ebm.GaussianMixture([0.7, 0.3], [[-half, 0.0], [half, 0.0]], UNIT)


def without_constants(target):
    return ebm.as_energy(lambda x: target(x), target.event_shape)


#: Far from all targets here, but it reaches all of each.
BAD = fd.Normal(jnp.array([1.0, 0.5]), jnp.array([4.0, 2.0]))


def is_left(x):
    return (np.asarray(x)[..., :1] < 0).astype(float)


class Forgetful(Flow):
    """A mutant: it forgets that the flow draws some points more often than others."""

    def __call__(self, x):
        return jnp.zeros(())


def jumps(num_jumps, kind=Flow, share=1.0):
    flow = kind.of(ebm.as_energy(BAD))
    # Without another move: only jumps alone are a reversible kernel, as the ranks need.
    return JumpMove(StillMove(1.0), flow, share, num_jumps)


@pytest.mark.parametrize("name", [pytest.param("first", marks=pytest.mark.slow), "radius"])
def test_ranks_under_a_bad_flow_are_uniform(name):
    """With a share below one, as the warm-up finds it."""
    target = two_modes(4.0)
    assert_uniform(ranks(jumps(2, share=0.6), target, target, STATISTICS[name]), LENGTH)


def test_a_jump_that_forgets_the_density_of_the_flow_would_be_seen():
    target = two_modes(4.0)
    with pytest.raises(AssertionError, match="an ECDF this far out"):
        assert_uniform(ranks(jumps(2, Forgetful), target, target, STATISTICS["radius"]), LENGTH)


def test_modes_get_their_weights_from_a_bad_flow():
    energy = without_constants(two_modes())
    kernel = FlowJump(ebm.MALA(step_size=0.5, adapt_step_size=False), BAD)
    sizes = {"num_chains": 400, "num_warmup": 100, "num_samples": 400}
    draws = ebm.sample(jr.key(0), energy, kernel, progress_bar=False, **sizes)
    assert_means(is_left(draws.values), 0.7)
    assert abs(is_left(draws.values).mean() - 0.7) < 0.01
    accepted = np.asarray(draws.stats["jump_prob"])
    assert accepted.shape == (400, 400)
    assert 0.1 < accepted.mean() < 0.4


@pytest.mark.slow
def test_it_runs_on_a_model_in_unconstrained_space():
    def model():
        numpyro.sample("scale", dist.HalfNormal(2.0))
        numpyro.sample("x", ebm.EnergyDistribution(without_constants(two_modes())))

    # Sites in alphabetical order: the logarithm of the scale comes first.
    flow = fd.Normal(jnp.zeros(3), jnp.array([1.5, 4.0, 2.0]))
    kernel = FlowJump(ebm.MALA(model, step_size=0.5, adapt_step_size=False), flow, num_jumps=4)
    mcmc = MCMC(
        kernel,
        num_warmup=200,
        num_samples=1000,
        num_chains=40,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jr.key(0))
    samples = mcmc.get_samples(group_by_chain=True)
    values = np.concatenate([is_left(samples["x"]), samples["scale"][..., None]], -1)
    assert_means(values, [0.7, 2 * np.sqrt(2 / np.pi)])
    jump_prob = mcmc.get_extra_fields()["move_state.jump_prob"]
    assert 0.05 < jump_prob.mean() < 0.5


@pytest.mark.slow
def test_a_flow_that_trains_fits_the_chains_and_then_stays():
    """A normal law takes the mean and the deviations of the target, though it starts afar."""
    energy = without_constants(two_modes())
    start = fd.Normal(jnp.array([30.0, -5.0]), jnp.array([0.1, 20.0]))
    local = ebm.MALA(step_size=0.5, adapt_step_size=False)
    kernel = FlowJump(local, start, adapt_flow=True, learning_rate=0.03)
    starts = jr.normal(jr.key(5), (100, 2)) * jnp.array([5.0, 1.0])
    arguments = {"num_samples": 100, "progress_bar": False}
    draws = ebm.sample(
        jr.key(0), energy, kernel, init_params=starts, num_warmup=500, **arguments
    )
    more = ebm.sample(jr.key(0), energy, kernel, init_state=draws.state, **arguments)
    flow, after = (each.state.adapt_state.training.flow for each in (draws, more))
    assert trees_equal(flow, after)
    made = flow.draw(jr.key(0), 20_000)
    np.testing.assert_allclose(made.mean(0), [-1.6, 0.0], atol=0.5)
    np.testing.assert_allclose(made.std(0), [np.sqrt(1 + 16 * 0.84), 1], rtol=0.1)
    assert draws.stats["jump_prob"].mean() > 0.25


def test_the_share_that_pays():
    r"""Jumps take $\sqrt a$ of the time: $s c/(1 + s c)$, if one costs $c$."""
    accept_prob, price = jnp.array([0.01, 0.25, 0.25, 0.9]), jnp.array([1.0, 1.0, 50.0, 50.0])
    share = share_of(accept_prob, 1 / price)
    paid = share * price
    np.testing.assert_allclose(paid / (1 + paid), jnp.sqrt(accept_prob), rtol=1e-5)


def test_the_warm_up_finds_the_share_and_then_keeps_it():
    """A flow that never succeeds jumps once in 64; a good and cheap one always."""
    target, local = (
        ebm.Gaussian(np.zeros(2), np.eye(2)),
        ebm.RandomWalkMetropolis(step_size=1.0, adapt_step_size=False),
    )
    sizes = {"num_chains": 20, "num_warmup": 60, "num_samples": 640, "progress_bar": False}
    for loc, share in ((100.0, 1 / 64), (0.0, 1.0)):
        flow = fd.Normal(jnp.full(2, loc), jnp.ones(2))
        draws = ebm.sample(jr.key(0), target, FlowJump(local, flow), **sizes)
        np.testing.assert_allclose(draws.state.adapt_state.share.value, share)
        tried = np.asarray(draws.stats["jumps"])
        assert (tried == tried[0]).all()  # All chains jump at once.
        np.testing.assert_allclose(np.diff(tried).mean(), share, atol=0.02)
        assert_means(draws.values, np.zeros(2))


def test_what_it_refuses():
    energy = without_constants(two_modes())
    with pytest.raises(ValueError, match=r"lives on 3 coordinates, and the chains move on 2"):
        ebm.sample(jr.key(0), energy, FlowJump(ebm.MALA(), fd.StandardNormal((3,))))
    with pytest.raises(ValueError, match="must be a density that can be drawn from"):
        FlowJump(ebm.MALA(), energy)
    with pytest.raises(ValueError, match="must live in unconstrained space"):
        FlowJump(ebm.MALA(), dist.Gamma(2.0).expand([2]).to_event(1))
    with pytest.raises(TypeError, match="must move by itself"):
        FlowJump(ebm.ParallelTempering(ebm.MALA(), reference=BAD), BAD)
    with pytest.raises(TypeError, match="moves through real points"):
        ebm.sample(jr.key(0), ebm.IsingModel((2, 2), 0.1), FlowJump(ebm.MALA(), BAD))
    with pytest.raises(ValueError, match="`adapt_flow` trains flows of FlowJAX"):
        FlowJump(ebm.MALA(), two_modes(), adapt_flow=True)
    with pytest.raises(ValueError, match="`num_jumps`"):
        FlowJump(ebm.MALA(), BAD, num_jumps=0)
    with pytest.raises(ValueError, match="`share` must be above 0 and at most 1"):
        FlowJump(ebm.MALA(), BAD, share=0.0)


def ess_per_second(energy, kernel):
    """Of the share of the left mode, from the spread of the chains, without compilation."""
    sizes = {"num_chains": 100, "num_warmup": 500, "num_samples": 4000}
    for key in jr.split(jr.key(1)):
        begin = time.perf_counter()
        draws = ebm.sample(key, energy, kernel, progress_bar=False, **sizes)
        seconds = time.perf_counter() - begin
    shares = is_left(draws.values).mean((1, 2))
    variance = 0.7 * 0.3
    return variance / (((shares - 0.7) ** 2).mean() / len(shares)) / seconds, shares.mean()


@pytest.mark.slow
@pytest.mark.timing
def test_jumps_of_a_fitted_flow_beat_local_moves():
    target = two_modes(6.0)
    energy = without_constants(target)
    wide = dist.Normal(0, 4).expand([2]).to_event(1)
    found = approximate(jr.key(0), energy, reference=wide, num_steps=1000, progress_bar=False)
    local, _ = ess_per_second(energy, ebm.MALA())
    jumping, share = ess_per_second(energy, FlowJump(ebm.MALA(), found.flow))
    print(f"ESS per second: MALA {local:.1f}, with jumps {jumping:.0f}")
    assert abs(share - 0.7) < 0.01
    assert jumping > 20 * local


@pytest.mark.slow
def test_it_visits_a_grid_of_modes_in_their_proportions():
    places = 5.0 * np.stack(np.meshgrid(*[np.arange(-2, 3)] * 2), -1).reshape(-1, 2)
    weights = np.linspace(1, 3, 25) / 50
    target = ebm.GaussianMixture(weights, places, np.tile(0.5 * np.eye(2), (25, 1, 1)))
    energy, wide = without_constants(target), dist.Normal(0, 8).expand([2]).to_event(1)
    found = approximate(jr.key(0), energy, reference=wide, progress_bar=False)
    sizes = {"num_chains": 200, "num_warmup": 300, "num_samples": 1000}
    kernel = FlowJump(ebm.MALA(), found.flow)
    draws = ebm.sample(jr.key(1), energy, kernel, progress_bar=False, **sizes)
    nearest = ((np.asarray(draws.values)[..., None, :] - places) ** 2).sum(-1).argmin(-1)
    assert_means(nearest[..., None] == np.arange(25), weights)


@pytest.mark.slow
def test_a_coupling_flow_trains_while_chains_warm_up():
    energy = without_constants(two_modes())
    kernel = FlowJump(ebm.MALA(), coupling_flow(jr.key(1), (2,)), adapt_flow=True)
    starts = 4 * jr.normal(jr.key(5), (100, 2))
    draws = ebm.sample(jr.key(0), energy, kernel, init_params=starts, progress_bar=False)
    assert draws.stats["jump_prob"].mean() > 0.8
    assert abs(is_left(draws.values).mean() - 0.7) < 0.01
