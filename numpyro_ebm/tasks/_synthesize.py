"""`synthesize`: new images, annealed from a reference, of each class if there are classes."""

import functools
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from .._checks import as_floats, check_count, check_key, user_level
from .._trainable import unfreeze
from .._types import Array, EnergyLike, Float, Key, PyTree
from ..chains import in_calls
from ..energies import (
    AbstractConditional,
    AbstractEnergy,
    Scaled,
    as_energy,
    check_energy,
    is_conditional,
    is_discrete,
)
from ..kernels import (
    AbstractPopulation,
    AnnealedLangevin,
    GibbsWithGradients,
    Population,
    TemperedSMC,
    default_kernel,
)
from ..normalizers import as_conditions, as_plain, check_integrable, first_of, shape_of
from ._images import energies_of


class Synthesis(eqx.Module):
    r"""New images, from [`synthesize`][numpyro_ebm.tasks.synthesize]; prints itself.

    - **images**: `(image, *event)`, or `(condition, image, *event)`.
    - **energies**: of each.
    - **log_z**: of the energy at each condition, as the population estimates it; NaN if the
      method has none.
    - **num_steps**: the transitions on the way.
    """

    images: Float[Array, "..."]
    energies: Float[Array, "*condition image"]
    log_z: Float[Array, "*condition"]
    num_steps: int = eqx.field(static=True)

    @property
    def ok(self) -> bool:
        """Whether every image is finite, so that all populations reached the target."""
        return bool(jnp.isfinite(self.energies).all() & jnp.isfinite(self.images).all())

    def __repr__(self) -> str:
        size, num_bad = self.energies.size, int((~jnp.isfinite(self.energies)).sum())
        return f"{size} images after {self.num_steps} steps, {num_bad} not finite"


def synthesize(
    rng_key: Key,
    energy: EnergyLike | AbstractConditional,
    num_images: int,
    method: AbstractPopulation | None = None,
    *,
    conditions: PyTree = None,
    num_particles: int = 256,
    progress_bar: bool = True,
) -> Synthesis:
    r"""New images, annealed from a reference so that modes come in their proportions.

    ```python
    wide = ebm.Gaussian(data.mean(0), 1.5 * np.cov(data.T))
    smc = ebm.TemperedSMC(ebm.MALA(), wide)
    new = ebm.tasks.synthesize(
        jax.random.key(0), classes, 10, smc, conditions=np.eye(10)
    )
    ```

    A population of particles comes down from the reference to the energy, or to that of each
    condition in one compiled program; images are chosen from it at random, without
    replacement. Asymptotically exact in the number of particles with
    [`TemperedSMC`][numpyro_ebm.TemperedSMC]; particles share ancestors, so for moments of the
    law use [`sample`][numpyro_ebm.sample] with several populations. Shown by
    `tests/tasks/test_generating.py`.

    Energies compose before: `a + b` is AND, `ebm.Mixture([a, b], weights)` is OR, and
    `a + background - b` is NOT, if it is integrable. In NumPyro this is
    `numpyro.sample("x", ebm.EnergyDistribution(energy))` without data.

    **Arguments**

    - `energy`: anything [`as_energy`][numpyro_ebm.as_energy] takes, or a
      [`ConditionalEnergy`][numpyro_ebm.ConditionalEnergy] of images given a class.
    - `num_images`: for each condition.
    - `method`: by default exact draws if the energy has a `sampler`, else `TemperedSMC` from
      its own reference; or that from another reference, or
      [`AnnealedLangevin`][numpyro_ebm.AnnealedLangevin] for an energy of all noise scales,
      which is biased.
    - `conditions`: of a conditional energy, along the first axis.
    - `num_particles`: per condition; `num_images` if that is more.

    **Raises** `ValueError` if there is no reference, conditions are missing, or a difference of
    energies is not integrable. Warns if a population did not reach the target.
    """
    check_key(rng_key)
    check_count("num_images", num_images)
    check_count("num_particles", num_particles)
    num_particles = max(num_particles, num_images)
    family, rows, first = _family(energy, conditions, method)
    if method is None and conditions is None and first.sampler is not None:
        return _exact(rng_key, first, num_images)
    if method is None:
        # A path has no blocks that Gibbs could draw.
        kernel = GibbsWithGradients() if is_discrete(first) else default_kernel(first)
        method = TemperedSMC(kernel)
    if not isinstance(method, AbstractPopulation):
        raise TypeError(
            "`method` must be a population, `ebm.TemperedSMC(kernel, reference)` or "
            f"`ebm.AnnealedLangevin(noise_scales)`, got {type(method).__name__}. Of chains, "
            "`ebm.sample` gives draws."
        )
    draw_key, choice_key = jr.split(rng_key)
    keys = jr.split(draw_key, _size(rows))
    state = _begin(method, family, rows, keys, num_particles)
    go_on = functools.partial(_go_on, method, family, rows)
    label = type(method).__name__
    state = in_calls(go_on, state, method.num_levels, progress_bar=progress_bar, label=label)
    chosen = jr.permutation(choice_key, num_particles)[:num_images]
    images, energies, log_z, num_steps = _finish(method, family, rows, state, chosen)
    if conditions is None:
        images, energies, log_z = images[0], energies[0], log_z[0]
    found = Synthesis(images, energies, log_z, int(num_steps.max()))
    if not found.ok:
        warnings.warn(
            f"`synthesize`: {found}: populations did not reach the target. Take more steps, "
            "or a wider reference.",
            stacklevel=user_level(),
        )
    return found


