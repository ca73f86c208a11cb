"""Where an energy lives: what is known about NumPyro constraints."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.constraints import Constraint

from .._types import Array
from ._constraints import Box


def bijection(support: Any) -> Any:
    """The transform from unconstrained space, in which a chain can move."""
    if support is None:
        raise ValueError(
            "The experts in this energy live on different supports; say on which it does: "
            "`ebm.EnergyDistribution(energy, support=...)`."
        )
    try:
        return biject_to(support)
    except NotImplementedError as error:
        raise NotImplementedError(
            f"NumPyro has no bijection from unconstrained space to {support}, in which a chain "
            "could move."
        ) from error


def elementwise(support: Any) -> Any:
    """The constraint on each coordinate."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def is_real(support: Any) -> bool:
    """Whether a constraint leaves every coordinate free."""
    base = elementwise(support)
    if isinstance(base, constraints.cat):
        return all(map(is_real, base.cseq))
    return isinstance(base, type(constraints.real))


def same_support(a: Any, b: Any) -> bool:
    """Whether two constraints are known to be the same; different traced bounds aren't."""
    if a is None or b is None:
        return False
    if a is b or (is_real(a) and is_real(b)):
        return True
    leaves, others = jax.tree.leaves(a), jax.tree.leaves(b)
    if any(isinstance(x, Tracer) for x in (*leaves, *others)):
        same_type = jax.tree.structure(a) == jax.tree.structure(b)
        return same_type and all(x is y for x, y in zip(leaves, others, strict=True))
    with jax.ensure_compile_time_eval():
        return bool(a.eq(b))


def box_of(support: Any) -> tuple[Any, Any] | None:
    """The bounds of each coordinate, if the constraint consists of bounds only."""
    base = elementwise(support)
    if base is None or base.is_discrete:
        return None
    if is_real(base):
        return -np.inf, np.inf
    if isinstance(base, constraints.cat):
        return _box_of_cat(base)
    if not isinstance(base, _BOUNDED):
        return None
    return getattr(base, "lower_bound", -np.inf), getattr(base, "upper_bound", np.inf)


_BOUNDED = (constraints.greater_than, constraints.less_than, constraints.interval, Box)


def _box_of_cat(support: Any) -> tuple[Array, Array] | None:
    boxes = [box_of(part) for part in support.cseq]
    if support.dim != -1 or support.event_dim or any(box is None for box in boxes):
        return None
    pairs = zip(boxes, support.lengths, strict=True)
    sides = [[jnp.broadcast_to(side, n) for side in box] for box, n in pairs if box]
    low, high = (jnp.concatenate(side) for side in zip(*sides, strict=True))
    return low, high


def box(low: Any, high: Any) -> Constraint | None:
    """Bounds as the simplest equivalent constraint; `None` if nothing lies between them."""
    if isinstance(low, Tracer) or isinstance(high, Tracer):
        return Box(low, high)
    low, high = np.asarray(low), np.asarray(high)
    if not np.all(low < high):
        return None
    above, below = np.isfinite(low), np.isfinite(high)
    if not above.any() and not below.any():
        return constraints.real
    if above.all() and below.all():
        return constraints.interval(low, high)
    if above.all() and not below.any():
        return constraints.greater_than(low) if low.any() else constraints.positive
    return constraints.less_than(high) if below.all() and not above.any() else Box(low, high)


def intersection(supports: Sequence[Any]) -> Constraint | None:
    """Where all the constraints hold; `None` if that is nowhere, or unknown."""
    bounded = [support for support in supports if not is_real(support)]
    if not bounded:
        return constraints.real
    return _combined(bounded, np.maximum, np.minimum)


def hull(supports: Sequence[Any]) -> Constraint | None:
    """A constraint that holds wherever any of `supports` does; `None` if unknown."""
    if any(map(is_real, supports)):
        return constraints.real
    return _combined(supports, np.minimum, np.maximum)


def _combined(supports: Sequence[Any], of_low: Any, of_high: Any) -> Constraint | None:
    first, *others = supports
    if all(same_support(first, other) for other in others):
        return first
    boxes = [box_of(support) for support in supports]
    if any(one is None for one in boxes):
        return None
    lows, highs = zip(*(one for one in boxes if one), strict=True)
    if any(isinstance(x, Tracer) for x in (*lows, *highs)):
        of_low, of_high = getattr(jnp, of_low.__name__), getattr(jnp, of_high.__name__)
    low, high = lows[0], highs[0]
    for other_low, other_high in zip(lows[1:], highs[1:], strict=True):
        low, high = of_low(low, other_low), of_high(high, other_high)
    return box(low, high)


def is_within(inner: Any, outer: Any) -> bool:
    """Whether `inner` is known to lie in `outer`."""
    if inner is None or outer is None:
        return False
    if is_real(outer) or same_support(elementwise(inner), elementwise(outer)):
        return True
    bounds = box_of(inner), box_of(outer)
    if None in bounds or any(isinstance(x, Tracer) for x in jax.tree.leaves(bounds)):
        return False
    (low, high), (outer_low, outer_high) = (map(np.asarray, each) for each in bounds if each)
    # The image of a map ends at a point known only up to rounding.
    sizes = [np.abs(np.where(np.isfinite(x), x, 0)) for x in (low, high)]
    slack = _ROUNDING * np.maximum(*sizes)
    return bool(np.all(low >= outer_low - slack) & np.all(high <= outer_high + slack))


_ROUNDING = 1e-5
