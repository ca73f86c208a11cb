"""Energies given a condition."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

import abc
from collections.abc import Iterable
from typing import Any, ClassVar, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._checks import as_finite, as_numbers
from .._trainable import Frozen, freeze, unfreeze
from .._types import ArrayLike, Point, Scalar, Shape
from ._base import AbstractEnergy, convert
from ._formula import name_of, show_number
from ._log_z import LogZ
from ._normalized import Normalized


def _as_levels(levels: Iterable[float] | None) -> tuple[float, ...] | None:
    if levels is None:
        return None
    values = tuple(map(float, levels))
    if len(set(values)) != len(values) or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f"`levels` must be two or more different numbers, got {values}.")
    return tuple(sorted(values))


class AbstractConditional(eqx.Module):
    r"""$E(y; x)$: for each condition $x$ an energy of $y$."""

    event_shape: eqx.AbstractVar[Shape | None]

    #: The values of each coordinate of `y`, if they are a few that no gradient moves.
    levels: ClassVar[tuple[float, ...] | None] = None

    @abc.abstractmethod
    def __call__(self, y: Point, x: Any) -> Scalar:
        """The energy of one `y` at one `x`."""

    @abc.abstractmethod
    def given(self, x: Any) -> AbstractEnergy:
        """The energy of `y` at one `x`, an array or a pytree of arrays."""


class ConditionalEnergy(AbstractConditional):
    r"""$E(y; x)$, where $p(y \mid x) \propto e^{-E(y; x)}$: for each $x$ an energy of $y$.

    ```python
    class Regression(eqx.Module):
        network: eqx.nn.MLP

        def __call__(self, y, x):
            return self.network(jnp.append(x, y))


    conditional = ebm.ConditionalEnergy(Regression(network), event_shape=())
    energy = conditional.given(x)
    ```

    Its $\log Z(x)$ is unknown: [`normalize`][numpyro_ebm.normalize] makes it a
    [`NormalizedConditional`][numpyro_ebm.energies.NormalizedConditional]. Of `y` at many
    conditions, [`predict`][numpyro_ebm.tasks.predict] gives intervals and draws. Chains on
    `conditional.given(x)` start with separate modes in their proportions if `y` is at most
    three numbers; in more dimensions they keep those of their starts.

    **Arguments**

    - `fn`: a callable `fn(y, x)` from one point `y` and its condition `x` to a scalar.
    - `event_shape`: the shape of one `y`.
    - `levels`: the values of each coordinate of `y`, if they are a few, such as `range(3)` for
      three labels.
    """

    fn: Any
    event_shape: Shape | None = eqx.field(static=True, default=None)
    levels: tuple[float, ...] | None = eqx.field(
        static=True, default=None, kw_only=True, converter=_as_levels
    )

    def __check_init__(self) -> None:
        if not callable(self.fn):
            raise TypeError(
                f"`fn` must be a callable `fn(y, x)`, got {type(self.fn).__name__}."
            )

    def __call__(self, y: Point, x: Any) -> Scalar:
        return unfreeze(self.fn)(y, x)

    def given(self, x: Any) -> "Given":
        """The energy of `y` at one `x`, an array or a pytree of arrays."""
        return Given(self, freeze(x))

    def __repr__(self) -> str:
        return f"{name_of(unfreeze(self.fn))}(y; x)"


class NormalizedConditional(AbstractConditional):
    r"""$E(y; x)$ with its $\log Z(x)$: $\log p(y \mid x) = -E(y; x) - \log Z(x)$.

    `.given(x)` is a [`Normalized`][numpyro_ebm.Normalized] energy of $y$, so it has a
    log-density, also in NumPyro models with a latent $x$. With an exact method, $\log Z(x)$ is
    computed at each $x$, and differentiable. An [`Estimator`][numpyro_ebm.Estimator] that
    trains the energy drops the constant.

    ```python
    conditional = ebm.ConditionalEnergy(lambda y, x: (y - x) ** 2, event_shape=())
    box = ebm.Quadrature(-9.0, 9.0)
    density = ebm.energies.NormalizedConditional(conditional, box)
    density.given(jnp.array(0.5)).log_z
    ```

    **Arguments**

    - `conditional`: a [`ConditionalEnergy`][numpyro_ebm.ConditionalEnergy].
    - `log_z`: an exact method, such as [`Quadrature`][numpyro_ebm.Quadrature]; or one number,
      or [`LogZ`][numpyro_ebm.energies.LogZ], for all conditions.
    - `std_error`: the standard error of $\log Z(x)$.
    """

    conditional: ConditionalEnergy
    constant: Frozen | Any
    std_error: Frozen | Scalar

    def __init__(
        self, conditional: ConditionalEnergy, log_z: Any, std_error: ArrayLike = 0.0
    ) -> None:
        if not isinstance(conditional, ConditionalEnergy):
            raise TypeError(
                "`conditional` must be a `ConditionalEnergy(fn, event_shape)`, got "
                f"{type(conditional).__name__}."
            )
        is_method = callable(getattr(log_z, "log_z", None))
        std_error = as_numbers("std_error", std_error)
        if not is_method and not isinstance(log_z, LogZ):
            log_z = LogZ(as_finite("log_z", log_z), std_error)
        self.conditional = conditional
        # A file of 64-bit floats could not be read back without `jax_enable_x64`.
        self.constant = freeze(jax.tree.map(_as_default_floats, log_z))
        self.std_error = freeze(std_error if is_method else log_z.std_error)

    @property
    def event_shape(self) -> Shape | None:
        return self.conditional.event_shape

    @property
    def levels(self) -> tuple[float, ...] | None:
        return self.conditional.levels

    def __call__(self, y: Point, x: Any) -> Scalar:
        return self.conditional(y, x)

    @property
    def method(self) -> Any:
        """The exact method that computes the constants, or `None` if they are one number."""
        constant = unfreeze(self.constant)
        return None if isinstance(constant, LogZ) else constant

    def given(self, x: Any) -> Normalized:
        """The density of `y` at one `x`, an array or a pytree of arrays."""
        energy, method = self.conditional.given(x), self.method
        if method is None:
            return Normalized(energy, unfreeze(self.constant))
        name = type(method).__name__
        constant = LogZ(method.log_z(energy), unfreeze(self.std_error), method=name)
        return Normalized(energy, constant)

    def __repr__(self) -> str:
        if self.method is None:
            log_z = show_number(unfreeze(self.constant).estimate)
        else:
            log_z = type(self.method).__name__
        return f"NormalizedConditional({self.conditional!r}, log_z={log_z})"


def _as_default_floats(x: Any) -> Any:
    is_float = isinstance(x, np.ndarray) and x.dtype.kind == "f"
    return x.astype(jnp.result_type(float)) if is_float else x


def is_conditional(energy: object) -> bool:
    """Whether it needs a condition to be an energy."""
    return isinstance(energy, AbstractConditional)


@convert.register(AbstractConditional)
def _(obj: AbstractConditional, name: str, event_shape: Shape | None) -> NoReturn:
    raise TypeError(
        f"`{name}`, {obj!r}, is conditional, and an energy only at one condition: "
        f"`{name}.given(x)`. Of many conditions at once, `ebm.tasks.predict` draws and gives "
        "intervals, and `ebm.log_likelihood(conditional, (y, x))` scores."
    )


class Given(AbstractEnergy):
    r"""$y \mapsto E(y; x)$ at a fixed $x$, returned by `ConditionalEnergy.given`."""

    conditional: AbstractConditional
    condition: Frozen | Any

    @property
    def event_shape(self) -> Shape | None:
        return self.conditional.event_shape

    @property
    def levels(self) -> tuple[float, ...] | None:
        return self.conditional.levels

    def __call__(self, x: Point) -> Scalar:
        return self.conditional(x, unfreeze(self.condition))

    def _formula(self) -> str:
        return repr(self.conditional)


def is_given(energy: object) -> bool:
    """Whether it is a conditional energy at one condition, normalised or not."""
    return isinstance(energy.energy if isinstance(energy, Normalized) else energy, Given)
