"""Normalisers by quadrature, in up to three dimensions."""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from numpyro.distributions import constraints

from .._checks import as_floats, check_count, check_finite
from .._types import Array, Energy, EnergyLike, Float, Key, Scalar, Shape
from ..energies import (
    AbstractEnergy,
    LogZ,
    as_energy,
    box_of,
    check_energy,
    confined,
    is_discrete,
    is_real,
    judged,
)
from ._base import AbstractExactMethod, log_sum, rounding, with_common_checks
from ._box import DEEP, find_box
from ._search import NUM_STARTS, REACH, Lows, descend_from, starts_around


class Quadrature(AbstractExactMethod):
    r"""The trapezoidal rule on a box, for energies in one to three dimensions.

    Spectrally accurate for smooth densities that vanish at the edge of the box; outside it the
    density counts as zero. If the energy's support bounds a coordinate, the box ends there, and
    the rule is double exponential [[Takahasi and Mori
    1974](https://doi.org/10.2977/prims/1195192451)], for which the density need not vanish.
    Exact up to the size of the box and the number of nodes, and differentiable. Under
    [`log_partition`][numpyro_ebm.log_partition] it doubles the nodes, takes the difference as
    the error, and checks how much mass lies at the edge. It also searches for mass that the box
    or the grid misses, by descents from 256, 512 or 1024 points (in one, two or three
    dimensions) around zero and around the box, up to a thousand times its half-width away.
    Shown by `tests/normalizers/test_exact.py` against closed forms.

    ```python
    ebm.Quadrature([-5.0, -5.0], [5.0, 5.0]).log_z(energy)
    ebm.log_partition(jax.random.key(0), energy, ebm.Quadrature.around(energy))
    ```

    **Arguments**

    - `low`, `high`: the corners of the box, in the event's shape, or two numbers, the ends of
      every coordinate.
    - `num_points`: nodes per dimension, or a tuple of them; by default 1025, 257 or 65 in one,
      two or three dimensions.
    """

    low: Float[np.ndarray, "*event"] = eqx.field(converter=np.asarray)
    high: Float[np.ndarray, "*event"] = eqx.field(converter=np.asarray)
    num_points: int | tuple[int, ...] | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        check_finite("low", self.low)
        check_finite("high", self.high)
        sizes = self.num_points if isinstance(self.num_points, tuple) else (self.num_points,)
        for size in () if sizes == (None,) else sizes:
            check_count("num_points", size)
        if self.low.shape != self.high.shape or not np.all(self.low < self.high):
            raise ValueError(
                f"`low` must lie below `high` in each coordinate, got {self.low} and "
                f"{self.high}."
            )
        if not 1 <= self.low.size <= len(_NUM_POINTS):
            raise ValueError(
                "`Quadrature` is for one to three dimensions, got a box in "
                f"{self.low.size}: its nodes would not fit."
            )
        if any(n < 2 for n in self._sizes()):
            raise ValueError(f"`num_points` must be at least 2, got {self.num_points}.")

    @classmethod
    def around(cls, energy: EnergyLike, event_shape: Shape | None = None) -> "Quadrature":
        r"""A box found by search, outside which the density is below $e^{-25}$ of its peak.

        Descents from points at every distance up to 8000 look for modes. The box starts from
        $[-8, 8]^d$ and the modes, grows where the density has not yet fallen off and shrinks
        where it has. A mode is missed if no descent reaches its slopes.

        **Raises** `ValueError` if the density does not fall off.
        """
        energy = confined(as_energy(energy, event_shape))
        shape = energy.event_shape
        if shape is None or not 1 <= math.prod(shape) <= len(_NUM_POINTS):
            raise ValueError(
                f"`energy` must live in one to three dimensions, got the event shape {shape}; "
                "`event_shape` tells it."
            )
        return cls(*find_box(energy, shape))

    def log_z(self, energy: Energy) -> Scalar:
        return log_sum(energy, *self._on(energy).nodes(_support(energy)))

    def estimate(self, rng_key: Key, energy: AbstractEnergy) -> LogZ:
        return self._on(energy)._estimate(energy)

    def _on(self, energy: Energy) -> "Quadrature":
        """With the same numbers as ends of each coordinate, if the box is an interval."""
        shape = energy.event_shape if isinstance(energy, AbstractEnergy) else ()
        if not shape or self.low.shape or math.prod(shape) > len(_NUM_POINTS):
            return self
        low, high = (np.broadcast_to(end, shape) for end in (self.low, self.high))
        return dataclasses.replace(self, low=low, high=high)

    def _estimate(self, energy: AbstractEnergy) -> LogZ:
        check_energy(energy, self.low.shape)
        if is_discrete(energy):
            raise ValueError(
                f"`Quadrature` integrates over real points, and {energy!r} is discrete: use "
                "`ebm.Enumeration()` or `ebm.SequentialMonteCarlo()`."
            )
        self._check_overlap(energy)
        doubled = self.with_doubled_points()
        coarse, fine, edge, noise = _compare(self, doubled, energy)
        lows = descend_from(confined(energy), starts_around(self.low, self.high))
        outside, between = doubled._missed(energy, lows)
        error = jnp.maximum(jnp.abs(fine - coarse), noise)
        bounds = fine - error, fine + error
        log_z = LogZ(fine, error, *bounds, upper_is_exact=True, method="Quadrature")
        checks = {
            "the box cuts off mass, its outermost cells hold more than a millionth": edge
            > _EDGE,
            "the grid is too coarse, one of half as many points differs": error > _COARSE,
            f"{_searched(self.low.size)} found a mode outside of the box": outside,
            f"{_searched(self.low.size)} found a mode between the nodes of the grid": between,
        }
        return judged(with_common_checks(log_z, noise), checks)

    def contains(self, points: Float[Array, "n *event"]) -> Array:
        """Whether points lie in the box."""
        inside = (points >= as_floats(self.low)) & (points <= as_floats(self.high))
        return inside.reshape(len(points), -1).all(1)

    def with_doubled_points(self) -> "Quadrature":
        sizes = tuple(2 * n - 1 for n in self._sizes())
        return dataclasses.replace(self, num_points=sizes)

    def with_halved_points(self) -> "Quadrature":
        sizes = tuple(max(2, (n + 1) // 2) for n in self._sizes())
        return dataclasses.replace(self, num_points=sizes)

    def nodes(
        self, support: Any = constraints.real
    ) -> tuple[Float[Array, "n *event"], Float[Array, " n"]]:
        """Nodes and their log weights, in the box restricted to a support."""
        sides = zip(*map(jnp.ravel, (self.low, self.high)), strict=True)
        bounds = _bounds(support, self.low.shape)
        rules = [
            _rule(low, high, lower, upper, n)
            for (low, high), (lower, upper), n in zip(sides, bounds, self._sizes(), strict=True)
        ]
        axes, log_weights = zip(*rules, strict=True)
        points = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), -1)
        grids = jnp.stack(jnp.meshgrid(*log_weights, indexing="ij"))
        return points.reshape(-1, *self.low.shape), grids.sum(0).reshape(-1)

    def _missed(self, energy: AbstractEnergy, lows: Lows) -> tuple[Array, Array]:
        """Whether there are modes outside the box, and between its nodes."""
        low, high = as_floats(self.low), as_floats(self.high)
        inside = self.contains(lows.points)
        outside = (lows.is_deep(DEEP) & ~inside).any()
        if not is_real(_support(energy)):
            return outside, jnp.zeros((), bool)  # Its nodes cluster at the bounds.
        step = (high - low) / (as_floats(self._sizes()).reshape(low.shape) - 1)
        nodes = low + step * jnp.round((lows.points - low) / step)
        rise = jax.vmap(energy)(nodes) - lows.energies
        return outside, (lows.is_deep(DEEP) & inside & ~(rise < _STEEP)).any()

    def _check_overlap(self, energy: AbstractEnergy) -> None:
        bounds = _bounds(_support(energy), self.low.shape)
        if any(isinstance(bound, Tracer) for bound in jax.tree.leaves((bounds, self.low))):
            return
        lower, upper = np.array(bounds).T.reshape(2, *self.low.shape)
        if not np.all(np.maximum(self.low, lower) < np.minimum(self.high, upper)):
            raise ValueError(
                f"The box from `low`, {self.low}, to `high`, {self.high}, misses the support "
                f"of the energy, {energy.support}."
            )

    def _sizes(self) -> tuple[int, ...]:
        if self.num_points is None:
            return (_NUM_POINTS[self.low.size],) * self.low.size
        sizes = np.broadcast_to(self.num_points, (self.low.size,))
        return tuple(int(n) for n in sizes)


