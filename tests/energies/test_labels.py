"""Energies of labels by their one-hot codes, and machines with visible labels."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.stats import chisquare

import numpyro_ebm as ebm
from numpyro_ebm.energies import CategoricalRBM, OneHot, PottsModel

KEYS = jr.split(jr.key(0), 3)
RBM = CategoricalRBM(
    jr.normal(KEYS[0], (4, 3, 3)), jr.normal(KEYS[1], (4, 3)), jr.normal(KEYS[2], (3,))
)
POTTS = PottsModel((2, 2), 3, 0.7, [0.2, -0.1, 0.0])


def in_64_bits(tree):
    return jax.tree.map(lambda x: x.astype(float), tree)


def test_a_machine_of_labels_by_enumeration(x64):
    rbm = in_64_bits(RBM)
    states = ebm.Enumeration().states(rbm)
    probs = jax.nn.softmax(-jax.vmap(rbm)(states))
    np.testing.assert_allclose(rbm.log_z, ebm.Enumeration().log_z(rbm), rtol=1e-12)
    marginals = jnp.tensordot(probs, jax.nn.one_hot(states.astype(int), 3), 1)
    np.testing.assert_allclose(rbm.probs, marginals, atol=1e-12)


def test_its_two_layers_agree_with_its_energy(x64):
    rbm = in_64_bits(RBM)
    x = jnp.array([0.0, 2.0, 1.0, 1.0])
    hidden = ebm.energies.all_states((0.0, 1.0), (3,))
    joint = -jax.vmap(rbm.joint_energy, (None, 0))(x, hidden)
    np.testing.assert_allclose(-jax.nn.logsumexp(joint), rbm(x), rtol=1e-12)
    of_hidden = rbm.hidden_given_visible(x).log_prob(hidden)
    np.testing.assert_allclose(of_hidden, jax.nn.log_softmax(joint), atol=1e-12)
    states, h = ebm.Enumeration().states(rbm), hidden[5]
    joint = -jax.vmap(rbm.joint_energy, (0, None))(states, h)
    of_visible = rbm.visible_given_hidden(h).log_prob(states.astype(int))
    np.testing.assert_allclose(of_visible, jax.nn.log_softmax(joint), atol=1e-12)


def test_its_draws():
    states = ebm.Enumeration().states(RBM)
    draws = RBM.sample(jr.key(1), (20_000,))
    counts = np.asarray((draws[:, None] == states).all(-1).sum(0))

    def p_value(temperature):
        probs = np.asarray(jax.nn.softmax(-jax.vmap(RBM)(states) / temperature), float)
        return chisquare(counts, len(draws) * probs / probs.sum()).pvalue

    assert p_value(1.0) > 1e-3 > p_value(0.9)


def test_its_layers_are_one_point_of_chains_that_know_blocks():
    machine = CategoricalRBM.create(5, 2, num_states=4, key=jr.key(0))
    assert machine.event_shape == (5,)
    assert machine.levels == (0.0, 1.0, 2.0, 3.0)
    assert isinstance(ebm.kernels.default_kernel(machine), ebm.BlockGibbs)
    assert ebm.energies.is_discrete(machine.joint)


@pytest.mark.parametrize(
    "energy",
    [
        POTTS,
        0.5 * POTTS,
        POTTS + POTTS / 3,
        ebm.Normalized(POTTS, POTTS.log_z),
        OneHot(eqx.nn.MLP(3, "scalar", 8, 1, key=jr.key(0)), (), 3),
        RBM,
    ],
    ids=repr,
)
def test_on_codes_it_is_the_same_energy(energy):
    states = ebm.Enumeration().states(energy)
    codes = jax.nn.one_hot(states.astype(int), 3)
    found = jax.vmap(energy.of_one_hot)(codes)
    np.testing.assert_allclose(found, jax.vmap(energy)(states), atol=1e-5)


def test_a_sum_with_an_energy_that_does_not_know_codes_does_not_know_them():
    class Rare(ebm.AbstractEnergy):
        event_shape = (2, 2)
        levels = (0.0, 1.0, 2.0)

        def __call__(self, x):
            return jnp.sum(x == 1.0) * 1.0

    assert (POTTS + Rare()).of_one_hot is None
    assert (2.0 * Rare()).of_one_hot is None


def test_the_gradient_in_codes_foretells_changes_of_labels(x64):
    """The first-order change is exact for a Potts model, whose bonds are bilinear."""
    potts = in_64_bits(POTTS)
    move = ebm.GibbsWithGradients().move
    states = ebm.Enumeration().states(potts)
    x = states[17]
    _, info = move.step(jr.key(1), move.init(jr.key(0), x, potts), potts)
    y = info.proposal.position
    assert (x != y).sum() == 1

    def total(x):
        near = (states != x).sum((1, 2)) == 1
        change = 0.5 * (potts(x) - jax.vmap(potts)(states))
        return jax.nn.logsumexp(jnp.where(near, change, -jnp.inf))

    # The rest of the ratio cancels: e^{-dE} e^{dE/2} / e^{-dE/2} = 1.
    np.testing.assert_allclose(
        info.acceptance_rate, min(1, float(jnp.exp(total(x) - total(y)))), rtol=1e-10
    )


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: OneHot(3.0, (2,), 3), TypeError, "callable from the one-hot codes"),
        (lambda: OneHot(jnp.sum, (2,), 1), ValueError, "`num_states`"),
        (
            lambda: CategoricalRBM(jnp.zeros((4, 3, 2)), jnp.zeros((4, 2)), jnp.zeros(2)),
            ValueError,
            "must have shape",
        ),
        (
            lambda: CategoricalRBM(jnp.zeros((4, 1, 2)), jnp.zeros((4, 1)), jnp.zeros(2)),
            ValueError,
            "two or more labels",
        ),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()
