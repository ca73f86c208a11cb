"""Flow-contrastive estimation: noise-contrastive estimation whose noise learns to be data."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from .._checks import as_finite, check_positive
from .._trainable import ascending, constant, unfreeze
from .._types import Array, Energy, EnergyLike, Float, Key, Scalar
from ..energies import (
    AbstractEnergy,
    LogZ,
    Normalized,
    Referenced,
    energy_named,
    forget_constants,
    is_conditional,
    is_discrete,
)
from ..normalizers import ImportanceSampling
from ._base import AbstractObjective, weighted_mean
from ._batch import Data, as_batch
from ._contrastive import with_log_z
from ._drawn import check_drawn, drawn


class FlowContrasted(eqx.Module):
    """What flow-contrastive estimation trains: an energy, its constant, and the noise."""

    energy: Any
    log_z: Scalar | Any
    flow: Any


class FlowContrastiveEstimation(AbstractObjective):
    r"""$\min_q\max_E V,\quad V = \mathbb E_p\log\sigma(G(x)) + \mathbb E_q\log\sigma(-G(u))$.

    Noise-contrastive estimation whose noise is a flow $q$ that learns to look like data [Gao et
    al. 2020], with $G(x) = -E(x) - \log Z - \log q(x)$. The energy tells data from draws of the
    flow; the flow follows the same value downhill. At the best energy,
    $V = -\log 4 + 2\,\mathrm{JSD}(p\,\|\,q)$. So in the end $V \approx -\log 4$, the classifier
    is right half of the time, and both $e^{-E}/Z$ and $q$ are the density of the data.
    Consistent for the energy and its $\log Z$, whatever the flow, where the flow has mass;
    for the flow, if it is flexible enough. Shown by `tests/objectives/test_flow_contrast.py`
    by quadrature.

    The flow best begins as a normal law with the means and scales of the data: the contrast is
    then noise-contrastive estimation at first, from which an energy learns fast. Fitted by
    [`ForwardKL`][numpyro_ebm.objectives.ForwardKL] first, it is close to the data from the
    start, and the energy learns more slowly what lies between modes.

    ```python
    objective = ebm.objectives.FlowContrastiveEstimation(flow)
    optim = ebm.estimation.decaying_adam(2000)
    estimator = ebm.Estimator(objective, optim, ema_decay=0.99)
    result = estimator.run(key, 2000, energy, data)
    ebm.unfreeze(result.energy.reference).sample(key, (10,))  # From the flow.
    ```

    The result is a [`Normalized`][numpyro_ebm.Normalized] energy, whose `reference` is the
    trained flow, as an energy: annealing and chains start from it. Its $\log Z$ is estimated by
    importance sampling from the flow, with that error, as in
    [`NoiseContrastiveEstimation`][numpyro_ebm.NoiseContrastiveEstimation].

    A game has no loss. The losses of a run are $\mathbb E_p[E(x)] + \log Z$, the negative
    log-likelihood, with $\log Z$ from the draws of the step, so early stopping judges the
    energy. The metrics are `accuracy`, of the classifier; `value`, $V$; and `log_z`, the
    classifier's constant.

    **Arguments**

    - `flow`: a flow of FlowJAX, or another density with a `log_z` and reparameterised draws,
      on the support of the energy. It trains too, unless it is frozen by
      [`freeze`][numpyro_ebm.freeze].
    - `flow_rate`: how fast the flow moves, relative to the energy: the ratio of their learning
      rates under Adam and other optimisers that do not see the scale of a gradient. A flow as
      fast as the energy may overflow.
    - `likelihood_weight`: $\lambda$; the flow descends on $V + \lambda\,\mathbb E_p[-\log q]$,
      a hybrid [Grover, Dhar and Ermon 2018]. The value alone hardly notices data that the flow
      has lost, and such a flow overflows in the end. Both terms are least where $q$ is the
      density of the data. Zero is the original game.

    **Raises** `ValueError` if the flow is no such density, and for conditional and discrete
    energies.
    """

    flow: AbstractEnergy
    flow_rate: float | Scalar
    likelihood_weight: float | Scalar

    def __init__(
        self,
        flow: EnergyLike,
        flow_rate: float | Scalar = 0.2,
        likelihood_weight: float | Scalar = 0.1,
    ) -> None:
        check_positive("flow_rate", flow_rate)
        if not as_finite("likelihood_weight", likelihood_weight) >= 0:
            raise ValueError(
                f"`likelihood_weight` must not be negative, got {likelihood_weight}."
            )
        # A constant known now will not be that of the trained flow.
        self.flow = forget_constants(energy_named("flow", flow))
        self.flow_rate = flow_rate
        self.likelihood_weight = likelihood_weight

    def init(self, rng_key: Key, energy: Energy, data: Data) -> tuple[FlowContrasted, Any]:
        if is_conditional(energy) or is_discrete(energy):
            raise ValueError(
                "`FlowContrastiveEstimation` learns energies of real points without "
                f"conditions, got {energy!r}: use `ebm.NoiseContrastiveEstimation()`."
            )
        target = energy_named("energy", energy)
        check_drawn(self, unfreeze(self.flow), target)
        start = unfreeze(FlowContrasted(energy, jnp.zeros(()), self.flow))
        # Classification starts at chance, not at the network's arbitrary volume.
        log_z = _log_mean_exp(_log_odds(start, *drawn(rng_key, start.flow, 1000)))
        log_z = jnp.where(jnp.isfinite(log_z), log_z, 0)
        return FlowContrasted(energy, log_z, self.flow), self.flow

    def loss(
        self,
        rng_key: Key,
        trainable: FlowContrasted,
        state: AbstractEnergy,
        batch: Data,
        weights: Float[Array, " n"] | None,
    ) -> tuple[Scalar, tuple[AbstractEnergy, dict[str, Array]]]:
        points = as_batch(batch).points
        # The energy goes up the value, and the flow down.
        flow = ascending(self._flow(trainable, state))
        draws, costs = drawn(rng_key, flow, len(points))
        of_points = jax.vmap(flow)(points)
        players = FlowContrasted(trainable.energy, trainable.log_z, flow)
        everything = jnp.concatenate([points, draws]), jnp.concatenate([of_points, costs])
        of_data, of_draws = jnp.split(_log_odds(players, *everything), 2)
        errors = jax.nn.softplus(-of_data) + jax.nn.softplus(of_draws)
        value = -weighted_mean(errors, weights)
        flow_nll = weighted_mean(of_points, weights) + flow.log_z
        game = value + self.likelihood_weight * flow_nll
        log_likelihood = -jax.vmap(trainable.energy)(points) - trainable.log_z
        nll = _log_mean_exp(of_draws) - weighted_mean(log_likelihood, weights)
        metrics = {
            "accuracy": 0.5 * (jnp.mean(of_data > 0) + jnp.mean(of_draws < 0)),
            "value": value,
            "log_z": trainable.log_z,
        }
        # With the gradient of the game.
        return constant(nll + game) - game, (state, metrics)

    def finalize(self, trainable: FlowContrasted, state: AbstractEnergy) -> Normalized:
        energy = Referenced(trainable.energy, self._flow(trainable, state))
        return Normalized(energy, unfreeze(trainable.log_z), jnp.inf)

    def _flow(self, trainable: FlowContrasted, start: AbstractEnergy) -> AbstractEnergy:
        """What the flow is: nearer to where it started than what the optimiser moves."""

        def slowed(x: Any, x0: Any) -> Any:
            return x0 + self.flow_rate * (x - x0) if eqx.is_inexact_array(x) else x

        return jax.tree.map(slowed, unfreeze(trainable.flow), unfreeze(start))

    def quantify(
        self,
        rng_key: Key,
        trainable: FlowContrasted,
        state: AbstractEnergy,
        data: Data,
        weights: Float[Array, " n"] | None,
    ) -> tuple[Normalized, str | None]:
        energy, flow = trainable.energy, self._flow(trainable, state)
        found = ImportanceSampling(flow).estimate(rng_key, unfreeze(energy))
        own = LogZ(unfreeze(trainable.log_z), method="classification")
        return with_log_z(Referenced(energy, flow), own, found)

    def remark(self, metrics: dict[str, np.ndarray]) -> str | None:
        accuracy = metrics["accuracy"][-_LAST:].mean()
        value = metrics["value"][-_LAST:].mean()
        if accuracy > _CHASM:
            return (
                f"The flow is told from the data with accuracy {accuracy:.2f}, so it is far "
                "from them: begin with one that has the means and scales of the data, or fit "
                "it by `ebm.objectives.ForwardKL()`; take a more flexible one, or train on."
            )
        if value < _CHANCE - _UNSETTLED:
            return (
                f"The value is {value:.3f} in the end, and no energy that has settled is below "
                f"-log 4 = {_CHANCE:.3f}: train on, or with a larger learning rate; or begin "
                "with a flow that is wider than the data, which teaches the energy faster."
            )
        return None


def _log_odds(
    players: FlowContrasted, points: Array, costs: Float[Array, " n"]
) -> Float[Array, " n"]:
    r"""$G$: the log-odds that each point, of cost $-\log q$, is data and not a draw."""
    log_q = -costs - players.flow.log_z
    return -jax.vmap(players.energy)(points) - players.log_z - log_q


def _log_mean_exp(values: Float[Array, " n"]) -> Scalar:
    return logsumexp(values) - jnp.log(len(values))


#: The value of a classifier that knows nothing, and how far below it is none of chance.
_CHANCE, _UNSETTLED = -float(np.log(4)), 0.05
#: The accuracy from which a flow is far from the data.
_CHASM = 0.95
#: Steps that are looked at.
_LAST = 100
