"""Where an energy lives: what is known about NumPyro constraints, and what maps do to them."""

from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.core import Tracer
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.constraints import Constraint
from numpyro.distributions.transforms import (
    AbsTransform,
    ComposeTransform,
    IdentityTransform,
    IndependentTransform,
    PermuteTransform,
    Transform,
    _InverseTransform,
)

from .._types import Array, Shape


class Box(Constraint):
    """Bounds of each coordinate, which may be infinite."""

    def __init__(self, lower_bound: Any, upper_bound: Any) -> None:
        self.lower_bound = lower_bound
        self.upper_bound = upper_bound

    def __call__(self, x: Any) -> Any:
        # Infinity belongs to no support.
        return (x >= self.lower_bound) & (x <= self.upper_bound) & jnp.isfinite(x)

    def feasible_like(self, prototype: Any) -> Array:
        return BoxTransform(self)(jnp.zeros(jnp.shape(prototype)))

    def tree_flatten(self) -> tuple:
        names = ("lower_bound", "upper_bound")
        return (self.lower_bound, self.upper_bound), (names, {})

    def eq(self, other: object, static: bool = False) -> Any:
        if not isinstance(other, Box):
            return False
        pairs = (self.lower_bound, other.lower_bound), (self.upper_bound, other.upper_bound)
        if static:
            return all(a is b or np.array_equal(a, b) for a, b in pairs)
        return jnp.array([jnp.array_equal(a, b) for a, b in pairs]).all()

    def __repr__(self) -> str:
        return f"Box({self.lower_bound}, {self.upper_bound})"


class BoxTransform(Transform):
    """From free coordinates: by a sigmoid, an exponential, or as they are."""

    domain: ClassVar[Any] = constraints.real

    def __init__(self, box: Box) -> None:
        self.box = box

    @property
    def codomain(self) -> Box:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.box

    def __call__(self, x: Any) -> Array:
        low, high, above, below = self._bounds()
        between = low + (high - low) * jax.nn.sigmoid(x)
        return self._choose(x, between, low + jnp.exp(x), high - jnp.exp(x), (above, below))

    def _inverse(self, y: Any) -> Array:
        low, high, above, below = self._bounds()
        up, down = jnp.where(above, y - low, 1), jnp.where(below, high - y, 1)
        between = jnp.log(up) - jnp.log(down)
        return self._choose(y, between, jnp.log(up), jnp.log(down), (above, below))

    def log_abs_det_jacobian(self, x: Any, y: Any, intermediates: Any = None) -> Array:
        low, high, above, below = self._bounds()
        between = jnp.log(high - low) - jax.nn.softplus(x) - jax.nn.softplus(-x)
        return self._choose(jnp.zeros_like(x), between, x, x, (above, below))

    def tree_flatten(self) -> tuple:
        return (self.box,), (("box",), {})

    def eq(self, other: object, static: bool = False) -> Any:
        return isinstance(other, BoxTransform) and self.box.eq(other.box, static=static)

    def _bounds(self) -> tuple[Array, Array, Array, Array]:
        """Bounds, zero and one where they are infinite, and which of them are finite."""
        low, high = jnp.asarray(self.box.lower_bound), jnp.asarray(self.box.upper_bound)
        above, below = jnp.isfinite(low), jnp.isfinite(high)
        low = jnp.where(above, low, 0)
        return low, jnp.where(below, high, low + 1), above, below

    def _choose(
        self, free: Any, between: Any, from_low: Any, from_high: Any, bounded: tuple
    ) -> Array:
        above, below = bounded
        half = jnp.where(above, from_low, jnp.where(below, from_high, free))
        return jnp.where(above & below, between, half)


