"""`exchange_report`: whether the auxiliary chains of an exchange were long enough."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from numpyro import handlers
from numpyro.infer import MCMC
from numpyro.infer.util import unconstrain_fn
from xarray import Dataset

from .._checks import check_count, check_key
from .._show import Printed, Rows
from .._types import Key, Point
from ._auxiliary import AuxiliaryMove
from ._exchange import Exchange
from ._exchange_move import ExchangeMove
from ._proposals import RandomWalkProposal
from ._unknown import UnknownConstants


@dataclass(frozen=True, repr=False)
class ExchangeReport(Printed):
    r"""The result of `exchange_report`; prints itself.

    - **failures**: sentences that say what is wrong.
    - **table**: for each number `num_aux_steps` of transitions, the mean `log_ratio` that
      proposals are judged by, its standard error `error`, its `share` of the value after the
      most transitions, the mean `accept_prob` of the proposals, and `moved`: by how many
      standard errors the mean differs from that after the most, draw by draw.
    - **aux_accept_prob**: the acceptance of the auxiliary chains in the run.
    - **frac_stuck**: the fraction of proposals rejected because those chains did not move, or
      because something was not a number.
    """

    failures: tuple[str, ...]
    table: Dataset
    aux_accept_prob: float
    frac_stuck: float

    @property
    def ok(self) -> bool:
        """Whether nothing failed. Chains that have missed a mode of the data look fine."""
        return not self.failures

    def _parts(self) -> list[str | Rows]:
        names = list(map(str, self.table))
        rows = [["num_aux_steps", *names]]
        for i, steps in enumerate(self.table["num_aux_steps"].values):
            rows.append([str(steps), *(f"{self.table[n].values[i]:.3g}" for n in names)])
        lines = [f"- {failure}" for failure in self.failures]
        return [
            "Auxiliary chains of an exchange, started at the data",
            "",
            rows,
            "",
            f"Acceptance of the auxiliary chains {self.aux_accept_prob:.2f}; they were stuck "
            f"in {self.frac_stuck:.1%} of the proposals",
            *(["NOT ok:", *lines] if lines else ["ok"]),
        ]


def exchange_report(
    rng_key: Key, mcmc: MCMC, *, num_draws: int = 200, num_doublings: int = 3
) -> ExchangeReport:
    r"""Report whether the auxiliary chains of an [`Exchange`][numpyro_ebm.Exchange] arrive.

    A chain of $m$ transitions that starts at the data ends between them and a draw at the
    proposed parameters. The ratio that proposals are judged by is then too close to one, and
    the posterior too wide. From draws of the posterior, this proposes as the run did, lets the
    same auxiliary chains run on to $2m, 4m, \dots$ transitions, and compares the mean
    log-ratios, draw by draw. A share $s$ of what the longest chains show makes the posterior's
    variance at least about $1/s$ times what it should be.

    A report fails if the share is below 0.9 by more than three standard errors, or if the
    longest chains are still on their way, or if chains were stuck in 5 % of the proposals.
    Chains that never find another mode of the data move no further when doubled: it cannot see
    them. For energies with exact draws there is nothing to report.

    ```python
    mcmc = MCMC(ebm.Exchange(model), num_warmup=500, num_samples=1000)
    mcmc.run(jax.random.key(0), x)
    print(ebm.exchange_report(jax.random.key(1), mcmc))
    ```

    **Arguments**

    - `mcmc`: after `run`, with an `Exchange` as its kernel.
    - `num_draws`: the number of draws from which it proposes.
    - `num_doublings`: how often the number of transitions is doubled.

    **Raises** `ValueError` if `mcmc` has another kernel, or has not run.
    """
    check_key(rng_key)
    check_count("num_draws", num_draws, 10)
    check_count("num_doublings", num_doublings)
    kernel = mcmc.sampler
    if not isinstance(kernel, Exchange) or mcmc.last_state is None:
        raise ValueError(
            "`mcmc` must be an `MCMC` whose kernel is an `ebm.Exchange`, after `run`, got one "
            f"of {type(kernel).__name__}."
        )
    energy = kernel.get_potential_fn(mcmc._args, mcmc._kwargs)
    positions = _positions(mcmc, num_draws)
    first = sum(kernel.move.auxiliary.legs)
    steps = first * 2 ** np.arange(num_doublings + 1)
    move = _tuned(kernel, mcmc.last_state, np.diff(steps, prepend=0))
    keys = jr.split(rng_key, len(jax.tree.leaves(positions)[0]))
    found = _judged(move, energy, keys, positions)
    ratios, accept = (np.asarray(x, float) for x in found)
    finite = np.isfinite(ratios).all(1)
    table = _table(steps, ratios[finite], accept[finite])
    fields = mcmc.get_extra_fields()
    stuck = float(np.mean(fields["diverging"]))
    return ExchangeReport(
        failures=tuple(_failures(table, stuck)),
        table=table,
        aux_accept_prob=float(np.mean(fields["move_state.aux_accept_prob"])),
        frac_stuck=stuck,
    )


def _positions(mcmc: MCMC, num_draws: int) -> Point:
    """Draws in unconstrained space, spread evenly over all of them."""
    draws = mcmc.get_samples()
    size = len(next(iter(draws.values())))
    chosen = np.unique(np.linspace(0, size - 1, num_draws).astype(int))
    state: Any = mcmc.last_state
    latent = {name: draws[name][chosen] for name in state.z}
    seeded = handlers.seed(mcmc.sampler.model, jr.key(0))
    return jax.vmap(partial(unconstrain_fn, seeded, mcmc._args, mcmc._kwargs))(latent)


def _tuned(kernel: Exchange, state: Any, legs: np.ndarray) -> ExchangeMove:
    """The move as the first chain has learnt it, with other legs and without a drift."""
    adapt_state = state.adapt_state
    if jnp.ndim(state.i):
        adapt_state = jax.tree.map(lambda x: x[0], adapt_state)
    move = kernel.adaptation.tune(kernel.move, adapt_state)
    legs_ = tuple(map(int, legs))
    auxiliary = AuxiliaryMove(move.auxiliary.move, legs_, 0)
    proposal = RandomWalkProposal()
    return dataclasses.replace(move, auxiliary=auxiliary, proposal=proposal, num_sets=1)


def _judged(
    move: ExchangeMove, energy: UnknownConstants, keys: Key, positions: Point
) -> tuple[Any, Any]:
    """For each draw and each leg, the log-ratio of a proposal, and its acceptance."""

    def one(args: Any) -> tuple[Any, Any]:
        key, old = args
        noise_key, aux_key = jr.split(key)
        new = move.propose(noise_key, old)
        ratio = move.ratio(aux_key, energy.likelihoods(old), energy.likelihoods(new))
        log_accept = energy(old) - energy(new) + ratio.constants
        return ratio.change + ratio.constants, jnp.exp(jnp.minimum(0, log_accept))

    run = jax.jit(lambda keys, z: jax.lax.map(one, (keys, z), batch_size=_BATCH))
    return run(keys, positions)


#: So many draws at once.
_BATCH = 20


def _table(steps: np.ndarray, ratios: np.ndarray, accept: np.ndarray) -> Dataset:
    mean = ratios.mean(0)
    root = np.sqrt(len(ratios))
    change = ratios - ratios[:, -1:]
    spread = np.maximum(change.std(0, ddof=1), 1e-12) / root
    columns = {
        "log_ratio": mean,
        "error": ratios.std(0, ddof=1) / root,
        "share": mean / mean[-1],
        "accept_prob": accept.mean(0),
        "moved": change.mean(0) / spread,
    }
    pairs = {name: ("num_aux_steps", x) for name, x in columns.items()}
    return Dataset(pairs, {"num_aux_steps": steps})


def _failures(table: Dataset, stuck: float) -> Iterator[str]:
    steps, share = table["num_aux_steps"].values, table["share"].values
    far = (share < _SHARE) & (np.abs(table["moved"].values) > _ERRORS)
    if far[0]:
        enough = steps[np.argmax(share >= _ENOUGH)]
        yield (
            f"After {steps[0]} transitions the auxiliary data show {share[0]:.2f} of what they "
            f"show after {steps[-1]}: the posterior is too wide, its variance by a factor of "
            f"{1 / max(share[0], 0.01):.2f} or more. Take `num_aux_steps={enough}` or more, or "
            "a faster `auxiliary`."
        )
    if far[-2]:
        yield (
            f"The auxiliary data still move between {steps[-2]} and {steps[-1]} transitions: "
            "take a faster `auxiliary`, or an energy with exact draws."
        )
    if stuck > _STUCK:
        yield (
            f"In {stuck:.1%} of the proposals the auxiliary chains did not move, and the "
            "proposal was rejected: their step does not suit all parameters. Use "
            "`auxiliary=ebm.AutoMALA()`."
        )


#: The least share of the longest chains' ratio, how many standard errors count, the share that
#: is advised, and the largest fraction of stuck proposals.
_SHARE, _ERRORS, _ENOUGH, _STUCK = 0.9, 3.0, 0.95, 0.05
