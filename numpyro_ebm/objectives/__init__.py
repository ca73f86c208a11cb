"""How one learns: losses over an energy and a batch."""

from ._base import (
    AbstractObjective as AbstractObjective,
    AbstractPointwiseObjective as AbstractPointwiseObjective,
)
from ._batch import Batch as Batch, as_batch as as_batch
from .contrastive import (
    ConditionalNoiseContrastiveEstimation as ConditionalNoiseContrastiveEstimation,
    NoiseContrastiveEstimation as NoiseContrastiveEstimation,
)
from .denoising import (
    DenoisingScoreMatching as DenoisingScoreMatching,
    MultiscaleDenoisingScoreMatching as MultiscaleDenoisingScoreMatching,
    VarianceReducedDenoisingScoreMatching as VarianceReducedDenoisingScoreMatching,
)
from .discrete import PseudoLikelihood as PseudoLikelihood, RatioMatching as RatioMatching
from .divergence import (
    AbstractStart as AbstractStart,
    ContrastiveDivergence as ContrastiveDivergence,
    FromData as FromData,
    FromNoise as FromNoise,
    Persistent as Persistent,
    ShortRunGenerator as ShortRunGenerator,
)
from .explicit import ExplicitScoreMatching as ExplicitScoreMatching
from .generalized import GeneralizedScoreMatching as GeneralizedScoreMatching
from .implicit import ScoreMatching as ScoreMatching
from .maximum_likelihood import MaximumLikelihood as MaximumLikelihood
from .sliced import (
    PlainSlicedScoreMatching as PlainSlicedScoreMatching,
    SlicedScoreMatching as SlicedScoreMatching,
)
from .surrogate import MonteCarloLogZ as MonteCarloLogZ
