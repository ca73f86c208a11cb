"""Parallel tempering between two modes that MALA alone does not cross."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_means, assert_moments
from numpyro.infer import MCMC

import numpyro_ebm as ebm
from numpyro_ebm.kernels import _tempering as tempering

WEIGHTS = np.array([0.7, 0.3])
MODES = ebm.GaussianMixture(WEIGHTS, [[-4.0, 0.0], [4.0, 0.0]], [np.eye(2)] * 2)
START = jnp.tile(jnp.array([4.0, 0.0]), (50, 1))


def run(kernel, start=START, energy=MODES, num_warmup=500, num_samples=2000):
    return ebm.sample(
        jr.key(0),
        energy,
        kernel,
        num_warmup=num_warmup,
        num_samples=num_samples,
        init_params=start,
        progress_bar=False,
    )


def error_of_weights(draws):
    left = np.asarray(draws.values[..., 0] < 0).mean()
    return abs(left - WEIGHTS[0])


@pytest.mark.slow
def test_tempering_finds_the_weights_where_mala_does_not():
    tempered = error_of_weights(run(ebm.ParallelTempering(ebm.MALA(), 16.0)))
    plain = error_of_weights(run(ebm.MALA()))
    print(f"total variation of the weights: {tempered:.3f} tempered, {plain:.3f} plain")
    assert tempered < 0.05
    assert plain > 0.2


NEAR = ebm.GaussianMixture(WEIGHTS, [[-2.0, 0.0], [2.0, 0.0]], [np.eye(2)] * 2)


def check_moments(inner, num_samples=1000):
    kernel = ebm.ParallelTempering(inner, 6.0, num_temperatures=4)
    draws = ebm.sample(
        jr.key(0),
        NEAR,
        kernel,
        num_chains=500,
        num_warmup=300,
        num_samples=num_samples,
        progress_bar=False,
    )
    mean = WEIGHTS @ np.array([-2, 2])
    assert_moments(draws.values, [mean, 0], [5 - mean**2, 1])


SLOW = [
    pytest.param(kernel, marks=pytest.mark.slow)
    for kernel in (ebm.HMC(num_steps=3, trajectory_length=None), ebm.RandomWalkMetropolis())
]


@pytest.mark.slow
@pytest.mark.parametrize("inner", [ebm.MALA(), *SLOW])
def test_moments(inner):
    check_moments(inner)


@pytest.mark.slow
def test_energies_of_another_temperature_would_be_seen(monkeypatch):
    # What each replica caches, as if nothing had been tempered.
    monkeypatch.setattr(tempering, "_scaled", lambda state, beta: state)
    with pytest.raises((AssertionError, UserWarning)):
        check_moments(ebm.MALA(), num_samples=1001)


@pytest.mark.slow
def test_the_ladder_swaps_equally_often():
    kernel = ebm.ParallelTempering(ebm.MALA(), [1.0, 1.1, 1.2, 16.0])
    draws = run(kernel, num_warmup=1000, num_samples=10)
    state = draws.state
    move = kernel.adaptation.tune(kernel.move, state.adapt_state)
    temperatures = np.asarray(move.temperatures)
    assert temperatures[0] == 1
    np.testing.assert_allclose(temperatures[-1], 16, rtol=1e-5)
    assert state.move_state.replicas.logdensity.shape == (50, 4)

    @jax.jit
    def swap_rates(i, states):
        keys = jr.split(jr.fold_in(jr.key(1), i), 50)
        states, info = jax.vmap(lambda key, one: move.step(key, one, MODES))(keys, states)
        return states, info.swap_prob.mean(0)

    states, rates = state.move_state, []
    for i in range(200):
        states, rate = swap_rates(i, states)
        rates.append(rate)
    print("swap rates", np.mean(rates, 0))
    assert np.ptp(np.mean(rates, 0)) < 0.15
    fixed = ebm.ParallelTempering(ebm.MALA(), [1.0, 2.0, 16.0], adapt_temperatures=False)
    state = run(fixed, num_samples=10).state.adapt_state
    np.testing.assert_array_equal(
        fixed.adaptation.tune(fixed.move, state).temperatures, [1, 2, 16]
    )


@pytest.mark.slow
def test_under_mcmc():
    mcmc = MCMC(
        ebm.ParallelTempering(ebm.MALA(potential_fn=MODES), 16.0),
        num_warmup=500,
        num_samples=500,
        num_chains=20,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jr.key(0), init_params=START[:20])
    assert abs((mcmc.get_samples()[:, 0] < 0).mean() - 0.7) < 0.15


@pytest.mark.slow
def test_spins_at_every_temperature_and_how_they_swap():
    """Energies at each, and the rates of swaps, by enumeration."""
    spins = ebm.IsingModel((3, 3), 0.6, 0.1, periodic=False)
    states = 1 - 2 * jnp.stack(jnp.meshgrid(*[jnp.arange(2)] * 9), -1).reshape(-1, 3, 3)
    energies = jax.vmap(spins)(states.astype(float))
    betas = 1 / jnp.array([1.0, 1.5, 3.0])
    laws = jax.nn.softmax(-betas[:, None] * energies, 1)

    def swap_prob(k):
        gain = (betas[k] - betas[k + 1]) * (energies[:, None] - energies)
        return laws[k] @ jnp.minimum(1, jnp.exp(gain)) @ laws[k + 1]

    move = ebm.ParallelTempering(ebm.GibbsWithGradients(), 1 / betas).move

    @jax.vmap
    def chain(key, start):
        def step(state, i):
            state, info = move.step(jr.fold_in(key, i), state, spins)
            return state, (state, info.swap_prob)

        _, kept = jax.lax.scan(step, move.init(key, start, spins), jnp.arange(150))
        return jax.tree.map(lambda x: x[100:], kept)

    starts = jr.choice(jr.key(1), states.astype(float), (1000,))
    found, swaps = jax.jit(chain)(jr.split(jr.key(0), 1000), starts)
    assert_means(-found.replicas.logdensity, laws @ energies, name="energy")
    assert_means(swaps, [swap_prob(0), swap_prob(1)], name="swap")
    sums = found.position.sum((2, 3))[..., None]
    assert_means(sums, laws[0] @ states.sum((1, 2)), name="sum")


def test_blocks_do_not_survive_a_temperature():
    kernel = ebm.ParallelTempering(ebm.BlockGibbs(), 4.0)
    with pytest.raises(TypeError, match="tempered or annealed has lost them; `GibbsWithGrad"):
        ebm.sample(jr.key(0), ebm.IsingModel((3, 3), 0.1), kernel, num_chains=2)


@pytest.mark.parametrize(
    "temperatures", [[2.0, 4.0], [1.0], [1.0, 3.0, 2.0], 0.5, [[1.0, 2.0]]]
)
def test_bad_temperatures(temperatures):
    with pytest.raises(ValueError, match="`temperatures` must rise from 1"):
        ebm.ParallelTempering(ebm.MALA(), temperatures)
