"""Energies that know their constant, and mixtures of them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.core import Tracer
from jax.scipy.special import logsumexp
from numpyro.distributions import constraints
from numpyro.distributions.constraints import Constraint

from .._trainable import Frozen, freeze, unfreeze
from .._types import Array, Float, Key, Point, Scalar, Shape
from ._base import AbstractEnergy, as_energy, common_support, is_real, show_number, show_term
from ._log_z import LogZ


class Normalized(AbstractEnergy):
    r"""$E(x)$ with its $\log Z$, so that $\log p(x) = -E(x) - \log Z$ is a log-density.

    The constant belongs to the parameters that the energy has now. It doesn't train.

    **Arguments**

    - `energy`: what [`as_energy`][numpyro_ebm.as_energy] takes.
    - `log_z`: $\log\int e^{-E(x)}\,dx$, or a [`LogZ`][numpyro_ebm.LogZ] with its error, as
      [`log_partition`][numpyro_ebm.log_partition] returns it.
    - `std_error`: the standard error of `log_z`, if it was estimated; infinite if unknown.
    """

    energy: AbstractEnergy
    constant: Frozen | LogZ

    def __init__(self, energy: Any, log_z: Any, std_error: Any = 0.0) -> None:
        self.energy = as_energy(energy)
        constant = log_z if isinstance(log_z, LogZ) else LogZ(log_z, std_error)
        value, error = constant.estimate, constant.std_error
        if not isinstance(value, Tracer) and not np.isfinite(value):
            raise ValueError(f"`log_z` must be finite, got {value}.")
        if not isinstance(error, Tracer) and not np.asarray(error) >= 0:
            raise ValueError(f"`std_error` must not be negative or NaN, got {error}.")
        self.constant = freeze(constant)

    @property
    def event_shape(self) -> Shape | None:
        return self.energy.event_shape

    @property
    def support(self) -> Constraint | None:
        return self.energy.support

    @property
    def log_z(self) -> Scalar:
        return self.partition.estimate

    @property
    def std_error(self) -> Scalar:
        return self.partition.std_error

    @property
    def partition(self) -> LogZ:
        """The constant with all that is known about its error."""
        return unfreeze(self.constant)

    @property
    def sample(self) -> Callable[..., Array]:
        return exact_sampler(self.energy)

    def __call__(self, x: Point) -> Scalar:
        return self.energy(x)

    def _formula(self) -> str:
        return f"Normalized({self.energy!r}, log_z={show_number(self.log_z)})"


class Mixture(AbstractEnergy):
    r"""$-\log\sum_i w_i\,e^{-E_i(x) - \log Z_i}$: experts in true proportions, $\log Z = 0$.

    Without their constants, experts would share the mass by $w_i Z_i$: of $x^2/2$ and
    $(x-6)^2/0.02$, mixed half and half, the wide one would get 0.909. So each expert must know
    its `log_z`. The weights don't train.

    **Arguments**

    - `energies`: what [`as_energy`][numpyro_ebm.as_energy] takes, each with a `log_z`.
    - `weights`: $w_i$, positive; they are scaled to add to one.

    **Raises** `ValueError` if an expert doesn't know its `log_z`.
    """

    energies: tuple[AbstractEnergy, ...]
    log_weights: Frozen | Float[Array, " k"]

    def __init__(self, energies: Sequence[Any], weights: Any) -> None:
        self.energies = tuple(map(as_energy, energies))
        weights = jnp.asarray(weights, jnp.result_type(float))
        if not self.energies or weights.shape != (len(self.energies),):
            raise ValueError(
                f"`weights` must hold one number for each of the {len(self.energies)} "
                f"energies, got shape {weights.shape}."
            )
        if not isinstance(weights, Tracer) and not np.all(np.asarray(weights) > 0):
            raise ValueError(f"`weights` must be positive, got {weights}.")
        for i, energy in enumerate(self.energies):
            if not hasattr(energy, "log_z"):
                raise ValueError(
                    f"`energies[{i}]`, {energy!r}, does not know its `log_z`. Mixed without "
                    "it, an expert gets a share proportional to its own volume Z, not to its "
                    "weight. If you know the constant, wrap it: "
                    "`ebm.Normalized(energy, log_z)`."
                )
        shapes = {energy.event_shape for energy in self.energies} - {None}
        if len(shapes) > 1:
            raise ValueError(
                "Energies that are mixed must live on the same points, got event shapes "
                f"{' and '.join(map(str, shapes))}."
            )
        self.log_weights = freeze(jnp.log(weights))

    @property
    def event_shape(self) -> Shape | None:
        shapes = (energy.event_shape for energy in self.energies)
        return next((shape for shape in shapes if shape is not None), None)

    @property
    def support(self) -> Constraint | None:
        # Where one expert is free, the mixture is.
        supports = [energy.support for energy in self.energies]
        return constraints.real if any(map(is_real, supports)) else common_support(supports)

    @property
    def weights(self) -> Float[Array, " k"]:
        return jax.nn.softmax(unfreeze(self.log_weights))

    @property
    def log_z(self) -> Scalar:
        return jnp.zeros(())

    @property
    def std_error(self) -> Scalar:
        """What the errors of the experts' constants do to the log-density, on average."""
        # Its slope in one of the constants is minus that expert's share of the mass.
        errors = [jnp.asarray(getattr(energy, "std_error", 0.0)) for energy in self.energies]
        return jnp.sqrt(jnp.sum((self.weights * jnp.stack(errors)) ** 2))

    @property
    def sample(self) -> Callable[..., Array]:
        samplers = [exact_sampler(energy) for energy in self.energies]

        def sample(rng_key: Key, sample_shape: Shape = ()) -> Array:
            which_key, *keys = jr.split(rng_key, 1 + len(samplers))
            which = jr.categorical(which_key, unfreeze(self.log_weights), shape=sample_shape)
            draws = [draw(key, sample_shape) for draw, key in zip(samplers, keys, strict=True)]
            event_dim = draws[0].ndim - which.ndim
            which = which.reshape(which.shape + (1,) * event_dim)
            return jnp.select([which == i for i in range(len(draws))], draws)

        return sample

    def __call__(self, x: Point) -> Scalar:
        log_densities = jnp.stack([-energy(x) - log_z_of(energy) for energy in self.energies])
        return -logsumexp(jax.nn.log_softmax(unfreeze(self.log_weights)) + log_densities)

    def _formula(self) -> str:
        terms = zip(self.weights, self.energies, strict=True)
        parts = [f"{show_number(w)} * exp(-{show_term(repr(e))})/Z" for w, e in terms]
        return f"-log({' + '.join(parts)})"


def log_z_of(energy: AbstractEnergy) -> Scalar:
    """`energy.log_z`; an `AttributeError` makes the caller's own `log_z` not exist."""
    return energy.log_z  # pyright: ignore[reportAttributeAccessIssue]


def exact_sampler(energy: AbstractEnergy) -> Callable[..., Array]:
    """`energy.sample`; an `AttributeError` makes the caller's own `sample` not exist."""
    sampler = getattr(energy, "sample", None)
    if sampler is None:
        raise AttributeError(f"{energy!r} has no exact sampler.")
    return sampler
