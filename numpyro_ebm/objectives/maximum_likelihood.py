"""Maximum likelihood, where the normaliser can be computed."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .._trainable import unfreeze
from .._types import Array, Float, Key, PyTree, Scalar
from ..energies import ConditionalEnergy, Normalized
from ..normalizers import AbstractExactMethod, Quadrature
from ._base import AbstractObjective, weighted_mean


class MaximumLikelihood(AbstractObjective):
    r"""$\mathbb E[E(x)] + \log Z$, the mean negative log-likelihood, exactly.

    For energies in up to three dimensions, or of up to 20 two-valued coordinates: the reference
    for all other objectives. Efficient. It evaluates the energy at every node of the method in
    each step; what is learned comes back as a [`Normalized`][numpyro_ebm.Normalized] energy.
    Shown by `tests/objectives/test_population.py`.

    ```python
    objective = ebm.MaximumLikelihood(ebm.Quadrature([-4.0, -4.0], [4.0, 4.0]))
    ```

    **Arguments**

    - `method`: [`Quadrature`][numpyro_ebm.Quadrature] or
      [`Enumeration`][numpyro_ebm.Enumeration]. Of a
      [`ConditionalEnergy`][numpyro_ebm.ConditionalEnergy], each point has a normaliser of its
      own.

    **Raises** `ValueError` for data outside of the box of a quadrature, where the density that
    it normalises is zero. Batches of an iterator that leave the box have an infinite loss.
    """

    method: AbstractExactMethod

    def __check_init__(self) -> None:
        if not isinstance(self.method, AbstractExactMethod):
            raise TypeError(
                "`method` must be exact, such as `ebm.Quadrature(low, high)` or "
                f"`ebm.Enumeration()`, got {self.method!r:.80}."
            )

    def init(self, rng_key: Key, energy: Any, data: PyTree) -> tuple[Any, None]:
        if not isinstance(energy, ConditionalEnergy):
            jax.eval_shape(lambda: self.method.log_z(energy))
        self._check(_points(energy, data))
        return energy, None

    def loss(
        self,
        rng_key: Key,
        trainable: Any,
        state: None,
        batch: PyTree,
        weights: Float[Array, " n"] | None,
    ) -> tuple[Scalar, tuple[None, dict[str, Scalar]]]:
        if isinstance(trainable, ConditionalEnergy):

            def at(point: Any) -> Scalar:
                energy = trainable.given(point[1])
                return energy(point[0]) + self.method.log_z(energy)

            losses = self._confine(jax.vmap(at)(batch), batch[0])
            return weighted_mean(losses, weights), (state, {})
        log_z = self.method.log_z(trainable)
        energies = self._confine(jax.vmap(trainable)(batch), batch)
        return weighted_mean(energies, weights) + log_z, (state, {"log_z": log_z})

    def finalize(self, trainable: Any, state: None) -> Any:
        if isinstance(trainable, ConditionalEnergy):
            return trainable
        return Normalized(trainable, self.method.log_z(unfreeze(trainable)))

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


def _points(energy: Any, data: PyTree) -> Array:
    return data[0] if isinstance(energy, ConditionalEnergy) else data
