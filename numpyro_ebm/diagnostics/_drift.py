"""Long chains on a frozen energy: whether what short chains learned is a density."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from scipy.stats import t as t_distribution
from xarray import Dataset

from .._checks import as_data, check_count, check_key
from .._show import Printed, Rows
from .._types import Array, EnergyLike, Float, Key
from ..energies import AbstractEnergy, as_energy, check_energy
from ..kernels import AbstractKernel
from ..sampling import sample
from ._convergence import nested_r_hat, nested_r_hat_limit
from ._report import as_parts, verdict

#: The probability that drift fails a probe by chance alone, over all statistics and starts.
_FALSE_ALARM = 0.01
#: What to do next: the same for all failures.
_ADVICE = {
    "": "train on with longer chains (`num_steps`) from `ebm.Persistent()`; until the probe is "
    "ok, the energy is not that of its short chains."
}


@dataclass(frozen=True, repr=False)
class DriftProbe(Printed):
    """The result of `drift_probe`; prints itself.

    - **failures**: sentences that say what is wrong.
    - **table**: for each `statistic`, `start` and `length`, the `mean` over chains with its
      `std_error`; for each statistic and length, `nested_r_hat`, with starts as superchains,
      and its `nested_r_hat_limit`.
    """

    failures: tuple[str, ...]
    table: Dataset

    @property
    def ok(self) -> bool:
        """Whether chains from all starts reached the same law, and stay there."""
        return not self.failures

    def _parts(self) -> list[str | Rows]:
        parts: list[str | Rows] = ["Chains by their length", ""]
        for name in self.table["statistic"].values:
            one = self.table.sel(statistic=name, drop=True)
            means = {
                f"from {s}": one["mean"].sel(start=s, drop=True) for s in one["start"].values
            }
            rows = Dataset({**means, "nested_r_hat": one["nested_r_hat"]})
            parts += [f"{name}", *as_parts(rows, np.arange(rows.sizes["length"])), ""]
        return [*parts, *verdict(self.failures, _ADVICE)]


def drift_probe(
    rng_key: Key,
    energy: EnergyLike,
    kernel: AbstractKernel,
    starts: Mapping[str, Float[Array, "n *event"]],
    *,
    num_steps: int = 100,
    statistics: Mapping[str, Callable[[Array], Any]] | None = None,
    num_chains: int = 64,
    progress_bar: bool = True,
) -> DriftProbe:
    r"""Run chains from several starts, 1, 10 and 100 times as long as in training.

    An energy learned by short chains from data or a buffer may keep *those* chains in place and
    have its mass elsewhere: its long chains drift away [Nijkamp et al. 2020]. So its parameters
    are frozen, and chains run on from data, from noise and from the buffer. They must reach the
    same law, by nested R-hat with starts as superchains, and their energies and other
    statistics must no longer change from the middle length to the longest. Regions that no
    start reaches stay unseen.

    ```python
    buffer = result.state.objective_state.starts.points  # Of `Persistent` chains.
    starts = {"data": data, "noise": noise, "buffer": buffer}
    kernel = ebm.MALA(step_size=0.1)  # As in training, and as many steps.
    print(
        ebm.drift_probe(
            jax.random.key(0), result.energy, kernel, starts, num_steps=10
        )
    )
    ```

    **Arguments**

    - `energy`: what [`as_energy`][numpyro_ebm.as_energy] takes.
    - `kernel`: the one used in training; its step size, if adaptive, adapts during the first
      half of the shortest length.
    - `starts`: names mapped to points, at least two of them.
    - `num_steps`: transitions of the shortest length.
    - `statistics`: names mapped to functions of one point that return a number, in addition to
      the energy; such as one that says whether a point belongs to a mode.
    - `num_chains`: chains per start.
    - `progress_bar`: show progress.
    """
    check_key(rng_key)
    check_count("num_steps", num_steps)
    energy = as_energy(energy)
    points = {name: as_data(x, f"starts[{name!r}]") for name, x in starts.items()}
    if len(points) < 2:
        raise ValueError(f"`starts` must hold at least two starts, got {list(points)}.")
    for x in points.values():
        check_energy(energy, x.shape[1:])
    chosen = [
        jr.choice(jr.fold_in(rng_key, i), x, (num_chains,), replace=len(x) < num_chains)
        for i, x in enumerate(points.values())
    ]
    functions = {"energy": energy, **(statistics or {})}
    lengths = [num_steps * factor for factor in (1, 10, 100)]
    values = _run(
        jr.fold_in(rng_key, len(points)),
        energy,
        kernel,
        jnp.concatenate(chosen),
        lengths,
        functions,
        progress_bar,
    )
    shape = (len(functions), len(points), num_chains, len(lengths))
    table = _tabulate(values.reshape(shape), list(functions), list(points), lengths)
    return DriftProbe((*_disagreements(table), *_drifts(table, values.reshape(shape))), table)


def _run(
    rng_key: Key,
    energy: AbstractEnergy,
    kernel: AbstractKernel,
    start: Array,
    lengths: list[int],
    functions: Mapping[str, Callable[[Array], Any]],
    progress_bar: bool,
) -> np.ndarray:
    """Each statistic of each chain at each length, `(statistic, chain, length)`."""

    @jax.jit
    def evaluate(x: Array) -> Array:
        return jnp.stack([jax.vmap(fn)(x).astype(float) for fn in functions.values()])

    columns, state, made = [], None, 0
    for length in lengths:
        num_warmup = lengths[0] // 2
        num_steps = length - max(made, num_warmup)
        draws = sample(
            rng_key,
            energy,
            kernel,
            num_warmup=num_warmup,
            num_samples=num_steps,
            thinning=num_steps,
            init_params=start if state is None else None,
            init_state=state,
            progress_bar=progress_bar,
        )
        state, made = draws.state, length
        columns.append(np.asarray(evaluate(draws.values[:, 0]), float))
    return np.stack(columns, -1)


def _tabulate(
    values: np.ndarray, statistics: list[str], starts: list[str], lengths: list[int]
) -> Dataset:
    num_chains = values.shape[2]
    superchains = np.repeat(np.arange(len(starts)), num_chains)
    found = np.array(
        [
            [nested_r_hat(one[..., k].reshape(-1, 1), superchains) for k in range(len(lengths))]
            for one in values
        ]
    )
    size = len(starts), len(superchains)
    limits = nested_r_hat_limit(*size, found[..., 1], len(statistics))
    each = ("statistic", "start", "length")
    return Dataset(
        {
            "mean": (each, values.mean(2)),
            "std_error": (each, values.std(2, ddof=1) / np.sqrt(num_chains)),
            "nested_r_hat": (each[::2], found[..., 0]),
            "nested_r_hat_limit": (each[::2], limits),
        },
        {"statistic": statistics, "start": starts, "length": lengths},
    )


def _disagreements(table: Dataset) -> list[str]:
    last = table.isel(length=-1)
    names = table["statistic"].values
    r_hat, limit = last["nested_r_hat"].values, last["nested_r_hat_limit"].values
    return [
        f"after {int(last['length'])} transitions starts still disagree about {name}: nested "
        f"R-hat {r:.3f} > {m:.3f}"
        for name, r, m in zip(names, r_hat, limit, strict=True)
        if not r <= m
    ]


def _drifts(table: Dataset, values: np.ndarray) -> list[str]:
    """Statistics that changed over the last nine tenths of all transitions."""
    change = values[..., -1] - values[..., -2]
    num_chains = values.shape[2]
    error = change.std(2, ddof=1) / np.sqrt(num_chains)
    limit = t_distribution.isf(_FALSE_ALARM / (2 * error.size), num_chains - 1)
    middle, last = (int(x) for x in table["length"].values[-2:])
    return [
        f"from {start} the mean of {name} drifts by {change[i, j].mean():.3g} between {middle} "
        f"and {last} transitions, {abs(change[i, j].mean()) / error[i, j]:.1f} standard errors"
        for i, name in enumerate(table["statistic"].values)
        for j, start in enumerate(table["start"].values)
        if not abs(change[i, j].mean()) <= limit * error[i, j]
    ]
