"""The small data sets of the examples; nothing is downloaded."""

from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from ._checks import check_key
from ._types import Array, Float, Key


class Split(NamedTuple):
    """Points for training, and points for testing."""

    train: Float[np.ndarray, "n *event"]
    test: Float[np.ndarray, "m *event"]


def two_moons(rng_key: Key, num_points: int, *, noise: float = 0.1) -> Float[Array, "n 2"]:
    """Two interleaved half circles with Gaussian noise."""
    check_key(rng_key)
    angle_key, moon_key, noise_key = jr.split(rng_key, 3)
    angle = jr.uniform(angle_key, (num_points,), maxval=jnp.pi)
    upper = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    is_upper = jr.bernoulli(moon_key, shape=(num_points, 1))
    points = jnp.where(is_upper, upper, jnp.array([1.0, 0.5]) - upper)
    return points + noise * jr.normal(noise_key, points.shape)


def digits(*, num_test: int = 400) -> Split:
    """The 1797 handwritten digits of scikit-learn: 64 pixels from 0 (paper) to 1 (ink).

    They are shuffled, always in the same order, before they are split. Needs scikit-learn:
    `pip install "numpyro-ebm[examples]"`.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            '`digits` needs scikit-learn: pip install "numpyro-ebm[examples]".'
        ) from error
    images, _ = load_digits(return_X_y=True)
    images = np.random.default_rng(0).permutation(np.asarray(images) / 16)
    return Split(train=images[num_test:], test=images[:num_test])
