"""One image instead of a posterior: the mode, and one step of the score."""

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.optimize import minimize

from .._calculus import score
from .._checks import as_data, as_finite, check_count, check_positive, user_level
from .._types import Array, ArrayLike, Bool, EnergyLike, Float, Scalar
from ..energies import AbstractEnergy, is_discrete, is_real, unconstrained
from ._denoise import as_seen
from ._images import energy_of
from ._noise import KnownNoise, check_real


class ModeEstimate(eqx.Module):
    r"""What [`denoise_mode`][numpyro_ebm.tasks.denoise_mode] found.

    - **images**: `(image, *event)`.
    - **energies**: $E(x) + \lVert y - x\rVert^2/2\sigma^2$ there.
    - **converged**: for each image, whether the slope vanishes there.
    """

    images: Float[Array, "n *event"]
    energies: Float[Array, " n"]
    converged: Bool[Array, " n"]


def denoise_mode(
    energy: EnergyLike,
    y: ArrayLike,
    noise_scale: ArrayLike,
    *,
    mask: ArrayLike = True,
    num_steps: int = 500,
) -> ModeEstimate:
    r"""A mode of $p(x \mid y) \propto e^{-E(x)}\,\mathcal N(y; x, \sigma^2)$, for many images.

    ```python
    ebm.tasks.denoise_mode(energy, noisy, 0.2).images
    ```

    The model is that of [`denoise`][numpyro_ebm.tasks.denoise]. BFGS from `y`, or from zero
    where it was not seen, so it is the mode nearest to the data, and not always the highest. A
    mode is one point, in many dimensions an untypical one, smoother than any draw; the mean has
    the smaller error. On a bounded support it is the mode of the density of $x$ itself, which
    may lie on the boundary, where the search never quite arrives. Shown by
    `tests/tasks/test_restoration.py` against a Gaussian.

    **Arguments** are those of `denoise`, and

    - `num_steps`: the most steps of BFGS.

    **Raises** `ValueError` for discrete energies, which have no slope. Warns if the search did
    not converge for some images.
    """
    check_count("num_steps", num_steps)
    energy = energy_of(energy, y, "y")
    if is_discrete(energy):
        raise ValueError(
            f"`denoise_mode` follows slopes, and {energy!r} is discrete: draw from the "
            "posterior with `denoise`, and take the draw of the lowest energy."
        )
    seen = as_seen(y, check_real(noise_scale), mask)
    found = ModeEstimate(*_modes(KnownNoise(energy), seen, num_steps))
    num_bad = int((~found.converged).sum())
    if num_bad:
        warnings.warn(
            f"`denoise_mode` has not converged for {num_bad} of {len(found.converged)} images: "
            "give more `num_steps`, or check that the energy is smooth.",
            stacklevel=user_level(),
        )
    return found


@eqx.filter_jit
def _modes(family: KnownNoise, seen: Any, num_steps: int) -> tuple[Array, Array, Array]:
    _, transform = unconstrained(family.energy)

    def one(row: Any) -> tuple[Array, Array, Array]:
        posterior = family(row)

        def point(z: Array) -> Array:
            x = z.reshape(start.shape)
            return x if transform is None else jnp.asarray(transform(x))

        def height(z: Array) -> Scalar:
            return posterior(point(z))

        start = row.y if transform is None else jnp.zeros(transform.inverse_shape(row.y.shape))

        def search(_: Array, z: Array) -> Array:
            return minimize(height, z, method="BFGS", options={"maxiter": num_steps}).x

        # Rounding ends a line search too early; starting anew forgets what misled it.
        z = jax.lax.fori_loop(0, _NUM_SEARCHES, search, start.ravel())
        value, slope = jax.value_and_grad(height)(z)
        # In units of the noise, the mode is no farther away than this for a convex energy.
        gap = jnp.abs(slope).max() * row.noise_scale.max()
        return point(z), value, gap <= _NEAR

    return jax.lax.map(one, seen, batch_size=_BLOCK)


