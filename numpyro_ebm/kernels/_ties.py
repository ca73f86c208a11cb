"""Flips that a sparse graph accepts: of a tie or of an empty dyad, half and half."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr

from .._types import Array, Energy, Key, Metric, Point, Scalar, Shape
from ..chains import NO_ADAPTATION, AbstractMove, Report, report
from ..energies import AbstractEnergy, discrete_levels
from ._gibbs import check_no_model, random_units
from ._numpyro import AbstractKernel


class TieState(NamedTuple):
    """The state of a chain, with BlackJAX's names."""

    position: Array
    logdensity: Scalar


class TieInfo(NamedTuple):
    """The proposal of a flip, and whether it was accepted."""

    acceptance_rate: Scalar
    is_accepted: Array
    proposal: TieState


class TieNoTieMove(AbstractMove):
    """Flip a unit of the upper level, or one of the lower, with probability one half each."""

    step_size: float | Scalar = 1.0
    inverse_mass_matrix: Metric | None = None

    def check(self, energy: AbstractEnergy) -> None:
        _levels(energy)

    def init(self, rng_key: Key, position: Point, energy: Energy) -> TieState:
        _levels(energy)
        return TieState(position, -energy(position))

    def step(self, rng_key: Key, state: TieState, energy: Energy) -> tuple[Any, Any]:
        side_key, unit_key, accept_key = jr.split(rng_key, 3)
        low, high = _levels(energy)
        flat = state.position.reshape(-1)
        ties = flat == high
        num_ties = ties.sum()
        # Only one side is left at the empty and at the complete graph.
        chance = jnp.where(num_ties == 0, 0.0, jnp.where(num_ties == flat.size, 1.0, 0.5))
        takes = ties == jr.bernoulli(side_key, chance)
        i = jr.categorical(unit_key, jnp.where(takes, 0.0, -jnp.inf))
        flipped = flat.at[i].set(low + high - flat[i]).reshape(state.position.shape)
        proposal = TieState(flipped, -energy(flipped))
        there, back = takes.sum(), flat.size - takes.sum() + 1
        log_ratio = proposal.logdensity - state.logdensity
        log_ratio += _log_chance(back, flat.size) - _log_chance(there, flat.size)
        acceptance = jnp.nan_to_num(jnp.exp(jnp.minimum(0, log_ratio)))
        accepted = jr.uniform(accept_key, (), acceptance.dtype) < acceptance
        new = jax.tree.map(lambda y, x: jnp.where(accepted, y, x), proposal, state)
        return new, TieInfo(acceptance, accepted, proposal)

    def report(self, info: TieInfo) -> Report:
        return report(info.acceptance_rate)

    def draw_start(self, rng_key: Key, energy: Energy, shape: Shape) -> Array:
        return random_units(rng_key, energy, shape)


def _log_chance(count: Array, size: int) -> Array:
    """Of picking one unit from `count` on its side, of `size` on both."""
    return jnp.where(count == size, 0.0, -jnp.log(2.0)) - jnp.log(count)


def _levels(energy: Energy) -> tuple[float, float]:
    levels = discrete_levels(energy)
    if levels is None or len(levels) != 2:
        raise TypeError(
            "`TieNoTie` needs an energy of two-valued units, such as "
            f"`energies.ExponentialRandomGraph`, got {energy!r}."
        )
    return levels


class TieNoTie(AbstractKernel):
    r"""The tie/no-tie sampler of sparse graphs [Morris et al. 2008].

    With probability one half it proposes to remove one of the ties, else to add one of the ties
    that are missing; Metropolis and Hastings accept or reject. In a sparse graph, a flip of a
    dyad picked at random would nearly always add a tie, and be rejected. Asymptotically exact,
    for any energy of two-valued units, in which the upper level is a tie. One energy per
    transition, at most one flip. Shown by `tests/energies/test_graphs.py` against enumeration
    and by detailed balance.

    ```python
    graphs = ebm.energies.ExponentialRandomGraph(5, [-1.0, 0.5])
    draws = ebm.sample(
        key, graphs, ebm.kernels.TieNoTie(), num_chains=4, num_samples=100
    )
    ```

    **Arguments**

    - `potential_fn`: an energy of two-valued units, such as
      [`ExponentialRandomGraph`][numpyro_ebm.energies.ExponentialRandomGraph].
    """

    def __init__(
        self, model: Callable[..., Any] | None = None, potential_fn: Energy | None = None
    ) -> None:
        check_no_model(self, model)
        super().__init__(None, potential_fn, TieNoTieMove(), NO_ADAPTATION)

    @property
    def default_fields(self) -> tuple[str, ...]:
        return ("z", "potential_energy", "accept_prob", "n_grad")

    def get_diagnostics_str(self, state: Any) -> str:
        return f"acc. prob={state.mean_accept_prob:.2f}"
