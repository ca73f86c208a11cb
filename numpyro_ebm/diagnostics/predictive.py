"""Whether data look like replicates of them: posterior predictive checks."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

from .._checks import as_data
from .._types import Array, Energy, Float, PyTree, Scalar
from ..energies import as_energy


def energy_statistics(energy: Energy, points: Float[Array, "n *event"]) -> dict[str, Scalar]:
    """Mean, standard deviation and maximum of the energies of a data set."""
    energies = jax.vmap(energy)(points)
    return {"mean": energies.mean(), "std": energies.std(), "max": energies.max()}


class PredictiveCheck(eqx.Module):
    """What `predictive_check` found, which it prints; each a pytree of statistics.

    - **observed**: of the data; one a posterior draw, where the energy varies.
    - **replicated**: of each replicate.
    - **p_value**: twice the smaller chance of a replicate as low, or as high, as the data.
    """

    observed: PyTree
    replicated: PyTree
    p_value: PyTree

    @property
    def ok(self) -> bool:
        """Whether no statistic is out of place, at level 0.05 for all of them together."""
        p_values = jax.tree.leaves(self.p_value)
        return min(p_values) > 0.05 / len(p_values)

    def __repr__(self) -> str:
        verdict = "no misfit seen" if self.ok else "the data are NOT like their replicates"
        named = jax.tree_util.tree_leaves_with_path(self.p_value)
        parts = [
            f"{jax.tree_util.keystr(path, simple=True, separator='.')} p = {p:.2g}"
            for path, p in named
        ]
        return f"{verdict}: {', '.join(parts)}"


def predictive_check(
    energy: Any,
    data: Float[Array, "n *event"],
    replicates: Float[Array, "draw n *event"],
    *,
    params: PyTree | None = None,
    statistic: Callable[[Energy, Array], PyTree] = energy_statistics,
) -> PredictiveCheck:
    r"""Two-sided posterior predictive p-values of statistics of a whole data set.

    Compares $T(x, \theta)$ with $T(x^{\rm rep}, \theta)$ [Gelman, Meng and Stern 1996].
    Near zero: the model hardly ever makes data like these. The p-values are conservative where
    parameters were fitted to the same data.

    ```python
    check = ebm.predictive_check(energy, data, replicates)
    check = ebm.predictive_check(
        lambda theta: ebm.Gaussian(theta["loc"], jnp.eye(2)), data, replicates, params=posterior
    )
    ```

    **Arguments**

    - `energy`: what [`as_energy`][numpyro_ebm.as_energy] takes; with `params`, a function of
      one draw of them to such a thing.
    - `data`: points, one a row.
    - `replicates`: data sets that were drawn from the model, one a row.
    - `params`: draws from the posterior, as many as replicates, stacked along the first axis.
    - `statistic`: a function of an energy and a data set, to a scalar or a pytree of scalars;
      by default mean, standard deviation and maximum of the energies.

    **Raises** `ValueError` for replicates that hold other points or are not as many as
    `params`, and for values that are not finite.
    """
    data, replicates = as_data(data), as_data(replicates, "replicates")
    if replicates.ndim != data.ndim + 1 or replicates.shape[2:] != data.shape[1:]:
        raise ValueError(
            "`replicates` must be data sets like `data`, `(draw, n, *event)` with points of "
            f"shape {data.shape[1:]}, got shape {replicates.shape}."
        )
    sizes = {len(leaf) for leaf in jax.tree.leaves(params)} - {len(replicates)}
    if sizes:
        raise ValueError(
            f"`params` must be as many as `replicates`, {len(replicates)}, got {sizes}."
        )
    observed, replicated = _compare(energy, data, replicates, params, statistic)
    shapes = {leaf.shape for leaf in jax.tree.leaves(replicated)} - {replicates.shape[:1]}
    if shapes:
        raise ValueError(
            "`statistic` must return scalars of a data set, got arrays of shapes "
            f"{[shape[1:] for shape in shapes]}."
        )
    return PredictiveCheck(observed, replicated, jax.tree.map(_two_sided, observed, replicated))


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


def _two_sided(observed: Array, replicated: Array) -> float:
    """Of a tie, both sides; the data count as one of the replicates."""
    fewer = min(int((replicated >= observed).sum()), int((replicated <= observed).sum()))
    return min(1.0, 2 * (fewer + 1) / (len(replicated) + 1))
