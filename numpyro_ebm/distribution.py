"""`EnergyDistribution`: an energy as a NumPyro site."""

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.core import Tracer
from numpyro.distributions import Distribution, constraints
from numpyro.distributions.batch_util import promote_batch_shape
from numpyro.distributions.util import validate_sample

from ._checks import as_floats, as_shape, check_count, user_level
from ._enumeration import (
    Enumerated,
    enumerated_axes,
    enumerated_constants,
    enumerated_names,
    enumerated_shapes,
    plate_shape,
)
from ._integrable import check_integrable
from ._normalization import (
    Normalization,
    any_point,
    guard,
    list_names,
    normalizations,
    unnormalized,
)
from ._types import Array, Key, Point, PyTree, Scalar, Shape
from .energies import (
    AbstractEnergy,
    Normalized,
    Transformed,
    as_energy,
    bijection,
    check_energy,
    is_discrete,
    same_support,
)
from .kernels import MALA, AbstractKernel, run_short_chain
from .sampling import Draws


class EnergyDistribution(Distribution):
    r"""$p(x) \propto e^{-E(x)}$ on a support, as a NumPyro distribution.

    ```python
    def model(y):
        x = numpyro.sample("x", ebm.EnergyDistribution(energy, (2,)))
        numpyro.sample("y", dist.Normal(x, 0.1).to_event(1), obs=y)
    ```

    `log_prob` is $-E(x)$, less $\log Z$ if the energy knows its `log_z`. While $Z$ is unknown
    the density is right up to a constant, so a posterior of `x` is exact. It would be wrong as
    soon as parameters *of the energy* are inferred, because their $Z$ differs: then `log_prob`
    raises [`UnnormalizedError`][numpyro_ebm.UnnormalizedError] when it is differentiated with
    respect to them, and kernels of this library when they start. A gradient-free kernel of
    another library is not seen: call [`check_normalization`][numpyro_ebm.check_normalization].

    `sample` is exact where the energy has an exact sampler on this support. Otherwise each draw
    is the end of its own chain of `num_steps` transitions of `sampler`, the first half of which
    adapt: approximate, as good as that chain has mixed. It starts from a uniform point in
    $[-2, 2]^d$ of the unconstrained space, as NumPyro's chains do. The default, 1000 steps of
    MALA, left no error to be seen in 1000 draws of Gaussians to 64 dimensions and to condition
    number 100, of a ring, a banana, and modes that overlap, where 100 transitions of NUTS took
    3 to 45 times as long (`benchmarks/inner_sampler.py`). It gets neither the proportions of
    modes far apart right, nor a funnel. Outside of `jax.jit`, `sample` warns of chains that
    got stuck or ran away; `draw` returns their health.

    An energy that depends on a discrete site which NumPyro enumerates is a batch of energies,
    one per value, and needs its $\log Z$ for the values to be weighed:

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
    - `event_shape`: the shape of one point, if the energy doesn't know it.
    - `support`: a NumPyro constraint on one point, or a list of them, one a coordinate; by
      default the energy's own, which is that of the NumPyro distribution in it, if there is
      one. The energy is a density on the support itself; samplers move in unconstrained space
      and add the Jacobian.
    - `batch_shape`: leading axes that *every* array of the energy has, as
      `eqx.filter_vmap(make_energy)(parameters)` makes them: one energy per batch element. By
      default none.
    - `sampler`: the kernel behind `sample`; with `None`, `sample` is not implemented.
    - `num_steps`: the length of the chain behind one draw.
    - `constant_z`: opt out of the guard. Say so where $Z$ does not depend on what is inferred,
      or where a factor $e^{-E}$ without $Z$ is what the model means.

    **Raises** `ValueError` if the energy cannot be evaluated on one point of shape
    `event_shape`, is not a scalar there, or is one of discrete points; also if its arrays may
    depend on an enumerated site and no `batch_shape` is stated. Raises
    [`UnnormalizedError`][numpyro_ebm.UnnormalizedError] if it has one energy per value of an
    enumerated site, and their normalisers are unknown.
    """

    arg_constraints: ClassVar[dict] = {}
    pytree_data_fields = ("_arrays",)
    pytree_aux_fields = ("_static", "sampler", "num_steps", "constant_z", "_is_own")

    def __init__(
        self,
        energy: Any,
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
        one = _check_batch(energy, batch_shape)
        shape = _event_shape(as_energy(one, event_shape), event_shape)
        axes = enumerated_axes()
        if axes and (batch_shape or not is_stated):
            _check_enumerated(one, shape, support, axes)
        check_energy(one, shape)
        own = energy.support
        constraint = _as_constraint(own if support is None else support, shape)
        _check_continuous(energy, constraint)
        # Whether the energy's `log_z` and exact draws belong to this support.
        self._is_own = own is not None and same_support(constraint, _as_constraint(own, shape))
        # The zeros get the axes that `scan` and `vmap` put in front, if nothing else does.
        self._pack((energy, constraint, np.zeros(batch_shape)), len(batch_shape))
        self.sampler = sampler
        self.num_steps = num_steps
        self.constant_z = constant_z
        super().__init__(batch_shape, shape, validate_args=validate_args)
        self._check_weights(axes)

    @property
    def energy(self) -> AbstractEnergy:
        """The energy of one point; with a batch shape, all of them in one pytree."""
        return self._unpack(self._arrays)[0]

    @property
    def is_normalized(self) -> bool:
        r"""Whether `log_prob` is a log-density: $\log Z$ is known for this support."""
        return eqx.filter_eval_shape(self._log_z, self._one()) is not None

    @property
    def has_exact_sampler(self) -> bool:
        """Whether `sample` draws exactly, and not by chains."""
        return self._is_own and self.energy.sampler is not None

    @property
    def log_z_error(self) -> Scalar:
        r"""The standard error of $\log Z$ in `log_prob`, summed over a batch."""

        def error(arrays: PyTree) -> Scalar:
            known = None if self._log_z(arrays) is None else self._unpack(arrays)[0].partition
            return jnp.zeros(()) if known is None else known.std_error

        return _vmap(error, len(self.batch_shape))(self._arrays).sum()

    @constraints.dependent_property(is_discrete=False)  # pyright: ignore
    def support(self) -> Any:
        if not self.batch_shape:
            return self._unpack(self._arrays)[1]

        # Bounds of a batch broadcast against `(*batch_shape, *event_shape)`.
        def pad(array: Array, ndim: int) -> Array:
            own = array.shape[array.ndim - ndim :]
            return array.reshape(self.batch_shape + (1,) * (self.event_dim - ndim) + own)

        pairs = zip(self._arrays, self._static[2], strict=True)
        return self._unpack([a if a is None else pad(a, ndim) for a, ndim in pairs])[1]

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

    @validate_sample
    def log_prob(self, value: Array, intermediates: Any = None) -> Array:
        value = as_floats(value)
        split = max(value.ndim - self.event_dim, 0)
        if value.shape[split:] != self.event_shape:
            raise ValueError(
                f"`value` must end with the event shape {self.event_shape}, got shape "
                f"{value.shape}."
            )
        shape = jnp.broadcast_shapes(value.shape[:split], self.batch_shape)
        value = jnp.broadcast_to(value, shape + self.event_shape)
        return _map_batch(self._log_density, self._arrays, self.batch_shape, value, shape)

    def sample(self, key: Key, sample_shape: Shape = ()) -> Array:
        draws = self.draw(key, sample_shape)
        if draws.num_steps and not isinstance(draws.values, Tracer):
            self._warn_of_bad_health(draws)
        return draws.values

    def draw(self, rng_key: Key, sample_shape: Shape | int = ()) -> Draws:
        """What `sample` draws, with the acceptance and the health of the chains behind it.

        **Raises** `NotImplementedError` if there is neither an exact sampler nor a `sampler`.
        """
        shape = (sample_shape,) if isinstance(sample_shape, int) else tuple(sample_shape)
        draw = _draw if isinstance(rng_key, Tracer) else _compiled_draw
        return draw(self, rng_key, shape)

    def normalizations(self) -> list[Normalization]:
        """What the constants of this site have to account for."""

        def needed(arrays: PyTree) -> list[Normalization]:
            return self._normalizations(*self._unpack(arrays))

        return _vmap(needed, len(self.batch_shape))(self._arrays)

    def _check_weights(self, axes: list[Enumerated]) -> None:
        # No gradient passes by the guard: the values of a discrete site are summed over.
        names = enumerated_names(self.batch_shape, axes)
        if names:
            needed = eqx.filter_eval_shape(self.normalizations)
            if any(each.log_z is None for each in needed):
                raise unnormalized(f"an energy per value of {list_names(names)}")

    def promoted(self) -> Self:
        """With the batch shape that a `scan` or `vmap` has put in front of all arrays."""
        new = copy.copy(self)
        *_, zeros = self._arrays
        new._batch_shape = jnp.shape(zeros)  # pyright: ignore[reportArgumentType]
        return new

    def __copy__(self) -> Self:
        new = object.__new__(type(self))
        vars(new).update(vars(self))
        return new

    def __getstate__(self) -> dict[str, Any]:
        # Equinox's modules can be pickled, the structure that JAX makes of them cannot.
        energy, support = self._unpack(self._arrays)
        tree = (energy, support, self._arrays[-1])
        return {**vars(self), "_arrays": tree, "_static": len(self.batch_shape)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._pack(state["_arrays"], state["_static"])

    def _pack(self, tree: PyTree, batch_ndim: int) -> None:
        leaves, treedef = jax.tree.flatten(tree)
        # What isn't an array (an activation, say) goes where NumPyro hashes and compares it.
        self._arrays = [leaf if _is_data(leaf) else None for leaf in leaves]
        static = tuple(None if _is_data(leaf) else leaf for leaf in leaves)
        ndims = tuple(jnp.ndim(x) - batch_ndim if _is_data(x) else 0 for x in leaves)
        self._static = (static, treedef, ndims)

    def _unpack(self, arrays: PyTree) -> tuple[AbstractEnergy, Any]:
        static, treedef, _ = self._static
        pairs = zip(arrays, static, strict=True)
        return treedef.unflatten([s if a is None else a for a, s in pairs])[:2]

    def _one(self) -> PyTree:
        """The shapes of the arrays of one batch element."""
        return _strip(self._arrays, self.batch_shape)

    def _log_z(self, arrays: PyTree) -> Scalar | None:
        energy, _ = self._unpack(arrays)
        belongs = self._is_own or isinstance(energy, Normalized)
        return energy.log_z if belongs else None

    def _log_density(self, arrays: PyTree, x: Point) -> Scalar:
        energy, support = self._unpack(arrays)
        log_z = self._log_z(arrays)
        log_z = jnp.zeros(()) if log_z is None else log_z
        where = f"log_prob of EnergyDistribution({energy!r})"
        return -energy(x) - guard(log_z, self._normalizations(energy, support), where)

    def _normalizations(self, energy: AbstractEnergy, support: Any) -> list[Normalization]:
        if self.constant_z:
            return []
        point = any_point(self.event_shape)
        if self._is_own:
            return normalizations(energy, point)
        inner, log_z = energy, None
        if isinstance(energy, Normalized):
            inner, log_z = energy.energy, energy.log_z
        bounds = [leaf for leaf in jax.tree.leaves(support) if eqx.is_inexact_array(leaf)]
        return [Normalization((inner(point), bounds), log_z)]

    def _draw_one(self, arrays: PyTree, rng_key: Key, sample_shape: Shape) -> Draws:
        energy, support = self._unpack(arrays)
        if energy.sampler is not None and self._is_own:
            return Draws(energy.sampler(rng_key, sample_shape), jnp.ones(sample_shape), 0)
        if self.sampler is None:
            raise NotImplementedError(
                "`EnergyDistribution(..., sampler=None)` cannot be sampled; pass a kernel, "
                "such as `sampler=ebm.NUTS()`."
            )
        size = math.prod(sample_shape)
        transform = bijection(support)
        start_key, chain_key = jr.split(rng_key)
        shape = transform.inverse_shape(self.event_shape)
        start = jr.uniform(
            start_key, (size, *shape), jnp.result_type(float), minval=-2, maxval=2
        )
        potential = Transformed(energy, transform, is_onto=True)
        end = run_short_chain(
            jr.split(chain_key, size), self.sampler, potential, start, self.num_steps
        )
        values = jax.vmap(transform)(end.z).reshape(sample_shape + self.event_shape)
        return Draws(
            values,
            end.mean_accept_prob.reshape(sample_shape),
            self.num_steps,
            is_exact=self.sampler.move.is_exact,
        )

    def _moment(self, name: str) -> Array:
        def moment(arrays: PyTree) -> Array:
            energy = self._unpack(arrays)[0]
            known = getattr(energy, name) if self._is_own else None
            if known is None:
                raise NotImplementedError(f"{energy!r} does not know its {name}; draw from it.")
            return known

        return _vmap(moment, len(self.batch_shape))(self._arrays)

    def _warn_of_bad_health(self, draws: Draws) -> None:
        transform = bijection(self.support)
        far = np.abs(np.asarray(transform.inv(draws.values)))
        # From a start in [-2, 2]^d, this far out is worth the second that a look takes.
        if draws.ok and np.all(far < 30):
            return
        problem = f"{draws}." if not draws.ok else ""
        if not np.all(far < 30):
            seen = self._look_far(
                far, draws.values.ndim - len(self.batch_shape + self.event_shape)
            )
            if draws.ok and seen.ok is not False:
                return
            problem += (
                f" The chains ran away; `ebm.check_integrable` calls the energy {seen}. Tilt a "
                "proper density, `ebm.Tilted(energy, reference)`, or subtract less."
            )
        warnings.warn(
            f"`sample` of an EnergyDistribution: {problem.strip()}", stacklevel=user_level()
        )

    def _look_far(self, far: np.ndarray, num_sample_dims: int) -> Any:
        """What `check_integrable` says of the energy whose chain got farthest."""
        index = np.unravel_index(np.argmax(np.where(np.isnan(far), np.inf, far)), far.shape)
        which = index[num_sample_dims : num_sample_dims + len(self.batch_shape)]
        energy, support = self._unpack(jax.tree.map(lambda a: a[which], self._arrays))
        transform = bijection(support)
        radius = 100 * np.max(far, initial=1e3, where=np.isfinite(far))
        shape = transform.inverse_shape(self.event_shape)
        free = Transformed(energy, transform, is_onto=True)
        return check_integrable(free, shape, radius=float(radius))


def _draw(site: EnergyDistribution, rng_key: Key, sample_shape: Shape) -> Draws:
    def draw(arrays: PyTree, rng_key: Key) -> Draws:
        return site._draw_one(arrays, rng_key, sample_shape)

    batch = site.batch_shape
    keys = jr.split(rng_key, batch) if batch else rng_key
    return _vmap(draw, len(batch), out_axes=len(sample_shape))(site._arrays, keys)


# Without this cache every call would compile its chains anew.
_compiled_draw = jax.jit(_draw, static_argnums=2)

promote_batch_shape.register(EnergyDistribution, EnergyDistribution.promoted)  # pyright: ignore


def _vmap(fn: Callable[..., Any], times: int, out_axes: int = 0) -> Callable[..., Any]:
    for _ in range(times):
        fn = jax.vmap(fn, out_axes=out_axes)
    return fn


def _map_batch(
    fn: Callable[[PyTree, Point], Scalar],
    arrays: PyTree,
    batch_shape: Shape,
    points: Array,
    shape: Shape,
) -> Array:
    """`fn(arrays, x)` over `points` of leading `shape`, to which `batch_shape` broadcasts."""
    depth = len(shape) - len(batch_shape)
    ones = tuple(i for i, n in enumerate(batch_shape) if n != shape[depth + i])
    arrays = jax.tree.map(lambda a: jnp.squeeze(a, ones), arrays)
    for i in reversed(range(len(batch_shape))):
        fn = jax.vmap(fn, (None if i in ones else 0, 0))
    for _ in range(depth):
        fn = jax.vmap(fn, (None, 0))
    return fn(arrays, points)


def _check_enumerated(
    energy: AbstractEnergy, shape: Shape, support: Any, axes: list[Enumerated]
) -> None:
    """Raise unless the arrays of one energy are the same for all values of enumerated sites."""
    shapes, rest = eqx.partition(energy, lambda x: isinstance(x, jax.ShapeDtypeStruct))
    plates = plate_shape()
    found = enumerated_shapes((rest, support), plates, axes)
    found += enumerated_constants(
        lambda s, x: eqx.combine(s, rest)(x), (shapes, any_point(shape)), plates, axes
    )
    if found:
        raise ValueError(
            f"The energy has an array of shape {found[0]}, whose leading axes may be those of "
            f"an enumerated site ({list_names({axis.name for axis in axes})}). If it depends "
            "on one, make an energy per value: `make = eqx.filter_vmap(make)` for each axis of "
            "`z`, then `EnergyDistribution(make(loc[z]), batch_shape=jnp.shape(z))`; or give "
            "the site a NumPyro prior, and add `ebm.factor(name, lambda x, loc: ..., x, "
            "loc[z])`. If it does not, say so: `batch_shape=()`."
        )


def _check_batch(energy: AbstractEnergy, batch_shape: Shape) -> AbstractEnergy:
    """One of a batch of energies, its arrays only by shape."""
    if not batch_shape:
        return energy
    for path, leaf in jax.tree_util.tree_leaves_with_path(energy):
        if _is_data(leaf) and leaf.shape[: len(batch_shape)] != batch_shape:
            raise ValueError(
                f"`batch_shape` is {batch_shape}, but `{jax.tree_util.keystr(path)}` of the "
                f"energy has shape {leaf.shape}: every array must begin with it. Make all of "
                "the energy under `eqx.filter_vmap`."
            )
    return _strip(energy, batch_shape)


def _strip(tree: PyTree, batch_shape: Shape) -> PyTree:
    def one(leaf: Any) -> Any:
        if not _is_data(leaf):
            return leaf
        return jax.ShapeDtypeStruct(leaf.shape[len(batch_shape) :], jnp.result_type(leaf))

    return jax.tree.map(one, tree)


def _event_shape(energy: AbstractEnergy, event_shape: Shape | None) -> Shape:
    shape = energy.event_shape if event_shape is None else tuple(event_shape)
    if shape is None:
        raise ValueError(
            "`event_shape`, the shape of one point, is needed because this energy doesn't know "
            "it: `EnergyDistribution(energy, (2,))`."
        )
    return shape


def _as_constraint(support: Any, event_shape: Shape) -> Any:
    """`support` as a constraint on one whole point."""
    if support is None:
        raise ValueError(
            "The experts in this energy live on different supports; say on which it does, "
            "`support=...`."
        )
    if not isinstance(support, constraints.Constraint):
        support = list(support)
        if not event_shape or len(support) != event_shape[-1]:
            raise ValueError(
                f"`support` lists {len(support)} constraints, one a coordinate, but one point "
                f"has shape {event_shape}."
            )
        support = constraints.cat(support, dim=-1)
    if support.event_dim > len(event_shape):
        raise ValueError(f"`support` {support} does not fit points of shape {event_shape}.")
    return constraints.independent(support, len(event_shape) - support.event_dim)


def _check_continuous(energy: AbstractEnergy, support: Any) -> None:
    if is_discrete(energy) or support.is_discrete:
        raise ValueError(
            f"{energy!r} on {support} is discrete, and no gradient moves its points. For "
            "observed spins, add `ebm.factor(name, energy, spins)` to the model. For latent "
            "ones, add it beside a uniform NumPyro prior, such as `dist.Bernoulli(0.5)`, and "
            "sample by NumPyro's `DiscreteHMCGibbs`. For draws, call `energy.sample(rng_key)`."
        )


def _is_data(leaf: Any) -> bool:
    # Tracers and NumPy arrays included, and the placeholders JAX's transformations put here.
    return eqx.is_array_like(leaf) and not isinstance(leaf, bool | int | float | complex)
