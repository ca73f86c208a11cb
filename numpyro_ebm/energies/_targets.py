"""Densities with known normaliser and moments, to test samplers and estimators."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.scipy.special import erf, logsumexp

from .._checks import check_count, check_positive, finite
from .._types import Array, Float, Key, Scalar, Shape
from ._base import AbstractEnergy


class DoubleWell(AbstractEnergy):
    r"""$\sum_i a x_i^4 - b x_i^2$: wells at $\pm\sqrt{b/2a}$ in each of `dim` coordinates.

    **Arguments**

    - `a`: positive; `b`: any; below zero there is one well.
    """

    a: Scalar = eqx.field(converter=finite("a"), default=1.0)
    b: Scalar = eqx.field(converter=finite("b"), default=2.0)
    dim: int = eqx.field(static=True, default=1)

    def __check_init__(self) -> None:
        check_positive("a", self.a)
        check_count("dim", self.dim)

    @property
    def event_shape(self) -> Shape:
        return (self.dim,)

    @property
    def log_z(self) -> Scalar:
        _, log_weights, height = self._rule()
        return self.dim * (height + logsumexp(log_weights))

    @property
    def mean(self) -> Float[Array, " d"]:
        return jnp.zeros(self.dim)

    @property
    def variance(self) -> Float[Array, " d"]:
        squares, log_weights, _ = self._rule()
        return jnp.full(self.dim, jnp.sum(jax.nn.softmax(log_weights) * squares))

    def __call__(self, x: Float[Array, " d"]) -> Scalar:
        return jnp.sum(self.a * x**4 - self.b * x**2)

    def _rule(self) -> tuple[Float[Array, " n"], Float[Array, " n"], Scalar]:
        r"""Nodes $x^2$ of one coordinate, log weights, and the log height taken out of them.

        The trapezoidal rule out to 60 nats above the wells; its error falls faster than any
        power of the spacing (Trefethen and Weideman 2014). The closed form has Bessel functions
        of order 1/4, which JAX lacks.
        """
        ratio, reach = self.b / (2 * self.a), jnp.sqrt(60 / self.a)
        grid, step = jnp.linspace(-1, 1, 4001, retstep=True)
        # If the wells lie apart: u = x^2 - b/2a, in which each is a Gaussian.
        are_apart = ratio > reach
        u = jax.lax.stop_gradient(reach) * grid
        squares = jnp.where(are_apart, ratio + u, 1)
        apart = -self.a * u**2 - 0.5 * jnp.log(squares) + jnp.log(reach * step)
        # Otherwise x itself; where the grid ends does not matter.
        end = reach**2 / (jnp.sqrt(ratio**2 + reach**2) - ratio)
        end = jax.lax.stop_gradient(jnp.sqrt(jnp.where(ratio > 0, ratio + reach, end)))
        x = end * grid
        joined = self.b * x**2 - self.a * x**4 + jnp.log(end * step)
        height = jnp.where(are_apart, self.a * ratio**2, 0)
        return (
            jnp.where(are_apart, squares, x**2),
            jnp.where(are_apart, apart, joined),
            height,
        )


class Ring(AbstractEnergy):
    r"""$(\lVert x\rVert - r)^2 / 2w^2$ in the plane: a ring of `radius` $r$ and `width` $w$."""

    radius: Scalar = eqx.field(converter=finite("radius"), default=2.0)
    width: Scalar = eqx.field(converter=finite("width"), default=0.5)

    def __check_init__(self) -> None:
        check_positive("radius", self.radius)
        check_positive("width", self.width)

    @property
    def event_shape(self) -> Shape:
        return (2,)

    @property
    def log_z(self) -> Scalar:
        return jnp.log(2 * jnp.pi * self._radial_moment(1))

    @property
    def mean(self) -> Float[Array, " 2"]:
        return jnp.zeros(2)

    @property
    def variance(self) -> Float[Array, " 2"]:
        return jnp.full(2, self._radial_moment(3) / (2 * self._radial_moment(1)))

    def __call__(self, x: Float[Array, " 2"]) -> Scalar:
        square = jnp.sum(x**2)
        # The gradient of a square root is infinite at zero.
        norm = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
        return 0.5 * ((norm - self.radius) / self.width) ** 2

    def sampler(self, rng_key: Key, sample_shape: Shape = ()) -> Float[Array, "*n 2"]:
        """Independent draws."""
        radius_key, angle_key = jr.split(rng_key)
        radius = self._sample_radius(radius_key, sample_shape)
        angle = jr.uniform(angle_key, sample_shape, maxval=2 * jnp.pi)
        return radius[..., None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)

    def _radial_moment(self, power: int) -> Scalar:
        r"""$\int_0^\infty s^k e^{-(s-r)^2/2w^2}\,ds$, by parts."""
        r, w = self.radius, self.width
        edge = w**2 * jnp.exp(-0.5 * (r / w) ** 2)
        moments = [w * jnp.sqrt(jnp.pi / 2) * (1 + erf(r / (w * jnp.sqrt(2.0))))]
        moments.append(edge + r * moments[0])
        for k in range(1, power):
            moments.append(r * moments[k] + k * w**2 * moments[k - 1])
        return moments[power]

    def _sample_radius(self, rng_key: Key, shape: Shape) -> Array:
        # The density s exp(-(s-r)^2/2w^2) lies under a Gaussian at its mode, because log s
        # lies under its tangent there: exact rejection, with high acceptance.
        mode = 0.5 * (self.radius + jnp.sqrt(self.radius**2 + 4 * self.width**2))

        def propose(carry: tuple) -> tuple:
            key, radius, done = carry
            key, normal_key, uniform_key = jr.split(key, 3)
            proposal = mode + self.width * jr.normal(normal_key, shape)
            ratio = jnp.maximum(proposal / mode, 0)
            accept = jr.uniform(uniform_key, shape) < ratio * jnp.exp(1 - ratio)
            return key, jnp.where(~done & accept, proposal, radius), done | accept

        start = rng_key, jnp.zeros(shape), jnp.zeros(shape, bool)
        return jax.lax.while_loop(lambda carry: ~carry[2].all(), propose, start)[1]


class Banana(AbstractEnergy):
    r"""$x_1^2/2a^2 + (x_2 - b x_1^2)^2/2c^2$: a Gaussian sheared by a parabola."""

    a: Scalar = eqx.field(converter=finite("a"), default=1.0)
    b: Scalar = eqx.field(converter=finite("b"), default=0.5)
    c: Scalar = eqx.field(converter=finite("c"), default=0.5)

    def __check_init__(self) -> None:
        check_positive("a", self.a)
        check_positive("c", self.c)

    @property
    def event_shape(self) -> Shape:
        return (2,)

    @property
    def log_z(self) -> Scalar:
        return jnp.log(2 * jnp.pi * self.a * self.c)

    @property
    def mean(self) -> Float[Array, " 2"]:
        return jnp.stack([jnp.zeros_like(self.a), self.b * self.a**2])

    @property
    def variance(self) -> Float[Array, " 2"]:
        return jnp.stack([self.a**2, self.c**2 + 2 * self.b**2 * self.a**4])

    def __call__(self, x: Float[Array, " 2"]) -> Scalar:
        bent = x[1] - self.b * x[0] ** 2
        return 0.5 * (x[0] / self.a) ** 2 + 0.5 * (bent / self.c) ** 2

    def sampler(self, rng_key: Key, sample_shape: Shape = ()) -> Float[Array, "*n 2"]:
        """Independent draws."""
        noise = jr.normal(rng_key, (*sample_shape, 2))
        first = self.a * noise[..., 0]
        return jnp.stack([first, self.b * first**2 + self.c * noise[..., 1]], axis=-1)


class Funnel(AbstractEnergy):
    r"""$\tfrac{v^2}{2\sigma^2} + \tfrac12\sum_{i<d}(x_i^2 e^{-v} + v)$ of a point $(v, x)$.

    Neal's funnel [Neal 2003]: $v \sim N(0, \sigma^2)$, and $x_i \sim N(0, e^v)$ given $v$. A
    stress test: no step size suits both its neck and its mouth.
    """

    scale: Scalar = eqx.field(converter=finite("scale"), default=3.0)
    dim: int = eqx.field(static=True, default=10)

    def __check_init__(self) -> None:
        check_positive("scale", self.scale)
        check_count("dim", self.dim, 2)

    @property
    def event_shape(self) -> Shape:
        return (self.dim,)

    @property
    def log_z(self) -> Scalar:
        return jnp.log(self.scale) + 0.5 * self.dim * jnp.log(2 * jnp.pi)

    @property
    def mean(self) -> Float[Array, " d"]:
        return jnp.zeros(self.dim)

    @property
    def variance(self) -> Float[Array, " d"]:
        mouth = jnp.exp(0.5 * self.scale**2)
        return jnp.full(self.dim, mouth).at[0].set(self.scale**2)

    def __call__(self, x: Float[Array, " d"]) -> Scalar:
        v, rest = x[0], x[1:]
        # If the neck is too narrow for floats, zero times infinity would be NaN.
        precision = jnp.exp(jnp.minimum(-v, 80.0))
        return 0.5 * (v / self.scale) ** 2 + 0.5 * jnp.sum(rest**2 * precision + v)

    def sampler(self, rng_key: Key, sample_shape: Shape = ()) -> Float[Array, "*n d"]:
        """Independent draws."""
        noise = jr.normal(rng_key, (*sample_shape, self.dim))
        v = self.scale * noise[..., :1]
        return jnp.concatenate([v, jnp.exp(0.5 * v) * noise[..., 1:]], axis=-1)
