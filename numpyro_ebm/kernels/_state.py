"""`KernelState`: NumPyro's `HMCState` names over a batch of one chain."""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from numpyro.util import is_prng_key

from .._types import Array, Energy, Float, Key, Point, Scalar
from ..chains import (
    ChainState,
    Report,
    Sampler,
    finite_starts,
    refresh_chains,
    start_alone,
    transition,
)


class _OfTrajectories:
    """An attribute that only states of Hamiltonian kernels have, as in NumPyro."""

    def __init__(self, field: str) -> None:
        self.field = field

    def __get__(self, state: Any, owner: type) -> Array:
        if state is None or state.report.energy is None:
            raise AttributeError(f"Only states of Hamiltonian kernels have `{self.field}`.")
        return getattr(state.report, self.field)


class KernelState(eqx.Module):
    """The state of one chain under `MCMC`, or of many with a leading axis.

    - **chain**: a batch of one chain.
    - **report**: what its last transition reported.

    Their contents have NumPyro's names:

    - **i**: the number of transitions made.
    - **z**, **potential_energy**, **z_grad**: the chain's position, energy and gradient, which
      is `None` if the kernel needs none.
    - **accept_prob**: the acceptance probability of the last proposal; for an unadjusted
      kernel, what it would be with an adjustment.
    - **mean_accept_prob**: its mean since the start of the warm-up, or since its end.
    - **diverging**: whether the proposal's energy error passed 1000 or was not finite.
    - **n_grad**: the number of gradients that the transition evaluated.
    - **energy**, **num_steps**: for a Hamiltonian kernel, the Hamiltonian at the end of the
      transition, momentum included, and the number of integrator steps.
    - **move_state**: BlackJAX's state: position, log-density and its gradient.
    - **adapt_state**: step size, metric, and the state of their adaptation.
    - **rng_key**: transition `i` draws from `fold_in(rng_key, i)`.
    """

    chain: ChainState
    report: Report

    energy: ClassVar[Any] = _OfTrajectories("energy")
    num_steps: ClassVar[Any] = _OfTrajectories("n_grad")

    @property
    def i(self) -> Array:
        return self.chain.i

    @property
    def move_state(self) -> Any:
        return self._one(self.chain.move_state)

    @property
    def adapt_state(self) -> Any:
        return self.chain.adapt_state

    @property
    def rng_key(self) -> Key:
        return self._one(self.chain.rng_key)

    @property
    def z(self) -> Point:
        return self.move_state.position

    @property
    def z_grad(self) -> Point | None:
        gradient = getattr(self.move_state, "logdensity_grad", None)
        return jax.tree.map(lambda g: -g, gradient)

    @property
    def potential_energy(self) -> Float[Array, "*chain"]:
        return -self.move_state.logdensity

    @property
    def accept_prob(self) -> Float[Array, "*chain"]:
        return self.report.accept_prob

    @property
    def mean_accept_prob(self) -> Scalar:
        return self._one(self.chain.accept_prob)

    @property
    def diverging(self) -> Array:
        return self.report.diverging

    @property
    def n_grad(self) -> Array:
        return self.report.n_grad

    def _one(self, batch: Any) -> Any:
        """The chain in a batch of one; its axis comes after the axis of many states."""
        axis = jnp.ndim(self.i)
        return jax.tree.map(lambda x: x[(slice(None),) * axis + (0,)], batch)

    def _replace(self, *, rng_key: Key) -> "KernelState":
        # `MCMC` resumes from a state with another key.
        chain = self.chain._replace(rng_key=jnp.expand_dims(rng_key, jnp.ndim(self.i)))
        return KernelState(chain, self.report)


def start_state(
    rng_key: Key, sampler: Sampler, energy: Energy, position: Point, num_warmup: int
) -> KernelState:
    """One chain at `position`, or one per key, before the first transition.

    **Raises** `ValueError` if a chain could never leave its start.
    """
    zero = jnp.zeros((), jnp.result_type(float))
    hamiltonian = zero if sampler.move.is_hamiltonian else None
    nothing = Report(zero, jnp.zeros((), bool), jnp.zeros((), int), None, hamiltonian)

    def start(rng_key: Key, position: Point) -> KernelState:
        chain = start_alone(rng_key, sampler, energy, position, num_warmup)
        return KernelState(chain, nothing)

    state = (start if is_prng_key(rng_key) else jax.vmap(start))(rng_key, position)
    can_move = _each_chain(lambda one: finite_starts(one.chain), state)
    if not isinstance(can_move, Tracer) and not can_move.all():
        raise ValueError(
            "The potential or its gradient is not finite where a chain starts, so it could "
            "never move. Give a better start with `init_params`."
        )
    return state


def next_state(sampler: Sampler, energy: Energy, state: KernelState) -> KernelState:
    """One transition."""
    # All chains have the same `i`; on a batch of numbers `cond` would run both branches.
    i = state.i.reshape(-1)[0]

    def move(one: KernelState) -> KernelState:
        chain, report = transition(sampler, energy, one.chain._replace(i=i))
        report = report._replace(tuning=None)
        return KernelState(chain, jax.tree.map(lambda x: x[0], report))

    return _each_chain(move, state)


def refreshed_state(sampler: Sampler, energy: Energy, state: KernelState) -> KernelState:
    """`state` with its cached energy and gradient recomputed."""

    def refresh(one: KernelState) -> KernelState:
        return KernelState(refresh_chains(sampler, energy, one.chain), one.report)

    return _each_chain(refresh, state)


def _each_chain(fn: Callable[[KernelState], Any], state: KernelState) -> Any:
    return fn(state) if jnp.ndim(state.i) == 0 else jax.vmap(fn)(state)
