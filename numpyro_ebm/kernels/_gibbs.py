"""Discrete energies: blocks of independent units, and changes proposed by a gradient."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr

from .._types import Array, Energy, Key, Metric, Point, Scalar, Shape
from ..chains import NO_ADAPTATION, AbstractMove, Report, as_position, report
from ..energies import (
    AbstractEnergy,
    as_energy,
    discrete_levels,
    draw_levels,
    has_level,
    other_levels,
)
from ._numpyro import AbstractKernel


class BlockGibbsState(NamedTuple):
    """The state of a chain, with BlackJAX's names."""

    position: Array
    logdensity: Scalar


class BlockGibbsInfo(NamedTuple):
    """A draw from a conditional distribution is always accepted."""

    acceptance_rate: Scalar


class FlipState(NamedTuple):
    """The state of a chain, with BlackJAX's names."""

    position: Array
    logdensity: Scalar
    logdensity_grad: Array


class FlipInfo(NamedTuple):
    """The proposal of a flip, and whether it was accepted."""

    acceptance_rate: Scalar
    is_accepted: Array
    proposal: FlipState


class BlockGibbsMove(AbstractMove):
    """Draws each block of the energy in turn, given the others."""

    step_size: float | Scalar = 1.0
    inverse_mass_matrix: Metric | None = None

    def check(self, energy: AbstractEnergy) -> None:
        _sweep(energy)

    def init(self, rng_key: Key, position: Point, energy: Energy) -> BlockGibbsState:
        _sweep(energy)
        return BlockGibbsState(position, -energy(position))

    def step(self, rng_key: Key, state: Any, energy: Energy) -> tuple[Any, Any]:
        position = _sweep(energy)(rng_key, state.position)
        new = BlockGibbsState(position, -energy(position))
        return new, BlockGibbsInfo(jnp.ones_like(new.logdensity))

    def report(self, info: BlockGibbsInfo) -> Report:
        return report(info.acceptance_rate)

    def draw_start(self, rng_key: Key, energy: Energy, shape: Shape) -> Array:
        if discrete_levels(energy) is None:
            return super().draw_start(rng_key, energy, shape)
        return random_units(rng_key, energy, shape)


def _sweep(energy: Energy) -> Callable[[Key, Array], Array]:
    sweep = getattr(energy, "gibbs_sweep", None)
    if sweep is None:
        raise TypeError(
            "`BlockGibbs` needs an energy that knows its blocks, such as an RBM, an Ising or a "
            f"Potts model, got {energy!r}. One that is tempered or annealed has lost them; "
            "`GibbsWithGradients` takes any discrete energy."
        )
    return sweep


class GibbsWithGradientsMove(AbstractMove):
    r"""Change unit $i$ to level $v$ with probability $\propto e^{-\Delta_{iv}/2}$.

    $\Delta_{iv}$, the change of the energy, is estimated by the gradient: in the one-hot codes
    of labels, `(*event, level)`, if the energy is known as a function of them.
    """

    step_size: float | Scalar = 1.0
    inverse_mass_matrix: Metric | None = None

    def check(self, energy: AbstractEnergy) -> None:
        _levels(energy)

    def init(self, rng_key: Key, position: Point, energy: Energy) -> FlipState:
        _levels(energy)
        value, gradient = _value_and_slopes(energy, position)
        return FlipState(position, -value, -gradient)

    def step(self, rng_key: Key, state: FlipState, energy: Energy) -> tuple[Any, Any]:
        flip_key, accept_key = jr.split(rng_key)
        levels = _levels(energy)

        def log_changes(state: FlipState) -> tuple[Array, Array]:
            others = other_levels(levels, state.position)
            change = _changes(levels, state, others)
            return others.reshape(-1), jax.nn.log_softmax(0.5 * change.reshape(-1))

        others, forth = log_changes(state)
        choice = jr.categorical(flip_key, forth)
        i = choice // (len(levels) - 1)
        flat = state.position.reshape(-1)
        changed = flat.at[i].set(others[choice]).reshape(state.position.shape)
        proposal = self.init(flip_key, changed, energy)
        others, back = log_changes(proposal)
        # The way back sets unit i to the level that it has now.
        return_to = (len(levels) - 1) * i + jnp.argmin(
            jnp.abs(others.reshape(-1, len(levels) - 1)[i] - flat[i])
        )
        log_ratio = proposal.logdensity - state.logdensity + back[return_to] - forth[choice]
        acceptance = jnp.nan_to_num(jnp.exp(jnp.minimum(0, log_ratio)))
        accepted = jr.uniform(accept_key, (), acceptance.dtype) < acceptance
        new = jax.tree.map(lambda y, x: jnp.where(accepted, y, x), proposal, state)
        return new, FlipInfo(acceptance, accepted, proposal)

    def report(self, info: FlipInfo) -> Report:
        return report(info.acceptance_rate)

    def draw_start(self, rng_key: Key, energy: Energy, shape: Shape) -> Array:
        return random_units(rng_key, energy, shape)


