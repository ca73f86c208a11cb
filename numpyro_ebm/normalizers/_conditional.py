r"""Normalising a conditional energy: $\log Z(x)$ at each condition, by an exact method."""

import math
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._checks import as_data, as_floats, user_level
from .._types import Array, Key, Point, PyTree, Scalar
from ..energies import (
    AbstractConditional,
    ConditionalEnergy,
    NormalizedConditional,
    as_energy,
    check_energy,
)
from ._base import AbstractExactMethod, AbstractNormalizer
from ._enumeration import Enumeration
from ._quadrature import Quadrature
from ._search import descend_from, starts_around


def normalize_conditional(
    rng_key: Key,
    energy: AbstractConditional,
    method: AbstractNormalizer | None,
    conditions: PyTree | None,
) -> NormalizedConditional:
    """`energy` with an exact method, judged at some of the `conditions`."""
    conditional, examples = as_plain(energy), _some(conditions)
    if not isinstance(conditional, ConditionalEnergy):
        raise TypeError(f"{conditional!r} is normalised at each condition: use it as it is.")
    if method is None and conditional.levels is not None:
        method = Enumeration()
    elif method is None:
        method = quadrature_at(conditional, examples)
    if not isinstance(method, AbstractExactMethod):
        raise TypeError(
            "`method` must be exact for a conditional energy, which has a log Z for each "
            f"condition: such as `ebm.Quadrature(low, high)`, got {type(method).__name__}."
        )
    check_energy(conditional.given(first_of(examples)), shape_of(conditional))
    found = jax.vmap(lambda x: method.estimate(rng_key, conditional.given(x)))(examples)
    counts = {check: int(np.sum(failed)) for check, failed in found.checks.items()}
    problems = [f"at {count} of them {check}" for check, count in counts.items() if count]
    if problems:
        message = f"`normalize` at {len(found.estimate)} conditions: {'; '.join(problems)}."
        warnings.warn(message, stacklevel=user_level())
    return NormalizedConditional(conditional, method, jnp.max(found.std_error))


def as_plain(energy: Any) -> AbstractConditional:
    """`energy` without its constants."""
    return energy.conditional if isinstance(energy, NormalizedConditional) else energy


def shape_of(conditional: AbstractConditional) -> tuple[int, ...]:
    shape = conditional.event_shape
    if shape is None:
        raise ValueError(
            "`event_shape` is needed: `ebm.ConditionalEnergy(fn, event_shape)`, because "
            f"{conditional!r} does not know the shape of one `y`."
        )
    return shape


def as_conditions(conditions: Any) -> PyTree:
    """`conditions` as floats, which must be an array or a pytree of arrays with equal rows."""
    arrays = jax.tree.map(lambda x: as_data(x, "conditions"), conditions)
    sizes = sorted({len(x) for x in jax.tree.leaves(arrays)})
    if len(sizes) != 1:
        raise ValueError(
            "`conditions` must be an array of conditions along its first axis, or a pytree of "
            f"such arrays with the same number of rows, got {sizes} rows."
        )
    return arrays


def first_of(conditions: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x[0], conditions)


def quadrature_at(conditional: AbstractConditional, conditions: PyTree) -> Quadrature:
    """A box that holds the densities at all of some conditions."""
    shape = shape_of(conditional)
    if not 1 <= math.prod(shape) <= 3:
        raise ValueError(
            "`method` is needed: quadrature is for up to three dimensions of `y`, "
            f"{conditional!r} has {math.prod(shape)}."
        )
    check_energy(conditional.given(first_of(conditions)), shape)
    examples = _some(conditions)
    starts = as_floats(starts_around(np.full(shape, -8.0), np.full(shape, 8.0)))
    lows = _lowest(conditional, examples, starts)

    def envelope(y: Point) -> Scalar:
        heights = jax.vmap(lambda x: conditional.given(x)(y))(examples)
        return jnp.min(heights - lows)

    return Quadrature.around(as_energy(envelope, shape))


def _some(conditions: Any) -> PyTree:
    """A few of the conditions, from the lowest to the highest in their first number."""
    if conditions is None:
        raise ValueError(
            "`conditions` is needed for a conditional energy: conditions of data, along the "
            "first axis, at some of which the constant is checked."
        )
    arrays = as_conditions(conditions)
    first = np.asarray(jax.tree.leaves(arrays)[0])
    order = np.argsort(first.reshape(len(first), -1)[:, 0])
    places = np.linspace(0, len(first) - 1, min(len(first), _EXAMPLES)).round().astype(int)
    return jax.tree.map(lambda x: x[order[places]], arrays)


#: The most conditions at which a method is judged, and a box searched for.
_EXAMPLES = 32


@eqx.filter_jit
def _lowest(conditional: AbstractConditional, conditions: PyTree, starts: Array) -> Array:
    """The lowest energy that descents find at each condition."""
    lows = jax.vmap(lambda x: descend_from(conditional.given(x), starts).energies.min())
    return lows(conditions)
