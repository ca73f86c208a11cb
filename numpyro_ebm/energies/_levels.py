"""Whether coordinates are continuous, and the values of those that are not."""

import math
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
from jax.core import Tracer
from numpyro.distributions import constraints

from .._types import Shape
from ._base import AbstractEnergy
from ._conditional import AbstractConditional
from ._constraints import Levels
from ._states import MAX_STATES, is_enumerable
from ._supports import elementwise


def is_discrete(energy: Any) -> bool:
    """Whether an energy, or an expert or distribution in it, has integer coordinates."""
    return bool(_discrete_parts(energy))


def discrete_levels(energy: Any) -> tuple[float, ...] | None:
    """The values of a discrete energy's coordinates; `None` if they are not the same few."""
    levels = _all_levels(energy)
    return (levels.pop() or None) if len(levels) == 1 else None


def discrete_support(energy: AbstractEnergy) -> constraints.Constraint | None:
    """The constraint on a discrete energy's coordinates; `None` if it is not known."""
    if levels := discrete_levels(energy):
        return Levels(levels)
    if len(_all_levels(energy)) > 1:
        return None
    support = energy.support
    return support if support is not None and support.is_discrete else None


def has_few_states(energy: Any, shape: Shape) -> bool:
    """Whether all points of a discrete energy can be listed."""
    levels = discrete_levels(energy)
    return levels is not None and is_enumerable(math.prod(shape), len(levels))


def show_levels(energy: AbstractEnergy) -> str:
    levels = discrete_levels(energy)
    if levels is None:
        return "integers" if is_discrete(energy) else "real values"
    *others, last = (f"{level:g}" for level in levels)
    return f"the values {', '.join(others)} and {last}"


def _all_levels(energy: Any) -> set[tuple[float, ...] | None]:
    return set(map(_levels_of, _discrete_parts(energy)))


def _discrete_parts(energy: Any) -> list[Any]:
    def says_so(node: Any) -> bool:
        if isinstance(node, AbstractEnergy | AbstractConditional):
            return node.levels is not None
        return isinstance(node, dist.Distribution) and node.is_discrete is True

    return [x for x in jax.tree.leaves(energy, is_leaf=says_so) if says_so(x)]


def _levels_of(part: Any) -> tuple[float, ...] | None:
    if isinstance(part, AbstractEnergy | AbstractConditional):
        return part.levels
    support = elementwise(part.support)
    if support is constraints.boolean:
        return 0.0, 1.0
    low, high = (getattr(support, name, None) for name in ("lower_bound", "upper_bound"))
    if low is None or high is None or any(isinstance(x, Tracer) for x in (low, high)):
        return None
    if np.ndim(low) or np.ndim(high) or high - low >= MAX_STATES:
        return None
    return tuple(map(float, range(int(low), int(high) + 1)))
