"""`EnergyDistribution`: an energy as a NumPyro site."""

from collections.abc import Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from numpyro.distributions import constraints
from numpyro.distributions.batch_util import promote_batch_shape
from numpyro.distributions.util import validate_sample

from .._checks import as_floats, as_shape, check_count, check_key
from .._guard import Dependence, any_point, dependences, guard
from .._types import Array, ArrayLike, EnergyLike, Key, Point, PyTree, Scalar, Shape
from ..energies import (
    AbstractEnergy,
    LogZ,
    Normalized,
    as_energy,
    check_energy,
    discrete_levels,
    same_support,
)
from ..kernels import MALA, AbstractKernel, default_kernel
from ..sampling import SiteDraws
from ._batch import check_batch, map_batch, strip, vmap_times
from ._checks import (
    as_constraint,
    check_enumerated,
    check_on_support,
    check_weights,
    event_shape_of,
    support_of_site,
)
from ._draw import compiled_draw, draw, warn_of_bad_health
from ._enumeration import enumerated_axes
from ._packed import PackedDistribution


class EnergyDistribution(PackedDistribution):
    r"""$p(x) \propto e^{-E(x)}$ on a support, as a NumPyro distribution.

    ```python
    def model(y):
        x = numpyro.sample("x", ebm.EnergyDistribution(energy, (2,)))
        numpyro.sample("y", dist.Normal(x, 0.1).to_event(1), obs=y)
    ```

    `log_prob` is $-E(x)$, less $\log Z$ if the energy knows its `log_z`. Without it the density
    is right up to a constant, so a posterior of `x` is exact. Inferring parameters *of the
    energy* requires $\log Z$: without it, `log_prob` raises
    [`UnnormalizedError`][numpyro_ebm.UnnormalizedError] when differentiated with respect to
    them, and so do kernels of this library when they start. For a gradient-free kernel of
    another library, call [`check_normalization`][numpyro_ebm.sites.check_normalization].

    `sample` is exact if the energy has an exact sampler on this support. Otherwise each draw is
    the end of its own chain of `num_steps` transitions of `sampler`, half of which adapt: it is
    only as good as the mixing of that chain. Chains start uniformly in $[-2, 2]^d$ of
    unconstrained space, as NumPyro's do. The default, 1000 steps of MALA, shows no error in
    1000 draws of Gaussians up to 64 dimensions and condition number 100, a ring, a banana, and
    overlapping modes (`benchmarks/inner_sampler.py`). It fails on well-separated modes and on
    funnels. Outside `jax.jit`, `sample` warns if chains got stuck or diverged; `draw` returns
    their health.

    Spins, labels and units are sites, too: observed, latent and moved by the kernel of
    NumPyro's `HMCGibbs`, or a single label that NumPyro enumerates. Their chains start at
    uniform values and move by [`BlockGibbs`][numpyro_ebm.BlockGibbs] where the energy knows
    blocks, else by [`GibbsWithGradients`][numpyro_ebm.GibbsWithGradients].

    An energy that depends on an enumerated discrete site is a batch of energies, one per value.
    Weighting the values requires their $\log Z$:

    ```python
    z = numpyro.sample("z", dist.Bernoulli(0.3))
    make = lambda loc: ebm.Gaussian(loc, jnp.eye(2))
    for _ in jnp.shape(z):  # Empty where `z` is not enumerated.
        make = eqx.filter_vmap(make)
    site = ebm.EnergyDistribution(make(locs[z]), batch_shape=jnp.shape(z))
    x = numpyro.sample("x", site)
    ```

    **Arguments**

    - `energy`: what [`as_energy`][numpyro_ebm.as_energy] takes.
    - `event_shape`: the shape of one point, if the energy does not know it.
    - `support`: a NumPyro constraint on one point, or a list of them, one per coordinate; by
      default the energy's own, the only one of a discrete energy. The energy is a density on
      the support itself; samplers move in unconstrained space and add the Jacobian.
    - `batch_shape`: leading axes that *every* array of the energy has, as produced by
      `eqx.filter_vmap(make_energy)(parameters)`: one energy per batch element. By default none.
    - `sampler`: the kernel behind `sample`; with `None`, `sample` is not implemented. A
      discrete energy has its own default.
    - `num_steps`: the length of the chain behind one draw.
    - `constant_z`: opt out of the guard, because $Z$ does not depend on what is inferred, or
      because the model intends a factor $e^{-E}$ without $Z$.

    **Raises** `ValueError` if the energy is not scalar on one point of shape `event_shape`, if
    it is discrete with an unknown support, if its log Z is of another support, or if its arrays
    may depend on an enumerated site and no `batch_shape` is given;
    [`UnnormalizedError`][numpyro_ebm.UnnormalizedError] if it has one energy per value of an
    enumerated site with unknown normalisers.
    """

    arg_constraints: ClassVar[dict] = {}
    pytree_data_fields = ("_arrays",)
    pytree_aux_fields = ("_static", "sampler", "num_steps", "constant_z", "_is_own")

    def __init__(
        self,
        energy: EnergyLike,
        event_shape: Shape | None = None,
        *,
        support: constraints.Constraint | Sequence[constraints.Constraint] | None = None,
        batch_shape: Shape | None = None,
        sampler: AbstractKernel | None = MALA(),
        num_steps: int = 1000,
        constant_z: bool = False,
        validate_args: bool | None = None,
    ) -> None:
        is_stated = batch_shape is not None
        batch_shape = as_shape("batch_shape", () if batch_shape is None else batch_shape)
        check_count("num_steps", num_steps)
        energy = as_energy(energy, None if batch_shape else event_shape)
        one = check_batch(energy, batch_shape)
        shape = event_shape_of(as_energy(one, event_shape), event_shape)
        if (axes := enumerated_axes()) and (batch_shape or not is_stated):
            check_enumerated(one, shape, support, axes)
        check_energy(one, shape)
        constraint = support_of_site(energy, support, shape)
        # Whether the energy's `log_z` and exact draws are for this support.
        own = energy.support
        self._is_own = constraint.is_discrete or (
            own is not None and same_support(constraint, as_constraint(own, shape))
        )
        check_on_support(energy, constraint, self._is_own)
        # `scan` and `vmap` add their leading axes to these zeros, if to nothing else.
        self._pack((energy, constraint, np.zeros(batch_shape)), len(batch_shape))
        is_default = constraint.is_discrete and sampler == MALA()
        self.sampler = default_kernel(energy) if is_default else sampler
        self.num_steps = num_steps
        self.constant_z = constant_z
        super().__init__(batch_shape, shape, validate_args=validate_args)
        check_weights(self, axes)

    @property
    def energy(self) -> AbstractEnergy:
        """The energy of one point; with a batch shape, all of them in one pytree."""
        return self._unpack(self._arrays)[0]

    @property
    def is_normalized(self) -> bool:
        r"""Whether `log_prob` is a log-density: $\log Z$ is known for this support."""
        return self._relative() is False

    @property
    def is_relative(self) -> bool:
        r"""Whether $\log Z$ is known up to a constant that all parameters share."""
        return self._relative() is True

    def _relative(self) -> Any:
        arrays = strip(self._arrays, self.batch_shape)
        return getattr(eqx.filter_eval_shape(self._partition, arrays), "is_relative", None)

    def _partition(self, arrays: PyTree) -> LogZ | None:
        return None if self._log_z(arrays) is None else self._unpack(arrays)[0].partition

    @property
    def has_exact_sampler(self) -> bool:
        """Whether `sample` draws exactly, without chains."""
        return self._is_own and self.energy.sampler is not None

    @property
    def log_z_error(self) -> Scalar:
        r"""The standard error of $\log Z$ in `log_prob`, summed over a batch."""

        def error(arrays: PyTree) -> Any:
            return getattr(self._partition(arrays), "std_error", jnp.zeros(()))

        return vmap_times(error, len(self.batch_shape))(self._arrays).sum()

    @constraints.dependent_property  # pyright: ignore
    def support(self) -> Any:
        if not self.batch_shape:
            return self._unpack(self._arrays)[1]

        def pad(array: Array, ndim: int) -> Array:  # Bounds of a batch broadcast.
            lead = self.batch_shape + (1,) * (self.event_dim - ndim)
            return array.reshape(lead + array.shape[array.ndim - ndim :])

        pairs = zip(self._arrays, self._static[2], strict=True)
        return self._unpack([a if a is None else pad(a, n) for a, n in pairs])[1]

    @property
    def has_enumerate_support(self) -> bool:  # pyright: ignore
        """Whether NumPyro can sum over the values: of a site of single labels."""
        return self.event_shape == () and self._levels() is not None

    def enumerate_support(self, expand: bool = True) -> Array:
        levels = self._levels()
        if self.event_shape or levels is None:
            return super().enumerate_support(expand)
        values = jnp.asarray(levels).reshape(-1, *(1,) * len(self.batch_shape))
        return jnp.broadcast_to(values, (len(levels), *self.batch_shape)) if expand else values

    def _levels(self) -> tuple[float, ...] | None:
        return discrete_levels(self.energy)

    @property
    def has_rsample(self) -> bool:
        # NumPyro's default would differentiate through the chain behind `sample`.
        return False

    @property
    def mean(self) -> Array:
        return self._moment("mean")

    @property
    def variance(self) -> Array:
        return self._moment("variance")

    def log_prob(self, value: ArrayLike, intermediates: Any = None) -> Array:
        # First, because NumPyro's check takes no tables.
        return self._log_prob(as_floats(value))

    @validate_sample
    def _log_prob(self, value: Array) -> Array:
        split = max(value.ndim - self.event_dim, 0)
        if value.shape[split:] != self.event_shape:
            raise ValueError(
                f"`value` must end with the event shape {self.event_shape}, got shape "
                f"{value.shape}."
            )
        shape = jnp.broadcast_shapes(value.shape[:split], self.batch_shape)
        value = jnp.broadcast_to(value, shape + self.event_shape)
        return map_batch(self._log_density, self._arrays, self.batch_shape, value, shape)

    def sample(self, key: Key, sample_shape: Shape = ()) -> Array:
        draws = self.draw(key, sample_shape)
        if draws.num_steps and not isinstance(draws.values, Tracer):
            warn_of_bad_health(self, draws)
        return draws.values

    def draw(self, rng_key: Key, sample_shape: Shape | int = ()) -> SiteDraws:
        """The draws of `sample`, with the acceptance and the health of their chains.

        **Raises** `NotImplementedError` if there is neither an exact sampler nor a `sampler`.
        """
        check_key(rng_key)
        shape = (sample_shape,) if isinstance(sample_shape, int) else tuple(sample_shape)
        run = draw if isinstance(rng_key, Tracer) else compiled_draw
        return run(self, rng_key, shape)

    def dependences(self) -> list[Dependence]:
        """What the normalisers of this site must account for."""

        def needed(arrays: PyTree) -> list[Dependence]:
            return self._dependences(*self._unpack(arrays))

        return vmap_times(needed, len(self.batch_shape))(self._arrays)

    def _log_z(self, arrays: PyTree) -> Scalar | None:
        energy, _ = self._unpack(arrays)
        belongs = self._is_own or isinstance(energy, Normalized)
        return energy.log_z if belongs else None

    def _log_density(self, arrays: PyTree, x: Point) -> Scalar:
        energy, support = self._unpack(arrays)
        log_z = self._log_z(arrays)
        log_z = jnp.zeros(()) if log_z is None else log_z
        where = f"log_prob of EnergyDistribution({energy!r})"
        return -energy(x) - guard(log_z, self._dependences(energy, support), where)

    def _dependences(self, energy: AbstractEnergy, support: Any) -> list[Dependence]:
        if self.constant_z:
            return []
        point = any_point(self.event_shape)
        if self._is_own:
            return dependences(energy, point)
        inner, log_z = energy, None
        if isinstance(energy, Normalized):
            inner, log_z = energy.energy, energy.log_z
        bounds = [leaf for leaf in jax.tree.leaves(support) if eqx.is_inexact_array(leaf)]
        return [Dependence((inner(point), bounds), log_z)]

    def _moment(self, name: str) -> Array:
        def moment(arrays: PyTree) -> Array:
            energy = self._unpack(arrays)[0]
            known = getattr(energy, name) if self._is_own else None
            if known is None:
                raise NotImplementedError(f"{energy!r} does not know its {name}; draw from it.")
            return known

        return vmap_times(moment, len(self.batch_shape))(self._arrays)


promote_batch_shape.register(EnergyDistribution, EnergyDistribution.promoted)  # pyright: ignore
