"""`denoise`: draws of an image, given a noisy copy."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist

from .._checks import as_array, as_data, check_count, check_key
from .._types import Array, ArrayLike, EnergyLike, Key, Shape
from ..energies import AbstractEnergy, is_discrete, is_real
from ..kernels import AbstractKernel, default_kernel
from ..sampling import RowDraws, sample_each
from ._images import as_mask, energy_of, starts_of
from ._noise import KnownNoise, Seen, UnknownNoise, as_noise_scale, check_prior
from ._restoration import Restoration


def denoise(
    rng_key: Key,
    energy: EnergyLike,
    y: ArrayLike,
    noise_scale: ArrayLike | dist.Distribution,
    kernel: AbstractKernel | None = None,
    *,
    mask: ArrayLike = True,
    init_params: ArrayLike | None = None,
    num_chains: int = 4,
    num_warmup: int = 500,
    num_samples: int = 500,
    thinning: int = 1,
    progress_bar: bool = True,
) -> Restoration:
    r"""Draws of $p(x \mid y) \propto e^{-E(x)}\,\mathcal N(y; x, \sigma^2)$ for many images.

    ```python
    restored = ebm.tasks.denoise(jax.random.key(0), energy, noisy, 0.2)
    restored.mean, restored.sd
    ```

    It is the posterior of this NumPyro model, with one set of chains per image, which adapt for
    themselves, in one compiled program:

    ```python
    def model(y):
        with numpyro.plate("image", len(y)):
            x = numpyro.sample("x", ebm.EnergyDistribution(energy))
            numpyro.sample("y", dist.Normal(x, 0.2).to_event(1), obs=y)
    ```

    Any other noise, a blur, or a $\sigma$ common to all images is another line of that model.
    Asymptotically exact if the kernel is. Shown by `tests/tasks/test_restoration.py` against a
    Gaussian mixture, whose posterior is known.

    **Arguments**

    - `energy`: anything [`as_energy`][numpyro_ebm.as_energy] takes, of clean images. One that
      was learned by denoising score matching is an energy of *noisy* images: then
      [`tweedie`][numpyro_ebm.tasks.tweedie] at the same noise.
    - `y`: noisy images along the first axis.
    - `noise_scale`: $\sigma$, a number, or one per pixel or image, `(n, 1)`; or its prior, such
      as `dist.HalfNormal(0.5)`, to infer a $\sigma$ of each image.
    - `kernel`: by default [`HMC()`][numpyro_ebm.HMC], or Gibbs-with-gradients for discrete
      energies.
    - `mask`: `True` where a pixel was seen, of all images or of each; elsewhere `y` may be NaN.
    - `init_params`: `(chain, image, *event)`, by default `y` with as much noise again; draws
      of the energy's reference if pixels were not seen or the support is bounded.
    - The others are those of [`sample`][numpyro_ebm.sample].

    **Raises** `ValueError` if a seen pixel is not finite or the noise is not positive. Warns if
    a chain is stuck or produced non-finite draws.
    """
    check_key(rng_key)
    check_count("num_chains", num_chains)
    energy = energy_of(energy, y, "y")
    seen = as_seen(y, noise_scale, mask)
    start_key, scale_key, chain_key = jr.split(rng_key, 3)
    if isinstance(noise_scale, dist.Distribution):
        family = UnknownNoise(energy, check_prior(noise_scale))
        scales = jnp.asarray(noise_scale.sample(scale_key, (num_chains, len(seen.y))))
    else:
        family, scales = KnownNoise(energy), None
    if init_params is None:
        init_params = _starts(start_key, energy, seen, scales, num_chains)
    elif np.shape(init_params)[1:] != seen.y.shape:
        raise ValueError(
            f"`init_params` must hold images `(chain, image, *event)`, {seen.y.shape} for each "
            f"chain, got shape {np.shape(init_params)}."
        )
    draws = sample_each(
        chain_key,
        family,
        seen,
        default_kernel(family(first_of(seen))) if kernel is None else kernel,
        init_params=_with_scales(family, init_params, scales),
        num_chains=num_chains,
        num_warmup=num_warmup,
        num_samples=num_samples,
        thinning=thinning,
        progress_bar=progress_bar,
    )
    return _restored(family, draws, seen.y.shape[1:])


def first_of(rows: Seen) -> Seen:
    return jax.tree.map(lambda x: x[0], rows)


def as_seen(y: ArrayLike, noise_scale: ArrayLike | dist.Distribution, mask: ArrayLike) -> Seen:
    """Noisy images, where they were seen, and the noise if it is known."""
    noisy: Any = as_array(y, "y")
    shape = noisy.shape
    where = as_mask(np.ones(shape, bool) if mask is True else mask, shape)
    points = as_data(np.where(where, np.asarray(noisy), 0), "y")
    is_known = not isinstance(noise_scale, dist.Distribution)
    scale = as_noise_scale(noise_scale, shape) if is_known else None
    return Seen(points, jnp.asarray(where), scale)


def _starts(
    rng_key: Key, energy: AbstractEnergy, seen: Seen, scales: Array | None, num_chains: int
) -> Array | None:
    """Where the chains start, `(chain, image, *event)`; `None` if nothing is known."""
    noise_key, other_key = jr.split(rng_key)
    shape = seen.y.shape
    others = starts_of(other_key, energy, num_chains, shape)
    if is_discrete(energy) or not is_real(energy.support):
        return others
    if others is None:
        others = jr.uniform(other_key, (num_chains, *shape), minval=-2.0, maxval=2.0)
    sd: Any = seen.noise_scale
    if scales is not None:
        sd = scales.reshape(*scales.shape, *[1] * (len(shape) - 1))
    noisy = seen.y + sd * jr.normal(noise_key, (num_chains, *shape))
    return jnp.where(seen.mask, noisy, others)


def _with_scales(
    family: KnownNoise | UnknownNoise, init_params: Any, scales: Array | None
) -> Array | None:
    """The starts as points of the family."""
    if isinstance(family, KnownNoise) or scales is None or init_params is None:
        return init_params
    points: Any = jnp.asarray(init_params)
    if family.transform is not None:
        points = jax.vmap(jax.vmap(family.transform.inv))(points)
    return jnp.concatenate(
        [points.reshape(*points.shape[:2], -1), jnp.log(scales)[..., None]], -1
    )


def _restored(family: KnownNoise | UnknownNoise, draws: RowDraws, shape: Shape) -> Restoration:
    if isinstance(family, KnownNoise):
        return Restoration(images=draws.values, draws=draws)
    point = jax.vmap(jax.vmap(jax.vmap(lambda z: family.point(z, shape))))
    images, scales = point(draws.values), jnp.exp(draws.values[..., -1])
    values = {"x": images, "noise_scale": scales}
    return Restoration(images=images, draws=draws.with_values(values), noise_scale=scales)
