"""A NumPyro model whose evidence is known."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy.special import gammaln


def regression(x, y):
    variance = numpyro.sample("variance", dist.InverseGamma(2.0, 1.0))
    scale = jnp.sqrt(variance)
    slopes = numpyro.sample("slopes", dist.Normal(0, scale).expand([x.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Normal(x @ slopes, scale), obs=y)


def design(num_rows, num_columns):
    rng = np.random.default_rng(num_columns)
    x = rng.normal(size=(num_rows, num_columns))
    y = x @ rng.normal(size=num_columns) + 0.7 * rng.normal(size=num_rows)
    return x.astype(np.float32), y.astype(np.float32)


def of_regression(x, y, a=2.0, b=1.0):
    """Conjugate: normal-inverse-gamma."""
    x, y = x.astype(float), y.astype(float)
    precision = x.T @ x + np.eye(x.shape[1])
    mean = np.linalg.solve(precision, x.T @ y)
    a_n, b_n = a + len(y) / 2, b + (y @ y - mean @ precision @ mean) / 2
    constants = a * np.log(b) - a_n * np.log(b_n) + gammaln(a_n) - gammaln(a)
    log_det = np.linalg.slogdet(precision)[1]
    return constants - len(y) / 2 * np.log(2 * np.pi) - log_det / 2
