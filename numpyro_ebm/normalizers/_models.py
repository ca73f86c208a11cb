"""`compare_models`: which NumPyro model data favour, by the evidence."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax.random as jr
import numpy as np
from jax.nn import softmax

from .._checks import as_finite, check_key
from .._show import Printed, Rows
from .._types import ArrayLike, Float, Key
from ..energies import LogZ, ModelEnergy, missing_level
from ._base import AbstractNormalizer
from ._verbs import log_partition


class ModelComparison(Printed, eqx.Module):
    r"""NumPyro models ranked by their evidence, best first; prints itself.

    - **names**: of the models.
    - **log_evidence**: $\log p(y \mid M_k)$, a [`LogZ`][numpyro_ebm.energies.LogZ] each.
    - **log_bayes_factor**, **log_bayes_factor_error**: $\log p(y \mid M_k) - \log p(y \mid
      M_0)$, against the best, and its standard error.
    - **probability**, **probability_error**: $p(M_k \mid y)$, and its standard error, by the
      delta method.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    log_evidence: tuple[LogZ, ...]
    log_bayes_factor: Float[np.ndarray, " k"]
    log_bayes_factor_error: Float[np.ndarray, " k"]
    probability: Float[np.ndarray, " k"]
    probability_error: Float[np.ndarray, " k"]

    @property
    def failures(self) -> tuple[str, ...]:
        """Sentences that say which evidence is unknown, and why; empty is good."""
        pairs = zip(self.names, self.log_evidence, strict=True)
        return tuple(f"`{n}`: {'; '.join(z.problems)}." for n, z in pairs if not z.ok)

    @property
    def ok(self) -> bool:
        """Whether all evidences have an error."""
        return not self.failures

    def _parts(self) -> list[str | Rows]:
        rows = [["model", "log evidence", "log Bayes factor", "probability"]]
        columns = (
            np.array([float(z.estimate) for z in self.log_evidence]),
            np.array([float(z.std_error) for z in self.log_evidence]),
            *(self.log_bayes_factor, self.log_bayes_factor_error),
            *(self.probability, self.probability_error),
        )
        for name, *numbers in zip(self.names, *columns, strict=True):
            pairs = [_with_error(*numbers[i : i + 2]) for i in (0, 2, 4)]
            rows.append([name, pairs[0], "" if name == self.names[0] else pairs[1], pairs[2]])
        failures = ["", "NOT ok:", *map("- {}".format, self.failures)] if self.failures else []
        return [rows, *failures]


def _with_error(value: float, error: float) -> str:
    return f"{value:.4g}" + (f" +- {error:.2g}" if np.isfinite(error) else "")


def compare_models(
    rng_key: Key,
    models: Mapping[str, Any],
    method: AbstractNormalizer | None = None,
    *,
    prior: ArrayLike | None = None,
    progress_bar: bool = True,
) -> ModelComparison:
    r"""Evidence, Bayes factors and posterior probabilities of NumPyro models, with errors.

    ```python
    models = {"line": (line, (x, y)), "parabola": (parabola, (x, y))}
    print(ebm.compare_models(jax.random.key(0), models))
    ```

    The evidence $p(y \mid M)$ averages the likelihood over the *prior*: it answers which model
    predicted the data, and depends on the width of each prior, however little the posterior
    does. All models must give a density of the same data.

    **Arguments**

    - `models`: names mapped to [`ModelEnergy`][numpyro_ebm.ModelEnergy]s, to models without
      arguments, or to `(model, args)` or `(model, args, kwargs)`.
    - `method`: as for [`log_partition`][numpyro_ebm.log_partition], the same for all models.
    - `prior`: the prior probability of each model, by default equal.
    - `progress_bar`: show progress if an estimate takes more than two seconds.

    **Raises** `ValueError` if a model has an improper prior, or an energy whose constant is
    unknown. Warns if an evidence has no error, and says why.
    """
    check_key(rng_key)
    if not isinstance(models, Mapping) or not models:
        raise ValueError(
            "`models` must be a dict from names to models, with at least one of them, got "
            f"{models!r}."
        )
    energies = {name: _as_model(name, model) for name, model in models.items()}
    weights = _prior(prior, len(models))
    keys = jr.split(rng_key, len(models))
    found = [
        log_partition(key, energy, method, progress_bar=progress_bar)
        for key, energy in zip(keys, energies.values(), strict=True)
    ]
    return _ranked(tuple(energies), found, weights)


def _ranked(names: tuple[str, ...], found: list[LogZ], weights: np.ndarray) -> ModelComparison:
    log_z = np.array([float(z.estimate) for z in found])
    errors = np.array([float(z.std_error) for z in found])
    order = np.argsort(-log_z)
    log_z, errors, weights = log_z[order], errors[order], weights[order]
    with np.errstate(divide="ignore"):  # A prior probability may be zero.
        probability = np.asarray(softmax(log_z + np.log(weights)), float)
    # The slopes of the softmax.
    slopes = probability[:, None] * (np.eye(len(names)) - probability)
    is_best = np.arange(len(names)) == 0
    return ModelComparison(
        names=tuple(names[i] for i in order),
        log_evidence=tuple(found[i] for i in order),
        log_bayes_factor=log_z - log_z[0],
        log_bayes_factor_error=np.where(is_best, 0, np.hypot(errors, errors[0])),
        probability=probability,
        probability_error=np.sqrt(_products(slopes**2, errors**2)),
    )


def _products(slopes: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """The sum of each row, in which zero times infinity is zero."""
    terms = np.where(slopes > 0, slopes * np.where(slopes > 0, variances, 0), 0)
    return terms.sum(1)


def _as_model(name: str, model: Any) -> ModelEnergy:
    if isinstance(model, tuple) and 2 <= len(model) <= 3 and callable(model[0]):
        fn, args, *rest = model
        if not isinstance(args, tuple) or not all(isinstance(x, dict) for x in rest):
            raise TypeError(
                f"`models[{name!r}]` must be `(model, args)` or `(model, args, kwargs)`, with "
                f"`args` a tuple, such as `(model, (y,))`, got {type(args).__name__}."
            )
        model = ModelEnergy(fn, *args, **(rest[0] if rest else {}))
    elif callable(model) and not isinstance(model, eqx.Module):
        model = ModelEnergy(model)
    if not isinstance(model, ModelEnergy):
        raise TypeError(
            f"`models[{name!r}]` must be an `ebm.ModelEnergy`, a model, or `(model, args)`, "
            f"got {type(model).__name__}."
        )
    if model.trace.relative:
        raise ValueError(missing_level(f"site `{model.trace.relative[0]}` of `{name}`"))
    if model.trace.unnormalized:
        raise ValueError(
            f"Site `{model.trace.unnormalized[0]}` of `models[{name!r}]` is an energy without "
            "a normaliser, so its evidence lacks a factor: make it a density with "
            "`ebm.normalize(rng_key, energy)`."
        )
    return model


def _prior(prior: ArrayLike | None, size: int) -> np.ndarray:
    if prior is None:
        return np.full(size, 1 / size)
    weights = np.asarray(as_finite("prior", prior), float)
    if weights.shape != (size,) or (weights < 0).any() or not weights.sum() > 0:
        raise ValueError(f"`prior` must give each of {size} models a probability, got {prior}.")
    return weights / weights.sum()
