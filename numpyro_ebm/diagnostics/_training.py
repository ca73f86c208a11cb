"""`training_report`: whether a fit has settled, and how its chains behaved."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as t_distribution
from xarray import Dataset

from .._show import Printed, Rows
from ..estimation import EstimatorRunResult
from ._report import as_parts, verdict

#: Blocks per quarter, for the last two quarters; their means count as independent.
_BLOCKS = 10
#: The probability that a loss seems to move by chance alone.
_FALSE_ALARM = 0.01
#: A change of the loss that matters, as a fraction of its total change.
_SHARE = 0.01
#: As in `Draws.stuck`.
_MIN_ACCEPTED = 0.1
#: What to do next, by a part of a failure; the first that applies counts.
_ADVICE = {
    "not finite": "begin again with a smaller learning rate, on data of unit scale.",
    "accept": "give the kernel a smaller `step_size`, or let it adapt, and begin again.",
    "falls": "continue with `run(..., init_state=result.state)`.",
    "": "begin again with a smaller learning rate, or one that decays.",
}


@dataclass(frozen=True, repr=False)
class TrainingReport(Printed):
    """The result of `training_report`; prints itself.

    - **failures**: sentences that say what is wrong.
    - **table**: one row per `quantity`, the loss first: its mean over the `first` tenth of the
      run, over the `third` quarter and the `last`, and the standard error of the difference of
      these two.
    """

    failures: tuple[str, ...]
    table: Dataset
    num_steps: int

    @property
    def ok(self) -> bool:
        """Whether the run settled without problems. A settled loss is not yet a good fit."""
        return not self.failures

    def _parts(self) -> list[str | Rows]:
        rows = as_parts(self.table, np.arange(self.table.sizes["quantity"]))
        head = f"Training of {self.num_steps} steps"
        return [head, "", *rows, "", *verdict(self.failures, _ADVICE)]


def training_report(result: EstimatorRunResult) -> TrainingReport:
    """Report whether a fit has settled.

    It fails if a loss is not finite, if the loss still falls or rises from the third quarter of
    the steps to the last by more than chance and a hundredth of its total change, or if chains
    in the last quarter accept less than one proposal in ten.

    **Arguments**

    - `result`: what [`Estimator.run`][numpyro_ebm.Estimator.run] returned, of 80 steps or more.
    """
    if not isinstance(result, EstimatorRunResult):
        raise TypeError(
            f"`result` must be what `Estimator.run` returns, got {type(result).__name__}."
        )
    num_steps = len(result.losses)
    if num_steps < 8 * _BLOCKS:
        raise ValueError(f"`result` must have at least {8 * _BLOCKS} steps, got {num_steps}.")
    quantities = {"loss": result.losses, **result.metrics}
    rows = {name: _quarters(np.asarray(x, float)) for name, x in quantities.items()}
    names = ("first", "third", "last", "std_error")
    columns = {
        name: ("quantity", np.array([row[i] for row in rows.values()]))
        for i, name in enumerate(names)
    }
    table = Dataset(columns, {"quantity": list(rows)})
    failures = (*_of_loss(result.losses, rows["loss"]), *_of_chains(rows))
    return TrainingReport(failures, table, num_steps)


def _quarters(x: np.ndarray) -> tuple[float, float, float, float]:
    quarter = len(x) // 4 // _BLOCKS * _BLOCKS
    third, last = x[-2 * quarter : -quarter], x[-quarter:]
    blocks = np.stack([half.reshape(_BLOCKS, -1).mean(1) for half in (third, last)])
    error = np.sqrt(blocks.var(1, ddof=1).sum() / _BLOCKS)
    return x[: len(x) // 10].mean(), third.mean(), last.mean(), error


def _of_loss(losses: np.ndarray, row: tuple[float, float, float, float]) -> list[str]:
    num_bad = int((~np.isfinite(losses)).sum())
    if num_bad:
        return [f"The loss is not finite at {num_bad} steps."]
    first, third, last, error = row
    limit = t_distribution.isf(_FALSE_ALARM / 2, 2 * (_BLOCKS - 1)) * error
    if abs(last - third) <= max(limit, _SHARE * abs(first - last)):
        return []
    how, remedy = ("falls", "run on") if last < third else ("rises", "take a smaller step")
    return [f"The loss still {how}, from {third:.4g} to {last:.4g} in the last half: {remedy}."]


def _of_chains(rows: dict[str, tuple[float, float, float, float]]) -> list[str]:
    accepted = rows.get("accept_prob", (1.0,) * 4)[2]
    if accepted >= _MIN_ACCEPTED:
        return []
    return [f"Chains of the last quarter accept {accepted:.2g} of their proposals."]
