"""Laplace's approximation where it is exact, and where it is refused.

Of networks, see `test_networks.py`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import numpyro_ebm as ebm
from numpyro_ebm.posteriors import DiagonalCurvature, FullCurvature, laplace


class Location(ebm.AbstractEnergy):
    loc: jax.Array
    event_shape = (2,)

    def __call__(self, x):
        return 0.5 * jnp.sum(jnp.array([1.0, 0.25]) * (x - self.loc) ** 2)


@pytest.mark.parametrize("curvature", [DiagonalCurvature(), FullCurvature()], ids=repr)
def test_a_gaussian_is_exact(x64, curvature):
    """Score matching of a location: precision n P^2 + lambda."""
    data = np.asarray(jr.normal(jr.key(0), (50, 2)))
    squares = 50 * np.array([1.0, 0.0625])
    mode = squares * data.mean(0) / (squares + 2.0)
    energy = Location(jnp.asarray(mode))
    posterior = laplace(
        ebm.ScoreMatching(), energy, data, prior_precision=2.0, curvature=curvature
    )
    draws = np.asarray(posterior.sample(jr.key(1), 20_000).loc)
    std = (squares + 2.0) ** -0.5
    np.testing.assert_allclose(draws.std(0), std, rtol=0.02)
    assert (np.abs(draws.mean(0) - mode) < 4 * std / np.sqrt(20_000)).all()
    root = posterior.scale if posterior.scale.ndim == 2 else np.diag(posterior.scale)
    np.testing.assert_allclose(root @ root.T, np.diag(std**2), rtol=1e-8)


def test_what_cannot_be_approximated():
    data = np.asarray(jr.normal(jr.key(0), (50, 2)))
    with pytest.warns(UserWarning, match="is not at a minimum"):
        laplace(ebm.ScoreMatching(), Location(jnp.full(2, 9.0)), data, prior_precision=1.0)
    frozen = eqx.tree_at(lambda e: e.loc, Location(jnp.zeros(2)), replace_fn=ebm.freeze)
    with pytest.raises(ValueError, match="has nothing that trains"):
        laplace(ebm.ScoreMatching(), frozen, data, prior_precision=1.0)
    with pytest.raises(ValueError, match="not finite at `energy`"):
        laplace(ebm.ScoreMatching(), Location(jnp.full(2, jnp.nan)), data, prior_precision=1.0)
    with pytest.raises(ValueError, match="`prior_precision` must be positive"):
        laplace(ebm.ScoreMatching(), Location(jnp.zeros(2)), data, prior_precision=0.0)


def test_draws_forget_the_constant_of_the_centre():
    """Each draw has another constant, so that of a trained energy would be a wrong one."""
    data = np.asarray(jr.normal(jr.key(0), (50, 2)))
    centre = ebm.Normalized(Location(jnp.asarray(data.mean(0))), 1.0)
    posterior = laplace(ebm.ScoreMatching(), centre, data, prior_precision=1e-3)
    drawn = posterior.sample(jr.key(1), 3)
    assert posterior.energy.log_z == 1.0
    assert drawn.log_z is None
    assert drawn.loc.shape == (3, 2)
