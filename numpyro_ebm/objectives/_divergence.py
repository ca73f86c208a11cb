"""Maximum likelihood by analysis and synthesis: contrastive divergence and variants."""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._checks import check_count, check_finite, check_key
from .._trainable import unfreeze
from .._types import Array, Energy, Float, Key, PyTree, Scalar, Shape
from ..energies import as_energy, confined, is_conditional, is_discrete, is_real
from ..kernels import MALA, AbstractKernel, check_free_kernel, step_adaptation
from ._base import AbstractObjective, weighted_mean
from ._batch import Batch, Data, as_batch
from ._chains import Run, chain_divergence, run_from
from ._starts import (
    AbstractStart,
    FromData,
    FromNoise,
    FromResampledNoise,
    Origin,
    Persistent,
)


class ShortRunGenerator(eqx.Module):
    r"""A network that `num_steps` transitions turn into a generator: it only samples.

    **A generator only.** Its `potential` is not the energy of its samples: their density is
    that of the short run, which has neither a closed form nor a $\log Z$.
    """

    potential: Any
    noise: Any
    step_size: Scalar
    kernel: AbstractKernel = eqx.field(static=True)
    num_steps: int = eqx.field(static=True)

    def sample(self, rng_key: Key, sample_shape: Shape = ()) -> Array:
        """End points of short runs from the noise, of shape `(*sample_shape, *event_shape)`."""
        check_key(rng_key)
        start_key, chain_key = jr.split(rng_key)
        size = int(np.prod(sample_shape, dtype=int))
        starts = self.noise.sample(start_key, (size,))
        move = self.kernel.move.with_step(self.step_size)
        energy = unfreeze(self.potential)
        ends = run_from(chain_key, move, energy, starts, self.num_steps).ends
        return ends.reshape(*sample_shape, *ends.shape[1:])


class ContrastiveState(NamedTuple):
    """What contrastive divergence carries: its chains, and their step size."""

    starts: PyTree
    step_size: Scalar


