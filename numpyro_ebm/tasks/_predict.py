"""`predict`: the law of `y` at many conditions."""

import math
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from .._checks import check_count, check_key, user_level
from .._types import Array, Key, PyTree, Shape
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
from ._prediction import Prediction


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
        return _checked(_by_nodes(plain, method.with_doubled_points(), conditions))
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
    points = jnp.broadcast_to(nodes, (len(weights), *nodes.shape))
    return Prediction(points, weights, is_grid=True)


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


def _checked(prediction: Prediction) -> Prediction:
    """The same, with a warning at conditions where it cannot be trusted."""
    points, weights = prediction.points, prediction.weights
    flat = points.reshape(*weights.shape, -1)
    problems = {"it is not finite": ~jnp.isfinite(flat.sum((1, 2)) + weights.sum(1))}
    if prediction.is_grid:
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
