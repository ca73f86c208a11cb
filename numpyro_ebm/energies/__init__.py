"""What is modelled: energies, their algebra, and the bridges from NumPyro."""

from ._base import (
    AbstractEnergy as AbstractEnergy,
    Scaled as Scaled,
    Sum as Sum,
    as_energy as as_energy,
    energy_named as energy_named,
)
from ._bridges import (
    DistributionEnergy as DistributionEnergy,
    FunctionEnergy as FunctionEnergy,
    from_distribution as from_distribution,
    is_normalized as is_normalized,
)
from ._categorical_rbm import CategoricalRBM as CategoricalRBM
from ._clamped import Clamped as Clamped, clamp as clamp
from ._classes import ClassEnergy as ClassEnergy, Logits as Logits
from ._conditional import (
    AbstractConditional as AbstractConditional,
    ConditionalEnergy as ConditionalEnergy,
    Given as Given,
    NormalizedConditional as NormalizedConditional,
    is_conditional as is_conditional,
    is_given as is_given,
)
from ._constants import forget_constants as forget_constants
from ._counts import ConwayMaxwellPoisson as ConwayMaxwellPoisson
from ._flat import Flat as Flat, flattened as flattened
from ._flows import ConditionalFlow as ConditionalFlow, FlowEnergy as FlowEnergy
from ._gaussian import Gaussian as Gaussian, GaussianMixture as GaussianMixture
from ._graphs import (
    GWESP as GWESP,
    AbstractGraphStatistic as AbstractGraphStatistic,
    Edges as Edges,
    ExponentialRandomGraph as ExponentialRandomGraph,
    Triangles as Triangles,
    TwoStars as TwoStars,
    as_adjacency as as_adjacency,
    as_dyads as as_dyads,
)
from ._ising import IsingModel as IsingModel
from ._latent import LatentEnergy as LatentEnergy, Marginal as Marginal
from ._levels import (
    discrete_levels as discrete_levels,
    discrete_support as discrete_support,
    has_few_states as has_few_states,
    is_discrete as is_discrete,
)
from ._log_z import (
    LogZ as LogZ,
    check_level as check_level,
    judged as judged,
    lacks_level as lacks_level,
    missing_level as missing_level,
)
from ._model import (
    ModelEnergy as ModelEnergy,
    ModelPrior as ModelPrior,
    models_in as models_in,
)
from ._networks import (
    ConvEnergy as ConvEnergy,
    ConvNetwork as ConvNetwork,
    MLPEnergy as MLPEnergy,
    MLPNetwork as MLPNetwork,
)
from ._normalized import (
    Mixture as Mixture,
    Normalized as Normalized,
    confined as confined,
)
from ._on_site import OnSite as OnSite
from ._one_hot import OneHot as OneHot
from ._points import check_energy as check_energy, check_points as check_points
from ._potts import PottsModel as PottsModel
from ._preprocessing import (
    Logit as Logit,
    Standardize as Standardize,
    Whiten as Whiten,
    dequantize as dequantize,
)
from ._rbm import (
    AbstractRBM as AbstractRBM,
    BernoulliRBM as BernoulliRBM,
    GaussianBernoulliRBM as GaussianBernoulliRBM,
)
from ._referenced import (
    Referenced as Referenced,
    check_reference as check_reference,
    find_reference as find_reference,
    reference_for as reference_for,
)
from ._states import (
    all_states as all_states,
    draw_levels as draw_levels,
    has_level as has_level,
    other_levels as other_levels,
)
from ._strauss import StraussProcess as StraussProcess
from ._student import StudentT as StudentT
from ._supports import (
    bijection as bijection,
    box_of as box_of,
    elementwise as elementwise,
    is_real as is_real,
    is_within as is_within,
    same_support as same_support,
)
from ._targets import Banana as Banana, DoubleWell as DoubleWell, Funnel as Funnel, Ring as Ring
from ._tilted import Bounded as Bounded, Tilted as Tilted
from ._transformed import (
    Transformed as Transformed,
    unconstrained as unconstrained,
    unconstrained_from as unconstrained_from,
)
