"""Auxiliary data of an exchange: drawn at the proposed parameters, seen from the old ones."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false

from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._types import Array, Float, Key, Point, Scalar
from ..chains import AbstractMove, settle
from ..energies import (
    AbstractEnergy,
    Transformed,
    bijection,
    discrete_levels,
    is_discrete,
    is_real,
)
from ..kernels import BlockGibbsMove, GibbsWithGradientsMove, MALAMove, default_kernel
from ..sites import over_points
from ._slopes import free_start
from ._unknown import Likelihood

#: The steps of consecutive transitions, relative to the tuned one. At a proposal far from the
#: posterior a whole step moves no chain that starts in a tail, which short ones do.
_SHARES = (1.0, 1 / 8, 1.0, 1 / 64)
#: With fewer transitions all steps are whole.
_MANY = 8


class Drawn(NamedTuple):
    r"""Auxiliary data of one site.

    - **values**: $w$, several sets of them.
    - **log_ratio**: the estimates of $\log Z(\theta)/Z(\theta')$ by each set, after each leg of
      the chains.
    - **accept_prob**, **tuning**, **n_grad**: means over the chains of points that count; the
      tuning is that of whole steps.
    """

    values: Float[Array, "sets *shape_and_event"]
    log_ratio: Float[Array, "leg sets"]
    accept_prob: Scalar
    tuning: Scalar
    n_grad: Scalar


class AuxiliaryMove(eqx.Module):
    r"""Draws $w \sim f(\cdot \mid \theta')/Z(\theta')$.

    - **move**: how chains move; `None` chooses by the energy.
    - **legs**: the numbers of transitions of its consecutive parts.
    - **num_bridges**: the number of distributions between $\theta'$ and $\theta$.
    """

    move: AbstractMove | None
    legs: tuple[int, ...] = eqx.field(static=True)
    num_bridges: int = eqx.field(static=True)

    def move_of(self, energy: AbstractEnergy) -> AbstractMove:
        """The move on points of `energy`; raises if it cannot move them."""
        move = _default_move(energy) if self.move is None else self.move
        move.check(energy)
        return move

    def check(self, site: Likelihood) -> None:
        """Raise if it cannot draw points of `site`."""
        if not site.has_exact_sampler:
            self.move_of(site.energy)

    def draw(
        self, rng_key: Key, new: Likelihood, old: Likelihood, num_sets: int, step_size: Scalar
    ) -> Drawn:
        """Auxiliary data at `new`, from chains that start at its value."""
        draw_key, bridge_key = jr.split(rng_key)
        starts = jnp.broadcast_to(new.value, (num_sets, *new.value.shape))
        if new.has_exact_sampler:
            end = _exact(draw_key, new, num_sets)
            ends, told = jnp.stack([end] * len(self.legs)), (jnp.nan, jnp.nan, 0.0)
        else:
            ends, told = self._run(draw_key, new, starts, step_size)
        accept_prob, tuning, n_grad = map(jnp.asarray, told)
        ratios = jax.vmap(lambda w: _log_ratio(w, new, old))(ends)
        if self.num_bridges:
            bridged = self._bridged(bridge_key, ends[-1], new, old, step_size)
            ratios = ratios.at[-1].set(bridged)
        return Drawn(ends[-1], ratios, accept_prob, tuning, n_grad)

    def _run(
        self, rng_key: Key, at: Likelihood, starts: Array, step_size: Scalar
    ) -> tuple[Float[Array, "leg sets *shape_and_event"], Iterable[Any]]:
        """Where chains from `starts` are after each leg, and what they report on average."""
        shape, last = starts.shape[: at.num_lead], np.cumsum(self.legs)
        shares = np.asarray(_SHARES if last[-1] >= _MANY else (1.0,))
        num_full = np.count_nonzero(shares[np.arange(last[-1]) % len(shares)] == 1)

        def begin(x: Point, part: Any) -> Any:
            energy, to_free, _ = _free(*part)
            # The key only draws momenta, which each transition draws anew.
            return self._move(part, step_size).init(rng_key, to_free(x), energy)

        def advance(i: Array, carry: Any) -> Any:
            state, total = carry
            share = jnp.asarray(shares, jnp.result_type(float))[i % len(shares)]

            def step(point: Any, part: Any) -> tuple[Any, Array]:
                return self._step(*point, part, share * step_size)

            keys = jr.split(jr.fold_in(rng_key, i), shape)
            state, told = over_points(step, [at.site], (keys, state), shape)
            # Only whole steps tune, and a masked point, perhaps NaN, never does.
            counts = jnp.stack([jnp.ones(()), jnp.where(share == 1, 1.0, 0.0), jnp.ones(())])
            return state, total + counts * at.mean(told)

        def leg(carry: Any, ends: Any) -> tuple[Any, Array]:
            carry = jax.lax.fori_loop(ends[0], ends[1], advance, carry)
            return carry, over_points(_back, [at.site], carry[0].position, shape)

        begun = over_points(begin, [at.site], starts, shape), jnp.zeros(3)
        (_, total), ends = jax.lax.scan(leg, begun, (last - np.asarray(self.legs), last))
        return ends, total / jnp.array([last[-1], num_full, 1])

    def _step(
        self, rng_key: Key, state: Any, part: Any, step_size: Scalar
    ) -> tuple[Any, Float[Array, "3"]]:
        """One transition of one chain, and its acceptance, tuning and number of gradients."""
        move, energy = self._move(part, step_size), _free(*part)[0]
        new, info = move.step(rng_key, state, energy)
        state, told = settle(state, new, move.report(info))
        # As in a warm-up, NaN means that a proposal was rejected.
        tuning = jnp.nan_to_num(told.tuning)
        if isinstance(move, BlockGibbsMove | GibbsWithGradientsMove):
            tuning = jnp.full_like(tuning, jnp.nan)  # They have no step.
        return state, jnp.stack([told.accept_prob, tuning, told.n_grad])

    def _bridged(
        self, rng_key: Key, w: Array, new: Likelihood, old: Likelihood, step_size: Scalar
    ) -> Float[Array, " sets"]:
        r"""$\log Z(\theta)/Z(\theta')$ by annealing $w$ from $\theta'$ to $\theta$."""
        num, shape = self.num_bridges, w.shape[: new.num_lead]

        def one(beta: Array, point: Any, new: Any, old: Any) -> Point:
            key, x = point
            part = Between(new[0], old[0], beta), new[1]
            energy, to_free, _ = _free(*part)
            state = self._move(part, step_size).init(key, to_free(x), energy)
            state, _ = self._step(key, state, part, step_size)
            return _back(state.position, part)

        def step(w: Array, k: Array) -> tuple[Array, Array]:
            keys = jr.split(jr.fold_in(rng_key, k), shape)
            between = partial(one, k / (num + 1))
            w = over_points(between, [new.site, old.site], (keys, w), shape)
            return w, _log_ratio(w, new, old)

        _, others = jax.lax.scan(step, w, jnp.arange(1, num + 1))
        return (_log_ratio(w, new, old) + others.sum(0)) / (num + 1)

    def _move(self, part: Any, step_size: Scalar) -> AbstractMove:
        energy, _ = part
        return self.move_of(energy).with_step(step_size)


def _exact(rng_key: Key, at: Likelihood, num_sets: int) -> Array:
    shape = (num_sets, *at.shape)

    def draw(rng_key: Key, part: Any) -> Array:
        energy, _ = part
        return energy.sampler(rng_key, ())

    return over_points(draw, [at.site], jr.split(rng_key, shape), shape)


def _log_ratio(w: Array, new: Likelihood, old: Likelihood) -> Float[Array, " sets"]:
    return old.log_density(w) - new.log_density(w)


class Between(AbstractEnergy):
    r"""$(1 - \beta)\,E_{\theta'}(x) + \beta\,E_\theta(x)$."""

    new: AbstractEnergy
    old: AbstractEnergy
    beta: Scalar

    @property
    def event_shape(self) -> Any:
        return self.new.event_shape

    def __call__(self, x: Point) -> Scalar:
        return (1 - self.beta) * self.new(x) + self.beta * self.old(x)


def _free(energy: AbstractEnergy, support: Any) -> tuple[AbstractEnergy, Any, Any]:
    """The energy in the space where chains move, and the maps to it and back."""
    if is_discrete(energy) or is_real(support):
        return energy, lambda x: x, lambda x: x
    transform = bijection(support)
    free = Transformed(energy, transform, is_onto=True)
    return free, partial(free_start, transform), transform


def _back(z: Point, part: Any) -> Point:
    return _free(*part)[2](z)


def _default_move(energy: AbstractEnergy) -> AbstractMove:
    if not is_discrete(energy):
        return MALAMove(_STEP)
    move = default_kernel(energy).move
    if isinstance(move, GibbsWithGradientsMove) and discrete_levels(energy) is None:
        raise ValueError(
            f"`auxiliary` must say how the points of {energy!r} move: its coordinates are "
            "discrete without a few common values, so the energy needs a `sampler`."
        )
    return move


#: The step of MALA where its adaptation starts.
_STEP = 0.1
