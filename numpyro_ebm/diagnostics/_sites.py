"""The sites of a model after a run: their plates, data and energies."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.infer import MCMC

from .._types import Array, Energy, Scalar
from ..sites._distribution import EnergyDistribution


def trace(mcmc: MCMC, model: Any, draw: Any) -> dict[str, dict]:
    """The sites of the model at one draw."""
    model = handlers.substitute(handlers.seed(model, jax.random.key(0)), draw)
    sites = handlers.trace(model).get_trace(*mcmc._args, **mcmc._kwargs)
    return {name: s for name, s in sites.items() if s["type"] in ("sample", "deterministic")}


def ebm_energy(mcmc: MCMC, model: Any, draws: Any) -> np.ndarray:
    """The energies of the latent sites that have one, summed, `(chain, draw)`."""

    def at(draw: Any) -> Scalar:
        energies = [energy_at(site) for site in trace(mcmc, model, draw).values()]
        return sum((e for e in energies if e is not None), jnp.zeros(()))

    shape = jax.tree.leaves(draws)[0].shape[:2]
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), draws)
    energies = jax.jit(lambda flat: jax.lax.map(at, flat, batch_size=_BATCH))(flat)
    return np.asarray(energies).reshape(shape)


#: Draws per block of energy evaluations.
_BATCH = 256


def energy_at(site: dict) -> Scalar | None:
    """The energy at a latent site of an `EnergyDistribution`; `None` elsewhere."""
    fn = site.get("fn")
    while isinstance(
        fn, dist.ExpandedDistribution | dist.Independent | dist.MaskedDistribution
    ):
        fn = fn.base_dist
    if site.get("is_observed", False) or not isinstance(fn, EnergyDistribution):
        return None

    def one(energy: Energy, x: Array) -> Scalar:
        return energy(x)

    for _ in fn.batch_shape:
        one = eqx.filter_vmap(one)
    points = jnp.reshape(site["value"], (-1, *fn.batch_shape, *fn.event_shape))
    return jax.vmap(lambda x: one(fn.energy, x))(points).sum()


def is_data(site: dict) -> bool:
    # A `factor` is an observed site with no value.
    return site.get("is_observed", False) and np.size(site["value"]) > 0


def plates(sites: dict[str, dict]) -> dict[str, list[str]]:
    """Plate names for the batch dimensions of each site with one plate per dimension."""
    stacks = {
        name: sorted(site["cond_indep_stack"], key=lambda frame: frame.dim)
        for name, site in sites.items()
        if site["type"] == "sample"
    }
    return {
        name: [frame.name for frame in stack]
        for name, stack in stacks.items()
        if [frame.dim for frame in stack] == list(range(-len(stack), 0))
    }