class ContrastiveDivergence(AbstractObjective):
    r"""$\mathbb E_{\text{data}}[E(x)] - \mathbb E_{\text{chains}}[E(x)]$.

    Maximum likelihood by analysis and synthesis: its gradient is the likelihood's, because that
    of $\log Z$ is $-\mathbb E_{p_\theta}[\nabla_\theta E]$, which chains estimate, one per
    datum. The value is not a loss: near zero it means that energies of data and draws agree,
    not that the model is good. Its `start` decides whether it is exact, biased or a generator
    only. Cost: `num_steps` gradients in $x$ per datum; no gradient flows through the chains.
    Shown by `tests/objectives/test_divergence.py` and `test_chains.py`.

    A **biased** kernel, `UnadjustedLangevin` or `UnadjustedMCLMC`, learns an energy whose
    biased chains look like the data: from data of variance $s$, Langevin steps $\eta$ learn the
    precision $(1-\sqrt{1-2\eta/s})/\eta$.

    A chain that accepts nothing while its energy is above those of all data, as on a wall too
    steep for the step size, does not count in that step: it would only raise the wall.

    ```python
    objective = ebm.ContrastiveDivergence(
        ebm.MALA(step_size=0.05), 10, ebm.Persistent()
    )
    ```

    **Arguments**

    - `kernel`: any kernel, [`MALA()`][numpyro_ebm.MALA] by default; for discrete energies
      `GibbsWithGradients()` or `BlockGibbs()`; not
      [`ClippedLangevin`][numpyro_ebm.kernels.ClippedLangevin] unless a generator is all you
      want. During training, the step size adapts to the
      kernel's own target, as in its warm-up, unless it has `adapt_step_size=False`.
    - `num_steps`: transitions of each chain in each step.
    - `start`: [`Persistent()`][numpyro_ebm.Persistent] by default, for a conditional energy
      [`FromResampledNoise()`][numpyro_ebm.objectives.FromResampledNoise], whose chains find the
      modes of each condition in their proportions; or [`FromData()`][numpyro_ebm.FromData],
      [`FromNoise()`][numpyro_ebm.FromNoise] or
      [`Replayed()`][numpyro_ebm.objectives.Replayed].
    - `energy_penalty`: $\alpha$ in $\alpha\,\mathbb E[E(x)^2]$ over data and draws, which keeps
      energies from drifting together. It adds bias.
    - `kl_weight`: the weight of the term that contrastive divergence omits, the divergence of
      the chains' law from the energy [Du et al. 2021]: the energy after one more transition,
      minus a nearest-neighbour estimate of the entropy. This is the only gradient through a
      chain, and only through that transition. It costs about three more gradients per datum,
      and biases persistent chains; for kernels with differentiable transitions, like `MALA()`.
    """

    kernel: AbstractKernel = eqx.field(static=True, default=MALA(step_size=0.1))
    num_steps: int = eqx.field(static=True, default=10)
    start: AbstractStart | None = None
    energy_penalty: float = eqx.field(default=0.0, kw_only=True)
    kl_weight: float = eqx.field(static=True, default=0.0, kw_only=True)

    def __check_init__(self) -> None:
        check_count("num_steps", self.num_steps)
        check_free_kernel(self.kernel)
        step_adaptation(self.kernel)
        check_finite("energy_penalty", self.energy_penalty)
        check_finite("kl_weight", self.kl_weight)
        if not isinstance(self.start, AbstractStart | None):
            raise TypeError(
                "`start` must be `ebm.FromData()`, `ebm.Persistent()` or `ebm.FromNoise()`, "
                f"got {self.start!r}."
            )

    def init(self, rng_key: Key, energy: Energy, data: Data) -> tuple[Any, ContrastiveState]:
        batch = as_batch(data)
        self._check(energy, batch)
        starts = self._start(energy).init(rng_key, energy, batch.points)
        self._check_generator(energy, starts)
        step_size = jnp.asarray(self.kernel.move.step_size, jnp.result_type(float))
        return energy, ContrastiveState(starts, step_size)

    def loss(
        self,
        rng_key: Key,
        trainable: Any,
        state: ContrastiveState,
        batch: Data,
        weights: Float[Array, " n"] | None,
    ) -> tuple[Scalar, tuple[ContrastiveState, dict[str, Array]]]:
        start_key, chain_key, kl_key = jr.split(rng_key, 3)
        batch = as_batch(batch)
        start = self._start(trainable)

        def energies(points: Array) -> Float[Array, " n"]:
            # Noise may fall outside the energy's support.
            return batch.with_points(points).map(lambda e, x: confined(e)(x), trainable)

        starts, carried = start.begin(start_key, state.starts, batch.points, energies)
        move = self.kernel.move.with_step(state.step_size)
        run = run_from(
            chain_key, move, trainable, starts.points, self.num_steps, batch.conditions
        )
        contrast = self._contrast(trainable, batch, run, weights)
        gap, is_stuck = contrast.gap, contrast.is_stuck
        loss = self.energy_penalty * contrast.penalty - gap
        if self.kl_weight:
            loss += self.kl_weight * chain_divergence(kl_key, move, trainable, run.ends)
        new_state = ContrastiveState(
            start.end(carried, starts, run.ends, is_stuck, self.num_steps),
            step_adaptation(self.kernel).follow(state.step_size, run.tuning),
        )
        metrics = {
            "energy_gap": gap,
            **_health(run, contrast),
            "step_size": state.step_size,
            "movement": _distance(starts.points, run.ends),
            **start.metrics(new_state.starts),
        }
        return loss, (new_state, metrics)

    def finalize(self, trainable: Any, state: ContrastiveState) -> Any:
        generates = isinstance(self.start, FromNoise) or not self.kernel.move.is_sampler
        origin = self._origin(trainable, state.starts)
        if not generates or origin is None:
            return trainable
        noise, num_steps = origin
        return ShortRunGenerator(trainable, noise, state.step_size, self.kernel, num_steps)

    def _check_generator(self, energy: Energy, starts: PyTree) -> None:
        if not self.kernel.move.is_sampler and self._origin(energy, starts) is None:
            raise ValueError(
                f"`kernel` {type(self.kernel).__name__} trains a generator, so chains must "
                "come from noise, without a condition: use `start=ebm.FromNoise()`, a positive "
                "`reinit` of `ebm.Persistent()` or `Replayed()`, or `kernel=ebm.MALA()`."
            )

    def _origin(self, energy: Energy, starts: PyTree) -> Origin | None:
        """Where chains come from, if that is noise and the same for all of them."""
        start = self._start(energy)
        return None if is_conditional(energy) else start.origin(starts, self.num_steps)

    def _start(self, energy: Energy) -> AbstractStart:
        if self.start is not None:
            return self.start
        return FromResampledNoise() if is_conditional(energy) else Persistent()

    def _check(self, energy: Energy, batch: Batch) -> None:
        has_conditions = batch.conditions is not None
        if has_conditions and not self._start(energy).takes_conditions:
            raise ValueError(
                "`start` must be `ebm.objectives.FromResampledNoise()`, `ebm.FromData()` or "
                "`ebm.FromNoise()` for a `ConditionalEnergy`, whose chains have a condition of "
                "their own each."
            )
        energy = as_energy(batch.energy_at(energy, 0))
        self.kernel.move.check(energy)
        is_bound = has_conditions or is_discrete(energy) or not is_real(energy.support)
        if self.kl_weight and is_bound:
            raise ValueError(
                "`kl_weight` is for energies of real points without constraint or condition."
            )

    def _contrast(
        self, energy: Energy, batch: Batch, run: Run, weights: Float[Array, " n"] | None
    ) -> "_Contrast":
        both = batch.with_points(jnp.concatenate([batch.points, run.ends]))
        of_data, of_chains = jnp.split(both.energies(energy), 2)
        is_stuck = (run.accept_prob < _NOTHING) & (of_chains > of_data.max())
        chain_weights = _weights_of_free(1 - is_stuck.astype(of_chains.dtype))
        # Chains that began at data, or share their conditions, have their weights.
        is_tied = isinstance(self.start, FromData) or batch.conditions is not None
        if weights is not None and is_tied:
            chain_weights *= weights
        return _Contrast(of_data, weights, of_chains, chain_weights, is_stuck)

    def remark(self, metrics: dict[str, np.ndarray]) -> str | None:
        last = {name: values[-100:] for name, values in metrics.items()}
        accept_prob, diverging = last["accept_prob"].mean(), last["diverging"].mean()
        if not accept_prob >= _LOW:
            return (
                f"The chains accept only {accept_prob:.2f} of their proposals, so they "
                "hardly move: use a smaller `step_size` of the kernel, or let it adapt."
            )
        if diverging > _DIVERGING:
            return (
                f"{diverging:.1%} of the transitions of the chains diverged, which leaves them "
                "where they were: use a smaller `step_size` of the kernel, or let it adapt."
            )
        steps, late = metrics["step_size"], last["step_size"]
        if _differs(steps, _FAR) and _differs(late, _MOVING):
            return (
                f"The step size went from {steps[0]:.2g} to {steps[-1]:.2g} and has not "
                "settled, so the chains were not those of a tuned kernel: begin with a "
                "`step_size` near to where it ends. If it never settles, the energy has no "
                "scale to which it could adapt: it is flat, or does not fall off."
            )
        return None


