r"""$\log Z$ by importance sampling from a flow that is fitted for it."""

import dataclasses
from typing import Any

import equinox as eqx

from .._checks import check_count
from .._types import Key
from ..energies import AbstractEnergy, LogZ, judged
from ..normalizers import AbstractLongMethod
from ._approximate import approximate


class LearnedProposal(AbstractLongMethod):
    r"""$\log\frac1n\sum_i w_i$, $w_i = e^{-E(x_i)}/q(x_i)$, from a flow $q$ fitted to $E$.

    [`approximate`][numpyro_ebm.flows.approximate] draws from the energy, by `num_draws`
    particles of tempered sequential Monte Carlo, and fits the flow to these draws;
    importance sampling from the flow does not rely on them. Unbiased for $Z$, whatever the
    flow. There is no interval if the effective sample size or the tail of the weights does not
    allow it, if the flow misses part of the target, or if no step size suits all of the
    target, as in a funnel, the end of whose neck a flow may lack unseen. A method for modes far
    apart and curved targets in up to some thirty dimensions. Shown by
    `tests/flows/test_learned.py`.

    ```python
    wide = dist.Normal(0, 5).expand([2]).to_event(1)
    method = ebm.flows.LearnedProposal(flow, wide)
    log_z = ebm.log_partition(jax.random.key(0), energy, method)
    ```

    **Arguments**

    - `flow`: what is fitted, in unconstrained space; by default
      [`coupling_flow`][numpyro_ebm.flows.coupling_flow].
    - `reference`: where the particles start, wider than the target; by default the energy's
      own. None is needed by an energy with a `sampler`.
    - `num_draws`: particles. Each takes 20 gradients per temperature.
    - `num_steps`: steps of the fit, each of 256 gradients.
    - `num_samples`: draws of the flow, one evaluation of the energy each.
    """

    flow: Any = None
    reference: Any = None
    num_draws: int = eqx.field(static=True, default=4096, kw_only=True)
    num_steps: int = eqx.field(static=True, default=1200, kw_only=True)
    num_samples: int = eqx.field(static=True, default=50_000, kw_only=True)

    def __check_init__(self) -> None:
        for name in ("num_draws", "num_steps", "num_samples"):
            check_count(name, getattr(self, name))

    def run(self, rng_key: Key, energy: AbstractEnergy, *, progress_bar: bool) -> LogZ:
        found = approximate(
            rng_key,
            energy,
            self.flow,
            reference=self.reference,
            num_draws=self.num_draws,
            num_steps=self.num_steps,
            num_samples=self.num_samples,
            progress_bar=progress_bar,
        )
        log_z = dataclasses.replace(found.log_z, method=type(self).__name__)
        share = f"{100 * float(found.missed):.2g} % of the draws of the energy"
        beyond = f"{share} have larger weights than all draws of the flow: it misses them"
        return judged(log_z, {beyond: not found.is_covering})
