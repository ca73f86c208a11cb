"""What is kept of chains: their draws, or moments of a statistic."""

import abc
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Array, Float, Point, PyTree, Shape
from ..chains import AbstractMove, ChainState, Report


class AbstractKeeper(eqx.Module):
    """What is kept of each transition, in arrays that are written in place."""

    @abc.abstractmethod
    def empty(self, state: ChainState, points: Point) -> PyTree:
        """The arrays before the first transition of chains at `points`."""

    @abc.abstractmethod
    def update(self, kept: PyTree, state: ChainState, points: Point, report: Report) -> PyTree:
        """The arrays after a transition of all chains to `state` and `points`."""


class History(AbstractKeeper):
    """Keeps draws and small statistics of them, `(chain, draw, ...)`.

    - **names**: of the statistics of a transition; **kept**: names and shapes of those fields
      of the state that the move keeps.
    """

    first: Array
    thinning: Array
    num_draws: int = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)
    kept: tuple[tuple[str, Shape], ...] = eqx.field(static=True)

    @classmethod
    def of(
        cls, move: AbstractMove, state: ChainState, first: int, num_draws: int, thinning: int
    ) -> "History":
        names = STATS + (("energy",) if move.is_hamiltonian else ())
        kept = tuple((name, getattr(state.move_state, name).shape[1:]) for name in move.kept)
        return cls(jnp.asarray(first), jnp.asarray(thinning), num_draws, names, kept)

    def draws(self, kept: PyTree, num_draws: int) -> tuple[PyTree, dict[str, Array]]:
        """The first `num_draws` draws, and the statistics of each, by name."""
        values, rows = kept
        if num_draws < self.num_draws:
            values, rows = jax.tree.map(lambda x: x[:, :num_draws], (values, rows))
        stats, start = {}, 0
        for name, shape in self._shapes():
            end = start + math.prod(shape)
            stat = rows[..., start:end].reshape(*rows.shape[:2], *shape)
            stats[name], start = stat.astype(DTYPES.get(name, rows.dtype)), end
        return values, stats

    def empty(self, state: ChainState, points: Point) -> PyTree:
        def empty(x: Any) -> Array:
            return jnp.zeros((x.shape[0], self.num_draws, *x.shape[1:]), x.dtype)

        size = sum(math.prod(shape) for _, shape in self._shapes())
        row = jnp.zeros((len(state.totals), size))
        return jax.tree.map(empty, (points, row))

    def update(self, kept: PyTree, state: ChainState, points: Point, report: Report) -> PyTree:
        # The last of `thinning` writes to a slot stays; warm-up writes are overwritten.
        slot = jnp.maximum(state.i - 1 - self.first, 0) // self.thinning
        energies = -state.move_state.logdensity
        stats = report._asdict() | {"potential_energy": energies}
        row = jnp.stack([stats[name].astype(energies.dtype) for name in self.names], -1)
        if self.kept:
            more = [getattr(state.move_state, name) for name, _ in self.kept]
            flat = [x.reshape(len(x), -1).astype(row.dtype) for x in more]
            row = jnp.concatenate([row, *flat], 1)
        return jax.tree.map(
            lambda h, x: jax.lax.dynamic_update_index_in_dim(h, x, slot, 1), kept, (points, row)
        )

    def _shapes(self) -> list[tuple[str, Shape]]:
        return [*((name, ()) for name in self.names), *self.kept]


#: The statistics of each draw, in one array: with one chain, each further array is felt.
STATS = ("potential_energy", "accept_prob", "diverging", "n_grad")
#: Those that are not floats in the end.
DTYPES: dict[str, type] = {
    "diverging": bool,
    **dict.fromkeys(("n_grad", "replica", "restarts", "round_trips"), int),
    **dict.fromkeys(("jumps", "jumps_accepted"), int),
}


class Half(NamedTuple):
    """Count, mean and sum of squares of both halves of each chain, `(half, chain, ...)`."""

    count: Array
    mean: Array
    m2: Array

    def learn(self, half: Array, x: Array) -> "Half":
        """Add one value of each chain [Welford 1962]."""
        count = self.count[half] + 1
        delta = x - self.mean[half]
        mean = self.mean[half] + delta / count
        m2 = self.m2[half] + delta * (x - mean)
        new = zip(self, (count, mean, m2), strict=True)
        return Half(*(old.at[half].set(value) for old, value in new))

    def total_mean(self) -> Array:
        return (self._weights() * self.mean).sum((0, 1))

    def total_variance(self) -> Array:
        spread = self.m2 / self._n() + (self.mean - self.total_mean()) ** 2
        return (self._weights() * spread).sum((0, 1))

    def std_error(self) -> Array:
        chains = (self._n() * self.mean).sum(0) / self.count.sum()
        return chains.std(0, ddof=1) / jnp.sqrt(len(chains))

    def rhat(self) -> Array:
        length = self.count.mean()
        within = (self.m2 / (self._n() - 1)).mean((0, 1))
        between = self.mean.reshape(-1, *self.mean.shape[2:]).var(0, ddof=1)
        return jnp.sqrt((length - 1) / length + between / within)

    def _n(self) -> Array:
        return self.count.reshape(2, *(1,) * (self.mean.ndim - 1))

    def _weights(self) -> Array:
        return self._n() / (self.count.sum() * self.mean.shape[1])


class Halves(AbstractKeeper):
    """Keeps moments of a statistic."""

    first: Array
    size: Array
    statistic: Callable[[Point], PyTree] = eqx.field(static=True)

    def empty(self, state: ChainState, points: Point) -> PyTree:
        def empty(x: Any) -> Half:
            zeros = jnp.zeros((2, *x.shape))
            return Half(jnp.zeros(2), zeros, zeros)

        return jax.tree.map(empty, jax.eval_shape(jax.vmap(self.statistic), points))

    def update(self, kept: PyTree, state: ChainState, points: Point, report: Report) -> PyTree:
        n = state.i - 1 - self.first
        half = jnp.where(n < self.size, 0, 1)
        values = jax.vmap(self.statistic)(points)
        learnt = jax.tree.map(lambda x, one: one.learn(half, x), values, kept)
        return jax.tree.map(lambda new, old: jnp.where(n >= 0, new, old), learnt, kept)


class Moments(eqx.Module):
    """Mean and variance over all draws of all chains, without keeping them.

    - **mean**, **variance**: of the statistic.
    - **std_error**: of the mean, from the spread of the chain means; NaN for one chain.
    - **rhat**: split R-hat [Gelman et al. 2013], the classical one, without ranks.
    - **accept_prob**, **state**: as in [`Draws`][numpyro_ebm.sampling.Draws].
    """

    mean: PyTree
    variance: PyTree
    std_error: PyTree
    rhat: PyTree
    accept_prob: Float[Array, " chain"]
    state: ChainState
