"""Many chains on an energy, outside of a NumPyro model."""

import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh, NamedSharding, Sharding
from tqdm.auto import tqdm

from ._checks import check_count, check_key, user_level
from ._interrupts import delayed_interrupt
from ._normalization import check_potential
from ._types import Array, Float, Key, Point, PyTree, Scalar, Shape
from .energies import (
    AbstractEnergy,
    ConditionalEnergy,
    as_energy,
    check_energy,
    check_points,
    unconstrained,
)
from .kernels import (
    AbstractAdaptation,
    AbstractKernel,
    AbstractMove,
    AbstractPopulation,
    ChainState,
    Population,
    Report,
    advance_chains,
    as_position,
    check_free_kernel,
    start_chains,
)


class Draws(eqx.Module):
    """Draws of an energy, and the health of the chains behind them.

    - **values**: `(chain, draw, *event)` if [`sample`][numpyro_ebm.sample] drew them;
      `(*sample_shape, *batch_shape, *event_shape)` if a site did, each draw the end of a chain
      of its own, or exact.
    - **accept_prob**: the mean acceptance probability of each chain after its warm-up; one
      where a draw is exact. Of an unadjusted kernel what its `Report` says: it accepts all.
    - **num_steps**: the length of each chain, `0` where draws are exact.
    - **stats**: what `sample` keeps of each draw, `(chain, draw)`: `potential_energy`, the
      energy at the draw (of a constrained support, with the Jacobian), `accept_prob`,
      `diverging` (bool) and `n_grad` (int); of a Hamiltonian kernel `energy`, that with its
      momentum.
    - **state**: where the chains of `sample` stand, for `init_state`.
    - **kernel**: the name of what drew them.
    - **is_exact**: whether that leaves the distribution of the energy invariant; an unadjusted
      kernel does not.
    """

    values: PyTree
    accept_prob: Float[Array, "*n"]
    num_steps: int = eqx.field(static=True)
    stats: dict[str, Array] = eqx.field(default_factory=dict)
    state: ChainState | None = None
    kernel: str = eqx.field(static=True, default="")
    is_exact: bool = eqx.field(static=True, default=True)

    @property
    def finite(self) -> Array:
        """Which chains drew nothing but finite values."""

        def finite(leaf: Array) -> Array:
            return jnp.isfinite(leaf).all(tuple(range(self.accept_prob.ndim, leaf.ndim)))

        return jnp.stack([finite(leaf) for leaf in jax.tree.leaves(self.values)]).all(0)

    @property
    def stuck(self) -> Array:
        r"""Which chains hardly moved.

        Of 50 draws of a chain or more: in some coordinate (if values are integers, in all of
        them) $\sum_t (x_{t+1}-x_t)^2 / 2\sigma^2 < 0.25$, where $\sigma$ is the spread of all
        chains; of independent draws it is their number. Of fewer, or where only the ends of
        chains are known: less than one proposal in ten was accepted; of an unadjusted kernel,
        more than nine transitions in ten diverged, as far as that is known.
        """
        if self.stats and self.stats["potential_energy"].shape[1] >= _ENOUGH_DRAWS:
            return ~(_moved(self.values) >= 0.25)
        if self.is_exact:
            return ~(self.accept_prob >= 0.1)
        if "diverging" in self.stats:
            return self.stats["diverging"].mean(1) > 0.9
        return jnp.zeros(self.accept_prob.shape, bool)

    @property
    def ok(self) -> bool:
        """Whether every draw is finite, and no chain is stuck. It need not have mixed."""
        return bool(jnp.all(self.finite & ~self.stuck))

    def __repr__(self) -> str:
        size = self.accept_prob.size
        if self.num_steps == 0:
            return f"{size} exact draws"
        what = f"{size} draws, each the end of {self.num_steps} steps"
        if self.stats:
            num_draws = self.stats["potential_energy"].shape[1]
            what = f"{size} chains of {num_draws} draws"
        accepted = f"{float(jnp.mean(self.accept_prob)):.2f} accepted"
        return (
            f"{what}: {accepted if self.is_exact else 'unadjusted'}, "
            f"{int(self.stuck.sum())} stuck, {int((~self.finite).sum())} not finite"
        )


