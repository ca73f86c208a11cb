"""How one checks: the bridge to ArviZ, and what chains are worth."""

from .arviz import to_arviz as to_arviz
from .blackjax import from_blackjax as from_blackjax
from .mixing import MixingReport as MixingReport, mixing_report as mixing_report
from .modes import ModeReport as ModeReport, mode_report as mode_report
