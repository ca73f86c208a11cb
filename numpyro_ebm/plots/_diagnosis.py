"""A report and a figure in one call."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..diagnostics import (
    MixingReport,
    TrainingReport,
    mixing_report,
    summaries,
    to_arviz,
    training_report,
)
from ..estimation import EstimatorRunResult
from ._axes import Figure
from ._summaries import plot_summaries
from ._training import plot_training


@dataclass(frozen=True)
class Diagnosis:
    """The result of `diagnose`: a `report`, and a matplotlib `figure`."""

    report: MixingReport | TrainingReport
    figure: Figure

    @property
    def ok(self) -> bool:
        return self.report.ok

    def __repr__(self) -> str:
        return repr(self.report)


def diagnose(source: Any, **options: Any) -> Diagnosis:
    """Report and show whether a run can be trusted.

    ```python
    diagnosis = ebm.diagnose(draws)
    print(diagnosis)
    diagnosis.figure.savefig("draws.png")
    ```

    For chains, [`mixing_report`][numpyro_ebm.mixing_report], with traces and ranks of the four
    worst summaries; for a fit, [`training_report`][numpyro_ebm.training_report] with its loss
    and metrics. It cannot see whether chains miss a mode: use
    [`mode_report`][numpyro_ebm.mode_report]. For an unadjusted kernel it says that the step
    biases the draws.

    **Arguments**

    - `source`: an `MCMC` after `run`, the `Draws` of [`sample`][numpyro_ebm.sample], whatever
      else [`to_arviz`][numpyro_ebm.to_arviz] takes, or the result of
      [`Estimator.run`][numpyro_ebm.Estimator.run].
    - `options`: passed to the report.
    """
    if isinstance(source, EstimatorRunResult):
        panels = plot_training(source)
        return Diagnosis(training_report(source, **options), panels[0].figure)
    tree = to_arviz(source, superchains=options.pop("superchains", None))
    report = mixing_report(tree, **options)
    worst = report.table["summary"].values[np.argsort(report.table["ess_bulk"].values)[:4]]
    found = summaries(tree, options.get("statistics"), options.get("seed", 0))
    shown = {name: values for name, values in found if name in worst}
    return Diagnosis(report, plot_summaries(shown)[0, 0].figure)
