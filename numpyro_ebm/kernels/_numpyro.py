"""`AbstractKernel`: a move as a NumPyro `MCMCKernel`."""

import abc
import copy
from collections.abc import Callable
from typing import Any

import jax
import jax.random as jr
from numpyro.infer.initialization import init_to_uniform
from numpyro.infer.mcmc import MCMCKernel
from numpyro.util import is_prng_key

from .._checks import check_positive
from .._guard import check_normalization, check_potential
from .._show import AsMade
from .._types import Energy, Key, Point
from .._values import ByValue
from ..chains import AbstractAdaptation, AbstractMove, Sampler, check_metric
from ..energies import AbstractEnergy, as_energy
from ._state import KernelState, next_state, refreshed_state, start_state
from ._still import sampler_at
from ._target import EnergyTarget, ModelTarget


class AbstractKernel(AsMade, MCMCKernel):
    """A [`move`][numpyro_ebm.kernels.AbstractMove] that NumPyro's `MCMC` can run.

    A subclass builds its move and passes it here. Everything that adapts is in the state, and
    every transition rebuilds the potential from the current model arguments, so NumPyro's
    composite kernels see no stale value. But `MCMC` does not tell a kernel when it resumes from
    `post_warmup_state` with new arguments. The state then holds energies under the old
    arguments, and a chain that compares with them may freeze, as NumPyro's own do. So set
    `mcmc.post_warmup_state = kernel.refresh(mcmc.last_state, model_args, model_kwargs)`.
    """

    move: AbstractMove
    adaptation: AbstractAdaptation

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
        check_metric(move.inverse_mass_matrix)
        adaptation.check(move)
        self.move = move
        self.adaptation = adaptation
        self.init_strategy = init_strategy
        self._target: ModelTarget | EnergyTarget | None = None
        if model is not None:
            self._target = ModelTarget(model)
        elif potential_fn is not None:
            self._target = EnergyTarget.of(self.as_target(as_energy(potential_fn)), move)

    @property
    def model(self) -> Callable[..., Any] | None:
        """The model; ArviZ asks for it. `None` for a kernel made from a potential."""
        return self._target.model if isinstance(self._target, ModelTarget) else None

    @property
    def potential_fn(self) -> AbstractEnergy | None:
        """The energy that it samples; `None` for a kernel made from a model."""
        return self._target.energy if isinstance(self._target, EnergyTarget) else None

    def as_target(self, energy: AbstractEnergy) -> AbstractEnergy:
        """`energy` with all that the move reads of it; raises if that is not known."""
        return energy

    def check_model(self, model: Callable[..., Any], args: tuple, kwargs: dict) -> None:
        """Raise if it cannot sample the posterior of `model`."""
        check_normalization(model, *args, **kwargs)

    @property
    def has_target(self) -> bool:
        """Whether it was made from a model or a potential."""
        return self._target is not None

    @property
    def sample_field(self) -> str:
        return "z"

    @property
    def default_fields(self) -> tuple[str, ...]:
        # All that ArviZ's `sample_stats` needs, without `extra_fields`.
        step_size = "adapt_state.step_size"
        fields = "z", "potential_energy", "accept_prob", "diverging", "n_grad", step_size
        return (*fields, "energy") if self.move.is_hamiltonian else fields

    def parts_by_value(self) -> tuple[Any, ...]:
        """What kernels are compared by: an equal kernel made anew compiles nothing."""
        return self.move, self.adaptation, self.init_strategy, self._target

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
        """Start one chain, or one per key if `rng_key` is a batch of keys.

        **Raises** `ValueError` if a chain could never leave its start or the kernel does not
        sample, and
        [`UnnormalizedError`][numpyro_ebm.UnnormalizedError] if the model, or a potential made
        from one, infers parameters of an energy without its normaliser.
        """
        check_samples(self)
        split = jr.split if is_prng_key(rng_key) else jax.vmap(jr.split, out_axes=1)
        chain_key, start_key = split(rng_key)
        arguments = init_params, model_args, model_kwargs or {}
        position = self._known_target.start(start_key, self, *arguments)
        energy = self.get_potential_fn(model_args, model_kwargs)
        sampler = self._sampler(position)
        state = start_state(chain_key, sampler, energy, position, num_warmup)
        if self.model is None and state.z_grad is None:
            one = position if is_prng_key(rng_key) else jax.tree.map(lambda x: x[0], position)
            check_potential(energy, one)
        return state

    def sample(
        self, state: KernelState, model_args: tuple, model_kwargs: dict | None
    ) -> KernelState:
        energy = self.get_potential_fn(model_args, model_kwargs)
        return next_state(self._sampler(state.z), energy, state)

    def refresh(
        self, state: KernelState, model_args: tuple, model_kwargs: dict | None
    ) -> KernelState:
        """Recompute the energy and gradient cached in `state`, after the target has changed."""
        energy = self.get_potential_fn(model_args, model_kwargs)
        return refreshed_state(self._sampler(state.z), energy, state)

    def wrap_model(self, wrapper: Callable[..., Any]) -> "AbstractKernel":
        if not isinstance(self._target, ModelTarget):
            raise ValueError(
                "`wrap_model` is not supported for kernels built from a potential function."
            )
        return self._with_target(ModelTarget(wrapper(self._target.model)))

    def with_potential(self, potential_fn: Energy) -> "AbstractKernel":
        """A copy of this kernel that samples `potential_fn`."""
        energy = self.as_target(as_energy(potential_fn))
        return self._with_target(EnergyTarget.of(energy, self.move))

    def postprocess_fn(
        self, model_args: tuple, model_kwargs: dict | None
    ) -> Callable[[Point], Any]:
        return self._known_target.postprocess_fn(model_args, model_kwargs or {})

    def get_potential_fn(
        self, model_args: tuple = (), model_kwargs: dict | None = None
    ) -> Energy:
        """The energy on unconstrained space, for these model arguments."""
        return self._known_target.potential_fn(model_args, model_kwargs or {})

    def get_constrain_fn(
        self,
        model_args: tuple = (),
        model_kwargs: dict | None = None,
        *,
        return_deterministic: bool = False,
    ) -> Callable[[Point], Any]:
        """The site values that other blocks of a composite kernel condition on.

        - `return_deterministic`: run the model, and return its deterministic sites too.
        """
        constrain_fn = self._known_target.constrain_fn
        return constrain_fn(model_args, model_kwargs or {}, return_deterministic)

    @property
    def _sample_fn(self) -> Any:
        # `MCMC` reads this: if it is `None`, it calls `init` before it samples.
        return None if self._target is None else self._target.sample_fn

    @property
    def _known_target(self) -> ModelTarget | EnergyTarget:
        if self._target is None:
            raise ValueError(
                f"`{type(self).__name__}` has no target: give it a `model` or a `potential_fn`."
            )
        return self._target

    def _with_target(self, target: ModelTarget | EnergyTarget) -> "AbstractKernel":
        kernel = copy.copy(self)
        others = {k: v for k, v in self.made_with.items() if k not in ("model", "potential_fn")}
        kernel._target, kernel.made_with = target, {**target.argument, **others}
        return kernel

    def _sampler(self, position: Point) -> Sampler:
        return sampler_at(position, Sampler(self.move, self.adaptation))


def check_samples(kernel: AbstractKernel) -> None:
    """Raise if the draws of `kernel` would be those of no density."""
    if not kernel.move.is_sampler:
        raise ValueError(
            f"`{type(kernel).__name__}` does not sample the energy, it descends: it only "
            "trains a generator, as the `kernel` of `ebm.ContrastiveDivergence`. To draw, use "
            "`ebm.MALA()`; `ebm.kernels.run_chains` runs its steps as they are."
        )
