import functools

import blackjax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest
from arviz_stats import rhat
from helpers import COVARIANCE, MEAN

import numpyro_ebm as ebm

ENERGY = ebm.Gaussian(MEAN, covariance_matrix=COVARIANCE)
NUM_CHAINS, NUM_DRAWS = 4, 500


def loop(algorithm, num_draws=NUM_DRAWS):
    """States and infos of BlackJAX's own loop, `(chain, draw)`."""

    def step(state, key):
        state, info = algorithm.step(key, state)
        return state, (state, info)

    def chain(key, x):
        return jax.lax.scan(step, algorithm.init(x), jr.split(key, num_draws))[1]

    start = dist.MultivariateNormal(MEAN, COVARIANCE).sample(jr.key(1), (NUM_CHAINS,))
    return jax.jit(jax.vmap(chain))(jr.split(jr.key(0), NUM_CHAINS), start)


@functools.cache
def hmc_loop():
    return loop(blackjax.hmc(log_density, 0.85, jnp.ones(2), 3))


def log_density(x):
    return -ENERGY(x)


ALGORITHMS = {
    "hmc": (hmc_loop, {"accepted", "diverging", "n_steps", "energy", "n_grad"}),
    "nuts": (
        lambda: loop(blackjax.nuts(log_density, 0.5, jnp.ones(2))),
        {"diverging", "n_steps", "tree_depth", "energy", "n_grad"},
    ),
    "mala": (lambda: loop(blackjax.mala(log_density, 0.3)), {"accepted", "n_grad"}),
    "rmh": (
        lambda: loop(
            blackjax.additive_step_random_walk(
                log_density, blackjax.mcmc.random_walk.normal(jnp.ones(2))
            )
        ),
        {"accepted"},
    ),
}


@pytest.mark.parametrize(("make", "names"), ALGORITHMS.values(), ids=ALGORITHMS)
def test_names_and_axes(make, names):
    states, infos = make()
    tree = ebm.from_blackjax(states, infos, sample_dims=("chain", "draw"))
    stats = tree["sample_stats"]
    assert set(stats.data_vars) == names | {"lp", "ebm_energy", "acceptance_rate"}
    assert all(x.shape == (NUM_CHAINS, NUM_DRAWS) for x in stats.data_vars.values())
    np.testing.assert_array_equal(tree["posterior"]["x"], states.position)
    np.testing.assert_allclose(
        stats["ebm_energy"], jax.vmap(jax.vmap(ENERGY))(states.position), rtol=1e-4, atol=1e-4
    )
    assert tree["posterior"].attrs["inference_library"] == "blackjax"
    turned = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (states, infos))
    again = ebm.from_blackjax(*turned, sample_dims=("draw", "chain"))
    for group in ("posterior", "sample_stats"):
        assert again[group].to_dataset().equals(tree[group].to_dataset())


def test_swapped_axes_would_pass():
    states, infos = loop(blackjax.mala(log_density, 0.02), num_draws=400)
    right = ebm.from_blackjax(states, infos, sample_dims=("chain", "draw"))
    wrong = ebm.from_blackjax(states, infos, sample_dims=("draw", "chain"))
    assert float(rhat(right["posterior"].to_dataset())["x"].max()) > 1.1
    assert float(rhat(wrong["posterior"].to_dataset())["x"].max()) < 1.05
    assert any("swapped" in failure for failure in ebm.mixing_report(wrong).failures)
    assert not any("swapped" in failure for failure in ebm.mixing_report(right).failures)
    with pytest.raises(TypeError, match="sample_dims"):
        ebm.from_blackjax(states, infos)


def test_the_energy_of_a_rejected_proposal_is_not_that_of_the_chain():
    states, infos = hmc_loop()
    rejected = ~np.asarray(infos.is_accepted[:, 1:])
    assert 0.2 < rejected.mean() < 0.8
    energy = ebm.from_blackjax(states, infos, sample_dims=("chain", "draw"))["sample_stats"][
        "energy"
    ].values
    start = 0.5 * (infos.momentum**2).sum(-1)[:, 1:] - states.logdensity[:, :-1]
    np.testing.assert_allclose(energy[:, 1:][rejected], start[rejected], rtol=1e-3)
    np.testing.assert_array_equal(energy[:, 1:][~rejected], infos.energy[:, 1:][~rejected])
    raw = np.asarray(infos.energy[:, 1:][rejected])
    assert (raw > start[rejected]).all()


def test_one_chain_positions_alone_and_gradients():
    states, infos = jax.tree.map(lambda x: x[0], hmc_loop())
    tree = ebm.from_blackjax(states, infos, sample_dims=("draw",), gradients_per_step=2)
    assert tree["posterior"]["x"].shape == (1, NUM_DRAWS, 2)
    assert (tree["sample_stats"]["n_grad"] == 6).all()
    positions = {"a": states.position, "b": (states.position[:, 0],)}
    alone = ebm.from_blackjax(positions, sample_dims=("draw",))
    assert set(alone["posterior"].data_vars) == {"a", "b.0"}
    assert "sample_stats" not in alone.children


def test_an_infinite_error_has_no_energy():
    states, infos = hmc_loop()
    infos = infos._replace(
        is_accepted=jnp.zeros_like(infos.is_accepted),
        acceptance_rate=jnp.zeros_like(infos.acceptance_rate),
    )
    tree = ebm.from_blackjax(states, infos, sample_dims=("chain", "draw"))
    assert np.isnan(tree["sample_stats"]["energy"]).all()


STATES = {"x": np.zeros((4, 10, 2)), "y": np.zeros((4, 10))}
BAD = {
    "dims": (("chain", "step"), STATES, "must name the first axes"),
    "chain alone": (("chain",), STATES, "must name the first axes"),
    "shapes": (("chain", "draw"), {**STATES, "y": np.zeros((10, 4))}, "must all begin"),
}


@pytest.mark.parametrize(("sample_dims", "states", "match"), BAD.values(), ids=BAD)
def test_bad_input(sample_dims, states, match):
    with pytest.raises(ValueError, match=match):
        ebm.from_blackjax(states, sample_dims=sample_dims)
