"""Energy-based models in NumPyro: learn an energy, compose it, sample it, diagnose it.

By convention, `import numpyro_ebm as ebm`.
"""

__version__ = "0.1.0"

from . import datasets as datasets, plots as plots
from ._calculus import score as score
from ._trainable import freeze as freeze, unfreeze as unfreeze
from .diagnostics import to_arviz as to_arviz
from .distribution import EnergyDistribution as EnergyDistribution
from .energies import (
    AbstractEnergy as AbstractEnergy,
    DistributionEnergy as DistributionEnergy,
    FunctionEnergy as FunctionEnergy,
    Gaussian as Gaussian,
    GaussianMixture as GaussianMixture,
    Scaled as Scaled,
    Sum as Sum,
    Tilted as Tilted,
    as_energy as as_energy,
)
from .estimation import (
    Estimator as Estimator,
    EstimatorRunResult as EstimatorRunResult,
    EstimatorState as EstimatorState,
    NonFiniteError as NonFiniteError,
)
from .kernels import (
    MALA as MALA,
    NUTS as NUTS,
    HamiltonianState as HamiltonianState,
    KernelState as KernelState,
)
from .objectives import (
    DenoisingScoreMatching as DenoisingScoreMatching,
    SlicedScoreMatching as SlicedScoreMatching,
)
from .plots import plot_energy as plot_energy, plot_images as plot_images
