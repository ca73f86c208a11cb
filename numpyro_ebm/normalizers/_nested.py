"""Nested sampling, which needs no gradient."""

import math
import time
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.scipy.special import logsumexp

from .._checks import check_count, check_key, user_level
from .._driver import Progress, drive
from .._types import Array, EnergyLike, Key, Scalar
from ..chains import Annealing, blackjax
from ..energies import (
    AbstractEnergy,
    LogZ,
    as_energy,
    flattened,
    is_discrete,
    judged,
    unconstrained,
)
from ..sampling import WeightedDraws
from ._base import AbstractLongMethod, rounding, with_common_checks
from ._reference import annealing, check_density


class NestedSampling(AbstractLongMethod):
    r"""$Z = \int_0^1 L\,dX$, where $X$ is the mass of the reference with $e^{-E}/q > L$.

    Nested sampling [[Skilling 2006](https://doi.org/10.1214/06-BA127)] by slices [[Yallup,
    Kroupa and Handley 2026](https://arxiv.org/abs/2601.23252)], BlackJAX's `nss`: the least
    likely live points are replaced inside ever smaller contours. It needs no gradient and no
    temperatures, so it checks the other methods and copes with first-order phase transitions,
    where they fail. Slow in many dimensions. The error covers how far each contour shrinks, not
    whether the slices mixed. Shown by `tests/normalizers/test_estimates.py`.

    It is a sampler, too: `sample` gives all points that it visited, with their weights.

    ```python
    energy = ebm.ModelEnergy(model, y)
    draws = ebm.NestedSampling().sample(jax.random.key(0), energy)
    posterior = draws.resample(jax.random.key(1), 1000)
    ```

    **Arguments**

    - `reference`: as of [`SequentialMonteCarlo`][numpyro_ebm.SequentialMonteCarlo].
    - `num_live`: live points; the error falls with the square root of their number.
    - `num_steps`: slices for each new point; by default ten, or five times the dimension.
    - `num_delete`: points replaced in parallel; by default a twentieth.
    """

    reference: Any = None
    num_live: int = eqx.field(static=True, default=500, kw_only=True)
    num_steps: int | None = eqx.field(static=True, default=None, kw_only=True)
    num_delete: int | None = eqx.field(static=True, default=None, kw_only=True)

    def __check_init__(self) -> None:
        check_density("reference", self.reference)
        check_count("num_live", self.num_live)
        for name in ("num_steps", "num_delete"):
            value = getattr(self, name)
            check_count(name, 1 if value is None else value)
        if not 0 < (self.num_delete or 1) < self.num_live:
            raise ValueError(
                f"`num_delete` must be less than `num_live`, got {self.num_delete} of "
                f"{self.num_live}."
            )

    def run(self, rng_key: Key, energy: AbstractEnergy, *, progress_bar: bool) -> LogZ:
        return self._explore(rng_key, energy, progress_bar)[2]

    def sample(
        self, rng_key: Key, energy: EnergyLike, *, progress_bar: bool = True
    ) -> WeightedDraws:
        r"""Weighted draws from $p(x) \propto e^{-E(x)}$, and $\log Z$.

        **Arguments**

        - `energy`: what [`as_energy`][numpyro_ebm.as_energy] takes.
        - `progress_bar`: show progress if it takes more than two seconds.

        Warns if $\log Z$ has no interval, and says why.
        """
        check_key(rng_key)
        start = time.perf_counter()
        energy, unflatten = flattened(as_energy(energy))
        points, log_weights, log_z = self._explore(rng_key, energy, progress_bar)
        if unflatten is not None:
            points = jax.vmap(unflatten)(points)
        if not log_z.ok:
            warnings.warn(f"`sample`: {log_z}", stacklevel=user_level())
        return WeightedDraws(points, log_weights, log_z, time.perf_counter() - start)

    def _explore(
        self, rng_key: Key, energy: AbstractEnergy, progress_bar: bool
    ) -> tuple[Array, Array, LogZ]:
        """All points, where chains of `energy` would be; their log weights; and log Z."""
        if is_discrete(energy):
            raise TypeError("`NestedSampling` moves by slices, and not on discrete energies.")
        path = annealing(energy, None, self.reference)
        dim = math.prod(path.reference.event_shape or ())
        num_steps = self.num_steps or max(10, 5 * dim)
        num_delete = self.num_delete or max(1, self.num_live // 20)
        sizes = num_steps, num_delete
        start_key, run_key, end_key = jr.split(rng_key, 3)
        state = _begin(start_key, path, sizes, self.num_live)
        dead: list[Any] = []

        def call(_: int) -> Progress:
            nonlocal state
            before, key = _log_left(state), jr.fold_in(run_key, len(dead))
            state, more = _replace_some(key, path, sizes, state)
            dead.append(more)
            return _progress(before, _log_left(state), len(dead))

        label = "nested sampling"
        drive(
            call,
            _MOST_CALLS,
            progress_bar=progress_bar,
            resume=None,
            label=label,
            in_percent=True,
        )
        log_weights, log_z, checks = _integrate(end_key, path, dead, state)
        too_long = {
            f"live points still hold mass after {_MOST_CALLS * _A_CALL} replacements": (
                len(dead) == _MOST_CALLS
            )
        }
        points = jnp.concatenate([x.position for x in (*dead, state.particles)])
        _, transform = unconstrained(energy)
        if transform is not None:
            points = jnp.asarray(jax.vmap(transform)(points))
        return points, log_weights, judged(log_z, {**too_long, **checks})


#: Replacements per compiled call, and the most calls.
_A_CALL, _MOST_CALLS = 50, 400


def _algorithm(path: Annealing, sizes: tuple[int, int]) -> Any:
    reference, energy = path.reference, path.energy
    constant = reference.log_z

    def log_likelihood(x: Array) -> Scalar:
        value = reference(x) + constant - energy(x)
        return jnp.where(jnp.isnan(value), -jnp.inf, value)

    return blackjax().nss(
        logprior_fn=lambda x: -reference(x) - constant,
        loglikelihood_fn=log_likelihood,
        num_inner_steps=sizes[0],
        num_delete=sizes[1],
    )


@eqx.filter_jit
def _begin(rng_key: Key, path: Annealing, sizes: tuple[int, int], num_live: int) -> Any:
    points = path.reference.sample(rng_key, (num_live,))
    return _algorithm(path, sizes).init(points, rng_key=rng_key)


@eqx.filter_jit
def _replace_some(
    rng_key: Key, path: Annealing, sizes: tuple[int, int], state: Any
) -> tuple[Any, Any]:
    algorithm = _algorithm(path, sizes)

    def step(state: Any, i: Array) -> tuple[Any, Any]:
        state, info = algorithm.step(jr.fold_in(rng_key, i), state)
        return state, info.particles._replace(logdensity=None)

    state, dead = jax.lax.scan(step, state, jnp.arange(_A_CALL))
    return state, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), dead)