#: Draws from which their steps say whether a chain moves.
_ENOUGH_DRAWS = 50


@eqx.filter_jit
def _moved(values: PyTree) -> Float[Array, " chain"]:
    """How far each chain moved, in the unit of independent draws: see `Draws.stuck`."""
    flat = [x.reshape(*x.shape[:2], -1) for x in jax.tree.leaves(values)]
    ways = jnp.concatenate([_ways(x.astype(jnp.result_type(float))) for x in flat], 1)
    discrete = jnp.stack([(x[:, -1] == jnp.floor(x[:, -1])).all() for x in flat]).all()
    return jnp.where(discrete, ways.max(1), ways.min(1))


def _ways(x: Float[Array, "chain draw d"]) -> Float[Array, "chain d"]:
    means = x.mean(1)
    # Robust: one chain that ran away must not make the others look still.
    low, high = jnp.nanquantile(means, jnp.array([0.25, 0.75]), axis=0)
    within = jnp.nanmedian(((x - means[:, None]) ** 2).mean(1), axis=0)
    variances = within + ((high - low) / _NORMAL_IQR) ** 2
    squares = ((x[:, 1:] - x[:, :-1]) ** 2).sum(1)
    # Where nothing moves anywhere, nothing has a spread.
    return jnp.where(variances > 0, squares / (2 * variances), squares)


#: The interquartile range of a standard normal.
_NORMAL_IQR = 1.349


class Moments(eqx.Module):
    """Mean and variance over all draws of all chains, none of which was kept.

    - **mean**, **variance**: of the statistic.
    - **std_error**: of the mean, from how the means of chains differ; NaN of one chain.
    - **rhat**: split R-hat [Gelman et al. 2013], the classical one, without ranks.
    - **accept_prob**, **state**: as in [`Draws`][numpyro_ebm.Draws].
    """

    mean: PyTree
    variance: PyTree
    std_error: PyTree
    rhat: PyTree
    accept_prob: Float[Array, " chain"]
    state: ChainState


