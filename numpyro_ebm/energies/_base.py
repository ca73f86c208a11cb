"""`AbstractEnergy`, its algebra, and `as_energy`, which converts everything else."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

import abc
import dataclasses
import functools
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jax.core import Tracer
from numpyro.distributions import constraints

from .._checks import as_factor, as_shape, check_key
from .._trainable import Frozen, freeze, unfreeze
from .._types import Array, EnergyLike, Key, Point, Scalar, Shape
from ._formula import is_number, show_number, show_sum, show_term
from ._log_z import LogZ
from ._one_point import on_one_point
from ._supports import intersection, same_support


class _Unknown:
    """`None` on every instance; not a property, so that a subclass may make it a field."""

    def __get__(self, instance: Any, owner: type) -> None:
        if instance is None:
            raise AttributeError("Dataclasses would take a value for the field's default.")


_UNKNOWN: Any = _Unknown()


class AbstractEnergy(eqx.Module):
    r"""$E(x)$, where $p(x) \propto e^{-E(x)}$ on one point $x$; for batches use `jax.vmap`.

    A subclass defines `__call__(x)` and the shape of one point (`event_shape`, or `None` if it
    takes any). Everything else is `None` unless defined: the normaliser `log_z`, exact draws by
    `sampler(rng_key, sample_shape=())`, `mean` and `variance`, a `reference`, a proper density
    from which chains can be annealed to the energy, and, of labels, the energy as a smooth
    function `of_one_hot` codes. They belong to its `support`, by default all real points.

    Energies add up to a product of experts, `a + b`; `w * a` weights an expert, `a / T` sets a
    temperature, `a - w * b` negates. Weights and temperatures are arrays that do not train.
    Printing an energy shows its formula, `eqx.tree_pprint(energy)` all its contents.
    """

    #: NumPy scalars would otherwise swallow `np.float64(2) * energy` into an object array.
    __array_ufunc__ = None

    event_shape: eqx.AbstractVar[Shape | None]

    #: The values of each coordinate, if they are a few that no gradient moves, such as those
    #: of spins; empty if only some of the coordinates are of that kind.
    levels: ClassVar[tuple[float, ...] | None] = None

    #: If points are dicts: the sites of a NumPyro model whose prior or Jacobian it includes.
    sites: ClassVar[tuple[Any, ...]] = ()

    log_z = _UNKNOWN
    sampler = _UNKNOWN
    reference = _UNKNOWN
    of_one_hot = _UNKNOWN
    mean = _UNKNOWN
    variance = _UNKNOWN

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__call__" in vars(cls):
            cls.__call__ = on_one_point(cls.__call__)

    @property
    def support(self) -> constraints.Constraint | None:
        """A NumPyro constraint on one point, or `None` if experts disagree about it."""
        return constraints.real

    @property
    def partition(self) -> LogZ | None:
        """`log_z`, with all that is known about its error."""
        value = self.log_z
        if value is None:
            return None
        return LogZ(value, 0.0, value, value, upper_is_exact=True, method="Analytic")

    @abc.abstractmethod
    def __call__(self, x: Point) -> Scalar:
        """The energy of one point."""

    def sample(self, rng_key: Key, sample_shape: Shape = ()) -> Any:
        """Independent draws, `(*sample_shape, *event_shape)`, of an energy with a `sampler`."""
        check_key(rng_key)
        if self.sampler is None:
            raise NotImplementedError(
                f"{self!r} has no exact sampler; `ebm.sample(rng_key, energy, kernel)` draws "
                "by chains."
            )
        return self.sampler(rng_key, sample_shape)

    def __repr__(self) -> str:
        try:
            return self._formula()
        except (AttributeError, TypeError):
            # JAX and `eqx.filter` put placeholders in place of arrays.
            return type(self).__name__

    def _formula(self) -> str:
        fields = [(f.name, getattr(self, f.name, None)) for f in dataclasses.fields(self)]
        numbers = [f"{name}={show_number(v)}" for name, v in fields if is_number(v)]
        return type(self).__name__ + (f"({', '.join(numbers)})" if numbers else "")

    def __add__(self, other: Any) -> "Sum":
        return Sum(_terms(self) + _terms(as_energy(other)))

    def __radd__(self, other: Any) -> "AbstractEnergy":
        # `sum([a, b])` starts from the integer 0.
        return self if isinstance(other, int) and other == 0 else as_energy(other) + self

    def __sub__(self, other: Any) -> "Sum":
        return self + -as_energy(other)

    def __rsub__(self, other: Any) -> "Sum":
        return as_energy(other) - self

    def __mul__(self, weight: Any) -> "Scaled":
        return Scaled(self, freeze(as_factor("weight", weight)))

    __rmul__ = __mul__

    def __truediv__(self, temperature: Any) -> "Scaled":
        temperature = as_factor("temperature", temperature)
        if not isinstance(temperature, Tracer) and temperature == 0:
            raise ValueError("The temperature of an energy must not be zero.")
        return self * (1 / temperature)

    def __neg__(self) -> "Scaled":
        return -1 * self


class Sum(AbstractEnergy):
    r"""$\sum_i E_i(x)$, the product of experts $\prod_i e^{-E_i(x)}$."""

    terms: tuple[AbstractEnergy, ...]

    def __check_init__(self) -> None:
        shapes = {term.event_shape for term in self.terms} - {None}
        if len(shapes) > 1:
            raise ValueError(
                "Energies that are added must live on the same points, got event shapes "
                f"{' and '.join(map(str, shapes))}."
            )
        claims = [claim for term in self.terms for claim in term.sites]
        names = [site.name for site in claims]
        twice = [s.name for s in claims if not s.is_free and names.count(s.name) > 1]
        if twice:
            raise ValueError(
                f"Site `{twice[0]}` is constrained, and more than one of the energies takes it "
                "for a site of its own: its Jacobian would count twice, or be missing. An "
                "expert on a site of a `ModelEnergy` is `OnSite(energy, name, model)`."
            )

    @property
    def event_shape(self) -> Shape | None:
        return next((t.event_shape for t in self.terms if t.event_shape is not None), None)

    @property
    def sites(self) -> tuple[Any, ...]:
        return tuple({site.name: site for term in self.terms for site in term.sites}.values())

    @property
    def support(self) -> constraints.Constraint | None:
        # If one expert is confined, all are.
        return intersection([term.support for term in self.terms])

    @property
    def reference(self) -> Any:
        found = [proper_part(term) for term in self.terms]
        # On sites of a model, a density must be one of all of them.
        found = [part for part in found if part is not None and part.sites == self.sites]
        alike = [part for part in found if same_support(part.support, self.support)]
        return next(iter(alike + found), None)

    @property
    def of_one_hot(self) -> Any:
        fns = [term.of_one_hot for term in self.terms]
        return None if None in fns else lambda codes: jnp.stack([f(codes) for f in fns]).sum()

    def __call__(self, x: Point) -> Scalar:
        return sum((term(x) for term in self.terms[1:]), self.terms[0](x))

    def _formula(self) -> str:
        return show_sum(*map(repr, self.terms))


class AbstractView(AbstractEnergy):
    """An energy made from another one, on the same points."""

    energy: eqx.AbstractVar[AbstractEnergy]

    @property
    def event_shape(self) -> Shape | None:
        return self.energy.event_shape

    @property
    def support(self) -> constraints.Constraint | None:
        return self.energy.support

    @property
    def sites(self) -> tuple[Any, ...]:
        return self.energy.sites


class Scaled(AbstractView):
    r"""$w\,E(x)$: a weighted expert, or one at temperature $1/w$. The weight does not train."""

    energy: AbstractEnergy
    weight: Frozen | Array

    @property
    def reference(self) -> Any:
        return proper_part(self.energy)

    @property
    def of_one_hot(self) -> Any:
        fn = self.energy.of_one_hot
        return fn and (lambda codes: unfreeze(self.weight) * fn(codes))

    def __call__(self, x: Point) -> Scalar:
        return unfreeze(self.weight) * self.energy(x)

    def __mul__(self, weight: Any) -> "Scaled":
        if not isinstance(self.weight, Frozen):
            return Scaled(self, freeze(as_factor("weight", weight)))
        return Scaled(self.energy, freeze(self.weight.tree * as_factor("weight", weight)))

    __rmul__ = __mul__

    def _formula(self) -> str:
        weight, energy = show_number(unfreeze(self.weight)), show_term(repr(self.energy))
        return {"1": "", "-1": "-"}.get(weight, f"{weight} * ") + energy


def proper_part(energy: AbstractEnergy) -> AbstractEnergy | None:
    """A density that can be sampled: the reference of `energy`, else `energy` itself."""
    reference = unfreeze(energy.reference)
    parts = [energy] if reference is None else [as_energy(reference), energy]
    drawn = (part for part in parts if part.sampler is not None and part.log_z is not None)
    return next(drawn, None)


def as_energy(
    obj: EnergyLike,
    event_shape: Shape | None = None,
) -> AbstractEnergy:
    """Convert `obj` to an energy.

    An energy is returned as it is, a NumPyro or FlowJAX distribution becomes its negative
    log-density, any other callable a [`FunctionEnergy`][numpyro_ebm.energies.FunctionEnergy].

    **Arguments**

    - `obj`: an energy, a distribution with an empty batch shape, or a callable on one point.
    - `event_shape`: the shape of one point, if `obj` doesn't know it.

    **Raises** `TypeError` for anything else, and `ValueError` for a distribution with a
    batch shape or an `event_shape` that contradicts `obj`.
    """
    event_shape = None if event_shape is None else as_shape("event_shape", event_shape)
    energy = convert(obj, "energy", event_shape)
    known = energy.event_shape
    if event_shape is not None and known is not None and event_shape != known:
        raise ValueError(
            f"`event_shape` is {event_shape}, but the energy lives on points of "
            f"shape {known}. Leave `event_shape` out, or pass {known}."
        )
    return energy


def energy_named(name: str, obj: EnergyLike) -> AbstractEnergy:
    """The argument `name` of a function as an energy."""
    return convert(obj, name, None)


@functools.singledispatch
def convert(obj: Any, name: str, event_shape: Shape | None) -> AbstractEnergy:
    """The argument `name` as an energy; `_bridges` registers other types."""
    raise TypeError(
        f"`{name}` must be an energy, a NumPyro distribution or a callable from one point "
        f"to a scalar, got {type(obj).__name__}."
    )


@convert.register(AbstractEnergy)
def _(obj: AbstractEnergy, name: str, event_shape: Shape | None) -> AbstractEnergy:
    return obj


def _terms(energy: AbstractEnergy) -> tuple[AbstractEnergy, ...]:
    return energy.terms if isinstance(energy, Sum) else (energy,)
