"""Draws from an energy, by many chains or by populations."""

from ._draws import AbstractDraws as AbstractDraws, Draws as Draws, SiteDraws as SiteDraws
from ._each import sample_each as sample_each
from ._islands import averaged as averaged, disagreement as disagreement
from ._keep import Moments as Moments
from ._row_draws import AbstractFromRows as AbstractFromRows, RowDraws as RowDraws
from ._verbs import sample as sample, sample_moments as sample_moments
from ._weighted import WeightedDraws as WeightedDraws
