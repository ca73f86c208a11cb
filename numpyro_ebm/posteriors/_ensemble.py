"""Ensembles: energies that were trained from different keys."""

import warnings
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import jax.random as jr

from .._checks import check_count, check_key, user_level
from .._types import Array, Float, Key
from ..estimation import Estimator
from ..estimation._members import train_members
from ..objectives import as_float_batch
from ._draws import map_arrays
from ._weights import EnergyDraws


def ensemble(
    rng_key: Key,
    estimator: Estimator,
    num_steps: int,
    make_energy: Callable[[Key], Any],
    data: Any,
    *,
    num_members: int = 10,
    bootstrap: bool = False,
    batch_size: int | None = None,
    progress_bar: bool = True,
) -> EnergyDraws:
    r"""Energies trained from different keys, all in one compiled program.

    A deep ensemble [Lakshminarayanan et al. 2017]: members differ by where they start, by their
    batches, and by their noise. **Not a posterior**: how much they differ says where training
    ends, not how much the data tell, and members of a problem with one minimum agree. With
    `bootstrap`, each member sees rows with independent weights of an exponential law: the
    weighted likelihood bootstrap [Newton and Raftery 1994], whose spread is that of the estimate
    over repeated data. To first order it is that of the posterior under a flat prior, if the
    objective is the likelihood. Shown by `tests/posteriors/test_ensemble.py`.

    ```python
    members = ebm.posteriors.ensemble(
        key,
        ebm.Estimator(ebm.ScoreMatching(), optax.adam(1e-3)),
        2000,
        lambda key: ebm.MLPEnergy(2, key=key),
        data,
    )
    unsure = ebm.posteriors.disagreement(members.energies, points)
    ```

    **Arguments**

    - `estimator`, `num_steps`, `data`, `batch_size`: as in
      [`Estimator.run`][numpyro_ebm.Estimator.run]; `data` are arrays.
    - `make_energy`: a function from a key to an energy before training; all of one structure.
    - `num_members`: their number.
    - `bootstrap`: whether rows have random weights.

    Early stopping and checkpoints are those of single runs only. **Warns** as a run does,
    naming the members. **Raises** `FloatingPointError` at the first step that is not finite,
    with its member.
    """
    check_key(rng_key)
    check_count("num_members", num_members, 2)
    if not isinstance(estimator, Estimator):
        raise TypeError(
            "`estimator` must be an `ebm.Estimator(objective, optim)`, got "
            f"{type(estimator).__name__}."
        )
    make_key, run_key, weight_key = jr.split(rng_key, 3)
    batch = as_float_batch(data)
    states = [
        estimator.init(key, make_energy(start), batch)
        for key, start in zip(*(jr.split(k, num_members) for k in (run_key, make_key)), strict=True)
    ]
    weights = _bootstrap_weights(weight_key, num_members, len(batch)) if bootstrap else None
    energies, history = train_members(
        estimator, states, num_steps, batch, weights, batch_size, progress_bar=progress_bar
    )
    _warn(estimator, history)
    last = {name: jnp.asarray(values[-1:].T) for name, values in history.items()}
    return EnergyDraws(map_arrays(lambda x: x[:, None], energies), last)


def _bootstrap_weights(rng_key: Key, num_members: int, size: int) -> Float[Array, "member n"]:
    raw = jr.exponential(rng_key, (num_members, size))
    return raw / raw.mean(1, keepdims=True)


def _warn(estimator: Estimator, history: dict[str, Any]) -> None:
    """Warn of what the objective remarks on, once for all members that it is about."""
    num_members = history["loss"].shape[1]
    found: dict[str, list[int]] = {}
    for i in range(num_members):
        remark = estimator.objective.remark({k: values[:, i] for k, values in history.items()})
        if remark is not None:
            found.setdefault(remark, []).append(i)
    if found:
        remark, _ = max(found.items(), key=lambda item: len(item[1]))
        members = sum(map(len, found.values()))
        warnings.warn(
            f"`{type(estimator.objective).__name__}`, in {members} of {num_members} members: "
            f"{remark}",
            stacklevel=user_level(),
        )
