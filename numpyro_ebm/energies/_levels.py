"""Whether coordinates are continuous, and the values of those that are not."""

from typing import Any

import jax
import numpyro.distributions as dist
from numpyro.distributions import constraints

from ._base import AbstractEnergy
from ._supports import elementwise


def is_discrete(energy: Any) -> bool:
    """Whether an energy, or an expert or distribution in it, has integer coordinates."""
    return bool(_discrete_parts(energy))


def discrete_levels(energy: Any) -> tuple[float, float] | None:
    """The two levels of a discrete energy's coordinates; `None` if there are not two."""
    parts = _discrete_parts(energy)
    levels = {part.levels if isinstance(part, AbstractEnergy) else (0.0, 1.0) for part in parts}
    counts = [x for x in parts if not isinstance(x, AbstractEnergy) and not _is_binary(x)]
    if len(levels) != 1 or counts:
        return None
    match levels.pop():
        case (low, high):
            return low, high
    return None


def show_levels(energy: AbstractEnergy) -> str:
    levels = discrete_levels(energy)
    if levels is None:
        return "integers" if is_discrete(energy) else "real values"
    return f"the values {levels[0]:g} and {levels[1]:g}"


def _discrete_parts(energy: Any) -> list[Any]:
    def says_so(node: Any) -> bool:
        if isinstance(node, AbstractEnergy):
            return node.levels is not None
        return isinstance(node, dist.Distribution) and node.is_discrete is True

    return [x for x in jax.tree.leaves(energy, is_leaf=says_so) if says_so(x)]


def _is_binary(distribution: dist.Distribution) -> bool:
    return elementwise(distribution.support) is constraints.boolean
