"""Draws of many energies, one per row of data."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._types import Array, Float, PyTree
from ._draws import ENOUGH_DRAWS, AbstractDraws, moved


class RowDraws(AbstractDraws):
    """Draws of many energies, one per row, and the health of the chains behind them.

    - **values**: `(chain, draw, row, *event)`.
    - **accept_prob**: the mean acceptance probability of each chain after its warm-up.
    - **num_steps**: the length of each chain.
    - **stats**: as in [`Draws`][numpyro_ebm.sampling.Draws], `(chain, draw, row)`.
    - **kernel**, **is_exact**, **is_transformed**, **seconds**: as there.
    - **num_warmup**: the transitions before, which adapted.
    """

    values: PyTree
    accept_prob: Float[Array, "chain row"]
    num_steps: int = eqx.field(static=True)
    stats: dict[str, Array]
    num_warmup: int = eqx.field(static=True)
    kernel: str = eqx.field(static=True)
    is_exact: bool = eqx.field(static=True)
    is_transformed: bool = eqx.field(static=True)
    seconds: float = float("nan")

    @property
    def finite(self) -> Array:
        """Which chains of which rows drew only finite values."""

        def finite(leaf: Array) -> Array:
            return jnp.isfinite(leaf).all((1, *range(3, leaf.ndim)))

        return jnp.stack([finite(leaf) for leaf in jax.tree.leaves(self.values)]).all(0)

    @property
    def stuck(self) -> Array:
        """Which chains of which rows hardly moved, as in `Draws.stuck`.

        Chains of integers that all stay at one point are not stuck: it holds all the mass.
        """
        num_draws = self.stats["potential_energy"].shape[1]
        if num_draws >= ENOUGH_DRAWS:
            far = jax.vmap(moved, 2, 1)(self.values) >= 0.25
            return ~(far | jax.vmap(_is_one_state, 2)(self.values))
        return ~(self.accept_prob >= 0.1) & self.is_exact

    def __getitem__(self, rows: Any) -> "RowDraws":
        """The draws of some rows, chosen as an array would be."""
        at = np.atleast_1d(np.arange(self.accept_prob.shape[1])[rows])
        values, stats = jax.tree.map(lambda x: x[:, :, at], (self.values, self.stats))
        new = values, stats, self.accept_prob[:, at]
        return eqx.tree_at(lambda d: (d.values, d.stats, d.accept_prob), self, new)

    def with_values(self, values: PyTree) -> "RowDraws":
        """The same draws in other coordinates."""
        return dataclasses.replace(self, values=values, is_transformed=True)

    def _what(self) -> str:
        num_chains, num_draws, num_rows = self.stats["potential_energy"].shape
        return f"{num_chains} chains of {num_draws} draws on each of {num_rows} energies"


def _is_one_state(values: PyTree) -> Array:
    """Whether draws are the same integers all the time."""
    flat = [x.reshape(-1, *x.shape[2:]) for x in jax.tree.leaves(values)]
    same = [((x == x[0]) & (x == jnp.floor(x))).all() for x in flat]
    return jnp.stack(same).all()


class AbstractFromRows(eqx.Module):
    """What rests on the draws of many energies."""

    draws: eqx.AbstractVar[RowDraws]
