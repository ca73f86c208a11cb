"""What people do with an energy."""

from ._anomaly import (
    AbstractStatistic as AbstractStatistic,
    AnomalyScores as AnomalyScores,
    HighEnergy as HighEnergy,
    LikelihoodRatio as LikelihoodRatio,
    Typicality as Typicality,
    anomaly_score as anomaly_score,
)
from ._denoise import denoise as denoise
from ._inpaint import inpaint as inpaint
from ._log_ratio import log_density_ratio as log_density_ratio, log_ratio as log_ratio
from ._point_estimates import (
    ModeEstimate as ModeEstimate,
    TweedieEstimate as TweedieEstimate,
    denoise_mode as denoise_mode,
    tweedie as tweedie,
)
from ._predict import predict as predict
from ._prediction import Prediction as Prediction
from ._restoration import Restoration as Restoration
from ._synthesize import Synthesis as Synthesis, synthesize as synthesize
from ._translate import Translation as Translation, translate as translate
