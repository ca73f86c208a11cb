"""The bijection of a flow as a transform of NumPyro's."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform

from .._types import Array
from ._flow import FlowMap


class FlowTransform(Transform):
    r"""$T(z)$ of points stacked along any leading axes."""

    def __init__(self, map: FlowMap) -> None:
        self.map = map

    @property
    def domain(self) -> Any:
        ndim = len(self.map.shape)
        return constraints.independent(constraints.real, ndim) if ndim else constraints.real

    codomain = domain

    def __call__(self, x: Array) -> Array:
        return self.call_with_intermediates(x)[0]

    def call_with_intermediates(self, x: Array) -> tuple[Array, Any]:
        return self._batched(self.map.push, x)

    def _inverse(self, y: Array) -> Array:
        return self._batched(self.map.pull, y)[0]

    def log_abs_det_jacobian(self, x: Array, y: Array, intermediates: Any = None) -> Array:
        # Computed on the way from `x` to `y`.
        return self.call_with_intermediates(x)[1] if intermediates is None else intermediates

    def tree_flatten(self) -> tuple:
        return (self.map,), (("map",), {})

    def eq(self, other: object, static: bool = False) -> Any:
        return isinstance(other, FlowTransform) and eqx.tree_equal(self.map, other.map)

    def _batched(self, fn: Callable[[Array], tuple], x: Array) -> tuple[Array, Array]:
        for _ in range(x.ndim - len(self.map.shape)):
            fn = jax.vmap(fn)
        return fn(x)
