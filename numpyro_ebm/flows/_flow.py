"""A flow inside a move: what it draws, how dense it is there, and the map it is made of."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._trainable import unfreeze
from .._types import Array, Float, Key, PyTree, Scalar, Shape
from .._values import ByValue
from ..energies import AbstractEnergy, FlowEnergy
from ._flowjax import flowjax


class Flow(eqx.Module):
    """A density of $z$, and what else its draws need to be points: $x = m + s z$.

    Its arrays are arguments of compiled code, and everything else is compared by value.
    """

    arrays: PyTree
    rest: ByValue = eqx.field(static=True)
    loc: Float[Array, " d"]
    scale: Float[Array, " d"]

    @classmethod
    def of(cls, density: AbstractEnergy) -> "Flow":
        arrays, rest = eqx.partition(density, eqx.is_array)
        size = math.prod(density.event_shape or ())
        dtype = jnp.result_type(float)
        return cls(arrays, ByValue(rest), jnp.zeros(size, dtype), jnp.ones(size, dtype))

    @property
    def density(self) -> AbstractEnergy:
        return eqx.combine(self.arrays, self.rest.value)

    def draw(self, rng_key: Key, num: int) -> Float[Array, "n d"]:
        z = self.density.sample(rng_key, (num,)).reshape(num, -1)
        return self.loc + self.scale * z

    def __call__(self, x: Float[Array, " d"]) -> Scalar:
        r"""$-\log q(x)$, up to a constant."""
        density = self.density
        return density(((x - self.loc) / self.scale).reshape(density.event_shape))


class FlowMap(eqx.Module):
    r"""The bijection $T$ of a flow, from the space of its base distribution."""

    arrays: PyTree
    rest: ByValue = eqx.field(static=True)
    shape: Shape = eqx.field(static=True)

    @classmethod
    def of(cls, flow: Any) -> "FlowMap":
        """The map of a FlowJAX distribution, or of an energy made of one.

        **Raises** `TypeError` if that does not transform another distribution.
        """
        flow = _distribution(flow)
        if not is_map(flow):
            raise TypeError(
                "`flow` must be a FlowJAX distribution that transforms another one, such as "
                "`ebm.flows.coupling_flow(rng_key, event_shape)`, got "
                f"{type(flow).__name__}."
            )
        arrays, rest = eqx.partition(flow, eqx.is_array)
        return cls(arrays, ByValue(rest), flow.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def push(self, z: Array) -> tuple[Array, Scalar]:
        r"""$T(z)$ and $\log\lvert T'(z)\rvert$."""
        return self._map("transform_and_log_det", z)

    def pull(self, x: Array) -> tuple[Array, Scalar]:
        r"""$z = T^{-1}(x)$ and $-\log\lvert T'(z)\rvert$."""
        return self._map("inverse_and_log_det", x)

    def _map(self, method: str, x: Array) -> tuple[Array, Scalar]:
        flow = eqx.combine(self.arrays, self.rest.value)
        # FlowJAX relies on rank promotion, which may be switched off.
        with jax.numpy_rank_promotion("allow"):
            # Its distributions unwrap their parameters themselves, its bijections don't.
            bijection = flowjax().paramax.unwrap(flow).merge_transforms().bijection
            y, log_det = getattr(bijection, method)(x.reshape(self.shape))
        return y.reshape(x.shape), log_det


def is_map(flow: Any) -> bool:
    """Whether it is a FlowJAX distribution that transforms another one."""
    flow = _distribution(flow)
    kind = flowjax().distributions.AbstractTransformed
    return isinstance(flow, kind) and flow.cond_shape is None


def _distribution(flow: Any) -> Any:
    return unfreeze(flow.flow if isinstance(flow, FlowEnergy) else flow)


def check_size(size_of_flow: int, size: int) -> None:
    """Raise unless a flow and the chains have as many coordinates."""
    if size != size_of_flow:
        raise ValueError(
            f"`flow` lives on {size_of_flow} coordinates, and the chains move on {size}, in "
            f"unconstrained space: build one on points of shape ({size},)."
        )
