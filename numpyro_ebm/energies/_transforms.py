"""How NumPyro's transforms act on the points of a support."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints
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
from ._constraints import Preimage
from ._supports import box, box_of, elementwise, is_real, is_within


def preimage(support: Any, transform: Transform) -> Constraint | None:
    """Where a one-to-one transform maps into `support`, which lies in its codomain."""
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
    """Where a transform is defined, including all its parts."""
    return codomain_of(transform.inv)


def codomain_of(transform: Transform) -> Any:
    """What a transform maps onto, including all its parts."""
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
    """Where a transform maps the points of `support`."""
    if not is_within(transform.domain, support) and is_within(support, transform.domain):
        return preimage(support, transform.inv)
    return transform.codomain


def restricted(support: Any, index: Array, shape: Shape) -> Constraint | None:
    """The constraint that `support` puts on the coordinates at a flat index of a point.

    `None` if it ties coordinates to each other.
    """
    base, bounds = elementwise(support), box_of(support)
    if bounds is None:
        return base if _is_discrete_elementwise(base) else None
    if all(jnp.ndim(bound) == 0 for bound in bounds):
        return base
    with jax.ensure_compile_time_eval():
        low, high = (jnp.broadcast_to(bound, shape).ravel()[index] for bound in bounds)
    return box(low, high)


def _is_discrete_elementwise(base: Any) -> bool:
    """Whether it allows each coordinate the same integers."""
    leaves = jax.tree.leaves(base)
    is_alone = base is not None and base.is_discrete and base.event_dim == 0
    return is_alone and all(jnp.ndim(bound) == 0 for bound in leaves)


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
    # One-to-one on the line means monotone.
    return transform.domain.event_dim == transform.codomain.event_dim == 0


def support_of(distribution: dist.Distribution) -> Any:
    """The support of a NumPyro distribution, transformed ones included.

    For those, NumPyro's own is what the transform maps onto, whatever the base is.
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
