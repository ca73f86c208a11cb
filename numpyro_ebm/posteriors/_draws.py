"""Draws of parameters from a posterior."""

from typing import Any

import jax
import jax.numpy as jnp
from numpyro.infer import MCMC

from .._types import PyTree
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
    return len(jax.tree.leaves(draws)[0])


def thinned(draws: PyTree, most: int) -> tuple[PyTree, Any]:
    """At most `most` draws, evenly spaced, and their indices."""
    size = num_draws(draws)
    indices = jnp.linspace(0, size - 1, min(size, most)).round().astype(int)
    return jax.tree.map(lambda x: jnp.asarray(x)[indices], draws), indices