def _value_and_slopes(energy: Energy, x: Array) -> tuple[Scalar, Array]:
    """The energy, and its gradient in the codes of labels, or in the units themselves."""
    of_one_hot = as_energy(energy).of_one_hot
    if of_one_hot is None:
        return jax.value_and_grad(energy)(x)
    return jax.value_and_grad(of_one_hot)(has_level(_levels(energy), x).astype(x.dtype))


def _changes(levels: tuple[float, ...], state: FlipState, others: Array) -> Array:
    """To first order, the change of the log-density if a unit takes one of the others."""
    x, slopes = state.position, state.logdensity_grad
    if slopes.ndim == x.ndim:
        return (others - x[..., None]) * slopes[..., None]
    of_others = jnp.sum(has_level(levels, others) * slopes[..., None, :], -1)
    return of_others - jnp.sum(has_level(levels, x) * slopes, -1)[..., None]


def _levels(energy: Energy) -> tuple[float, ...]:
    levels = discrete_levels(energy)
    if levels is None:
        raise TypeError(
            "`GibbsWithGradients` needs an energy of units with the same few values, such as "
            f"`IsingModel`, `PottsModel` or `BernoulliRBM`, got {energy!r}."
        )
    return levels


def random_units(rng_key: Key, energy: Energy, shape: Shape) -> Array:
    levels = _levels(energy)
    probs = jnp.full(len(levels), 1 / len(levels))
    return as_position(draw_levels(rng_key, levels, probs, shape))


class BlockGibbs(AbstractKernel):
    r"""Gibbs sampling in blocks of units that are independent given the others.

    A restricted Boltzmann machine draws the hidden layer given the visible one, then the
    visible one; an Ising model draws one sublattice (colour) after another: two on a lattice of
    even sides, as on a checkerboard, else three. Asymptotically exact, without rejections.
    Shown by `tests/kernels/test_discrete.py` against enumeration.

    ```python
    mcmc = MCMC(
        ebm.BlockGibbs(potential_fn=rbm), num_warmup=100, num_samples=1000
    )
    ```

    **Arguments**

    - `potential_fn`: a [`BernoulliRBM`][numpyro_ebm.BernoulliRBM],
      [`CategoricalRBM`][numpyro_ebm.energies.CategoricalRBM],
      [`GaussianBernoulliRBM`][numpyro_ebm.energies.GaussianBernoulliRBM],
      [`IsingModel`][numpyro_ebm.IsingModel],
      [`PottsModel`][numpyro_ebm.energies.PottsModel], or an energy with a method
      `gibbs_sweep(rng_key, x)` that leaves its distribution invariant.
    """

    def __init__(
        self, model: Callable[..., Any] | None = None, potential_fn: Energy | None = None
    ) -> None:
        check_no_model(self, model)
        super().__init__(None, potential_fn, BlockGibbsMove(), NO_ADAPTATION)

    @property
    def default_fields(self) -> tuple[str, ...]:
        return ("z", "potential_energy")

    def get_diagnostics_str(self, state: Any) -> str:
        return f"energy {state.potential_energy:.2f}"


class GibbsWithGradients(AbstractKernel):
    r"""Gibbs with gradients [Grathwohl et al. 2021], for energies of units with a few values.

    One gradient of the energy, extended to real points, estimates for all units and values at
    once what a change of one unit would cost. This picks a unit and its new value, and
    Metropolis accepts or rejects. Asymptotically exact for any energy; the better the gradient
    predicts a change, the higher the acceptance. Of labels it is the gradient in their one-hot
    codes, for energies that are functions of them: [`OneHot`][numpyro_ebm.energies.OneHot],
    [`PottsModel`][numpyro_ebm.energies.PottsModel],
    [`CategoricalRBM`][numpyro_ebm.energies.CategoricalRBM], and sums of them. Where others ask
    `x == 2`, the gradient is zero and predicts nothing: all changes are equally likely to be
    proposed. One gradient per transition, at most one change. Shown by
    `tests/kernels/test_discrete.py` against enumeration.

    **Arguments**

    - `potential_fn`: a discrete energy, such as [`IsingModel`][numpyro_ebm.IsingModel] or
      [`BernoulliRBM`][numpyro_ebm.BernoulliRBM], or sums and multiples of them.
    """

    def __init__(
        self, model: Callable[..., Any] | None = None, potential_fn: Energy | None = None
    ) -> None:
        check_no_model(self, model)
        super().__init__(None, potential_fn, GibbsWithGradientsMove(), NO_ADAPTATION)

    @property
    def default_fields(self) -> tuple[str, ...]:
        return ("z", "potential_energy", "accept_prob", "n_grad")

    def get_diagnostics_str(self, state: Any) -> str:
        return f"acc. prob={state.mean_accept_prob:.2f}"


def check_no_model(kernel: AbstractKernel, model: Any) -> None:
    if model is not None:
        raise ValueError(
            f"`{type(kernel).__name__}` takes a discrete energy as `potential_fn`, not a "
            "`model`: NumPyro's potential of a model has no discrete sites. Sample those by "
            "`numpyro.infer.DiscreteGibbs`."
        )
