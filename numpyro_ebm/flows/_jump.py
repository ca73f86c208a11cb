"""Jumps of chains to draws of a flow, between the moves of another kernel."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

from .._checks import check_count, check_positive
from .._types import EnergyLike
from ..energies import FlowEnergy
from ..kernels import AbstractKernel
from ._adaptation import own_adaptation, travel_of
from ._density import as_density
from ._flow import Flow
from ._jump_adaptation import FlowTraining, JumpAdaptation
from ._jump_move import JumpMove, with_inner


class FlowJump(AbstractKernel):
    r"""Moves of another kernel, and jumps to independent draws $y \sim q$ of a flow.

    After a move of the inner kernel to $x$, the chain jumps to $y$ with probability
    $\min(1, \frac{p(y)\,q(x)}{p(x)\,q(y)})$, so $p$ stays invariant whatever the flow
    [Gabrié, Rotskoff and Vanden-Eijnden 2022]. A good flow carries chains between modes that no
    local move connects, in the right proportions; a bad one wastes its draws. Asymptotically
    exact if the inner kernel is. Shown by `tests/flows/test_jumps.py` (weights of modes,
    stationarity under a bad flow, exact ranks).

    ```python
    kernel = ebm.flows.FlowJump(ebm.MALA(), flow)
    draws = ebm.sample(jax.random.key(1), energy, kernel)
    print(ebm.diagnostics.jump_report(draws))
    ```

    The flow lives in unconstrained space, for a NumPyro model on the vector of its latent
    sites, in alphabetical order: `FlowJump(ebm.NUTS(model), flow)` runs under `MCMC`. With
    `adapt_flow`, the warm-up fits the flow by $KL(p\,\|\,q)$ to the points that the chains have
    visited, and then freezes it. It can only learn modes that some chain has found, so start
    many chains far apart with `ebm.sample`; under `MCMC` each chain learns alone.

    **Arguments**

    - `kernel`: the inner kernel; under `MCMC`, with its model or potential. It adapts as it
      would alone. [`FlowTransport`][numpyro_ebm.flows.FlowTransport] is one, too.
    - `flow`: $q$, of FlowJAX or any density with `log_z` and `sampler`, such as a Gaussian. It
      is not changed, unless `adapt_flow`.
    - `num_jumps`: attempts in a row, whose energies are computed at once. Each takes one energy
      and two densities of the flow.
    - `share`: the share of transitions that jump. By default, the last third of the warm-up
      finds the share at which jumps take $\sqrt a$ of the time, where $a$ is their acceptance
      probability: from one transition in 64, if none succeeds, to all. Time is estimated from
      operations. Before, and without a warm-up, all transitions jump.
    - `adapt_flow`: train the flow in warm-up, one step per transition.
    - `learning_rate`: of this training; it falls to zero.

    **Raises** `ValueError` if the flow lives on other points, or the target is discrete.
    """

    move: JumpMove

    def __init__(
        self,
        kernel: AbstractKernel,
        flow: EnergyLike,
        *,
        num_jumps: int = 1,
        share: float | None = None,
        adapt_flow: bool = False,
        learning_rate: float = 3e-3,
    ) -> None:
        inner = own_adaptation(kernel)
        check_count("num_jumps", num_jumps)
        check_positive("learning_rate", learning_rate)
        if share is not None and not 0 < share <= 1:
            raise ValueError(f"`share` must be above 0 and at most 1, got {share}.")
        density = as_density(flow)
        if adapt_flow and not isinstance(density, FlowEnergy):
            raise ValueError(
                "`adapt_flow` trains flows of FlowJAX, whose parameters may take any value, "
                f"such as `ebm.flows.coupling_flow(rng_key, event_shape)`, got {density!r}."
            )
        training = FlowTraining(learning_rate) if adapt_flow else None
        first_share = 1.0 if share is None else float(share)
        move = JumpMove(kernel.move, Flow.of(density), first_share, num_jumps)
        travel = travel_of(kernel)
        travel = None if travel is None else with_inner(move, travel)
        adaptation = JumpAdaptation(inner, share is None, training, travel)
        target = kernel.model, kernel.potential_fn
        super().__init__(*target, move, adaptation, kernel.init_strategy)

    @property
    def default_fields(self) -> tuple[str, ...]:
        return (*super().default_fields, *(f"move_state.{name}" for name in self.move.kept))
