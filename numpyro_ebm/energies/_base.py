"""`AbstractEnergy`, its algebra, and `as_energy`, the door for everything else."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.core import Tracer
from numpyro.distributions import constraints

from .._trainable import Frozen, freeze, unfreeze
from .._types import Array, Key, Point, Scalar, Shape


class AbstractEnergy(eqx.Module):
    r"""$E(x)$, where $p(x) \propto e^{-E(x)}$ on one point $x$; batches are `jax.vmap`'s.

    A subclass says what `__call__(x)` is and what shape one point has (`event_shape`, or
    `None` if it takes any). An energy that knows its normaliser has a `log_z`, one that can be
    drawn from exactly a `sample(rng_key, sample_shape=())`, and one whose points are
    constrained says so by its `support`, to which both belong.

    Energies add up to a product of experts, `a + b`; `w * a` weights an expert, `a / T` sets a
    temperature, `a - w * b` negates. Weights and temperatures are arrays that do not train.
    Printing an energy shows its formula, `eqx.tree_pprint(energy)` all that is in it.
    """

    #: NumPy scalars would otherwise swallow `np.float64(2) * energy` into an object array.
    __array_ufunc__ = None

    event_shape: eqx.AbstractVar[Shape | None]

    #: The two values of a coordinate, if points are spins, which no gradient moves.
    levels: ClassVar[tuple[float, float] | None] = None

    @property
    def support(self) -> constraints.Constraint | None:
        """A NumPyro constraint on one point, or `None` where experts disagree about it."""
        return constraints.real

    @abc.abstractmethod
    def __call__(self, x: Point) -> Scalar:
        """The energy of one point."""

    def __repr__(self) -> str:
        try:
            return self._formula()
        except (AttributeError, TypeError):
            # JAX and `eqx.filter` put placeholders where arrays were.
            return type(self).__name__

    def _formula(self) -> str:
        fields = [(f.name, getattr(self, f.name, None)) for f in dataclasses.fields(self)]
        numbers = [f"{name}={show_number(v)}" for name, v in fields if _is_number(v)]
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
        return Scaled(self, freeze(_factor("weight", weight)))

    __rmul__ = __mul__

    def __truediv__(self, temperature: Any) -> "Scaled":
        return self * (1 / _factor("temperature", temperature))

    def __neg__(self) -> "Scaled":
        return -1 * self


class FunctionEnergy(AbstractEnergy):
    """Any callable from one point to a scalar, such as `eqx.nn.MLP(d, "scalar", ...)`."""

    fn: Any
    event_shape: Shape | None = eqx.field(static=True, default=None)

    def __call__(self, x: Point) -> Scalar:
        return unfreeze(self.fn)(x)

    def _formula(self) -> str:
        return name_of(unfreeze(self.fn))


class DistributionEnergy(AbstractEnergy):
    r"""$-\log q(x)$ of a NumPyro distribution: normalised, $\log Z = 0$, drawn from exactly.

    It is infinite where a coordinate leaves its interval or half-line. A support of another
    shape, such as the simplex, has to be kept by whoever moves `x`.
    """

    distribution: dist.Distribution

    @property
    def event_shape(self) -> Shape:
        return self.distribution.event_shape

    @property
    def support(self) -> constraints.Constraint | None:
        return self.distribution.support

    @property
    def log_z(self) -> Scalar:
        if not is_normalized(self.distribution):
            raise AttributeError(f"{name_of(self.distribution)} is not normalised.")
        return jnp.zeros(())

    def __call__(self, x: Array) -> Scalar:
        support: Any = self.distribution.support
        if is_real(support) or elementwise(support).event_dim:
            return -jnp.asarray(self.distribution.log_prob(x))
        inside = jnp.all(support(x))
        # NumPyro's log_prob may be finite, or NaN, out there.
        safe = jnp.where(inside, x, support.feasible_like(x))
        return jnp.where(inside, -jnp.asarray(self.distribution.log_prob(safe)), jnp.inf)

    def _formula(self) -> str:
        return f"-log {name_of(self.distribution)}"

    def sample(self, rng_key: Key, sample_shape: Shape = ()) -> Array:
        return jnp.asarray(self.distribution.sample(rng_key, sample_shape))


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
        claims = [claim for term in self.terms for claim in getattr(term, "sites", ())]
        names = [name for name, _ in claims]
        twice = [name for name, is_free in claims if not is_free and names.count(name) > 1]
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
    def support(self) -> constraints.Constraint | None:
        # Where one expert is confined, all are.
        bounded = [term.support for term in self.terms if not is_real(term.support)]
        return common_support(bounded) if bounded else constraints.real

    def __call__(self, x: Point) -> Scalar:
        return sum((term(x) for term in self.terms[1:]), self.terms[0](x))

    def _formula(self) -> str:
        return show_sum(*map(repr, self.terms))


class Scaled(AbstractEnergy):
    r"""$w\,E(x)$: a weighted expert, or one at temperature $1/w$. The weight does not train."""

    energy: AbstractEnergy
    weight: Frozen | Array

    @property
    def event_shape(self) -> Shape | None:
        return self.energy.event_shape

    @property
    def support(self) -> constraints.Constraint | None:
        return self.energy.support

    @property
    def sites(self) -> tuple[tuple[str, bool], ...]:
        return getattr(self.energy, "sites", ())

    def __call__(self, x: Point) -> Scalar:
        return unfreeze(self.weight) * self.energy(x)

    def __mul__(self, weight: Any) -> "Scaled":
        if not isinstance(self.weight, Frozen):
            return Scaled(self, freeze(_factor("weight", weight)))
        return Scaled(self.energy, freeze(self.weight.tree * _factor("weight", weight)))

    __rmul__ = __mul__

    def _formula(self) -> str:
        weight, energy = show_number(unfreeze(self.weight)), show_term(repr(self.energy))
        return {"1": "", "-1": "-"}.get(weight, f"{weight} * ") + energy


def as_energy(
    obj: AbstractEnergy | dist.Distribution | Callable[[Any], Any],
    event_shape: Shape | None = None,
) -> AbstractEnergy:
    """Turn whatever is one into an energy.

    An energy is itself, a NumPyro distribution becomes its negative log-density, and any
    other callable becomes a [`FunctionEnergy`][numpyro_ebm.FunctionEnergy].

    **Arguments**

    - `obj`: an energy, a distribution with an empty batch shape, or a callable on one point.
    - `event_shape`: the shape of one point, if `obj` doesn't know it.

    **Raises** `TypeError` for anything else, and `ValueError` for a distribution with a
    batch shape or an `event_shape` that contradicts `obj`.
    """
    energy = _convert(obj, event_shape)
    known = energy.event_shape
    if event_shape is not None and known is not None and tuple(event_shape) != known:
        raise ValueError(
            f"`event_shape` is {tuple(event_shape)}, but the energy lives on points of "
            f"shape {known}. Leave `event_shape` out, or pass {known}."
        )
    return energy


def from_distribution(distribution: dist.Distribution) -> DistributionEnergy:
    """The negative log-density of a NumPyro distribution, as an energy.

    **Raises** `ValueError` if the distribution has a batch shape: `.to_event()` makes it one
    event.
    """
    if distribution.batch_shape:
        raise ValueError(
            f"A distribution with batch shape {distribution.batch_shape} is not one energy. "
            f"Make its batch one event with `.to_event({len(distribution.batch_shape)})`."
        )
    return DistributionEnergy(distribution)


def _convert(obj: Any, event_shape: Shape | None) -> AbstractEnergy:
    if isinstance(obj, AbstractEnergy):
        return obj
    if isinstance(obj, dist.Distribution):
        return from_distribution(obj)
    if isinstance(obj, Frozen):
        inner = as_energy(obj.tree, event_shape)
        return FunctionEnergy(freeze(inner), inner.event_shape)
    if callable(obj):
        return FunctionEnergy(obj, None if event_shape is None else tuple(event_shape))
    raise TypeError(
        f"`energy` must be an energy, a NumPyro distribution or a callable from one point "
        f"to a scalar, got {type(obj).__name__}."
    )


def check_energy(energy: AbstractEnergy, event_shape: Shape) -> None:
    """Raise unless `energy` maps one point of shape `event_shape` to a scalar.

    Only shapes are evaluated: nothing is compiled and nothing runs. The energy's own arrays may
    be shapes, too.
    """
    point = jax.ShapeDtypeStruct(event_shape, jnp.result_type(float))
    known = energy.event_shape
    if known is not None and known != event_shape:
        raise ValueError(_shape_message(event_shape, known))
    try:
        # A new function each time: JAX would look an energy up by comparing its arrays.
        shapes, rest = eqx.partition(energy, lambda x: isinstance(x, jax.ShapeDtypeStruct))
        value = jax.eval_shape(lambda s, x: eqx.combine(s, rest)(x), shapes, point)
    except Exception as error:
        raise ValueError(
            f"The energy cannot be evaluated on one point of shape {event_shape}: {error} "
            "An energy takes a single point, without a batch axis; `event_shape` is the shape "
            "of that point."
        ) from error
    shape = getattr(value, "shape", None)
    if shape != ():
        raise ValueError(
            f"The energy of one point must be a scalar, got shape {shape} for a point of shape "
            f'{event_shape}. An `eqx.nn.MLP` needs `out_size="scalar"`; a function of a batch '
            "must become a function of one point."
        )


def _shape_message(got: Shape, known: Shape) -> str:
    message = f"The energy lives on points of shape {known}, got points of shape {got}."
    if len(got) > len(known) and got[len(got) - len(known) :] == known:
        message += " That looks like a batch; an energy takes one point, `jax.vmap` the rest."
    return message


def _terms(energy: AbstractEnergy) -> tuple[AbstractEnergy, ...]:
    return energy.terms if isinstance(energy, Sum) else (energy,)


def _factor(name: str, value: Any) -> Array:
    if callable(value):
        raise TypeError(
            f"The {name} of an energy must be a number, got {type(value).__name__}; energies "
            "are combined by `+` and `-`."
        )
    factor = jnp.asarray(value, jnp.result_type(float))
    if factor.ndim:
        raise ValueError(f"The {name} of an energy must be a scalar, got shape {factor.shape}.")
    return factor


def is_real(support: Any) -> bool:
    """Whether a constraint leaves every coordinate free."""
    return isinstance(elementwise(support), type(constraints.real))


def common_support(supports: Sequence[Any]) -> constraints.Constraint | None:
    """The one support that all have, or `None`."""
    return supports[0] if all(same_support(s, supports[0]) for s in supports) else None


def same_support(a: Any, b: Any) -> bool:
    """Whether two constraints are known to be the same; different traced bounds aren't."""
    if a is b or (is_real(a) and is_real(b)):
        return True
    try:
        return a is not None and bool(a.eq(b))
    except jax.errors.TracerBoolConversionError:
        return False


