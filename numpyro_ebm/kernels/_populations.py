"""Populations that anneal from a reference to the target, and need no warm-up."""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._checks import check_count, check_positive, check_probability, finite
from .._types import Array, EnergyLike, Float, Key, Scalar
from ..chains import (
    MAX_LEVELS,
    Annealing,
    Descent,
    Sampler,
    begin,
    descend,
    keeping_ess,
    run_chains,
)
from ..energies import (
    AbstractEnergy,
    as_energy,
    check_energy,
    energy_named,
    is_conditional,
    reference_for,
    unconstrained_from,
)
from ._langevin import UnadjustedLangevin
from ._mala import MALA
from ._numpyro import AbstractKernel
from ._sampler import check_exact, check_kernel, step_adaptation


class Population(NamedTuple):
    r"""Draws of one population.

    - **values**: `(draw, *event)`.
    - **accept_prob**: the mean acceptance probability at the end of the path.
    - **num_steps**: the number of transitions along the path.
    - **log_z**: an estimate of $\log Z$, whose bias falls as the number of draws grows; NaN if
      there is none.
    """

    values: Array
    accept_prob: Scalar
    num_steps: Array
    log_z: Scalar


class AbstractPopulation(eqx.Module):
    """How to draw a population of points jointly; [`sample`][numpyro_ebm.sample] draws it."""

    @property
    def is_exact(self) -> bool:
        """Whether each move leaves its own target invariant."""
        return True

    @property
    @abc.abstractmethod
    def num_levels(self) -> int | None:
        """The levels of its path; `None` if it is adaptive, and its state has a `Descent`."""

    @abc.abstractmethod
    def begin(self, rng_key: Key, energy: Any, num_draws: int) -> Any:
        """The state of `num_draws` points before the first level."""

    @abc.abstractmethod
    def go_on(self, energy: Any, state: Any, first: Array, last: Array) -> Any:
        """The state after levels `first` to `last`; an adaptive path may end earlier."""

    @abc.abstractmethod
    def finish(self, energy: Any, state: Any) -> Population:
        """The points after the last level."""

    def draw(self, rng_key: Key, energy: Any, num_draws: int) -> Population:
        """`num_draws` points; a pure function, to be called inside `jit`."""
        last = MAX_LEVELS if self.num_levels is None else self.num_levels
        state = self.begin(rng_key, energy, num_draws)
        state = self.go_on(energy, state, jnp.zeros((), int), jnp.asarray(last))
        return self.finish(energy, state)


class TemperedSMC(AbstractPopulation):
    r"""Adaptive tempered sequential Monte Carlo [Del Moral, Doucet and Jasra 2006].

    Particles from a reference $q$, at $\lambda = 0$, are weighted, resampled and moved on
    $q^{1-\lambda} e^{-\lambda E}$ as $\lambda$ rises to one, in steps that keep the effective
    sample size. Asymptotically exact in the number of particles; a finite population can lose
    modes, so compare several, `num_chains` of them. Reference draws of infinite energy are
    dropped first. A population that does not reach $\lambda = 1$ is NaN. BlackJAX chooses
    $\lambda$ and resamples. Shown by `tests/kernels/test_populations.py`.

    ```python
    smc = ebm.TemperedSMC(ebm.MALA(), dist.Normal(0, 5).expand([2]).to_event(1))
    draws = ebm.sample(
        jax.random.key(0), energy, smc, num_chains=8, num_samples=1000
    )
    ```

    **Arguments**

    - `kernel`: moves the particles, its step size tuned at every $\lambda$ if it adapts; must
      not be biased.
    - `reference`: a NumPyro distribution, or an energy with an exact `sampler`, wider than the
      target and on the same support; by default the energy's own, which for a
      [`ModelEnergy`][numpyro_ebm.ModelEnergy] is the prior.
    - `num_steps`: transitions at each $\lambda$.
    - `target_ess`: the effective sample size after each step, as a fraction of the particles.
    """

    sampler: Sampler
    reference: AbstractEnergy | None
    num_steps: int = eqx.field(static=True)
    target_ess: float

    def __init__(
        self,
        kernel: AbstractKernel,
        reference: Any = None,
        num_steps: int = 5,
        target_ess: float = 0.9,
    ) -> None:
        check_count("num_steps", num_steps)
        check_kernel(kernel)
        check_probability("target_ess", target_ess)
        check_exact(kernel)
        self.sampler = Sampler(kernel.move, step_adaptation(kernel))
        self.reference = None if reference is None else energy_named("reference", reference)
        if self.reference is not None and self.reference.sampler is None:
            raise ValueError(
                "`reference` must have an exact sampler: a NumPyro distribution, or an energy "
                f"with a `sampler`, got {self.reference!r}."
            )
        self.num_steps, self.target_ess = num_steps, target_ess

    @property
    def num_levels(self) -> None:
        return None

    def begin(self, rng_key: Key, energy: EnergyLike, num_draws: int) -> tuple[Key, Descent]:
        annealing, *_ = self._path(energy)
        start_key, loop_key = jr.split(rng_key)
        return loop_key, begin(start_key, annealing, num_draws)

    def go_on(
        self, energy: EnergyLike, state: tuple[Key, Descent], first: Array, last: Array
    ) -> tuple[Key, Descent]:
        annealing, *_ = self._path(energy)
        (rng_key, at), advance = state, keeping_ess(self.target_ess)
        return rng_key, descend(rng_key, annealing, at, advance, most_levels=last)[0]

    def finish(self, energy: EnergyLike, state: tuple[Key, Descent]) -> Population:
        _, reference, transform = self._path(energy)
        _, end = state
        # A population that stopped on the way did not reach the target.
        points = jnp.where(end.beta == 1, end.particles.chains.z, jnp.nan)
        log_z = reference.log_z
        return Population(
            values=points if transform is None else jnp.asarray(jax.vmap(transform)(points)),
            accept_prob=end.particles.accept_prob,
            num_steps=end.num_levels * self.num_steps,
            log_z=end.log_ratio_z + (jnp.nan if log_z is None else log_z),
        )

    def _path(self, energy: EnergyLike) -> tuple[Annealing, AbstractEnergy, Any]:
        """The way from the reference to `energy`, and the transform of where it leads."""
        reference = self.reference
        if reference is None:
            reference = reference_for(None, as_energy(energy), "reference")
        energy = as_energy(energy, reference.event_shape)
        check_energy(energy, reference.event_shape or ())
        self.sampler.move.check(energy)
        start, free, transform = unconstrained_from(reference, energy)
        return Annealing(self.sampler, start, free, self.num_steps), reference, transform


