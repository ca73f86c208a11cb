"""`AbstractMove`: one algorithm, with everything that may change stored as an array."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.flatten_util import ravel_pytree

from .._checks import as_floats, as_numbers
from .._types import Array, Energy, Key, Metric, Point, Scalar, Shape
from ..energies import AbstractEnergy, is_discrete
from ._metric import assembled


class Report(NamedTuple):
    """What every move reports about a transition.

    - **accept_prob**: the acceptance probability of the proposal.
    - **diverging**: whether the energy error exceeded 1000, or anything was not finite.
    - **n_grad**: the number of gradients (or of energies, if there are none) evaluated.
    - **tuning**: the quantity that step size adaptation steers to its target; it falls as the
      step grows.
    - **energy**: for a Hamiltonian move, the Hamiltonian at the end, momentum included.
    """

    accept_prob: Scalar
    diverging: Array
    n_grad: Array
    tuning: Any
    energy: Scalar | None = None


class AbstractMove(eqx.Module):
    """One Markov transition that leaves $e^{-E}$ invariant, at least nearly: see `is_exact`.

    `init` and `step` are pure and pass BlackJAX's own state and info through; `report` reads
    the info. The step size and the metric are fields, so adapting them, like changing the
    energy, recompiles nothing. The state caches the energy and its gradient: after the energy
    has changed, `refresh` it.
    """

    step_size: eqx.AbstractVar[float | Scalar]
    #: The inverse mass matrix, dense, its diagonal, or by blocks; `None` is the identity.
    inverse_mass_matrix: eqx.AbstractVar[Metric | None]
    #: Whether its reports hold a Hamiltonian.
    is_hamiltonian: ClassVar[bool] = False
    #: Fields of its state that are kept of each draw, as further statistics.
    kept: ClassVar[tuple[str, ...]] = ()

    @property
    def is_exact(self) -> bool:
        """Whether $e^{-E}$ is exactly invariant, whatever the step size."""
        return True

    @property
    def is_sampler(self) -> bool:
        """Whether its chains draw from $e^{-E}$, at least nearly; if not, it only generates."""
        return True

    @abc.abstractmethod
    def init(self, rng_key: Key, position: Point, energy: Energy) -> Any:
        """The state of a chain at `position`."""

    @abc.abstractmethod
    def step(self, rng_key: Key, state: Any, energy: Energy) -> tuple[Any, Any]:
        """One transition: the next state, and BlackJAX's information about it."""

    def report(self, info: Any) -> Report:
        """Turn `info` into a report; by default, any info with an `acceptance_rate`.

        Without `is_divergent` nothing diverged, and without `num_integration_steps` it took one
        gradient.
        """
        if not hasattr(info, "acceptance_rate"):
            raise TypeError(
                f"`{type(self).__name__}` must override `report(info)`: its "
                f"`{type(info).__name__}` has no `acceptance_rate`. Return "
                "`ebm.kernels.Report(...)`."
            )
        diverging = getattr(info, "is_divergent", False)
        return report(
            info.acceptance_rate, diverging, getattr(info, "num_integration_steps", 1)
        )

    def check(self, energy: AbstractEnergy) -> None:
        """Raise unless it moves on points like those of `energy`."""
        if is_discrete(energy):
            name = type(self).__name__.removesuffix("Move")
            raise TypeError(
                f"`{name}` moves through real points, and {energy!r} has discrete ones: use "
                "`ebm.GibbsWithGradients()` or `ebm.BlockGibbs()` for units of a few values, "
                "and NumPyro's `DiscreteGibbs` for sites of a model."
            )

    def with_step(self, step_size: Array) -> "AbstractMove":
        """The same move with another step size."""
        return eqx.tree_at(lambda move: move.step_size, self, step_size)

    def started(self, rng_key: Key, position: Point, energy: Energy) -> "AbstractMove":
        """The move that begins a warm-up; `position` is where one of the chains starts."""
        return self

    def step_all(self, rng_keys: Key, states: Any, energy: Energy) -> tuple[Any, Any]:
        """A `step` of many chains, with one key each."""
        return map_chains(lambda key, state: self.step(key, state, energy), rng_keys, states)

    def chain_axis(self, states: Any) -> int:
        """The position of the chain axis that `step_all` expects."""
        return 0

    def refresh(self, state: Any, energy: Energy) -> Any:
        """`state` with its cached energy and gradient recomputed."""
        # The key only draws momenta, and the old ones are kept.
        fresh = self.init(jr.key(0), state.position, energy)
        cached = {"logdensity", "logdensity_grad"} & set(state._fields)
        return state._replace(**{name: getattr(fresh, name) for name in cached})

    def draw_start(self, rng_key: Key, energy: Energy, shape: Shape) -> Array:
        """A point of shape `shape` where a chain may start."""
        # NumPyro's `init_to_uniform`: wide enough to start the chains apart.
        return jr.uniform(rng_key, shape, jnp.result_type(float), minval=-2, maxval=2)

    def metric(self, position: Point) -> Array:
        """The inverse mass matrix over the flattened `position`, dense or its diagonal."""
        if self.inverse_mass_matrix is None:
            return jnp.ones(dimension(position), jnp.result_type(float))
        if isinstance(self.inverse_mass_matrix, dict):
            return assembled(self.inverse_mass_matrix, position)
        return as_floats(self.inverse_mass_matrix)


