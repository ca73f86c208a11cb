"""The move of a model without latent sites: it does nothing."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Energy, Key, Metric, Point, Scalar
from ..chains import NO_ADAPTATION, AbstractMove, Report, Sampler, report


class StillState(NamedTuple):
    """The move state of a model without latent sites."""

    position: Point
    logdensity: Scalar


class StillMove(AbstractMove):
    """Stays where it is."""

    step_size: float | Scalar
    inverse_mass_matrix: Metric | None = None
    #: Whether the move that it stands in for is Hamiltonian.
    for_hamiltonian: bool = eqx.field(static=True, default=False)

    @property
    def is_hamiltonian(self) -> bool:
        return self.for_hamiltonian

    def init(self, rng_key: Key, position: Point, energy: Energy) -> StillState:
        return StillState(position, -energy(position))

    def step(self, rng_key: Key, state: StillState, energy: Energy) -> tuple[Any, Any]:
        return state, state.logdensity

    def report(self, info: Scalar) -> Report:
        return report(0.0, n_grad=0)._replace(energy=-info)


def sampler_at(position: Point, sampler: Sampler) -> Sampler:
    """`sampler`, if there is anything to move."""
    if jax.tree.leaves(position):
        return sampler
    step_size = jnp.mean(jnp.asarray(sampler.move.step_size))
    still = StillMove(step_size, for_hamiltonian=sampler.move.is_hamiltonian)
    return Sampler(still, NO_ADAPTATION)
