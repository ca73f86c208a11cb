"""Derivatives of an energy at one point."""

from typing import Any

import jax
import jax.numpy as jnp

from ._types import Array, Float
from .energies import as_energy, check_energy


def score(energy: Any, x: Float[Array, "*event"]) -> Float[Array, "*event"]:
    r"""$s(x) = -\nabla E(x)$, the gradient of the log-density, at one point.

    ```python
    scores = jax.vmap(lambda x: ebm.score(energy, x))(batch)
    ```

    **Raises** `ValueError` if `x` isn't one point of this energy, or the energy no scalar.
    """
    energy, x = as_energy(energy), jnp.asarray(x, jnp.result_type(float))
    check_energy(energy, x.shape)
    return -jax.grad(energy)(x)
