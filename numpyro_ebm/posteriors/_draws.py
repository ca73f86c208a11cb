"""Draws of parameters from a posterior."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import MCMC

from .._types import Array, PyTree
from ._parameters import Parameters


def draws_of(posterior: MCMC | PyTree, parameters: Parameters) -> PyTree:
    """Draws of the parameters of a family, stacked along the first axis."""
    samples = posterior.get_samples() if isinstance(posterior, MCMC) else posterior
    names = [name for name in parameters.names if name]
    if isinstance(samples, dict) and names:
        missing = [name for name in names if name not in samples]
        if missing:
            raise ValueError(
                f"`posterior` has no `{missing[0]}` among {sorted(samples)}: give the sites of "
                "the model the names that the parameters of the family have, record one by "
                f"`numpyro.deterministic({missing[0]!r}, ...)`, or pass a dict of draws."
            )
        return {name: samples[name] for name in names}
    if isinstance(samples, dict) and len(samples) == 1:
        return next(iter(samples.values()))
    if isinstance(samples, dict):
        raise ValueError(
            "`posterior` has several sites, and the family takes one array: pass the draws of "
            f"that site, such as `mcmc.get_samples()[{min(samples)!r}]`."
        )
    return samples


def num_draws(draws: PyTree) -> int:
    """The length of the leading axis of the arrays of a pytree, such as stacked energies."""
    return len(next(x for x in jax.tree.leaves(draws) if _is_array(x)))


def draw_at(draws: PyTree, i: int) -> PyTree:
    return map_arrays(lambda x: jnp.asarray(x)[i], draws)


def map_draws(fn: Callable[[Any], Any], draws: PyTree) -> Any:
    """`fn` of each draw, a few at a time."""
    arrays, rest = eqx.partition(map_arrays(jnp.asarray, draws), _is_array)
    return jax.lax.map(lambda one: fn(eqx.combine(one, rest)), arrays, batch_size=16)


def map_arrays(fn: Callable[[Array], Any], tree: PyTree) -> PyTree:
    """`fn` of each array; an energy may have other leaves, such as an activation."""
    return jax.tree.map(lambda x: fn(x) if _is_array(x) else x, tree)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def thinned(draws: PyTree, most: int) -> tuple[PyTree, Any]:
    """At most `most` draws, evenly spaced, and their indices."""
    size = num_draws(draws)
    indices = jnp.linspace(0, size - 1, min(size, most)).round().astype(int)
    return map_arrays(lambda x: jnp.asarray(x)[indices], draws), indices
