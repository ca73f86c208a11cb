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
from ..energies import AbstractEnergy, as_energy, unconstrained
from ..kernels import HMC, AbstractKernel, as_sampler
from ._parameters import Parameters


class Slopes(NamedTuple):
    r"""Of $\log Z$ at several points, one per row.

    - **points**: where, unconstrained; **gradients**: there; **noise**: their covariances.
    - **rhat**: the largest potential scale reduction of the chains at each point.
    - **statistics**: of the draws, `(point, chain, draw, p)`, if the energy is linear in $p$
      parameters; **bend**: how far from it at the draws, relative to them.
    """

    points: Float[np.ndarray, "n d"]
    gradients: Float[np.ndarray, "n d"]
    noise: Float[np.ndarray, "n d d"]
    rhat: Float[np.ndarray, " n"]
    statistics: Float[np.ndarray, "n c m p"]
    bend: Float[np.ndarray, " n"]

    def where(self, keep: np.ndarray) -> "Slopes":
        return Slopes(*(x[keep] for x in self))

    def joined(self, other: "Slopes") -> "Slopes":
        return Slopes(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))


class Family(eqx.Module):
    """Energies of unconstrained vectors; equal ones are compiled once."""

    family: Callable[[Any], Any]
    parameters: Parameters
    event_shape: Shape | None = eqx.field(static=True)

    def __call__(self, z: Float[Array, " d"]) -> AbstractEnergy:
        return self.at(self.parameters, z)

    def at(self, parameters: Parameters, vector: Array) -> AbstractEnergy:
        """The energy of a vector in other coordinates."""
        return as_energy(self.family(parameters.unflatten(vector)), self.event_shape)


