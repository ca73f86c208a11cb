r"""The verbs: estimate $\log Z$, and normalise an energy with it."""

import dataclasses
import math
import time
import warnings
from typing import Any, cast, overload

import jax
import jax.numpy as jnp
from jax.core import Tracer

from .._checks import check_key, user_level
from .._guard import check_normalization
from .._trainable import unfreeze
from .._types import Energy, EnergyLike, Key, PyTree, Scalar, Shape
from ..energies import (
    AbstractConditional,
    AbstractEnergy,
    LogZ,
    Normalized,
    NormalizedConditional,
    as_energy,
    check_level,
    find_reference,
    flattened,
    has_few_states,
    is_conditional,
    is_discrete,
    judged,
    models_in,
    unconstrained,
)
from ._base import AbstractExactMethod, AbstractLongMethod, AbstractNormalizer
from ._boundary import lost_at_boundaries
from ._bridge import BridgeSampling
from ._conditional import normalize_conditional
from ._enumeration import Enumeration
from ._from_prior import FromPrior
from ._integrability import check_integrable
from ._quadrature import Quadrature
from ._sequential import SequentialMonteCarlo


def log_partition(
    rng_key: Key,
    energy: EnergyLike,
    method: AbstractNormalizer | None = None,
    *,
    event_shape: Shape | None = None,
    progress_bar: bool = True,
) -> LogZ:
    r"""Estimate $\log Z = \log\int e^{-E(x)}\,dx$, with its error.

    ```python
    log_z = ebm.log_partition(jax.random.key(0), energy)
    print(log_z, log_z.interval(0.95))
    ```

    The default is the energy's own `log_z`, if it has one; up to 20 spins,
    [`Enumeration`][numpyro_ebm.Enumeration]; up to three dimensions,
    [`Quadrature`][numpyro_ebm.Quadrature] on a box found by search in unconstrained space; else
    [`SequentialMonteCarlo`][numpyro_ebm.SequentialMonteCarlo] from the energy's own reference.
    For a NumPyro model, islands of particles from its prior, and a bridge from their ends to a
    Gaussian if that agrees with their weights. Exact methods do not use the key.

    **Arguments**

    - `energy`: what [`as_energy`][numpyro_ebm.as_energy] takes, such as the
      [`ModelEnergy`][numpyro_ebm.ModelEnergy] of a NumPyro model, whose $Z$ is the evidence.
      Its support is integrated over.
    - `method`: such as [`SequentialMonteCarlo`][numpyro_ebm.SequentialMonteCarlo],
      [`BridgeSampling`][numpyro_ebm.BridgeSampling] or
      [`AnnealedImportanceSampling`][numpyro_ebm.AnnealedImportanceSampling].
    - `event_shape`: the shape of one point, if the energy does not know it.
    - `progress_bar`: show progress if the estimate takes more than two seconds.

    **Raises** `ValueError` if a method needs a reference, and the energy has none. Warns if the
    result has no interval, and says why.
    """
    check_key(rng_key)
    energy = _integrand(energy, event_shape)
    if energy.event_shape == (0,):
        method = Evaluation()
    if method is None:
        method, energy = default_method(energy)
    if not isinstance(method, AbstractNormalizer):
        raise TypeError(
            "`method` must be a normaliser, such as `ebm.SequentialMonteCarlo(...)`, got "
            f"{method!r}."
        )
    log_z = _estimate(method, rng_key, energy, progress_bar)
    if isinstance(log_z.estimate, Tracer):
        return log_z
    if not isinstance(method, AbstractExactMethod):
        log_z = judged(log_z, {_IMPROPER: not _is_integrable(energy)})
    for each in models_in(energy):
        log_z = judged(log_z, lost_at_boundaries(rng_key, each))
    _warn("log_partition", log_z)
    return log_z


def _integrand(energy: Any, event_shape: Shape | None) -> AbstractEnergy:
    """`energy` on arrays; raises if a model in it has no constant."""
    for each in models_in(energy := as_energy(energy, event_shape)):
        each.check_evidence()
        args, kwargs = unfreeze(each.arguments)
        check_normalization(each.model, *args, **kwargs)
    check_level(energy, repr(energy))
    return flattened(energy)[0]


def _estimate(
    method: AbstractNormalizer, rng_key: Key, energy: AbstractEnergy, progress_bar: bool
) -> LogZ:
    if not isinstance(method, AbstractExactMethod):
        _check_numbers(energy)
    start = time.perf_counter()
    if isinstance(method, AbstractLongMethod):
        log_z = method.run(rng_key, energy, progress_bar=progress_bar)
    else:
        log_z = method.estimate(rng_key, energy)
    if isinstance(log_z.estimate, Tracer):
        return log_z
    jax.block_until_ready(log_z)
    return dataclasses.replace(log_z, seconds=time.perf_counter() - start)


