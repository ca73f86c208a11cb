"""`AbstractKernel`: a move as a NumPyro `MCMCKernel`."""

import abc
import copy
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.core import Tracer
from numpyro.infer.initialization import init_to_uniform
from numpyro.infer.mcmc import MCMCKernel
from numpyro.infer.util import initialize_model
from numpyro.util import is_prng_key

from .._normalization import check_normalization
from .._types import Array, Energy, Key, Point, Shape
from ..energies import AbstractEnergy, as_energy, check_energy
from ._adaptation import Adaptation
from ._move import AbstractMove, as_position
from ._state import KernelState


class AbstractKernel(MCMCKernel):
    """A [`move`][numpyro_ebm.kernels.AbstractMove] that NumPyro's `MCMC` can run.

    A subclass makes its move and passes it here. Everything that adapts is in the state, and
    the potential is built from the current model arguments in every transition, so new data,
    a resumed run and NumPyro's composite kernels see no stale value.
    """

    move: AbstractMove
    _state_type: type = KernelState

    @abc.abstractmethod
    def __init__(
        self,
        model: Callable[..., Any] | None,
        potential_fn: Energy | None,
        move: AbstractMove,
        adaptation: Adaptation,
        init_strategy: Callable[..., Any] = init_to_uniform,
    ) -> None:
        if model is not None and potential_fn is not None:
            raise ValueError("Only one of `model` or `potential_fn` must be specified.")
        self._model = model
        self._potential_fn = None if potential_fn is None else as_energy(potential_fn)
        self._init_strategy = init_strategy
        self.move = move
        self.adaptation = adaptation
        self._forget()

    @property
    def model(self) -> Callable[..., Any] | None:
        """The model; ArviZ asks for it. `None` for a kernel made from a potential."""
        return self._model

    @property
    def sample_field(self) -> str:
        return "z"

    @property
    def default_fields(self) -> tuple[str, ...]:
        # All that ArviZ's `sample_stats` wants, without `extra_fields`.
        return (
            "z",
            "potential_energy",
            "accept_prob",
            "diverging",
            "n_grad",
            "adapt_state.step_size",
        )

    def get_diagnostics_str(self, state: KernelState) -> str:
        return (
            f"step size {state.adapt_state.step_size:.2e}. "
            f"acc. prob={state.mean_accept_prob:.2f}"
        )

    def init(
        self,
        rng_key: Key,
        num_warmup: int,
        init_params: Point | None = None,
        model_args: tuple = (),
        model_kwargs: dict | None = None,
    ) -> KernelState:
        """Start one chain, or one a key if `rng_key` is a batch of keys.

        **Raises** `ValueError` where a chain could never leave its start, and
        [`UnnormalizedError`][numpyro_ebm.UnnormalizedError] if the model infers parameters of
        an energy without its normaliser.
        """
        state = self._init(rng_key, num_warmup, init_params, model_args, model_kwargs)
        _check_start(state)
        return state

    def _init(
        self,
        rng_key: Key,
        num_warmup: int,
        init_params: Point | None,
        model_args: tuple = (),
        model_kwargs: dict | None = None,
    ) -> KernelState:
        split = jr.split if is_prng_key(rng_key) else jax.vmap(jr.split, out_axes=1)
        chain_key, start_key = split(rng_key)
        position = self._start(start_key, init_params, model_args, model_kwargs)
        energy = self._energy(model_args, model_kwargs)

        def init_one(chain_key: Key, position: Point) -> KernelState:
            return self._init_state(chain_key, position, energy, num_warmup)

        init_all = init_one if is_prng_key(rng_key) else jax.vmap(init_one)
        return init_all(chain_key, position)

    def sample(
        self, state: KernelState, model_args: tuple, model_kwargs: dict | None
    ) -> KernelState:
        energy = self._energy(model_args, model_kwargs)
        return _each_chain(lambda one: self._transition(one, energy), state)

    def refresh(
        self, state: KernelState, model_args: tuple, model_kwargs: dict | None
    ) -> KernelState:
        """Recompute the energy and gradient that `state` caches, for a target that changed."""
        energy = self._energy(model_args, model_kwargs)

        def refresh(one: KernelState) -> KernelState:
            return one._replace(move_state=self.move.init(one.z, energy))

        return _each_chain(refresh, state)

    def wrap_model(self, wrapper: Callable[..., Any]) -> "AbstractKernel":
        if self._model is None:
            raise ValueError(
                "`wrap_model` is not supported for kernels built from a potential function."
            )
        kernel = copy.copy(self)
        kernel._model = wrapper(self._model)
        kernel._forget()
        return kernel

    def with_potential(self, potential_fn: Energy) -> "AbstractKernel":
        """A copy of this kernel that samples `potential_fn`."""
        kernel = copy.copy(self)
        kernel._model, kernel._potential_fn = None, as_energy(potential_fn)
        kernel._forget()
        return kernel

    def postprocess_fn(
        self, model_args: tuple, model_kwargs: dict | None
    ) -> Callable[[Point], Any]:
        if self._postprocess_fn_gen is None:
            return lambda position: position
        return self._postprocess_fn_gen(*model_args, **(model_kwargs or {}))

    def __getstate__(self) -> dict[str, Any]:
        # Closures don't pickle; `init` makes them again.
        state = self.__dict__.copy()
        state.update(dict.fromkeys(_CLOSURES))
        return state

    @property
    def _sample_fn(self) -> Any:
        # `MCMC` reads this: `None` makes it call `init` before it samples. What a model made
        # while it was traced (under `pmap`, say) must not be used after that trace.
        return None if self._is_traced else self._potential_fn_gen or self._potential_fn

    def _forget(self) -> None:
        for name in _CLOSURES:
            setattr(self, name, None)

    def _energy(self, model_args: tuple, model_kwargs: dict | None) -> Energy:
        if self._potential_fn is not None:
            return self._potential_fn
        if self._potential_fn_gen is None:
            raise RuntimeError("The kernel has no potential yet; call `init` first.")
        return self._potential_fn_gen(*model_args, **(model_kwargs or {}))

    def _start(
        self,
        rng_key: Key,
        init_params: Point | None,
        model_args: tuple,
        model_kwargs: dict | None,
    ) -> Point:
        if self._model is not None:
            check_normalization(self._model, *model_args, **(model_kwargs or {}))
            info = initialize_model(
                rng_key,
                self._model,
                init_strategy=self._init_strategy,
                dynamic_args=True,
                model_args=model_args,
                model_kwargs=model_kwargs,
            )
            self._potential_fn_gen = info.potential_fn
            self._postprocess_fn_gen = info.postprocess_fn
            self._is_traced = isinstance(rng_key, Tracer)
            return as_position(info.param_info.z if init_params is None else init_params)
        if self._potential_fn is None:
            raise ValueError(
                f"`{type(self).__name__}` has no target: give it a `model` or a `potential_fn`."
            )
        one_chain = is_prng_key(rng_key)
        if init_params is not None:
            position = as_position(init_params)
            _check_position(self._potential_fn, position, one_chain)
            return position
        shape = self._potential_fn.event_shape
        if shape is None:
            raise ValueError(
                "Valid value of `init_params` must be provided with `potential_fn`: this "
                "potential doesn't know the shape of one point."
            )

        def uniform(rng_key: Key) -> Array:
            # NumPyro's `init_to_uniform`: wide enough to start the chains apart.
            return jr.uniform(rng_key, shape, jnp.result_type(float), minval=-2, maxval=2)

        return uniform(rng_key) if one_chain else jax.vmap(uniform)(rng_key)

    def _init_state(
        self, rng_key: Key, position: Point, energy: Energy, num_warmup: int
    ) -> KernelState:
        adapt_state = self.adaptation.init(
            self.move.step_size, self.move.metric(position), position, num_warmup
        )
        zero = jnp.zeros((), jnp.result_type(float))
        return self._state_type(
            i=jnp.zeros((), int),
            move_state=self.move.init(position, energy),
            accept_prob=zero,
            mean_accept_prob=zero,
            diverging=jnp.zeros((), bool),
            n_grad=jnp.zeros((), int),
            adapt_state=adapt_state,
            rng_key=rng_key,
            **dict.fromkeys(set(self._state_type._fields) - set(KernelState._fields), zero),
        )

    def _transition(self, state: KernelState, energy: Energy) -> KernelState:
        if not jax.tree.leaves(state.z):  # A model without latent sites.
            return state._replace(i=state.i + 1)
        adapt_state = state.adapt_state
        move = _tuned(self.move, adapt_state.step_size, adapt_state.inverse_mass_matrix)
        rng_key = jr.fold_in(state.rng_key, state.i)
        move_state, info = move.step(rng_key, state.move_state, energy)
        accept_prob = jnp.asarray(info.acceptance_rate, jnp.result_type(float))
        return state._replace(
            i=state.i + 1,
            move_state=move_state,
            accept_prob=accept_prob,
            mean_accept_prob=_running_mean(state, accept_prob),
            diverging=jnp.asarray(info.is_divergent),
            n_grad=jnp.asarray(info.num_integration_steps, int),
            adapt_state=self.adaptation.update(
                state.i, adapt_state, move_state.position, accept_prob
            ),
            **self._report(info),
        )

    def _report(self, info: Any) -> dict[str, Array]:
        """What the state of this kernel has beyond `KernelState`."""
        return {}


