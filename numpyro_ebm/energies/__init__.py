"""What is modelled: energies, their algebra, and the bridges from NumPyro."""

from ._base import (
    AbstractEnergy as AbstractEnergy,
    DistributionEnergy as DistributionEnergy,
    FunctionEnergy as FunctionEnergy,
    Scaled as Scaled,
    Sum as Sum,
    as_energy as as_energy,
    check_energy as check_energy,
)
from ._gaussian import Gaussian as Gaussian, GaussianMixture as GaussianMixture
from ._tilted import Tilted as Tilted
