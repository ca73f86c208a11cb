"""Handling draws correlated along a chain: thinning, and signs for the wild bootstrap."""

import math
from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._types import Array, Float, Key, PyTree, Scalar, Shape


def spread(chains: Array, every: int, max_points: int) -> tuple[Array, int]:
    """At most `max_points` draws, from every chain if possible, and their spacing."""
    chains = chains[:: math.ceil(len(chains) / max_points)]
    length = chains.shape[1]
    every *= math.ceil(len(chains) * math.ceil(length / every) / max_points)
    return thin(chains, min(every, length)), min(every, length)


def thin(draws: Array, every: int) -> Array:
    """Every `every`-th draw of a chain, including its last."""
    return draws[:, (draws.shape[1] - 1) % every :: every]


@partial(jax.jit, static_argnames=("shape", "num"))
def markov_signs(
    rng_key: Key, shape: Shape, num: int, flip_prob: float | Scalar
) -> Float[Array, "n num"]:
    """Stationary two-valued Markov chains, one per chain [Chwialkowski et al. 2016]."""
    start_key, flip_key = jr.split(rng_key)
    num_chains, length = shape
    starts = jr.rademacher(start_key, (num_chains, 1, num))
    flips = 1 - 2 * jr.bernoulli(flip_key, flip_prob, (num_chains, length - 1, num))
    steps = jnp.concatenate([starts, flips], 1).astype(jnp.result_type(float))
    return jnp.cumprod(steps, 1).reshape(-1, num)


def decorrelation_time(pair: Callable[[PyTree, PyTree], Scalar], chains: PyTree) -> int:
    """The smallest power of two, in draws, after which a feature is decorrelated.

    `pair` is the inner product of the features of two points.
    """
    half = jax.tree.leaves(chains)[0].shape[1] // 2
    lags = [2**i for i in range(half.bit_length()) if 2**i < half]
    products = np.asarray(_lagged(pair, chains, jnp.array([0, half, *lags])))
    # Draws half a chain apart count as independent: their product is the mean left by a misfit.
    variance, *covariances = products[[0, *range(2, len(products))]] - products[1]
    forgotten = (k for k, c in zip(lags, covariances, strict=True) if c < 0.2 * variance)
    return next(forgotten, half)


@eqx.filter_jit
def _lagged(pair: Callable[[PyTree, PyTree], Scalar], chains: PyTree, lags: Array) -> Array:
    """The mean product of draws of one chain at each lag."""
    length = jax.tree.leaves(chains)[0].shape[1]

    def mean(lag: Array) -> Scalar:
        later = jax.tree.map(lambda x: jnp.roll(x, -lag, 1), chains)
        products = jax.vmap(jax.vmap(pair))(chains, later).mean(0)
        return jnp.mean(products, where=jnp.arange(length) < length - lag)

    return jax.lax.map(mean, lags)
