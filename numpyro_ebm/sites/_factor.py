"""`factor`: an energy that couples sites of a NumPyro model."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from numpyro.distributions import Unit

from .._checks import as_floats
from .._guard import Dependence, any_point, dependences, guard, list_names
from .._types import Array, ArrayLike, EnergyLike, Shape
from ..energies import AbstractEnergy, as_energy, lacks_level
from ._enumeration import (
    Enumerated,
    enumerated_axes,
    enumerated_constants,
    enumerated_splits,
    plate_shape,
    traced_sites,
)


class EnergyFactor(Unit):
    """The site behind [`factor`][numpyro_ebm.factor].

    `energy` and `points` are those of a factor of one value, as the model made them; JAX's
    transformations, such as `scan`, drop them.
    """

    pytree_data_fields = ("needed",)
    pytree_aux_fields = ("is_relative",)
    energy: AbstractEnergy | None = None
    points: Array | None = None

    def __init__(
        self, log_factor: Array, needed: list[Dependence], is_relative: bool = False
    ) -> None:
        self.needed = needed
        self.is_relative = is_relative
        super().__init__(log_factor)

    def dependences(self) -> list[Dependence]:
        return self.needed


def factor(
    name: str,
    energy: EnergyLike,
    *values: ArrayLike,
    event_dim: int | Sequence[int] | None = None,
    constant_z: bool = False,
) -> None:
    r"""Multiply the density of a NumPyro model by $e^{-E(x, y, \dots)}$ of its sites.

    ```python
    def model():
        with numpyro.plate("pair", 10):
            x = numpyro.sample("x", dist.Normal(0, 1))
            y = numpyro.sample("y", dist.Normal(0, 1))
            ebm.factor("repel", lambda x, y: 1 / (x - y) ** 2, x, y)
    ```

    Like `numpyro.factor`, with the shape of the enclosing plates, their scale and their mask;
    under `mask=False` (in `Predictive`, say) the energy is not evaluated. The factor is $-E$,
    minus $\log Z$ for an energy of one value that knows its `log_z`: an energy of spins thus
    becomes the likelihood of observed spins. Sites may be coupled by any energy, but inferring
    *parameters* of the energy requires its normaliser: the guard of
    [`EnergyDistribution`][numpyro_ebm.EnergyDistribution] applies here, too.

    If NumPyro enumerates discrete sites, a value that depends on one has further axes to the
    left of the plates, and so does the factor. Pass such values as `values`; if `energy` closes
    over them, they are refused.

    **Arguments**

    - `name`: of the site.
    - `energy`: a callable from one point of each value to a scalar; for one value, what
      [`as_energy`][numpyro_ebm.as_energy] takes.
    - `values`: of the sites. Their leading axes are those of the enclosing plates, the rest is
      one point. An energy of one value that knows its `event_shape` takes its last axes.
    - `event_dim`: the number of axes of one point, for all values or one number per value. Only
      needed under enumeration, if shapes are ambiguous.
    - `constant_z`: opt out of the guard.

    **Raises** `ValueError` if the shapes of values, plates and energy do not fit, or, under
    enumeration, if they fit in more than one way.
    """
    if not values:
        raise ValueError(
            "`factor` needs the values that `energy` takes: `factor(name, energy, x)`."
        )
    energy = as_energy(energy) if len(values) == 1 else energy
    if not callable(energy):
        raise TypeError(f"`energy` must be a callable of {len(values)} points, got {energy!r}.")
    shapes = _split_shapes(name, energy, values, event_dim)
    batch = jnp.broadcast_shapes(plate_shape(), *(lead for lead, _ in shapes))
    needed, log_factor = [], jnp.zeros(batch)
    if numpyro.get_mask() is not False:
        points = [any_point(event) for _, event in shapes]
        _check_scalar(energy, points)
        _check_constants(name, energy, points)
        needed = [] if constant_z else dependences(energy, *points)
        known = energy.log_z if isinstance(energy, AbstractEnergy) else None
        known = jnp.zeros(()) if known is None else known
        log_z = guard(known, needed, f"factor `{name}`")
        evaluate: Callable[..., Any] = energy
        for _ in batch:
            evaluate = jax.vmap(evaluate)
        pairs = zip(values, shapes, strict=True)
        log_factor = -evaluate(*(_broadcast(x, batch + e) for x, (_, e) in pairs)) - log_z
    is_relative = isinstance(energy, AbstractEnergy) and lacks_level(energy)
    site = EnergyFactor(log_factor, needed, is_relative)
    if isinstance(energy, AbstractEnergy):
        site.energy, site.points = energy, _broadcast(values[0], batch + shapes[0][1])
    numpyro.sample(name, site, obs=site.sample(None), infer={"is_auxiliary": True})


def _broadcast(value: ArrayLike, shape: Shape) -> Array:
    return jnp.broadcast_to(as_floats(value), shape)


def _check_scalar(energy: Callable[..., Any], points: list[Array]) -> None:
    shape = _shape_of(energy, points)
    if shape != ():
        raise ValueError(
            f"The energy of one point must be a scalar, got shape {shape} for points of "
            f"shape {', '.join(str(x.shape) for x in points)}. What is left of the shape of a "
            "value without the axes of the plates around is one point. What depends on an "
            "enumerated site must be one of the `values`."
        )


def _shape_of(energy: Callable[..., Any], points: list[Array]) -> Shape:
    # A new function each time: JAX's cache would compare the energy's arrays.
    return jnp.shape(jax.eval_shape(lambda *x: energy(*x), *points))  # noqa: PLW0108


def _check_constants(name: str, energy: Callable[..., Any], points: list[Array]) -> None:
    axes = enumerated_axes()
    found = enumerated_constants(energy, points, plate_shape(), axes) if axes else []
    if found:
        raise ValueError(
            f"The energy of factor `{name}` has an array of shape {found[0]}, whose leading "
            f"axes may be those of an enumerated site ({list_names({a.name for a in axes})}). "
            "Pass what depends on one as a value, `ebm.factor(name, lambda x, loc: ..., x, "
            "loc[z])`; so pass this array, too, if it does not, and say by `event_dim` how "
            "many axes one point of each has."
        )


def _split_shapes(
    name: str,
    energy: Callable[..., Any],
    values: tuple[Any, ...],
    event_dim: int | Sequence[int] | None,
) -> list[tuple[Shape, Shape]]:
    """The leading axes of each value, and the shape of one point."""
    axes = enumerated_axes()
    known = getattr(energy, "event_shape", None) if len(values) == 1 else None
    dims = _event_dims(values, event_dim, known, axes)
    options = [
        _splits(i, x, e, axes) for i, (x, e) in enumerate(zip(values, dims, strict=True))
    ]
    for i, ((_, event), *_) in enumerate(options):
        if known not in (None, event):
            raise ValueError(
                f"`values[{i}]` must end with the event shape {known}, got shape "
                f"{jnp.shape(values[i])}."
            )
    ways = list(map(list, itertools.product(*options)))
    if len(ways) == 1 or numpyro.get_mask() is False:
        return ways[0]
    fitting = [way for way in ways if _is_scalar(energy, way)]
    if len(fitting) > 1:
        points = " or ".join(str(tuple(event for _, event in way)) for way in fitting)
        raise ValueError(
            f"Points of factor `{name}` may have the shapes {points}, because the leading axes "
            "of values may be those of an enumerated site "
            f"({list_names({axis.name for axis in axes})}). Say by `event_dim` how many axes "
            "one point of each value has: `ebm.factor(..., event_dim=(1, 0))`."
        )
    return (fitting or ways)[0]


def _event_dims(
    values: tuple[Any, ...],
    event_dim: int | Sequence[int] | None,
    known: Shape | None,
    axes: list[Enumerated],
) -> list[int | None]:
    """The number of axes of one point of each value, as far as it is known."""
    if isinstance(event_dim, int):
        return [event_dim] * len(values)
    if event_dim is not None:
        if len(event_dim) != len(values):
            raise ValueError(
                f"`event_dim` needs one number for each of {len(values)} values, got "
                f"{tuple(event_dim)}."
            )
        return list(event_dim)
    if known is not None:
        return [len(known)]
    own = {id(site["value"]): site["fn"].event_dim for site in traced_sites()} if axes else {}
    return [own.get(id(x)) for x in values]


def _splits(
    i: int, value: Any, event_dim: int | None, axes: list[Enumerated]
) -> list[tuple[Shape, Shape]]:
    """The ways to split the shape of a value; first the one without an enumerated site."""
    shape, plates = jnp.shape(value), plate_shape()
    if event_dim is None:
        counts = [min(len(plates), len(shape))]
        counts += enumerated_splits(jnp.asarray(value), plates, axes)
    else:
        counts = [len(shape) - event_dim]
        if not 0 <= event_dim <= len(shape):
            raise ValueError(
                f"`values[{i}]` must have {event_dim} axes for one point, got shape {shape}."
            )
    found = [(shape[:n], shape[n:]) for n in counts if _fits(shape[:n], plates)]
    if not found:
        raise ValueError(
            f"`values[{i}]` has shape {shape}, but must begin with {plates}, the shape of the "
            "plates around. Where a plate shares the value, it needs an axis of length one: "
            "`x[None]`."
        )
    return found


def _fits(lead: Shape, plates: Shape) -> bool:
    try:
        jnp.broadcast_shapes(lead, plates)
    except ValueError:
        return False
    return True


def _is_scalar(energy: Callable[..., Any], way: list[tuple[Shape, Shape]]) -> bool:
    try:
        return _shape_of(energy, [any_point(event) for _, event in way]) == ()
    except (TypeError, ValueError, IndexError):  # Points of the wrong shape.
        return False