class AnnealedLangevin(AbstractPopulation):
    r"""Langevin dynamics on $E(x; \sigma)$ as $\sigma$ falls [Song and Ermon 2019].

    For noise-conditional energies, as learned by multi-scale denoising score matching. From
    $N(0, \sigma_1^2)$ each point makes `num_steps` transitions of step $\eta\sigma_k^2$ at
    every $\sigma_k$, and ends at the smallest. **Biased**: the proportions of the modes freeze
    at the last noise scale that connects them, and Langevin steps without a correction add
    their own bias. With `kernel=ebm.MALA(...)` the law at each $\sigma_k$ is invariant.
    Shown by `tests/kernels/test_populations.py`.

    ```python
    conditional = ebm.ConditionalEnergy(fn, event_shape=(2,))
    draws = ebm.sample(
        jax.random.key(0), conditional, ebm.AnnealedLangevin([5.0, 1.0, 0.1])
    )
    ```

    **Arguments**

    - `noise_scales`: $\sigma_1 > \dots > \sigma_K$, starting at the width of the data.
    - `kernel`: [`UnadjustedLangevin`][numpyro_ebm.UnadjustedLangevin] or
      [`MALA`][numpyro_ebm.MALA]; its `step_size` is $\eta$ at $\sigma = 1$. Nothing adapts.
    - `num_steps`: transitions at each noise scale.
    """

    noise_scales: Float[Array, " k"] = eqx.field(converter=finite("noise_scales"))
    kernel: AbstractKernel = eqx.field(
        static=True, default=UnadjustedLangevin(step_size=0.1), kw_only=True
    )
    num_steps: int = eqx.field(static=True, default=100, kw_only=True)

    @property
    def is_exact(self) -> bool:
        return self.kernel.move.is_exact

    def __check_init__(self) -> None:
        check_count("num_steps", self.num_steps)
        check_positive("noise_scales", self.noise_scales)
        if self.noise_scales.ndim != 1 or (np.diff(self.noise_scales) >= 0).any():
            raise ValueError(f"`noise_scales` must fall, got {self.noise_scales}.")
        if not isinstance(self.kernel, UnadjustedLangevin | MALA):
            raise ValueError(
                "`kernel` must be `UnadjustedLangevin(...)` or `MALA(...)`, whose step goes "
                f"with the square of the noise, got {type(self.kernel).__name__}."
            )

    @property
    def num_levels(self) -> int:
        return len(self.noise_scales)

    def begin(
        self, rng_key: Key, energy: Any, num_draws: int
    ) -> tuple[Key, Array, Float[Array, ""]]:
        if not is_conditional(energy) or energy.event_shape is None:
            raise TypeError(
                "`energy` must be a `ConditionalEnergy(fn, event_shape)`, with "
                f"`fn(x, noise_scale)`, for `AnnealedLangevin`, got {energy!r}."
            )
        start_key, loop_key = jr.split(rng_key)
        shape = (num_draws, *energy.event_shape)
        start = self.noise_scales[0] * jr.normal(start_key, shape, jnp.result_type(float))
        return loop_key, start, jnp.ones(())

    def go_on(
        self, energy: Any, state: tuple[Key, Array, Scalar], first: Array, last: Array
    ) -> tuple[Key, Array, Scalar]:
        def level(k: Array, state: tuple) -> tuple[Key, Array, Scalar]:
            rng_key, points, _ = state
            noise_scale = self.noise_scales[k]
            points, chains, _ = run_chains(
                jr.fold_in(rng_key, k),
                self._move(noise_scale),
                energy.given(noise_scale),
                points,
                self.num_steps,
            )
            return rng_key, points, chains.accept_prob.mean()

        return jax.lax.fori_loop(first, last, level, state)

    def finish(self, energy: Any, state: tuple[Key, Array, Scalar]) -> Population:
        _, points, accept_prob = state
        num_steps = jnp.asarray(self.num_steps * self.num_levels)
        return Population(points, accept_prob, num_steps, jnp.asarray(jnp.nan))

    def _move(self, noise_scale: Scalar) -> Any:
        move = self.kernel.move
        return move.with_step(move.step_size * noise_scale**2)
