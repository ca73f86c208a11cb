"""Counts that vary more, or less, than Poisson's."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.lax import while_loop
from jax.scipy.special import gammaln, logsumexp
from numpyro.distributions import Distribution, constraints
from numpyro.distributions.util import promote_shapes, validate_sample

from .._checks import as_floats, as_numbers
from .._types import Array, ArrayLike, Key, Scalar, Shape


class ConwayMaxwellPoisson(Distribution):
    r"""$p(y) \propto \lambda^y / (y!)^\nu$, a NumPyro distribution of counts.

    [Conway and Maxwell 1962; Shmueli et al. 2005] Poisson's at $\nu = 1$; underdispersed if
    $\nu > 1$, overdispersed if $\nu < 1$. Its mode is near $\mu = \lambda^{1/\nu}$, so a
    regression on the location sets `rate=mu**nu`. [`as_energy`][numpyro_ebm.as_energy] makes it
    an energy.

    $\log Z$ is a series of 1024 terms around the mode, exact to rounding, or, if the standard
    deviation exceeds 50, its asymptotic expansion, with an error below $10^{-6}$ [Gaunt et al.
    2019]. If neither holds, for $\nu$ near zero, it is NaN, which kernels reject. Draws are
    exact, by rejection [Benson and Friel 2021]. Shown by `tests/energies/test_counts.py`.

    ```python
    def model(x, y):
        slope = numpyro.sample("slope", dist.Normal(0, 1))
        nu = numpyro.sample("nu", dist.LogNormal(0, 1))
        counts = ebm.energies.ConwayMaxwellPoisson(jnp.exp(nu * slope * x), nu)
        with numpyro.plate("data", len(x)):
            numpyro.sample("y", counts, obs=y)
    ```

    **Arguments**

    - `rate`: $\lambda > 0$.
    - `dispersion`: $\nu > 0$.
    """

    arg_constraints: ClassVar[dict] = {
        "rate": constraints.positive,
        "dispersion": constraints.positive,
    }
    support: ClassVar[Any] = constraints.nonnegative_integer

    def __init__(
        self, rate: ArrayLike, dispersion: ArrayLike, *, validate_args: bool | None = None
    ) -> None:
        pair = as_numbers("rate", rate), as_numbers("dispersion", dispersion)
        shape = jnp.broadcast_shapes(*(x.shape for x in pair))
        self.rate, self.dispersion = map(as_floats, promote_shapes(*pair))
        super().__init__(shape, validate_args=validate_args)

    @validate_sample
    def log_prob(self, value: ArrayLike) -> Array:
        y = jnp.asarray(value, self.rate.dtype)
        weight = y * jnp.log(self.rate) - self.dispersion * gammaln(y + 1)
        return weight - self._of_each(_log_z)

    def sample(self, key: Key, sample_shape: Shape = ()) -> Array:
        shape = (*sample_shape, *self.batch_shape)
        rate, dispersion = (jnp.broadcast_to(x, shape) for x in (self.rate, self.dispersion))
        keys = jr.split(key, rate.size)
        return jax.vmap(_draw)(keys, rate.ravel(), dispersion.ravel()).reshape(shape)

    @property
    def mean(self) -> Array:
        return self._of_each(jax.grad(_log_z))

    @property
    def variance(self) -> Array:
        return self._of_each(jax.grad(jax.grad(_log_z)))

    def _of_each(self, fn: Callable[[Scalar, Scalar], Scalar]) -> Array:
        args = jnp.broadcast_arrays(jnp.log(self.rate), self.dispersion)
        return jnp.vectorize(fn)(*args)


def _log_z(log_rate: Scalar, nu: Scalar) -> Scalar:
    r"""$\log\sum_y\lambda^y/(y!)^\nu$; its derivatives in $\log\lambda$ are cumulants."""
    log_mode = log_rate / nu
    is_wide = log_mode - jnp.log(nu) > 2 * jnp.log(_WIDEST)
    # Each branch is evaluated at arguments where it is finite: derivatives of both are added.
    series = _series(jnp.where(is_wide, 0.0, log_rate), jnp.where(is_wide, 1.0, nu))
    far = _expansion(jnp.where(is_wide, log_mode, 10.0), jnp.where(is_wide, nu, 1.0))
    return jnp.where(is_wide, far, series)


def _series(log_rate: Scalar, nu: Scalar) -> Scalar:
    mode = jnp.exp(jax.lax.stop_gradient(log_rate / nu))
    y = jnp.maximum(jnp.floor(mode) - _TERMS // 2, 0) + jnp.arange(_TERMS)
    terms = y * log_rate - nu * gammaln(y + 1)
    total = logsumexp(terms)
    # What is cut off falls at least as fast as the last term does.
    return jnp.where(terms[-1] - total < _NEGLIGIBLE, total, jnp.nan)


def _expansion(log_mode: Scalar, nu: Scalar) -> Scalar:
    """For modes far from zero [Gaunt et al. 2019]."""
    mode = jnp.exp(log_mode)
    leading = nu * mode - 0.5 * (nu - 1) * (log_mode + jnp.log(2 * jnp.pi)) - 0.5 * jnp.log(nu)
    excess, t = nu**2 - 1, 1 / (nu * mode)
    second = (nu**2 + 23) / 1152
    third = (5 * nu**4 - 298 * nu**2 + 11237) / 414720
    return leading + jnp.log1p(excess * t * (1 / 24 + t * (second + t * third)))


def _draw(rng_key: Key, rate: Scalar, nu: Scalar) -> Array:
    """By rejection from a Poisson or a geometric distribution [Benson and Friel 2021]."""
    mu = rate ** (1 / nu)
    # The geometric distribution whose acceptance Benson and Friel found best.
    p = 2 * nu / (2 * mu * nu + 1 + nu)
    is_narrow = nu >= 1

    def log_weight(y: Array) -> Array:
        """Of the target against the proposal."""
        log_poisson = y * jnp.log(mu) - gammaln(y + 1)
        return jnp.where(
            is_narrow, (nu - 1) * log_poisson, nu * log_poisson - y * jnp.log1p(-p)
        )

    peak = jnp.where(is_narrow, jnp.floor(mu), jnp.floor(mu * (1 - p) ** (-1 / nu)))
    highest = log_weight(peak)

    def propose(carry: tuple[Key, Array, Array]) -> tuple[Key, Array, Array]:
        rng_key, _, _ = carry
        rng_key, poisson_key, uniform_key, accept_key = jr.split(rng_key, 4)
        poisson = jr.poisson(poisson_key, jnp.where(is_narrow, mu, 1.0)).astype(mu.dtype)
        uniform = 1 - jr.uniform(uniform_key, (), mu.dtype)
        geometric = jnp.floor(jnp.log(uniform) / jnp.log1p(-p))
        y = jnp.where(is_narrow, poisson, geometric)
        log_uniform = jnp.log(1 - jr.uniform(accept_key, (), mu.dtype))
        return rng_key, y, log_uniform <= log_weight(y) - highest

    start = rng_key, jnp.zeros_like(mu), jnp.zeros((), bool)
    return while_loop(lambda carry: ~carry[2], propose, start)[1].astype(int)


#: The terms of the series, and the standard deviation beyond which it is not used.
_TERMS, _WIDEST = 1024, 50.0
#: The logarithm of a share of Z that can be left out.
_NEGLIGIBLE = -16.0