#: A run warns if mean acceptance is below, or the share of divergences above, these values.
_LOW, _DIVERGING = 0.1, 0.01
#: A step size runs away if it differs by these factors from the first, and from a later one.
_FAR, _MOVING = 100.0, 1.5
#: Mean acceptance of a chain that accepts nothing.
_NOTHING = 1e-3


class _Contrast(NamedTuple):
    """Energies of the data and of the chains, their weights, and which chains are stuck."""

    of_data: Array
    weights: Array | None
    of_chains: Array
    chain_weights: Array
    is_stuck: Array

    @property
    def gap(self) -> Scalar:
        of_chains = weighted_mean(self.of_chains, self.chain_weights)
        return of_chains - weighted_mean(self.of_data, self.weights)

    @property
    def penalty(self) -> Scalar:
        of_data = weighted_mean(self.of_data**2, self.weights)
        return of_data + weighted_mean(self.of_chains**2, self.chain_weights)


def _weights_of_free(is_free: Array) -> Array:
    """Weights of the chains that are not stuck, if any; they average to one."""
    return is_free / jnp.maximum(is_free.mean(), 1 / len(is_free))


def _health(run: Run, contrast: _Contrast) -> dict[str, Array]:
    of_chains = contrast.of_chains
    return {
        "accept_prob": run.accept_prob.mean(),
        "diverging": run.diverging,
        "stuck": contrast.is_stuck.mean(dtype=of_chains.dtype),
        "duplicates": jnp.mean(jnp.diff(jnp.sort(of_chains)) == 0),
    }


def _differs(steps: np.ndarray, factor: float) -> bool:
    """Whether the last is more than `factor` times larger or smaller than the first."""
    low, high = sorted((steps[0], steps[-1]))
    return bool(high > factor * low)


def _distance(a: Array, b: Array) -> Scalar:
    """The root mean square distance between rows."""
    return jnp.sqrt(((a - b) ** 2).reshape(len(a), -1).sum(1).mean())
