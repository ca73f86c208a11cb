"""Objectives for discrete energies: one coordinate at a time is easy to normalise."""

import abc
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from .._types import Array, Energy, Float, Key, Scalar
from ..energies import discrete_levels, is_discrete
from ._base import AbstractPointwiseObjective
from ._batch import Data


class _AbstractFlips(AbstractPointwiseObjective):
    """A sum over coordinates of a function of the energy cost of flipping one."""

    needs_real: ClassVar[bool] = False

    @abc.abstractmethod
    def of_cost(self, cost: Array) -> Array:
        """From $E(x^{(i)}) - E(x)$, where $x^{(i)}$ is $x$ with coordinate $i$ flipped."""

    def init(self, rng_key: Key, energy: Energy, data: Data) -> tuple[Any, None]:
        _levels(self, energy)
        return energy, None

    def at(self, rng_key: Key, energy: Energy, x: Float[Array, "*event"]) -> Scalar:
        low, high = _levels(self, energy)
        flat = x.reshape(-1)

        def cost(i: Array) -> Scalar:
            flipped = flat.at[i].set(low + high - flat[i])
            return energy(flipped.reshape(x.shape)) - energy(x)

        return jnp.sum(self.of_cost(jax.vmap(cost)(jnp.arange(x.size))))


class PseudoLikelihood(_AbstractFlips):
    r"""$-\mathbb E\sum_i\log p(x_i\mid x_{-i})$ [Besag 1975].

    For energies of two-valued coordinates, such as [`IsingModel`][numpyro_ebm.IsingModel].
    Consistent, but less efficient than maximum likelihood if coordinates depend strongly on
    each other. Cost: one energy per coordinate. Shown by `tests/objectives/test_population.py`
    on enumerated Ising models.
    """

    def of_cost(self, cost: Array) -> Array:
        return jax.nn.softplus(-cost)


class RatioMatching(_AbstractFlips):
    r"""$\mathbb E\sum_i\left(1 + p(x)/p(x^{(i)})\right)^{-2}$.

    Score matching for binary data [Hyvärinen 2007], where $x^{(i)}$ is $x$ with coordinate $i$
    flipped. Consistent. Cost: one energy per coordinate. Shown by
    `tests/objectives/test_population.py` on enumerated Ising models.
    """

    def of_cost(self, cost: Array) -> Array:
        return jax.nn.sigmoid(-cost) ** 2


def _levels(objective: Any, energy: Energy) -> tuple[float, float]:
    levels = discrete_levels(energy) if is_discrete(energy) else None
    if levels is None:
        raise ValueError(
            f"`{type(objective).__name__}` fits energies of two-valued coordinates, such as "
            "`ebm.IsingModel` and `ebm.BernoulliRBM`; a class of your own says "
            f"`levels: ClassVar = (0.0, 1.0)`. Got {energy!r}."
        )
    return levels
