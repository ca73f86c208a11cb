"""`AbstractKernel`: a move as a NumPyro `MCMCKernel`."""

import abc
import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.core import Tracer
from numpyro import handlers
from numpyro.infer.gibbs import GIBBS_SITES_KWARG, discrete_latent_sites, prototype_trace
from numpyro.infer.initialization import init_to_uniform
from numpyro.infer.mcmc import MCMCKernel
from numpyro.infer.util import (
    _transforms_from_trace,
    initialize_model,
    transform_fn,
    unconstrain_fn,
)
from numpyro.util import is_prng_key

from .._checks import check_positive
from .._normalization import check_normalization, check_potential
from .._types import Array, Energy, Key, Point, Shape
from .._values import ByValue
from ..energies import AbstractEnergy, as_energy, check_energy, unconstrained
from ._adaptation import AbstractAdaptation, Adaptation
from ._move import AbstractMove, Report, as_position
from ._state import KernelState, StillState


class AbstractKernel(MCMCKernel):
    """A [`move`][numpyro_ebm.kernels.AbstractMove] that NumPyro's `MCMC` can run.

    A subclass makes its move and passes it here. Everything that adapts is in the state, and
    the potential is built from the current model arguments in every transition, so NumPyro's
    composite kernels see no stale value. But `MCMC` does not tell a kernel when it goes on from
    `post_warmup_state` with new arguments. The state then holds the energy that its points had
    under the old ones, and a chain that compares with it may freeze, as NumPyro's own do. So
    set `mcmc.post_warmup_state = kernel.refresh(mcmc.last_state, model_args, model_kwargs)`.
    """

    move: AbstractMove
    _state_type: type = KernelState

    @abc.abstractmethod
    def __init__(
        self,
        model: Callable[..., Any] | None,
        potential_fn: Energy | None,
        move: AbstractMove,
        adaptation: AbstractAdaptation,
        init_strategy: Callable[..., Any] = init_to_uniform,
    ) -> None:
        if model is not None and potential_fn is not None:
            raise ValueError("Only one of `model` or `potential_fn` must be specified.")
        check_positive("step_size", move.step_size)
        _check_metric(move.inverse_mass_matrix)
        if isinstance(adaptation, Adaptation) and adaptation.dense_mass:
            _check_dense(move.inverse_mass_matrix, adaptation)
        self.move = move
        self._model = model
        self._potential_fn = None if potential_fn is None else self._as_target(potential_fn)
        self._init_strategy = init_strategy
        self.adaptation = adaptation
        self._forget()

    @property
    def model(self) -> Callable[..., Any] | None:
        """The model; ArviZ asks for it. `None` for a kernel made from a potential."""
        return self._model

    @property
    def has_target(self) -> bool:
        """Whether it was made from a model or a potential."""
        return self._model is not None or self._potential_fn is not None

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

    def parts_by_value(self) -> tuple[Any, ...]:
        """By what kernels compare: one made anew with the same arguments compiles nothing."""
        target = self._model, self._potential_fn
        return self.move, self.adaptation, *target, self._init_strategy

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and ByValue(self) == ByValue(other)

    def __hash__(self) -> int:
        return hash(ByValue(self))

    def get_diagnostics_str(self, state: KernelState) -> str:
        step_size = f"step size {state.adapt_state.step_size:.2e}"
        if not self.move.is_exact:  # It has no acceptance.
            return step_size
        return f"{step_size}. acc. prob={state.mean_accept_prob:.2f}"

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
        [`UnnormalizedError`][numpyro_ebm.UnnormalizedError] if the model, or a potential made
        of one, infers parameters of an energy without its normaliser.
        """
        state = self._init(rng_key, num_warmup, init_params, model_args, model_kwargs)
        _check_start(state)
        if self._model is None and state.z_grad is None:
            one = state.z if is_prng_key(rng_key) else jax.tree.map(lambda x: x[0], state.z)
            check_potential(self.get_potential_fn(), one)
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
        energy = self.get_potential_fn(model_args, model_kwargs)

        def init_one(chain_key: Key, position: Point) -> KernelState:
            return self._init_state(chain_key, position, energy, num_warmup)

        init_all = init_one if is_prng_key(rng_key) else jax.vmap(init_one)
        return init_all(chain_key, position)

    def sample(
        self, state: KernelState, model_args: tuple, model_kwargs: dict | None
    ) -> KernelState:
        energy = self.get_potential_fn(model_args, model_kwargs)
        # All chains are as far, and of a batch of numbers `cond` would run both branches.
        i = state.i.reshape(-1)[0]
        return _each_chain(lambda one: self._transition(i, one, energy), state)

    def refresh(
        self, state: KernelState, model_args: tuple, model_kwargs: dict | None
    ) -> KernelState:
        """Recompute the energy and gradient that `state` caches, for a target that changed."""
        energy = self.get_potential_fn(model_args, model_kwargs)

        def refresh(one: KernelState) -> KernelState:
            if not jax.tree.leaves(one.z):
                return one._replace(move_state=StillState(one.z, -energy(one.z)))
            return one._replace(move_state=self.move.refresh(one.move_state, energy))

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
        kernel._model, kernel._potential_fn = None, self._as_target(potential_fn)
        kernel._forget()
        return kernel

    def postprocess_fn(
        self, model_args: tuple, model_kwargs: dict | None
    ) -> Callable[[Point], Any]:
        if self._postprocess_fn_gen is not None:
            return self._postprocess_fn_gen(*model_args, **(model_kwargs or {}))
        transform = self._transform
        return (lambda position: position) if transform is None else transform

    def get_potential_fn(
        self, model_args: tuple = (), model_kwargs: dict | None = None
    ) -> Energy:
        """The energy over unconstrained space, for these arguments of the model."""
        if self._potential_fn is not None:
            return unconstrained(self._potential_fn)[0]
        if self._potential_fn_gen is None:
            raise RuntimeError("`get_potential_fn` needs the kernel's `init` to have run.")
        return self._potential_fn_gen(*model_args, **(model_kwargs or {}))

    def get_constrain_fn(
        self,
        model_args: tuple = (),
        model_kwargs: dict | None = None,
        *,
        return_deterministic: bool = False,
    ) -> Callable[[Point], Any]:
        """What conditions the other blocks of a composite kernel: values of the sites alone.

        **Arguments**

        - `return_deterministic`: run the model, and return its deterministic sites as well.
        """
        if self._model is None:
            return self.postprocess_fn(model_args, model_kwargs)
        if self._transforms is None:
            raise RuntimeError("`get_constrain_fn` needs the kernel's `init` to have run.")
        if return_deterministic or self._transforms.dynamic_support:
            return self.postprocess_fn(model_args, model_kwargs)
        return partial(transform_fn, self._transforms.inv_transforms)

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

    def _as_target(self, potential_fn: Energy) -> AbstractEnergy:
        energy = as_energy(potential_fn)
        self.move.check(energy)
        return energy

    @property
    def _transform(self) -> Any:
        """From where chains move to the points of a potential, if these are constrained."""
        return None if self._potential_fn is None else unconstrained(self._potential_fn)[1]

    def _forget(self) -> None:
        for name in _CLOSURES:
            setattr(self, name, None)

    def _start(
        self,
        rng_key: Key,
        init_params: Point | None,
        model_args: tuple,
        model_kwargs: dict | None,
    ) -> Point:
        if self._model is not None:
            check_normalization(self._model, *model_args, **(model_kwargs or {}))
            if GIBBS_SITES_KWARG in (model_kwargs or {}):
                block = (init_params, model_args, model_kwargs or {})
                init_params = self._start_block(self._model, rng_key, *block)
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
            self._transforms = _transforms_from_trace(info.model_trace, raise_warnings=False)
            self._is_traced = isinstance(rng_key, Tracer)
            return as_position(info.param_info.z if init_params is None else init_params)
        if self._potential_fn is None:
            raise ValueError(
                f"`{type(self).__name__}` has no target: give it a `model` or a `potential_fn`."
            )
        one_chain = is_prng_key(rng_key)
        energy, transform = unconstrained(self._potential_fn)
        if init_params is not None:
            position = as_position(init_params)
            _check_position(self._potential_fn, position, one_chain)
            if transform is None:
                return position
            return (transform.inv if one_chain else jax.vmap(transform.inv))(position)
        shape = energy.event_shape
        if shape is None:
            raise ValueError(
                "Valid value of `init_params` must be provided with `potential_fn`: this "
                "potential doesn't know the shape of one point."
            )

        def start(rng_key: Key) -> Array:
            return self.move.draw_start(rng_key, energy, shape)

        return start(rng_key) if one_chain else jax.vmap(start)(rng_key)

    def _start_block(
        self,
        model: Callable[..., Any],
        rng_key: Key,
        init_params: Any,
        model_args: tuple,
        model_kwargs: dict,
    ) -> Point | None:
        """Check the sites of a block of `Gibbs`, which gives constrained `init_params`."""
        one_key = rng_key if is_prng_key(rng_key) else rng_key[0]
        trace = prototype_trace(model, one_key, model_args, model_kwargs)
        discrete = discrete_latent_sites(trace)
        if discrete:
            raise ValueError(
                f"Discrete latent sites {discrete} cannot be in the block of "
                f"`{type(self).__name__}`; give them to a `DiscreteGibbs` block."
            )
        if _transforms_from_trace(trace, raise_warnings=False).dynamic_support:
            raise ValueError(
                f"A block of `{type(self).__name__}` cannot hold sites of value-dependent "
                "supports."
            )
        if init_params is None:
            return None
        seeded = handlers.seed(model, one_key)

        def unconstrain(params: Any) -> Any:
            return unconstrain_fn(seeded, model_args, model_kwargs, params)

        is_one = is_prng_key(rng_key)
        return unconstrain(init_params) if is_one else jax.vmap(unconstrain)(init_params)

    def _init_state(
        self, rng_key: Key, position: Point, energy: Energy, num_warmup: int
    ) -> KernelState:
        # Transition `i` draws from `fold_in(rng_key, i)`; momenta to start from come before.
        start_key = jr.fold_in(rng_key, _BEFORE)
        move = self.move
        if jax.tree.leaves(position):
            move_state = move.init(start_key, position, energy)
            move = move.started(start_key, position, energy)
        else:
            move_state = StillState(position, -energy(position))
        zero = jnp.zeros((), jnp.result_type(float))
        return self._state_type(
            i=jnp.zeros((), int),
            move_state=move_state,
            accept_prob=zero,
            mean_accept_prob=zero,
            diverging=jnp.zeros((), bool),
            n_grad=jnp.zeros((), int),
            adapt_state=self.adaptation.init(move, position, num_warmup),
            rng_key=rng_key,
            **dict.fromkeys(set(self._state_type._fields) - set(KernelState._fields), zero),
        )

    def _transition(self, i: Array, state: KernelState, energy: Energy) -> KernelState:
        """Transition `i` of one chain."""
        if not jax.tree.leaves(state.z):  # A model without latent sites.
            return state._replace(i=state.i + 1)
        rng_key = jr.fold_in(state.rng_key, i)

        def step(move: AbstractMove) -> tuple[Any, Report]:
            tuned = self.adaptation.tune(move, state.adapt_state)
            new, report = tuned.transition(rng_key, state.move_state, energy)
            has_energy = "energy" in self._state_type._fields
            return new, report if has_energy else report._replace(energy=None)

        num_warmup = len(state.adapt_state.schedule)
        traveller, num_travel = self.adaptation.traveller(num_warmup)
        if traveller is None or num_travel == 0:
            move_state, report = step(self.move)
        else:
            steps = (partial(step, move) for move in (traveller, self.move))
            move_state, report = jax.lax.cond(i < num_travel, *steps)
        one_chain = jax.tree.map(lambda x: x[None], (move_state.position, report))
        return state._replace(
            i=state.i + 1,
            move_state=move_state,
            accept_prob=report.accept_prob,
            mean_accept_prob=_running_mean(state, report.accept_prob),
            diverging=report.diverging,
            n_grad=report.n_grad,
            adapt_state=self.adaptation.update(i, state.adapt_state, *one_chain),
            **self._extra(report),
        )

    def _extra(self, report: Report) -> dict[str, Any]:
        """What the state of this kernel has beyond `KernelState`."""
        return {}


def step_adaptation(kernel: AbstractKernel) -> Adaptation:
    """How `kernel` adapts its one step size; raises if it has several."""
    if not isinstance(kernel.adaptation, Adaptation):
        raise TypeError(f"`kernel` must move by itself, got {type(kernel).__name__}.")
    return kernel.adaptation


def check_kernel(kernel: Any) -> None:
    if not isinstance(kernel, AbstractKernel):
        raise TypeError(
            "`kernel` must be a kernel of this library, such as `ebm.NUTS()`, got "
            f"{kernel!r:.80}."
        )


def check_free_kernel(kernel: Any) -> None:
    """Raise unless it is a kernel that has no target yet."""
    check_kernel(kernel)
    if kernel.has_target:
        raise ValueError(
            "`kernel` must have neither `model` nor `potential_fn` here, where it moves on "
            f"`energy`: pass `ebm.{type(kernel).__name__}()`."
        )


def check_exact(kernel: AbstractKernel) -> None:
    """Raise unless `kernel` leaves its target invariant, for what relies on that."""
    if not kernel.move.is_exact:
        raise ValueError(
            f"`kernel` must leave its target invariant here, and `{type(kernel).__name__}` is "
            "biased, by which the result would be wrong: use `ebm.MALA()` or "
            "`ebm.AdjustedMCLMC()`."
        )


def run_short_chain(
    rng_keys: Key, kernel: AbstractKernel, energy: Energy, start: Point, num_steps: int
) -> KernelState:
    """Where independent chains, one a key, end that adapt for half of `num_steps`."""
    bound = kernel.with_potential(energy)
    state = bound._init(rng_keys, num_steps // 2, start)

    def step(_: Array, state: KernelState) -> KernelState:
        return bound.sample(state, (), None)

    return jax.lax.fori_loop(0, num_steps, step, state)


#: No transition has this number.
_BEFORE = 2**32 - 1
_CLOSURES = ("_potential_fn_gen", "_postprocess_fn_gen", "_transforms", "_is_traced")


def _each_chain(fn: Callable[[KernelState], KernelState], state: KernelState) -> KernelState:
    return fn(state) if is_prng_key(state.rng_key) else jax.vmap(fn)(state)


def _running_mean(state: KernelState, accept_prob: Array) -> Array:
    num_warmup = len(state.adapt_state.schedule)
    n = jnp.where(state.i < num_warmup, state.i + 1, state.i + 1 - num_warmup)
    return state.mean_accept_prob + (accept_prob - state.mean_accept_prob) / n


def _check_start(state: KernelState) -> None:
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(state)):
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


def _check_dense(metric: Any, adaptation: Adaptation) -> None:
    if metric is None and not adaptation.adapt_mass_matrix:
        raise ValueError(
            "`dense_mass=True` with `adapt_mass_matrix=False` has no metric to use: let it "
            "adapt, or give an `inverse_mass_matrix`."
        )


def _check_metric(metric: Any) -> None:
    if metric is None or isinstance(metric, Tracer):
        return
    if isinstance(metric, dict):
        raise NotImplementedError(
            "`inverse_mass_matrix` must be one array over the flattened position: metrics of "
            f"several blocks are not implemented, got blocks {list(metric)}."
        )
    values = np.asarray(metric)
    if values.ndim not in (1, 2) or (values.ndim == 2 and len(set(values.shape)) != 1):
        raise ValueError(
            "`inverse_mass_matrix` must be a vector, its diagonal, or a square matrix, got "
            f"shape {values.shape}."
        )
    scales = values if values.ndim == 1 else np.linalg.eigvalsh(values)
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        raise ValueError("`inverse_mass_matrix` must be positive definite.")
