import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from helpers import COVARIANCE, MEAN, network

import numpyro_ebm as ebm

X = jnp.array([0.3, -1.2])


@pytest.mark.parametrize(
    "reference",
    [
        dist.MultivariateNormal(MEAN, COVARIANCE),
        ebm.Gaussian(MEAN, COVARIANCE),
        ebm.freeze(ebm.Gaussian(MEAN, COVARIANCE)),
    ],
    ids=["distribution", "energy", "frozen"],
)
def test_tilted_is_the_reference_times_the_tilt(reference):
    energy = ebm.Tilted(network(), reference)
    log_q = dist.MultivariateNormal(MEAN, COVARIANCE).log_prob(X)
    np.testing.assert_allclose(energy(X), network()(X) - log_q, rtol=1e-5)
    assert energy.event_shape == (2,)


def test_a_bounded_energy_is_normalisable_on_a_heavy_tail():
    steep = ebm.as_energy(lambda x: -5 * jnp.sum(x), (2,))
    reference = dist.StudentT(3.0).expand([2]).to_event(1)
    far = jnp.array([1e4, 1e4])
    assert ebm.Tilted(steep, reference)(far) < -9e4
    bounded = ebm.energies.Bounded(steep, 30.0)
    assert abs(bounded(far)) <= 30
    assert ebm.Tilted(bounded, reference)(far) > 30


def test_a_bounded_energy_is_the_energy_where_that_is_small():
    bounded = ebm.energies.Bounded(network(), 30.0)
    np.testing.assert_allclose(bounded(X), network()(X), rtol=1e-3)
    assert repr(bounded).startswith("Bounded(")


def test_a_bound_must_be_positive():
    with pytest.raises(ValueError, match="`bound` must be positive, got 0"):
        ebm.energies.Bounded(network(), 0.0)


def test_the_reference_must_be_normalised_and_on_the_same_points():
    with pytest.raises(ValueError, match="`reference` must be normalised"):
        ebm.Tilted(network(), network())
    with pytest.raises(ValueError, match="lives on points of shape"):
        ebm.Tilted(ebm.as_energy(network(), (3,)), ebm.Gaussian(MEAN, COVARIANCE))


def test_differentiable_and_batched():
    energy = ebm.Tilted(network(), ebm.Gaussian(MEAN, COVARIANCE))
    batch = jnp.stack([X, 2 * X])
    scores = jax.jit(jax.vmap(lambda x: ebm.score(energy, x)))(batch)
    expected = ebm.score(network(), X) + ebm.score(energy.reference.tree, X)
    np.testing.assert_allclose(scores[0], expected, rtol=1e-4)
