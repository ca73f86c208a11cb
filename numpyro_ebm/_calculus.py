"""Derivatives of an energy at one point."""

from typing import Any

import jax
import jax.numpy as jnp

from ._types import Array, Float
from .energies import as_energy


def score(energy: Any, x: Float[Array, "*event"]) -> Float[Array, "*event"]:
    r"""$s(x) = -\nabla E(x)$, the gradient of the log-density, at one point.

    ```python
    scores = jax.vmap(lambda x: ebm.score(energy, x))(batch)
    ```
    """
    gradient = jax.grad(as_energy(energy))(jnp.asarray(x, jnp.result_type(float)))
    return jax.tree.map(jnp.negative, gradient)
