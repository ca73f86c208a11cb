"""Transforms of data that keep their log-determinants inside `Transformed`."""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.scipy.special import logit
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform

from .._checks import as_data, as_finite, check_key, check_positive
from .._types import Array, ArrayLike, Float, Key


class Standardize(Transform):
    r"""$T(x) = (x - \mu)/\sigma$, a NumPyro transform.

    `Transformed(energy, Standardize.fit(data))` is an energy of raw data whose network sees
    inputs of unit scale.
    """

    domain: ClassVar[Any] = constraints.real
    codomain: ClassVar[Any] = constraints.real

    def __init__(self, loc: ArrayLike, scale: ArrayLike) -> None:
        check_positive("scale", scale)
        self.loc, self.scale = as_finite("loc", loc), as_finite("scale", scale)

    @classmethod
    def fit(cls, data: ArrayLike) -> "Standardize":
        """Fit mean and standard deviation per coordinate; a constant one keeps its scale."""
        data = as_data(data)
        scale = data.std(0)
        return cls(data.mean(0), jnp.where(scale > 0, scale, 1))

    def __call__(self, x: Array) -> Array:
        return (x - self.loc) / self.scale

    def _inverse(self, y: Array) -> Array:
        return self.loc + self.scale * y

    def log_abs_det_jacobian(self, x: Array, y: Array, intermediates: Any = None) -> Array:
        return jnp.broadcast_to(-jnp.log(self.scale), jnp.shape(x))

    def tree_flatten(self) -> tuple:
        return (self.loc, self.scale), (("loc", "scale"), {})

    def eq(self, other: object, static: bool = False) -> Any:
        if not isinstance(other, Standardize):
            return False
        return static or np.all(self.loc == other.loc) & np.all(self.scale == other.scale)


class Logit(Transform):
    r"""$T(x) = \operatorname{logit}(\alpha + (1 - 2\alpha)\,x/n)$, from pixels in $[0, n]$.

    Pixels, unlike energies over $\mathbb R^d$, have bounds; this maps the bounds to infinity
    [[Dinh et al. 2017](https://arxiv.org/abs/1605.08803)]. The log-density of pixels that were
    integers before [`dequantize`][numpyro_ebm.energies.dequantize] is the usual one: divided by
    $-d\log 2$ it is in bits per dimension. Sample the energy of $T(x)$, and map the draws back
    with `Logit(...).inv`.

    **Arguments**

    - `num_levels`: $n$, 256 for bytes and 1 for pixels divided by 256.
    - `alpha`: keeps the edges finite.
    """

    codomain: ClassVar[Any] = constraints.real

    def __init__(self, num_levels: float = 256.0, alpha: float = 0.05) -> None:
        check_positive("num_levels", num_levels)
        check_positive("alpha", alpha)
        if not alpha < 0.5:
            raise ValueError(f"`alpha` must lie between 0 and 0.5, got {alpha}.")
        self.num_levels, self.alpha = num_levels, alpha

    @property
    def domain(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        margin = self.alpha * self.num_levels / (1 - 2 * self.alpha)
        return constraints.interval(-margin, self.num_levels + margin)

    def __call__(self, x: Array) -> Array:
        return logit(self.alpha + (1 - 2 * self.alpha) * x / self.num_levels)

    def _inverse(self, y: Array) -> Array:
        return (jax.nn.sigmoid(y) - self.alpha) * self.num_levels / (1 - 2 * self.alpha)

    def log_abs_det_jacobian(self, x: Array, y: Array, intermediates: Any = None) -> Array:
        slope = (1 - 2 * self.alpha) / self.num_levels
        # log(p(1 - p)) of p = sigmoid(y).
        return math.log(slope) + jax.nn.softplus(y) + jax.nn.softplus(-y)

    def tree_flatten(self) -> tuple:
        return (), ((), {"num_levels": self.num_levels, "alpha": self.alpha})

    def eq(self, other: object, static: bool = False) -> bool:
        if not isinstance(other, Logit):
            return False
        return (self.num_levels, self.alpha) == (other.num_levels, other.alpha)


def dequantize(rng_key: Key, data: ArrayLike) -> Float[Array, "n *event"]:
    r"""Integers plus uniform noise in $[0, 1)$: discrete data with a density.

    The log-density of the result, averaged over the noise, is a lower bound on the
    log-probability of the integers
    [[Theis et al. 2016](https://arxiv.org/abs/1511.01844)].
    """
    check_key(rng_key)
    data = as_data(data)
    if not np.array_equal(data, np.round(data)):
        raise ValueError("`data` must be integers; continuous data has a density already.")
    return data + jr.uniform(rng_key, data.shape)