_NUM_POINTS = {1: 1025, 2: 257, 3: 65}
#: The most mass in the outermost cells, and the largest difference between two grids.
_EDGE, _COARSE = 1e-6, 1e-2


def _searched(dim: int) -> str:
    return f"a search from {NUM_STARTS[dim]} points, up to {REACH:g} half-widths away,"


#: A mode is narrow if the energy rises by more than this up to the next node.
_STEEP = 2.0


@eqx.filter_jit
def _compare(
    method: Quadrature, fine: Quadrature, energy: AbstractEnergy
) -> tuple[Scalar, Scalar, Scalar, Scalar]:
    """Compare two grids, and find the share of the mass at the edge."""
    nodes, log_weights = fine.nodes(_support(energy))
    places = np.indices(fine._sizes()).reshape(len(fine._sizes()), -1).T
    at_edge = ((places == 0) | (places == np.array(fine._sizes()) - 1)).any(1)
    total = log_sum(energy, nodes, log_weights)
    edge = log_sum(energy, nodes, jnp.where(at_edge, log_weights, -jnp.inf))
    return method.log_z(energy), total, jnp.exp(edge - total), rounding(total)


def _support(energy: Energy) -> Any:
    return energy.support if isinstance(energy, AbstractEnergy) else constraints.real