class Preimage(Constraint):
    """The points that a one-to-one transform takes into a constraint."""

    def __init__(self, base: Constraint, transform: Transform) -> None:
        self.base = base
        self.transform = transform

    @property
    def is_discrete(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.base.is_discrete

    @property
    def event_dim(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        ends = self.transform.domain.event_dim, self.transform.codomain.event_dim
        return max(self.base.event_dim, ends[1]) + ends[0] - ends[1]

    def __call__(self, x: Any) -> Any:
        inside = jnp.asarray(self.base(self.transform(x)))
        left = self.transform.codomain.event_dim - self.base.event_dim
        return inside.all(tuple(range(inside.ndim - left, inside.ndim))) if left > 0 else inside

    def feasible_like(self, prototype: Any) -> Array:
        shape = self.transform.forward_shape(jnp.shape(prototype))
        return jnp.asarray(self.transform.inv(self.base.feasible_like(jnp.zeros(shape))))

    def tree_flatten(self) -> tuple:
        return (self.base, self.transform), (("base", "transform"), {})

    def eq(self, other: object, static: bool = False) -> Any:
        if not isinstance(other, Preimage):
            return False
        pairs = (self.base, other.base), (self.transform, other.transform)
        same = [a.eq(b, static=static) for a, b in pairs]
        return all(same) if static else jnp.array(same).all()

    def __repr__(self) -> str:
        return f"Preimage({self.base}, {type(self.transform).__name__})"


biject_to.register(Box, BoxTransform)  # pyright: ignore[reportArgumentType]


@biject_to.register(Preimage)
def _biject_to_preimage(constraint: Preimage) -> Transform:
    return ComposeTransform([biject_to(constraint.base), constraint.transform.inv])


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
    while hasattr(support, "base_constraint"):
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
    """The bounds of each coordinate, if a constraint is made of nothing else."""
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
    """Bounds as the simplest constraint that they make; `None` if nothing lies between."""
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
    """Where all of some constraints hold; `None` if that is nowhere, or unknown."""
    bounded = [support for support in supports if not is_real(support)]
    if not bounded:
        return constraints.real
    return _combined(bounded, np.maximum, np.minimum)


def hull(supports: Sequence[Any]) -> Constraint | None:
    """A constraint that holds wherever one of some does; `None` if it is unknown."""
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
    # Where a map ends is known up to rounding.
    sizes = [np.abs(np.where(np.isfinite(x), x, 0)) for x in (low, high)]
    slack = _ROUNDING * np.maximum(*sizes)
    return bool(np.all(low >= outer_low - slack) & np.all(high <= outer_high + slack))


_ROUNDING = 1e-5


def preimage(support: Any, transform: Transform) -> Constraint | None:
    """Where a one-to-one transform leads into `support`, which lies in what it maps onto."""
    if is_real(support):
        return domain_of(transform)
    bounds = box_of(support)
    if isinstance(transform, PermuteTransform) and bounds is not None:
        bounds = [jnp.broadcast_to(bound, transform.permutation.shape) for bound in bounds]
    elif bounds is None or not _is_elementwise(transform):
        return Preimage(support, transform)
    with jax.ensure_compile_time_eval():
        ends = [jnp.asarray(transform.inv(jnp.asarray(bound, float))) for bound in bounds]
        low, high = jnp.minimum(*ends), jnp.maximum(*ends)
    return box(low, high)


def domain_of(transform: Transform) -> Any:
    """Where a transform is defined, all of its parts included."""
    return codomain_of(transform.inv)


def codomain_of(transform: Transform) -> Any:
    """What a transform maps onto, all of its parts included."""
    if isinstance(transform, IndependentTransform):
        base = codomain_of(transform.base_transform)
        return constraints.independent(base, transform.reinterpreted_batch_ndims)
    first, *others = _parts(transform)
    support = first.codomain
    for part in others:
        support = image(support, part)
    return support


def _parts(transform: Any) -> list[Transform]:
    if isinstance(transform, ComposeTransform):
        return list(transform.parts)
    if isinstance(transform, _InverseTransform) and isinstance(transform.inv, ComposeTransform):
        return [part.inv for part in reversed(transform.inv.parts)]
    return [transform]


def image(support: Any, transform: Transform) -> Constraint | None:
    """Where a transform takes the points of `support`."""
    if not is_within(transform.domain, support) and is_within(support, transform.domain):
        return preimage(support, transform.inv)
    return transform.codomain


def restricted(support: Any, index: Array, shape: Shape) -> Constraint | None:
    """What a constraint on points of a shape says of the coordinates at a flat index.

    `None` if it ties coordinates to each other.
    """
    bounds = box_of(support)
    if bounds is None:
        return None
    base = elementwise(support)
    if all(jnp.ndim(bound) == 0 for bound in bounds):
        return base
    with jax.ensure_compile_time_eval():
        low, high = (jnp.broadcast_to(bound, shape).ravel()[index] for bound in bounds)
    return box(low, high)


def is_injective(transform: Any) -> bool:
    """Whether a transform is one-to-one."""
    if isinstance(transform, IndependentTransform):
        return is_injective(transform.base_transform)
    return not any(isinstance(part, AbsTransform) for part in _parts(transform))


def keeps_volume(transform: Any) -> bool:
    """Whether a transform only moves coordinates to other places."""
    return isinstance(transform, PermuteTransform | IdentityTransform)


def _is_elementwise(transform: Any) -> bool:
    while isinstance(transform, IndependentTransform):
        transform = transform.base_transform
    # One-to-one on the line is monotone.
    return transform.domain.event_dim == transform.codomain.event_dim == 0


def support_of(distribution: dist.Distribution) -> Any:
    """The support of a NumPyro distribution, also of a transformed one.

    NumPyro's own for the latter is what the transform maps onto, whatever its base is.
    """
    if isinstance(distribution, dist.Independent):
        base = support_of(distribution.base_dist)
        return constraints.independent(base, distribution.reinterpreted_batch_ndims)
    if isinstance(distribution, dist.ExpandedDistribution | dist.MaskedDistribution):
        return support_of(distribution.base_dist)
    own = getattr(type(distribution), "support", None)
    is_generic = isinstance(distribution, dist.TransformedDistribution)
    if not is_generic or own is not dist.TransformedDistribution.support:
        return distribution.support
    support = support_of(distribution.base_dist)
    for transform in distribution.transforms:
        support = image(support, transform)
    return support
