"""Type aliases used in all signatures."""

from collections.abc import Callable
from typing import Any, TypeAlias

from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

Scalar: TypeAlias = Float[Array, ""]
Shape: TypeAlias = tuple[int, ...]

#: One point of the space an energy lives on: an array, or a pytree of arrays such as the
#: unconstrained sites of a NumPyro model.
Point: TypeAlias = Any

#: A callable that maps one point to a scalar; low energy means likely.
Energy: TypeAlias = Callable[[Point], Scalar]

#: Independent draws: `sampler(rng_key, sample_shape=())`.
Sampler: TypeAlias = Callable[..., Array]

#: A typed key (`jax.random.key`) or a legacy one (`jax.random.PRNGKey`).
Key: TypeAlias = PRNGKeyArray | Array

__all__ = [
    "Array",
    "Bool",
    "Energy",
    "Float",
    "Int",
    "Key",
    "Point",
    "PyTree",
    "Sampler",
    "Scalar",
    "Shape",
]
