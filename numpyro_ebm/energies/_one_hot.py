"""Energies of labels, written as functions of their one-hot codes."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

from typing import Any

import equinox as eqx

from .._checks import as_floats, as_shape, check_count
from .._trainable import unfreeze
from .._types import Array, Float, Scalar, Shape
from ._base import AbstractEnergy
from ._formula import name_of
from ._states import has_level


class OneHot(AbstractEnergy):
    r"""$E(x) = f(c(x))$ of labels $x_i\in\{0,\dots,k-1\}$, by their one-hot codes $c(x)$.

    Points are labels, as everywhere in this library; the codes are only how $f$ sees them.
    [`GibbsWithGradients`][numpyro_ebm.GibbsWithGradients] takes the gradient of $f$ in the
    codes, which tells what each change of a label would cost.

    ```python
    energy = ebm.energies.OneHot(network, event_shape=(20,), num_states=4)
    labels = jnp.argmax(codes, -1)    # data that are codes
    ```

    **Arguments**

    - `fn`: a callable from the codes of one point, of shape `(*event_shape, num_states)`, to
      a scalar.
    - `event_shape`: the shape of one point.
    - `num_states`: $k$.
    """

    fn: Any
    event_shape: Shape = eqx.field(static=True, converter=lambda x: as_shape("event_shape", x))
    num_states: int = eqx.field(static=True)

    def __check_init__(self) -> None:
        if not callable(self.fn):
            raise TypeError(
                "`fn` must be a callable from the one-hot codes of a point to a scalar, got "
                f"{type(self.fn).__name__}."
            )
        check_count("num_states", self.num_states, 2)

    @property
    def levels(self) -> tuple[float, ...]:
        return tuple(map(float, range(self.num_states)))

    def of_one_hot(self, codes: Float[Array, "*event k"]) -> Scalar:
        """$f$."""
        return unfreeze(self.fn)(codes)

    def __call__(self, x: Float[Array, "*event"]) -> Scalar:
        return self.of_one_hot(as_floats(has_level(self.levels, x)))

    def _formula(self) -> str:
        return f"OneHot({name_of(unfreeze(self.fn))})"
