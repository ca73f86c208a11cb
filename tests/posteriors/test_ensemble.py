"""Ensembles against single runs, and the bootstrap against its closed form."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import numpyro_ebm as ebm
from numpyro_ebm.posteriors import disagreement, ensemble

QUIET = {"progress_bar": False}
DATA = np.asarray(jr.normal(jr.key(0), (50,)))


class Location(ebm.AbstractEnergy):
    loc: jax.Array
    event_shape = ()

    def __call__(self, x):
        return 0.5 * (x - self.loc) ** 2


def start(key):
    return Location(jr.normal(key))


@pytest.mark.parametrize("batch_size", [None, 20])
def test_a_member_is_a_run(batch_size):
    """Over more than two epochs, and more than one compiled call."""
    estimator = ebm.Estimator(ebm.DenoisingScoreMatching(0.5), optax.adam(0.05), ema_decay=0.9)
    key = jr.key(1)
    members = ensemble(
        key, estimator, 21, start, DATA, num_members=3, batch_size=batch_size, **QUIET
    )
    make_key, run_key, _ = jr.split(key, 3)
    for i in range(3):
        energy = start(jr.split(make_key, 3)[i])
        run_key_i = jr.split(run_key, 3)[i]
        run = estimator.run(run_key_i, 21, energy, DATA, batch_size=batch_size, **QUIET)
        np.testing.assert_allclose(members.energies.loc[i], run.energy.loc, rtol=1e-5)
        np.testing.assert_allclose(members.metrics["loss"][i, 0], run.losses[-1], rtol=1e-4)
    assert members.by_chain.loc.shape == (3, 1)
    assert repr(members) == "EnergyDraws(3 members)"


def test_the_bootstrap_of_a_mean():
    r"""Rows weighted by a Dirichlet law: the variance of the mean is $s^2/(n+1)$."""
    estimator = ebm.Estimator(ebm.ScoreMatching(), optax.sgd(1.0))
    settings = {"num_members": 400, **QUIET}
    members = ensemble(jr.key(2), estimator, 2, start, DATA, bootstrap=True, **settings)
    locs = np.asarray(members.energies.loc)
    variance = DATA.var() / (len(DATA) + 1)
    assert abs(locs.mean() - DATA.mean()) < 4 * np.sqrt(variance / 400)
    # Sees a factor of 1.35: rows that are drawn twice, or left out, are within it.
    assert abs(locs.var() / variance - 1) < 4 * np.sqrt(2 / 400)
    plain = ensemble(jr.key(2), estimator, 2, start, DATA, num_members=3, **QUIET)
    np.testing.assert_allclose(plain.energies.loc, DATA.mean(), atol=1e-6)


def test_disagreement_ignores_constants(x64):
    energies = Location(jnp.array([0.0, 1.0, 3.0]))
    points = jnp.array([-1.0, 0.0, 4.0])
    found = disagreement(energies, points)
    # What is left of (x - l)^2/2 is -l (x - mean of x).
    spread = np.std([0.0, 1.0, 3.0], ddof=1)
    np.testing.assert_allclose(found, spread * np.abs(points - 1), rtol=1e-12)
    with pytest.raises(ValueError, match="the number of energies` must be at least 2"):
        disagreement(Location(jnp.zeros(1)), points)


def test_what_is_refused_and_what_is_said():
    estimator = ebm.Estimator(ebm.ScoreMatching(), optax.sgd(10.0))
    with pytest.raises(
        FloatingPointError, match=r"Step \d+ is not finite in member 0, 1\. Use"
    ):
        ensemble(jr.key(0), estimator, 300, start, DATA, num_members=2, **QUIET)
    with pytest.raises(TypeError, match=r"`estimator` must be an `ebm\.Estimator"):
        ensemble(jr.key(0), ebm.ScoreMatching(), 3, start, DATA)
    with pytest.raises(ValueError, match="`num_members` must be at least 2"):
        ensemble(jr.key(0), estimator, 3, start, DATA, num_members=1)
    with pytest.raises(ValueError, match="`batch_size` must lie between 1 and the 50"):
        ensemble(jr.key(0), estimator, 3, start, DATA, batch_size=51)
    cliff = ebm.ContrastiveDivergence(ebm.MALA(step_size=1e3, adapt_step_size=False), 2)
    stuck = ebm.Estimator(cliff, optax.sgd(0.0))
    with pytest.warns(UserWarning, match=r"in 2 of 2 members: The chains accept only"):
        ensemble(jr.key(0), stuck, 20, start, DATA, num_members=2, **QUIET)


@pytest.mark.filterwarnings("ignore:`NoiseContrastiveEstimation`, in 2 of 2 members")
def test_networks_keep_what_does_not_train():
    def network(key):
        net = eqx.nn.MLP(1, "scalar", 3, 1, jnp.tanh, key=key)
        return eqx.tree_at(lambda n: n.layers[0], net, replace_fn=ebm.freeze)

    estimator = ebm.Estimator(ebm.NoiseContrastiveEstimation(), optax.adam(0.05))
    made = jr.split(jr.split(jr.key(3), 3)[0], 2)
    members = ensemble(jr.key(3), estimator, 10, network, DATA[:, None], num_members=2, **QUIET)
    values = members.evaluate(lambda energy: energy(jnp.ones(1)))
    assert values.shape == (2, 1)
    assert np.ptp(values) > 0
    frozen = jax.tree.leaves(members.energies.energy.fn.layers[0])[0]
    first = jax.tree.leaves(network(made[1]).layers[0])[0]
    np.testing.assert_array_equal(frozen[1], first)
