"""Normalisers by quadrature, in up to three dimensions."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .._checks import as_floats
from .._types import Array, Energy, Float, Scalar
from ._base import AbstractExactMethod, log_sum


class Quadrature(AbstractExactMethod):
    r"""The trapezoidal rule on a box, for energies in one to three dimensions.

    Spectrally accurate for smooth densities that vanish at the edge of the box; outside of it
    the density counts as zero. Exact up to the size of the box and the number of nodes, and
    differentiable. Shown by `tests/normalizers/test_exact.py` against closed forms.

    ```python
    ebm.Quadrature([-5.0, -5.0], [5.0, 5.0]).log_z(energy)
    ```

    **Arguments**

    - `low`, `high`: the corners of the box, in the event's shape.
    - `num_points`: nodes a dimension, or a tuple of them; by default 1025, 257 or 65 in one,
      two or three dimensions.
    """

    low: Float[np.ndarray, "*event"] = eqx.field(converter=np.asarray)
    high: Float[np.ndarray, "*event"] = eqx.field(converter=np.asarray)
    num_points: int | tuple[int, ...] | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        if self.low.shape != self.high.shape or not np.all(self.low < self.high):
            raise ValueError(
                f"`low` must lie below `high` in each coordinate, got {self.low} and "
                f"{self.high}."
            )
        if not 1 <= self.low.size <= len(_NUM_POINTS):
            raise ValueError(
                "`Quadrature` is for one to three dimensions, got a box in "
                f"{self.low.size}: its nodes would not fit."
            )
        if any(n < 2 for n in self._sizes()):
            raise ValueError(f"`num_points` must be at least 2, got {self.num_points}.")

    def log_z(self, energy: Energy) -> Scalar:
        return log_sum(energy, *self.nodes())

    def nodes(self) -> tuple[Float[Array, "n *event"], Float[Array, " n"]]:
        """Points, and the logarithms of their weights."""
        axes, log_weights = [], []
        low, high = as_floats(self.low).reshape(-1), as_floats(self.high).reshape(-1)
        for i, n in enumerate(self._sizes()):
            axes.append(jnp.linspace(low[i], high[i], n))
            ends = jnp.where(jnp.isin(jnp.arange(n), jnp.array([0, n - 1])), 0.5, 1.0)
            log_weights.append(jnp.log(ends * (high[i] - low[i]) / (n - 1)))
        points = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), -1)
        grids = jnp.stack(jnp.meshgrid(*log_weights, indexing="ij"))
        return points.reshape(-1, *self.low.shape), grids.sum(0).reshape(-1)

    def _sizes(self) -> tuple[int, ...]:
        if self.num_points is None:
            return (_NUM_POINTS[self.low.size],) * self.low.size
        sizes = np.broadcast_to(self.num_points, (self.low.size,))
        return tuple(int(n) for n in sizes)


_NUM_POINTS = {1: 1025, 2: 257, 3: 65}