def _check_numbers(energy: AbstractEnergy) -> None:
    """Raise if the energy is inside of a transformation that the method cannot follow."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(energy)):
        raise ValueError(
            f"Under `jax.jit`, `vmap` or `grad` the parameters of {energy!r} have no values "
            "yet, and only a method that neither searches nor draws can do without them: give "
            "`ebm.Quadrature(low, high)` or `ebm.Enumeration()`, or call it outside."
        )


def log_partition_ratio(
    rng_key: Key,
    energy: EnergyLike,
    other: Any,
    method: BridgeSampling = BridgeSampling(),
    *,
    event_shape: Shape | None = None,
    progress_bar: bool = True,
) -> LogZ:
    r"""Estimate $\log Z - \log Z'$ of two energies that overlap, by bridge sampling.

    Neither needs a reference. The closer the two, the smaller the error: use it for neighbours
    on a path, or for one energy before and after training.

    **Arguments** are those of [`log_partition`][numpyro_ebm.log_partition], and

    - `other`: the energy of $Z'$, on the same points.
    - `method`: bridge sampling, with the kernel that draws from both.
    """
    check_key(rng_key)
    energy, other = _integrand(energy, event_shape), _integrand(other, event_shape)
    if energy.event_shape is not None and other.event_shape not in (None, energy.event_shape):
        raise ValueError(
            f"`other` lives on points of shape {other.event_shape}, `energy` on points of "
            f"shape {energy.event_shape}."
        )
    log_z = method.ratio(rng_key, energy, other, progress_bar=progress_bar)
    _warn("log_partition_ratio", log_z)
    return log_z


@overload
def normalize(  # pyright: ignore[reportOverlappingOverload]
    rng_key: Key,
    energy: AbstractConditional,
    method: AbstractNormalizer | None = None,
    *,
    event_shape: Shape | None = None,
    conditions: PyTree | None = None,
    progress_bar: bool = True,
) -> NormalizedConditional: ...


@overload
def normalize(
    rng_key: Key,
    energy: EnergyLike,
    method: AbstractNormalizer | None = None,
    *,
    event_shape: Shape | None = None,
    conditions: PyTree | None = None,
    progress_bar: bool = True,
) -> Normalized: ...


def normalize(
    rng_key: Key,
    energy: EnergyLike | AbstractConditional,
    method: AbstractNormalizer | None = None,
    *,
    event_shape: Shape | None = None,
    conditions: PyTree | None = None,
    progress_bar: bool = True,
) -> Normalized | NormalizedConditional:
    r"""`energy` with its [`LogZ`][numpyro_ebm.energies.LogZ], which makes it a density.

    ```python
    density = ebm.normalize(jax.random.key(0), energy)
    density.partition    # the constant, with its error
    ```

    An [`EnergyDistribution`][numpyro_ebm.EnergyDistribution] of it has a proper `log_prob`,
    [`Mixture`][numpyro_ebm.Mixture] accepts it, and [`compare`][numpyro_ebm.compare] can score
    it.

    Of a [`ConditionalEnergy`][numpyro_ebm.ConditionalEnergy], the result is a
    [`NormalizedConditional`][numpyro_ebm.energies.NormalizedConditional], which computes
    $\log Z(x)$ at each condition: of labels by `Enumeration`, else by a `Quadrature` whose box
    holds the densities at up to 32 of the `conditions`. Its error is the largest of theirs.

    **Arguments** are those of [`log_partition`][numpyro_ebm.log_partition], and

    - `conditions`: for a conditional energy, examples of its conditions along the first axis,
      such as those of the data.
    """
    check_key(rng_key)
    if is_conditional(energy):
        return normalize_conditional(rng_key, cast(Any, energy), method, conditions)
    if conditions is not None:
        raise ValueError("`conditions` is for a `ConditionalEnergy(fn, event_shape)` only.")
    energy = as_energy(cast(EnergyLike, energy), event_shape)
    return Normalized(energy, log_partition(rng_key, energy, method, progress_bar=progress_bar))


class Analytic(AbstractExactMethod):
    r"""The energy's own `log_z`."""

    def log_z(self, energy: AbstractEnergy) -> Any:
        return energy.log_z

    def estimate(self, rng_key: Key, energy: Any) -> LogZ:
        return energy.partition


class Evaluation(AbstractExactMethod):
    """The energy of the only point, of a model without continuous latent sites."""

    def log_z(self, energy: Energy) -> Scalar:
        return -energy(jnp.zeros(0))

    def estimate(self, rng_key: Key, energy: AbstractEnergy) -> LogZ:
        value = self.log_z(energy)
        return LogZ(value, 0.0, value, value, upper_is_exact=True, method="Evaluation")


def default_method(energy: AbstractEnergy) -> tuple[AbstractNormalizer, AbstractEnergy]:
    """The method that suits the energy and its dimension, and the energy to apply it to."""
    if energy.log_z is not None:
        return Analytic(), energy
    shape = energy.event_shape
    if shape is None:
        raise ValueError(
            "`event_shape` is needed, because this energy doesn't know the shape of one point."
        )
    if is_discrete(energy):
        method = Enumeration() if has_few_states(energy, shape) else SequentialMonteCarlo()
        return method, energy
    _check_numbers(energy)
    free, _ = unconstrained(energy)
    if 1 <= math.prod(free.event_shape or ()) <= 3:
        return Quadrature.around(free), free
    if models_in(energy):
        return FromPrior(), energy
    if find_reference(energy) is not None:
        return SequentialMonteCarlo(), energy
    raise ValueError(
        f"`method` is needed: quadrature by default is for up to three dimensions, {energy!r} "
        f"has {math.prod(shape)}, and it has no reference distribution to anneal from. Give "
        "one that is wider than the target, "
        "`ebm.SequentialMonteCarlo(reference=dist.MultivariateNormal(...))`, or tilt one, "
        "`ebm.Tilted(network, reference)`, when you build the energy. "
        "`ebm.BridgeSampling()` needs none, but chains that mix."
    )


_IMPROPER = (
    "the energy seems not to fall off in every direction, see "
    "`ebm.normalizers.check_integrable(energy)`"
)


def _is_integrable(energy: AbstractEnergy) -> bool:
    if is_discrete(energy) or energy.log_z is not None or energy.event_shape is None:
        return True
    if models_in(energy):  # The tails of a proper prior are too light for the rays, or bent.
        return True
    return check_integrable(energy, num_rays=32).ok is not False


def _warn(verb: str, log_z: LogZ) -> None:
    if not log_z.ok:
        warnings.warn(f"`{verb}`: {log_z}", stacklevel=user_level())
