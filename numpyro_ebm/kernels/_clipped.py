"""Langevin steps as deep learning uses them on images: no sampler of the energy."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr

from .._checks import check_finite, check_positive
from .._types import Array, Energy, Float, Key, Metric, Scalar, Shape
from ..chains import NO_ADAPTATION, AbstractMove, Report, report
from ._langevin import normal_like
from ._numpyro import AbstractKernel


class ClippedLangevinState(NamedTuple):
    """The state of a chain, with BlackJAX's names."""

    position: Float[Array, "*event"]
    logdensity: Scalar


class ClippedLangevinInfo(NamedTuple):
    """Whether a step led to where the energy is finite; nothing is accepted or rejected."""

    is_divergent: Array


class ClippedLangevinMove(AbstractMove):
    r"""$u = c(x + \sigma\epsilon)$, $x' = c(u - \eta\operatorname{clip}(\nabla E(u)))$."""

    step_size: float | Scalar
    noise_scale: float | Scalar
    max_gradient: float | Scalar
    low: float | Scalar
    high: float | Scalar
    inverse_mass_matrix: Metric | None = None

    @property
    def is_exact(self) -> bool:
        return False

    @property
    def is_sampler(self) -> bool:
        return False

    def init(self, rng_key: Key, position: Array, energy: Energy) -> ClippedLangevinState:
        return ClippedLangevinState(position, -energy(position))

    def step(self, rng_key: Key, state: Any, energy: Energy) -> tuple[Any, Any]:
        noise = jr.normal(rng_key, jnp.shape(state.position))
        return self._step(noise, state, energy)

    def step_all(self, rng_keys: Key, states: Any, energy: Energy) -> tuple[Any, Any]:
        noise = normal_like(rng_keys[0], states.position)
        return jax.vmap(lambda z, x: self._step(z, x, energy))(noise, states)

    def report(self, info: ClippedLangevinInfo) -> Report:
        return report(1.0, info.is_divergent)

    def draw_start(self, rng_key: Key, energy: Energy, shape: Shape) -> Array:
        low, high = jnp.maximum(self.low, -2), jnp.minimum(self.high, 2)
        return jr.uniform(rng_key, shape, jnp.result_type(float), minval=low, maxval=high)

    def _step(self, noise: Array, state: Any, energy: Energy) -> tuple[Any, Any]:
        noisy = self._inside(state.position + self.noise_scale * noise)
        gradient = jnp.clip(jax.grad(energy)(noisy), -self.max_gradient, self.max_gradient)
        position = self._inside(noisy - self.step_size * gradient)
        new = ClippedLangevinState(position, -energy(position))
        is_divergent = ~(jnp.isfinite(new.logdensity) & jnp.isfinite(position).all())
        new = jax.tree.map(lambda y, x: jnp.where(is_divergent, x, y), new, state)
        return new, ClippedLangevinInfo(is_divergent)

    def _inside(self, x: Array) -> Array:
        return jnp.clip(x, self.low, self.high)


class ClippedLangevin(AbstractKernel):
    r"""$u = c(x + \sigma\epsilon)$, $x' = c(u - \eta\operatorname{clip}(\nabla E(u)))$.

    Langevin steps as deep learning uses them on images: noise first, a gradient clipped to
    `max_gradient` in each pixel, and $c$, which clips pixels to `bounds`. The defaults are
    those of the tutorial *Deep Energy Models* [Lippe 2022].

    **A generator only.** Where nothing is clipped, this is Langevin on $E/T$ with
    $T = \sigma^2/2\eta$, 1.25e-6 by default: descent with a little noise. So its chains don't
    draw from $e^{-E}$, whatever their number and length, and
    [`ContrastiveDivergence`][numpyro_ebm.ContrastiveDivergence] learns by them where they lead,
    a [`ShortRunGenerator`][numpyro_ebm.objectives.ShortRunGenerator], and not $\log p(x)$. For
    an energy of the data use [`MALA`][numpyro_ebm.MALA], or an objective without chains.
    Everything that draws from an energy refuses this kernel.

    Nothing adapts, and nothing is accepted or rejected: `accept_prob` is one. Cost: one
    gradient and one energy. Shown by `tests/kernels/test_clipped.py` against its stationary law
    on a Gaussian, and by `tests/objectives/test_replayed.py` against the tutorial's loop,
    number by number.

    **Arguments**

    - `potential_fn`: anything [`as_energy`][numpyro_ebm.as_energy] takes, on real points.
    - `step_size`: $\eta$.
    - `noise_scale`: $\sigma$.
    - `max_gradient`: the largest size of each entry of the gradient.
    - `bounds`: the least and the largest value of a pixel.
    """

    def __init__(
        self,
        potential_fn: Energy | None = None,
        *,
        step_size: float = 10.0,
        noise_scale: float = 0.005,
        max_gradient: float = 0.03,
        bounds: Sequence[float] = (-1.0, 1.0),
    ) -> None:
        check_positive("noise_scale", noise_scale)
        check_positive("max_gradient", max_gradient)
        check_finite("bounds", bounds)
        if len(bounds) != 2 or not bounds[0] < bounds[1]:
            raise ValueError(f"`bounds` must be two numbers that rise, got {bounds}.")
        move = ClippedLangevinMove(step_size, noise_scale, max_gradient, *bounds)
        super().__init__(None, potential_fn, move, NO_ADAPTATION)
