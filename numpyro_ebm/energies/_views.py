"""One energy seen as another: with coordinates fixed, transformed, or conditioned."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import logsumexp
from numpyro.distributions.constraints import Constraint
from numpyro.distributions.transforms import Transform

from .._checks import as_numbers
from .._trainable import Frozen, freeze, unfreeze
from .._types import Array, Float, Int, Key, Point, Sampler, Scalar, Shape
from ._base import (
    AbstractEnergy,
    as_energy,
    discrete_levels,
    is_discrete,
    name_of,
    proper_part,
    show_term,
)
from ._log_z import LogZ
from ._supports import (
    bijection,
    box_of,
    codomain_of,
    domain_of,
    elementwise,
    is_injective,
    is_real,
    is_within,
    keeps_volume,
    preimage,
    restricted,
    same_support,
)


class Clamped(AbstractEnergy):
    r"""$E(x_\text{free}, x_\text{clamped})$ of the free coordinates; see `clamp`.

    Its point is the vector of the free coordinates, in the order they have in `x`.
    """

    energy: AbstractEnergy
    values: Frozen | Float[Array, "*event"]
    free_index: Int[Array, " n"]

    @property
    def event_shape(self) -> Shape:
        return self.free_index.shape

    @property
    def support(self) -> Constraint | None:
        shape = unfreeze(self.values).shape
        return restricted(self.energy.support, self.free_index, shape)

    def complete(self, free: Float[Array, " n"]) -> Float[Array, "*event"]:
        """The full point, with `free` in its place."""
        values = unfreeze(self.values)
        return values.ravel().at[self.free_index].set(free).reshape(values.shape)

    def free(self, x: Float[Array, "*event"]) -> Float[Array, " n"]:
        """The free coordinates of a full point."""
        return jnp.ravel(x)[self.free_index]

    def __call__(self, x: Float[Array, " n"]) -> Scalar:
        return self.energy(self.complete(x))

    def _formula(self) -> str:
        total = math.prod(unfreeze(self.values).shape)
        return f"{show_term(repr(self.energy))}[{self.event_shape[0]} of {total} free]"


def clamp(energy: Any, mask: Any, values: Any) -> Clamped:
    r"""The energy of the free coordinates, given the clamped ones.

    ```python
    rest = ebm.clamp(energy, mask=~jnp.isnan(x), values=x)   # fill in what is missing
    ```

    **Arguments**

    - `energy`: what [`as_energy`][numpyro_ebm.as_energy] takes.
    - `mask`: `True` where a coordinate is clamped; of the shape of one point, not traced.
    - `values`: what the clamped coordinates are; ignored, NaN or not, where they are free.

    **Raises** `ValueError` for shapes that don't fit, NaN where clamped, or nothing free, and
    for a support that ties coordinates to each other, such as the simplex.
    """
    energy = as_energy(energy)
    if isinstance(mask, Tracer):
        raise TypeError(
            "`mask` must not be traced, it decides a shape; `values` may be. Close over the "
            "mask, or pass it to `jax.jit` as a static argument."
        )
    mask = np.asarray(mask)
    if mask.dtype != bool:
        raise TypeError(f"`mask` must be boolean, got dtype {mask.dtype}.")
    if energy.event_shape not in (None, mask.shape):
        raise ValueError(
            f"`mask` must have the shape of one point, {energy.event_shape}, got {mask.shape}."
        )
    if mask.all():
        raise ValueError("`mask` clamps every coordinate: there is no energy left.")
    values = as_numbers("values", values)
    if values.shape not in ((), mask.shape):
        raise ValueError(
            f"`values` must have the shape of one point, {mask.shape}, got {values.shape}."
        )
    values = jnp.broadcast_to(values, mask.shape)
    values = jnp.where(mask, values, 0)
    if not isinstance(values, Tracer) and not np.isfinite(values).all():
        raise ValueError("`values` must be finite where `mask` clamps them.")
    clamped = Clamped(energy, freeze(values), jnp.asarray(np.flatnonzero(~mask)))
    if clamped.support is None:
        raise ValueError(
            f"The support of this energy, {energy.support}, ties coordinates to each other: "
            "what it leaves to the free ones is not known. Clamp an energy of unconstrained "
            "points, `ebm.Transformed(energy, biject_to(support))`."
        )
    return clamped


class Transformed(AbstractEnergy):
    r"""$E(T(x)) - \log\lvert T'(x)\rvert$, the pull-back of $E$ through a transform $T$.

    If $E$ is the energy of $y = T(x)$, this is the energy of $x$. With `biject_to(support)` it
    is an energy over unconstrained points; with [`Standardize`][numpyro_ebm.Standardize],
    preprocessing becomes part of the energy. Its support is what $T$ takes into the support of
    $E$. It has the same $\log Z$, exact draws and the reference, pushed forward, if $T$ reaches
    all of that support; else it is $E$ cut down to what $T$ reaches, and knows none of them.

    **Arguments**

    - `energy`: what [`as_energy`][numpyro_ebm.as_energy] takes, on points $T(x)$.
    - `transform`: a NumPyro transform. It doesn't train.

    **Raises** `ValueError` if it is not known whether $T$ reaches all of the support.
    """

    energy: AbstractEnergy
    transform: Frozen | Transform
    #: Whether the transform is a bijection onto the whole support of the energy.
    is_onto: bool = eqx.field(static=True)

    def __init__(self, energy: Any, transform: Any, *, is_onto: bool | None = None) -> None:
        self.energy = as_energy(energy)
        self.transform = freeze(transform)
        transform = unfreeze(transform)
        if not isinstance(transform, Transform):
            raise TypeError(
                f"`transform` must be a NumPyro transform, got {type(transform).__name__}. "
                "`numpyro.distributions.biject_to(constraint)` makes one."
            )
        if is_discrete(self.energy):
            raise ValueError(
                f"{self.energy!r} is discrete: a transform has no Jacobian there. Transform "
                "the data instead."
            )
        self.is_onto = _is_onto(self.energy, transform) if is_onto is None else is_onto

    @property
    def event_shape(self) -> Shape | None:
        shape = self.energy.event_shape
        return None if shape is None else unfreeze(self.transform).inverse_shape(shape)

    @property
    def support(self) -> Constraint | None:
        transform, base = unfreeze(self.transform), self.energy.support
        is_whole = not self.is_onto or is_within(codomain_of(transform), base)
        return domain_of(transform) if is_whole else preimage(base, transform)

    @property
    def log_z(self) -> Scalar | None:
        return self.energy.log_z if self.is_onto else None

    @property
    def partition(self) -> LogZ | None:
        return self.energy.partition if self.is_onto else None

    @property
    def sampler(self) -> Sampler | None:
        return self._draw if self.is_onto and self.energy.sampler is not None else None

    @property
    def reference(self) -> Any:
        reference = proper_part(self.energy)
        if reference is None or not self.is_onto:
            return None
        # Of a wider support, the transform would reach a part alone.
        supports = elementwise(reference.support), elementwise(self.energy.support)
        if not same_support(*supports):
            return None
        return Transformed(reference, self.transform, is_onto=True)

    def __call__(self, x: Point) -> Scalar:
        transform = unfreeze(self.transform)
        y = transform(x)
        return self.energy(y) - jnp.sum(transform.log_abs_det_jacobian(x, y))

    def _draw(self, rng_key: Key, sample_shape: Shape = ()) -> Array:
        draws = self.energy.sample(rng_key, sample_shape)
        return jnp.asarray(unfreeze(self.transform).inv(draws))

    def _formula(self) -> str:
        name = name_of(unfreeze(self.transform))
        return f"{show_term(repr(self.energy))}({name}(x)) - log|{name}'(x)|"


def _is_onto(energy: AbstractEnergy, transform: Transform) -> bool:
    """Whether a transform is one-to-one onto the support of `energy` or more."""
    support, codomain = energy.support, codomain_of(transform)
    if is_within(support, codomain):
        if not is_within(codomain, support):
            _check_dimension(energy, transform)
        return is_injective(transform)
    if support is None or is_within(codomain, support):
        return False
    raise ValueError(
        f"`transform` maps onto {codomain}, and the energy lives on {support}: whether it "
        "reaches all of it, or how much, is not known, at least while bounds are traced. Make "
        "one of both that lies in the other, such as `biject_to(energy.support)`."
    )


def _check_dimension(energy: AbstractEnergy, transform: Transform) -> None:
    """Raise where the Jacobian of all coordinates is not that of the points of a support."""
    if box_of(energy.support) is not None or keeps_volume(transform):
        return
    shape = energy.event_shape
    free = None if shape is None else bijection(energy.support).inverse_shape(shape)
    if shape is None or free is None or math.prod(free) < math.prod(shape):
        raise ValueError(
            f"`transform`, {type(transform).__name__}, maps more coordinates than the points "
            f"of {energy.support} have dimensions: what it does to their density is not known. "
            "Transform unconstrained points, `ebm.Transformed(energy, biject_to(support))`."
        )


def unconstrained(energy: AbstractEnergy) -> tuple[AbstractEnergy, Transform | None]:
    """`energy` in the space in which chains move, and the map from there, if it is another."""
    if is_discrete(energy) or is_real(energy.support):
        return energy, None
    transform = bijection(energy.support)
    return Transformed(energy, transform, is_onto=True), transform


def unconstrained_from(
    reference: AbstractEnergy, energy: AbstractEnergy
) -> tuple[AbstractEnergy, AbstractEnergy, Transform | None]:
    r"""A reference and `energy` in the space in which chains move, with the same $Z$.

    **Raises** `ValueError` if they do not live in the same space.
    """
    if discrete_levels(reference) != discrete_levels(energy):
        raise ValueError(
            f"The coordinates of the reference take {_space(reference)}, those of the energy "
            f"{_space(energy)}: give a reference of the same kind."
        )
    free, transform = unconstrained(energy)
    if transform is None and (is_discrete(energy) or is_real(reference.support)):
        return reference, free, None
    # Events are of one shape, however each support counts its dimensions.
    if not same_support(elementwise(energy.support), elementwise(reference.support)):
        raise ValueError(
            f"The reference has the support {reference.support}, the energy "
            f"{energy.support}: give a reference of the same support. "
            "`ebm.EnergyDistribution(energy, event_shape, support=...)` tells the energy's."
        )
    return Transformed(reference, transform, is_onto=True), free, transform


def check_points(energy: AbstractEnergy, points: Any, name: str) -> None:
    """Raise unless points, stacked along the first axis, lie where `energy` lives."""
    support: Any = energy.support
    if isinstance(points, Tracer) or support is None:
        return
    flat = jnp.asarray(points).reshape(len(points), -1)
    levels = discrete_levels(energy)
    if levels is not None:
        inside, expected = jnp.isin(flat, jnp.asarray(levels)), _space(energy)
    elif is_discrete(energy) and is_real(support):
        inside, expected = flat == jnp.round(flat), _space(energy)
    elif is_real(support):
        return
    else:
        inside = jax.vmap(lambda x: jnp.all(support(x)))(points).reshape(len(points), -1)
        expected = f"points of the support {support}"
    bad = np.flatnonzero(~np.asarray(inside.all(1)))
    if len(bad):
        raise ValueError(
            f"`{name}` must hold {expected}, where the energy lives; {len(bad)} of "
            f"{len(points)} points do not, the first at index {bad[0]}."
        )


def _space(energy: AbstractEnergy) -> str:
    levels = discrete_levels(energy)
    if levels is None:
        return "integers" if is_discrete(energy) else "real values"
    return f"the values {levels[0]:g} and {levels[1]:g}"


class ConditionalEnergy(eqx.Module):
    r"""$E(y; x)$, where $p(y \mid x) \propto e^{-E(y; x)}$: for each $x$ an energy of $y$.

    ```python
    class Regression(eqx.Module):
        network: eqx.nn.MLP

        def __call__(self, y, x):
            return self.network(jnp.append(x, y))


    conditional = ebm.ConditionalEnergy(Regression(network), event_shape=())
    energy = conditional.given(x)
    ```

    **Arguments**

    - `fn`: a callable `fn(y, x)` from one point `y` and its condition `x` to a scalar.
    - `event_shape`: the shape of one `y`.
    """

    fn: Any
    event_shape: Shape | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        if not callable(self.fn):
            raise TypeError(
                f"`fn` must be a callable `fn(y, x)`, got {type(self.fn).__name__}."
            )

    def __call__(self, y: Point, x: Any) -> Scalar:
        return unfreeze(self.fn)(y, x)

    def given(self, x: Any) -> "Given":
        """The energy of `y` at one `x`, an array or a pytree of arrays."""
        return Given(self, freeze(x))

    def __repr__(self) -> str:
        return f"{name_of(unfreeze(self.fn))}(y; x)"


def is_conditional(energy: Any) -> bool:
    """Whether it is an energy only at a condition."""
    return isinstance(energy, ConditionalEnergy)


class Given(AbstractEnergy):
    r"""$y \mapsto E(y; x)$ at a fixed $x$, made by `ConditionalEnergy.given`."""

    conditional: ConditionalEnergy
    condition: Frozen | Any

    @property
    def event_shape(self) -> Shape | None:
        return self.conditional.event_shape

    def __call__(self, x: Point) -> Scalar:
        return self.conditional(x, unfreeze(self.condition))

    def _formula(self) -> str:
        return repr(self.conditional)


class LatentEnergy(AbstractEnergy):
    r"""$E(x, z)$ of a point and what isn't seen of it.

    Its point is `{"x": x, "z": z}`, so that a kernel samples both together:
    `MCMC(ebm.MALA(potential_fn=energy), ...)` with such a dict as `init_params`.

    **Arguments**

    - `fn`: a callable `fn(x, z)` to a scalar.
    - `x_shape`: the shape of one `x`.
    - `is_mixed`: whether `z` is discrete, so that no gradient moves it.
    """

    fn: Any
    x_shape: Shape | None = eqx.field(static=True, default=None)
    is_mixed: bool = eqx.field(static=True, default=False, kw_only=True)

    @property
    def levels(self) -> tuple[float, ...] | None:
        return () if self.is_mixed else None

    @property
    def event_shape(self) -> None:
        """None: a dict has no one shape."""

    def __call__(self, x: Point) -> Scalar:
        return unfreeze(self.fn)(x["x"], x["z"])

    def marginal(self, values: Any, log_weights: Any = 0.0) -> "Marginal":
        r"""$-\log\sum_k w_k\,e^{-E(x, z_k)}$, the energy of `x` alone.

        Exact if `values` are all the values that a discrete `z` takes. With the nodes and
        weights of a quadrature rule, it is as good as the rule.

        **Arguments**

        - `values`: $z_k$, along the first axis.
        - `log_weights`: $\log w_k$, or one number for all.
        """
        values = jnp.asarray(values)
        log_weights = jnp.asarray(log_weights, jnp.result_type(float))
        if values.ndim == 0 or not values.size:
            raise ValueError(
                "`values` must hold one value of z or more along its first axis, got shape "
                f"{values.shape}."
            )
        if log_weights.shape not in ((), values.shape[:1]):
            raise ValueError(
                f"`log_weights` must hold one number for each of the {len(values)} values, got "
                f"shape {log_weights.shape}."
            )
        return Marginal(self, freeze((values, log_weights)))

    def _formula(self) -> str:
        return f"{name_of(unfreeze(self.fn))}(x, z)"


class Marginal(AbstractEnergy):
    r"""$-\log\sum_k w_k\,e^{-E(x, z_k)}$, made by `LatentEnergy.marginal`."""

    joint: LatentEnergy
    nodes: Frozen | tuple[Array, Array]

    @property
    def event_shape(self) -> Shape | None:
        return self.joint.x_shape

    def __call__(self, x: Point) -> Scalar:
        values, log_weights = unfreeze(self.nodes)
        energies = eqx.filter_vmap(lambda z: self.joint({"x": x, "z": z}))(values)
        return -logsumexp(log_weights - energies)

    def _formula(self) -> str:
        return f"-log sum_z exp(-{self.joint!r})"