#: Searches, each from where the last ended; the largest distance from a mode, in units of the
#: noise; and images per block, each of which holds a matrix.
_NUM_SEARCHES, _NEAR, _BLOCK = 4, 0.02, 16


class TweedieEstimate(eqx.Module):
    r"""Mean and standard deviation of clean images, by [`tweedie`][numpyro_ebm.tasks.tweedie].

    - **mean**: $\mathbb E[x \mid y]$, `(image, *event)`.
    - **sd**: of each pixel; NaN where the energy contradicts the noise.
    """

    mean: Float[Array, "n *event"]
    sd: Float[Array, "n *event"]


def tweedie(energy: EnergyLike, y: ArrayLike, noise_scale: ArrayLike) -> TweedieEstimate:
    r"""$\mathbb E[x \mid y] = y + \sigma^2 s(y)$, if the energy is that of noisy images.

    ```python
    learn = ebm.Estimator(ebm.DenoisingScoreMatching(0.3), optax.adam(1e-3))
    energy = learn.run(jax.random.key(0), 500, start, clean).energy
    ebm.tasks.tweedie(energy, noisy, 0.3).mean
    ```

    With denoising score matching, or trained on noisy copies, an energy learns the density of
    $y = x + \sigma\epsilon$. The formula [Robbins 1956; Miyasawa 1961] and its second-order
    form, $\operatorname{Cov}[x \mid y] = \sigma^2(I - \sigma^2\nabla^2 E(y))$, are exact for
    that density, at its own $\sigma$ only, and need no chains. For an energy of clean images
    it is wrong: use [`denoise`][numpyro_ebm.tasks.denoise]. Shown by
    `tests/tasks/test_restoration.py` against a Gaussian mixture.

    The variance takes one Hessian-vector product per pixel.

    **Arguments**

    - `energy`: of *noisy* images.
    - `y`: noisy images along the first axis.
    - `noise_scale`: $\sigma$ of the training, one number.

    **Raises** `ValueError` if the support is bounded or discrete: noisy images can be any real
    numbers. Warns if a variance is clearly negative, below $-\sigma^2/10$, which that of data
    with this noise never is: then the energy is badly learned there, or of another noise.
    """
    energy = energy_of(energy, y, "y")
    if is_discrete(energy) or not is_real(energy.support):
        raise ValueError(
            "`tweedie` needs an energy of noisy images, which can be any real numbers, got one "
            f"on {energy.support}. If it is of clean images, use `ebm.tasks.denoise`."
        )
    scale = as_finite("noise_scale", check_real(noise_scale))
    check_positive("noise_scale", scale)
    if scale.ndim:
        raise ValueError(
            f"`noise_scale` must be one number, that of the training, got shape {scale.shape}."
        )
    mean, variance = _tweedie(energy, as_data(y, "y"), scale)
    is_bad = variance < -_SLACK * scale**2
    num_bad = int(is_bad.sum())
    if num_bad:
        warnings.warn(
            f"`tweedie`: the variance is negative at {num_bad} of {variance.size} pixels, as "
            "that of data with this noise never is. The energy is badly learned there, "
            "or `noise_scale` is not that of its training.",
            stacklevel=user_level(),
        )
    sd = jnp.sqrt(jnp.maximum(variance, 0))
    return TweedieEstimate(mean, jnp.where(is_bad, jnp.nan, sd))


#: How negative a variance may be by errors of learning, in units of that of the noise.
_SLACK = 0.1


@eqx.filter_jit
def _tweedie(energy: AbstractEnergy, y: Array, scale: Scalar) -> tuple[Array, Array]:
    def one(y: Array) -> tuple[Array, Array]:
        value, slope_along = jax.linearize(lambda x: score(energy, x), y)
        units = jnp.eye(y.size).reshape(y.size, *y.shape)

        def curvature(unit: Array) -> Scalar:
            return jnp.sum(unit * slope_along(unit))

        diagonal = jax.lax.map(curvature, units, batch_size=_BLOCK).reshape(y.shape)
        return y + scale**2 * value, scale**2 * (1 + scale**2 * diagonal)

    return jax.lax.map(one, y, batch_size=_BLOCK)
