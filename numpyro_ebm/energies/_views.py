"""One energy seen as another: with coordinates fixed, transformed, or conditioned."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import logsumexp
from numpyro.distributions import biject_to
from numpyro.distributions.transforms import Transform

from .._trainable import Frozen, freeze, unfreeze
from .._types import Array, Float, Int, Key, Point, Scalar, Shape
from ._base import AbstractEnergy, as_energy, name_of, show_term
from ._normalized import exact_sampler, log_z_of


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

    **Raises** `ValueError` for shapes that don't fit, NaN where clamped, or nothing free.
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
    values = jnp.broadcast_to(jnp.asarray(values, jnp.result_type(float)), mask.shape)
    values = jnp.where(mask, values, 0)
    if not isinstance(values, Tracer) and not np.isfinite(values).all():
        raise ValueError("`values` must be finite where `mask` clamps them.")
    return Clamped(energy, freeze(values), jnp.asarray(np.flatnonzero(~mask)))


class Transformed(AbstractEnergy):
    r"""$E(T(x)) - \log\lvert T'(x)\rvert$, the pull-back of $E$ through a transform $T$.

    If $E$ is the energy of $y = T(x)$, this is the energy of $x$, with the same $\log Z$. With
    `biject_to(support)` it is an energy over unconstrained points; with
    [`Standardize`][numpyro_ebm.Standardize], preprocessing becomes part of the energy.

    **Arguments**

    - `energy`: what [`as_energy`][numpyro_ebm.as_energy] takes, on points $T(x)$.
    - `transform`: a NumPyro transform. It doesn't train.
    """

    energy: AbstractEnergy
    transform: Frozen | Transform

    def __init__(self, energy: Any, transform: Any) -> None:
        self.energy = as_energy(energy)
        self.transform = freeze(transform)
        if not isinstance(unfreeze(transform), Transform):
            raise TypeError(
                f"`transform` must be a NumPyro transform, got {type(transform).__name__}. "
                "`numpyro.distributions.biject_to(constraint)` makes one."
            )

    @property
    def event_shape(self) -> Shape | None:
        shape = self.energy.event_shape
        return None if shape is None else unfreeze(self.transform).inverse_shape(shape)

    @property
    def log_z(self) -> Scalar:
        return log_z_of(self.energy)

    @property
    def std_error(self) -> Any:
        return getattr(self.energy, "std_error", 0.0)

    @property
    def sample(self) -> Callable[..., Array]:
        draw = exact_sampler(self.energy)
        transform = unfreeze(self.transform)

        def sample(rng_key: Key, sample_shape: Shape = ()) -> Array:
            return jnp.asarray(transform.inv(draw(rng_key, sample_shape)))

        return sample

    def __call__(self, x: Point) -> Scalar:
        transform = unfreeze(self.transform)
        y = transform(x)
        return self.energy(y) - jnp.sum(transform.log_abs_det_jacobian(x, y))

    def _formula(self) -> str:
        name = name_of(unfreeze(self.transform))
        return f"{show_term(repr(self.energy))}({name}(x)) - log|{name}'(x)|"


def bijection(support: Any) -> Any:
    """The transform from unconstrained space, in which a chain can move."""
    try:
        return biject_to(support)
    except NotImplementedError as error:
        raise NotImplementedError(
            f"NumPyro has no bijection from unconstrained space to {support}, in which a chain "
            "could move."
        ) from error


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
    """

    fn: Any
    x_shape: Shape | None = eqx.field(static=True, default=None)

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
