"""`AbstractObjective`: a loss over an energy and a batch."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from .._types import Array, Float, Key, PyTree, Scalar
from ..energies import AbstractEnergy


class AbstractObjective(eqx.Module):
    """What an [`Estimator`][numpyro_ebm.Estimator] minimises.

    `trainable` is what optax sees: the energy and whatever is learned with it. `state` is only
    carried from step to step.
    """

    @abc.abstractmethod
    def init(self, rng_key: Key, energy: AbstractEnergy, data: Array) -> tuple[PyTree, PyTree]:
        """`(trainable, state)` before the first step."""

    @abc.abstractmethod
    def loss(
        self,
        rng_key: Key,
        trainable: PyTree,
        state: PyTree,
        batch: Float[Array, "n *event"],
        weights: Float[Array, " n"] | None,
    ) -> tuple[Scalar, tuple[PyTree, dict[str, Scalar]]]:
        """`(loss, (state, metrics))` on a batch whose weights, if any, average to one."""

    @abc.abstractmethod
    def finalize(self, trainable: PyTree, state: PyTree) -> Any:
        """What was learned."""


class AbstractPointwiseObjective(AbstractObjective):
    """A loss that is a mean over points. A subclass says what it is `at` one."""

    @abc.abstractmethod
    def at(self, rng_key: Key, energy: AbstractEnergy, x: Float[Array, "*event"]) -> Scalar:
        """The loss at one point."""

    def init(
        self, rng_key: Key, energy: AbstractEnergy, data: Array
    ) -> tuple[AbstractEnergy, None]:
        return energy, None

    def loss(
        self,
        rng_key: Key,
        trainable: AbstractEnergy,
        state: None,
        batch: Float[Array, "n *event"],
        weights: Float[Array, " n"] | None,
    ) -> tuple[Scalar, tuple[None, dict[str, Scalar]]]:
        def at(rng_key: Key, x: Float[Array, "*event"]) -> Scalar:
            return self.at(rng_key, trainable, x)

        losses = jax.vmap(at)(jr.split(rng_key, len(batch)), batch)
        weighted = losses if weights is None else weights * losses
        return jnp.mean(weighted), (state, {})

    def finalize(self, trainable: AbstractEnergy, state: None) -> AbstractEnergy:
        return trainable
