"""The states of our kernels: NumPyro's `HMCState` names over BlackJAX's states."""

from typing import Any, NamedTuple

import jax

from .._types import Array, Key, Point, Scalar
from ._adaptation import AdaptState


class KernelState(NamedTuple):
    """The state of one chain, or of many with a leading axis.

    - **i**: the number of transitions made.
    - **move_state**: BlackJAX's state: position, log-density and its gradient. Read them as
      `z`, `potential_energy` and `z_grad` (`None` if the kernel needs no gradient).
    - **accept_prob**: the acceptance probability of the last proposal; of an unadjusted kernel
      what it would be with an adjustment.
    - **mean_accept_prob**: its mean since the start of the warm-up, or since its end.
    - **diverging**: whether the proposal's energy error passed 1000 or was not finite.
    - **n_grad**: the number of gradients that the transition evaluated.
    - **adapt_state**: step size, metric, and the state of their adaptation.
    - **rng_key**: transition `i` draws from `fold_in(rng_key, i)`.
    """

    i: Array
    move_state: Any
    accept_prob: Scalar
    mean_accept_prob: Scalar
    diverging: Array
    n_grad: Array
    adapt_state: AdaptState
    rng_key: Key

    @property
    def z(self) -> Point:
        return self.move_state.position

    @property
    def z_grad(self) -> Point | None:
        gradient = getattr(self.move_state, "logdensity_grad", None)
        return jax.tree.map(lambda g: -g, gradient)

    @property
    def potential_energy(self) -> Scalar:
        return -self.move_state.logdensity


class StillState(NamedTuple):
    """The move state of a model without latent sites."""

    position: Point
    logdensity: Scalar


class HamiltonianState(NamedTuple):
    """A [`KernelState`][numpyro_ebm.KernelState] that also knows its trajectory.

    - **energy**: the Hamiltonian at the end of the transition, momentum included.
    - **num_steps**: the number of steps of its integrator.
    """

    i: Array
    move_state: Any
    accept_prob: Scalar
    mean_accept_prob: Scalar
    diverging: Array
    n_grad: Array
    adapt_state: AdaptState
    rng_key: Key
    energy: Scalar

    z = KernelState.z
    z_grad = KernelState.z_grad
    potential_energy = KernelState.potential_energy

    @property
    def num_steps(self) -> Array:
        return self.n_grad
