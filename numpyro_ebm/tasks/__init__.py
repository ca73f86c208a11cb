"""What people do with an energy."""

from ._predict import Prediction as Prediction, predict as predict
