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
    energy_named as energy_named,
    from_distribution as from_distribution,
    is_discrete as is_discrete,
    is_normalized as is_normalized,
)
from ._gaussian import Gaussian as Gaussian, GaussianMixture as GaussianMixture
from ._log_z import LogZ as LogZ, judged as judged
from ._networks import ConvEnergy as ConvEnergy, MLPEnergy as MLPEnergy
from ._normalized import (
    Mixture as Mixture,
    Normalized as Normalized,
    confined as confined,
    forget_constants as forget_constants,
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
from ._supports import (
    bijection as bijection,
    box_of as box_of,
    elementwise as elementwise,
    is_real as is_real,
    is_within as is_within,
    same_support as same_support,
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
    check_points as check_points,
    clamp as clamp,
    is_conditional as is_conditional,
    unconstrained as unconstrained,
    unconstrained_from as unconstrained_from,
)
