"""Checks of the energy, the shapes and the support of a site."""

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from numpyro.distributions import constraints

from .._guard import any_point, list_names, unnormalized
from .._types import Shape
from ..energies import AbstractEnergy, LogZ, Normalized, box_of, discrete_support, is_discrete
from ._enumeration import (
    Enumerated,
    enumerated_constants,
    enumerated_names,
    enumerated_shapes,
    plate_shape,
)


def check_enumerated(
    energy: AbstractEnergy, shape: Shape, support: Any, axes: list[Enumerated]
) -> None:
    """Raise unless the arrays of one energy are the same for all values of enumerated sites."""
    shapes, rest = eqx.partition(energy, lambda x: isinstance(x, jax.ShapeDtypeStruct))
    plates = plate_shape()
    found = enumerated_shapes((rest, support), plates, axes)
    found += enumerated_constants(
        lambda s, x: eqx.combine(s, rest)(x), (shapes, any_point(shape)), plates, axes
    )
    if found:
        raise ValueError(
            f"The energy has an array of shape {found[0]}, whose leading axes may be those of "
            f"an enumerated site ({list_names({axis.name for axis in axes})}). If it depends "
            "on one, make an energy per value: `make = eqx.filter_vmap(make)` for each axis of "
            "`z`, then `EnergyDistribution(make(loc[z]), batch_shape=jnp.shape(z))`; or give "
            "the site a NumPyro prior, and add `ebm.factor(name, lambda x, loc: ..., x, "
            "loc[z])`. If it does not, say so: `batch_shape=()`."
        )


def event_shape_of(energy: AbstractEnergy, event_shape: Shape | None) -> Shape:
    shape = energy.event_shape if event_shape is None else tuple(event_shape)
    if shape is None:
        raise ValueError(
            "`event_shape`, the shape of one point, is needed because this energy doesn't know "
            "it: `EnergyDistribution(energy, (2,))`."
        )
    return shape


def support_of_site(energy: AbstractEnergy, support: Any, event_shape: Shape) -> Any:
    """The constraint on one whole point, as stated or as the energy knows it."""
    if is_discrete(energy):
        return as_constraint(_discrete(energy, support), event_shape)
    constraint = as_constraint(energy.support if support is None else support, event_shape)
    if constraint.is_discrete:
        raise ValueError(
            f"`support` {constraint} is discrete, but {energy!r} does not say which values its "
            "coordinates take. Add a distribution on them: `energy + dist.Bernoulli(0.5)`, "
            "expanded `.to_event()`; or give an energy class its `levels`."
        )
    return constraint


def _discrete(energy: AbstractEnergy, support: Any) -> Any:
    if support is not None:
        raise ValueError(
            f"{energy!r} is discrete and knows the values of its coordinates; leave out "
            f"`support`, got {support}."
        )
    found = discrete_support(energy)
    if found is None:
        raise ValueError(
            f"The coordinates of {energy!r} are discrete, but its experts do not agree on "
            "their values. Spins are -1 and 1, units of an RBM 0 and 1."
        )
    return found


def as_constraint(support: Any, event_shape: Shape) -> Any:
    """`support` as a constraint on one whole point."""
    if support is None:
        raise ValueError(
            "The experts in this energy live on different supports; say on which it does, "
            "`support=...`."
        )
    if not isinstance(support, constraints.Constraint):
        support = list(support)
        if not event_shape or len(support) != event_shape[-1]:
            raise ValueError(
                f"`support` lists {len(support)} constraints, one per coordinate, but one "
                f"point has shape {event_shape}."
            )
        support = constraints.cat(support, dim=-1)
    if support.event_dim > len(event_shape):
        raise ValueError(f"`support` {support} does not fit points of shape {event_shape}.")
    return constraints.independent(support, len(event_shape) - support.event_dim)


def check_on_support(energy: AbstractEnergy, support: Any, is_own: bool) -> None:
    """Raise if the log Z of the energy is known to belong to another support."""
    if is_own or not isinstance(energy, Normalized) or _is_within(energy.partition, support):
        return
    raise ValueError(
        f"log Z of {energy!r} is for its own support, {energy.support}, and would be wrong on "
        f"that of the site, {support}. Give the energy its support before its log Z is found: "
        "by a property `support` of its class, or by `ebm.Tilted(energy, reference)`; or "
        "integrate by an `ebm.Quadrature` that lies on the support."
    )


def _is_within(log_z: LogZ, support: Any) -> bool:
    """Whether a log Z is for a support that the user chose: of a number, and of a box."""
    if log_z.box is None:
        return log_z.method == "given"
    bounds = box_of(support)
    if bounds is None or any(isinstance(end, Tracer) for end in bounds):
        return True  # Not known.
    low, high = map(np.asarray, log_z.box)
    return bool(np.all(low >= np.ravel(bounds[0])) and np.all(high <= np.ravel(bounds[1])))


def check_weights(site: Any, axes: list[Enumerated]) -> None:
    """Raise if the values of an enumerated site cannot be weighed."""
    # The guard sees no gradient here: the values of a discrete site are summed over.
    names = enumerated_names(site.batch_shape, axes)
    if names:
        needed = eqx.filter_eval_shape(site.dependences)
        if any(each.log_z is None for each in needed):
            raise unnormalized(f"an energy per value of {list_names(names)}")
