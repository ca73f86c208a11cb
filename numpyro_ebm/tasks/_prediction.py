"""`Prediction`: the law of `y` at several conditions, its quantiles, intervals and draws."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._checks import as_floats, as_numbers, check_key, check_probability
from .._types import Array, ArrayLike, Bool, Float, Int, Key, Shape


class Prediction(eqx.Module):
    r"""$p(y \mid x)$ at several conditions, by weighted points of $y$.

    - **points**: `(condition, point, *event)`.
    - **weights**: `(condition, point)`; at each condition they sum to one.
    - **is_discrete**: whether the points are all that there are, such as labels.
    - **is_grid**: whether they are evenly spaced numbers, so that the weights are densities.
    """

    points: Float[Array, "n m *event"]
    weights: Float[Array, "n m"]
    is_discrete: bool = eqx.field(static=True, default=False)
    is_grid: bool = eqx.field(static=True, default=False)

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
        the gap, which [`highest_density`][numpyro_ebm.tasks.Prediction.highest_density] leaves
        out.
        """
        check_probability("prob", prob)
        low, high = self.quantile(jnp.array([0.5 - prob / 2, 0.5 + prob / 2]))
        return low, high

    def highest_density(self, prob: float = 0.9) -> tuple[Array, Array]:
        """Ends of the intervals of highest density, each `(condition, interval)`.

        Together they are the shortest set of this probability: two intervals if the density has
        two modes with a gap between. Rows with fewer than others end in NaN. Up to the spacing
        of the nodes; where the density is level, the set may hold more. Shown by
        `tests/tasks/test_predict.py`.

        ```python
        prediction = ebm.tasks.predict(jax.random.key(0), conditional, x)
        low, high = prediction.highest_density(0.9)
        covered = ((low <= y[:, None]) & (y[:, None] <= high)).any(1)
        ```

        **Raises** `ValueError` unless the points are nodes of a quadrature: labels and draws
        have no density along a line.
        """
        check_probability("prob", prob)
        if not self.is_grid:
            kind = "all values of a label" if self.is_discrete else "draws"
            raise ValueError(
                "`highest_density` needs densities at the nodes of a quadrature, and these "
                f"points are {kind}: use `weights`, or `interval`."
            )
        found = _regions(self.points.reshape(self.weights.shape), self.weights, prob)
        low, high = map(as_floats, found)
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


def _regions(
    points: Float[Array, "n m"], weights: Float[Array, "n m"], prob: float
) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Where the density lies above the level that this mass exceeds."""
    levels = np.asarray(jax.vmap(_level, (0, None))(weights, prob))
    # Outside of the box it is below every level.
    density = np.pad(np.asarray(weights), ((0, 0), (1, 1)), constant_values=-1)
    places = np.pad(np.asarray(points), ((0, 0), (1, 1)), mode="edge")
    above = density >= levels[:, None]

    def crossings(chosen: Bool[np.ndarray, "n m"]) -> Float[np.ndarray, "n k"]:
        rows, left = np.nonzero(chosen)
        before, after = density[rows, left], density[rows, left + 1]
        share = (levels[rows] - before) / (after - before)
        ends = places[rows, left] + share * (places[rows, left + 1] - places[rows, left])
        return _packed(ends, rows, len(levels))

    return crossings(~above[:, :-1] & above[:, 1:]), crossings(above[:, :-1] & ~above[:, 1:])


def _level(weights: Float[Array, " m"], prob: float) -> Float[Array, ""]:
    falling = -jnp.sort(-weights)
    level = jnp.interp(prob, jnp.cumsum(falling) - 0.5 * falling, falling)
    # Equal densities differ by rounding.
    return level * (1 - 100 * jnp.finfo(weights.dtype).eps)


def _packed(
    values: Float[np.ndarray, " v"], rows: Int[np.ndarray, " v"], size: int
) -> Float[np.ndarray, "n k"]:
    """The values of each row, in order, and NaN behind them."""
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
    packed = np.full((size, rank.max(initial=-1) + 1), np.nan)
    packed[rows, rank] = values
    return packed
