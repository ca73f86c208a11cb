"""A flow that suits most targets, built from FlowJAX."""

import functools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from .._checks import as_floats, as_shape, as_typed_key, check_count, check_key, check_positive
from .._trainable import strongly_typed
from .._types import Array, ArrayLike, Key, Shape
from ._flowjax import flowjax


def coupling_flow(
    rng_key: Key,
    event_shape: Shape,
    *,
    loc: ArrayLike = 0.0,
    scale: ArrayLike = 1.0,
    num_layers: int = 6,
    num_knots: int = 16,
    nn_width: int = 64,
) -> Any:
    r"""A FlowJAX distribution of real points: couplings, then a spline of each coordinate.

    From a standard normal, `num_layers` couplings [Dinh et al. 2017], in which half of the
    coordinates are scaled and shifted by networks of the other half; then a spline of each
    coordinate alone, for its marginal [Durkan et al. 2019]; then `loc` and `scale`. It begins
    as the normal law of that location and scale. Products of any marginals, funnels and bent
    ridges are close to it from there.
    Its tails are normal: it does not reach those of a heavy-tailed target. Shown by
    `tests/flows/test_approximate.py` against quadrature.

    ```python
    flow = ebm.flows.coupling_flow(jax.random.key(0), (2,))
    ebm.as_energy(flow)
    ```

    **Arguments**

    - `event_shape`: the shape of one point.
    - `loc`, `scale`: of the coordinates, such as means and standard deviations of data; they
      train.
    - `num_layers`: couplings; a single coordinate has none.
    - `num_knots`: of the spline of each marginal.
    - `nn_width`: of the networks, which have one hidden layer.

    **Raises** `ImportError` if FlowJAX is not installed.
    """
    check_key(rng_key)
    shape = as_shape("event_shape", event_shape)
    check_positive("scale", scale)
    sizes = {"num_layers": num_layers, "num_knots": num_knots, "nn_width": nn_width}
    for name, size in sizes.items():
        check_count(name, size)
    sizes = {"num_layers": num_layers, "num_knots": num_knots, "nn_width": nn_width}
    made = jax.tree.leaves(_build(rng_key, shape, loc, scale, **sizes))
    # FlowJAX makes functions, so those of an equal flow, compiled code would not know again.
    known, structure = _structure(shape, **sizes)
    leaves = [new if eqx.is_array(new) else old for new, old in zip(made, known, strict=True)]
    return strongly_typed(jax.tree.unflatten(structure, leaves))


@functools.cache
def _structure(shape: Shape, **sizes: int) -> tuple[list[Any], Any]:
    """The leaves and the structure of a flow of these sizes, always the same objects."""
    return jax.tree.flatten(_build(jr.key(0), shape, 0.0, 1.0, **sizes))


def _build(
    rng_key: Key,
    shape: Shape,
    loc: ArrayLike,
    scale: ArrayLike,
    *,
    num_layers: int,
    num_knots: int,
    nn_width: int,
) -> Any:
    dim, bijections = math.prod(shape), flowjax().bijections
    base = flowjax().distributions.StandardNormal((dim,))
    steps = [_splines(dim, num_knots), bijections.Affine(*_ends(shape, loc, scale))]
    if dim > 1:
        coupled = flowjax().flows.coupling_flow(
            as_typed_key(rng_key),
            base_dist=base,
            transformer=_transformer(),
            flow_layers=num_layers,
            nn_width=nn_width,
            invert=False,
        )
        steps = [_without_effect(coupled.bijection), *steps]
    chain = bijections.Chain(steps)
    if shape != (dim,):
        chain = bijections.Reshape(chain, shape)
        base = flowjax().distributions.StandardNormal(shape)
    return flowjax().distributions.Transformed(base, chain)


def _ends(shape: Shape, loc: ArrayLike, scale: ArrayLike) -> list[Array]:
    return [jnp.broadcast_to(as_floats(x), shape).reshape(-1) for x in (loc, scale)]


def _splines(dim: int, num_knots: int) -> Any:
    """A spline of each coordinate, the identity at first."""
    bijections = flowjax().bijections

    def spline() -> Any:
        return bijections.RationalQuadraticSpline(knots=num_knots, interval=_WIDE)

    stacked = eqx.filter_vmap(spline, axis_size=dim)()
    return bijections.Vmap(stacked, in_axes=eqx.if_array(0))


def _transformer() -> Any:
    """What a network governs for each coordinate: a scale and a shift."""
    bijections, parameterize = flowjax().bijections, flowjax().paramax.Parameterize
    scale = parameterize(_bounded_exp, jnp.zeros(()))
    return eqx.tree_at(lambda affine: affine.scale, bijections.Affine(), scale)


def _bounded_exp(x: Array) -> Array:
    """The scale of one layer: unbounded ones overflow while they train."""
    return jnp.exp(_STEEPEST * jnp.tanh(x / _STEEPEST))


def _without_effect(scan: Any) -> Any:
    """The couplings with the last layer of their networks at zero: the identity at first."""

    def last(scan: Any) -> Any:
        return scan.bijection.bijections[0].conditioner.layers[-1]

    zeros = jax.tree.map(lambda x: 0 * x if eqx.is_inexact_array(x) else x, last(scan))
    return eqx.tree_at(last, scan, zeros)


#: Half the interval of the splines, in standard deviations.
_WIDE = 5
#: The largest logarithm of a scale that one layer makes.
_STEEPEST = 6.0
