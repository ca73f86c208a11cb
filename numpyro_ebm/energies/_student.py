"""Student's t, in any number of coordinates."""

import jax.numpy as jnp
import jax.random as jr
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import gammaln

from .._checks import as_finite, check_positive
from .._types import Array, ArrayLike, Float, Key, Scalar, Shape
from ._base import AbstractEnergy


class StudentT(AbstractEnergy):
    r"""$\tfrac{\nu + d}{2}\log(1 + \lVert L^{-1}(x - \mu)\rVert^2/\nu)$, multivariate $t_\nu$.

    **Arguments**

    - `df`: $\nu$, positive.
    - `loc`: $\mu$, of shape `(d,)`.
    - `scale_tril`: $L$, by default the identity. The covariance is $LL^\top\nu/(\nu-2)$.
    """

    df: Scalar
    loc: Float[Array, " d"]
    scale_tril: Float[Array, "d d"]

    def __init__(
        self,
        df: ArrayLike,
        loc: ArrayLike,
        scale_tril: ArrayLike | None = None,
    ) -> None:
        check_positive("df", df)
        self.df, self.loc = as_finite("df", df), as_finite("loc", loc)
        if self.loc.ndim != 1:
            raise ValueError(f"`loc` must be a vector, got shape {self.loc.shape}.")
        dim = len(self.loc)
        root = jnp.eye(dim) if scale_tril is None else as_finite("scale_tril", scale_tril)
        self.scale_tril = root
        if self.scale_tril.shape != (dim, dim):
            raise ValueError(
                f"`scale_tril` must have shape ({dim}, {dim}), got {self.scale_tril.shape}."
            )

    @property
    def event_shape(self) -> Shape:
        return self.loc.shape

    @property
    def log_z(self) -> Scalar:
        dim = len(self.loc)
        log_det = jnp.sum(jnp.log(jnp.abs(jnp.diagonal(self.scale_tril))))
        gammas = _log_gamma_ratio(0.5 * self.df, dim)
        return 0.5 * dim * jnp.log(self.df * jnp.pi) - gammas + log_det

    @property
    def mean(self) -> Float[Array, " d"]:
        return jnp.where(self.df > 1, self.loc, jnp.nan)

    @property
    def variance(self) -> Float[Array, " d"]:
        heavy = jnp.where(self.df > 1, jnp.inf, jnp.nan)
        factor = jnp.where(self.df > 2, self.df / (self.df - 2), heavy)
        return factor * jnp.sum(self.scale_tril**2, axis=1)

    def __call__(self, x: Float[Array, " d"]) -> Scalar:
        z = solve_triangular(self.scale_tril, x - self.loc, lower=True)
        return 0.5 * (self.df + len(self.loc)) * jnp.log1p(jnp.sum(z**2) / self.df)

    def sampler(self, rng_key: Key, sample_shape: Shape = ()) -> Float[Array, "*n d"]:
        """Independent draws."""
        normal_key, chi2_key = jr.split(rng_key)
        noise = jr.normal(normal_key, sample_shape + self.loc.shape) @ self.scale_tril.T
        chi2 = 2 * jr.gamma(chi2_key, 0.5 * self.df, sample_shape)
        return self.loc + noise * jnp.sqrt(self.df / chi2)[..., None]


def _log_gamma_ratio(x: Scalar, num_halves: int) -> Scalar:
    r"""$\log\Gamma(x + k/2) - \log\Gamma(x)$, with the large parts cancelled."""
    whole, half = divmod(num_halves, 2)
    steps = sum((jnp.log(x + i) for i in range(whole)), jnp.zeros_like(x))
    if not half:
        return steps
    x = x + whole
    small = jnp.minimum(x, _LARGE)
    series = sum(c * x ** -(k + 1) for k, c in enumerate(_STIRLING))
    large = 0.5 * jnp.log(x) + jnp.log1p(series)
    exact = gammaln(small + 0.5) - gammaln(small)
    return steps + jnp.where(x > _LARGE, large, exact)


#: From here on Stirling's series of a ratio is accurate to all digits.
_LARGE = 30.0
_STIRLING = (-1 / 8, 1 / 128, 5 / 1024, -21 / 32768, -399 / 262144)
