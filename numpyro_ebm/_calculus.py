"""Derivatives of an energy at one point."""

import jax
import jax.numpy as jnp

from ._checks import as_numbers
from ._types import Array, EnergyLike, Float, Scalar
from .energies import as_energy, check_energy


def score(energy: EnergyLike, x: Float[Array, "*event"]) -> Float[Array, "*event"]:
    r"""$s(x) = -\nabla E(x)$, the gradient of the log-density, at one point.

    ```python
    scores = jax.vmap(lambda x: ebm.score(energy, x))(batch)
    ```

    **Raises** `ValueError` if `x` isn't one point of this energy, or the energy isn't a scalar.
    """
    energy, x = as_energy(energy), as_numbers("x", x)
    if energy.event_shape not in (None, x.shape):
        raise ValueError(
            f"`x` must be one point of shape {energy.event_shape}, got shape {x.shape}. What "
            "looks like a batch is for `jax.vmap`: an energy takes one point."
        )
    check_energy(energy, x.shape)
    return -jax.grad(energy)(x)


def score_and_laplacian(
    energy: EnergyLike, x: Float[Array, "*event"]
) -> tuple[Float[Array, "*event"], Scalar]:
    r"""$-\nabla E(x)$ and $\Delta E(x)$: forward over reverse, one coordinate at a time."""
    value, slope_along = jax.linearize(lambda y: score(energy, y), x)
    units = jnp.eye(x.size, dtype=x.dtype).reshape(x.size, *x.shape)

    if x.size <= _UNROLLED:
        diagonal = [-jnp.ravel(slope_along(v))[i] for i, v in enumerate(units)]
        return value, sum(diagonal, jnp.zeros((), x.dtype))
    # Mapped all at once, the unit vectors would build a whole Hessian.
    total, _ = jax.lax.scan(
        lambda total, v: (total - jnp.sum(v * slope_along(v)), None),
        jnp.zeros((), x.dtype),
        units,
    )
    return value, total


#: Up to this number of coordinates, the loop over them is unrolled.
_UNROLLED = 8
