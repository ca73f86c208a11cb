"""FlowJAX's distributions as energies."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import as_typed_key
from .._trainable import Frozen, freeze, unfreeze
from .._types import Array, Float, Key, Point, Scalar, Shape
from ._base import AbstractEnergy, convert
from ._conditional import AbstractConditional
from ._formula import name_of


class FlowEnergy(AbstractEnergy):
    r"""$-\log q(x)$ of a FlowJAX distribution: normalised, $\log Z = 0$, with exact draws.

    [`as_energy`][numpyro_ebm.as_energy] makes it. An [`Estimator`][numpyro_ebm.Estimator]
    trains the flow except for what is wrapped by Paramax's `non_trainable` or by
    [`freeze`][numpyro_ebm.freeze]. FlowJAX states no support: the energy is infinite where the
    density is zero, and its `support` is all real points. Shown by
    `tests/flows/test_energies.py`.

    **Arguments**

    - `flow`: a FlowJAX distribution.
    - `condition`: what a conditional one is given, which does not train.
    """

    flow: Any
    condition: Frozen | Any = None

    def __check_init__(self) -> None:
        is_conditional = unfreeze(self.flow).cond_shape is not None
        if is_conditional != (self.condition is not None):
            must = "needs a" if is_conditional else "takes no"
            raise ValueError(f"This FlowJAX distribution {must} `condition`.")

    @property
    def event_shape(self) -> Shape:
        return unfreeze(self.flow).shape

    @property
    def log_z(self) -> Scalar:
        return jnp.zeros(())

    def __call__(self, x: Point) -> Scalar:
        # FlowJAX relies on rank promotion, which may be switched off.
        with jax.numpy_rank_promotion("allow"):
            return -unfreeze(self.flow).log_prob(x, unfreeze(self.condition))

    def sampler(self, rng_key: Key, sample_shape: Shape = ()) -> Array:
        """Independent draws, differentiable in the flow's parameters if FlowJAX's are."""
        with jax.numpy_rank_promotion("allow"):
            return unfreeze(self.flow).sample(
                as_typed_key(rng_key), sample_shape, unfreeze(self.condition)
            )

    def draw(self, rng_key: Key, num: int) -> tuple[Array, Float[Array, " n"]]:
        """Independent draws and their energies, from the same pass: no map is inverted."""
        with jax.numpy_rank_promotion("allow"):
            draws, log_probs = unfreeze(self.flow).sample_and_log_prob(
                as_typed_key(rng_key), (num,), unfreeze(self.condition)
            )
        return draws, -log_probs

    def _formula(self) -> str:
        return f"-log {name_of(unfreeze(self.flow))}"


class ConditionalFlow(AbstractConditional):
    r"""$-\log q(y \mid x)$ of a conditional FlowJAX distribution, normalised at each $x$.

    `ForwardKL` fits it to pairs `(y, x)`.

    **Arguments**

    - `flow`: a FlowJAX distribution with a `cond_shape`.
    """

    flow: Any

    def __check_init__(self) -> None:
        if not is_flow(self.flow) or self.flow.cond_shape is None:
            raise TypeError(
                "`flow` must be a FlowJAX distribution with a `cond_shape`, got "
                f"{type(self.flow).__name__}."
            )

    @property
    def event_shape(self) -> Shape:
        return self.flow.shape

    def __call__(self, y: Point, x: Any) -> Scalar:
        return self.given(x)(y)

    def given(self, x: Any) -> FlowEnergy:
        """The density of `y` at one `x`."""
        return FlowEnergy(self.flow, freeze(x))

    def __repr__(self) -> str:
        return f"-log {name_of(self.flow)}(y; x)"


def is_flow(obj: Any) -> bool:
    """Whether it is a FlowJAX distribution; does not import FlowJAX."""
    names = {(kind.__module__, kind.__name__) for kind in type(obj).__mro__}
    return ("flowjax.distributions", "AbstractDistribution") in names


@convert.register(eqx.Module)
def _(obj: Any, name: str, event_shape: Shape | None) -> AbstractEnergy:
    if not is_flow(obj):
        kind = Callable if callable(obj) else object
        return convert.dispatch(kind)(obj, name, event_shape)
    if obj.cond_shape is not None:
        raise TypeError(
            f"`{name}`, a conditional FlowJAX distribution, is an energy only at one "
            f"condition: `ebm.energies.ConditionalFlow({name}).given(x)`."
        )
    return FlowEnergy(obj)
