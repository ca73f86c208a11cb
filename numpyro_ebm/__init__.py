"""Energy-based models in NumPyro: learn an energy, compose it, sample it, diagnose it.

By convention, `import numpyro_ebm as ebm`. The top level holds what people write in models
and scripts; the rest is in submodules, such as `ebm.energies.Ring` and `ebm.plots.plot_trace`.
"""

__version__ = "0.1.0"

from typing import NoReturn

from . import (
    chains as chains,
    datasets as datasets,
    diagnostics as diagnostics,
    energies as energies,
    estimation as estimation,
    fitting as fitting,
    flows as flows,
    kernels as kernels,
    normalizers as normalizers,
    objectives as objectives,
    plots as plots,
    posteriors as posteriors,
    sampling as sampling,
    sites as sites,
    tasks as tasks,
)
from ._calculus import (
    score as score,
)
from ._guard import (
    UnnormalizedError as UnnormalizedError,
)
from ._trainable import (
    freeze as freeze,
    unfreeze as unfreeze,
)
from .diagnostics import (
    compare as compare,
    drift_probe as drift_probe,
    from_blackjax as from_blackjax,
    log_likelihood as log_likelihood,
    mixing_report as mixing_report,
    mode_report as mode_report,
    tempering_report as tempering_report,
    to_arviz as to_arviz,
    training_report as training_report,
)
from .energies import (
    AbstractEnergy as AbstractEnergy,
    BernoulliRBM as BernoulliRBM,
    ConditionalEnergy as ConditionalEnergy,
    ConvEnergy as ConvEnergy,
    Gaussian as Gaussian,
    GaussianMixture as GaussianMixture,
    IsingModel as IsingModel,
    LatentEnergy as LatentEnergy,
    Mixture as Mixture,
    MLPEnergy as MLPEnergy,
    ModelEnergy as ModelEnergy,
    Normalized as Normalized,
    OnSite as OnSite,
    Tilted as Tilted,
    Transformed as Transformed,
    as_energy as as_energy,
    clamp as clamp,
)
from .estimation import (
    EarlyStopping as EarlyStopping,
    Estimator as Estimator,
)
from .fitting import (
    fit as fit,
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
    GibbsWithGradients as GibbsWithGradients,
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
    compare_models as compare_models,
    log_partition as log_partition,
    normalize as normalize,
)
from .objectives import (
    ContrastiveDivergence as ContrastiveDivergence,
    DenoisingScoreMatching as DenoisingScoreMatching,
    FromData as FromData,
    FromNoise as FromNoise,
    MaximumLikelihood as MaximumLikelihood,
    MultiscaleDenoisingScoreMatching as MultiscaleDenoisingScoreMatching,
    NoiseContrastiveEstimation as NoiseContrastiveEstimation,
    Persistent as Persistent,
    PseudoLikelihood as PseudoLikelihood,
    ScoreMatching as ScoreMatching,
    SlicedScoreMatching as SlicedScoreMatching,
)
from .plots import (
    diagnose as diagnose,
    plot_energy as plot_energy,
    plot_scores as plot_scores,
)
from .posteriors import (
    Exchange as Exchange,
    calibrate_weight as calibrate_weight,
    check_surrogate as check_surrogate,
    exchange_report as exchange_report,
    loss_factor as loss_factor,
    normalized_by as normalized_by,
    surrogate_log_z as surrogate_log_z,
)
from .sampling import (
    sample as sample,
    sample_moments as sample_moments,
)
from .saving import (
    load as load,
    save as save,
)
from .sites import (
    EnergyDistribution as EnergyDistribution,
    factor as factor,
)


def __getattr__(name: str) -> NoReturn:
    for room in _ROOMS:
        if name in vars(room):
            where = f"`{room.__name__}.{name}`"
            raise AttributeError(f"`numpyro_ebm.{name}` is {where}.", name=name)
    raise AttributeError(f"`numpyro_ebm` has no `{name}`.", name=name)


_ROOMS = (
    *(energies, kernels, sampling, normalizers, objectives),
    *(estimation, diagnostics, tasks, posteriors, fitting, plots),
)
