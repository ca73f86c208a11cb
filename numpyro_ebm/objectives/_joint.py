"""Labels and inputs, learned together by the logits of one network."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_finite
from .._types import Array, Float, Key, PyTree, Scalar
from ..energies import ClassEnergy, Logits
from ._base import AbstractObjective, weighted_mean
from ._batch import Batch, Data, as_batch
from ._divergence import ShortRunGenerator


class JointState(NamedTuple):
    """What the objective of the inputs carries, and the energy as it was."""

    of_inputs: Any
    start: ClassEnergy


class JointLikelihood(AbstractObjective):
    r"""$\mathbb E[-\log p(y \mid x)] + w\,L(x)$, $L$ being an objective of the inputs alone.

    A classifier that is an energy of its inputs, too [Grathwohl et al. 2020]. With an $L$ that
    is the likelihood of $p(x)$, and $w = 1$, the sum is that of $p(x, y)$. The metrics are
    those of $L$, the `cross_entropy`, and the `accuracy` in the batch. Shown by
    `tests/objectives/test_classes.py` against quadrature.

    ```python
    objective = ebm.objectives.JointLikelihood(ebm.ContrastiveDivergence())
    ```

    **Arguments**

    - `of_inputs`: $L$, an objective for real points.
    - `weight`: $w$.

    **Raises** `TypeError` unless the energy is a
    [`ClassEnergy`][numpyro_ebm.energies.ClassEnergy]; `ValueError` if `of_inputs` learns a
    generator instead of an energy.
    """

    of_inputs: AbstractObjective
    weight: float = 1.0

    def __check_init__(self) -> None:
        if not isinstance(self.of_inputs, AbstractObjective):
            raise TypeError(
                "`of_inputs` must be an objective, such as `ebm.ContrastiveDivergence()`, got "
                f"{self.of_inputs!r:.80}."
            )
        check_finite("weight", self.weight)

    def init(self, rng_key: Key, energy: Any, data: Data) -> tuple[Any, JointState]:
        if not isinstance(energy, ClassEnergy):
            raise TypeError(
                "`JointLikelihood` fits an `ebm.energies.ClassEnergy(network, num_classes, "
                f"input_shape)`, got {energy!r:.80}."
            )
        inputs = _inputs(as_batch(data))
        trainable, state = self.of_inputs.init(rng_key, energy.marginal, inputs)
        if isinstance(self.of_inputs.finalize(trainable, state), ShortRunGenerator):
            raise ValueError(
                "`of_inputs` learns a generator, whose potential is not the energy of the "
                "inputs: give it `start=ebm.Persistent()` and a kernel that samples, such as "
                "`ebm.MALA()`."
            )
        return trainable, JointState(state, energy)

    def loss(
        self,
        rng_key: Key,
        trainable: Any,
        state: JointState,
        batch: Data,
        weights: Float[Array, " n"] | None,
    ) -> tuple[Scalar, tuple[JointState, dict[str, Array]]]:
        batch, logits = as_batch(batch), _logits(trainable)
        values = jax.vmap(logits)(batch.conditions)
        losses = jax.vmap(logits.cross_entropy)(batch.points, batch.conditions)
        cross_entropy = weighted_mean(losses, weights)
        hits = jnp.mean(values.argmax(-1) == batch.points)
        loss, (carried, metrics) = self.of_inputs.loss(
            rng_key, trainable, state.of_inputs, _inputs(batch), weights
        )
        metrics = {**metrics, "cross_entropy": cross_entropy, "accuracy": hits}
        return cross_entropy + self.weight * loss, (state._replace(of_inputs=carried), metrics)

    def finalize(self, trainable: Any, state: JointState) -> ClassEnergy:
        return eqx.tree_at(lambda e: e.logits, state.start, _logits(trainable))

    def quantify(
        self,
        rng_key: Key,
        trainable: Any,
        state: JointState,
        data: Data,
        weights: Float[Array, " n"] | None,
    ) -> tuple[ClassEnergy, str | None]:
        inputs = _inputs(as_batch(data))
        _, remark = self.of_inputs.quantify(
            rng_key, trainable, state.of_inputs, inputs, weights
        )
        return self.finalize(trainable, state), remark

    def caution(self, energy: Any, data: Data) -> str | None:
        return self.of_inputs.caution(energy.marginal, _inputs(as_batch(data)))

    def remark(self, metrics: dict[str, np.ndarray]) -> str | None:
        return self.of_inputs.remark(metrics)


def _inputs(batch: Batch) -> Batch:
    """The conditions of the labels, as points."""
    if batch.conditions is None:
        raise ValueError("`data` must be a pair `(labels, inputs)`, got an array.")
    return Batch(batch.conditions)


def _logits(trainable: PyTree) -> Logits:
    """Those inside of what is trained."""

    def found(node: Any) -> bool:
        return isinstance(node, Logits)

    return next(filter(found, jax.tree.leaves(trainable, is_leaf=found)))
