"""Plots, with matplotlib and arviz-plots, which are imported at first use.

All take `ax` and return it, and share one [`style`][numpyro_ebm.plots.style].
"""

from ._arviz import plot_ess as plot_ess, plot_rank as plot_rank, plot_trace as plot_trace
from ._axes import style as style
from ._chains import plot_chain as plot_chain
from ._conditional import plot_conditional as plot_conditional
from ._diagnosis import Diagnosis as Diagnosis, diagnose as diagnose
from ._energies import plot_energies as plot_energies
from ._images import plot_images as plot_images
from ._landscapes import plot_density as plot_density, plot_energy as plot_energy
from ._mixing import plot_drift as plot_drift, plot_modes as plot_modes
from ._scores import plot_scores as plot_scores
from ._summaries import plot_summaries as plot_summaries
from ._tempering import (
    plot_barrier as plot_barrier,
    plot_index_process as plot_index_process,
)
from ._training import plot_buffer_ages as plot_buffer_ages, plot_training as plot_training
