"""Minimum kernel Stein discrepancy."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._calculus import score
from .._radial import (
    AbstractRadialKernel,
    InverseMultiquadric,
    at_scale,
    kernel_products,
    stein_kernel,
)
from .._types import Array, Energy, Float, Key, Scalar
from ..energies import is_conditional
from ._base import AbstractObjective, check_real
from ._batch import Data, as_batch


class KernelSteinDiscrepancy(AbstractObjective):
    r"""$\frac1{n^2}\sum_{ij} m_i m_j\,u(x_i, x_j)$, a squared kernel Stein discrepancy.

    With the Stein kernel $u$ of
    [`kernel_stein_discrepancy`][numpyro_ebm.diagnostics.kernel_stein_discrepancy]: its
    V-statistic, which is never negative [Barp et al. 2019]. Consistent on unbounded supports.
    A weight $m(x)$ multiplies the kernel, $m(x)k(x,y)m(y)$; one that falls as fast as the score
    grows, such as $(1+\lVert x\rVert^2/c^2)^{-1/2}$ for a Gaussian, bounds the influence of an
    outlier [Matsubara et al. 2022]. Even without it, far points hardly touch the others. Cost:
    one gradient of the energy per point, and all pairs of points. Blind to the proportions of
    separated modes. Shown by `tests/posteriors/test_losses.py` against the closed form of a
    Gaussian's location.

    **Arguments**

    - `kernel`: $k$, an
      [`InverseMultiquadric`][numpyro_ebm.diagnostics.InverseMultiquadric] or a
      [`GaussianKernel`][numpyro_ebm.diagnostics.GaussianKernel]. Its length scale, in the units
      of the data, is by default the median distance between them.
    - `weight`: $m$, from one point to a positive number; by default one.
    """

    kernel: AbstractRadialKernel = InverseMultiquadric()
    weight: Callable[[Array], Scalar] | None = eqx.field(static=True, default=None)

    def init(
        self, rng_key: Key, energy: Energy, data: Data
    ) -> tuple[Any, AbstractRadialKernel]:
        if is_conditional(energy):
            raise TypeError(
                "`KernelSteinDiscrepancy` compares points of one density, got the conditional "
                f"{energy!r}: use `ebm.ScoreMatching()`."
            )
        check_real(self, energy)
        points = as_batch(data).points
        return energy, at_scale(self.kernel, points.reshape(len(points), -1))

    def loss(
        self,
        rng_key: Key,
        trainable: Any,
        state: AbstractRadialKernel,
        batch: Data,
        weights: Float[Array, " n"] | None,
    ) -> tuple[Scalar, tuple[AbstractRadialKernel, dict[str, Array]]]:
        points = as_batch(batch).points
        size = len(points)
        scores = jax.vmap(lambda x: score(trainable, x))(points).reshape(size, -1)
        sizes = jnp.ones(size, scores.dtype) if weights is None else weights
        if self.weight is not None:
            # Stein's operator on m f is m times that on f, whose score has grad log m more.
            values, slopes = jax.vmap(jax.value_and_grad(self.weight))(points)
            scores += slopes.reshape(size, -1) / values[:, None]
            sizes = sizes * values
        flat = points.reshape(size, -1)
        flat -= flat.mean(0)  # Centring reduces rounding errors.
        pair = eqx.Partial(stein_kernel, state)
        sums = kernel_products(pair, (flat, scores), sizes[:, None])[:, 0]
        return sizes @ sums / size**2, (state, {})

    def finalize(self, trainable: Any, state: AbstractRadialKernel) -> Any:
        return trainable
