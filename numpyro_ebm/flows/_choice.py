"""How a flow helps a kernel best, by how good the flow is."""

from typing import Any

from .._types import Scalar
from ..kernels import AbstractKernel
from ._flow import is_map
from ._jump import FlowJump
from ._transport import FlowTransport

#: From this effective sample size on, as a share, jumps do without transport.
_GOOD = 0.01


def kernel_for(flow: Any, ess: Scalar, kernel: AbstractKernel) -> AbstractKernel:
    """`kernel` with jumps to a flow of this ESS, in the flow's space if jumps are rare."""
    if ess < _GOOD and is_map(flow):
        kernel = FlowTransport(kernel, flow)
    return FlowJump(kernel, flow)