def _bounds(support: Any, shape: Shape) -> list[tuple[Any, Any]]:
    """The bounds of each coordinate."""
    box = box_of(support)
    if box is None:
        raise ValueError(
            f"`Quadrature` is on a box, and the energy lives on the support {support}: "
            "integrate it over unconstrained points, as `ebm.log_partition(rng_key, energy)` "
            "does."
        )
    if any(isinstance(bound, Tracer) for bound in box):
        sides = [jnp.broadcast_to(bound, shape).ravel() for bound in box]
    else:
        sides = [np.broadcast_to(np.asarray(bound, float), shape).ravel() for bound in box]
    return list(zip(*sides, strict=True))


def _rule(low: Any, high: Any, lower: Any, upper: Any, n: int) -> tuple[Array, Array]:
    """Nodes of one coordinate between `low` and `high`, and their log weights."""
    is_free = not isinstance(lower, Tracer) and np.isneginf(lower) and np.isposinf(upper)
    low, high = as_floats(low), as_floats(high)
    if not is_free:
        return _double_exponential(jnp.maximum(low, lower), jnp.minimum(high, upper), n)
    ends = np.where(np.isin(np.arange(n), [0, n - 1]), 0.5, 1.0)
    return jnp.linspace(low, high, n), jnp.log(ends * (high - low) / (n - 1))


def _double_exponential(low: Scalar, high: Scalar, n: int) -> tuple[Array, Array]:
    r"""$x = \tanh(\tfrac\pi2\sinh t)$ on equal steps of $t$, from one end to the other."""
    half = 0.5 * (high - low)
    t, step = jnp.linspace(-_REACH, _REACH, n, retstep=True)
    y = 0.5 * jnp.pi * jnp.sinh(jnp.abs(t))
    # From the distance to the nearer end, which is tiny.
    distance = 2 * half * jax.nn.sigmoid(-2 * y)
    axis = jnp.where(t < 0, low + distance, high - distance)
    log_cosh = y + jnp.log1p(jnp.exp(-2 * y)) - jnp.log(2.0)
    log_weights = jnp.log(0.5 * jnp.pi * half * step * jnp.cosh(t)) - 2 * log_cosh
    # A node may be rounded to an end, where the density may be infinite.
    inside = (axis > low) & (axis < high)
    middle = low + half
    return jnp.where(inside, axis, middle), jnp.where(inside, log_weights, -jnp.inf)


#: The range of $t$ in the double exponential rule.
_REACH = 3.2
