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


def test_a_bounded_network_becomes_normalisable():
    energy = ebm.Tilted(lambda x: jnp.tanh(network()(x)), ebm.Gaussian(MEAN, COVARIANCE))
    far = jnp.array([1e3, 1e3])
    assert energy(far) > 1e5
    assert jnp.abs(jnp.tanh(network()(far))) <= 1


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
