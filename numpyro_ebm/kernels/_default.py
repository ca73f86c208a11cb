"""The kernel for an energy, if none is named."""

from ..energies import AbstractEnergy, is_discrete
from ._gibbs import BlockGibbs, GibbsWithGradients
from ._hmc import HMC
from ._numpyro import AbstractKernel


def default_kernel(energy: AbstractEnergy) -> AbstractKernel:
    """A kernel that moves on points like those of `energy`."""
    if not is_discrete(energy):
        return HMC()  # MALA can get stuck in light tails.
    try:
        BlockGibbs().move.check(energy)
    except TypeError:  # It has no blocks.
        return GibbsWithGradients()
    return BlockGibbs()
