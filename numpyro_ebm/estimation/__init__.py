"""Fitting an energy: optax minimises an objective; the only package that imports optax."""

from ._estimator import Estimator as Estimator
from ._optimisers import decaying_adam as decaying_adam
from ._result import (
    EstimatorRunResult as EstimatorRunResult,
    NonFiniteError as NonFiniteError,
)
from ._state import EstimatorState as EstimatorState
from ._watching import EarlyStopping as EarlyStopping
