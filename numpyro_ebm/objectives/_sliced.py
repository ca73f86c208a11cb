"""Sliced score matching."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from .._calculus import score
from .._checks import check_count
from .._types import Array, Energy, Float, Key, Scalar
from ._base import AbstractPointwiseObjective


class SlicedScoreMatching(AbstractPointwiseObjective):
    r"""$\mathbb E[v^\top\partial_v s(x)+\tfrac12\lVert s(x)\rVert^2]$ [Song et al. 2019].

    The variance-reduced form: Hutchinson's estimate of the trace of implicit score matching,
    whose minimiser it shares. Consistent on unbounded supports; a Gaussian comes out with the
    data's mean and covariance; see `tests/objectives/test_gaussian.py`. Cost: about two
    gradients of the energy per point and slice. The energy must be twice differentiable: SiLU
    or softplus, not ReLU. Blind to the proportions of separated modes. Like
    [`ScoreMatching`][numpyro_ebm.ScoreMatching], it has no lower bound.

    **Arguments**

    - `num_slices`: directions $v$ per point.
    """

    num_slices: int = eqx.field(static=True, default=1)
    needs_curvature: ClassVar[bool] = True

    def __check_init__(self) -> None:
        check_count("num_slices", self.num_slices)

    def at(self, rng_key: Key, energy: Energy, x: Float[Array, "*event"]) -> Scalar:
        # Rademacher, not Gaussian: lower variance (Hutchinson 1990), none if E is separable.
        directions = jr.rademacher(rng_key, (self.num_slices, *x.shape), x.dtype)
        value, slope_along = jax.linearize(lambda y: score(energy, y), x)
        # Unrolled: a mapped axis of length one costs a third of the step on CPU.
        curvature = sum(jnp.sum(v * slope_along(v)) for v in directions) / self.num_slices
        return curvature + 0.5 * jnp.sum(value**2)


class PlainSlicedScoreMatching(AbstractPointwiseObjective):
    r"""$\mathbb E[v^\top\partial_v s(x)+\tfrac12(v^\top s(x))^2]$, Song et al.'s first form.

    For comparison: it estimates $\lVert s\rVert^2$ by slices as well, so its variance is larger
    than that of [`SlicedScoreMatching`][numpyro_ebm.SlicedScoreMatching], whose minimiser it
    shares. It needs only forward derivatives of the energy, two along each slice. Shown by
    `tests/objectives/test_gaussian.py`.

    **Arguments**

    - `num_slices`: directions $v$ per point.
    """

    num_slices: int = eqx.field(static=True, default=1)
    needs_curvature: ClassVar[bool] = True

    def __check_init__(self) -> None:
        check_count("num_slices", self.num_slices)

    def at(self, rng_key: Key, energy: Energy, x: Float[Array, "*event"]) -> Scalar:
        directions = jr.rademacher(rng_key, (self.num_slices, *x.shape), x.dtype)

        def along(v: Array) -> Scalar:
            def slope(y: Array) -> Scalar:
                return -jax.jvp(energy, (y,), (v,))[1]

            value, curvature = jax.jvp(slope, (x,), (v,))
            return curvature + 0.5 * value**2

        return sum((along(v) for v in directions), jnp.zeros(())) / self.num_slices
