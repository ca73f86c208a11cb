"""`ChainState`: the state of the chains."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from .._types import Array, Float, Int, Key, Point


class ChainState(NamedTuple):
    """The state of the chains, after `i` transitions of each.

    - **i**: the number of transitions made.
    - **move_state**: BlackJAX's states, stacked along a leading chain axis.
    - **totals**: sums for each chain, since the start of the warm-up, or since its end. Read
      them as `accept_prob`, a mean, `num_diverging` and `n_grad`, the number of gradients.
    - **adapt_state**: step size and metric, the same for all chains, and their adaptation.
    - **rng_key**: one per chain; transition `i` draws from `fold_in(rng_key, i)`.
    """

    i: Array
    move_state: Any
    totals: Float[Array, "*batch chain 3"]
    adapt_state: Any
    rng_key: Key

    @property
    def z(self) -> Point:
        return self.move_state.position

    @property
    def num_warmup(self) -> int:
        return self.adapt_state.schedule.shape[-2]

    @property
    def accept_prob(self) -> Float[Array, "*batch chain"]:
        i, num_warmup = self.i, self.num_warmup
        n = jnp.where(i <= num_warmup, i, i - num_warmup)
        return self.totals[..., 0] / jnp.maximum(n, 1)[..., None]

    @property
    def num_diverging(self) -> Int[Array, "*batch chain"]:
        return self.totals[..., 1].astype(int)

    @property
    def n_grad(self) -> Int[Array, "*batch chain"]:
        return self.totals[..., 2].astype(int)
