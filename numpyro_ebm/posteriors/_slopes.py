r"""Slopes of $\log Z$ at many parameters, $-E[\nabla_\theta E_\theta(x)]$, by chains."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._types import Array, Float, Key, Point, Scalar, Shape
from ..chains import NO_ADAPTATION, ChainState, Report, Sampler, advance, start
from ..energies import AbstractEnergy, as_energy, is_discrete, unconstrained
from ..kernels import HMC, AbstractKernel, BlockGibbs, GibbsWithGradients, as_sampler


class Slopes(NamedTuple):
    r"""Of $\log Z$ at several points, one per row.

    - **points**: where, unconstrained; **gradients**: there; **noise**: their covariances.
    - **rhat**: the largest potential scale reduction of the chains at each point.
    """

    points: Float[np.ndarray, "n d"]
    gradients: Float[np.ndarray, "n d"]
    noise: Float[np.ndarray, "n d d"]
    rhat: Float[np.ndarray, " n"]

    def where(self, keep: np.ndarray) -> "Slopes":
        return Slopes(*(x[keep] for x in self))

    def joined(self, other: "Slopes") -> "Slopes":
        return Slopes(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))


class Chains(eqx.Module):
    """How chains explore the energy at each point.

    - **family**: from an unconstrained vector to an energy.
    """

    family: Callable[[Array], AbstractEnergy]
    kernel: AbstractKernel = eqx.field(static=True)
    event_shape: Shape = eqx.field(static=True)
    num_chains: int = eqx.field(static=True)
    num_warmup: int = eqx.field(static=True)
    num_samples: int = eqx.field(static=True)

    def slopes(self, rng_key: Key, points: np.ndarray, data: Array | None) -> Slopes:
        r"""$\nabla\log Z$ at `points`; half of the chains start from `data`, if any."""
        found = _slopes(self, jr.split(rng_key, len(points)), jnp.asarray(points, float), data)
        means, rhat = (np.asarray(x, float) for x in found)
        apart = means - means.mean(1, keepdims=True)
        noise = np.einsum("nci,ncj->nij", apart, apart)
        noise /= self.num_chains * (self.num_chains - 1)
        # Chains are few, and a correlation of their means is uncertain.
        noise += _SHRINKAGE * noise * np.eye(points.shape[1])
        return Slopes(np.asarray(points, float), -means.mean(1), noise, rhat)


#: What is added to the variances of gradients, as a fraction.
_SHRINKAGE = 0.1


class Running(NamedTuple):
    """Count, mean and sum of squares of each chain [Welford 1962]."""

    count: Array
    mean: Array
    m2: Array

    def add(self, x: Array) -> "Running":
        count = self.count + 1
        delta = x - self.mean
        mean = self.mean + delta / count
        return Running(count, mean, self.m2 + delta * (x - mean))


@eqx.filter_jit
def _slopes(
    chains: Chains, rng_keys: Key, points: Float[Array, "n d"], data: Array | None
) -> tuple[Float[Array, "n c d"], Float[Array, " n"]]:
    return jax.vmap(lambda key, z: _slopes_at(chains, key, z, data))(rng_keys, points)


def _slopes_at(
    chains: Chains, rng_key: Key, z: Float[Array, " d"], data: Array | None
) -> tuple[Float[Array, "c d"], Scalar]:
    r"""The mean of $\nabla_z E$ over each chain, and the largest R-hat."""
    begin_key, warmup_key, draw_key = jr.split(rng_key, 3)
    energy, transform = unconstrained(chains.kernel.as_target(chains.family(z)))
    sampler = as_sampler(chains.kernel)
    positions = _starts(chains, begin_key, sampler, energy, transform, data)
    state = start(warmup_key, sampler, energy, positions, chains.num_warmup)
    state, _ = advance(sampler, energy, state, chains.num_warmup)
    tuned = Sampler(sampler.adaptation.tune(sampler.move, state.adapt_state), NO_ADAPTATION)
    state = start(draw_key, tuned, energy, state.z, 0)

    def slope(position: Array) -> Array:
        x = position if transform is None else transform(position)
        return jax.grad(lambda z: chains.family(z)(x))(z)

    def visit(kept: Running, state: ChainState, report: Report) -> Running:
        return kept.add(jax.vmap(slope)(state.z))

    zeros = jnp.zeros((chains.num_chains, len(z)))
    _, kept = advance(
        tuned, energy, state, chains.num_samples, visit, Running(jnp.zeros(()), zeros, zeros)
    )
    return kept.mean, _rhat(kept)


def _rhat(kept: Running) -> Scalar:
    within = kept.m2.mean(0) / (kept.count - 1)
    between = kept.mean.var(0, ddof=1)
    ratio = between / jnp.where(within > 0, within, 1)
    return jnp.sqrt((kept.count - 1) / kept.count + ratio).max()


def _starts(
    chains: Chains,
    rng_key: Key,
    sampler: Sampler,
    energy: AbstractEnergy,
    transform: Any,
    data: Array | None,
) -> Array:
    """Where chains start: anywhere, and half of them at data."""
    row_key, *keys = jr.split(rng_key, 1 + chains.num_chains)
    shape = chains.event_shape if transform is None else energy.event_shape
    assert shape is not None
    anywhere = jax.vmap(lambda key: sampler.move.draw_start(key, energy, shape))(
        jnp.stack(keys)
    )
    if data is None:
        return anywhere
    rows = data[jr.randint(row_key, (chains.num_chains,), 0, len(data))]
    if transform is not None:
        rows = jax.vmap(lambda x: free_start(transform, x))(rows)
    at_data = jnp.arange(chains.num_chains) % 2 == 0
    return jnp.where(at_data.reshape(-1, *(1,) * len(shape)), rows, anywhere)


def free_start(transform: Any, x: Point) -> Array:
    """Where a chain starts in unconstrained space; one at the boundary starts inside of it."""
    return jnp.nan_to_num(transform.inv(x), nan=jnp.nan, posinf=_FAR, neginf=-_FAR)


_FAR = 10.0


def default_kernel(energy: AbstractEnergy) -> AbstractKernel:
    """A kernel that moves on points like those of `energy`."""
    if not is_discrete(energy):
        return HMC()  # MALA can get stuck in light tails.
    try:
        BlockGibbs().move.check(energy)
    except TypeError:  # It has no blocks.
        return GibbsWithGradients()
    return BlockGibbs()


def as_family(
    family: Callable[[Any], Any], unflatten: Callable[[Array], Any], event_shape: Shape | None
) -> Callable[[Array], AbstractEnergy]:
    """`family` of an unconstrained vector; one function, so that it is compiled once."""
    return lambda z: as_energy(family(unflatten(z)), event_shape)
