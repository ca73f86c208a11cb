"""Exact rank tests [Gandy and Scott 2020] of kernels that have no closed form.

A chain that runs both ways from an exact draw, put at a random place in it, is stationary: the
rank of that draw among all of the chain is uniform, however slowly the chain mixes.
"""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_uniform

import numpyro_ebm as ebm
from numpyro_ebm.kernels import AutoMALAMove, NUTSMove

LENGTH, REPLICATES = 9, 4000
MOVES = {"NUTS": NUTSMove(0.4, None, 5), "AutoMALA": AutoMALAMove(0.3)}


def ranks(move, sampled, target, statistic):
    def chain(key, state, energy):
        def step(state, key):
            state = move.step(key, state, energy)[0]
            return state, state.position

        return jax.lax.scan(step, state, jr.split(key, LENGTH))[1]

    @jax.jit
    def one(key):
        draw_key, place_key, back_key, forth_key, tie_key = jr.split(key, 5)
        x = sampled.sample(draw_key)
        state = move.init(draw_key, x, target)
        place = jr.randint(place_key, (), 0, LENGTH + 1)
        both = jnp.stack([chain(k, state, target) for k in (back_key, forth_key)])
        values = jax.vmap(jax.vmap(statistic))(both)
        lengths = jnp.array([place, LENGTH - place])
        inside = jnp.arange(LENGTH) < lengths[:, None]
        # A rejection makes ties, which are broken at random.
        tie = jr.uniform(tie_key, values.shape) < jr.uniform(jr.fold_in(tie_key, 1))
        less = (values < statistic(x)) | ((values == statistic(x)) & tie)
        return (less & inside).sum()

    return np.asarray(jax.vmap(one)(jr.split(jr.key(0), REPLICATES)))


STATISTICS = {
    "first": lambda x: x[0],
    "second": lambda x: x[1],
    "radius": lambda x: jnp.round(x @ x, 5),
}


@pytest.mark.slow
@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
@pytest.mark.parametrize("name", STATISTICS)
def test_ranks_are_uniform(move, name):
    energy = ebm.energies.Banana()
    assert_uniform(ranks(move, energy, energy, STATISTICS[name]), LENGTH)


@pytest.mark.slow
@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_another_target_would_be_seen(move):
    energy = ebm.energies.Banana()
    with pytest.raises(AssertionError, match="an ECDF this far out"):
        assert_uniform(ranks(move, energy, 1.15 * energy, STATISTICS["radius"]), LENGTH)
