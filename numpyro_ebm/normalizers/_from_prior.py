"""The evidence of a NumPyro model, by default."""

import jax.numpy as jnp
import jax.random as jr

from .._types import Key
from ..energies import AbstractEnergy, LogZ
from ._base import AbstractLongMethod
from ._bridge import bridge_from
from ._sequential import SequentialMonteCarlo


class FromPrior(AbstractLongMethod):
    """Islands of particles from the prior, then a bridge from their ends to a Gaussian.

    If the posterior is nearly Gaussian, the bridge is about ten times as precise as the weights
    of the islands. It stands only if those are sound, and agree: draws that miss a mode, or its
    weight, make a bridge that is precise and wrong.
    """

    def run(self, rng_key: Key, energy: AbstractEnergy, *, progress_bar: bool) -> LogZ:
        islands_key, bridge_key = jr.split(rng_key)
        islands = SequentialMonteCarlo(num_particles=2048)
        weights, ends = islands.run_islands(islands_key, energy, progress_bar=progress_bar)
        if not weights.ok:
            return weights
        bridge = bridge_from(bridge_key, energy, ends)
        gap = jnp.abs(bridge.estimate - weights.estimate)
        agree = gap < _MOST_APART * jnp.hypot(bridge.std_error, weights.std_error)
        is_better = bridge.ok and bool(agree) and bool(bridge.std_error < weights.std_error)
        return bridge if is_better else weights


#: Standard errors between the two.
_MOST_APART = 3.0
