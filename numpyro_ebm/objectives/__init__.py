"""Learning: losses over an energy and a batch."""

from ._alpha import AlphaDivergence as AlphaDivergence
from ._base import (
    AbstractObjective as AbstractObjective,
    AbstractPointwiseObjective as AbstractPointwiseObjective,
    weighted_mean as weighted_mean,
)
from ._batch import (
    Batch as Batch,
    Data as Data,
    as_batch as as_batch,
    as_float_batch as as_float_batch,
)
from ._contrastive import (
    ConditionalNoiseContrastiveEstimation as ConditionalNoiseContrastiveEstimation,
    NoiseContrastiveEstimation as NoiseContrastiveEstimation,
)
from ._denoising import (
    DenoisingScoreMatching as DenoisingScoreMatching,
    MultiscaleDenoisingScoreMatching as MultiscaleDenoisingScoreMatching,
    VarianceReducedDenoisingScoreMatching as VarianceReducedDenoisingScoreMatching,
)
from ._discrete import PseudoLikelihood as PseudoLikelihood, RatioMatching as RatioMatching
from ._divergence import (
    ContrastiveDivergence as ContrastiveDivergence,
    ShortRunGenerator as ShortRunGenerator,
)
from ._drawn import is_reparametrised as is_reparametrised
from ._explicit import ExplicitScoreMatching as ExplicitScoreMatching
from ._flow_contrast import FlowContrastiveEstimation as FlowContrastiveEstimation
from ._generalized import GeneralizedScoreMatching as GeneralizedScoreMatching
from ._implicit import ScoreMatching as ScoreMatching
from ._joint import JointLikelihood as JointLikelihood
from ._kullback_leibler import ForwardKL as ForwardKL, ReverseKL as ReverseKL
from ._maximum_likelihood import MaximumLikelihood as MaximumLikelihood
from ._replayed import Replayed as Replayed
from ._sliced import (
    PlainSlicedScoreMatching as PlainSlicedScoreMatching,
    SlicedScoreMatching as SlicedScoreMatching,
)
from ._starts import (
    AbstractStart as AbstractStart,
    FromData as FromData,
    FromNoise as FromNoise,
    FromResampledNoise as FromResampledNoise,
    Origin as Origin,
    Persistent as Persistent,
)
from ._stein import KernelSteinDiscrepancy as KernelSteinDiscrepancy