def _exact(rng_key: Key, energy: AbstractEnergy, num_images: int) -> Synthesis:
    images = energy.sample(rng_key, (num_images,))
    log_z = as_floats(jnp.nan if energy.log_z is None else energy.log_z)
    return Synthesis(images, jax.vmap(energy)(images), log_z, 0)


class _Family(eqx.Module):
    """The energy at each condition; without conditions, always the same."""

    energy: Any
    is_given: bool = eqx.field(static=True)

    def __call__(self, row: PyTree) -> Any:
        return self.energy.given(row) if self.is_given else self.energy

    def at(self, row: PyTree, noise_scale: Array | None) -> Any:
        """An energy of images, also if it is one of noise scales."""
        energy = self(row)
        return energy if noise_scale is None else energy.given(noise_scale)


def _family(energy: Any, conditions: PyTree, method: Any) -> tuple[_Family, PyTree, Any]:
    one = jnp.zeros(1)
    if isinstance(method, AnnealedLangevin):
        if conditions is not None:
            raise ValueError(
                "`conditions` must be left out with `AnnealedLangevin`, whose condition is the "
                "noise scale: use `ebm.TemperedSMC(kernel, reference)`."
            )
        return _Family(energy, False), one, None
    if not is_conditional(energy):
        if conditions is not None:
            raise ValueError(
                "`conditions` are for a `ConditionalEnergy(fn, event_shape)`, got "
                f"{type(energy).__name__}."
            )
        energy = as_energy(energy)
        _check_differences(energy)
        return _Family(energy, False), one, energy
    if conditions is None:
        raise ValueError(
            f"`conditions` are needed for {energy!r}: what to condition on, along the first "
            "axis, such as `np.eye(10)` for each of ten classes."
        )
    plain, conditions = as_plain(energy), as_conditions(conditions)
    first = plain.given(first_of(conditions))
    check_energy(first, shape_of(plain))
    return _Family(plain, True), conditions, first


def _check_differences(energy: AbstractEnergy) -> None:
    """Raise if a difference of energies has no normaliser: particles would run away."""

    def is_scaled(node: Any) -> bool:
        return isinstance(node, Scaled)

    parts = filter(is_scaled, jax.tree.leaves(energy, is_leaf=is_scaled))
    is_difference = any(bool(unfreeze(part.weight) < 0) for part in parts)
    if not is_difference or is_discrete(energy) or energy.event_shape is None:
        return
    report = check_integrable(energy)
    if report.ok is False:
        raise ValueError(
            f"`energy`, {energy!r}, is {report}. So it has no images: subtract with a smaller "
            "weight, or add a background."
        )


def _size(rows: PyTree) -> int:
    return len(jax.tree.leaves(rows)[0])


@eqx.filter_jit
def _begin(
    method: AbstractPopulation, family: _Family, rows: PyTree, keys: Key, num: int
) -> PyTree:
    return jax.vmap(lambda row, key: method.begin(key, family(row), num))(rows, keys)


@eqx.filter_jit
def _go_on(
    method: AbstractPopulation,
    family: _Family,
    rows: PyTree,
    state: PyTree,
    first: Array,
    last: Array,
) -> PyTree:
    return jax.vmap(lambda row, one: method.go_on(family(row), one, first, last))(rows, state)


@eqx.filter_jit
def _finish(
    method: AbstractPopulation, family: _Family, rows: PyTree, state: PyTree, chosen: Array
) -> tuple[Array, Array, Array, Array]:
    noise_scale = method.noise_scales[-1] if isinstance(method, AnnealedLangevin) else None

    def one(row: PyTree, state: PyTree) -> tuple[Array, Array, Array, Array]:
        found: Population = method.finish(family(row), state)
        images = found.values[chosen]
        energies = energies_of(family.at(row, noise_scale), images)
        return images, energies, found.log_z, found.num_steps

    return jax.vmap(one)(rows, state)
