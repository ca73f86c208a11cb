"""How one integrates: exact methods, and estimates that know their error."""

from ._base import (
    AbstractExactMethod as AbstractExactMethod,
    AbstractNormalizer as AbstractNormalizer,
)
from ._verbs import (
    log_partition as log_partition,
    log_partition_ratio as log_partition_ratio,
    normalize as normalize,
)
from .bridge import BridgeSampling as BridgeSampling
from .enumeration import Enumeration as Enumeration
from .importance import (
    AnnealedImportanceSampling as AnnealedImportanceSampling,
    ImportanceSampling as ImportanceSampling,
)
from .nested import NestedSampling as NestedSampling
from .quadrature import Quadrature as Quadrature
from .sequential import (
    SequentialMonteCarlo as SequentialMonteCarlo,
    ThermodynamicIntegration as ThermodynamicIntegration,
)
