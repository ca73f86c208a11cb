"""`factor`: an energy that couples sites of a NumPyro model."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from numpyro import primitives
from numpyro.distributions import Unit

from ._checks import as_floats
from ._normalization import Normalization, any_point, guard, normalizations
from ._types import Array, Shape
from .energies import AbstractEnergy, as_energy


class EnergyFactor(Unit):
    """The site behind [`factor`][numpyro_ebm.factor]."""

    pytree_data_fields = ("needed",)

    def __init__(self, log_factor: Array, needed: list[Normalization]) -> None:
        self.needed = needed
        super().__init__(log_factor)

    def normalizations(self) -> list[Normalization]:
        return self.needed


def factor(name: str, energy: Any, *values: Array, constant_z: bool = False) -> None:
    r"""Multiply the density of a NumPyro model by $e^{-E(x, y, \dots)}$ of its sites.

    ```python
    def model():
        with numpyro.plate("pair", 10):
            x = numpyro.sample("x", dist.Normal(0, 1))
            y = numpyro.sample("y", dist.Normal(0, 1))
            ebm.factor("repel", lambda x, y: 1 / (x - y) ** 2, x, y)
    ```

    Like `numpyro.factor`, with the shape of the enclosing plates, their scale and their mask;
    under `mask=False` (in `Predictive`, say) the energy is not evaluated. The factor is
    $-E$, less $\log Z$ for an energy of one value that knows its `log_z`: so an energy of spins
    becomes the likelihood of observed ones. Coupling sites by an energy is a model like any
    other, while *parameters* of the energy that are inferred need its normaliser: the guard of
    [`EnergyDistribution`][numpyro_ebm.EnergyDistribution] stands here, too.

    **Arguments**

    - `name`: of the site.
    - `energy`: a callable of one point of each value, to a scalar; for one value, what
      [`as_energy`][numpyro_ebm.as_energy] takes.
    - `values`: of the sites. Their leading axes are those of the enclosing plates, the rest is
      one point. An energy of one value that knows its `event_shape` takes its last axes.
    - `constant_z`: opt out of the guard.
    """
    if not values:
        raise ValueError(
            "`factor` needs the values that `energy` takes: `factor(name, energy, x)`."
        )
    energy = as_energy(energy) if len(values) == 1 else energy
    if not callable(energy):
        raise TypeError(f"`energy` must be a callable of {len(values)} points, got {energy!r}.")
    arrays = list(map(as_floats, values))
    plates = _plate_shape()
    known = getattr(energy, "event_shape", None) if len(values) == 1 else None
    shapes = [_split_shape(i, x.shape, plates, known) for i, x in enumerate(arrays)]
    batch = jnp.broadcast_shapes(plates, *(lead for lead, _ in shapes))
    needed, log_factor = [], jnp.zeros(batch)
    if numpyro.get_mask() is not False:
        points = [any_point(event) for _, event in shapes]
        _check_scalar(energy, points)
        needed = [] if constant_z else normalizations(energy, *points)
        known = energy.log_z if isinstance(energy, AbstractEnergy) else None
        known = jnp.zeros(()) if known is None else known
        log_z = guard(known, needed, f"factor `{name}`")
        evaluate: Callable[..., Any] = energy
        for _ in batch:
            evaluate = jax.vmap(evaluate)
        pairs = zip(arrays, shapes, strict=True)
        log_factor = -evaluate(*(jnp.broadcast_to(x, batch + e) for x, (_, e) in pairs)) - log_z
    site = EnergyFactor(log_factor, needed)
    numpyro.sample(name, site, obs=site.sample(None), infer={"is_auxiliary": True})


def _check_scalar(energy: Callable[..., Any], points: list[Array]) -> None:
    # A new function each time: JAX would look an energy up by comparing its arrays.
    value = jax.eval_shape(lambda *x: energy(*x), *points)  # noqa: PLW0108
    if jnp.shape(value) != ():
        raise ValueError(
            f"The energy of one point must be a scalar, got shape {value.shape} for points of "
            f"shape {', '.join(str(x.shape) for x in points)}. What is left of the shape of a "
            "value without the axes of the plates around is one point."
        )


def _plate_shape() -> Shape:
    """The shape of the plates around."""
    stack = primitives._PYRO_STACK
    sizes = {each.dim: each.subsample_size for each in stack if isinstance(each, numpyro.plate)}
    return tuple(sizes.get(dim, 1) for dim in range(min(sizes, default=0), 0))


def _split_shape(
    i: int, shape: Shape, plates: Shape, known: Shape | None
) -> tuple[Shape, Shape]:
    """The leading axes of a value, and the shape of one point."""
    event_dim = len(shape) - len(plates) if known is None else len(known)
    split = len(shape) - max(event_dim, 0)
    if known not in (None, shape[max(split, 0) :]):
        raise ValueError(
            f"`values[{i}]` must end with the event shape {known}, got shape {shape}."
        )
    try:
        jnp.broadcast_shapes(shape[:split], plates)
    except ValueError as error:
        raise ValueError(
            f"`values[{i}]` has shape {shape}, but must begin with {plates}, the shape of the "
            "plates around. Where a plate shares the value, it needs an axis of length one: "
            "`x[None]`."
        ) from error
    return shape[:split], shape[split:]
