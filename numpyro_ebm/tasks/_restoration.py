"""What is known about images that were seen only in part, or with noise."""

import jax.numpy as jnp

from .._checks import check_probability
from .._types import Array, Float
from ..sampling import AbstractFromRows, RowDraws


class Restoration(AbstractFromRows):
    r"""Draws of $p(x \mid y)$ for each image; [`to_arviz`][numpyro_ebm.to_arviz] takes it.

    - **images**: whole images, `(chain, draw, image, *event)`.
    - **draws**: the [`RowDraws`][numpyro_ebm.sampling.RowDraws] of what was not known, and the
      health of their chains.
    - **noise_scale**: if it was inferred, its draws, `(chain, draw, image)`.
    """

    images: Float[Array, "chain draw image *event"]
    draws: RowDraws
    noise_scale: Float[Array, "chain draw image"] | None = None

    @property
    def mean(self) -> Float[Array, "image *event"]:
        """The posterior mean, which has the least mean square error."""
        return self.images.mean((0, 1))

    @property
    def sd(self) -> Float[Array, "image *event"]:
        """The posterior standard deviation of each pixel."""
        return self.images.std((0, 1))

    def interval(self, prob: float = 0.9) -> tuple[Array, Array]:
        """Ends of the central interval of each pixel, each `(image, *event)`."""
        check_probability("prob", prob)
        low, high = jnp.quantile(
            self.images, jnp.array([0.5 - prob / 2, 0.5 + prob / 2]), axis=(0, 1)
        )
        return low, high

    def __repr__(self) -> str:
        return f"{self.images.shape[2]} images from {self.draws!r}"
