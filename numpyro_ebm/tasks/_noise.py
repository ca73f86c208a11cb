"""What noise says about an image."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions.transforms import Transform

from .._checks import as_finite, check_positive
from .._types import Array, ArrayLike, Bool, Float, Scalar, Shape
from ..energies import AbstractEnergy, is_discrete, is_within, unconstrained


class Seen(NamedTuple):
    """An image that was measured, where it was, and the noise if it is known."""

    y: Float[Array, "*event"]
    mask: Bool[Array, "*event"]
    noise_scale: Float[Array, "*event"] | None


class GaussianNoise(AbstractEnergy):
    r"""$\sum_i (y_i - x_i)^2 / 2\sigma_i^2$ over the pixels that were seen."""

    seen: Seen

    @property
    def event_shape(self) -> Shape:
        return self.seen.y.shape

    def __call__(self, x: Float[Array, "*event"]) -> Scalar:
        y, mask = self.seen.y, self.seen.mask
        noise_scale: Any = self.seen.noise_scale
        return 0.5 * jnp.sum(jnp.where(mask, (y - x) / noise_scale, 0) ** 2)


class KnownNoise(eqx.Module):
    r"""$E(x) + \lVert y - x\rVert^2 / 2\sigma^2$ of one row."""

    energy: AbstractEnergy

    def __call__(self, row: Seen) -> AbstractEnergy:
        return self.energy + GaussianNoise(row)


class UnknownNoise(eqx.Module):
    r"""The energy of an image and of $\log\sigma$, as one vector, whose prior is given."""

    energy: AbstractEnergy
    prior: dist.Distribution
    transform: Transform | None

    def __init__(self, energy: AbstractEnergy, prior: dist.Distribution) -> None:
        if is_discrete(energy):
            raise ValueError(
                f"`noise_scale` must be a number for {energy!r}, whose points are discrete: no "
                "kernel here moves both kinds. Write the model, with a latent noise scale, and "
                "use NumPyro's `HMCGibbs`."
            )
        self.energy, self.transform = unconstrained(energy)
        self.prior = prior

    def __call__(self, row: Seen) -> AbstractEnergy:
        return _Joint(self, row)

    def point(self, z: Float[Array, " k"], shape: Shape) -> Array:
        x = z[:-1].reshape(self.shape_in(shape))
        return x if self.transform is None else jnp.asarray(self.transform(x))

    def shape_in(self, shape: Shape) -> Shape:
        """The shape of an image in unconstrained space."""
        return shape if self.transform is None else self.transform.inverse_shape(shape)


class _Joint(AbstractEnergy):
    r"""$E(x) + \sum (y - x)^2/2\sigma^2 + n\log\sigma - \log p(\sigma) - \log\sigma$."""

    family: UnknownNoise
    seen: Seen

    @property
    def event_shape(self) -> Shape:
        return (int(np.prod(self.family.shape_in(self.seen.y.shape))) + 1,)

    def __call__(self, z: Float[Array, " k"]) -> Scalar:
        (y, mask, _), log_scale = self.seen, z[-1]
        scale, x = jnp.exp(log_scale), self.family.point(z, y.shape)
        free = self.family.energy(z[:-1].reshape(self.family.shape_in(y.shape)))
        square = jnp.sum(jnp.where(mask, (y - x) / scale, 0) ** 2)
        prior = self.family.prior.log_prob(scale) + log_scale
        return free + 0.5 * square + mask.sum() * log_scale - prior


def as_noise_scale(noise_scale: Any, shape: Shape) -> Float[Array, "n *event"]:
    """A positive number for each pixel."""
    array = as_finite("noise_scale", noise_scale)
    check_positive("noise_scale", array)
    try:
        return jnp.broadcast_to(array, shape)
    except ValueError as error:
        raise ValueError(
            f"`noise_scale` must be one number, or fit images of shape {shape} as `(n, 1)` "
            f"does, got shape {array.shape}."
        ) from error


def check_prior(prior: dist.Distribution) -> dist.Distribution:
    positive = is_within(prior.support, dist.constraints.positive)
    if prior.shape() != () or not (positive or _is_nonnegative(prior)):
        raise ValueError(
            "`noise_scale` must be a number, or the prior of one: a NumPyro distribution of "
            f"one positive number, such as `dist.HalfNormal(0.5)`, got {prior!r:.80}."
        )
    return prior


def _is_nonnegative(prior: Any) -> bool:
    return prior.support is dist.constraints.nonnegative


def check_real(noise_scale: ArrayLike | dist.Distribution) -> ArrayLike:
    """Raise if the noise is not a number, for a verb that does not infer it."""
    if isinstance(noise_scale, dist.Distribution):
        raise TypeError(
            "`noise_scale` must be a number here; `ebm.tasks.denoise` infers one from a prior."
        )
    return noise_scale
