"""What makes a loss with second derivatives of the energy go wrong in silence."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from numpyro.ops.provenance import eval_provenance

from .._trainable import partition_trainable, unfreeze
from .._types import Array, Energy, PyTree, Scalar
from ._batch import Data, as_batch


def remark_on_curvature(energy: Energy, data: Data) -> str | None:
    """A warning if these data, or this energy, make score matching meaningless."""
    batch = as_batch(data)
    if isinstance(batch.points, Tracer):
        return None
    if _lacks_curvature(batch.energy_at(energy, 0), batch.points[0]):
        return (
            "What trains in the energy is linear between kinks, as with `jax.nn.relu`, and has "
            "no second derivative, by which this loss would learn the shape of the data: use a "
            "smooth activation, such as `jax.nn.silu` or `jnp.tanh`."
        )
    spread = _least_spread(np.asarray(batch.points, float))
    if spread < _NARROW:
        return (
            "Coordinates of the data are almost linear functions of each other: once they are "
            f"standardised, they vary by {spread:.1g} only in some direction. That dominates "
            "this loss, which then falls without end, as a density on a plane would have it. "
            "Fit whitened data, `whiten = ebm.energies.Whiten.fit(data)` and `whiten(data)`, "
            "and take `ebm.Transformed(energy, whiten)`; or use "
            "`ebm.NoiseContrastiveEstimation()`."
        )
    return None


def remark_on_losses(losses: np.ndarray) -> str | None:
    """A warning if a loss that should settle falls and falls."""
    if len(losses) < _FEWEST:
        return None
    start, middle, end = (float(np.median(part)) for part in _parts(losses))
    runs = middle - end > _RUNAWAY * (start - middle) and -end > _DEEP * max(abs(start), 1)
    if not runs:
        return None
    return (
        f"The loss does not settle: half-way it was {middle:.3g}, at the end {end:.3g}. It has "
        "no lower bound on data that lie close to a plane, have sharp edges or few rows: the "
        "energy then grows spikes at the data. Judge it on held-out rows "
        "(`early_stopping=ebm.EarlyStopping()`), whiten the data (`ebm.energies.Whiten`), or "
        "use `ebm.NoiseContrastiveEstimation()`."
    )


def _parts(losses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Losses at the start, half-way and at the end."""
    size, middle = len(losses) // 100 + 10, len(losses) // 2
    return losses[:size], losses[middle - size : middle], losses[-size:]


def _lacks_curvature(energy: Any, x: Array) -> bool:
    """Whether curvature does not depend on what trains, although its effect on scores varies.

    Traced code shows what depends on what: nothing is computed, and small values don't matter.
    """
    params, rest = partition_trainable(energy)

    def slope(params: PyTree, x: Array) -> Array:
        return jax.grad(unfreeze(eqx.combine(params, rest)))(x)

    def curvature(params: PyTree, x: Array) -> Array:
        return jax.jvp(lambda y: slope(params, y), (x,), (jnp.ones_like(x),))[1]

    def effect(params: PyTree, x: Array) -> PyTree:
        def total(params: PyTree) -> Scalar:
            return slope(params, x).sum()

        return jax.grad(total)(params)

    if "params" in eval_provenance(curvature, params=params, x=x):
        return False
    effects = jax.tree.leaves(eval_provenance(effect, params=params, x=x))
    return any("x" in origins for origins in effects)


def _least_spread(points: np.ndarray) -> float:
    """The least standard deviation, in any direction, of standardised points."""
    flat = points.reshape(len(points), -1)
    flat = flat[:, np.ptp(flat, 0) > 0]
    count, dim = flat.shape
    if not 2 <= dim < min(count, _MOST_COORDINATES):
        return np.inf
    return float(np.sqrt(max(np.linalg.eigvalsh(np.corrcoef(flat.T))[0], 0)))


#: The least spread of standardised data that is not a warning, and the most coordinates for
#: which it is computed.
_NARROW, _MOST_COORDINATES = 0.03, 1000
#: A loss of at least so many steps runs away if it falls by this share of its first fall in the
#: second half, to so many times its first size.
_FEWEST, _RUNAWAY, _DEEP = 200, 0.5, 50.0
