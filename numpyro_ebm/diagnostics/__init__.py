"""How one checks: the bridge to ArviZ, what chains are worth, and whether draws fit."""

from ._radial import (
    AbstractRadialKernel as AbstractRadialKernel,
    GaussianKernel as GaussianKernel,
    InverseMultiquadric as InverseMultiquadric,
)
from ._summaries import summaries as summaries
from .arviz import to_arviz as to_arviz
from .blackjax import from_blackjax as from_blackjax
from .drift import DriftProbe as DriftProbe, drift_probe as drift_probe
from .energies import (
    EnergyPIT as EnergyPIT,
    energy_pit as energy_pit,
    fisher_divergence as fisher_divergence,
)
from .mixing import MixingReport as MixingReport, mixing_report as mixing_report
from .modes import ModeReport as ModeReport, mode_report as mode_report
from .predictive import (
    PredictiveCheck as PredictiveCheck,
    predictive_check as predictive_check,
)
from .stein import (
    SteinTest as SteinTest,
    kernel_stein_discrepancy as kernel_stein_discrepancy,
)
from .training import TrainingReport as TrainingReport, training_report as training_report
from .two_sample import (
    TwoSampleTest as TwoSampleTest,
    classifier_two_sample_test as classifier_two_sample_test,
    maximum_mean_discrepancy as maximum_mean_discrepancy,
    sliced_wasserstein as sliced_wasserstein,
)
