"""`Split`: points for training, and points for testing."""

from typing import NamedTuple

import numpy as np

from .._types import Float


class Split(NamedTuple):
    """Points for training, and points for testing."""

    train: Float[np.ndarray, "n *event"]
    test: Float[np.ndarray, "m *event"]
