"""Priors of the weights of an energy."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from numpyro.distributions import Distribution

from .._trainable import partition_trainable
from .._types import Array, Scalar, Shape
from ..energies import is_real

#: A distribution of each weight, or a function of the name and the shape of an array.
WeightPrior: TypeAlias = Distribution | Callable[[str, Shape], Distribution]


def log_prior(prior: WeightPrior, energy: Any) -> Scalar:
    """The log-density of the weights that train."""
    terms = [jnp.sum(law.log_prob(x)) for law, _, x in _laws(prior, energy)]
    return sum(terms, jnp.zeros((), jnp.result_type(float)))


def check_prior(prior: WeightPrior, energy: Any) -> None:
    """Raise unless `prior` is a density of real numbers for each array."""
    if not (isinstance(prior, Distribution) or callable(prior)):
        raise TypeError(
            "`prior` must be a distribution of each weight, such as `dist.Normal(0, 1)`, or a "
            f"function of the name and the shape of an array, got {prior!r:.80}."
        )
    for law, name, x in _laws(prior, energy):
        if not isinstance(law, Distribution) or not is_real(law.support):
            raise ValueError(
                f"`prior` must be a distribution of real numbers for `{name}`, since Langevin "
                f"steps know no bounds, got {law!r:.80}."
            )
        _check_shape(law, name, x.shape)


def _check_shape(law: Distribution, name: str, shape: Shape) -> None:
    own = law.shape()
    try:
        fits = jnp.broadcast_shapes(own, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"`prior` must broadcast to `{name}` of shape {shape}, got a distribution of shape "
            f"{own}."
        )


def _laws(prior: WeightPrior, energy: Any) -> list[tuple[Distribution, str, Array]]:
    """The prior, name and value of each array that trains."""
    params, _ = partition_trainable(energy)
    leaves = [
        (jax.tree_util.keystr(path, simple=True, separator="."), x)
        for path, x in jax.tree_util.tree_leaves_with_path(params)
    ]
    if isinstance(prior, Distribution):
        return [(prior, name, x) for name, x in leaves]
    return [(prior(name, x.shape), name, x) for name, x in leaves]
