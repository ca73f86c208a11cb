"""Maximum likelihood, where the normaliser can be computed."""

from typing import Any

import jax

from .._trainable import unfreeze
from .._types import Array, Float, Key, PyTree, Scalar
from ..energies import ConditionalEnergy, Normalized
from ..normalizers import AbstractExactMethod
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
    """

    method: AbstractExactMethod

    def init(self, rng_key: Key, energy: Any, data: PyTree) -> tuple[Any, None]:
        if not isinstance(energy, ConditionalEnergy):
            jax.eval_shape(lambda: self.method.log_z(energy))
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

            return weighted_mean(jax.vmap(at)(batch), weights), (state, {})
        log_z = self.method.log_z(trainable)
        loss = weighted_mean(jax.vmap(trainable)(batch), weights) + log_z
        return loss, (state, {"log_z": log_z})

    def finalize(self, trainable: Any, state: None) -> Any:
        if isinstance(trainable, ConditionalEnergy):
            return trainable
        return Normalized(trainable, self.method.log_z(unfreeze(trainable)))
