"""Energies given a condition."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

from typing import Any

import equinox as eqx

from .._trainable import Frozen, freeze, unfreeze
from .._types import Point, Scalar, Shape
from ._base import AbstractEnergy
from ._formula import name_of


class ConditionalEnergy(eqx.Module):
    r"""$E(y; x)$, where $p(y \mid x) \propto e^{-E(y; x)}$: for each $x$ an energy of $y$.

    ```python
    class Regression(eqx.Module):
        network: eqx.nn.MLP

        def __call__(self, y, x):
            return self.network(jnp.append(x, y))


    conditional = ebm.ConditionalEnergy(Regression(network), event_shape=())
    energy = conditional.given(x)
    ```

    **Arguments**

    - `fn`: a callable `fn(y, x)` from one point `y` and its condition `x` to a scalar.
    - `event_shape`: the shape of one `y`.
    """

    fn: Any
    event_shape: Shape | None = eqx.field(static=True, default=None)

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


def is_conditional(energy: object) -> bool:
    """Whether it needs a condition to be an energy."""
    return isinstance(energy, ConditionalEnergy)


class Given(AbstractEnergy):
    r"""$y \mapsto E(y; x)$ at a fixed $x$, returned by `ConditionalEnergy.given`."""

    conditional: ConditionalEnergy
    condition: Frozen | Any

    @property
    def event_shape(self) -> Shape | None:
        return self.conditional.event_shape

    def __call__(self, x: Point) -> Scalar:
        return self.conditional(x, unfreeze(self.condition))

    def _formula(self) -> str:
        return repr(self.conditional)