def run_short_chain(
    rng_keys: Key, kernel: AbstractKernel, energy: Energy, start: Point, num_steps: int
) -> KernelState:
    """Where independent chains, one a key, end that adapt for half of `num_steps`."""
    bound = kernel.with_potential(energy)
    state = bound._init(rng_keys, num_steps // 2, start)

    def step(_: Array, state: KernelState) -> KernelState:
        return bound.sample(state, (), None)

    return jax.lax.fori_loop(0, num_steps, step, state)


_CLOSURES = ("_potential_fn_gen", "_postprocess_fn_gen", "_is_traced")


def _each_chain(fn: Callable[[KernelState], KernelState], state: KernelState) -> KernelState:
    return fn(state) if is_prng_key(state.rng_key) else jax.vmap(fn)(state)


def _tuned(move: AbstractMove, step_size: Array, metric: Array) -> AbstractMove:
    return eqx.tree_at(
        lambda m: (m.step_size, m.inverse_mass_matrix),
        move,
        (step_size, metric),
        is_leaf=lambda node: node is None,
    )


def _running_mean(state: KernelState, accept_prob: Array) -> Array:
    num_warmup = len(state.adapt_state.schedule)
    n = jnp.where(state.i < num_warmup, state.i + 1, state.i + 1 - num_warmup)
    return state.mean_accept_prob + (accept_prob - state.mean_accept_prob) / n


def _check_start(state: KernelState) -> None:
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(state.z)):
        return
    finite = [jnp.isfinite(x) for x in jax.tree.leaves((state.potential_energy, state.z_grad))]
    if not all(x.all() for x in finite):
        raise ValueError(
            "The potential or its gradient is not finite where a chain starts, so it could "
            "never move. Give a better start with `init_params`."
        )


def _check_position(energy: AbstractEnergy, position: Point, one_chain: bool) -> None:
    if isinstance(position, jax.Array):
        shape: Shape = position.shape if one_chain else position.shape[1:]
        check_energy(energy, shape)
