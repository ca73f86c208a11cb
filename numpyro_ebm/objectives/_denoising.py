"""Denoising score matching, at one or many noise scales."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr

from .._calculus import score
from .._checks import check_positive, finite
from .._types import Array, Energy, Float, Key, Scalar
from ..energies import is_conditional
from ._base import AbstractPointwiseObjective
from ._batch import Data


class DenoisingScoreMatching(AbstractPointwiseObjective):
    r"""$\tfrac12\mathbb E\lVert\sigma\,s(x+\sigma\epsilon)+\epsilon\rVert^2$ [Vincent 2011].

    Biased, at a known rate: it learns the density of the data *plus noise* of standard
    deviation $\sigma$. A Gaussian with covariance $\Sigma$ comes out with precision
    $(\Sigma+\sigma^2 I)^{-1}$; see `tests/objectives/test_gaussian.py`. Cost: one gradient of
    the energy per point.

    **Arguments**

    - `noise_scale`: $\sigma$, in the units of the data; part of the learned model.
    """

    noise_scale: float | Scalar

    def __check_init__(self) -> None:
        check_positive("noise_scale", self.noise_scale)

    def at(self, rng_key: Key, energy: Energy, x: Float[Array, "*event"]) -> Scalar:
        noise = jr.normal(rng_key, x.shape, x.dtype)
        noisy_score = score(energy, x + self.noise_scale * noise)
        return 0.5 * jnp.sum((self.noise_scale * noisy_score + noise) ** 2)


class VarianceReducedDenoisingScoreMatching(AbstractPointwiseObjective):
    r"""$\mathbb E[\tfrac12\lVert s(x')\rVert^2 + \epsilon^\top(s(x')-s(x))/\sigma]$.

    With $x'=x+\sigma\epsilon$: denoising score matching divided by $\sigma^2$, minus
    $\epsilon^\top s(x)/\sigma$, whose mean is zero [Wang et al. 2020]. The variance of the
    plain form grows as $1/\sigma^2$; this one stays bounded, and for $\sigma\to 0$ it is sliced
    score matching with Gaussian slices. It has the minimiser and the bias of
    [`DenoisingScoreMatching`][numpyro_ebm.DenoisingScoreMatching]; it costs two gradients of
    the energy per point, and no second derivative. Shown by
    `tests/objectives/test_gaussian.py`.

    **Arguments**

    - `noise_scale`: $\sigma$, in the units of the data; part of the learned model.
    """

    noise_scale: float | Scalar

    def __check_init__(self) -> None:
        check_positive("noise_scale", self.noise_scale)

    def at(self, rng_key: Key, energy: Energy, x: Float[Array, "*event"]) -> Scalar:
        noise = jr.normal(rng_key, x.shape, x.dtype)
        noisy_score = score(energy, x + self.noise_scale * noise)
        slope = jnp.sum(noise * (noisy_score - score(energy, x))) / self.noise_scale
        return 0.5 * jnp.sum(noisy_score**2) + slope


class MultiscaleDenoisingScoreMatching(AbstractPointwiseObjective):
    r"""$\tfrac12\mathbb E\lVert\sigma_k\,s(x+\sigma_k\epsilon;\sigma_k)+\epsilon\rVert^2$.

    Noise-conditional score networks [Song and Ermon 2019], as energies: each point draws one of
    the noise scales, and $\sigma_k^2$ gives them equal weight. At each $\sigma_k$ it learns the
    density of the data plus noise, with the bias of
    [`DenoisingScoreMatching`][numpyro_ebm.DenoisingScoreMatching]. Cost: one gradient of the
    energy per point. Draw from the result with
    [`AnnealedLangevin`][numpyro_ebm.AnnealedLangevin]. Shown by
    `tests/objectives/test_gaussian.py`.

    ```python
    energy = ebm.ConditionalEnergy(fn, event_shape=(2,))  # `fn(x, noise_scale)`
    objective = ebm.MultiscaleDenoisingScoreMatching([5.0, 1.0, 0.2])
    ```

    **Arguments**

    - `noise_scales`: $\sigma_k$, in the units of the data.
    """

    noise_scales: Float[Array, " k"] = eqx.field(converter=finite("noise_scales"))

    def __check_init__(self) -> None:
        check_positive("noise_scales", self.noise_scales)
        if self.noise_scales.ndim != 1:
            raise ValueError(
                f"`noise_scales` must be a vector, got shape {self.noise_scales.shape}."
            )

    def init(self, rng_key: Key, energy: Energy, data: Data) -> tuple[Any, None]:
        if not is_conditional(energy):
            raise TypeError(
                "`energy` must be a `ConditionalEnergy(fn, event_shape)`, with "
                f"`fn(x, noise_scale)`, for `MultiscaleDenoisingScoreMatching`, got {energy!r}."
            )
        return energy, None

    def at(self, rng_key: Key, energy: Any, x: Float[Array, "*event"]) -> Scalar:
        scale_key, noise_key = jr.split(rng_key)
        noise_scale = jr.choice(scale_key, self.noise_scales)
        at_scale = energy.given(noise_scale)
        return DenoisingScoreMatching(noise_scale).at(noise_key, at_scale, x)