def is_normalized(distribution: dist.Distribution) -> bool:
    """Whether `log_prob` is a log-density, constant included."""

    def is_improper(node: Any) -> bool:
        improper = isinstance(node, dist.ImproperUniform | dist.Unit)
        return improper or getattr(node, "is_normalized", True) is False

    return not any(map(is_improper, jax.tree.leaves(distribution, is_leaf=is_improper)))


def is_discrete(energy: Any) -> bool:
    """Whether an energy, an expert in it, or a distribution in it is about integers."""
    return bool(_discrete_parts(energy))


def discrete_levels(energy: Any) -> tuple[float, float] | None:
    """The two values of a coordinate of a discrete energy; `None` if there are no two."""
    parts = _discrete_parts(energy)
    levels = {part.levels if isinstance(part, AbstractEnergy) else (0.0, 1.0) for part in parts}
    counts = [x for x in parts if not isinstance(x, AbstractEnergy) and not _is_binary(x)]
    return levels.pop() if len(levels) == 1 and not counts else None


def _discrete_parts(energy: Any) -> list[Any]:
    def says_so(node: Any) -> bool:
        if isinstance(node, AbstractEnergy):
            return node.levels is not None
        return isinstance(node, dist.Distribution) and node.is_discrete is True

    return [x for x in jax.tree.leaves(energy, is_leaf=says_so) if says_so(x)]


def _is_binary(distribution: dist.Distribution) -> bool:
    return elementwise(distribution.support) is constraints.boolean


def elementwise(support: Any) -> Any:
    """The constraint on each coordinate."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def name_of(obj: Any) -> str:
    """What to call a function, a transform or a distribution in a formula."""
    while isinstance(obj, dist.Independent | dist.ExpandedDistribution):
        obj = obj.base_dist
    return getattr(obj, "__name__", type(obj).__name__)


def show_number(value: Any) -> str:
    return "?" if isinstance(value, Tracer) else f"{float(value):.4g}"


def show_term(text: str) -> str:
    return f"({text})" if " + " in text or " - " in text else text


def show_sum(*terms: str) -> str:
    return " + ".join(terms).replace("+ -", "- ")


def _is_number(value: Any) -> bool:
    if isinstance(value, jax.Array | np.ndarray):
        return value.ndim == 0 and np.issubdtype(value.dtype, np.number)
    return isinstance(value, int | float) and not isinstance(value, bool)
