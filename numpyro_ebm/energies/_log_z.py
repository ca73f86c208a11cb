r"""`LogZ`: an estimate of $\log Z$ with all that is known about its error."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from scipy.stats import t

from .._advice import next_step
from .._checks import as_finite, as_floats, check_probability
from .._show import as_html
from .._types import Array, Scalar

#: What to do next, by a part of a check; the first that applies counts.
_ADVICE = {
    "jax_enable_x64": 'begin with `jax.config.update("jax_enable_x64", True)`.',
    "fall off": "tilt the energy by a proper density, `ebm.Tilted(energy, reference)`.",
    "box": "give a wider box, or let `ebm.Quadrature.around(energy)` find one.",
    "grid": "give more `num_points`.",
    "replicas": "draw more `num_samples`.",
    "neighbours": "take more `num_temperatures`, or a longer `num_warmup`.",
    "islands": "use more particles (`num_particles`) or transitions (`num_steps`).",
    "particles": "use more transitions (`num_steps`), or a kernel that moves farther.",
    "": "take a reference or proposal closer to the target, or `ebm.SequentialMonteCarlo`, and "
    "compare.",
}


class LogZ(eqx.Module):
    r"""$\log\int e^{-E(x)}\,dx$, estimated, and how far to trust it.

    - **estimate**: of $\log Z$.
    - **std_error**: its standard error; infinite if nothing is known about the error.
    - **lower**, **upper**: estimates of bounds, $E\log w \le \log Z \le E'\log w'$, if the
      method has them, else infinite. The upper one holds if draws of the target were exact.
    - **upper_is_exact**: whether they were.
    - **ess**: effective sample size: how many equal weights carry the same information;
      **ess_of**: of how many what, such as `8 islands`.
    - **df**: degrees of freedom of the error's Student-t law; infinite means normal.
    - **checks**: what would make the error meaningless, and whether it happened.
    - **method**: the name of the estimator.
    - **seconds**: how long it took, compilation included; 0 if nobody knows.
    - **is_relative**: whether a constant is missing that is the same for all parameters, so
      that the estimate serves a posterior, but no evidence.
    - **box**: the corners of the box that was integrated over, if it was one.

    **Raises** `ValueError` if the estimate is not finite or an error is NaN or negative,
    unless a check failed.
    """

    estimate: Scalar = eqx.field(converter=as_floats)
    std_error: Scalar = eqx.field(converter=as_floats, default=0.0)
    lower: Scalar = eqx.field(converter=as_floats, default=-np.inf)
    upper: Scalar = eqx.field(converter=as_floats, default=np.inf)
    upper_is_exact: Array | bool = False
    ess: Scalar = eqx.field(converter=as_floats, default=np.inf)
    df: Scalar = eqx.field(converter=as_floats, default=np.inf)
    checks: dict[str, Any] = eqx.field(default_factory=dict)
    method: str = eqx.field(static=True, default="given")
    ess_of: str = eqx.field(static=True, default="")
    seconds: Scalar = eqx.field(converter=as_floats, default=0.0)
    is_relative: bool = eqx.field(static=True, default=False)
    box: tuple[tuple[float, ...], ...] | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        is_traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(self))
        if is_traced or not self.ok:  # A failed check is reported by `problems`.
            return
        as_finite("estimate", self.estimate)
        for name in ("std_error", "ess", "df"):
            if not np.all(np.asarray(getattr(self, name)) >= 0):
                raise ValueError(
                    f"`{name}` must not be negative or NaN, got {getattr(self, name)}; it may "
                    "be infinite."
                )
        for name in ("lower", "upper"):
            if np.isnan(getattr(self, name)).any():
                raise ValueError(f"`{name}` must be a number, or infinite if there is none.")

    @property
    def problems(self) -> tuple[str, ...]:
        """The checks that failed and make the error meaningless; empty is good."""
        return tuple(check for check, failed in self.checks.items() if bool(failed))

    @property
    def ok(self) -> bool:
        return not self.problems

    def interval(self, prob: float = 0.95) -> tuple[float, float]:
        r"""Ends of a confidence interval of $\log Z$.

        **Raises** `ValueError`, with the reason, if the draws cannot support one.
        """
        check_probability("prob", prob)
        if self.problems:
            raise ValueError(
                f"There is no interval for this log Z of {float(self.estimate):.6g} by "
                f"{self.method}: {'; '.join(self.problems)}."
            )
        width = float(t.ppf(0.5 + prob / 2, float(self.df)) * self.std_error)
        return float(self.estimate) - width, float(self.estimate) + width

    def __repr__(self) -> str:
        if any(isinstance(x, Tracer) for x in (self.estimate, self.std_error)):
            return f"LogZ(traced, by {self.method})"
        estimate, *others = self._facts().items()
        text = ", ".join([" = ".join(estimate), *(" ".join(fact) for fact in others)])
        return "\n  ".join([f"{text} ({self.method})", *self._reasons()])

    def _repr_html_(self) -> str:
        if isinstance(self.estimate, Tracer):
            return as_html([repr(self)])
        facts = {**self._facts(), "method": self.method}
        return as_html([[list(facts), list(facts.values())], *self._reasons()])

    def _reasons(self) -> list[str]:
        """Why there is no interval, and what to do about it."""
        problems = [f"no interval: {problem}" for problem in self.problems]
        return [*problems, *next_step(self.problems, _ADVICE)]

    def _facts(self) -> dict[str, str]:
        """What is known, by the words that introduce it."""
        error = f" +- {float(self.std_error):.2g}" if self.ok else ""
        facts = {"log Z": f"{float(self.estimate):.6g}{error}"}
        is_loose = self.lower < self.estimate - self.std_error or self.upper > self.estimate
        if is_loose and (jnp.isfinite(self.lower) or jnp.isfinite(self.upper)):
            sign = "<=" if self.upper_is_exact else "<~"
            upper = f" {sign} {float(self.upper):.6g}" if jnp.isfinite(self.upper) else ""
            facts["bounds"] = f"{float(self.lower):.6g} <= log Z{upper}"
        if jnp.isfinite(self.ess):
            of = f" of {self.ess_of}" * bool(self.ess_of)
            facts["ESS"] = f"{float(self.ess):.4g}{of}"
        return facts


def lacks_level(energy: Any) -> bool:
    """Whether the `log_z` of an energy lacks a constant that all parameters share."""
    known = eqx.filter_eval_shape(lambda energy: energy.partition, energy)
    return known is not None and known.is_relative


def check_level(energy: Any, label: str) -> None:
    """Raise if its `log_z` lacks a constant."""
    if lacks_level(energy):
        raise ValueError(missing_level(label))


def missing_level(label: str) -> str:
    return (
        f"The log Z of {label} is known up to a constant only. That serves a posterior, but no "
        "density and no evidence: give its surrogate a level, "
        "`ebm.surrogate_log_z(..., level=ebm.SequentialMonteCarlo())`, or "
        "`level=(theta, log_z)` at parameters where it is known."
    )


def judged(log_z: LogZ, checks: dict[str, Any]) -> LogZ:
    """`log_z` with more checks, and an infinite error if one of them failed."""
    checks = {text: jnp.asarray(failed, bool) for text, failed in checks.items()}
    failed = jnp.stack(list(checks.values())).any()
    std_error = jnp.where(failed, jnp.inf, log_z.std_error)
    return dataclasses.replace(log_z, std_error=std_error, checks={**log_z.checks, **checks})
