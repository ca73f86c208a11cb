"""`AbstractObjective`: a loss over an energy and a batch."""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._show import show_module
from .._types import Array, Energy, Float, Key, PyTree, Scalar
from ..energies import AbstractEnergy, is_discrete, is_real
from ._batch import Batch, Data, as_batch
from ._curvature import remark_on_curvature, remark_on_losses


class AbstractObjective(eqx.Module):
    """What an [`Estimator`][numpyro_ebm.Estimator] minimises.

    `trainable` is what optax updates: the energy and whatever is learned with it. `state` is
    only carried between steps. An estimator passes its data as a
    [`Batch`][numpyro_ebm.objectives.Batch]. The objectives of this library also take an array
    of points, or a pair `(y, x)` of points and their conditions.
    """

    def __repr__(self) -> str:
        return show_module(self)

    @abc.abstractmethod
    def init(self, rng_key: Key, energy: Energy, data: Batch) -> tuple[PyTree, PyTree]:
        """`(trainable, state)` before the first step; raises if it cannot fit this energy."""

    @abc.abstractmethod
    def loss(
        self,
        rng_key: Key,
        trainable: PyTree,
        state: PyTree,
        batch: Batch,
        weights: Float[Array, " n"] | None,
    ) -> tuple[Scalar, tuple[PyTree, dict[str, Array]]]:
        """`(loss, (state, metrics))` on a batch whose weights, if any, average to one."""

    @abc.abstractmethod
    def finalize(self, trainable: PyTree, state: PyTree) -> Any:
        """What was learned."""

    def without_data(self, energy: Any) -> Batch:
        """What stands for data if none are given; raises if it learns from data."""
        raise TypeError(
            f"`data` is needed: `{type(self).__name__}` learns from data, unlike "
            "`ebm.objectives.ReverseKL(energy)`."
        )

    def quantify(
        self,
        rng_key: Key,
        trainable: PyTree,
        state: PyTree,
        data: Batch,
        weights: Float[Array, " n"] | None,
    ) -> tuple[Any, str | None]:
        """What was learned, with errors computed from all data; and a warning."""
        return self.finalize(trainable, state), None

    def caution(self, energy: Any, data: Data) -> str | None:
        """A warning before the first step, about this energy and these data."""
        return None

    def remark(self, metrics: dict[str, np.ndarray]) -> str | None:
        """A warning from the metrics of a run, its `loss` included, one value per step."""
        return None


class AbstractPointwiseObjective(AbstractObjective):
    """A loss that is a mean over points. A subclass defines it `at` one point."""

    #: Whether it is wrong for constrained or integer points.
    needs_real: ClassVar[bool] = True
    #: Whether it learns from second derivatives of the energy.
    needs_curvature: ClassVar[bool] = False

    @abc.abstractmethod
    def at(self, rng_key: Key, energy: Energy, x: Float[Array, "*event"]) -> Scalar:
        """The loss at one point."""

    def init(self, rng_key: Key, energy: Energy, data: Data) -> tuple[Any, None]:
        if self.needs_real:
            check_real(self, energy)
        return energy, None

    def loss(
        self,
        rng_key: Key,
        trainable: Any,
        state: None,
        batch: Data,
        weights: Float[Array, " n"] | None,
    ) -> tuple[Scalar, tuple[None, dict[str, Array]]]:
        batch = as_batch(batch)
        keys = jr.split(rng_key, len(batch))
        losses = batch.map(lambda energy, x, key: self.at(key, energy, x), trainable, keys)
        return weighted_mean(losses, weights), (state, {})

    def finalize(self, trainable: Any, state: None) -> Any:
        return trainable

    def caution(self, energy: Any, data: Data) -> str | None:
        return remark_on_curvature(energy, data) if self.needs_curvature else None

    def remark(self, metrics: dict[str, np.ndarray]) -> str | None:
        return remark_on_losses(metrics["loss"]) if self.needs_curvature else None


def weighted_mean(values: Float[Array, " n"], weights: Float[Array, " n"] | None) -> Scalar:
    return jnp.mean(values if weights is None else weights * values)


def check_real(objective: Any, energy: Any) -> None:
    """Raise if score matching would be silently wrong."""
    name = type(objective).__name__
    if is_discrete(energy):
        raise ValueError(
            f"`{name}` needs derivatives, and this energy is one of integers: use "
            "`ebm.PseudoLikelihood()` or `ebm.objectives.RatioMatching()`."
        )
    if isinstance(energy, AbstractEnergy) and not is_real(energy.support):
        raise ValueError(
            f"`{name}` is wrong on the support {energy.support}, at whose boundary the density "
            "need not vanish: use `ebm.objectives.GeneralizedScoreMatching()`, or fit an "
            "energy of unconstrained points, `ebm.Transformed(energy, transform)`, to "
            "transformed data."
        )
