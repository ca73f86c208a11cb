"""Whether data look like their replicates: posterior predictive checks."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from scipy.stats import t as t_distribution

from .._checks import as_data
from .._types import Array, Energy, EnergyLike, Float, PyTree, Scalar
from ..energies import as_energy

#: The level of a check, for all of its statistics together.
_LEVEL = 0.05


def energy_statistics(energy: Energy, points: Float[Array, "n *event"]) -> dict[str, Scalar]:
    """Mean, standard deviation and maximum of the energies of a data set."""
    energies = jax.vmap(energy)(points)
    return {"mean": energies.mean(), "std": energies.std(), "max": energies.max()}


class PredictiveCheck(eqx.Module):
    """The result of `predictive_check`; prints itself. Each field is a pytree of statistics.

    - **observed**: for the data; one per posterior draw if the energy varies.
    - **replicated**: for each replicate.
    - **p_value**: twice the smaller probability of a replicate as low, or as high, as the data.
    """

    observed: PyTree
    replicated: PyTree
    p_value: PyTree

    @property
    def ok(self) -> bool:
        """Whether no statistic is extreme, at level 0.05 for all of them together."""
        p_values = jax.tree.leaves(self.p_value)
        return min(p_values) > _LEVEL / len(p_values)

    def __repr__(self) -> str:
        verdict = "no misfit seen" if self.ok else "the data are NOT like their replicates"
        named = jax.tree_util.tree_leaves_with_path(self.p_value)
        parts = [
            f"{jax.tree_util.keystr(path, simple=True, separator='.')} p = {p:.2g}"
            for path, p in named
        ]
        few = ""
        num_replicates, needed = len(jax.tree.leaves(self.replicated)[0]), _needed(len(parts))
        if self.ok and num_replicates < needed:
            few = f" (only gross misfit shows in {num_replicates} replicates; take {needed})"
        return f"{verdict}: {', '.join(parts)}{few}"


def predictive_check(
    energy: EnergyLike,
    data: Float[Array, "n *event"],
    replicates: Float[Array, "draw n *event"],
    *,
    params: PyTree | None = None,
    statistic: Callable[[Energy, Array], PyTree] = energy_statistics,
) -> PredictiveCheck:
    r"""Two-sided posterior predictive p-values of statistics of a whole data set.

    Compares $T(x, \theta)$ with $T(x^{\rm rep}, \theta)$ [Gelman, Meng and Stern 1996]. A
    p-value near zero means that the model hardly ever produces such data. The p-values are
    conservative if parameters were fitted to the same data.

    They are ranks among the replicates, valid for any statistic, and reach the level of the
    verdict from 40 replicates per statistic on, 120 for the default three. With fewer,
    data that lie beyond all replicates are judged by Student's t, the distance from their mean
    over $s\sqrt{1 + 1/n}$, as if the statistic were normal. Gross misfit shows in three
    replicates; false alarms are one in twenty, and up to one in seven if the statistic has
    heavy tails.

    ```python
    check = ebm.diagnostics.predictive_check(energy, data, replicates)
    check = ebm.diagnostics.predictive_check(
        lambda theta: ebm.Gaussian(theta["loc"], jnp.eye(2)),
        data,
        replicates,
        params=posterior,
    )
    ```

    **Arguments**

    - `energy`: what [`as_energy`][numpyro_ebm.as_energy] takes; with `params`, a function from
      one draw of them to such an energy.
    - `data`: points, one per row.
    - `replicates`: data sets drawn from the model, one per row; two or more.
    - `params`: draws from the posterior, as many as replicates, stacked along the first axis.
    - `statistic`: a function of an energy and a data set that returns a pytree of scalars;
      by default mean, standard deviation and maximum of the energies.

    **Raises** `ValueError` if there is only one replicate, if replicates hold other points or
    are not as many as `params`, and if values are not finite.
    """
    data, replicates = as_data(data), as_data(replicates, "replicates")
    if replicates.ndim != data.ndim + 1 or replicates.shape[2:] != data.shape[1:]:
        raise ValueError(
            "`replicates` must be data sets like `data`, `(draw, n, *event)` with points of "
            f"shape {data.shape[1:]}, got shape {replicates.shape}."
        )
    if len(replicates) < 2:
        raise ValueError(
            f"`replicates` must be two or more, got {len(replicates)}: one does not show how "
            "much replicates differ."
        )
    sizes = {len(leaf) for leaf in jax.tree.leaves(params)} - {len(replicates)}
    if sizes:
        raise ValueError(
            f"`params` must have as many entries as `replicates`, {len(replicates)}, "
            f"got {sizes}."
        )
    observed, replicated = _compare(energy, data, replicates, params, statistic)
    shapes = {leaf.shape for leaf in jax.tree.leaves(replicated)} - {replicates.shape[:1]}
    if shapes:
        raise ValueError(
            "`statistic` must return scalars of a data set, got arrays of shapes "
            f"{[shape[1:] for shape in shapes]}."
        )
    has_enough = len(replicates) >= _needed(len(jax.tree.leaves(replicated)))
    p_value = _by_rank if has_enough else _by_rank_or_t
    return PredictiveCheck(observed, replicated, jax.tree.map(p_value, observed, replicated))


def _needed(num_statistics: int) -> int:
    """The number of replicates at which a rank alone can reach the level."""
    return math.ceil(2 * num_statistics / _LEVEL)


@eqx.filter_jit
def _compare(
    energy: Any, data: Array, replicates: Array, params: PyTree | None, statistic: Callable
) -> tuple[PyTree, PyTree]:
    if params is None:
        fixed = as_energy(energy)
        replicated = jax.lax.map(lambda points: statistic(fixed, points), replicates)
        return statistic(fixed, data), replicated

    def both(row: tuple[PyTree, Array]) -> tuple[PyTree, PyTree]:
        one = as_energy(energy(row[0]))
        return statistic(one, data), statistic(one, row[1])

    return jax.lax.map(both, (params, replicates))


def _by_rank(observed: Array, replicated: Array) -> float:
    """Ties count on both sides; the data count as one of the replicates."""
    fewer = min(int((replicated >= observed).sum()), int((replicated <= observed).sum()))
    return min(1.0, 2 * (fewer + 1) / (len(replicated) + 1))


def _by_rank_or_t(observed: Array, replicated: Array) -> float:
    """By rank; beyond all replicates, also by the t statistic of one more draw."""
    p_value = _by_rank(observed, replicated)
    differences = np.asarray(replicated, float) - np.asarray(observed, float)
    n, scale = len(differences), differences.std(ddof=1)
    if abs(np.sign(differences).sum()) < n or scale == 0:
        return p_value
    t = abs(differences.mean()) / (scale * np.sqrt(1 + 1 / n))
    return min(p_value, float(2 * t_distribution.sf(t, n - 1)))
