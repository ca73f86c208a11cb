"""Distributions of noise: fitted to the data, NumPyro's, or FlowJAX's."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist

from .._checks import as_floats
from .._types import Array, Energy, Float, Key, Scalar, Shape
from ..energies import (
    AbstractEnergy,
    as_energy,
    discrete_levels,
    draw_levels,
    has_level,
    is_discrete,
)


class GaussianNoise(eqx.Module):
    """A Gaussian from its mean and a root of its covariance, over points of any shape."""

    loc: Float[Array, "*event"]
    scale_tril: Float[Array, "d d"]
    inverse_tril: Float[Array, "d d"]

    def sample(self, rng_key: Key, sample_shape: Shape = ()) -> Array:
        z = jr.normal(rng_key, (*sample_shape, self.loc.size), self.loc.dtype)
        return self.loc + (z @ self.scale_tril.T).reshape(*sample_shape, *self.loc.shape)

    def log_prob(self, x: Array) -> Array:
        flat = (x - self.loc).reshape(*x.shape[: x.ndim - self.loc.ndim], -1)
        # A product: solving a triangular system for each point costs more than a network.
        z = flat @ self.inverse_tril.T
        constant = jnp.log(2 * jnp.pi) * z.shape[-1] / 2
        return jnp.log(jnp.diagonal(self.inverse_tril)).sum() - 0.5 * (z**2).sum(-1) - constant


class LevelNoise(eqx.Module):
    """Independent coordinates of a few levels, with their probabilities along a last axis."""

    probs: Float[Array, "*event k"]
    levels: tuple[float, ...] = eqx.field(static=True)

    def sample(self, rng_key: Key, sample_shape: Shape = ()) -> Array:
        shape = (*sample_shape, *self.probs.shape[:-1])
        return draw_levels(rng_key, self.levels, self.probs, shape)

    def log_prob(self, x: Array) -> Array:
        log_probs = jnp.where(has_level(self.levels, x), jnp.log(self.probs), 0)
        return log_probs.sum(tuple(range(x.ndim - self.probs.ndim + 1, x.ndim + 1)))


class NoiseEnergy(AbstractEnergy):
    """Noise as a normalised energy: it draws points and evaluates their density."""

    noise: Any
    event_shape: Shape = eqx.field(static=True)
    levels: Any = eqx.field(static=True)

    @property
    def log_z(self) -> Scalar:
        return jnp.zeros(())

    def __call__(self, x: Array) -> Scalar:
        return -self.noise.log_prob(x)

    def sampler(self, rng_key: Key, sample_shape: Shape = ()) -> Array:
        return self.noise.sample(rng_key, sample_shape)


def energy_of_noise(noise: Any, energy: AbstractEnergy, shape: Shape) -> AbstractEnergy:
    """The noise of `energy` as an energy."""
    if isinstance(noise, dist.Distribution):
        return as_energy(noise)
    return NoiseEnergy(noise=noise, event_shape=shape, levels=discrete_levels(energy))


def fitted_noise(energy: Energy, data: Array, widening: float = 1.0) -> Any:
    """Noise like `data`: a Gaussian, or independent coordinates if they are discrete."""
    values = np.asarray(data, float)
    if is_discrete(energy):
        levels = discrete_levels(energy)
        if levels is None:
            raise ValueError(
                f"Give the noise: the coordinates of {energy!r} have no few common values."
            )
        shares = (values[..., None] == np.asarray(levels)).mean(0)
        # No state is impossible.
        clipped = np.clip(shares, 0.01, 0.99)
        return LevelNoise(as_floats(clipped / clipped.sum(-1, keepdims=True)), levels)
    flat = values.reshape(len(values), -1)
    covariance = widening**2 * np.atleast_2d(np.cov(flat.T, bias=True))
    # Constant pixels, or more pixels than images, make the covariance singular.
    ridge = 1e-4 * max(np.trace(covariance) / len(covariance), 1e-12)
    root = np.linalg.cholesky(covariance + ridge * np.eye(len(covariance)))
    return GaussianNoise(*map(as_floats, (values.mean(0), root, np.linalg.inv(root))))
