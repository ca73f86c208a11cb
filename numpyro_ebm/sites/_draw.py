"""The draws of a site: exact, or the end points of chains, and the chains' health."""

import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._checks import user_level
from .._types import Array, Energy, Key, PyTree, Shape
from ..chains import ChainState, can_resample, resampled_starts, run_alone
from ..energies import Transformed, bijection, is_real
from ..kernels import as_sampler
from ..normalizers._integrability import check_integrable
from ..sampling import SiteDraws
from ._batch import vmap_times


def draw(site: Any, rng_key: Key, sample_shape: Shape) -> SiteDraws:
    def one(arrays: PyTree, rng_key: Key) -> SiteDraws:
        return _draw_one(site, arrays, rng_key, sample_shape)

    batch = site.batch_shape
    keys = jr.split(rng_key, batch) if batch else rng_key
    return vmap_times(one, len(batch), out_axes=len(sample_shape))(site._arrays, keys)


# Without this cache every call would recompile its chains.
compiled_draw = jax.jit(draw, static_argnums=2)


def _draw_one(site: Any, arrays: PyTree, rng_key: Key, sample_shape: Shape) -> SiteDraws:
    energy, support = site._unpack(arrays)
    if energy.sampler is not None and site._is_own:
        return SiteDraws(energy.sampler(rng_key, sample_shape), jnp.ones(sample_shape), 0)
    if site.sampler is None:
        raise NotImplementedError(
            "`EnergyDistribution(..., sampler=None)` cannot be sampled; pass a kernel, "
            "such as `sampler=ebm.NUTS()`."
        )
    size = math.prod(sample_shape)
    if support.is_discrete:
        return _draw_levels(site, energy, rng_key, sample_shape)
    transform = bijection(support)
    start_key, chain_key = jr.split(rng_key)
    shape = transform.inverse_shape(site.event_shape)
    if is_real(support) and can_resample(energy, shape):
        start = resampled_starts(start_key, energy, shape, size)
    else:
        start = jr.uniform(
            start_key, (size, *shape), jnp.result_type(float), minval=-2, maxval=2
        )
    potential = Transformed(site.sampler.as_target(energy), transform, is_onto=True)
    end = _run(site, chain_key, potential, start)
    return _collect(site, jax.vmap(transform)(end.z[:, 0]), end, sample_shape)


def _draw_levels(site: Any, energy: Any, rng_key: Key, sample_shape: Shape) -> SiteDraws:
    start_key, chain_key = jr.split(rng_key)
    move = as_sampler(site.sampler).move
    move.check(energy)
    keys = jr.split(start_key, math.prod(sample_shape))
    start = jax.vmap(lambda key: move.draw_start(key, energy, site.event_shape))(keys)
    end = _run(site, chain_key, energy, start)
    return _collect(site, end.z[:, 0], end, sample_shape)


def _run(site: Any, rng_key: Key, energy: Energy, start: Array) -> ChainState:
    keys = jr.split(rng_key, len(start))
    return run_alone(keys, as_sampler(site.sampler), energy, start, site.num_steps)


def _collect(site: Any, values: Array, end: ChainState, sample_shape: Shape) -> SiteDraws:
    return SiteDraws(
        values.reshape(sample_shape + site.event_shape),
        end.accept_prob.reshape(sample_shape),
        site.num_steps,
        is_exact=site.sampler.move.is_exact,
        is_tuned=not site.support.is_discrete,
    )


def warn_of_bad_health(site: Any, draws: SiteDraws) -> None:
    if site.support.is_discrete:
        if not draws.ok:
            _warn(f"{draws}.")
        return
    transform = bijection(site.support)
    far = np.abs(np.asarray(transform.inv(draws.values)))
    # From a start in [-2, 2]^d, this distance justifies a check of one second.
    if draws.ok and np.all(far < 30):
        return
    problem = f"{draws}." if not draws.ok else ""
    if not np.all(far < 30):
        seen = _look_far(
            site, far, draws.values.ndim - len(site.batch_shape + site.event_shape)
        )
        if draws.ok and seen.ok is not False:
            return
        problem += (
            " The chains ran away; `ebm.normalizers.check_integrable` calls the energy "
            f"{seen}. Tilt a proper density, `ebm.Tilted(energy, reference)`, or subtract less."
        )
    _warn(problem.strip())


def _warn(problem: str) -> None:
    warnings.warn(f"`sample` of an EnergyDistribution: {problem}", stacklevel=user_level())


def _look_far(site: Any, far: np.ndarray, num_sample_dims: int) -> Any:
    """The result of `check_integrable` for the energy whose chain went farthest."""
    index = np.unravel_index(np.argmax(np.where(np.isnan(far), np.inf, far)), far.shape)
    which = index[num_sample_dims : num_sample_dims + len(site.batch_shape)]
    energy, support = site._unpack(jax.tree.map(lambda a: a[which], site._arrays))
    transform = bijection(support)
    radius = 100 * np.max(far, initial=1e3, where=np.isfinite(far))
    shape = transform.inverse_shape(site.event_shape)
    free = Transformed(energy, transform, is_onto=True)
    return check_integrable(free, shape, radius=float(radius))
