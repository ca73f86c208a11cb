"""Points in the plane, and their densities."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

from typing import Any, ClassVar

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform

from .._checks import check_key
from .._types import Array, Float, Key, Scalar, Shape
from ..energies import AbstractEnergy, GaussianMixture, Mixture, Ring, Transformed


def two_moons(rng_key: Key, num_points: int, *, noise: float = 0.1) -> Float[Array, "n 2"]:
    """Two interleaved half circles with Gaussian noise."""
    check_key(rng_key)
    angle_key, moon_key, noise_key = jr.split(rng_key, 3)
    angle = jr.uniform(angle_key, (num_points,), maxval=jnp.pi)
    upper = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    is_upper = jr.bernoulli(moon_key, shape=(num_points, 1))
    points = jnp.where(is_upper, upper, jnp.array([1.0, 0.5]) - upper)
    return points + noise * jr.normal(noise_key, points.shape)


def two_moons_density(*, noise: float = 0.1) -> GaussianMixture:
    """The density of [`two_moons`][numpyro_ebm.datasets.two_moons].

    800 Gaussians along the half circles, as many as make the sum exact in 32 bits.
    """
    angle = (np.arange(400) + 0.5) * np.pi / 400
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    centres = np.concatenate([upper, np.array([1.0, 0.5]) - upper])
    return GaussianMixture(np.ones(800), centres, noise**2 * np.eye(2))


def eight_gaussians(rng_key: Key, num_points: int) -> Float[Array, "n 2"]:
    """Eight equal Gaussians on a circle."""
    return eight_gaussians_density().sample(rng_key, (num_points,))


def eight_gaussians_density() -> GaussianMixture:
    """The density of [`eight_gaussians`][numpyro_ebm.datasets.eight_gaussians].

    Its entropy is 2.832 nats.
    """
    angle = np.arange(8) * np.pi / 4
    centres = np.sqrt(8) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return GaussianMixture(np.ones(8), centres, np.eye(2) / 8)


def three_rings(rng_key: Key, num_points: int) -> Float[Array, "n 2"]:
    """Three thin rings with the same centre, a third of the points on each."""
    return three_rings_density().sample(rng_key, (num_points,))


def three_rings_density() -> Mixture:
    """The density of [`three_rings`][numpyro_ebm.datasets.three_rings]."""
    return Mixture([Ring(radius, 0.1) for radius in (1.0, 2.0, 3.0)], [1.0, 1.0, 1.0])


def pinwheel(rng_key: Key, num_points: int) -> Float[Array, "n 2"]:
    """Five bent arms around a centre."""
    return pinwheel_density().sample(rng_key, (num_points,))


def pinwheel_density() -> Transformed:
    """The density of [`pinwheel`][numpyro_ebm.datasets.pinwheel].

    Five Gaussians, turned about the origin by an angle that grows with the radius, which keeps
    areas.
    """
    angle = np.arange(5) * 2 * np.pi / 5
    along = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    across = np.stack([-np.sin(angle), np.cos(angle)], axis=1)
    covariances = 0.36 * _outer(along) + 0.04 * _outer(across)
    return Transformed(GaussianMixture(np.ones(5), 2 * along, covariances), Twist())


def checkerboard(rng_key: Key, num_points: int) -> Float[Array, "n 2"]:
    """Uniform on the eight black squares of a board of sixteen."""
    return checkerboard_density().sample(rng_key, (num_points,))


def checkerboard_density() -> AbstractEnergy:
    r"""The density of [`checkerboard`][numpyro_ebm.datasets.checkerboard].

    Its entropy is $\log 32 = 3.466$ nats; it is zero on white squares.
    """
    return Checkerboard()


class Twist(Transform):
    """Turns a point by minus a quarter of $e^{r/2}$ about the origin, $r$ being its radius."""

    domain: ClassVar[Any] = constraints.real_vector
    codomain: ClassVar[Any] = constraints.real_vector

    def __call__(self, x: Array) -> Array:
        return _turned(x, -1)

    def _inverse(self, y: Array) -> Array:
        return _turned(y, 1)

    def log_abs_det_jacobian(self, x: Array, y: Array, intermediates: Any = None) -> Array:
        return jnp.zeros(jnp.shape(x)[:-1])

    def tree_flatten(self) -> tuple:
        return (), ((), {})


class Checkerboard(AbstractEnergy):
    """Zero on the black squares of a board from -4 to 4, infinite elsewhere."""

    @property
    def event_shape(self) -> Shape:
        return (2,)

    @property
    def log_z(self) -> Scalar:
        return jnp.log(32.0)

    def __call__(self, x: Float[Array, " 2"]) -> Scalar:
        is_black = jnp.sum(jnp.floor(x / 2)) % 2 == 0
        return jnp.where(is_black & (jnp.abs(x) < 4).all(), 0.0, jnp.inf)

    def sampler(self, rng_key: Key, sample_shape: Shape = ()) -> Float[Array, "*n 2"]:
        """Independent draws."""
        square_key, point_key = jr.split(rng_key)
        column, row = jnp.divmod(jr.randint(square_key, sample_shape, 0, 8), 2)
        corner = jnp.stack([2 * column - 4, 4 * row - 4 + 2 * (column % 2)], axis=-1)
        return corner + 2 * jr.uniform(point_key, (*sample_shape, 2))


def _outer(vectors: np.ndarray) -> np.ndarray:
    return vectors[:, :, None] * vectors[:, None, :]


def _turned(x: Array, sign: int) -> Array:
    square = jnp.sum(x**2, axis=-1)
    # The gradient of a square root is infinite at zero. Beyond radius 20 the twist is constant.
    radius = jnp.sqrt(jnp.where(square > 0, jnp.minimum(square, 400), 1e-12))
    angle = sign * 0.25 * jnp.exp(radius / 2)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([cos * x[..., 0] - sin * x[..., 1], sin * x[..., 0] + cos * x[..., 1]], -1)
