"""Constraints that NumPyro lacks, and the transforms onto them."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.constraints import Constraint
from numpyro.distributions.transforms import ComposeTransform, Transform

from .._types import Array


class Box(Constraint):
    """Bounds on each coordinate, which may be infinite."""

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
    """From free coordinates: by a sigmoid, an exponential, or the identity."""

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
        """Bounds, with zero and one for infinite ones, and which of them are finite."""
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


class Levels(Constraint):
    """One of a few values at each coordinate."""

    is_discrete = True  # pyright: ignore[reportAssignmentType]

    def __init__(self, values: tuple[float, ...]) -> None:
        self.values = values

    def __call__(self, x: Any) -> Any:
        return jnp.isin(x, jnp.asarray(self.values))

    def feasible_like(self, prototype: Any) -> Array:
        return jnp.full(jnp.shape(prototype), self.values[0])

    def tree_flatten(self) -> tuple:
        return (), ((), {"values": self.values})

    def eq(self, other: object, static: bool = False) -> Any:
        same = isinstance(other, Levels) and self.values == other.values
        return same if static else jnp.asarray(same)

    def __repr__(self) -> str:
        return f"Levels{self.values}"


class Preimage(Constraint):
    """The points that a one-to-one transform maps into a constraint."""

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
