"""Energies in NumPyro models: as sites, and as factors that couple sites."""

from .._guard import (
    UnnormalizedError as UnnormalizedError,
    check_normalization as check_normalization,
)
from ._distribution import EnergyDistribution as EnergyDistribution
from ._factor import EnergyFactor as EnergyFactor, factor as factor
from ._module import trained_module as trained_module
from ._points import over_points as over_points
