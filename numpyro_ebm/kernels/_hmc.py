"""Hamiltonian Monte Carlo, and trajectories for the warm-up of local moves."""

import math
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax.random as jr
from numpyro.infer.initialization import init_to_uniform

from .._checks import check_positive, user_level
from .._types import DenseMass, Energy, Key, Metric, Point, Scalar
from ..chains import (
    AbstractMove,
    Adaptation,
    Report,
    Travel,
    blackjax,
    log_density,
)
from ._hamiltonian import (
    check_differentiation,
    euclidean,
    hamiltonian_report,
    jittered,
    with_end_energy,
    with_found_step_size,
)
from ._numpyro import AbstractKernel
from ._state import KernelState


class HMCMove(AbstractMove):
    """A leapfrog trajectory of a given length, whose end is accepted by Metropolis."""

    step_size: float | Scalar
    inverse_mass_matrix: Metric | None = None
    is_hamiltonian: ClassVar[bool] = True
    trajectory_length: float | Scalar | None = 2 * math.pi
    #: A fixed number of steps instead, with a step that does not vary.
    num_steps: int | None = eqx.field(static=True, default=None)
    find_step_size: bool = eqx.field(static=True, default=False)
    max_steps: int = eqx.field(static=True, default=1000)

    def init(self, rng_key: Key, position: Point, energy: Energy) -> Any:
        return blackjax().mcmc.hmc.init(position, log_density(energy))

    def step(self, rng_key: Key, state: Any, energy: Energy) -> tuple[Any, Any]:
        step_size, num_steps = self.step_size, self.num_steps
        if num_steps is None:
            rng_key, jitter_key = jr.split(rng_key)
            length, most = self.trajectory_length, self.max_steps
            step_size, num_steps = jittered(jitter_key, step_size, length, most)
        hmc, metric = blackjax().mcmc.hmc, euclidean(self.metric(state.position))
        # The move it stands in for may keep more in its state.
        start = hmc.HMCState(state.position, state.logdensity, state.logdensity_grad)
        new, info = hmc.build_kernel()(
            rng_key, start, log_density(energy), step_size, metric, num_steps
        )
        return state._replace(**new._asdict()), with_end_energy(info, state, metric)

    def report(self, info: Any) -> Report:
        return hamiltonian_report(info)

    def started(self, rng_key: Key, position: Point, energy: Energy) -> AbstractMove:
        return with_found_step_size(self, rng_key, position, energy)


def travelling(
    inverse_mass_matrix: Metric | None, adapt_step_size: bool, power: int = 1
) -> Travel | None:
    """Trajectories for the first part of a local move's warm-up, if its step adapts.

    A quarter of a period of a target as wide as the metric says; before the metric is known,
    as many steps as are affordable.
    """
    if not adapt_step_size:
        return None
    move = HMCMove(1.0, inverse_mass_matrix, math.pi / 2, max_steps=64)
    return Travel(move, power=power)


class HMC(AbstractKernel):
    r"""Hamiltonian Monte Carlo [Duane et al. 1987; Neal 2011].

    Asymptotically exact. The step varies by 20 % between transitions: trajectories of a single
    length resonate with the target, so a chain can accept 0.995 of its proposals and not move.
    Shown by `tests/kernels/test_hamiltonian.py` (acceptance against a closed form,
    reversibility) and `test_exactness.py`.

    Beside discrete sites it is a block of NumPyro's `Gibbs`, `(kernel, None)` after
    `(DiscreteGibbs(model), ["z"])`: `DiscreteHMCGibbs`, `MixedHMC` and `HMCECS` accept only
    NumPyro's own kernels.

    **Arguments**

    - `model`: a NumPyro model; or
    - `potential_fn`: anything [`as_energy`][numpyro_ebm.as_energy] takes. It needs
      `init_params` in `MCMC.run` unless it knows its event shape.
    - `step_size`: the leapfrog step; where adaptation starts.
    - `inverse_mass_matrix`: diagonal or dense, over the flattened position, or by blocks of
      sites, `{("x", "y"): matrix}`; where adaptation starts.
    - `adapt_step_size`: adapt the step in warm-up, to `target_accept_prob`.
    - `adapt_mass_matrix`: learn the metric in warm-up, by Stan's windows.
    - `dense_mass`: learn the dense matrix, not only its diagonal, or dense blocks of sites,
      `[("x", "y")]`.
    - `target_accept_prob`: 0.65 is optimal in high dimension; a little more is robust.
    - `num_steps`: a fixed number of leapfrog steps. Set `trajectory_length=None` as well, or
      their step is `trajectory_length / num_steps`, as in NumPyro; either way it does not vary.
    - `trajectory_length`: the mean length of a trajectory, of at most 1000 steps.
    - `init_strategy`: where the chains of a model start.
    - `find_heuristic_step_size`: double or halve `step_size` before the warm-up, until one
      leapfrog step starts to be rejected.
    - `forward_mode_differentiation`: must be False; BlackJAX differentiates in reverse mode.
    - `regularize_mass_matrix`: shrink the metric of a short window, like Stan and NumPyro but
      relative to the scales found: absolute shrinkage hides scales far below one.
    """

    move: HMCMove

    def __init__(
        self,
        model: Callable[..., Any] | None = None,
        potential_fn: Energy | None = None,
        *,
        step_size: float = 1.0,
        inverse_mass_matrix: Metric | None = None,
        adapt_step_size: bool = True,
        adapt_mass_matrix: bool = True,
        dense_mass: DenseMass = False,
        target_accept_prob: float = 0.8,
        num_steps: int | None = None,
        trajectory_length: float | None = 2 * math.pi,
        init_strategy: Callable[..., Any] = init_to_uniform,
        find_heuristic_step_size: bool = False,
        forward_mode_differentiation: bool = False,
        regularize_mass_matrix: bool = True,
    ) -> None:
        check_differentiation(forward_mode_differentiation)
        if num_steps is None and trajectory_length is None:
            raise ValueError(
                "At least one of `num_steps` or `trajectory_length` must be specified."
            )
        for name, value in (("num_steps", num_steps), ("trajectory_length", trajectory_length)):
            if value is not None:
                check_positive(name, value)
        if num_steps is not None and trajectory_length is not None:
            if adapt_step_size:
                warnings.warn(
                    "If both `num_steps` and `trajectory_length` are specified step size can't "
                    "be adapted. Pass `trajectory_length=None`.",
                    stacklevel=user_level(),
                )
            step_size, adapt_step_size = trajectory_length / num_steps, False
        find = find_heuristic_step_size and adapt_step_size
        move = HMCMove(step_size, inverse_mass_matrix, trajectory_length, num_steps, find)
        adaptation = Adaptation(
            adapt_step_size,
            adapt_mass_matrix,
            dense_mass,
            target_accept_prob,
            regularize_mass_matrix,
        )
        super().__init__(model, potential_fn, move, adaptation, init_strategy)

    def get_diagnostics_str(self, state: KernelState) -> str:
        return f"{state.n_grad} steps of {super().get_diagnostics_str(state)}"
