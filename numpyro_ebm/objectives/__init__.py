"""How one learns: losses over an energy and a batch."""

from ._base import (
    AbstractObjective as AbstractObjective,
    AbstractPointwiseObjective as AbstractPointwiseObjective,
)
from .denoising import DenoisingScoreMatching as DenoisingScoreMatching
from .sliced import SlicedScoreMatching as SlicedScoreMatching
