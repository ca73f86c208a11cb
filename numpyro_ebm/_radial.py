"""Radial kernels, the Stein kernels made from them, and sums over all pairs of points."""

import abc
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer

from ._checks import check_positive
from ._types import Array, Float, PyTree, Scalar


class AbstractRadialKernel(eqx.Module):
    r"""$k(x, y) = \varphi(\lVert x - y\rVert^2 / h^2)$, a similarity of two points.

    A subclass defines $\varphi$ and two derivatives. `length_scale` is $h$, or `None` for the
    median distance between the given points.
    """

    length_scale: eqx.AbstractVar[float | Scalar | None]

    def __check_init__(self) -> None:
        if self.length_scale is not None:
            check_positive("length_scale", self.length_scale)

    @abc.abstractmethod
    def profile(self, t: Scalar) -> tuple[Scalar, Scalar, Scalar]:
        r"""$\varphi(t)$, $\varphi'(t)$ and $\varphi''(t)$."""


class InverseMultiquadric(AbstractRadialKernel):
    r"""$k(x, y) = (1 + \lVert x-y\rVert^2/h^2)^\beta$ with $-1 < \beta < 0$.

    Its tails are heavy enough for a Stein discrepancy to see draws that wander off to infinity,
    in any dimension [Gorham and Mackey 2017]. The form $(c^2 + \lVert x-y\rVert^2)^\beta$ is
    the same with $h = c$, up to a constant factor.

    **Arguments**

    - `length_scale`: $h$; by default the median distance between points.
    - `exponent`: $\beta$.
    """

    length_scale: float | Scalar | None = None
    exponent: float = -0.5

    def __check_init__(self) -> None:
        if not -1 < self.exponent < 0:
            raise ValueError(f"`exponent` must lie between -1 and 0, got {self.exponent}.")

    def profile(self, t: Scalar) -> tuple[Scalar, Scalar, Scalar]:
        b = self.exponent
        value = (1 + t) ** b
        return value, b * value / (1 + t), b * (b - 1) * value / (1 + t) ** 2


class GaussianKernel(AbstractRadialKernel):
    r"""$k(x, y) = \exp(-\lVert x-y\rVert^2 / 2h^2)$.

    **Arguments**

    - `length_scale`: $h$; by default the median distance between points.
    """

    length_scale: float | Scalar | None = None

    def profile(self, t: Scalar) -> tuple[Scalar, Scalar, Scalar]:
        value = jnp.exp(-0.5 * t)
        return value, -0.5 * value, 0.25 * value


def at_scale(kernel: Any, points: Float[Array, "n d"]) -> AbstractRadialKernel:
    """`kernel` with its length scale as an array: its own, or the median distance."""
    if not isinstance(kernel, AbstractRadialKernel):
        raise TypeError(
            "`kernel` must be a kernel of pairs of points, such as "
            f"`ebm.diagnostics.InverseMultiquadric()`, got {kernel!r}."
        )
    scale = kernel.length_scale
    if scale is None:
        scale = _median_distance(points[:: math.ceil(len(points) / _MEDIAN_POINTS)])
        if not isinstance(scale, Tracer) and not scale > 0:
            raise ValueError(
                "The median distance between points must be positive, got "
                f"{scale}: most of them are equal. Give the kernel a `length_scale`."
            )
    scale = jnp.asarray(scale, points.dtype)
    return eqx.tree_at(lambda k: k.length_scale, kernel, scale, is_leaf=lambda x: x is None)


@jax.jit
def _median_distance(points: Float[Array, "n d"]) -> Scalar:
    def row(x: Array) -> Array:
        return jnp.sqrt(jnp.sum((points - x) ** 2, -1))

    distances = jax.lax.map(row, points, batch_size=_ROWS)
    return jnp.median(distances[jnp.triu_indices(len(points), 1)])


def stein_kernel(
    kernel: AbstractRadialKernel, a: tuple[Array, Array], b: tuple[Array, Array]
) -> Scalar:
    r"""$u(x, y)$ for two vectors, each with its score.

    With $t = \lVert x-y\rVert^2/h^2$: $\varphi\,s_x^\top s_y
    - \bigl(2\varphi'(s_x-s_y)^\top(x-y) + 2d\varphi' + 4t\varphi''\bigr)/h^2$.
    """
    (x, s_x), (y, s_y) = a, b
    squared_scale = jnp.asarray(kernel.length_scale) ** 2
    t = jnp.sum((x - y) ** 2) / squared_scale
    value, slope, curvature = kernel.profile(t)
    # Over all pairs, four matrix products are faster than one sum of differences.
    along = _dot(s_x, x) + _dot(s_y, y) - _dot(s_x, y) - _dot(s_y, x)
    mixed = 2 * slope * (along + x.size) + 4 * t * curvature
    return value * _dot(s_x, s_y) - mixed / squared_scale


def _dot(a: Array, b: Array) -> Scalar:
    return jnp.dot(a, b, precision="highest")


def kernel_products(
    pair: Callable[[PyTree, PyTree], Scalar], points: PyTree, columns: Float[Array, "n k"]
) -> Float[Array, "n k"]:
    r"""$\sum_j f(x_i, x_j)\,c_{jk}$, a few rows of the matrix at a time."""

    def row(point: PyTree) -> Array:
        values = jax.vmap(lambda other: pair(point, other))(points)
        return jnp.matmul(values, columns, precision="highest")

    return jax.lax.map(row, points, batch_size=_ROWS)


#: Rows per block.
_ROWS = 64
#: Points used for the median distance.
_MEDIAN_POINTS = 500