def sample(
    rng_key: Key,
    energy: Any,
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
    r"""Draw from $p(x) \propto e^{-E(x)}$ by many chains at once.

    ```python
    draws = ebm.sample(jax.random.key(0), energy, ebm.MALA(), num_chains=1000)
    ```

    Step size and metric adapt to all chains together, so that a short warm-up of many chains
    does what takes one chain a long one. Kernels of local moves, such as `MALA`, first travel
    by Hamiltonian trajectories, for 60 % of the warm-up. The energy, its parameters and the
    step size are arguments of one compiled program: a second call with other values of them
    compiles nothing.

    **Arguments**

    - `energy`: what [`as_energy`][numpyro_ebm.as_energy] takes.
    - `kernel`: such as [`NUTS()`][numpyro_ebm.NUTS] or [`MALA()`][numpyro_ebm.MALA], of
      neither model nor potential; or a population that needs no warm-up,
      [`TemperedSMC`][numpyro_ebm.TemperedSMC] or
      [`AnnealedLangevin`][numpyro_ebm.AnnealedLangevin].
    - `event_shape`: the shape of one point, if the energy doesn't know it.
    - `num_chains`: 4, or as many as `init_params` has rows.
    - `num_warmup`: transitions that adapt.
    - `num_samples`: draws that are kept of each chain.
    - `thinning`: transitions from one draw to the next.
    - `init_params`: points to start from, `(chain, *event)`, by default uniform in
      $[-2, 2]^d$ (of unconstrained space).
    - `init_state`: `draws.state`, to go on from there; the draws are those that one longer call
      would have made. What is missing of its warm-up comes first. If the energy has changed,
      the chains go on with the new one.
    - `progress_bar`: show progress, acceptance and step size.
    - `sharding`: how chains are laid out over devices, such as
      `NamedSharding(jax.make_mesh((8,), ("chain",)), PartitionSpec("chain"))`.

    **Raises** `ValueError` if chains start from an infinite energy or gradient, and
    [`UnnormalizedError`][numpyro_ebm.UnnormalizedError] if a point holds parameters of an
    energy whose normaliser is unknown. Warns if a chain is stuck or produced draws that are not
    finite. An interrupt (`KeyboardInterrupt`) warns and returns the draws so far.
    """
    if isinstance(kernel, AbstractPopulation):
        return _populate(rng_key, energy, kernel, event_shape, num_chains or 4, num_samples)
    _check_run(rng_key, num_chains, num_warmup, num_samples)
    check_count("thinning", thinning)
    energy = as_energy(energy, event_shape)
    problem = _problem(energy, kernel)
    if init_state is None:
        positions = _positions(problem, energy, rng_key, init_params, num_chains)
        init_state = _start(problem, rng_key, positions, num_warmup, sharding)
    else:
        init_state = _refresh(problem, init_state)
    first = max(int(init_state.i), init_state.num_warmup)
    names = _STATS + (("energy",) if "energy" in kernel.default_fields else ())
    history = _History(jnp.asarray(first), jnp.asarray(thinning), num_samples, names)
    end = first + num_samples * thinning
    state, (values, rows) = _drive(problem, init_state, history, end, progress_bar)
    num_steps = max(int(state.i) - first, 0)
    if num_steps < num_samples * thinning:
        values, rows = jax.tree.map(lambda x: x[:, : num_steps // thinning], (values, rows))
    dtypes = {name: _DTYPES.get(name, rows.dtype) for name in names}
    stats = {name: rows[..., i].astype(dtypes[name]) for i, name in enumerate(names)}
    name = type(kernel).__name__
    is_exact = kernel.move.is_exact
    draws = Draws(values, state.accept_prob, num_steps, stats, state, name, is_exact)
    if num_steps >= _LONG and state.totals.is_fully_addressable and not draws.ok:
        warnings.warn(f"`sample`: {draws}.{_remedy(draws)}", stacklevel=user_level())
    return draws


def _check_run(
    rng_key: Key, num_chains: Any, num_warmup: Any, num_samples: Any, least: int = 1
) -> None:
    check_key(rng_key)
    check_count("num_chains", 1 if num_chains is None else num_chains)
    check_count("num_warmup", num_warmup, 0)
    check_count("num_samples", num_samples, least)


def _remedy(draws: Draws) -> str:
    if not bool(draws.stuck.any()):
        return ""
    return (
        " A stuck chain takes steps far smaller than the spread of all chains: let the kernel "
        "learn the scales (`adapt_mass_matrix=True`; `dense_mass=True` of correlated "
        "coordinates), give it a longer `num_warmup` or a better start, or use `ebm.NUTS()`."
    )


def sample_moments(
    rng_key: Key,
    energy: Any,
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

    For thousands of chains in thousands of dimensions, whose draws would not fit.

    **Arguments** are those of [`sample`][numpyro_ebm.sample], and

    - `statistic`: a function of one point, to an array or a pytree of arrays.
    """
    _check_run(rng_key, num_chains, num_warmup, num_samples, 4)
    energy = as_energy(energy, event_shape)
    problem = _problem(energy, kernel)
    if init_state is None:
        positions = _positions(problem, energy, rng_key, init_params, num_chains)
        init_state = _start(problem, rng_key, positions, num_warmup, sharding)
    else:
        init_state = _refresh(problem, init_state)
    first = max(int(init_state.i), init_state.num_warmup)
    halves = _Halves(jnp.asarray(first), jnp.asarray(num_samples // 2), statistic)
    end = first + num_samples
    state, kept = _drive(problem, init_state, halves, end, progress_bar)

    def each(summary: Callable[["_Half"], Array]) -> PyTree:
        return jax.tree.map(summary, kept, is_leaf=lambda node: isinstance(node, _Half))

    summaries = map(each, (_Half.total_mean, _Half.total_variance, _Half.std_error, _Half.rhat))
    return Moments(*summaries, accept_prob=state.accept_prob, state=state)


class _Problem(eqx.Module):
    """What chains move by, on what, and how their points become those of the user."""

    move: AbstractMove
    adaptation: AbstractAdaptation
    energy: AbstractEnergy
    transform: Any

    def points(self, positions: Point) -> Point:
        return positions if self.transform is None else jax.vmap(self.transform)(positions)


class _History(eqx.Module):
    """Keeps draws and what is small beside them, `(chain, draw, ...)`."""

    first: Array
    thinning: Array
    num_draws: int = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)

    def empty(self, state: ChainState, points: Point) -> PyTree:
        def empty(x: Any) -> Array:
            return jnp.zeros((x.shape[0], self.num_draws, *x.shape[1:]), x.dtype)

        row = jnp.zeros((len(state.totals), len(self.names)))
        return jax.tree.map(empty, (points, row))

    def update(self, kept: PyTree, state: ChainState, points: Point, report: Report) -> PyTree:
        # The last of `thinning` writes to a slot stays; those of the warm-up are overwritten.
        slot = jnp.maximum(state.i - 1 - self.first, 0) // self.thinning
        energies = -state.move_state.logdensity
        stats = report._asdict() | {"potential_energy": energies}
        row = jnp.stack([stats[name].astype(energies.dtype) for name in self.names], -1)
        return jax.tree.map(
            lambda h, x: jax.lax.dynamic_update_index_in_dim(h, x, slot, 1), kept, (points, row)
        )


#: What is kept of each draw, in one array: for one chain, each more would be felt.
_STATS = ("potential_energy", "accept_prob", "diverging", "n_grad")
#: What of it is no float at the end.
_DTYPES = {"diverging": bool, "n_grad": int}


class _Half(NamedTuple):
    """Count, mean and sum of squares of both halves of each chain, `(half, chain, ...)`."""

    count: Array
    mean: Array
    m2: Array

    def learn(self, half: Array, x: Array) -> "_Half":
        """One more value of each chain [Welford 1962]."""
        count = self.count[half] + 1
        delta = x - self.mean[half]
        mean = self.mean[half] + delta / count
        m2 = self.m2[half] + delta * (x - mean)
        new = zip(self, (count, mean, m2), strict=True)
        return _Half(*(old.at[half].set(value) for old, value in new))

    def total_mean(self) -> Array:
        return (self._weights() * self.mean).sum((0, 1))

    def total_variance(self) -> Array:
        spread = self.m2 / self._n() + (self.mean - self.total_mean()) ** 2
        return (self._weights() * spread).sum((0, 1))

    def std_error(self) -> Array:
        chains = (self._n() * self.mean).sum(0) / self.count.sum()
        return chains.std(0, ddof=1) / jnp.sqrt(len(chains))

    def rhat(self) -> Array:
        length = self.count.mean()
        within = (self.m2 / (self._n() - 1)).mean((0, 1))
        between = self.mean.reshape(-1, *self.mean.shape[2:]).var(0, ddof=1)
        return jnp.sqrt((length - 1) / length + between / within)

    def _n(self) -> Array:
        return self.count.reshape(2, *(1,) * (self.mean.ndim - 1))

    def _weights(self) -> Array:
        return self._n() / (self.count.sum() * self.mean.shape[1])


class _Halves(eqx.Module):
    """Keeps moments of a statistic."""

    first: Array
    size: Array
    statistic: Callable[[Point], PyTree] = eqx.field(static=True)

    def empty(self, state: ChainState, points: Point) -> PyTree:
        def empty(x: Any) -> _Half:
            zeros = jnp.zeros((2, *x.shape))
            return _Half(jnp.zeros(2), zeros, zeros)

        return jax.tree.map(empty, jax.eval_shape(jax.vmap(self.statistic), points))

    def update(self, kept: PyTree, state: ChainState, points: Point, report: Report) -> PyTree:
        n = state.i - 1 - self.first
        half = jnp.where(n < self.size, 0, 1)
        values = jax.vmap(self.statistic)(points)
        learnt = jax.tree.map(lambda x, one: one.learn(half, x), values, kept)
        return jax.tree.map(lambda new, old: jnp.where(n >= 0, new, old), learnt, kept)


def _problem(energy: AbstractEnergy, kernel: Any) -> _Problem:
    check_free_kernel(kernel)
    kernel.move.check(energy)
    potential, transform = unconstrained(energy)
    # Python's numbers would be constants of the compiled program.
    move, adaptation = jax.tree.map(_as_array, (kernel.move, kernel.adaptation))
    return _Problem(move, adaptation, potential, transform)


def _as_array(leaf: Any) -> Any:
    is_number = isinstance(leaf, float | np.ndarray | np.generic)
    return jnp.asarray(leaf, jnp.result_type(float)) if is_number else leaf


def _positions(
    problem: _Problem,
    energy: AbstractEnergy,
    rng_key: Key,
    init_params: Point | None,
    num_chains: int | None,
) -> Point:
    """Where the chains start, in the space in which they move."""
    if init_params is None:
        return _draw_positions(problem, rng_key, num_chains or 4)
    points = as_position(init_params)
    sizes = {x.shape[:1] for x in jax.tree.leaves(points)}
    if len(sizes) != 1 or sizes == {()}:
        raise ValueError(
            "`init_params` must be stacked along a leading chain axis, got shapes "
            f"{[x.shape for x in jax.tree.leaves(points)]}."
        )
    ((size,),) = sizes
    if num_chains not in (None, size):
        raise ValueError(
            f"`num_chains` is {num_chains}, but `init_params` holds {size} points along its "
            "first axis, the chains."
        )
    if isinstance(points, jax.Array):
        check_energy(energy, points.shape[1:])
        check_points(energy, points, "init_params")
    return points if problem.transform is None else jax.vmap(problem.transform.inv)(points)


def _draw_positions(problem: _Problem, rng_key: Key, num_chains: int) -> Array:
    shape = problem.energy.event_shape
    if shape is None:
        raise ValueError(
            "`event_shape` or `init_params` is needed, because this energy doesn't know the "
            "shape of one point."
        )
    check_energy(problem.energy, shape)
    keys = jr.split(jr.fold_in(rng_key, 1), num_chains)
    draw = jax.vmap(lambda key: problem.move.draw_start(key, problem.energy, shape))
    return draw(keys)


def _start(
    problem: _Problem,
    rng_key: Key,
    positions: Point,
    num_warmup: int,
    sharding: Sharding | None,
) -> ChainState:
    """The state of chains at `positions`; raises where one could never leave its start."""
    if isinstance(sharding, NamedSharding):
        # On a mesh of explicit axes, each slice of an array would have to name its sharding.
        mesh = Mesh(np.asarray(sharding.mesh.devices), sharding.mesh.axis_names)
        sharding = NamedSharding(mesh, sharding.spec)
    if sharding is not None:
        positions = jax.device_put(positions, sharding)
    state, num_bad = _start_chains(problem, rng_key, positions, num_warmup)
    if not hasattr(state.move_state, "logdensity_grad"):
        check_potential(problem.energy, jax.tree.map(lambda x: x[0], positions))
    if num_bad:
        raise ValueError(
            f"The energy or its gradient is not finite where {int(num_bad)} of "
            f"{len(state.accept_prob)} chains start, so that they could never move. Give a "
            "better start with `init_params`."
        )
    return state


@eqx.filter_jit
def _start_chains(
    problem: _Problem, rng_key: Key, positions: Point, num_warmup: int
) -> tuple[ChainState, Array]:
    state = start_chains(
        rng_key, problem.move, problem.adaptation, problem.energy, positions, num_warmup
    )
    inexact = jax.tree.leaves(eqx.filter(state.move_state, eqx.is_inexact_array))
    finite = [jnp.isfinite(x).reshape(len(x), -1).all(1) for x in inexact]
    return state, (~jnp.stack(finite).all(0)).sum()


@eqx.filter_jit
def _refresh(problem: _Problem, state: ChainState) -> ChainState:
    """`state` with what it caches computed anew, unless rounding alone makes a difference.

    A chain that compares new energies with old ones can accept nothing any more.
    """
    old = state.move_state
    new = jax.vmap(lambda one: problem.move.refresh(one, problem.energy))(old)
    # Another program may round the same energy differently, which must change no draw.
    eps = jnp.finfo(old.logdensity.dtype).eps
    allowed = _NOTHING + _ROUNDING * eps * jnp.abs(old.logdensity).max()
    is_stale = _differs(new.logdensity, old.logdensity, allowed)
    gradients = (jax.tree.leaves(getattr(x, "logdensity_grad", ())) for x in (new, old))
    for new_grad, old_grad in zip(*gradients, strict=True):
        is_stale |= _differs(new_grad, old_grad, _NOTHING * jnp.abs(old_grad).max())
    move_state = jax.tree.map(lambda n, o: jnp.where(is_stale, n, o), new, old)
    return state._replace(move_state=move_state)


def _differs(new: Array, old: Array, allowed: Scalar) -> Array:
    return ~(jnp.abs(new - old).max() <= allowed)


def _drive(
    problem: _Problem, state: ChainState, keeper: Any, end: int, progress_bar: bool
) -> tuple[ChainState, PyTree]:
    """Compiled calls of many transitions each, of a length that suits the progress bar."""
    kept = _empty(problem, keeper, state)
    left = end - int(state.i)
    length = _FIRST_CALL
    with tqdm(total=left, disable=not progress_bar) as bar, delayed_interrupt() as interrupted:
        for call in range(left):  # At most.
            if left == 0 or interrupted():
                break
            length = min(length, left)
            start = time.perf_counter()
            state, kept, status = _fused((problem, keeper, state, jnp.asarray(length)), kept)
            accepted, step_size = (float(x) for x in status)
            seconds = time.perf_counter() - start
            left -= length
            shown = f"accepted {accepted:.2f}, " if problem.move.is_exact else ""
            bar.set_postfix_str(f"{shown}step {step_size:.2g}", refresh=False)
            bar.update(length)
            if not state.totals.is_fully_addressable:
                length = _FIRST_CALL * 2 ** min(call, 6)  # All processes must do the same.
            elif call > 0:  # The first call compiles.
                length = max(1, int(length * min(64, _SECONDS_A_CALL / seconds)))
    if left:
        warnings.warn(
            f"Interrupted {left} transitions before the end and returning the draws so far; go "
            "on with `init_state=draws.state`.",
            stacklevel=user_level(),
        )
    return state, kept


#: Errors of the last digit that another order of the same sums may make; and the error of a
#: log acceptance, for one transition, that no chain would feel.
_ROUNDING, _NOTHING = 32, 1e-3
#: Transitions after which a mean acceptance says something about a chain.
_LONG = 100
#: Transitions of the first calls, and how long the later ones take.
_FIRST_CALL = 16
_SECONDS_A_CALL = 0.3


@eqx.filter_jit
def _empty(problem: _Problem, keeper: Any, state: ChainState) -> PyTree:
    return keeper.empty(state, problem.points(state.z))


@eqx.filter_jit(donate="all-except-first")
def _fused(fixed: tuple, kept: PyTree) -> tuple[ChainState, PyTree, tuple[Scalar, Scalar]]:
    """Some transitions of all chains; what they keep is written in place."""
    problem, keeper, state, length = fixed

    def visit(kept: PyTree, state: ChainState, report: Report) -> PyTree:
        return keeper.update(kept, state, problem.points(state.z), report)

    move, adaptation, energy = problem.move, problem.adaptation, problem.energy
    state, kept = advance_chains(move, adaptation, energy, state, length, visit, kept)
    step_size = state.adapt_state.step_size.reshape(-1)[0]
    return state, kept, (state.accept_prob.mean(), step_size)


def _populate(
    rng_key: Key,
    energy: Any,
    sampler: AbstractPopulation,
    event_shape: Shape | None,
    num_chains: int,
    num_samples: int,
) -> Draws:
    if not isinstance(energy, ConditionalEnergy):
        energy = as_energy(energy, event_shape)
    populations = _draw_populations(sampler, energy, jr.split(rng_key, num_chains), num_samples)
    num_steps = int(populations.num_steps.max())
    draws = Draws(
        populations.values,
        populations.accept_prob,
        num_steps,
        kernel=type(sampler).__name__,
        is_exact=sampler.is_exact,
    )
    if not draws.ok:
        warnings.warn(f"`sample`: {draws}.", stacklevel=user_level())
    return draws


@eqx.filter_jit
def _draw_populations(
    sampler: AbstractPopulation, energy: Any, rng_keys: Key, num_samples: int
) -> Population:
    return jax.vmap(lambda key: sampler.draw(key, energy, num_samples))(rng_keys)
