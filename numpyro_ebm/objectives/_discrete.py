"""Objectives for discrete energies: one coordinate at a time is easy to normalise."""

import abc
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from .._types import Array, Energy, Float, Key, Scalar
from ..energies import discrete_levels, is_discrete, other_levels
from ._base import AbstractPointwiseObjective
from ._batch import Data


class _AbstractSingleChanges(AbstractPointwiseObjective):
    """A sum over coordinates of a function of the energy costs of changing one."""

    needs_real: ClassVar[bool] = False

    @abc.abstractmethod
    def of_costs(self, costs: Float[Array, " others"]) -> Scalar:
        """From $E(x') - E(x)$ for all $x'$ that differ from $x$ in one coordinate only."""

    def init(self, rng_key: Key, energy: Energy, data: Data) -> tuple[Any, None]:
        _levels(self, energy)
        return energy, None

    def at(self, rng_key: Key, energy: Energy, x: Float[Array, "*event"]) -> Scalar:
        levels, flat = _levels(self, energy), x.reshape(-1)

        def cost(i: Array, level: Array) -> Scalar:
            changed = flat.at[i].set(level)
            return energy(changed.reshape(x.shape)) - energy(x)

        others = other_levels(levels, flat)
        costs = jax.vmap(jax.vmap(cost, (None, 0)))(jnp.arange(x.size), others)
        return jnp.sum(jax.vmap(self.of_costs)(costs))


class PseudoLikelihood(_AbstractSingleChanges):
    r"""$-\mathbb E\sum_i\log p(x_i\mid x_{-i})$ [Besag 1975].

    For energies whose coordinates take a few values, such as
    [`IsingModel`][numpyro_ebm.IsingModel] and [`PottsModel`][numpyro_ebm.energies.PottsModel].
    Consistent, but less efficient than maximum likelihood if coordinates depend strongly on
    each other. Cost: one energy per coordinate and other value. Shown by
    `tests/objectives/test_population.py` on enumerated models.
    """

    def of_costs(self, costs: Float[Array, " others"]) -> Scalar:
        return logsumexp(jnp.append(-costs, 0.0))


class RatioMatching(_AbstractSingleChanges):
    r"""$\mathbb E\sum_{x'}\left(1 + p(x)/p(x')\right)^{-2}$.

    Score matching for discrete data [Hyvärinen 2007], where $x'$ are all points that differ
    from $x$ in one coordinate. Consistent. Cost: one energy per coordinate and other value.
    Shown by `tests/objectives/test_population.py` on enumerated models.
    """

    def of_costs(self, costs: Float[Array, " others"]) -> Scalar:
        return jnp.sum(jax.nn.sigmoid(-costs) ** 2)


def _levels(objective: Any, energy: Energy) -> tuple[float, ...]:
    levels = discrete_levels(energy) if is_discrete(energy) else None
    if levels is None:
        raise ValueError(
            f"`{type(objective).__name__}` fits energies whose coordinates take the same few "
            "values, such as `ebm.IsingModel` and `ebm.BernoulliRBM`; a class of your own says "
            f"`levels: ClassVar = (0.0, 1.0)`. Got {energy!r}."
        )
    return levels
