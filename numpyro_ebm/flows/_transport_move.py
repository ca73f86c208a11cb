"""The move of `FlowTransport`: another one, in the space of the base distribution."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.flatten_util import ravel_pytree
from jax.lax import cond

from .._types import Array, Energy, Key, Point, Scalar, Shape
from ..chains import AbstractAdaptation, AbstractMove, Report
from ._flow import FlowMap, check_size
from ._wrapped import AbstractWrappedAdaptation, AbstractWrappedMove


class TransportState(NamedTuple):
    """A chain in both spaces.

    - **position**, **logdensity**: on the points of the energy.
    - **inner**: the state of the inner move, in the space of the base distribution.
    """

    position: Point
    logdensity: Scalar
    inner: Any


class TransportMove(AbstractWrappedMove):
    r"""The inner move on $E(T(z)) - \log\lvert T'(z)\rvert$; the chain is at $x = T(z)$."""

    inner: AbstractMove
    flow: FlowMap

    def init(self, rng_key: Key, position: Point, energy: Energy) -> TransportState:
        z, unravel = self._pulled(position)
        inner = self.inner.init(rng_key, z, pulled_back(energy, self.flow, unravel))
        # The start itself, not what rounding makes of it on the way there and back.
        return self._state(inner, unravel)._replace(position=position)

    def step(
        self, rng_key: Key, state: TransportState, energy: Energy
    ) -> tuple[TransportState, Any]:
        _, unravel = ravel_pytree(state.position)
        there = pulled_back(energy, self.flow, unravel)
        inner, info = self.inner.step(rng_key, state.inner, there)
        return self._state(inner, unravel), info

    def report(self, info: Any) -> Report:
        return self.inner.report(info)

    def refresh(self, state: TransportState, energy: Energy) -> TransportState:
        z, unravel = self._pulled(state.position)
        inner = state.inner._replace(position=z)
        inner = self.inner.refresh(inner, pulled_back(energy, self.flow, unravel))
        return self._state(inner, unravel)._replace(position=state.position)

    def started(self, rng_key: Key, position: Point, energy: Energy) -> "TransportMove":
        z, unravel = self._pulled(position)
        there = pulled_back(energy, self.flow, unravel)
        return TransportMove(self.inner.started(rng_key, z, there), self.flow)

    def draw_start(self, rng_key: Key, energy: Energy, shape: Shape) -> Array:
        """As other kernels start, in the space of the base distribution."""
        check_size(self.flow.size, math.prod(shape))
        z = jr.uniform(rng_key, self.flow.shape, jnp.result_type(float), -2, 2)
        return self.flow.push(z)[0].reshape(shape)

    def _pulled(self, position: Point) -> tuple[Array, Callable[[Array], Point]]:
        x, unravel = ravel_pytree(position)
        check_size(self.flow.size, x.size)
        return self.flow.pull(x)[0], unravel

    def _state(self, inner: Any, unravel: Callable[[Array], Point]) -> TransportState:
        x, log_det = self.flow.push(inner.position)
        return TransportState(unravel(x), inner.logdensity - log_det, inner)


def pulled_back(energy: Energy, flow: FlowMap, unravel: Callable[[Array], Point]) -> Energy:
    r"""$E(T(z)) - \log\lvert T'(z)\rvert$; NaN, which is rejected, if $T(z)$ overflows."""

    def energy_of_base(z: Array) -> Scalar:
        x, log_det = flow.push(z)
        return jnp.where(jnp.isfinite(x).all(), energy(unravel(x)) - log_det, jnp.nan)

    return energy_of_base


class TransportAdaptation(AbstractWrappedAdaptation):
    """Adapts the inner move as its kernel would, to where the chains are in its space."""

    inner: AbstractAdaptation
    flow: FlowMap
    travel: TransportMove | None

    def init(self, move: TransportMove, position: Point, num_warmup: int) -> Any:
        return self.inner.init(move.inner, self._pulled(position), num_warmup)

    def tune(self, move: TransportMove, state: Any) -> TransportMove:
        return TransportMove(self.inner.tune(move.inner, state), move.flow)

    def update(self, i: Array, state: Any, positions: Point, reports: Report) -> Any:
        num_warmup = len(state.schedule)
        if num_warmup == 0:
            return state

        def learn() -> Any:
            return self.inner.update(i, state, jax.vmap(self._pulled)(positions), reports)

        return cond(i < num_warmup, learn, lambda: state)

    def _pulled(self, position: Point) -> Array:
        return self.flow.pull(ravel_pytree(position)[0])[0]
