"""How one moves: BlackJAX's algorithms as NumPyro kernels."""

from ._adaptation import AdaptState as AdaptState
from ._kernel import AbstractKernel as AbstractKernel, run_short_chain as run_short_chain
from ._move import AbstractMove as AbstractMove
from ._state import HamiltonianState as HamiltonianState, KernelState as KernelState
from .mala import MALA as MALA, MALAMove as MALAMove
from .nuts import NUTS as NUTS, NUTSMove as NUTSMove
