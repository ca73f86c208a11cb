r"""How far the constants of a conditional energy that contrasts have learned are from zero."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.scipy.special import logsumexp

from .._trainable import unfreeze
from .._types import Array, Float, Key, Scalar
from ..energies import ConditionalEnergy, LogZ, NormalizedConditional, confined
from ._batch import Batch


def self_normalized(
    rng_key: Key, conditional: ConditionalEnergy, noise: Any, data: Batch
) -> tuple[NormalizedConditional, str | None]:
    r"""`conditional` with $\log Z(x) = 0$, how far that is from the truth, and a warning."""
    rows_key, draw_key = jr.split(rng_key)
    rows = jr.choice(rows_key, len(data), (_CONDITIONS,), replace=len(data) < _CONDITIONS)
    some = jax.tree.map(lambda x: x[rows], data)
    draws = noise.sample(draw_key, (_DRAWS,))
    log_zs, sizes = _constants(unfreeze(conditional), noise, some, draws)
    is_known = jnp.median(sizes) >= _FEWEST
    error = jnp.where(is_known, jnp.sqrt((log_zs**2).mean()), jnp.inf)
    result = NormalizedConditional(conditional, LogZ(0.0, error, method="self-normalised"))
    remedy = "`ebm.normalize(rng_key, energy, conditions=x)` computes it"
    if not is_known:
        return result, (
            "The noise hardly meets the densities of single conditions, so how far log Z(x) is "
            f"from zero is unknown: {remedy} in up to three dimensions."
        )
    if error > _FAR:
        return result, (
            f"log Z(x) of the learned energy, which should be zero, is off by {error:.2f} in "
            "the root mean square over conditions: train on, or use a larger network; "
            f"{remedy} in up to three dimensions."
        )
    return result, None


@eqx.filter_jit
def _constants(
    conditional: ConditionalEnergy, noise: Any, data: Batch, draws: Array
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Log Z at each condition by importance sampling, and its effective sample size."""
    log_probs = noise.log_prob(draws)

    def at(energy: Any, _: Array) -> tuple[Scalar, Scalar]:
        log_weights = -jax.vmap(confined(energy))(draws) - log_probs
        total = logsumexp(log_weights)
        size = jnp.exp(2 * total - logsumexp(2 * log_weights))
        return total - jnp.log(len(draws)), size

    return data.map(at, conditional, batch_size=_BLOCK)


#: Conditions that are judged, draws of the noise for each, and conditions per block.
_CONDITIONS, _DRAWS, _BLOCK = 200, 2000, 16
#: The fewest effective draws at half of the conditions.
_FEWEST = 50
#: Constants that differ more from zero, in the root mean square, are reported.
_FAR = 0.2
