"""Annealed populations: sequential Monte Carlo, and thermodynamic integration."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from .._checks import check_count, check_probability
from .._types import Array, Key, Scalar
from ..chains import Annealing, Descent, begin, keeping_ess
from ..energies import AbstractEnergy, LogZ, judged
from ..kernels import AbstractKernel
from ..sampling import averaged, disagreement
from ._base import AbstractLongMethod, rounding, with_common_checks
from ._ends import ShortRun, checks_of, run_on
from ._reference import annealing, check_density
from ._schedule import NOT_REACHED, follow, pilot, without_adaptation


class SequentialMonteCarlo(AbstractLongMethod):
    r"""$\log\frac1M\sum_m \hat Z_m$ of $M$ populations annealed to the target.

    Tempered sequential Monte Carlo [[Del Moral, Doucet and Jasra
    2006](https://doi.org/10.1111/j.1467-9868.2006.00553.x)]. One adaptive population, the
    sampler [`TemperedSMC`][numpyro_ebm.TemperedSMC], runs first and chooses temperatures and
    step sizes; the islands follow it, so each $\hat Z_m$ is unbiased. Their spread gives an
    honest error: a Student-t interval with $M-1$ degrees of freedom. `lower` is $E\log\hat Z$,
    `ess` counts islands. Draws from the reference with infinite energy are dropped first, and
    counted. A short run from the end points must leave their law unchanged and move all
    particles. The method of choice in high dimensions. It cannot see a mode that every island
    lost; more particles and a wider reference reveal it. Shown by
    `tests/normalizers/test_estimates.py`.

    **Arguments**

    - `kernel`: moves the particles and must leave its target invariant. Its step size is tuned
      at each temperature if it adapts. By default [`HMC`][numpyro_ebm.HMC] of two leapfrog
      steps, or [`GibbsWithGradients`][numpyro_ebm.GibbsWithGradients] for spins.
    - `reference`: a NumPyro distribution, or an energy with `log_z` and `sampler`, wider than
      the target; by default that of a [`Tilted`][numpyro_ebm.Tilted] energy, and all states
      of spins.
    - `target_ess`: the effective sample size after each step, as a fraction of the particles.
    - `num_islands`: $M$; `num_particles`: particles per island.
    - `num_steps`: transitions at each temperature; by default two, or a quarter of the spins.
    """

    kernel: AbstractKernel | None = eqx.field(static=True, default=None)
    reference: Any = None
    target_ess: float = eqx.field(default=0.9, kw_only=True)
    num_islands: int = eqx.field(static=True, default=8, kw_only=True)
    num_particles: int = eqx.field(static=True, default=256, kw_only=True)
    num_steps: int | None = eqx.field(static=True, default=None, kw_only=True)

    def __check_init__(self) -> None:
        _check(self)

    def run(self, rng_key: Key, energy: AbstractEnergy, *, progress_bar: bool) -> LogZ:
        return self.run_islands(rng_key, energy, progress_bar=progress_bar)[0]

    def run_islands(
        self, rng_key: Key, energy: AbstractEnergy, *, progress_bar: bool
    ) -> tuple[LogZ, Array]:
        r"""$\log Z$, and the particles at the target, `(island, particle, *event)`."""
        found, islands = _by_islands(rng_key, _parts(self, energy), progress_bar)
        return judged(*found), islands.particles.chains.z


class ThermodynamicIntegration(AbstractLongMethod):
    r"""$\log Z = -\int_0^1 E_\beta[E(x) + \log q(x)]\,d\beta$ along a path.

    The integrand rises in $\beta$, so its left and right sums are `lower` and `upper`. The
    trapezoidal rule is corrected with the variances, which are the integrand's slopes [[Friel,
    Hurn and Wyse 2014](https://doi.org/10.1007/s11222-013-9397-1)]. The particles are those of
    tempered sequential Monte Carlo, with steps that are also short relative to the spread of
    the integrand. The error comes from independent islands, whose $\hat Z$ is averaged, not its
    logarithm. The checks are those of islands, plus agreement with the weights of the same
    particles. The integrand must have finite variance under the reference. Shown by
    `tests/normalizers/test_estimates.py`.

    **Arguments** are those of [`SequentialMonteCarlo`][numpyro_ebm.SequentialMonteCarlo].
    """

    kernel: AbstractKernel | None = eqx.field(static=True, default=None)
    reference: Any = None
    target_ess: float = eqx.field(default=0.9, kw_only=True)
    num_islands: int = eqx.field(static=True, default=8, kw_only=True)
    num_particles: int = eqx.field(static=True, default=256, kw_only=True)
    num_steps: int | None = eqx.field(static=True, default=None, kw_only=True)

    def __check_init__(self) -> None:
        _check(self)

    def run(self, rng_key: Key, energy: AbstractEnergy, *, progress_bar: bool) -> LogZ:
        return judged(*_by_integrals(rng_key, _parts(self, energy), progress_bar))


def _check(method: Any) -> None:
    check_density("reference", method.reference)
    check_probability("target_ess", method.target_ess)
    check_count("num_islands", method.num_islands)
    check_count("num_particles", method.num_particles)
    check_count("num_steps", 1 if method.num_steps is None else method.num_steps)
    if method.num_islands < 4:
        raise ValueError(
            f"`num_islands` must be at least 4, got {method.num_islands}: the error is how "
            "islands differ."
        )


def _parts(method: Any, energy: AbstractEnergy) -> tuple[Annealing, Any, int, int]:
    anneal = annealing(energy, method.kernel, method.reference, method.num_steps)
    target_ess = jnp.asarray(method.target_ess, jnp.result_type(float))
    return anneal, target_ess, method.num_islands, method.num_particles


def _by_islands(
    rng_key: Key, parts: tuple[Annealing, Any, int, int], progress_bar: bool
) -> tuple[tuple[LogZ, dict[str, Array]], Descent]:
    annealing, target_ess, num_islands, num_particles = parts
    pilot_key, islands_key = jr.split(rng_key)
    shown: Any = {"progress_bar": progress_bar}
    advance = keeping_ess(target_ess)
    schedule = pilot(pilot_key, annealing, advance, num_particles, **shown)
    fixed = without_adaptation(annealing)
    (run_keys, end_keys), start = _start(islands_key, fixed, num_islands, num_particles)
    islands, _ = follow(run_keys, fixed, schedule, (start, None), **shown)
    return _from_weights(end_keys, fixed, islands), islands


@eqx.filter_jit
def _start(
    rng_key: Key, annealing: Annealing, num_islands: int, num_particles: int
) -> tuple[tuple[Key, Key], Descent]:
    """Keys for the way and for the end of each island, and the islands at their start."""
    keys = jax.vmap(lambda key: jr.split(key, 3))(jr.split(rng_key, num_islands))
    start = jax.vmap(lambda key: begin(key, annealing, num_particles))(keys[:, 0])
    return (keys[:, 1], keys[:, 2]), start


@eqx.filter_jit
def _from_weights(
    end_keys: Key, annealing: Annealing, islands: Descent
) -> tuple[LogZ, dict[str, Array]]:
    short = _go_on(end_keys, annealing, islands)
    log_zs = islands.log_ratio_z
    num_islands, constant = len(log_zs), annealing.reference.log_z
    total, error, ess = averaged(log_zs)
    log_z = LogZ(
        constant + total,
        error,
        lower=constant + log_zs.mean(),
        ess=ess,
        ess_of=f"{num_islands} islands",
        df=num_islands - 1,
        method="SequentialMonteCarlo",
    )
    log_z = with_common_checks(log_z, _rounding(islands))
    return log_z, {
        **disagreement(log_zs, ess),
        **_health(islands),
        **checks_of(short, annealing),
    }


class _Integral(NamedTuple):
    """Integral of the mean log ratio over beta: left and right sums, trapezoidal correction."""

    left: Scalar
    right: Scalar
    correction: Scalar

    @property
    def value(self) -> Array:
        return 0.5 * (self.left + self.right) - self.correction


def _by_integrals(
    rng_key: Key, parts: tuple[Annealing, Any, int, int], progress_bar: bool
) -> tuple[LogZ, dict[str, Array]]:
    annealing, target_ess, num_islands, num_particles = parts
    pilot_key, islands_key = jr.split(rng_key)
    advance = eqx.Partial(_short_step, keeping_ess(target_ess))
    shown: Any = {"progress_bar": progress_bar}
    schedule = pilot(pilot_key, annealing, advance, num_particles, **shown)
    fixed = without_adaptation(annealing)
    (run_keys, end_keys), start = _start(islands_key, fixed, num_islands, num_particles)
    share = start.log_ratio_z
    begun = start, _Integral(share, share, jnp.zeros_like(share))
    islands, integrals = follow(run_keys, fixed, schedule, begun, _integrate, **shown)
    return _from_integrals(end_keys, fixed, islands, integrals)


def _short_step(
    by_ess: Callable[[Array, Scalar], Scalar], log_ratio: Array, room: Scalar
) -> Scalar:
    # If the integrand has a long tail, the effective size alone would allow longer steps.
    return jnp.minimum(by_ess(log_ratio, room), _SHORT / log_ratio.std())


def _integrate(kept: _Integral, old: Descent, new: Descent) -> _Integral:
    before, after = old.particles.log_ratio, new.particles.log_ratio
    delta = new.beta - old.beta
    return _Integral(
        kept.left + delta * before.mean(),
        kept.right + delta * after.mean(),
        kept.correction + delta**2 / 12 * (after.var() - before.var()),
    )


@eqx.filter_jit
def _from_integrals(
    end_keys: Key, annealing: Annealing, islands: Descent, integrals: _Integral
) -> tuple[LogZ, dict[str, Array]]:
    short = _go_on(end_keys, annealing, islands)
    constant, values = annealing.reference.log_z, integrals.value
    num_islands = len(values)
    # Not the mean of the integrals: each is a logarithm, too low by half its variance.
    total, error, ess = averaged(values)
    log_z = LogZ(
        constant + total,
        error,
        lower=constant + integrals.left.mean(),
        upper=constant + integrals.right.mean(),
        ess=ess,
        ess_of=f"{num_islands} islands",
        df=num_islands - 1,
        method="ThermodynamicIntegration",
    )
    # The estimate from the weights of the same particles.
    gap = values - islands.log_ratio_z
    noise = gap.std(ddof=1) / jnp.sqrt(num_islands)
    rule = {
        "the steps are too long for the trapezoidal rule: the weights of the same particles "
        "give another constant": jnp.abs(gap.mean()) > _MOST_GAP * noise + error
    }
    log_z = with_common_checks(log_z, _rounding(islands))
    apart = disagreement(values, ess)
    return log_z, {**apart, **rule, **_health(islands), **checks_of(short, annealing)}


#: A step of beta, in standard deviations of the integrand.
_SHORT = 0.25
#: The most standard errors between the rule and the weights.
_MOST_GAP = 4.0


def _rounding(islands: Descent) -> Scalar:
    particles = islands.particles
    return rounding(particles.reference["logdensity"], particles.chains.move_state.logdensity)


def _go_on(rng_keys: Key, annealing: Annealing, islands: Descent) -> ShortRun:
    def one(rng_key: Key, end: Descent) -> ShortRun:
        particles = end.particles
        return run_on(rng_key, annealing, particles.chains.z, particles.step_size, 64)

    return jax.vmap(one)(rng_keys, islands)


def _health(islands: Descent) -> dict[str, Array]:
    return {
        "the particles hardly move at the end, less than one proposal in ten is accepted": ~(
            islands.particles.accept_prob.mean() >= 0.1
        ),
        NOT_REACHED: (islands.beta < 1).any(),
    }
