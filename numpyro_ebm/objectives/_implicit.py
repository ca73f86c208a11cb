"""Hyvärinen's implicit score matching."""

from typing import ClassVar

import jax.numpy as jnp

from .._calculus import score_and_laplacian
from .._types import Array, Energy, Float, Key, Scalar
from ._base import AbstractPointwiseObjective


class ScoreMatching(AbstractPointwiseObjective):
    r"""$\mathbb E[-\Delta E(x) + \tfrac12\lVert s(x)\rVert^2]$ [Hyvärinen 2005].

    The Fisher divergence to the data, up to an unknown constant. Consistent on unbounded
    supports; a Gaussian comes out with the data's mean and covariance, as in maximum
    likelihood; see `tests/objectives/test_gaussian.py`. The Laplacian is exact and costs as
    many gradients of the energy as a point has coordinates; no Hessian is stored: use
    [`SlicedScoreMatching`][numpyro_ebm.SlicedScoreMatching] beyond ten coordinates. The energy
    must be twice differentiable: SiLU or softplus, not ReLU. Blind to the proportions of
    separated modes.

    The loss has no lower bound: on collinear columns, sharp edges or few rows it can fall
    without end while the energy grows spikes at the data. The run warns of either, and if the
    energy has no second derivative.
    """

    needs_curvature: ClassVar[bool] = True

    def at(self, rng_key: Key, energy: Energy, x: Float[Array, "*event"]) -> Scalar:
        value, laplacian = score_and_laplacian(energy, x)
        return -laplacian + 0.5 * jnp.sum(value**2)
