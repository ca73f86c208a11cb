"""What a kernel samples: a NumPyro model, or an energy."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
from jax.core import Tracer
from numpyro import handlers
from numpyro.infer.gibbs import GIBBS_SITES_KWARG, discrete_latent_sites, prototype_trace
from numpyro.infer.util import (
    _transforms_from_trace,
    initialize_model,
    transform_fn,
    unconstrain_fn,
)
from numpyro.util import is_prng_key

from .._types import Array, Energy, Key, Point, Shape
from ..chains import AbstractMove, as_position
from ..energies import AbstractEnergy, as_energy, check_energy, unconstrained


class ModelTarget:
    """A NumPyro model, and what NumPyro builds from it when a chain starts."""

    def __init__(self, model: Callable[..., Any]) -> None:
        self.model = model
        self._traced: _Traced | None = None

    @property
    def argument(self) -> dict[str, Any]:
        """The argument of a kernel that makes this its target."""
        return {"model": self.model}

    def parts_by_value(self) -> tuple[Any, ...]:
        return (self.model,)

    def __getstate__(self) -> dict[str, Any]:
        # Closures don't pickle; `start` makes them again.
        return {**self.__dict__, "_traced": None}

    @property
    def sample_fn(self) -> Callable[..., Any] | None:
        """The potential, once a trace has made one that stays valid."""
        traced = self._traced
        return None if traced is None or traced.is_temporary else traced.potential_fn

    def start(
        self,
        rng_key: Key,
        kernel: Any,
        init_params: Point | None,
        args: tuple,
        kwargs: dict,
    ) -> Point:
        """Where one chain of `kernel` starts, or one per key, in unconstrained space."""
        kernel.check_model(self.model, args, kwargs)
        if GIBBS_SITES_KWARG in kwargs:
            name = type(kernel).__name__
            init_params = _start_block(rng_key, self.model, name, init_params, args, kwargs)
        info = initialize_model(
            rng_key,
            self.model,
            init_strategy=kernel.init_strategy,
            dynamic_args=True,
            model_args=args,
            model_kwargs=kwargs,
        )
        self._traced = _Traced(
            info.potential_fn,
            info.postprocess_fn,
            _transforms_from_trace(info.model_trace, raise_warnings=False),
            isinstance(rng_key, Tracer),
        )
        return as_position(info.param_info.z if init_params is None else init_params)

    def potential_fn(self, args: tuple, kwargs: dict) -> Energy:
        return self._needed("get_potential_fn").potential_fn(*args, **kwargs)

    def postprocess_fn(self, args: tuple, kwargs: dict) -> Callable[[Point], Any]:
        return self._needed("postprocess_fn").postprocess_fn(*args, **kwargs)

    def constrain_fn(self, args: tuple, kwargs: dict, with_deterministic: bool) -> Any:
        """The map from unconstrained to constrained values of the sites."""
        transforms = self._needed("get_constrain_fn").transforms
        if with_deterministic or transforms.dynamic_support:
            return self.postprocess_fn(args, kwargs)
        return partial(transform_fn, transforms.inv_transforms)

    def _needed(self, method: str) -> "_Traced":
        if self._traced is None:
            raise RuntimeError(f"`{method}` needs the kernel's `init` to have run.")
        return self._traced


class _Traced(NamedTuple):
    """What NumPyro built from a model.

    - **potential_fn**, **postprocess_fn**: functions of the model's arguments.
    - **transforms**: those of its sites.
    - **is_temporary**: whether the trace was made inside a JAX transformation, and is invalid
      after it.
    """

    potential_fn: Callable[..., Any]
    postprocess_fn: Callable[..., Any]
    transforms: Any
    is_temporary: bool


class EnergyTarget(NamedTuple):
    """An energy; the points lie on its support."""

    energy: AbstractEnergy

    @classmethod
    def of(cls, potential_fn: Energy, move: AbstractMove) -> "EnergyTarget":
        energy = as_energy(potential_fn)
        move.check(energy)
        return cls(energy)

    @property
    def argument(self) -> dict[str, Any]:
        """The argument of a kernel that makes this its target."""
        return {"potential_fn": self.energy}

    @property
    def sample_fn(self) -> AbstractEnergy:
        return self.energy

    def start(
        self,
        rng_key: Key,
        kernel: Any,
        init_params: Point | None,
        args: tuple,
        kwargs: dict,
    ) -> Point:
        """Where one chain of `kernel` starts, or one per key, in the space of its moves."""
        free, transform = unconstrained(self.energy)
        if init_params is not None:
            position = as_position(init_params)
            _check_position(self.energy, position, is_prng_key(rng_key))
            to_free = None if transform is None else _per_key(transform.inv, rng_key)
            return position if to_free is None else to_free(position)
        shape = free.event_shape
        if shape is None:
            raise ValueError(
                "Valid value of `init_params` must be provided with `potential_fn`: this "
                "potential doesn't know the shape of one point."
            )

        def start(rng_key: Key) -> Array:
            return kernel.move.draw_start(rng_key, free, shape)

        return _per_key(start, rng_key)(rng_key)

    def potential_fn(self, args: tuple, kwargs: dict) -> Energy:
        return unconstrained(self.energy)[0]

    def postprocess_fn(self, args: tuple, kwargs: dict) -> Callable[[Point], Any]:
        transform = unconstrained(self.energy)[1]
        return (lambda position: position) if transform is None else transform

    def constrain_fn(self, args: tuple, kwargs: dict, with_deterministic: bool) -> Any:
        return self.postprocess_fn(args, kwargs)


def _start_block(
    rng_key: Key,
    model: Callable[..., Any],
    name: str,
    init_params: Any,
    args: tuple,
    kwargs: dict,
) -> Point | None:
    """Check the sites of a block of `Gibbs`, which passes constrained `init_params`."""
    one_key = rng_key if is_prng_key(rng_key) else rng_key[0]
    trace = prototype_trace(model, one_key, args, kwargs)
    discrete = discrete_latent_sites(trace)
    if discrete:
        raise ValueError(
            f"Discrete latent sites {discrete} cannot be in the block of `{name}`; give them "
            "to a `DiscreteGibbs` block."
        )
    if _transforms_from_trace(trace, raise_warnings=False).dynamic_support:
        raise ValueError(f"A block of `{name}` cannot hold sites of value-dependent supports.")
    if init_params is None:
        return None
    seeded = handlers.seed(model, one_key)
    unconstrain = partial(unconstrain_fn, seeded, args, kwargs)
    return _per_key(unconstrain, rng_key)(init_params)


def _per_key(fn: Callable[..., Any], rng_key: Key) -> Callable[..., Any]:
    return fn if is_prng_key(rng_key) else jax.vmap(fn)


def _check_position(energy: AbstractEnergy, position: Point, one_chain: bool) -> None:
    if isinstance(position, jax.Array):
        shape: Shape = position.shape if one_chain else position.shape[1:]
        check_energy(energy, shape)
