"""How much likelier one point is than another, or under one energy than another."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .._types import Array, ArrayLike, EnergyLike, Float
from ..energies import AbstractEnergy, energy_named
from ._images import as_points, energies_of, energy_of


def log_ratio(energy: EnergyLike, x: ArrayLike, y: ArrayLike) -> Float[Array, " n"]:
    r"""$\log p(x) - \log p(y) = E(y) - E(x)$ of pairs of points, without $\log Z$.

    ```python
    ebm.tasks.log_ratio(energy, images, restored.mean)
    ```

    Exact. Of a difference of energies it compares two models at two points, also without a
    constant: `log_ratio(energy - background, x, y)` is
    $\log\frac{p(x)}{q(x)} - \log\frac{p(y)}{q(y)}$.

    **Arguments**

    - `energy`: anything [`as_energy`][numpyro_ebm.as_energy] takes.
    - `x`, `y`: points along the first axis, as many of each, or one `y` for all.

    **Raises** `ValueError` if a point is not finite or lies outside of the support, or the
    energy is NaN there.
    """
    energy = energy_of(energy, x)
    x, y = as_points(energy, x), as_points(energy, y, "y")
    if y.shape not in (x.shape, (1, *x.shape[1:])):
        raise ValueError(
            f"`y` must hold as many points as `x`, {len(x)}, or one, got shape {y.shape}."
        )
    ratio = finite_energies(energy, y, "y") - finite_energies(energy, x, "x")
    return _known(ratio, "both points of pair")


def log_density_ratio(
    energy: EnergyLike, other: EnergyLike, x: ArrayLike
) -> Float[Array, " n"]:
    r"""$\log p(x) - \log q(x)$ of two energies at the same points.

    ```python
    ebm.tasks.log_density_ratio(density, background, images)
    ```

    Exact if both $\log Z$ are.

    **Arguments**

    - `energy`, `other`: anything [`as_energy`][numpyro_ebm.as_energy] takes, with a `log_z`.
    - `x`: points along the first axis.

    **Raises** `ValueError` if one of the energies does not know its $\log Z$: the ratio is
    unknown without it.
    """
    energy, other = energy_of(energy, x), energy_named("other", other)
    energy_of(other, x)
    for name, part in {"energy": energy, "other": other}.items():
        if part.log_z is None:
            raise ValueError(
                f"`{name}`, {part!r}, does not know its log Z, so the ratio is unknown up to a "
                "factor: `ebm.normalize` finds it. To compare points, "
                "`log_ratio(energy - other, x, y)` needs none."
            )
    points = as_points(energy, x)
    of_other = finite_energies(other, points, "x") + other.log_z
    ratio = of_other - finite_energies(energy, points, "x") - energy.log_z
    return _known(ratio, "both energies at point")


def _known(ratio: Array, what: str) -> Array:
    bad = np.flatnonzero(np.isnan(ratio))
    if len(bad):
        raise ValueError(f"The density is zero for {what} {bad[0]}: they have no ratio.")
    return ratio


def finite_energies(energy: AbstractEnergy, points: Array, name: str) -> Float[Array, " n"]:
    """The energies of points, none of them NaN."""
    energies = _energies(energy, points)
    bad = np.flatnonzero(np.isnan(energies))
    if len(bad):
        raise ValueError(
            f"The energy is NaN at {len(bad)} of {len(points)} points of `{name}`, the first "
            f"at index {bad[0]}."
        )
    return jnp.asarray(energies)


_energies = eqx.filter_jit(energies_of)
