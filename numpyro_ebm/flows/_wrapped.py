"""What kernels share that wrap the move of another one, and its warm-up."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

from typing import Any

import equinox as eqx

from .._types import Metric
from ..chains import AbstractAdaptation, AbstractMove
from ..energies import AbstractEnergy


class AbstractWrappedMove(AbstractMove):
    """A move that is tuned, and exact, as its inner one is."""

    inner: eqx.AbstractVar[AbstractMove]

    @property
    def step_size(self) -> Any:
        return self.inner.step_size

    @property
    def inverse_mass_matrix(self) -> Metric | None:
        return self.inner.inverse_mass_matrix

    @property
    def is_hamiltonian(self) -> bool:
        return self.inner.is_hamiltonian

    @property
    def is_exact(self) -> bool:
        return self.inner.is_exact

    @property
    def is_sampler(self) -> bool:
        return self.inner.is_sampler

    def check(self, energy: AbstractEnergy) -> None:
        self.inner.check(energy)


class AbstractWrappedAdaptation(AbstractAdaptation):
    """The warm-up of the inner move, and of what is around it."""

    inner: eqx.AbstractVar[AbstractAdaptation]
    #: The move of the first part of the warm-up, if the inner kernel has one, wrapped too.
    travel: eqx.AbstractVar[AbstractMove | None]

    def check(self, move: Any) -> None:
        self.inner.check(move.inner)

    def traveller(self, num_warmup: int) -> tuple[AbstractMove | None, int]:
        traveller, num_travel = self.inner.traveller(num_warmup)
        return (None, 0) if traveller is None else (self.travel, num_travel)