def map_chains(fn: Callable[..., Any], *args: Any) -> Any:
    """`fn` of each of many chains; of a single one without `vmap`.

    Under `vmap` a condition runs both branches, and a loop checks every chain.
    """
    if len(jax.tree.leaves(args)[0]) > 1:
        return jax.vmap(fn)(*args)
    one = fn(*jax.tree.map(lambda x: x[0], args))
    return jax.tree.map(lambda x: jnp.expand_dims(x, 0), one)


def settle(old: Any, new: Any, report: Report) -> tuple[Any, Report]:
    """`new` if its energy is finite, as `log_density` sees it; else `old`, a divergence."""
    finite = jnp.isfinite(new.logdensity)
    state = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
    return state, report._replace(
        accept_prob=jnp.where(finite, report.accept_prob, 0),
        diverging=report.diverging | ~finite,
        tuning=jax.tree.map(lambda x: jnp.where(finite, x, 0), report.tuning),
    )


def report(
    accept_prob: Any, diverging: Any = False, n_grad: Any = 1, tuning: Any = None
) -> Report:
    """A [`Report`][numpyro_ebm.kernels.Report] of arrays, tuned by the acceptance."""
    accept_prob = jnp.asarray(accept_prob, jnp.result_type(float))
    return Report(
        accept_prob=accept_prob,
        diverging=jnp.asarray(diverging, bool),
        n_grad=jnp.asarray(n_grad, int),
        tuning=accept_prob if tuning is None else jnp.asarray(tuning, jnp.result_type(float)),
    )


def tuning_of_error(error: Any) -> Scalar:
    """A tuning whose mean is 0.9 if `error`, as a fraction of what is allowed, has mean one.

    A dual averaging that targets one failure in a hundred hardly notices if there is none, and
    follows a single chain that always fails. Here the error counts ten times as much, capped at
    ten times what is allowed.
    """
    return 1 - jnp.minimum(jnp.nan_to_num(error, nan=jnp.inf), 10) / 10


#: The target of this tuning.
TUNED_ERROR = 0.9


def as_position(position: Point) -> Point:
    """Arrays of JAX's default float type: BlackJAX draws its noise in that type."""
    return jax.tree.map(lambda x: as_numbers("init_params", x), position)


def dimension(position: Point) -> int:
    """The number of coordinates of one point."""
    return ravel_pytree(position)[0].size


def log_density(energy: Energy) -> Callable[[Point], Scalar]:
    """The log-density that BlackJAX needs, minus the energy; NaN makes it reject.

    It is NaN if the energy is minus infinity, because terms overflowed with both signs: a chain
    would stay there for good. It is also NaN if the position is not finite, at any energy.
    """

    def log_density(x: Point) -> Scalar:
        value = -energy(x)
        leaves = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(x)]
        is_sound = jnp.stack(leaves).all() & (value != jnp.inf)
        return jnp.where(is_sound, value, jnp.nan)

    return log_density
