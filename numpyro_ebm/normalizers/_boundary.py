"""Mass of a prior too close to a boundary for floating-point numbers."""

import equinox as eqx
import jax.numpy as jnp

from .._types import Array, Key, Scalar
from ..energies import Flat, ModelEnergy


def lost_at_boundaries(rng_key: Key, model: ModelEnergy) -> dict[str, Array]:
    """Whether a share of prior draws has been rounded to the boundary of a support."""
    return {_LOST: _share_at_ends(rng_key, model) > _MOST_AT_ENDS}


_LOST = (
    "the prior has mass so close to the boundary of a support that floating-point numbers do "
    "not resolve it: set `jax_enable_x64`, or take a prior with less mass there"
)
#: The largest share, and the draws that it is found by.
_MOST_AT_ENDS, _NUM_DRAWS = 2e-3, 4000


@eqx.filter_jit
def _share_at_ends(rng_key: Key, model: ModelEnergy) -> Scalar:
    """The largest share of draws that equal the largest, or the smallest, of their site.

    Of a continuous prior, that is one of them.
    """
    if model.reference is None or all(site.is_free for site in model.sites):
        return jnp.zeros(())
    draws = Flat(model.reference).sample(rng_key, (_NUM_DRAWS,))
    counts = [(draws == end).sum(0) for end in (draws.max(0), draws.min(0))]
    return (jnp.stack(counts).max() - 1) / _NUM_DRAWS
