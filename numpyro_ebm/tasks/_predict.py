"""`predict`: the law of `y` at many conditions, its quantiles and intervals."""

import math
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from .._checks import as_numbers, check_count, check_key, check_probability, user_level
from .._types import Array, ArrayLike, Float, Key, PyTree, Shape
from ..energies import (
    AbstractConditional,
    NormalizedConditional,
    check_energy,
    is_conditional,
)
from ..kernels import AbstractPopulation
from ..normalizers import (
    Enumeration,
    Quadrature,
    as_conditions,
    as_plain,
    first_of,
    quadrature_at,
    shape_of,
)


class Prediction(eqx.Module):
    r"""$p(y \mid x)$ at several conditions, by weighted points of $y$.

    - **points**: `(condition, point, *event)`.
    - **weights**: `(condition, point)`; at each condition they sum to one.
    - **is_discrete**: whether the points are all that there are, such as labels.
    """

    points: Float[Array, "n m *event"]
    weights: Float[Array, "n m"]
    is_discrete: bool = eqx.field(static=True, default=False)

    @property
    def mean(self) -> Float[Array, "n *event"]:
        return jnp.einsum("nm,nm...->n...", self.weights, self.points)

    @property
    def variance(self) -> Float[Array, "n *event"]:
        apart = self.points - self.mean[:, None]
        return jnp.einsum("nm,nm...->n...", self.weights, apart**2)

    def quantile(self, probs: ArrayLike) -> Float[Array, "..."]:
        """Quantiles of each coordinate of `y`, `(*probs.shape, condition, *event)`."""
        check_probability("probs", probs)
        levels = as_numbers("probs", probs)
        found = _quantiles(self.points, self.weights, levels, self.is_discrete)
        return found.reshape(*levels.shape, len(self.points), *self.points.shape[2:])

    def interval(self, prob: float = 0.9) -> tuple[Array, Array]:
        """Ends of the central interval of this probability, each `(condition, *event)`.

        As much lies below as above, as far as values allow. Between two modes it also contains
        the gap.
        """
        check_probability("prob", prob)
        low, high = self.quantile(jnp.array([0.5 - prob / 2, 0.5 + prob / 2]))
        return low, high

    def sample(self, rng_key: Key, sample_shape: Shape = ()) -> Array:
        """Independent draws at each condition, `(*sample_shape, condition, *event)`.

        In one dimension by inversion of the distribution function; else from the points.
        """
        check_key(rng_key)
        size, shape = len(self.points), self.points.shape[2:]
        if math.prod(shape) == 1 and not self.is_discrete:
            levels = jr.uniform(rng_key, (*sample_shape, size))
            flat = self.points.reshape(size, -1)
            draws = jax.vmap(_at_levels, (0, 0, -1), -1)(flat, self.weights, levels)
            return draws.reshape(*sample_shape, size, *shape)
        which = jr.categorical(rng_key, jnp.log(self.weights), shape=(*sample_shape, size))
        return self.points[jnp.arange(size), which]

    def __repr__(self) -> str:
        size, num = self.weights.shape
        return f"p(y | x) at {size} conditions, by {num} points each"


def predict(
    rng_key: Key,
    conditional: AbstractConditional,
    conditions: PyTree,
    method: Enumeration | Quadrature | AbstractPopulation | None = None,
    *,
    num_samples: int = 1000,
) -> Prediction:
    r"""The law of $y$ at many conditions: quantiles, intervals, moments and draws.

    ```python
    prediction = ebm.tasks.predict(jax.random.key(0), conditional, x)
    low, high = prediction.interval(0.9)
    ```

    If $y$ takes a few values, such as labels, by all of them, exactly. In one dimension of real
    $y$ by quadrature, without Monte Carlo error: the box is that of a
    [`NormalizedConditional`][numpyro_ebm.energies.NormalizedConditional], or holds the
    densities at up to 32 of the conditions. In more dimensions by a population at each
    condition, which comes down from a reference and so finds separate modes in their
    proportions; chains would keep the proportions in which they started. Asymptotically exact
    in the number of nodes or draws. Shown by `tests/tasks/test_predict.py`.

    **Arguments**

    - `conditional`: a [`ConditionalEnergy`][numpyro_ebm.ConditionalEnergy], or one that is
      normalised; its constants have no influence.
    - `conditions`: along the first axis, an array or a pytree of arrays.
    - `method`: [`Enumeration()`][numpyro_ebm.Enumeration] of labels, a
      [`Quadrature`][numpyro_ebm.Quadrature] in one dimension, or
      [`TemperedSMC`][numpyro_ebm.TemperedSMC] with a reference wider than all densities.
    - `num_samples`: draws per condition by a population.

    **Raises** `ValueError` if `method` is needed. Warns if the box or the nodes do not fit, or
    if a population did not arrive.
    """
    check_key(rng_key)
    check_count("num_samples", num_samples, 2)
    if not is_conditional(conditional):
        raise TypeError(
            "`conditional` must be a `ConditionalEnergy(fn, event_shape)`, got "
            f"{type(conditional).__name__}."
        )
    plain, conditions = as_plain(conditional), as_conditions(conditions)
    shape = shape_of(plain)
    check_energy(plain.given(first_of(conditions)), shape)
    if method is None:
        method = _default(conditional, conditions)
    if isinstance(method, Enumeration):
        return _checked(_by_states(plain, method, conditions))
    if isinstance(method, Quadrature):
        _check_box(method, shape)
        return _checked(
            _by_nodes(plain, method.with_doubled_points(), conditions), is_grid=True
        )
    if isinstance(method, AbstractPopulation):
        return _checked(_by_draws(rng_key, plain, method, conditions, num_samples))
    raise TypeError(
        "`method` must be `ebm.Enumeration()`, `ebm.Quadrature(low, high)` or "
        f"`ebm.TemperedSMC(kernel, reference)`, got {type(method).__name__}. Chains would keep "
        "modes in the proportions of their starts."
    )


