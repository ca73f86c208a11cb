"""`sample` and `sample_moments`: many chains on an energy, outside a NumPyro model."""

import functools
import time
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Sharding

from .._checks import check_key, user_level
from .._types import Array, EnergyLike, Key, Point, PyTree, Shape
from ..chains import ChainState, in_calls
from ..energies import as_energy, flattened, is_conditional
from ..kernels import AbstractKernel, AbstractPopulation, Population
from ._draws import Draws
from ._islands import log_z_of_populations
from ._keep import Half, Halves, History, Moments
from ._problem import as_problem, first_state
from ._run import run_until
from ._sizes import check_run, check_thinning


def sample(
    rng_key: Key,
    energy: EnergyLike,
    kernel: AbstractKernel | AbstractPopulation,
    *,
    event_shape: Shape | None = None,
    num_chains: int | None = None,
    num_warmup: int = 1000,
    num_samples: int = 1000,
    thinning: int = 1,
    init_params: Point | None = None,
    init_state: ChainState | None = None,
    progress_bar: bool = True,
    sharding: Sharding | None = None,
) -> Draws:
    r"""Draw from $p(x) \propto e^{-E(x)}$ with many chains at once.

    ```python
    draws = ebm.sample(jax.random.key(0), energy, ebm.MALA(), num_chains=1000)
    ```

    Step size and metric adapt to all chains together, so many chains need a shorter warm-up
    than one chain. Kernels with local moves, such as `MALA`, first travel by Hamiltonian
    trajectories, for 60 % of the warm-up. The energy, its parameters and the step size are
    arguments of one compiled program: a second call with other values compiles nothing.

    **Arguments**

    - `energy`: anything [`as_energy`][numpyro_ebm.as_energy] takes.
    - `kernel`: such as [`NUTS()`][numpyro_ebm.NUTS] or [`MALA()`][numpyro_ebm.MALA], with
      neither model nor potential; or a population that needs no warm-up,
      [`TemperedSMC`][numpyro_ebm.TemperedSMC] or
      [`AnnealedLangevin`][numpyro_ebm.AnnealedLangevin].
    - `event_shape`: the shape of one point, if the energy doesn't know it.
    - `num_chains`: 4, or the number of rows of `init_params`.
    - `num_warmup`: transitions that adapt.
    - `num_samples`: transitions of each chain after the warm-up.
    - `thinning`: keep the last of so many transitions, `num_samples // thinning` draws in all,
      as in NumPyro's `MCMC`.
    - `init_params`: points to start from, `(chain, *event)`, by default uniform in
      $[-2, 2]^d$ (of unconstrained space); for a conditional energy at one condition, in up to
      three dimensions, wide draws chosen by their weights, so modes have their proportions.
    - `init_state`: `draws.state`, to continue from there; the draws are those that one longer
      call would have made. An unfinished warm-up is completed first. If the energy has changed,
      the chains continue with the new one.
    - `progress_bar`: show progress, acceptance and step size.
    - `sharding`: how chains are laid out over devices, such as
      `NamedSharding(jax.make_mesh((8,), ("chain",)), PartitionSpec("chain"))`.

    **Raises** `ValueError` if chains start at an infinite energy or gradient, and
    [`UnnormalizedError`][numpyro_ebm.UnnormalizedError] if a point holds parameters of an
    energy whose normaliser is unknown. Warns if a chain is stuck or produced non-finite draws.
    An interrupt (`KeyboardInterrupt`) warns and returns the draws so far.
    """
    if isinstance(kernel, AbstractPopulation):
        size = num_chains or 4, num_samples
        return _populate(rng_key, energy, kernel, event_shape, size, progress_bar)
    check_run(rng_key, num_chains, num_warmup, num_samples)
    check_thinning(thinning, num_samples)
    start = time.perf_counter()
    energy = as_energy(energy, event_shape)
    problem = as_problem(energy, kernel)
    chains = num_chains, num_warmup, init_params, init_state, sharding
    state = first_state(problem, energy, rng_key, *chains)
    first = max(int(state.i), state.num_warmup)
    # As in NumPyro, the last transition is kept, and those left over are the first ones.
    num_draws, num_left = divmod(num_samples, thinning)
    history = History.of(kernel.move, state, first + num_left, num_draws, thinning)
    state, kept = run_until(first + num_samples, problem, state, history, progress_bar)
    num_steps = max(int(state.i) - first, 0)
    values, stats = history.draws(kept, max(num_steps - num_left, 0) // thinning)
    draws = Draws(
        values,
        state.accept_prob,
        num_steps,
        stats=stats,
        state=state,
        kernel=type(kernel).__name__,
        is_exact=kernel.move.is_exact,
        is_transformed=problem.transform is not None,
        seconds=time.perf_counter() - start,
    )
    if num_steps >= _LONG and state.totals.is_fully_addressable and not draws.ok:
        warnings.warn(f"`sample`: {draws}.{_remedy(draws)}", stacklevel=user_level())
    return draws


#: Number of transitions from which a mean acceptance says something about a chain.
_LONG = 100


def _remedy(draws: Draws) -> str:
    if not bool(draws.stuck.any()):
        return ""
    return (
        " A stuck chain takes steps far smaller than the spread of all chains: let the kernel "
        "learn the scales (`adapt_mass_matrix=True`; `dense_mass=True` for correlated "
        "coordinates), give it a longer `num_warmup` or a better start, or use `ebm.NUTS()`."
    )


def sample_moments(
    rng_key: Key,
    energy: EnergyLike,
    kernel: AbstractKernel,
    statistic: Callable[[Point], PyTree] = lambda x: x,
    *,
    event_shape: Shape | None = None,
    num_chains: int | None = None,
    num_warmup: int = 1000,
    num_samples: int = 1000,
    init_params: Point | None = None,
    init_state: ChainState | None = None,
    progress_bar: bool = True,
    sharding: Sharding | None = None,
) -> Moments:
    r"""Mean, variance and R-hat of a statistic of $x$, without keeping any draw.

    For thousands of chains in thousands of dimensions, whose draws would not fit in memory.

    **Arguments** are those of [`sample`][numpyro_ebm.sample], and

    - `statistic`: a function from one point to an array or a pytree of arrays.
    """
    check_run(rng_key, num_chains, num_warmup, num_samples, 4)
    energy = as_energy(energy, event_shape)
    problem = as_problem(energy, kernel)
    chains = num_chains, num_warmup, init_params, init_state, sharding
    state = first_state(problem, energy, rng_key, *chains)
    first = max(int(state.i), state.num_warmup)
    halves = Halves(jnp.asarray(first), jnp.asarray(num_samples // 2), statistic)
    state, kept = run_until(first + num_samples, problem, state, halves, progress_bar)

    def each(summary: Callable[[Half], Array]) -> PyTree:
        return jax.tree.map(summary, kept, is_leaf=lambda node: isinstance(node, Half))

    summaries = map(each, (Half.total_mean, Half.total_variance, Half.std_error, Half.rhat))
    return Moments(*summaries, accept_prob=state.accept_prob, state=state)


def _populate(
    rng_key: Key,
    energy: Any,
    sampler: AbstractPopulation,
    event_shape: Shape | None,
    size: tuple[int, int],
    progress_bar: bool,
) -> Draws:
    check_key(rng_key)
    start = time.perf_counter()
    unflatten = None
    if not is_conditional(energy):
        energy, unflatten = flattened(as_energy(energy, event_shape))
    num_chains, num_samples = size
    state = _begin(sampler, energy, jr.split(rng_key, num_chains), num_samples)
    go_on = functools.partial(_go_on, sampler, energy)
    label = type(sampler).__name__
    state = in_calls(go_on, state, sampler.num_levels, progress_bar=progress_bar, label=label)
    populations = _finish(sampler, energy, state)
    num_steps = int(populations.num_steps.max())
    values = populations.values
    if unflatten is not None:
        values = jax.vmap(jax.vmap(unflatten))(values)
    draws = Draws(
        values,
        populations.accept_prob,
        num_steps,
        kernel=label,
        is_exact=sampler.is_exact,
        seconds=time.perf_counter() - start,
        log_z=log_z_of_populations(populations.log_z, label),
    )
    if not draws.ok:
        warnings.warn(f"`sample`: {draws}.", stacklevel=user_level())
    return draws


@eqx.filter_jit
def _begin(sampler: AbstractPopulation, energy: Any, rng_keys: Key, num_samples: int) -> PyTree:
    return jax.vmap(lambda key: sampler.begin(key, energy, num_samples))(rng_keys)


@eqx.filter_jit
def _go_on(
    sampler: AbstractPopulation, energy: Any, state: PyTree, first: Array, last: Array
) -> PyTree:
    return jax.vmap(lambda one: sampler.go_on(energy, one, first, last))(state)


@eqx.filter_jit
def _finish(sampler: AbstractPopulation, energy: Any, state: PyTree) -> Population:
    return jax.vmap(lambda one: sampler.finish(energy, one))(state)
