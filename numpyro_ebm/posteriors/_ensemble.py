"""Ensembles: energies that were trained from different keys."""

import warnings
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import jax.random as jr

from .._checks import check_count, check_key, user_level
from .._trainable import unfreeze
from .._types import Array, Float, Key
from ..estimation import Estimator
from ..estimation._inputs import as_learnable, remark_on_scale
from ..estimation._members import train_members
from ..objectives import Batch, as_float_batch
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
    batches, and by their noise. **Not a posterior**: their spread says where training ends, not
    what the data leave open. If there is one minimum, all members agree. With `bootstrap`, each
    member weighs the rows by independent exponential draws. This weighted likelihood bootstrap
    [Newton and Raftery 1994] is **approximate**: its spread is that of the estimate over
    repeated data, and to first order that of the posterior under a flat prior, if the objective
    is the likelihood. Shown by `tests/posteriors/test_ensemble.py` for a Gaussian's location,
    and by `test_networks.py`.

    ```python
    members = ebm.posteriors.ensemble(
        key,
        ebm.Estimator(ebm.ScoreMatching(), optax.adam(1e-3)),
        500,
        lambda key: ebm.MLPEnergy(2, 16, key=key),
        data,
    )
    unsure = ebm.posteriors.disagreement(members.energies, held_out)
    ```

    **Arguments**

    - `estimator`, `num_steps`, `data`, `batch_size`: as in
      [`Estimator.run`][numpyro_ebm.Estimator.run]; `data` are arrays.
    - `make_energy`: a function from a key to an energy before training; all of one structure.
    - `num_members`: how many.
    - `bootstrap`: whether rows have random weights.

    Early stopping and checkpoints are for single runs only. **Warns** as a run does, with the
    number of members concerned. **Raises** `FloatingPointError` at the first step that is not
    finite, with its member.
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
    keys = zip(jr.split(make_key, num_members), jr.split(run_key, num_members), strict=True)
    energies = [(make_energy(make), run) for make, run in keys]
    _warn_first(estimator, energies[0][0], batch)
    states = [estimator.init(run, energy, batch) for energy, run in energies]
    weights = _bootstrap_weights(weight_key, num_members, len(batch)) if bootstrap else None
    energies, history = train_members(
        estimator, states, num_steps, batch, weights, batch_size, progress_bar=progress_bar
    )
    _warn(estimator, history)
    last = {name: jnp.asarray(values[-1:].T) for name, values in history.items()}
    return EnergyDraws(map_arrays(lambda x: x[:, None], unfreeze(energies)), last)


def _bootstrap_weights(rng_key: Key, num_members: int, size: int) -> Float[Array, "member n"]:
    raw = jr.exponential(rng_key, (num_members, size))
    return raw / raw.mean(1, keepdims=True)


def _warn_first(estimator: Estimator, energy: Any, batch: Batch) -> None:
    """Warn as a run does before its first step."""
    energy = as_learnable(energy)
    remarks = remark_on_scale(energy, batch), estimator.objective.caution(energy, batch)
    for remark in filter(None, remarks):
        warnings.warn(
            f"`{type(estimator.objective).__name__}`: {remark}", stacklevel=user_level()
        )


def _warn(estimator: Estimator, history: dict[str, Any]) -> None:
    """Warn of what the objective remarks on, once for all members."""
    objective, num_members = estimator.objective, history["loss"].shape[1]
    remarks = [
        objective.remark({name: values[:, i] for name, values in history.items()})
        for i in range(num_members)
    ]
    found = [remark for remark in remarks if remark is not None]
    if found:
        warnings.warn(
            f"`{type(objective).__name__}`, in {len(found)} of {num_members} members: "
            f"{found[0]}",
            stacklevel=user_level(),
        )
