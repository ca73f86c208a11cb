"""Chains of stochastic-gradient Langevin steps, in short compiled calls."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from .._driver import Progress, drive
from .._trainable import unfreeze
from .._types import Array, Float, Key, PyTree, Scalar
from ..chains import blackjax
from ..energies import as_energy, is_conditional
from ..estimation._members import check_finite_step
from ..objectives import AbstractObjective, Batch
from ._weight_prior import WeightPrior, log_prior
from ._weights import flattened


class Problem(eqx.Module):
    r"""$\log p(\theta) - \beta n D(\theta)$, and the steps by which it is explored."""

    objective: AbstractObjective
    energy: Any
    data: Batch
    prior: WeightPrior
    weight: Scalar
    step_size: Scalar
    batch_size: int | None
    num_warmup: int
    num_samples: int
    thinning: int

    @property
    def num_steps(self) -> int:
        return self.num_warmup + self.num_samples * self.thinning

    def slot(self, step: Any) -> Any:
        """The draw that a step leads to; those of the warm-up are overwritten."""
        return jnp.maximum(step - self.num_warmup, 0) // self.thinning

    def slope(
        self, rng_key: Key, z: Float[Array, " p"], state: PyTree
    ) -> tuple[Float[Array, " p"], tuple[PyTree, dict[str, Array]]]:
        """An unbiased gradient of the log-density; the objective's next state, and metrics."""
        row_key, loss_key = jr.split(rng_key)
        batch = self._rows(row_key)
        _, rebuild = flattened(self.energy)

        def log_density(z: Array) -> tuple[Scalar, Any]:
            energy = rebuild(z)
            args = as_trainable(energy), state, batch, None
            loss, (new_state, metrics) = self.objective.loss(loss_key, *args)
            fit = self.weight * len(self.data) * loss
            return log_prior(self.prior, energy) - fit, (new_state, {"loss": loss, **metrics})

        return eqx.filter_grad(log_density, has_aux=True)(z)

    def _rows(self, rng_key: Key) -> Batch:
        if self.batch_size is None:
            return self.data
        # With replacement, so that the noise of a batch has the same law in each step.
        rows = jr.randint(rng_key, (self.batch_size,), 0, len(self.data))
        return jax.tree.map(lambda x: x[rows], self.data)


def as_trainable(energy: Any) -> Any:
    energy = unfreeze(energy)
    return energy if is_conditional(energy) else as_energy(energy)


class Chain(NamedTuple):
    """Weights, what the objective carries, and the sum of the squares of all gradients."""

    z: Float[Array, "*chain p"]
    state: PyTree
    squares: Float[Array, "*chain p"]


class Records(NamedTuple):
    """The draws of all chains, and their metrics."""

    z: Float[Array, "chain draw p"]
    metrics: dict[str, Float[Array, "chain draw"]]


def run(
    problem: Problem, rng_key: Key, states: list[PyTree], progress_bar: bool
) -> tuple[Records, Float[Array, " chain"]]:
    """The draws of a chain for each state of the objective, and its excess variance."""
    keys = jr.split(rng_key, len(states))
    chains, static = _first(problem, states)
    records = _empty(problem, static, keys, chains)
    done = 0

    def call(length: int) -> Progress:
        nonlocal chains, records, done
        count, chains, records, is_finite = _advance(
            problem, static, keys, chains, records, *map(jnp.asarray, (done, done + length))
        )
        done = int(count)
        check_finite_step(is_finite, done, "chain", _REMEDY)
        losses = records.metrics["loss"][:, problem.slot(done - 1)]
        return Progress(length, f"loss {float(losses.mean()):.4g}")

    drive(call, problem.num_steps, progress_bar=progress_bar, resume=None)
    mean_square = chains.squares / (problem.num_samples * problem.thinning)
    return records, 0.5 * problem.step_size * mean_square.max(-1)


_REMEDY = (
    "Use a smaller `step_size`: steps are stable below 2 divided by the largest curvature of "
    "the log-posterior."
)


def _first(problem: Problem, states: list[PyTree]) -> tuple[Chain, PyTree]:
    """All chains at the weights of the energy, and what of their states is not an array."""
    flat, _ = flattened(problem.energy)
    z = jnp.tile(flat, (len(states), 1))
    arrays = [eqx.filter(state, eqx.is_array) for state in states]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *arrays)
    _, static = eqx.partition(states[0], eqx.is_array)
    return Chain(z, stacked, jnp.zeros_like(z)), static


def _step(
    problem: Problem, static: PyTree, rng_key: Key, chain: Chain, step: Array
) -> tuple[Chain, dict[str, Array]]:
    slope_key, noise_key = jr.split(jr.fold_in(rng_key, step))
    state = eqx.combine(chain.state, static)
    slope, (state, metrics) = problem.slope(slope_key, chain.z, state)
    # The chains of the objective first come to where the energy is.
    is_held = (step < problem.num_warmup // 4) & bool(jax.tree.leaves(chain.state))
    step_size = jnp.where(is_held, 0, problem.step_size)
    kernel = blackjax().sgld.build_kernel()
    z = kernel(noise_key, chain.z, lambda *_: slope, None, step_size)
    # Its noise has JAX's default type, whatever that of the weights.
    z = z.astype(chain.z.dtype)
    squares = jnp.where(step < problem.num_warmup, 0, chain.squares + slope**2)
    return Chain(z, eqx.filter(state, eqx.is_array), squares), metrics


@eqx.filter_jit
def _empty(problem: Problem, static: PyTree, keys: Key, chains: Chain) -> Records:
    """Records without a draw."""

    def one(key: Key, chain: Chain) -> Records:
        return Records(chain.z, _step(problem, static, key, chain, jnp.zeros((), int))[1])

    shapes = jax.eval_shape(jax.vmap(one), keys, chains)

    def room(x: Any) -> Array:
        return jnp.zeros((x.shape[0], problem.num_samples, *x.shape[1:]), x.dtype)

    return jax.tree.map(room, shapes)


@eqx.filter_jit
def _advance(
    problem: Problem,
    static: PyTree,
    keys: Key,
    chains: Chain,
    records: Records,
    first: Array,
    last: Array,
) -> tuple[Array, Chain, Records, Array]:
    """Steps from `first` to `last`, or up to one that is not finite in some chain."""

    def goes_on(carry: tuple) -> Array:
        step, _, _, is_finite = carry
        return (step < last) & is_finite.all()

    def body(carry: tuple) -> tuple:
        step, chains, records, _ = carry
        each = jax.vmap(lambda key, chain: _step(problem, static, key, chain, step))
        chains, metrics = each(keys, chains)
        slot = problem.slot(step)
        records = jax.tree.map(
            lambda record, new: record.at[:, slot].set(new), records, Records(chains.z, metrics)
        )
        is_finite = jnp.isfinite(chains.z).all(1) & jnp.isfinite(metrics["loss"])
        return step + 1, chains, records, is_finite

    start = (first, chains, records, jnp.ones(len(keys), bool))
    return jax.lax.while_loop(goes_on, body, start)