def _default(conditional: AbstractConditional, conditions: PyTree) -> Enumeration | Quadrature:
    shape = shape_of(conditional)
    if conditional.levels is not None:
        return Enumeration()
    if math.prod(shape) != 1:
        raise ValueError(
            f"`method` is needed for points of shape {shape}: "
            "`ebm.TemperedSMC(ebm.MALA(), reference)`, where `reference` is wider than all "
            "densities, such as a Gaussian fitted to the data of all conditions."
        )
    known = conditional.method if isinstance(conditional, NormalizedConditional) else None
    if isinstance(known, Quadrature):
        return known
    return quadrature_at(as_plain(conditional), conditions)


def _check_box(method: Quadrature, shape: Shape) -> None:
    if method.low.shape != shape or method.low.size != 1:
        raise ValueError(
            "`method` must be a quadrature in one dimension, and on points of shape "
            f"{shape}, got a box of shape {method.low.shape}. In more dimensions, use "
            "`ebm.TemperedSMC(ebm.MALA(), reference)`."
        )


@eqx.filter_jit
def _by_states(
    conditional: AbstractConditional, method: Enumeration, conditions: PyTree
) -> Prediction:
    states = method.states(conditional.given(first_of(conditions)))

    def at(x: PyTree) -> Array:
        return jax.nn.softmax(-jax.vmap(conditional.given(x))(states))

    weights = jax.lax.map(at, conditions, batch_size=_BLOCK)
    points = jnp.broadcast_to(states, (len(weights), *states.shape))
    return Prediction(points, weights, is_discrete=True)


@eqx.filter_jit
def _by_nodes(
    conditional: AbstractConditional, method: Quadrature, conditions: PyTree
) -> Prediction:
    nodes, log_weights = method.nodes()

    def at(x: PyTree) -> Array:
        return jax.nn.softmax(log_weights - jax.vmap(conditional.given(x))(nodes))

    weights = jax.lax.map(at, conditions, batch_size=_BLOCK)
    return Prediction(jnp.broadcast_to(nodes, (len(weights), *nodes.shape)), weights)


@eqx.filter_jit
def _by_draws(
    rng_key: Key,
    conditional: AbstractConditional,
    method: AbstractPopulation,
    conditions: PyTree,
    num_samples: int,
) -> Prediction:
    size = len(jax.tree.leaves(conditions)[0])

    def at(row: tuple[Key, PyTree]) -> Array:
        key, x = row
        return method.draw(key, conditional.given(x), num_samples).values

    rows = jr.split(rng_key, size), conditions
    points = jax.lax.map(at, rows, batch_size=_BLOCK)
    return Prediction(points, jnp.full((size, num_samples), 1 / num_samples))


#: Conditions per block.
_BLOCK = 32


def _checked(prediction: Prediction, *, is_grid: bool = False) -> Prediction:
    """The same, with a warning at conditions where it cannot be trusted."""
    points, weights = prediction.points, prediction.weights
    flat = points.reshape(*weights.shape, -1)
    problems = {"it is not finite": ~jnp.isfinite(flat.sum((1, 2)) + weights.sum(1))}
    if is_grid:
        ends = jnp.maximum(weights[:, 0], weights[:, -1])
        problems["the box cuts off mass, give a wider one"] = ends > _EDGE
        problems["the nodes are too few, give `num_points`"] = weights.max(1) > _COARSE
    counts = {problem: int(failed.sum()) for problem, failed in problems.items()}
    found = [f"at {count} of them {problem}" for problem, count in counts.items() if count]
    if found:
        message = f"`predict` at {len(weights)} conditions: {'; '.join(found)}."
        warnings.warn(message, stacklevel=user_level())
    return prediction


#: The most mass at an end of the box, and at one node.
_EDGE, _COARSE = 1e-6, 0.1


@eqx.filter_jit
def _quantiles(
    points: Float[Array, "n m *event"],
    weights: Float[Array, "n m"],
    probs: Float[Array, "..."],
    is_discrete: bool,
) -> Float[Array, "k n d"]:
    flat, levels = points.reshape(*weights.shape, -1), probs.ravel()

    def at(values: Array, weights: Array) -> Array:
        of_column = _first_at_levels if is_discrete else _at_levels
        return jax.vmap(of_column, (1, None, None), -1)(values, weights, levels)

    return jax.vmap(at, out_axes=1)(flat, weights)


def _at_levels(
    values: Float[Array, " m"], weights: Float[Array, " m"], levels: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Where the distribution function of weighted values reaches some levels."""
    order = jnp.argsort(values)
    mass = weights[order]
    # Half of its own mass lies below each value, as in the trapezoidal rule.
    return jnp.interp(levels, jnp.cumsum(mass) - 0.5 * mass, values[order])


def _first_at_levels(
    values: Float[Array, " m"], weights: Float[Array, " m"], levels: Float[Array, "..."]
) -> Float[Array, "..."]:
    """The lowest of the values up to which at least some levels of mass lie."""
    order = jnp.argsort(values)
    place = jnp.searchsorted(jnp.cumsum(weights[order]), levels)
    return values[order][jnp.minimum(place, len(values) - 1)]
