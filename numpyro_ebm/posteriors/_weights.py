"""Posteriors of the weights of an energy, each draw of which is an energy."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
from jax.flatten_util import ravel_pytree

from .._checks import as_data, check_count, check_key
from .._trainable import partition_trainable
from .._types import Array, ArrayLike, Float, Key
from ..energies import forget_constants
from ._draws import map_arrays, map_draws, num_draws


class AbstractEnergyPosterior(eqx.Module):
    """A distribution over energies that differ in what trains."""

    @abc.abstractmethod
    def sample(self, rng_key: Key, num_draws: int) -> Any:
        """Energies in one pytree whose arrays have a leading axis, as `eqx.filter_vmap` takes.

        Pass them as `theta` to
        [`predictive_log_likelihood`][numpyro_ebm.posteriors.predictive_log_likelihood] and
        [`predictive_draws`][numpyro_ebm.posteriors.predictive_draws].
        """


class EnergyDraws(AbstractEnergyPosterior):
    r"""Energies at draws of their weights.

    What [`sgmcmc`][numpyro_ebm.posteriors.sgmcmc] and
    [`ensemble`][numpyro_ebm.posteriors.ensemble] return.

    ```python
    ebm.posteriors.predictive_log_likelihood(
        lambda energy: ebm.normalized_by(energy, box), draws.energies, held_out
    )
    ```

    - **by_chain**: one pytree of energies, whose arrays have leading axes `(chain, draw)`, also
      those that are frozen. The members of an ensemble are chains of one draw.
    - **metrics**: the `loss` of the batch that led to each draw, and whatever else the
      objective reports, of shape `(chain, draw)`.
    - **excess_variance**: of each chain, by what share the step size and the noise of the
      gradient increase variances, at the weight where it is largest; `None` for an ensemble.
    """

    by_chain: Any
    metrics: dict[str, Float[Array, "chain draw"]]
    excess_variance: Float[Array, " chain"] | None = None

    @property
    def energies(self) -> Any:
        """All energies along one leading axis, chain after chain."""
        return map_arrays(lambda x: x.reshape(-1, *x.shape[2:]), self.by_chain)

    def sample(self, rng_key: Key, num_draws: int) -> Any:
        """`num_draws` of the energies, with replacement."""
        check_key(rng_key)
        check_count("num_draws", num_draws)
        chosen = jr.randint(rng_key, (num_draws,), 0, self.metrics["loss"].size)
        return map_arrays(lambda x: x[chosen], self.energies)

    def evaluate(self, fn: Callable[[Any], Array]) -> Float[Array, "chain draw ..."]:
        """`fn(energy)` of each draw, for `to_arviz` and `mixing_report`.

        Hidden units can be permuted without changing the energy, so compare chains by what the
        energies say, not by weights:

        ```python
        ebm.mixing_report({"gap": draws.evaluate(lambda e: e(left) - e(right))})
        ```
        """
        found = _evaluate(fn, self.energies)
        return found.reshape(*self.metrics["loss"].shape, *found.shape[1:])

    def __repr__(self) -> str:
        chains, draws = self.metrics["loss"].shape
        if self.excess_variance is None:
            return f"EnergyDraws({chains} members)"
        excess = float(self.excess_variance.max())
        return (
            f"EnergyDraws({chains} chains of {draws} draws, variances up to {excess:.1%} too "
            "large)"
        )


_evaluate = eqx.filter_jit(map_draws)


def disagreement(energies: Any, points: ArrayLike) -> Float[Array, " n"]:
    r"""The standard deviation over energies of $E(x_i) - \frac1n\sum_j E(x_j)$ at each point.

    An additive constant, which no energy determines, cancels. Large where the data do not say
    how likely a point is: the members of an ensemble agree near the data, and differ elsewhere.
    Compare points within one call, since all of them enter the mean.

    **Arguments**

    - `energies`: two or more, in one pytree whose arrays have a leading axis.
    - `points`: two or more, along the first axis.
    """
    points = as_data(points, "points")
    check_count("the number of points", len(points), 2)
    check_count("the number of energies", num_draws(energies), 2)

    def centred(energy: Any) -> Array:
        values = jax.vmap(energy)(points)
        return values - values.mean()

    return _evaluate(centred, energies).std(0, ddof=1)


def flattened(energy: Any) -> tuple[Float[Array, " p"], Callable[[Array], Any]]:
    """The trainable numbers of an energy, and the way back, to energies without constants.

    What is frozen stays marked, so `unfreeze` what is to be called.
    """
    params, rest = partition_trainable(forget_constants(energy))
    flat, unravel = ravel_pytree(params)
    return flat, lambda flat: eqx.combine(unravel(flat), rest)


def check_trains(flat: Array) -> None:
    if not flat.size:
        raise ValueError("`energy` has nothing that trains: all of it is frozen.")
