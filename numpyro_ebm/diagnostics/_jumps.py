"""`jump_report`: how often jumps succeed, and which modes they connect."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse.csgraph import connected_components
from xarray import DataArray, Dataset

from .._checks import check_count
from .._show import Printed, Rows
from ._datatree import to_arviz
from ._labels import finite_run, label
from ._report import as_parts, chains, some_of, verdict

#: Fewer accepted jumps tell nothing; a chain without one is suspect if the others have these.
_FEW_JUMPS, _MANY_JUMPS = 20, 5
#: What to do next, by a part of a failure; the first that applies counts.
_ADVICE = {
    "were accepted": "fit the flow longer, to more draws, or take a larger "
    "`ebm.flows.coupling_flow`; `ebm.flows.approximate` says how good it is.",
    "made no jump": "fit the flow to draws of all modes: where it is thin, chains stay.",
    "": "fit the flow to draws of these modes too, by `ebm.flows.approximate` with a wider "
    "`reference`, and draw more.",
}


@dataclass(frozen=True, repr=False)
class JumpReport(Printed):
    """The result of `jump_report`; prints itself.

    - **failures**: sentences that say what is wrong.
    - **table**: a row per `mode`: its `occupancy`, and between modes the `arrivals` and
      `departures` by jumps, and the `hops` to it without a jump.
    - **chains**: `jumps` and `accepted` of each `chain`.
    - **accept_prob**: the share of jumps that were accepted.
    - **per_transition**: jumps per transition.
    - **connections**: `(mode, next_mode)`, how often a jump led from one to the other.
    - **connected**: the share of the pairs of modes that a jump has connected, in either
      direction; NaN if there is one mode only.
    """

    failures: tuple[str, ...]
    table: Dataset
    chains: Dataset
    accept_prob: float
    per_transition: float
    connections: DataArray
    connected: float

    @property
    def ok(self) -> bool:
        """Whether nothing failed. A mode that neither flow nor chains know may be missing."""
        return not self.failures

    def _parts(self) -> list[str | Rows]:
        num_modes, jumps = len(self.connections), int(self.chains["jumps"].sum())
        pairs = num_modes * (num_modes - 1) // 2
        modes = f"{round(self.connected * pairs)} of {pairs} pairs of modes" if pairs else ""
        return [
            f"Jumps of {self.chains.sizes['chain']} chains",
            "",
            *as_parts(self.table, np.argsort(-self.table["occupancy"].values)),
            "",
            f"{jumps} jumps, {self.per_transition:.2g} per transition; accepted "
            f"{self.accept_prob:.3g}",
            f"Jumps connect {modes}" if pairs else "One mode: there is nothing to connect",
            *verdict(self.failures, _ADVICE),
            "A mode that neither the flow nor a chain has found does not show.",
        ]


def jump_report(
    source: Any,
    labels: Callable[[Any], Any] | None = None,
    *,
    num_modes: int | None = None,
    seed: int = 0,
) -> JumpReport:
    """Report how often chains of [`FlowJump`][numpyro_ebm.flows.FlowJump] jump, and where to.

    Two modes are connected by a draw in one of them, followed by a draw of the same chain in
    the other, with an accepted jump between them; the local move of that transition, and with
    thinning those of all between the two draws, count with it. `hops` are the changes of mode
    without a jump.

    A report fails if fewer than 20 jumps were accepted, if a chain made none while others made
    five or more on average, or if a mode, or a group of modes, is connected with the others by
    no jump. Chains that start in all modes occupy them in wrong proportions then.

    ```python
    kernel = ebm.flows.FlowJump(ebm.MALA(), flow)
    draws = ebm.sample(jax.random.key(1), energy, kernel)
    print(ebm.diagnostics.jump_report(draws))
    ```

    **Arguments**

    - `source`: what [`to_arviz`][numpyro_ebm.to_arviz] takes, or what it returned, of a run of
      `FlowJump`.
    - `labels`, `num_modes`, `seed`: as in [`mode_report`][numpyro_ebm.mode_report].

    **Raises** `ValueError` if `source` is of another kernel.
    """
    if num_modes is not None:
        check_count("num_modes", num_modes)
    tree = to_arviz(source)
    stats: Any = tree["sample_stats"] if "sample_stats" in tree.children else {}
    if not {"jumps", "jumps_accepted"} <= set(stats) or stats["jumps"].sizes["draw"] < 2:
        raise ValueError(
            "`source` must be a run of `ebm.flows.FlowJump` of two draws or more, with the "
            f"statistics jumps, jumps_accepted; got {sorted(map(str, stats))}."
        )
    run = finite_run(tree)
    names, (modes,) = label({"source": run}, labels, {}, num_modes, seed)
    chain = run.variables["chain"].values
    steps = [np.diff(stats[x].sel(chain=chain).values) for x in ("jumps", "jumps_accepted")]
    jumps, accepted = (x.sum(1) for x in steps)
    by_jump, by_move = (_moves(modes, x, len(names)) for x in (steps[1] > 0, steps[1] == 0))
    thinning = int(tree["posterior"].attrs.get("thinning", 1))
    return JumpReport(
        failures=tuple(_failures(jumps, accepted, by_jump, names)),
        table=_table(modes, by_jump, by_move, names),
        chains=Dataset(
            {"jumps": ("chain", jumps), "accepted": ("chain", accepted)}, {"chain": chain}
        ),
        accept_prob=float(accepted.sum() / jumps.sum()) if jumps.sum() else float("nan"),
        per_transition=float(jumps.mean() / steps[0].shape[1] / thinning),
        connections=DataArray(by_jump, {"mode": names, "next_mode": names}),
        connected=_connected(by_jump),
    )


def _moves(modes: np.ndarray, where: np.ndarray, num_modes: int) -> np.ndarray:
    """How often each mode follows each, over the steps for which `where` is true."""
    counts = np.zeros((num_modes, num_modes), int)
    np.add.at(counts, (modes[:, :-1][where], modes[:, 1:][where]), 1)
    return counts


def _table(
    modes: np.ndarray, by_jump: np.ndarray, by_move: np.ndarray, names: list[int]
) -> Dataset:
    between, hops = (x - np.diag(np.diag(x)) for x in (by_jump, by_move))
    columns = {
        "occupancy": [(modes == k).mean() for k in range(len(names))],
        "arrivals": between.sum(0),
        "departures": between.sum(1),
        "hops": hops.sum(0),
    }
    return Dataset({name: ("mode", x) for name, x in columns.items()}, {"mode": names})


def _connected(by_jump: np.ndarray) -> float:
    pairs = np.triu_indices(len(by_jump), 1)
    return float((by_jump + by_jump.T > 0)[pairs].mean()) if pairs[0].size else float("nan")


def _failures(
    jumps: np.ndarray, accepted: np.ndarray, by_jump: np.ndarray, names: list[int]
) -> Iterator[str]:
    if accepted.sum() < _FEW_JUMPS:
        yield (
            f"Only {accepted.sum()} of {jumps.sum()} jumps were accepted, fewer than "
            f"{_FEW_JUMPS}."
        )
        return
    if accepted.mean() >= _MANY_JUMPS and (accepted == 0).any():
        who = chains(accepted == 0).capitalize()
        yield f"{who} made no jump, where the mean is {accepted.mean():.0f}."
    num_groups, group = connected_components(by_jump, directed=False)
    # The group of the first mode, the largest one if k-means found them, is the mainland.
    for k in range(1, num_groups if num_groups > 1 else 0):
        members = [name for name, of in zip(names, group, strict=True) if of == k]
        yield (
            f"No jump connects mode{'s' if len(members) > 1 else ''} {some_of(members)} with "
            "the others."
        )
