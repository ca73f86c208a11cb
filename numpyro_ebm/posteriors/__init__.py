r"""Posteriors of an energy's own parameters, whose $\log Z$ depends on them."""

from ._calibration import Calibration as Calibration, calibrate_weight as calibrate_weight
from ._check import (
    SurrogateCheck as SurrogateCheck,
    check_surrogate as check_surrogate,
)
from ._ensemble import ensemble as ensemble
from ._exchange import Exchange as Exchange
from ._exchange_report import (
    ExchangeReport as ExchangeReport,
    exchange_report as exchange_report,
)
from ._laplace import (
    AbstractCurvature as AbstractCurvature,
    DiagonalCurvature as DiagonalCurvature,
    FullCurvature as FullCurvature,
    LaplacePosterior as LaplacePosterior,
    laplace as laplace,
)
from ._losses import loss_factor as loss_factor
from ._normalized_by import (
    normalized_by as normalized_by,
    quadrature_for as quadrature_for,
)
from ._predictive import (
    PredictiveLogLikelihood as PredictiveLogLikelihood,
    predictive_draws as predictive_draws,
    predictive_log_likelihood as predictive_log_likelihood,
)
from ._proposals import (
    LangevinProposal as LangevinProposal,
    RandomWalkProposal as RandomWalkProposal,
)
from ._sgmcmc import sgmcmc as sgmcmc
from ._surrogate import (
    SurrogateLogZ as SurrogateLogZ,
    surrogate_log_z as surrogate_log_z,
)
from ._variability import (
    AbstractVariability as AbstractVariability,
    Bootstrap as Bootstrap,
    Godambe as Godambe,
    Simulated as Simulated,
)
from ._weights import (
    AbstractEnergyPosterior as AbstractEnergyPosterior,
    EnergyDraws as EnergyDraws,
    disagreement as disagreement,
)
