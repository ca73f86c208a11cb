"""Logits of a classifier as energies: of labels, of inputs, and of inputs of one class."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from .._checks import as_shape, check_count
from .._trainable import Frozen, freeze, unfreeze
from .._types import Array, Float, Point, Scalar, Shape
from ._base import AbstractEnergy
from ._conditional import AbstractConditional, Given
from ._formula import name_of, show_number
from ._log_z import LogZ
from ._normalized import Normalized
from ._states import has_level
from ._tilted import Tilted


class Logits(eqx.Module):
    """$f$: a network from one input to one number per class."""

    network: Any
    num_classes: int = eqx.field(static=True)
    input_shape: Shape = eqx.field(static=True)

    def __call__(self, x: Point) -> Float[Array, " k"]:
        return unfreeze(self.network)(x)

    @property
    def levels(self) -> tuple[float, ...]:
        return tuple(map(float, range(self.num_classes)))

    def energy(self, y: Point, x: Point) -> Scalar:
        """$-f_y(x)$, infinite unless `y` is a class."""
        is_class = has_level(self.levels, y)
        chosen = jnp.sum(jnp.where(is_class, self(x), 0))
        return jnp.where(is_class.any(), -chosen, jnp.inf)

    def cross_entropy(self, y: Point, x: Point) -> Scalar:
        r"""$-\log p(y \mid x)$."""
        return self.energy(y, x) + logsumexp(self(x))

    def __repr__(self) -> str:
        return name_of(unfreeze(self.network))


class ClassEnergy(AbstractConditional):
    r"""$E(y; x) = -f_y(x)$, the logits of a classifier [Grathwohl et al. 2020].

    One network $f$ with an output per class is three energies:

    - of the label, $p(y \mid x) = \operatorname{softmax}_y f(x)$: `given(x)`, normalised. If
      [`ForwardKL`][numpyro_ebm.objectives.ForwardKL] fits it to pairs `(y, x)`, it *is* softmax
      regression.
    - of the input, $p(x) \propto q(x) \sum_y e^{f_y(x)}$: `marginal`.
    - of the input in one class, $p(x \mid y) \propto q(x)\, e^{f_y(x)}$: `of_class(y)`.

    Cross-entropy alone teaches the first;
    [`JointLikelihood`][numpyro_ebm.objectives.JointLikelihood] all three.

    ```python
    energy = ebm.energies.ClassEnergy(network, 10, (2,), reference)
    objective = ebm.objectives.JointLikelihood(ebm.DenoisingScoreMatching(0.3))
    estimator = ebm.Estimator(objective, optax.adam(1e-3))
    energy = estimator.run(key, 1000, energy, (labels, data)).energy
    ```

    **Arguments**

    - `network`: a callable from one input to the logits, of shape `(num_classes,)`.
    - `num_classes`: labels are the numbers from 0 to `num_classes - 1`.
    - `input_shape`: the shape of one $x$.
    - `reference`: $q$, a NumPyro distribution or an energy with a `log_z`, which does not
      train; without it, $q = 1$, and $p(x)$ is a density only if the logits fall off.

    **Raises** `ValueError` if the logits of one input are not of shape `(num_classes,)`.
    """

    logits: Logits
    reference: Frozen | Any

    def __init__(
        self, network: Any, num_classes: int, input_shape: Shape, reference: Any = None
    ) -> None:
        if not callable(network):
            raise TypeError(
                "`network` must be a callable from one input to its logits, got "
                f"{type(network).__name__}."
            )
        check_count("num_classes", num_classes, 2)
        self.logits = Logits(network, num_classes, as_shape("input_shape", input_shape))
        self.reference = None if reference is None else freeze(unfreeze(reference))
        _check_logits(self.logits)
        _ = self.marginal  # Raises unless the reference fits.

    @property
    def event_shape(self) -> Shape:
        return ()

    @property
    def levels(self) -> tuple[float, ...]:
        return self.logits.levels

    @property
    def marginal(self) -> AbstractEnergy:
        """The energy of an input, whatever its class."""
        return self._tilted(OfInputs(self.logits))

    def of_class(self, y: Any) -> AbstractEnergy:
        """The energy of an input of class `y`."""
        return self._tilted(OfClass(self.logits, freeze(jnp.asarray(y, float))))

    def given(self, x: Any) -> Normalized:
        """The density of the label of one `x`."""
        constant = LogZ(logsumexp(self.logits(x)), method="Enumeration")
        return Normalized(Given(self, freeze(x)), constant)

    def probs(self, x: Point) -> Float[Array, " k"]:
        r"""$p(y \mid x)$ of each class, for one `x`."""
        return jax.nn.softmax(self.logits(x))

    def __call__(self, y: Point, x: Any) -> Scalar:
        return self.logits.energy(y, x)

    def _tilted(self, energy: AbstractEnergy) -> AbstractEnergy:
        return energy if self.reference is None else Tilted(energy, unfreeze(self.reference))

    def __repr__(self) -> str:
        return f"-{self.logits!r}(x)[y]"


class OfInputs(AbstractEnergy):
    r"""$-\log\sum_y e^{f_y(x)}$, the energy of inputs of all classes."""

    logits: Logits

    @property
    def event_shape(self) -> Shape:
        return self.logits.input_shape

    def __call__(self, x: Point) -> Scalar:
        return -logsumexp(self.logits(x))

    def _formula(self) -> str:
        return f"-logsumexp({self.logits!r})"


class OfClass(AbstractEnergy):
    r"""$-f_y(x)$, the energy of inputs of one class."""

    logits: Logits
    label: Frozen | Float[Array, ""]

    @property
    def event_shape(self) -> Shape:
        return self.logits.input_shape

    def __call__(self, x: Point) -> Scalar:
        return self.logits.energy(unfreeze(self.label), x)

    def _formula(self) -> str:
        return f"-{self.logits!r}[{show_number(unfreeze(self.label))}]"


def _check_logits(logits: Logits) -> None:
    x = jax.ShapeDtypeStruct(logits.input_shape, jnp.result_type(float))
    # The network's own arrays may be shapes, too.
    shapes, rest = eqx.partition(logits, lambda x: isinstance(x, jax.ShapeDtypeStruct))
    got = jax.eval_shape(lambda s, x: eqx.combine(s, rest)(x), shapes, x).shape
    if got != (logits.num_classes,):
        raise ValueError(
            f"`network` must give `num_classes` logits, of shape ({logits.num_classes},), for "
            f"one input of shape {logits.input_shape}, got {got}."
        )
