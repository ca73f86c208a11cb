"""The no-U-turn sampler."""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
from numpyro.infer.initialization import init_to_uniform

from .._checks import check_count
from .._types import DenseMass, Energy, Key, Metric, Point, Scalar
from ..chains import AbstractMove, Adaptation, Report, Travel, blackjax, log_density
from ._hamiltonian import (
    check_differentiation,
    euclidean,
    hamiltonian_report,
    with_found_step_size,
)
from ._numpyro import AbstractKernel
from ._state import KernelState


class NUTSMove(AbstractMove):
    """A Hamiltonian trajectory that doubles until it turns back, and a point drawn from it."""

    step_size: float | Scalar
    inverse_mass_matrix: Metric | None = None
    is_hamiltonian: ClassVar[bool] = True
    max_tree_depth: int = eqx.field(static=True, default=10)
    find_step_size: bool = eqx.field(static=True, default=False)

    def init(self, rng_key: Key, position: Point, energy: Energy) -> Any:
        return blackjax().mcmc.nuts.init(position, log_density(energy))

    def step(self, rng_key: Key, state: Any, energy: Energy) -> tuple[Any, Any]:
        return blackjax().mcmc.nuts.build_kernel()(
            rng_key,
            state,
            log_density(energy),
            self.step_size,
            euclidean(self.metric(state.position)),
            self.max_tree_depth,
        )

    def report(self, info: Any) -> Report:
        return hamiltonian_report(info)

    def started(self, rng_key: Key, position: Point, energy: Energy) -> AbstractMove:
        return with_found_step_size(self, rng_key, position, energy)


class NUTS(AbstractKernel):
    """The no-U-turn sampler [Hoffman and Gelman 2014], in BlackJAX's multinomial form.

    Asymptotically exact; shown by `tests/kernels/test_exactness.py`. Vectorized chains all wait
    for the longest trajectory among them.

    Beside discrete sites it is a block of NumPyro's `Gibbs`, `(kernel, None)` after
    `(DiscreteGibbs(model), ["z"])`: `DiscreteHMCGibbs`, `MixedHMC` and `HMCECS` accept only
    NumPyro's own kernels.

    ```python
    mcmc = MCMC(ebm.NUTS(model), num_warmup=500, num_samples=1000, num_chains=4)
    ```

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
    - `target_accept_prob`: the mean acceptance probability along trajectories.
    - `trajectory_length`: has no effect, as in NumPyro; it keeps the two signatures alike.
    - `max_tree_depth`: at most `2**max_tree_depth - 1` gradients per transition; a pair gives
      one depth for the warm-up and one for the time after it.
    - `init_strategy`: where the chains of a model start.
    - `find_heuristic_step_size`: double or halve `step_size` before the warm-up, until one
      leapfrog step starts to be rejected.
    - `forward_mode_differentiation`: must be False; BlackJAX differentiates in reverse mode.
    - `regularize_mass_matrix`: shrink the metric of a short window, like Stan and NumPyro but
      relative to the scales found: absolute shrinkage hides scales far below one.
    """

    move: NUTSMove

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
        trajectory_length: float | None = None,
        max_tree_depth: int | tuple[int, int] = 10,
        init_strategy: Callable[..., Any] = init_to_uniform,
        find_heuristic_step_size: bool = False,
        forward_mode_differentiation: bool = False,
        regularize_mass_matrix: bool = True,
    ) -> None:
        check_differentiation(forward_mode_differentiation)
        both = max_tree_depth if isinstance(max_tree_depth, tuple) else (max_tree_depth,)
        for depth in both:
            check_count("max_tree_depth", depth)
        travel = None
        if isinstance(max_tree_depth, tuple):
            warmup_depth, max_tree_depth = max_tree_depth
            in_warmup = NUTSMove(step_size, inverse_mass_matrix, warmup_depth)
            travel = Travel(in_warmup, 1.0, target_accept_prob=target_accept_prob)
        find = find_heuristic_step_size and adapt_step_size
        move = NUTSMove(step_size, inverse_mass_matrix, max_tree_depth, find)
        adaptation = Adaptation(
            adapt_step_size,
            adapt_mass_matrix,
            dense_mass,
            target_accept_prob,
            regularize_mass_matrix,
            travel,
        )
        super().__init__(model, potential_fn, move, adaptation, init_strategy)

    @property
    def default_fields(self) -> tuple[str, ...]:
        return (*super().default_fields, "num_steps")

    def get_diagnostics_str(self, state: KernelState) -> str:
        return f"{state.n_grad} steps of {super().get_diagnostics_str(state)}"

    @property
    def _max_tree_depth(self) -> int:
        # ArviZ reads it to count truncated trajectories.
        return self.move.max_tree_depth
