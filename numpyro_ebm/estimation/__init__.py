"""How an energy is fitted: optax drives an objective; the only door to optax."""

from ._estimator import Estimator as Estimator
from ._result import (
    EstimatorRunResult as EstimatorRunResult,
    NonFiniteError as NonFiniteError,
)
from ._state import EstimatorState as EstimatorState
from ._watching import EarlyStopping as EarlyStopping
