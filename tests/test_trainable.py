import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import COVARIANCE, MEAN, mixture, network

import numpyro_ebm as ebm


def fit(energy, num_steps=3):
    data = mixture().sample(jax.random.key(0), (50,))
    estimator = ebm.Estimator(ebm.SlicedScoreMatching(), optax.adam(1e-2))
    return estimator.run(jax.random.key(1), num_steps, energy, data, progress_bar=False).energy


def moved(before, after):
    """How many arrays moved, of how many."""
    before, after = (jax.tree.leaves(eqx.filter(e, eqx.is_array)) for e in (before, after))
    changes = [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
    return sum(changes), len(changes)


REFERENCE = ebm.Gaussian(MEAN, covariance_matrix=COVARIANCE)


def with_frozen_layer():
    return eqx.tree_at(
        lambda e: e.fn.layers[0], ebm.as_energy(network()), replace_fn=ebm.freeze
    )


@pytest.mark.parametrize(
    ("energy", "expected"),
    [
        (REFERENCE, (2, 2)),
        (ebm.Tilted(network(), REFERENCE), (6, 8)),
        (2 * REFERENCE, (2, 3)),
        (ebm.freeze(REFERENCE) + ebm.as_energy(network()), (6, 8)),
        (ebm.unfreeze(ebm.Tilted(network(), REFERENCE)), (8, 8)),
        (with_frozen_layer(), (4, 6)),
    ],
    ids=["all", "reference", "weight", "expert", "unfrozen", "layer"],
)
def test_what_trains(energy, expected):
    # The last bias shifts the energy by a constant: score matching cannot see it.
    energy, fitted = ebm.as_energy(energy), fit(energy)
    count, total = moved(energy, fitted)
    is_network = any("bias" in str(p) for p, _ in jax.tree_util.tree_leaves_with_path(energy))
    assert (count + is_network, total) == expected


def test_a_frozen_layer_still_evaluates_and_freezing_is_undone():
    x = jnp.ones(2)
    np.testing.assert_array_equal(with_frozen_layer()(x), network()(x))
    np.testing.assert_array_equal(ebm.unfreeze(with_frozen_layer())(x), network()(x))
    assert ebm.freeze(ebm.freeze(x)).tree is x


def test_nothing_to_train_is_an_error():
    with pytest.raises(ValueError, match="nothing to train"):
        fit(ebm.freeze(REFERENCE))
