"""A box that contains nearly all of a density."""

import math

import equinox as eqx
import jax
import numpy as np

from .._checks import as_floats
from .._types import Array, Energy, Shape
from ._base import BLOCK
from ._search import descend_from, starts_around

#: Modes higher than this above the deepest one hold negligible mass.
DEEP = 15.0


def find_box(energy: Energy, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    dim = math.prod(shape)
    low, high = np.full(dim, -8.0), np.full(dim, 8.0)
    lows = descend_from(energy, starts_around(low.reshape(shape), high.reshape(shape)))
    modes = np.asarray(lows.points, float).reshape(-1, dim)[np.asarray(lows.is_deep(DEEP))]
    low, high = (
        f(np.concatenate([modes, [end]]), 0) for f, end in ((np.min, low), (np.max, high))
    )

    @eqx.filter_jit
    def heights(energy: Energy, points: Array) -> Array:
        return jax.lax.map(energy, points, batch_size=BLOCK)

    for _ in range(_MOST_BOXES):
        axes = [np.linspace(a, b, _LOOKS[dim]) for a, b in zip(low, high, strict=True)]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, *shape)
        values = np.asarray(heights(energy, as_floats(points))).reshape([_LOOKS[dim]] * dim)
        if np.isnan(values).any() or np.isneginf(values).any():
            break
        if not np.isfinite(values).any():
            raise ValueError(
                f"{energy!r} is infinite wherever it was looked at, as far as "
                f"{np.abs(high).max():.3g}: its density is zero there. If it has any mass, "
                "give a box, `ebm.Quadrature(low, high)`."
            )
        inside = values <= values.min() + _DEPTH
        sides = [_side(inside, axis, i, modes[:, i]) for i, axis in enumerate(axes)]
        shrunk = [
            (b - a) / (axis[-1] - axis[0]) for (a, b, _), axis in zip(sides, axes, strict=True)
        ]
        low, high = (np.array([side[k] for side in sides]) for k in (0, 1))
        if min(shrunk) > _SNUG and not any(touches for *_, touches in sides):
            return low.reshape(shape), high.reshape(shape)
    raise ValueError(
        f"No box holds {energy!r}: looking outwards as far as {np.abs(high).max():.3g}, it "
        "has not fallen off. It may have no normaliser, see "
        "`ebm.normalizers.check_integrable`; otherwise give a box, `ebm.Quadrature(low, high)`."
    )


def _side(
    inside: np.ndarray, axis: np.ndarray, i: int, modes: np.ndarray
) -> tuple[float, float, bool]:
    """The next box along one axis, and whether the density extends beyond this one.

    Modes that the grid is too coarse to resolve stay inside.
    """
    others = tuple(j for j in range(inside.ndim) if j != i)
    where = np.flatnonzero(inside.any(others))
    first, last = where[0], where[-1]
    step, width, end = axis[1] - axis[0], axis[-1] - axis[0], len(axis) - 1
    low = axis[0] - 0.5 * width if first == 0 else axis[first] - step
    high = axis[-1] + 0.5 * width if last == end else axis[last] + step
    low, high = min([low, *(modes - step)]), max([high, *(modes + step)])
    return low, high, bool(first == 0 or last == end)


#: A box is tight if the next one would be hardly smaller.
_SNUG = 0.8
#: Boxes tried, points per side of each, and how far below its peak a density still counts.
_MOST_BOXES, _LOOKS, _DEPTH = 30, {1: 1025, 2: 129, 3: 49}, 25.0
