"""The geometric path from a reference to a target, and what states cache along it."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from .._types import Array, Point, Scalar, Shape
from ..energies import AbstractEnergy

#: By name, what the state of a move caches of an energy: its log-density, and the gradient.
Caches: TypeAlias = dict[str, Any]


class GeometricPath(AbstractEnergy):
    r"""$(1-\beta)\,E_0(x) + \beta\,E(x)$, between a reference and the target."""

    reference: AbstractEnergy
    energy: AbstractEnergy
    beta: Scalar

    @property
    def event_shape(self) -> Shape | None:
        return self.reference.event_shape

    def __call__(self, x: Point) -> Scalar:
        return (1 - self.beta) * self.reference(x) + self.beta * self.energy(x)


def caches_of(energy: AbstractEnergy, states: Any) -> Caches:
    """What the stacked `states` of a move would cache of `energy`."""
    if "logdensity_grad" not in states._fields:
        return {"logdensity": -jax.vmap(energy)(states.position)}
    values, slopes = jax.vmap(jax.value_and_grad(energy))(states.position)
    return {"logdensity": -values, "logdensity_grad": jax.tree.map(jnp.negative, slopes)}


def heated(state: Any, reference: Caches, beta: Scalar) -> Any:
    r"""A state that caches the target as one on the path, $-(1-\beta)E_0 - \beta E$."""
    return _with_caches(state, reference, lambda e, e0: beta * e + (1 - beta) * e0)


def cooled(state: Any, reference: Caches, beta: Scalar) -> Any:
    """The inverse of `heated`."""
    return _with_caches(state, reference, lambda e, e0: (e - (1 - beta) * e0) / beta)


def _with_caches(
    state: Any, reference: Caches, combine: Callable[[Array, Array], Array]
) -> Any:
    caches = {
        name: jax.tree.map(combine, getattr(state, name), of_reference)
        for name, of_reference in reference.items()
    }
    return state._replace(**caches)
