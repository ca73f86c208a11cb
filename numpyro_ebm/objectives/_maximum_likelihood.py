"""Maximum likelihood with a computable normaliser."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .._trainable import unfreeze
from .._types import Array, Energy, Float, Key, Point, Scalar
from ..energies import (
    ConditionalEnergy,
    Normalized,
    NormalizedConditional,
    is_conditional,
)
from ..normalizers import AbstractExactMethod, Quadrature
from ._base import AbstractObjective, weighted_mean
from ._batch import Data, as_batch


class MaximumLikelihood(AbstractObjective):
    r"""$\mathbb E[E(x)] + \log Z$, the mean negative log-likelihood, exactly.

    For energies in up to three dimensions, or with up to $2^{20}$ states: the reference for all
    other objectives. Efficient. Each step evaluates the energy at every node of the method; the
    result is a [`Normalized`][numpyro_ebm.Normalized] energy. Shown by
    `tests/objectives/test_population.py`.

    ```python
    objective = ebm.MaximumLikelihood(ebm.Quadrature([-4.0, -4.0], [4.0, 4.0]))
    ```

    **Arguments**

    - `method`: [`Quadrature`][numpyro_ebm.Quadrature] or
      [`Enumeration`][numpyro_ebm.Enumeration]. With a
      [`ConditionalEnergy`][numpyro_ebm.ConditionalEnergy], each point has its own normaliser,
      and the result is a [`NormalizedConditional`][numpyro_ebm.energies.NormalizedConditional].

    **Raises** `ValueError` if data lie outside the box of a quadrature, where the normalised
    density is zero. Batches of an iterator that leave the box have an infinite loss.
    """

    method: AbstractExactMethod

    def __check_init__(self) -> None:
        if not isinstance(self.method, AbstractExactMethod):
            raise TypeError(
                "`method` must be exact, such as `ebm.Quadrature(low, high)` or "
                f"`ebm.Enumeration()`, got {self.method!r:.80}."
            )

    def init(self, rng_key: Key, energy: Energy, data: Data) -> tuple[Any, None]:
        batch = as_batch(data)
        jax.eval_shape(lambda: self.method.log_z(batch.energy_at(energy, 0)))
        self._check(batch.points)
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
        if batch.conditions is not None:
            losses = self._confine(batch.map(self._at, trainable), batch.points)
            return weighted_mean(losses, weights), (state, {})
        log_z = self.method.log_z(trainable)
        energies = self._confine(batch.energies(trainable), batch.points)
        return weighted_mean(energies, weights) + log_z, (state, {"log_z": log_z})

    def finalize(self, trainable: Any, state: None) -> Any:
        if isinstance(trainable, ConditionalEnergy):
            return NormalizedConditional(trainable, self.method)
        if is_conditional(trainable):
            return trainable  # It knows its own constants.
        return Normalized(trainable, self.method.log_z(unfreeze(trainable)))

    def _at(self, energy: Energy, x: Point) -> Scalar:
        return energy(x) + self.method.log_z(energy)

    def _confine(self, values: Float[Array, " n"], points: Array) -> Float[Array, " n"]:
        """Infinite at points of zero density."""
        if not isinstance(self.method, Quadrature):
            return values
        return jnp.where(self.method.contains(points), values, jnp.inf)

    def _check(self, points: Array) -> None:
        if not isinstance(self.method, Quadrature) or isinstance(points, Tracer):
            return
        outside = np.flatnonzero(~np.asarray(self.method.contains(points)))
        if len(outside):
            raise ValueError(
                f"`data` must lie in the box of `method`, from {self.method.low} to "
                f"{self.method.high}, outside of which the density counts as zero; "
                f"{len(outside)} of {len(points)} points do not, the first at index "
                f"{outside[0]}: {np.asarray(points[outside[0]])}. Take a wider box."
            )
