"""Points that keep their distance."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints

from .._checks import check_count, check_positive, finite
from .._types import Array, Float, Key, Scalar, Shape
from ._base import AbstractEnergy, as_energy


class StraussProcess(AbstractEnergy):
    r"""$-s(x)\log\gamma$, with $s$ the number of pairs closer than $r$ [Strauss 1975].

    A pattern of $n$ points in a box: the process given its number of points. Points repel each
    other if $\gamma < 1$, are independent if $\gamma = 1$, and clump if $\gamma > 1$. `log_z`
    is unknown, except for $\gamma = 1$; from the uniform `reference`,
    [`log_partition`][numpyro_ebm.log_partition] can anneal to it. The energy is flat between
    jumps, so gradients are useless: [`BlockGibbs`][numpyro_ebm.BlockGibbs] moves one point
    after another. Shown by `tests/energies/test_strauss.py`.

    ```python
    points = ebm.energies.StraussProcess(20, gamma=0.1, radius=0.05)
    draws = ebm.sample(
        key, points, ebm.BlockGibbs(), num_chains=4, num_samples=100
    )
    ```

    **Arguments**

    - `num_points`: $n$.
    - `gamma`: $\gamma > 0$, the factor of each close pair.
    - `radius`: $r$.
    - `low`, `high`: opposite corners of the box.
    """

    num_points: int = eqx.field(static=True)
    gamma: Scalar = eqx.field(converter=finite("gamma"))
    radius: Scalar = eqx.field(converter=finite("radius"))
    low: tuple[float, ...] = eqx.field(static=True, default=(0.0, 0.0))
    high: tuple[float, ...] = eqx.field(static=True, default=(1.0, 1.0))

    def __check_init__(self) -> None:
        check_count("num_points", self.num_points)
        check_positive("gamma", self.gamma)
        check_positive("radius", self.radius)
        if len(self.low) != len(self.high) or not np.all(np.less(self.low, self.high)):
            raise ValueError(
                f"`low` must lie below `high` in each coordinate, got {self.low} and "
                f"{self.high}."
            )

    @property
    def event_shape(self) -> Shape:
        return (self.num_points, len(self.low))

    @property
    def support(self) -> constraints.Constraint:
        box = constraints.interval(jnp.array(self.low), jnp.array(self.high))
        return constraints.independent(box, 2)

    @property
    def reference(self) -> Any:
        uniform = dist.Uniform(jnp.array(self.low), jnp.array(self.high))
        return as_energy(uniform.expand(self.event_shape).to_event(2))

    def __call__(self, x: Float[Array, "n d"]) -> Scalar:
        return -jnp.log(self.gamma) * self.num_close(x)

    def num_close(self, x: Float[Array, "n d"]) -> Scalar:
        """$s(x)$, the number of pairs closer than the radius."""
        close = jax.vmap(lambda point: self._close(x, point))(x)
        return 0.5 * (close.sum() - self.num_points)

    def gibbs_sweep(self, rng_key: Key, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Propose a uniform place for each point in turn; Metropolis accepts or rejects."""
        low, high = jnp.array(self.low), jnp.array(self.high)

        def move(x: Array, step: tuple[Array, Key]) -> tuple[Array, None]:
            i, key = step
            place_key, accept_key = jr.split(key)
            # Not on the very edge, which free coordinates reach at infinity only.
            place = low + (high - low) * jr.uniform(
                place_key, low.shape, x.dtype, 1e-6, 1 - 1e-6
            )
            others = jnp.arange(self.num_points) != i
            change = self._close(x, place) - self._close(x, x[i])
            log_ratio = jnp.log(self.gamma) * (others * change).sum()
            accepted = jnp.log(1 - jr.uniform(accept_key, (), x.dtype)) <= log_ratio
            return x.at[i].set(jnp.where(accepted, place, x[i])), None

        keys = jr.split(rng_key, self.num_points)
        return jax.lax.scan(move, x, (jnp.arange(self.num_points), keys))[0]

    def _close(self, x: Array, point: Array) -> Array:
        """Which of the points are closer to `point` than the radius."""
        return (((x - point) ** 2).sum(-1) < self.radius**2).astype(x.dtype)
