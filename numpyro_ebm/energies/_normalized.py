"""Energies with a known constant, and mixtures of them."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.core import Tracer
from jax.scipy.special import logsumexp
from numpyro.distributions.constraints import Constraint

from .._checks import as_finite
from .._trainable import Frozen, freeze, unfreeze
from .._types import Array, ArrayLike, EnergyLike, Float, Key, Point, Sampler, Scalar, Shape
from ._base import AbstractEnergy, AbstractView, as_energy, energy_named, proper_part
from ._formula import show_number, show_term
from ._log_z import LogZ, check_level
from ._supports import hull, is_real, same_support


class Normalized(AbstractView):
    r"""$E(x)$ with its $\log Z$, so $\log p(x) = -E(x) - \log Z$ is a log-density.

    The constant belongs to the energy's current parameters. It doesn't train: an
    [`Estimator`][numpyro_ebm.Estimator] that trains the energy drops it.

    **Arguments**

    - `energy`: anything [`as_energy`][numpyro_ebm.as_energy] takes.
    - `log_z`: $\log\int e^{-E(x)}\,dx$, or a [`LogZ`][numpyro_ebm.energies.LogZ] with its
      error, as [`log_partition`][numpyro_ebm.log_partition] returns it.
    - `std_error`: the standard error of `log_z`, if it was estimated; infinite if unknown.
    """

    energy: AbstractEnergy
    constant: Frozen | LogZ

    def __init__(
        self, energy: EnergyLike, log_z: ArrayLike | LogZ, std_error: ArrayLike = 0.0
    ) -> None:
        self.energy = as_energy(energy)
        as_finite("log_z", log_z.estimate if isinstance(log_z, LogZ) else log_z)
        constant = log_z if isinstance(log_z, LogZ) else LogZ(log_z, std_error)
        self.constant = freeze(constant)

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
    def sampler(self) -> Sampler | None:
        return self.energy.sampler

    @property
    def reference(self) -> Any:
        return self.energy.reference

    @property
    def gibbs_sweep(self) -> Any:
        energy: Any = self.energy
        return energy.gibbs_sweep

    @property
    def of_one_hot(self) -> Any:
        return self.energy.of_one_hot

    def __call__(self, x: Point) -> Scalar:
        return self.energy(x)

    def _formula(self) -> str:
        return f"Normalized({self.energy!r}, log_z={show_number(self.log_z)})"


class Mixture(AbstractEnergy):
    r"""$-\log\sum_i w_i\,e^{-E_i(x) - \log Z_i}$: experts in true proportions, $\log Z = 0$.

    Without their constants, experts would share the mass by $w_i Z_i$: in an equal mixture of
    $x^2/2$ and $(x-6)^2/0.02$, the wide one would get 0.909. So each expert must know its
    `log_z`. The weights don't train. An expert counts on its own support only; the support of
    the mixture contains them all.

    **Arguments**

    - `energies`: anything [`as_energy`][numpyro_ebm.as_energy] takes, each with a `log_z`.
    - `weights`: $w_i$, positive; they are scaled to sum to one.

    **Raises** `ValueError` if an expert doesn't know its `log_z`.
    """

    energies: tuple[AbstractEnergy, ...]
    log_weights: Frozen | Float[Array, " k"]

    def __init__(self, energies: Sequence[Any], weights: Any) -> None:
        if not isinstance(energies, Sequence) or isinstance(energies, str):
            raise TypeError(
                f"`energies` must be a sequence of energies, got {type(energies).__name__}."
            )
        self.energies = tuple(energy_named(f"energies[{i}]", e) for i, e in enumerate(energies))
        weights = as_finite("weights", weights)
        if not self.energies or weights.shape != (len(self.energies),):
            raise ValueError(
                f"`weights` must hold one number for each of the {len(self.energies)} "
                f"energies, got shape {weights.shape}."
            )
        if not isinstance(weights, Tracer) and not np.all(np.asarray(weights) > 0):
            raise ValueError(f"`weights` must be positive, got {weights}.")
        for i, energy in enumerate(self.energies):
            if energy.log_z is None:
                raise ValueError(
                    f"`energies[{i}]`, {energy!r}, does not know its `log_z`. Mixed without "
                    "it, an expert gets a share proportional to its own volume Z, not to its "
                    "weight. If you know the constant, wrap it: "
                    "`ebm.Normalized(energy, log_z)`."
                )
            check_level(energy, f"`energies[{i}]`")
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
        return hull([energy.support for energy in self.energies])

    @property
    def weights(self) -> Float[Array, " k"]:
        return jax.nn.softmax(unfreeze(self.log_weights))

    @property
    def log_z(self) -> Scalar | None:
        """Zero, unless experts have lost their constants in training."""
        lost = any(energy.log_z is None for energy in self.energies)
        return None if lost or self.support is None else jnp.zeros(())

    @property
    def partition(self) -> LogZ | None:
        """The average effect of the errors in the experts' constants on the log-density."""
        if self.log_z is None:
            return None
        # The slope in one of the constants is minus that expert's share of the mass.
        known = [_partition(energy) for energy in self.energies]
        errors = jnp.stack([each.std_error for each in known])
        error = jnp.sqrt(jnp.sum((self.weights * errors) ** 2))
        if all(each.method == "Analytic" for each in known):
            return LogZ(0.0, error, 0.0, 0.0, upper_is_exact=True, method="Analytic")
        return LogZ(0.0, error, method="Mixture")

    @property
    def sampler(self) -> Sampler | None:
        samplers = [energy.sampler for energy in self.energies]
        return self._draw if self.log_z is not None and all(samplers) else None

    @property
    def reference(self) -> Any:
        """The experts' references, in the same proportions."""
        parts = [proper_part(energy) for energy in self.energies]
        return None if None in parts else Mixture(parts, self.weights)

    def __call__(self, x: Point) -> Scalar:
        is_shared = all(same_support(e.support, self.support) for e in self.energies)
        experts = self.energies if is_shared else tuple(map(confined, self.energies))
        log_zs = [0.0 if energy.log_z is None else energy.log_z for energy in self.energies]
        pairs = zip(experts, log_zs, strict=True)
        log_densities = jnp.stack([-expert(x) - log_z for expert, log_z in pairs])
        return -logsumexp(jax.nn.log_softmax(unfreeze(self.log_weights)) + log_densities)

    def _draw(self, rng_key: Key, sample_shape: Shape = ()) -> Array:
        which_key, *keys = jr.split(rng_key, 1 + len(self.energies))
        which = jr.categorical(which_key, unfreeze(self.log_weights), shape=sample_shape)
        pairs = zip(self.energies, keys, strict=True)
        draws = [energy.sample(key, sample_shape) for energy, key in pairs]
        event_dim = draws[0].ndim - which.ndim
        which = which.reshape(which.shape + (1,) * event_dim)
        return jnp.select([which == i for i in range(len(draws))], draws)

    def _formula(self) -> str:
        terms = zip(self.weights, self.energies, strict=True)
        parts = [f"{show_number(w)} * exp(-{show_term(repr(e))})/Z" for w, e in terms]
        return f"-log({' + '.join(parts)})"


class Confined(AbstractView):
    """An energy that is infinite outside its support."""

    energy: AbstractEnergy

    def __call__(self, x: Point) -> Scalar:
        support: Any = self.support
        inside = jnp.all(support(x))
        # Outside, the energy may be NaN, and so would be the gradient.
        safe = jnp.where(inside, x, support.feasible_like(x))
        return jnp.where(inside, self.energy(safe), jnp.inf)

    def _formula(self) -> str:
        return repr(self.energy)


def confined(energy: EnergyLike) -> AbstractEnergy:
    """`energy`, infinite outside its support."""
    energy = as_energy(energy)
    return energy if energy.support is None or is_real(energy.support) else Confined(energy)


def _partition(energy: AbstractEnergy) -> LogZ:
    known = energy.partition
    assert known is not None
    return known
