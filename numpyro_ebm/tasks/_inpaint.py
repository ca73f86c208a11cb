"""`inpaint`: draws of what is hidden, given what is known."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._checks import check_key
from .._trainable import freeze
from .._types import Array, ArrayLike, Bool, EnergyLike, Float, Int, Key, Scalar, Shape
from ..energies import (
    AbstractEnergy,
    Clamped,
    box_of,
    clamp,
    discrete_levels,
    is_discrete,
)
from ..kernels import AbstractKernel, default_kernel
from ..sampling import sample_each
from ._images import as_mask, energy_of, filled, starts_of
from ._restoration import Restoration


def inpaint(
    rng_key: Key,
    energy: EnergyLike,
    x: ArrayLike,
    mask: ArrayLike,
    kernel: AbstractKernel | None = None,
    *,
    init_params: ArrayLike | None = None,
    num_chains: int = 4,
    num_warmup: int = 500,
    num_samples: int = 500,
    thinning: int = 1,
    progress_bar: bool = True,
) -> Restoration:
    r"""Draws of $p(x_\text{hidden} \mid x_\text{known})$ for many images at once.

    ```python
    restored = ebm.tasks.inpaint(
        jax.random.key(0), energy, images, mask=np.arange(64) < 32
    )
    low, high = restored.interval(0.9)
    ```

    The conditional law of the energy itself, not that of noisy copies: each image has its own
    chains on [`clamp(energy, mask, image)`][numpyro_ebm.clamp], which adapt for themselves, in
    one compiled program. Asymptotically exact if the kernel is. Shown by
    `tests/tasks/test_restoration.py` against a Gaussian mixture in 64 dimensions.

    In NumPyro it is `numpyro.sample("x", ebm.EnergyDistribution(ebm.clamp(energy, mask, x)))`.
    If the known pixels were measured with noise, use [`denoise`][numpyro_ebm.tasks.denoise]
    with a mask; if the rest is more complicated, write that model.

    **Arguments**

    - `energy`: anything [`as_energy`][numpyro_ebm.as_energy] takes, of whole images.
    - `x`: images along the first axis; what is hidden may be NaN.
    - `mask`: `True` where a pixel is known; one mask for all images, or one each.
    - `kernel`: by default [`HMC()`][numpyro_ebm.HMC], or Gibbs for discrete energies. Chains
      seldom cross between completions that lie far apart: then
      [`ParallelTempering(ebm.HMC(), 20.0)`][numpyro_ebm.ParallelTempering].
    - `init_params`: whole images `(chain, image, *event)`, whose hidden pixels are starts. By
      default draws of the energy's reference, if it has one.
    - The others are those of [`sample`][numpyro_ebm.sample].

    **Raises** `ValueError` if a known pixel is not finite or lies outside of the support,
    nothing is hidden, or the support ties coordinates to each other, as the simplex does.
    Warns if a chain is stuck or produced non-finite draws.
    """
    check_key(rng_key)
    energy = energy_of(energy, x)
    mask = as_mask(mask, np.shape(x))
    if mask.all():
        raise ValueError("`mask` hides nothing: there is nothing to draw.")
    # Raises if the support ties what is hidden to what is known.
    example = clamp(energy, mask[np.argmin(mask.reshape(len(mask), -1).mean(1))], 0.0)
    hidden = _hidden(example, filled(energy, x, mask), mask)
    start_key, chain_key = jr.split(rng_key)
    if init_params is None:
        init_params = starts_of(start_key, energy, num_chains, mask.shape)
    draws = sample_each(
        chain_key,
        hidden.family,
        hidden.rows,
        default_kernel(example) if kernel is None else kernel,
        init_params=None if init_params is None else hidden.of(init_params),
        num_chains=num_chains,
        num_warmup=num_warmup,
        num_samples=num_samples,
        thinning=thinning,
        progress_bar=progress_bar,
    )
    return Restoration(images=hidden.complete(draws.values), draws=draws)


class _Family(eqx.Module):
    """The energy of the hidden coordinates of one row."""

    energy: AbstractEnergy
    index: Int[Array, " k"] | None

    def __call__(self, row: "_Row") -> AbstractEnergy:
        values = freeze(row.values)
        if row.index is None:
            return Clamped(self.energy, values, self.index)
        low, high = box_of(self.energy.support) or (0.0, 0.0)
        filler = _Filler(row.index >= row.values.size, float(low), float(high))
        return Clamped(self.energy, values, row.index) + filler


class _Row(NamedTuple):
    """An image, and the places of what is hidden unless they are those of all images."""

    values: Float[Array, "*event"]
    index: Int[Array, " k"] | None


class _Filler(AbstractEnergy):
    r"""A proper energy of coordinates that stand for none, so that all rows have as many."""

    is_filler: Bool[Array, " k"]
    low: float = eqx.field(static=True)
    high: float = eqx.field(static=True)

    @property
    def event_shape(self) -> Shape:
        return self.is_filler.shape

    def __call__(self, x: Float[Array, " k"]) -> Scalar:
        ends = np.isfinite(self.low), np.isfinite(self.high)
        kinds = {
            (False, False): 0.5 * x**2,
            (True, False): x - self.low,
            (False, True): self.high - x,
            (True, True): jnp.zeros_like(x),
        }
        return jnp.sum(jnp.where(self.is_filler, kinds[ends], 0))


class _Hidden(NamedTuple):
    """The hidden coordinates of all rows."""

    family: _Family
    rows: _Row
    index: Int[Array, "n k"]

    def of(self, images: ArrayLike) -> Float[Array, "chain n k"]:
        """The hidden coordinates of whole images."""
        n, size = len(self.index), self.rows.values[0].size
        shape = self.rows.values.shape
        images = jnp.asarray(images)
        if images.shape[1:] != shape:
            raise ValueError(
                f"`init_params` must hold whole images, `(chain, {', '.join(map(str, shape))})`"
                f", got shape {images.shape}."
            )
        flat = images.reshape(len(images), n, -1)
        # A filler starts like the last coordinate.
        return jnp.take_along_axis(flat, jnp.minimum(self.index, size - 1)[None], 2)

    def complete(self, draws: Float[Array, "chain draw n k"]) -> Array:
        """Whole images."""

        def one(values: Array, index: Array, draw: Array) -> Array:
            return values.ravel().at[index].set(draw, mode="drop").reshape(values.shape)

        by_row = jax.vmap(one)
        by_draw = jax.vmap(by_row, (None, None, 0))
        by_chain = jax.vmap(by_draw, (None, None, 0))
        return by_chain(self.rows.values, self.index, draws)


def _hidden(example: Clamped, points: Array, mask: np.ndarray) -> _Hidden:
    energy, flat = example.energy, mask.reshape(len(mask), -1)
    if (flat == flat[0]).all():
        index = example.free_index
        everywhere = jnp.broadcast_to(index, (len(points), len(index)))
        return _Hidden(_Family(energy, index), _Row(points, None), everywhere)
    _check_alike(energy)
    # Beyond the last coordinate, where nothing is written, are those that stand for none.
    places = [np.flatnonzero(~row) for row in flat]
    index = np.full((len(flat), max(map(len, places))), flat.shape[1])
    for row, place in zip(index, places, strict=True):
        row[: len(place)] = place
    index = jnp.asarray(index)
    return _Hidden(_Family(energy, None), _Row(points, index), index)


def _check_alike(energy: Any) -> None:
    """Raise unless coordinates at different places have the same support."""
    bounds = box_of(energy.support)
    has_levels = discrete_levels(energy) is not None
    is_one = bounds is not None and all(np.ndim(bound) == 0 for bound in bounds)
    if not (has_levels if is_discrete(energy) else is_one):
        raise ValueError(
            f"`mask` must be the same for all images if the support is {energy.support}, which "
            "is not the same at every coordinate, or has no end: call `inpaint` once per mask."
        )
