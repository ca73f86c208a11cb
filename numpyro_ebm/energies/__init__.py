"""What is modelled: energies, their algebra, and the bridges from NumPyro."""

from ._base import (
    AbstractEnergy as AbstractEnergy,
    DistributionEnergy as DistributionEnergy,
    FunctionEnergy as FunctionEnergy,
    Scaled as Scaled,
    Sum as Sum,
    as_energy as as_energy,
    check_energy as check_energy,
    discrete_levels as discrete_levels,
    elementwise as elementwise,
    from_distribution as from_distribution,
    is_discrete as is_discrete,
    is_normalized as is_normalized,
    is_real as is_real,
    same_support as same_support,
)
from ._gaussian import Gaussian as Gaussian, GaussianMixture as GaussianMixture
from ._log_z import LogZ as LogZ, judged as judged
from ._networks import ConvEnergy as ConvEnergy, MLPEnergy as MLPEnergy
from ._normalized import (
    Mixture as Mixture,
    Normalized as Normalized,
    exact_sampler as exact_sampler,
    log_z_of as log_z_of,
)
from ._numpyro import ModelEnergy as ModelEnergy, OnSite as OnSite
from ._preprocessing import (
    Logit as Logit,
    Standardize as Standardize,
    dequantize as dequantize,
)
from ._spins import (
    AbstractRBM as AbstractRBM,
    BernoulliRBM as BernoulliRBM,
    GaussianBernoulliRBM as GaussianBernoulliRBM,
    IsingModel as IsingModel,
)
from ._targets import (
    Banana as Banana,
    DoubleWell as DoubleWell,
    Funnel as Funnel,
    Ring as Ring,
    StudentT as StudentT,
)
from ._tilted import Tilted as Tilted
from ._views import (
    Clamped as Clamped,
    ConditionalEnergy as ConditionalEnergy,
    Given as Given,
    LatentEnergy as LatentEnergy,
    Marginal as Marginal,
    Transformed as Transformed,
    bijection as bijection,
    clamp as clamp,
)
