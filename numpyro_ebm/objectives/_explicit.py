"""Explicit score matching."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp

from .._calculus import score
from .._types import Array, Energy, Float, Key, Scalar
from ._base import AbstractPointwiseObjective


class ExplicitScoreMatching(AbstractPointwiseObjective):
    r"""$\tfrac12\mathbb E\lVert s(x) - s_0(x)\rVert^2$, the Fisher divergence to a known score.

    Consistent: it is zero if the scores agree on the data. It distils a sampler, a diffusion
    model or a posterior with known gradient into an energy, or measures how far a learned
    energy is from the truth. Cost: one gradient of the energy per point. Shown by
    `tests/objectives/test_gaussian.py`.

    **Arguments**

    - `score_fn`: $s_0$, from one point to $\nabla\log p_0$ there.
    """

    score_fn: Callable[[Array], Array] = eqx.field(static=True)
    needs_real: ClassVar[bool] = False

    def at(self, rng_key: Key, energy: Energy, x: Float[Array, "*event"]) -> Scalar:
        return 0.5 * jnp.sum((score(energy, x) - self.score_fn(x)) ** 2)
