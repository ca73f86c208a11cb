"""The evidence of a NumPyro model, by default."""

from .._types import Key
from ..energies import AbstractEnergy, LogZ
from ..kernels import HMC, TemperedSMC
from ._base import AbstractLongMethod
from ._bridge import BridgeSampling
from ._sequential import SequentialMonteCarlo


class FromPrior(AbstractLongMethod):
    """Populations from the prior, then a bridge from them to a Gaussian; else their weights.

    The bridge is twenty times as precise if the posterior is nearly Gaussian. If it is not, as
    with separate modes, the bridge has no error, and populations weigh themselves.
    """

    def run(self, rng_key: Key, energy: AbstractEnergy, *, progress_bar: bool) -> LogZ:
        # The moves of `SequentialMonteCarlo`.
        populations = TemperedSMC(HMC(num_steps=2, trajectory_length=None), num_steps=2)
        bridge = BridgeSampling(populations).run(rng_key, energy, progress_bar=progress_bar)
        if bridge.ok and bridge.std_error < _PRECISE:
            return bridge
        weights = SequentialMonteCarlo(num_particles=2048)
        return weights.run(rng_key, energy, progress_bar=progress_bar)


#: A bridge with a larger error, in nats, hardly overlaps.
_PRECISE = 0.1
