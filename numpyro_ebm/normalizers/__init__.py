"""Integration: exact methods, and estimates with their error."""

from ._base import (
    AbstractExactMethod as AbstractExactMethod,
    AbstractLongMethod as AbstractLongMethod,
    AbstractNormalizer as AbstractNormalizer,
)
from ._bridge import BridgeSampling as BridgeSampling
from ._conditional import (
    as_conditions as as_conditions,
    as_plain as as_plain,
    first_of as first_of,
    quadrature_at as quadrature_at,
    shape_of as shape_of,
)
from ._ends import checks_of as checks_of, run_on as run_on
from ._enumeration import Enumeration as Enumeration
from ._importance import (
    AnnealedImportanceSampling as AnnealedImportanceSampling,
    ImportanceSampling as ImportanceSampling,
)
from ._integrability import (
    Integrability as Integrability,
    check_integrable as check_integrable,
)
from ._models import ModelComparison as ModelComparison, compare_models as compare_models
from ._nested import NestedSampling as NestedSampling
from ._quadrature import Quadrature as Quadrature
from ._reference import annealing as annealing
from ._sequential import (
    SequentialMonteCarlo as SequentialMonteCarlo,
    ThermodynamicIntegration as ThermodynamicIntegration,
)
from ._surrogate import MonteCarloLogZ as MonteCarloLogZ
from ._verbs import (
    default_method as default_method,
    log_partition as log_partition,
    log_partition_ratio as log_partition_ratio,
    normalize as normalize,
)