def _log_left(state: Any) -> float:
    """What live points hold, relative to the integral so far, as a logarithm."""
    return float(state.integrator.logZ_live - state.integrator.logZ)


def _progress(before: float, now: float, num_calls: int) -> Progress:
    """Done if less than a thousandth is left, towards which we go on at the present pace."""
    end = math.log(1e-3)
    # At first live points hold all of it, and nothing is known about the pace.
    left = (now - end) / (before - now) if now < before < math.inf else math.inf
    share = num_calls / (num_calls + max(left, 0))
    shown = f"{1 / (1 + math.exp(-now)):.2g} of the mass left" if now < math.inf else ""
    return Progress(1, shown, now < end, share)


def _integrate(
    rng_key: Key, path: Annealing, dead: list[Any], state: Any
) -> tuple[Array, LogZ, dict[str, Array]]:
    utils = blackjax().ns.utils
    scalars = [x._replace(position=None, logdensity=None) for x in (*dead, state.particles)]
    info = utils.finalise(
        state._replace(particles=scalars.pop()),
        [blackjax().ns.base.NSInfo(particles, None) for particles in scalars],
        update_info=False,
    )
    # Each of two hundred columns simulates how the contours may have shrunk.
    log_weights = utils.log_weights(rng_key, info, shape=_NUM_PATHS)
    log_zs = logsumexp(log_weights, axis=0)
    mean_weights = logsumexp(log_weights, axis=1)
    normalised = mean_weights - logsumexp(mean_weights)
    ess = jnp.exp(-logsumexp(2 * normalised))
    positions = state.particles.position
    noise = rounding(jax.vmap(path.reference)(positions), jax.vmap(path.energy)(positions))
    log_z = LogZ(log_zs.mean(), log_zs.std(), ess=ess, df=jnp.inf, method="NestedSampling")
    checks = {"the effective sample size is below 50": ~(ess >= 50)}
    return normalised, with_common_checks(log_z, noise), checks


#: Simulations of how contours shrink.
_NUM_PATHS = 200
