"""Energy-based models in NumPyro: learn an energy, compose it, sample it, diagnose it.

By convention, `import numpyro_ebm as ebm`.
"""

__version__ = "0.1.0"

from . import datasets as datasets, plots as plots
from ._calculus import score as score
from ._guard import (
    UnnormalizedError as UnnormalizedError,
    check_normalization as check_normalization,
)
from ._trainable import freeze as freeze, unfreeze as unfreeze
from .diagnostics import (
    DriftProbe as DriftProbe,
    EnergyPIT as EnergyPIT,
    GaussianKernel as GaussianKernel,
    InverseMultiquadric as InverseMultiquadric,
    MixingReport as MixingReport,
    ModeReport as ModeReport,
    PredictiveCheck as PredictiveCheck,
    SteinTest as SteinTest,
    TrainingReport as TrainingReport,
    TwoSampleTest as TwoSampleTest,
    classifier_two_sample_test as classifier_two_sample_test,
    drift_probe as drift_probe,
    energy_pit as energy_pit,
    fisher_divergence as fisher_divergence,
    from_blackjax as from_blackjax,
    kernel_stein_discrepancy as kernel_stein_discrepancy,
    maximum_mean_discrepancy as maximum_mean_discrepancy,
    mixing_report as mixing_report,
    mode_report as mode_report,
    predictive_check as predictive_check,
    sliced_wasserstein as sliced_wasserstein,
    to_arviz as to_arviz,
    training_report as training_report,
)
from .diagnostics._comparison import (
    Comparison as Comparison,
    HyvarinenScore as HyvarinenScore,
    LogLikelihood as LogLikelihood,
    LogScore as LogScore,
    compare as compare,
    log_likelihood as log_likelihood,
)
from .energies import (
    AbstractEnergy as AbstractEnergy,
    Banana as Banana,
    BernoulliRBM as BernoulliRBM,
    Clamped as Clamped,
    ConditionalEnergy as ConditionalEnergy,
    ConvEnergy as ConvEnergy,
    DistributionEnergy as DistributionEnergy,
    DoubleWell as DoubleWell,
    FunctionEnergy as FunctionEnergy,
    Funnel as Funnel,
    Gaussian as Gaussian,
    GaussianBernoulliRBM as GaussianBernoulliRBM,
    GaussianMixture as GaussianMixture,
    Given as Given,
    IsingModel as IsingModel,
    LatentEnergy as LatentEnergy,
    Logit as Logit,
    LogZ as LogZ,
    Marginal as Marginal,
    Mixture as Mixture,
    MLPEnergy as MLPEnergy,
    ModelEnergy as ModelEnergy,
    Normalized as Normalized,
    OnSite as OnSite,
    Ring as Ring,
    Scaled as Scaled,
    Standardize as Standardize,
    StudentT as StudentT,
    Sum as Sum,
    Tilted as Tilted,
    Transformed as Transformed,
    as_energy as as_energy,
    clamp as clamp,
    dequantize as dequantize,
    from_distribution as from_distribution,
)
from .estimation import (
    EarlyStopping as EarlyStopping,
    Estimator as Estimator,
    EstimatorRunResult as EstimatorRunResult,
    EstimatorState as EstimatorState,
    NonFiniteError as NonFiniteError,
)
from .kernels import (
    GHMC as GHMC,
    HMC as HMC,
    MALA as MALA,
    NUTS as NUTS,
    AdjustedMCLMC as AdjustedMCLMC,
    AnnealedLangevin as AnnealedLangevin,
    AutoMALA as AutoMALA,
    BarkerMH as BarkerMH,
    BlockGibbs as BlockGibbs,
    ChainState as ChainState,
    GibbsWithGradients as GibbsWithGradients,
    KernelState as KernelState,
    ParallelTempering as ParallelTempering,
    RandomWalkMetropolis as RandomWalkMetropolis,
    TemperedSMC as TemperedSMC,
    UnadjustedLangevin as UnadjustedLangevin,
    UnadjustedMCLMC as UnadjustedMCLMC,
)
from .normalizers import (
    AnnealedImportanceSampling as AnnealedImportanceSampling,
    BridgeSampling as BridgeSampling,
    Enumeration as Enumeration,
    ImportanceSampling as ImportanceSampling,
    NestedSampling as NestedSampling,
    Quadrature as Quadrature,
    SequentialMonteCarlo as SequentialMonteCarlo,
    ThermodynamicIntegration as ThermodynamicIntegration,
    log_partition as log_partition,
    log_partition_ratio as log_partition_ratio,
    normalize as normalize,
)
from .normalizers._integrability import (
    Integrability as Integrability,
    check_integrable as check_integrable,
)
from .objectives import (
    ConditionalNoiseContrastiveEstimation as ConditionalNoiseContrastiveEstimation,
    ContrastiveDivergence as ContrastiveDivergence,
    DenoisingScoreMatching as DenoisingScoreMatching,
    ExplicitScoreMatching as ExplicitScoreMatching,
    FromData as FromData,
    FromNoise as FromNoise,
    GeneralizedScoreMatching as GeneralizedScoreMatching,
    MaximumLikelihood as MaximumLikelihood,
    MonteCarloLogZ as MonteCarloLogZ,
    MultiscaleDenoisingScoreMatching as MultiscaleDenoisingScoreMatching,
    NoiseContrastiveEstimation as NoiseContrastiveEstimation,
    Persistent as Persistent,
    PlainSlicedScoreMatching as PlainSlicedScoreMatching,
    PseudoLikelihood as PseudoLikelihood,
    RatioMatching as RatioMatching,
    ScoreMatching as ScoreMatching,
    ShortRunGenerator as ShortRunGenerator,
    SlicedScoreMatching as SlicedScoreMatching,
    VarianceReducedDenoisingScoreMatching as VarianceReducedDenoisingScoreMatching,
)
from .plots import (
    plot_buffer_ages as plot_buffer_ages,
    plot_chain as plot_chain,
    plot_drift as plot_drift,
    plot_energies as plot_energies,
    plot_energy as plot_energy,
    plot_ess as plot_ess,
    plot_images as plot_images,
    plot_modes as plot_modes,
    plot_rank as plot_rank,
    plot_scores as plot_scores,
    plot_summaries as plot_summaries,
    plot_trace as plot_trace,
    plot_training as plot_training,
)
from .plots._diagnosis import Diagnosis as Diagnosis, diagnose as diagnose
from .sampling import (
    Draws as Draws,
    Moments as Moments,
    sample as sample,
    sample_moments as sample_moments,
)
from .saving import load as load, save as save
from .sites._distribution import EnergyDistribution as EnergyDistribution
