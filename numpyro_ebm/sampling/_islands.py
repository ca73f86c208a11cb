r"""$\log Z$ from independent populations."""

import jax.numpy as jnp
from jax.scipy.special import logsumexp

from .._types import Array, Float, Scalar
from ..energies import LogZ, judged

#: The smallest effective number of islands, as a fraction.
_LEAST_SHARE = 0.6
#: The largest spread of their log Z. If it truly is 1.2, 8 islands show less once in 50 times.
_MOST_SPREAD = 0.35
#: The fewest of them from whose spread an error is known.
FEWEST = 4


def averaged(log_zs: Float[Array, " island"]) -> tuple[Scalar, Scalar, Scalar]:
    """The logarithm of a mean over islands, its error, and their effective number.

    Few islands seldom include the large values of a skewed law, and then their spread is too
    small. For a log-normal law, half the variance of the logarithms is part of log Z; the error
    of that part is added here.
    """
    num, variance = len(log_zs), log_zs.var(ddof=1)
    total = logsumexp(log_zs) - jnp.log(num)
    error = jnp.exp(log_zs - total).std(ddof=1) / jnp.sqrt(num)
    of_variance = variance / jnp.sqrt(2 * (num - 1))
    return (
        total,
        jnp.hypot(error, of_variance),
        jnp.exp(2 * logsumexp(log_zs) - logsumexp(2 * log_zs)),
    )


def disagreement(log_zs: Float[Array, " island"], ess: Scalar) -> dict[str, Array]:
    """Whether islands differ so much that large values may have been missed."""
    return {
        "a few islands outweigh the others": ess < _LEAST_SHARE * len(log_zs),
        "the islands disagree by about a third of a nat or more: use more particles or steps": (
            log_zs.std(ddof=1) > _MOST_SPREAD
        ),
    }


def log_z_of_populations(log_zs: Float[Array, " island"], method: str) -> LogZ | None:
    """What populations say about log Z; `None` if they say nothing."""
    if bool(jnp.isnan(log_zs).all()):
        return None
    num = len(log_zs)
    checks = {
        "populations did not reach the target": ~jnp.isfinite(log_zs).all(),
        f"the error is how populations differ, and there are fewer than {FEWEST}": (
            jnp.asarray(num < FEWEST)
        ),
    }
    total, error, ess = averaged(log_zs)
    known = {"ess": ess, "ess_of": f"{num} islands", "df": num - 1, "checks": checks}
    log_z = LogZ(total, error, method=method, **known)
    return judged(log_z, disagreement(log_zs, ess))
