"""Type aliases used in all signatures."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool, Float, Int, PRNGKeyArray, PyTree
from numpy.typing import ArrayLike

from ._trainable import Frozen

if TYPE_CHECKING:
    from jax import Array as Array
else:
    # For checks at run time: NumPy arrays are accepted, too.
    Array = jax.Array | np.ndarray

Scalar: TypeAlias = Float[Array, ""]
Shape: TypeAlias = tuple[int, ...]

#: One point of the space an energy lives on: an array, or a pytree of arrays such as the
#: unconstrained sites of a NumPyro model.
Point: TypeAlias = Any

#: A callable that maps one point to a scalar; low energy means likely.
Energy: TypeAlias = Callable[[Point], Scalar]

#: What `as_energy` takes: an energy, a NumPyro or FlowJAX distribution or a callable on one
#: point, any of them possibly frozen. FlowJAX's are modules, not callables.
EnergyLike: TypeAlias = Callable[..., Any] | Frozen | eqx.Module

#: Independent draws: `sampler(rng_key, sample_shape=())`.
Sampler: TypeAlias = Callable[..., Array]

#: A typed key (`jax.random.key`) or a legacy one (`jax.random.PRNGKey`).
Key: TypeAlias = PRNGKeyArray | Array

#: What `dense_mass` takes: whether a metric is dense, or the sites of each of its dense blocks.
DenseMass: TypeAlias = bool | Sequence[Sequence[str]]

#: What `inverse_mass_matrix` takes: one array over the flattened position, or one per block of
#: sites, whose names are a tuple.
Metric: TypeAlias = ArrayLike | dict[Any, ArrayLike]

__all__ = [
    "Array",
    "ArrayLike",
    "Bool",
    "DenseMass",
    "Energy",
    "EnergyLike",
    "Float",
    "Int",
    "Key",
    "Metric",
    "Point",
    "PyTree",
    "Sampler",
    "Scalar",
    "Shape",
]
