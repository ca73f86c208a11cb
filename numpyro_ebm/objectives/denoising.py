"""Denoising score matching."""

import jax.numpy as jnp
import jax.random as jr

from .._calculus import score
from .._checks import check_positive
from .._types import Array, Energy, Float, Key, Scalar
from ._base import AbstractPointwiseObjective


class DenoisingScoreMatching(AbstractPointwiseObjective):
    r"""$\tfrac12\mathbb E\lVert\sigma\,s(x+\sigma\epsilon)+\epsilon\rVert^2$ [Vincent 2011].

    Biased, at a known rate: it learns the density of the data *plus noise* of standard
    deviation $\sigma$. A Gaussian with covariance $\Sigma$ comes out with precision
    $(\Sigma+\sigma^2 I)^{-1}$; see `tests/objectives/test_gaussian.py`. One gradient of the
    energy a point.

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
