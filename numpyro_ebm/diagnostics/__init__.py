"""Checks: the bridge to ArviZ, chain quality, and whether draws fit."""

from .._radial import (
    AbstractRadialKernel as AbstractRadialKernel,
    GaussianKernel as GaussianKernel,
    InverseMultiquadric as InverseMultiquadric,
)
from ._blackjax import from_blackjax as from_blackjax
from ._classes import expected_calibration_error as expected_calibration_error
from ._comparison import (
    Comparison as Comparison,
    HyvarinenScore as HyvarinenScore,
    LogLikelihood as LogLikelihood,
    LogScore as LogScore,
    compare as compare,
    log_likelihood as log_likelihood,
)
from ._datatree import to_arviz as to_arviz
from ._drift import DriftProbe as DriftProbe, drift_probe as drift_probe
from ._energies import (
    EnergyPIT as EnergyPIT,
    energy_pit as energy_pit,
    fisher_divergence as fisher_divergence,
)
from ._jumps import JumpReport as JumpReport, jump_report as jump_report
from ._mixing import MixingReport as MixingReport, mixing_report as mixing_report
from ._modes import ModeReport as ModeReport, mode_report as mode_report
from ._predictive import (
    PredictiveCheck as PredictiveCheck,
    predictive_check as predictive_check,
)
from ._stein import (
    SteinTest as SteinTest,
    kernel_stein_discrepancy as kernel_stein_discrepancy,
)
from ._summaries import summaries as summaries
from ._tempering import (
    TemperingReport as TemperingReport,
    tempering_report as tempering_report,
)
from ._training import TrainingReport as TrainingReport, training_report as training_report
from ._two_sample import (
    TwoSampleTest as TwoSampleTest,
    classifier_two_sample_test as classifier_two_sample_test,
    maximum_mean_discrepancy as maximum_mean_discrepancy,
    sliced_wasserstein as sliced_wasserstein,
)
