"""`AbstractMove`: one BlackJAX algorithm, with everything that may change as an array."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from .._types import Array, Energy, Key, Point, Scalar


class AbstractMove(eqx.Module):
    """One Markov transition that leaves $e^{-E}$ invariant.

    `init` and `step` are pure and pass BlackJAX's own state and info through. The step size
    and the metric are fields, so that adapting them, like changing the energy, recompiles
    nothing. The state caches the energy and its gradient: after the energy has changed, call
    `init` again.
    """

    step_size: eqx.AbstractVar[float | Scalar]
    #: The diagonal or the whole of the inverse mass matrix; `None` is the identity.
    inverse_mass_matrix: eqx.AbstractVar[Array | None]

    @abc.abstractmethod
    def init(self, position: Point, energy: Energy) -> Any:
        """The state of a chain that stands at `position`."""

    @abc.abstractmethod
    def step(self, rng_key: Key, state: Any, energy: Energy) -> tuple[Any, Any]:
        """One transition: the next state, and BlackJAX's information about the way there."""

    def metric(self, position: Point) -> Array:
        if self.inverse_mass_matrix is not None:
            return self.inverse_mass_matrix
        return jnp.ones(ravel_pytree(position)[0].size, jnp.result_type(float))


def as_position(position: Point) -> Point:
    """Arrays of JAX's default float type: BlackJAX draws its noise in that type."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(float)), position)


def log_density(energy: Energy) -> Callable[[Point], Scalar]:
    """BlackJAX wants the log-density, which is minus the energy."""
    return lambda x: -energy(x)
