"""The move of `FlowJump`: a local one, then jumps that Metropolis accepts."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

import math
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.flatten_util import ravel_pytree

from .._types import Array, Energy, Float, Key, Metric, Point, PyTree, Scalar, Shape
from .._values import ByValue
from ..chains import AbstractMove, Report, log_density, settle
from ..energies import AbstractEnergy


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


class JumpState(NamedTuple):
    """The state of the inner move, and how likely the last jump was.

    - **position**, **logdensity**: those of the chain.
    - **inner**: the state of the inner move, at the same position.
    - **jump_prob**: the mean acceptance probability of the jumps of the last transition.
    """

    position: Point
    logdensity: Scalar
    inner: Any
    jump_prob: Scalar


class JumpInfo(NamedTuple):
    """The report of the inner move."""

    report: Report


class JumpMove(AbstractMove):
    r"""The inner move, then `num_jumps` times $x \to y \sim q$, accepted by Metropolis."""

    inner: AbstractMove
    flow: Flow
    num_jumps: int = eqx.field(static=True)
    kept: ClassVar[tuple[str, ...]] = ("jump_prob",)

    @property
    def step_size(self) -> Any:
        return self.inner.step_size

    @property
    def inverse_mass_matrix(self) -> Metric | None:
        return self.inner.inverse_mass_matrix

    @property
    def is_hamiltonian(self) -> bool:
        return self.inner.is_hamiltonian

    @property
    def is_exact(self) -> bool:
        return self.inner.is_exact

    def check(self, energy: AbstractEnergy) -> None:
        self.inner.check(energy)

    def init(self, rng_key: Key, position: Point, energy: Energy) -> JumpState:
        size = ravel_pytree(position)[0].size
        if size != len(self.flow.loc):
            raise ValueError(
                f"`flow` lives on {len(self.flow.loc)} coordinates, and the chains move on "
                f"{size}, in unconstrained space: build one on points of shape ({size},)."
            )
        inner = self.inner.init(rng_key, position, energy)
        return JumpState(
            inner.position, inner.logdensity, inner, jnp.zeros_like(inner.logdensity)
        )

    def step(
        self, rng_key: Key, state: JumpState, energy: Energy
    ) -> tuple[JumpState, JumpInfo]:
        move_key, jump_key = jr.split(rng_key)
        new, info = self.inner.step(move_key, state.inner, energy)
        new, report = settle(state.inner, new, self.inner.report(info))
        new, jump_prob = self._jump(jump_key, new, energy)
        return JumpState(new.position, new.logdensity, new, jump_prob), JumpInfo(report)

    def report(self, info: JumpInfo) -> Report:
        # One gradient where the jumps end.
        return info.report._replace(n_grad=info.report.n_grad + self.num_jumps + 1)

    def refresh(self, state: JumpState, energy: Energy) -> JumpState:
        inner = self.inner.refresh(state.inner, energy)
        return state._replace(logdensity=inner.logdensity, inner=inner)

    def started(self, rng_key: Key, position: Point, energy: Energy) -> "JumpMove":
        return with_inner(self, self.inner.started(rng_key, position, energy))

    def draw_start(self, rng_key: Key, energy: Energy, shape: Shape) -> Array:
        return self.inner.draw_start(rng_key, energy, shape)

    def _jump(self, rng_key: Key, state: Any, energy: Energy) -> tuple[Any, Scalar]:
        """A state of the inner move after the jumps, and their mean acceptance probability."""
        draw_key, accept_key = jr.split(rng_key)
        here, unravel = ravel_pytree(state.position)
        log_p = log_density(energy)
        draws = self.flow.draw(draw_key, self.num_jumps)
        log_weights = jax.vmap(lambda x: log_p(unravel(x)) + self.flow(x))(draws)
        u = jr.uniform(accept_key, (self.num_jumps,), here.dtype)
        start = here, state.logdensity + self.flow(here)
        (there, _), accept_prob = jax.lax.scan(_jump, start, (draws, log_weights, u))
        arrived = state._replace(position=unravel(there))
        arrived = self.inner.refresh(arrived, energy)
        has_moved = (there != here).any()
        new = jax.tree.map(lambda a, b: jnp.where(has_moved, a, b), arrived, state)
        return new, accept_prob.mean()


def with_inner(move: JumpMove, inner: AbstractMove) -> JumpMove:
    """The same jumps after another move."""
    return JumpMove(inner, move.flow, move.num_jumps)


def _jump(at: tuple[Array, Scalar], candidate: tuple[Array, Scalar, Scalar]) -> tuple:
    """One jump from a point of weight $p/q$ to another, or none."""
    (_, log_weight), (there, log_candidate, u) = at, candidate
    accept_prob = jnp.nan_to_num(jnp.exp(jnp.minimum(0, log_candidate - log_weight)))
    new = jax.tree.map(
        lambda a, b: jnp.where(u < accept_prob, a, b), (there, log_candidate), at
    )
    return new, accept_prob