class Chains(eqx.Module):
    """How chains explore the energy at each point.

    - **natural**: coordinates in which energies may be linear, by `natural_coordinates`.
    """

    family: Family
    natural: Parameters | None
    kernel: AbstractKernel = eqx.field(static=True)
    event_shape: Shape = eqx.field(static=True)
    num_chains: int = eqx.field(static=True)
    num_warmup: int = eqx.field(static=True)
    num_samples: int = eqx.field(static=True)

    def slopes(self, rng_key: Key, points: np.ndarray, data: Array | None) -> Slopes:
        r"""$\nabla\log Z$ at `points`; half of the chains start from `data`, if any."""
        found = _slopes(self, jr.split(rng_key, len(points)), jnp.asarray(points, float), data)
        means, *others = (np.asarray(x, float) for x in found)
        apart = means - means.mean(1, keepdims=True)
        noise = np.einsum("nci,ncj->nij", apart, apart)
        noise /= self.num_chains * (self.num_chains - 1)
        # Chains are few, and a correlation of their means is uncertain.
        noise += _SHRINKAGE * noise * np.eye(points.shape[1])
        return Slopes(np.asarray(points, float), -means.mean(1), noise, *others)

    def phi(self, z: Float[Array, " d"]) -> Float[Array, " p"]:
        """The coordinates in which slopes are taken."""
        if self.natural is None:
            return z
        return self.natural.flatten(self.family.parameters.unflatten(z))

    def statistic(self, phi: Float[Array, " p"], x: Point) -> Float[Array, " p"]:
        r"""$\nabla_\phi E_\phi(x)$."""
        parameters = self.family.parameters if self.natural is None else self.natural
        return jax.grad(lambda phi: self.family.at(parameters, phi)(x))(phi)


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
) -> tuple[Array, Array, Array, Array]:
    few = points[:: -(-len(points) // _OTHERS)]
    size = len(points) * chains.num_chains * jax.eval_shape(chains.phi, points[0]).size
    num_kept = 0 if chains.natural is None else min(chains.num_samples, max(1, _MOST // size))
    return jax.vmap(lambda key, z: _slopes_at(chains, key, z, data, few, num_kept))(
        rng_keys, points
    )


#: Numbers that are kept of all draws, and points whose parameters test if energies are linear.
_MOST, _OTHERS = 2**22, 4


def _slopes_at(
    chains: Chains,
    rng_key: Key,
    z: Float[Array, " d"],
    data: Array | None,
    others: Float[Array, "k d"],
    num_kept: int,
) -> tuple[Array, Array, Array, Array]:
    r"""The mean of $\nabla_z E$ over each chain, and the other fields of `Slopes`."""
    begin_key, warmup_key, draw_key = jr.split(rng_key, 3)
    energy, transform = unconstrained(chains.kernel.as_target(chains.family(z)))
    sampler = as_sampler(chains.kernel)
    positions = _starts(chains, begin_key, sampler, energy, transform, data)
    state = start(warmup_key, sampler, energy, positions, chains.num_warmup)
    state, _ = advance(sampler, energy, state, chains.num_warmup)
    tuned = Sampler(sampler.adaptation.tune(sampler.move, state.adapt_state), NO_ADAPTATION)
    state = start(draw_key, tuned, energy, state.z, 0)

    phi, stride = chains.phi(z), -(-chains.num_samples // max(num_kept, 1))

    def statistic(phi: Array, position: Array) -> Array:
        return chains.statistic(phi, position if transform is None else transform(position))

    def visit(kept: tuple, state: ChainState, report: Report) -> tuple:
        running, draws = kept
        new = jax.vmap(statistic, (None, 0))(phi, state.z)
        if num_kept:
            index = running.count.astype(int) // stride
            draws = draws.at[:, index].set(new, mode="drop")
        return running.add(new), draws

    zeros = jnp.zeros((chains.num_chains, len(phi)))
    draws = jnp.zeros(
        (chains.num_chains, chains.num_samples // stride if num_kept else 0, len(phi))
    )
    begin = Running(jnp.zeros(()), zeros, zeros), draws
    state, (kept, draws) = advance(tuned, energy, state, chains.num_samples, visit, begin)
    slopes = jax.vmap(lambda cotangent: jax.vjp(chains.phi, z)[1](cotangent)[0])(kept.mean)
    bend = jnp.inf
    if num_kept:
        at_all = jax.vmap(jax.vmap(statistic, (None, 0)), (0, None))
        there, here = at_all(jax.vmap(chains.phi)(others), state.z), at_all(phi[None], state.z)
        bend = jnp.abs(there - here).max() / (jnp.abs(here).max() + 1e-30)
    return slopes, _rhat(kept), draws, jnp.asarray(bend)


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


def probes(kernel: AbstractKernel, energy: AbstractEnergy, shape: Shape) -> Array:
    """A few points where chains might start."""
    target, transform = unconstrained(kernel.as_target(energy))
    free: Any = shape if transform is None else target.event_shape
    keys = jr.split(jr.key(0), 8)
    move = as_sampler(kernel).move
    found = jax.vmap(lambda key: move.draw_start(key, target, free))(keys)
    return found if transform is None else jnp.asarray(jax.vmap(transform)(found))


def natural_coordinates(
    family: Family, example: Any, points: np.ndarray, x: Float[Array, "k *shape"]
) -> Parameters | None:
    """Coordinates in which the energies at all of `points` are linear at all of `x`, if any.

    The parameters themselves, or the unconstrained vector. That they are is tested again with
    the draws of all chains: an energy may be linear at some points only.
    """
    for natural in (Parameters(example), family.parameters):
        parts = Chains(family, natural, HMC(), x.shape[1:], 1, 0, 1)
        phi = jax.vmap(parts.phi)(jnp.asarray(points, float))
        slopes = eqx.filter_jit(jax.vmap(jax.vmap(parts.statistic, (None, 0)), (0, None)))(
            phi, x
        )
        bend = jnp.abs(slopes - slopes[:1]).max() / (jnp.abs(slopes).max() + 1e-30)
        if bend <= most_bend():
            return natural
    return None


def most_bend() -> float:
    """The relative change of the slopes of a linear energy, by rounding alone."""
    return 100 * float(jnp.finfo(jnp.result_type(float)).eps)
