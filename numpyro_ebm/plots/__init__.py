"""Pictures, with matplotlib and arviz-plots, which are imported at their first use."""

from .arviz import plot_ess as plot_ess, plot_rank as plot_rank, plot_trace as plot_trace
from .chains import plot_chain as plot_chain
from .energies import plot_energies as plot_energies
from .images import plot_images as plot_images
from .mixing import plot_drift as plot_drift, plot_modes as plot_modes
from .planes import plot_energy as plot_energy, plot_scores as plot_scores
from .summaries import plot_summaries as plot_summaries
from .training import plot_buffer_ages as plot_buffer_ages, plot_training as plot_training
