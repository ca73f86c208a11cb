"""The warm-up of a kernel that wraps another one."""

from ..chains import AbstractAdaptation, AbstractMove
from ..kernels import AbstractKernel, step_adaptation
from ._transport_move import TransportAdaptation


def own_adaptation(kernel: AbstractKernel) -> AbstractAdaptation:
    """How the inner `kernel` adapts; raises if it does not move by itself."""
    is_transport = isinstance(kernel.adaptation, TransportAdaptation)
    return kernel.adaptation if is_transport else step_adaptation(kernel)


def travel_of(kernel: AbstractKernel) -> AbstractMove | None:
    """The move of the first part of the warm-up, if the inner `kernel` has one."""
    return kernel.adaptation.traveller(_LONG)[0]


#: A warm-up that is long enough for its parts.
_LONG = 1000
