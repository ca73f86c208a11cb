"""Functions and NumPyro distributions as energies."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints

from .._trainable import Frozen, freeze, unfreeze
from .._types import Array, ArrayLike, Key, Point, Sampler, Scalar, Shape
from ._base import AbstractEnergy, as_energy, convert
from ._formula import name_of
from ._log_z import LogZ
from ._supports import elementwise, is_real
from ._transforms import support_of


class FunctionEnergy(AbstractEnergy):
    """Any callable from one point to a scalar, such as `eqx.nn.MLP(d, "scalar", ...)`."""

    fn: Any
    event_shape: Shape | None = eqx.field(static=True, default=None)

    @property
    def support(self) -> constraints.Constraint | None:
        inner = self._inner
        return constraints.real if inner is None else inner.support

    @property
    def log_z(self) -> Scalar | None:
        return None if self._inner is None else self._inner.log_z

    @property
    def partition(self) -> LogZ | None:
        return None if self._inner is None else self._inner.partition

    @property
    def sampler(self) -> Sampler | None:
        return None if self._inner is None else self._inner.sampler

    @property
    def reference(self) -> Any:
        return None if self._inner is None else self._inner.reference

    @property
    def _inner(self) -> AbstractEnergy | None:
        """The energy that was frozen."""
        inner = unfreeze(self.fn)
        return inner if isinstance(inner, AbstractEnergy) else None

    def __call__(self, x: Point) -> Array:
        return unfreeze(self.fn)(x)

    def _formula(self) -> str:
        return name_of(unfreeze(self.fn))


class DistributionEnergy(AbstractEnergy):
    r"""$-\log q(x)$ of a NumPyro distribution: normalised, $\log Z = 0$, with exact draws.

    It is infinite if a coordinate leaves its interval or half-line. A support of another shape,
    such as the simplex, is not checked: whatever moves `x` has to keep it.
    """

    distribution: dist.Distribution

    @property
    def event_shape(self) -> Shape:
        return self.distribution.event_shape

    @property
    def support(self) -> constraints.Constraint | None:
        return support_of(self.distribution)

    @property
    def log_z(self) -> Scalar | None:
        return jnp.zeros(()) if is_normalized(self.distribution) else None

    @property
    def partition(self) -> LogZ | None:
        if self.log_z is None:
            return None
        if not self._sites:
            return LogZ(0.0, 0.0, 0.0, 0.0, upper_is_exact=True, method="Analytic")
        return LogZ(0.0, sum(map(self._log_z_error, self._sites)))

    @property
    def sampler(self) -> Sampler | None:
        is_exact = has_sampler(self.distribution) and self.log_z is not None
        return self._draw if is_exact else None

    @property
    def _sites(self) -> list[Any]:
        return _energies_in(self.distribution)

    def _log_z_error(self, site: Any) -> Scalar:
        # An expanded site has one constant, which counts once per copy.
        copies = math.prod(self.event_shape) / math.prod(site.shape())
        return copies * site.log_z_error

    def __call__(self, x: ArrayLike) -> Scalar:
        support: Any = self.support
        if is_real(support) or elementwise(support).event_dim:
            return -jnp.asarray(self.distribution.log_prob(x))
        inside = jnp.all(support(x))
        # Outside, NumPyro's log_prob may be finite, or NaN.
        safe = jnp.where(inside, x, support.feasible_like(x))
        if _looks_up_values(self.distribution):
            safe = safe.astype(int)
        return jnp.where(inside, -jnp.asarray(self.distribution.log_prob(safe)), jnp.inf)

    def _draw(self, rng_key: Key, sample_shape: Shape = ()) -> Array:
        return jnp.asarray(self.distribution.sample(rng_key, sample_shape))

    def _formula(self) -> str:
        return f"-log {name_of(self.distribution)}"


def from_distribution(distribution: dist.Distribution) -> DistributionEnergy:
    """The negative log-density of a NumPyro distribution, as an energy.

    **Raises** `ValueError` if the distribution has a batch shape: `.to_event()` makes it one
    event.
    """
    if distribution.batch_shape:
        raise ValueError(
            f"A distribution with batch shape {distribution.batch_shape} is not one energy. "
            f"Make its batch one event with `.to_event({len(distribution.batch_shape)})`."
        )
    return DistributionEnergy(distribution)


def _looks_up_values(distribution: dist.Distribution) -> bool:
    """Whether values are indices into a table, which have to be integers."""
    tables = dist.CategoricalProbs, dist.CategoricalLogits
    return distribution.is_discrete is True and _contains_any(distribution, tables)


def is_normalized(distribution: dist.Distribution) -> bool:
    """Whether `log_prob` is a log-density, constant included."""

    def is_masked(node: Any) -> bool:
        return isinstance(node, dist.MaskedDistribution) and node._mask is not True

    improper = dist.ImproperUniform, dist.Unit, dist.Delta
    is_free = _contains(distribution, is_masked) or _contains_any(distribution, improper)
    return not is_free and not lacks_constant(distribution)


def lacks_constant(distribution: dist.Distribution) -> bool:
    """Whether it is, or contains, an energy whose normaliser is not known."""
    return _contains(distribution, lambda x: getattr(x, "is_normalized", True) is False)


def is_relative(distribution: dist.Distribution) -> bool:
    """Whether it is, or contains, an energy whose normaliser lacks a constant."""
    return _contains(distribution, lambda x: getattr(x, "is_relative", False) is True)


def _contains_any(distribution: dist.Distribution, types: tuple[type, ...]) -> bool:
    return _contains(distribution, lambda node: isinstance(node, types))


def _contains(distribution: dist.Distribution, is_such: Callable[[Any], bool]) -> bool:
    return any(map(is_such, jax.tree.leaves(distribution, is_leaf=is_such)))


def has_sampler(distribution: dist.Distribution) -> bool:
    """Whether its draws are exact: those of an energy may be the ends of chains."""
    return all(site.has_exact_sampler for site in _energies_in(distribution))


def _energies_in(distribution: dist.Distribution) -> list[Any]:
    """The energies, as distributions, that a distribution contains."""

    def is_site(node: Any) -> bool:
        return hasattr(node, "log_z_error")

    leaves = jax.tree.leaves(distribution, is_leaf=is_site)
    return [node for node in leaves if is_site(node)]


@convert.register(dist.Distribution)
def _(obj: dist.Distribution, name: str, event_shape: Shape | None) -> AbstractEnergy:
    return from_distribution(obj)


@convert.register(Frozen)
def _(obj: Frozen, name: str, event_shape: Shape | None) -> AbstractEnergy:
    inner = as_energy(obj.tree, event_shape)
    return FunctionEnergy(freeze(inner), inner.event_shape)


@convert.register(Callable)
def _(obj: Callable[..., Any], name: str, event_shape: Shape | None) -> AbstractEnergy:
    return FunctionEnergy(obj, event_shape)
