"""Flows, normalised densities that can be drawn from, as partners of energies."""

from ._approximate import Approximation as Approximation, approximate as approximate
from ._build import coupling_flow as coupling_flow
from ._jump import FlowJump as FlowJump
from ._learned import LearnedProposal as LearnedProposal
from ._transport import FlowTransport as FlowTransport, transport as transport
