"""`translate`: images that turn into those of another energy."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from .._checks import check_count, check_key
from .._types import Array, ArrayLike, EnergyLike, Float, Key
from ..chains import ChainState
from ..energies import AbstractEnergy, is_discrete, unconstrained
from ..kernels import MALA, AbstractKernel, default_kernel, step_adaptation
from ..sampling import Draws, sample
from ._images import as_points, energies_of, energy_of


class Translation(eqx.Module):
    r"""The way of each image, from [`translate`][numpyro_ebm.tasks.translate]; prints itself.

    - **frames**: `(image, frame, *event)`; the first frame is the source.
    - **energies**: of the target, `(image, frame)`.
    - **correlation**: of the pixels of each frame and its source, `(image, frame)`; zero if
      one of them is uniform.
    - **distance**: the root mean square difference to the source, `(image, frame)`.
    - **draws**: the [`Draws`][numpyro_ebm.sampling.Draws] behind them, one chain per image.
    """

    frames: Float[Array, "n frame *event"]
    energies: Float[Array, "n frame"]
    correlation: Float[Array, "n frame"]
    distance: Float[Array, "n frame"]
    draws: Draws

    @property
    def images(self) -> Float[Array, "n *event"]:
        """The last frame of each."""
        return self.frames[:, -1]

    def __repr__(self) -> str:
        first, last = (float(self.energies[:, k].mean()) for k in (0, -1))
        return (
            f"{len(self.frames)} images after {self.draws.num_steps} steps: mean energy "
            f"{first:.4g} -> {last:.4g}, correlation with the source "
            f"{float(self.correlation[:, -1].mean()):.2f}, distance "
            f"{float(self.distance[:, -1].mean()):.3g}"
        )


def translate(
    rng_key: Key,
    energy: EnergyLike,
    x: ArrayLike,
    kernel: AbstractKernel | None = None,
    *,
    num_steps: int = 200,
    num_frames: int = 10,
    num_warmup: int = 300,
    progress_bar: bool = True,
) -> Translation:
    r"""Turn images into those of `energy`: its chains, started from them, in frames.

    ```python
    moved = ebm.tasks.translate(jax.random.key(0), energy_of_eights, threes)
    axes = ebm.plots.plot_images({"way": moved.frames[0].reshape(-1, 8, 8)})
    ```

    **Generator only**: one-sided translation needs no pairs [Zhao and Chen 2021], and what a
    chain keeps of its source after so many steps is a matter of luck; a long chain forgets it,
    so `correlation` and `distance` say what is left. The step is tuned beforehand on copies.
    With a kernel that is exact, long chains draw from the target: shown by
    `tests/tasks/test_generating.py`.

    As a NumPyro model, with a law that can be stated, translation is
    [`denoise`][numpyro_ebm.tasks.denoise]`(rng_key, energy, x, noise_scale)`: an image that is
    likely under the target, and close to the source by so much.

    **Arguments**

    - `energy`: anything [`as_energy`][numpyro_ebm.as_energy] takes, of the target images.
    - `x`: source images along the first axis.
    - `kernel`: by default [`MALA()`][numpyro_ebm.MALA], which takes small steps, or Gibbs for
      discrete energies.
    - `num_steps`: transitions of each chain, a multiple of `num_frames`.
    - `num_warmup`: transitions that tune the step.

    **Raises** `ValueError` if an image is not finite, or lies outside of the support.
    """
    check_key(rng_key)
    for name, count in {"num_steps": num_steps, "num_frames": num_frames}.items():
        check_count(name, count)
    if num_steps % num_frames:
        raise ValueError(
            f"`num_steps` must be a multiple of `num_frames`, {num_frames}, got {num_steps}."
        )
    energy = energy_of(energy, x)
    points = as_points(energy, x)
    if kernel is None:
        kernel = default_kernel(energy) if is_discrete(energy) else MALA()
    step_adaptation(kernel)  # Raises if it has several steps.
    _, transform = unconstrained(energy)
    starts: Any = points if transform is None else jax.vmap(transform.inv)(points)
    tune_key, chain_key = jr.split(rng_key)
    settings = {"num_warmup": num_warmup, "num_samples": 1, "progress_bar": False}
    tuned = sample(tune_key, energy, kernel, init_params=points, **settings).state
    keys = jr.split(chain_key, len(points))
    draws = sample(
        chain_key,
        energy,
        kernel,
        init_state=_moved_to(tuned, starts, keys),
        num_samples=num_steps,
        thinning=num_steps // num_frames,
        progress_bar=progress_bar,
    )
    frames = jnp.concatenate([points[:, None], draws.values], 1)
    return Translation(frames, *_compared(energy, frames), draws)


def _moved_to(state: Any, positions: Array, rng_keys: Key) -> ChainState:
    """Tuned chains at other places; `sample` renews what they cache."""
    move_state = state.move_state._replace(position=positions)
    return state._replace(move_state=move_state, rng_key=rng_keys)


@eqx.filter_jit
def _compared(energy: AbstractEnergy, frames: Array) -> tuple[Array, Array, Array]:
    """Energies of frames, and their correlation with the first one and distance from it."""
    flat = frames.reshape(*frames.shape[:2], -1)
    apart = flat - flat.mean(-1, keepdims=True)
    dot = jnp.sum(apart * apart[:, :1], -1)
    sizes = jnp.linalg.norm(apart, axis=-1)
    size = sizes * sizes[:, :1]
    correlation = jnp.where(size > 0, dot / jnp.where(size > 0, size, 1), 0)
    distance = jnp.sqrt(jnp.mean((flat - flat[:, :1]) ** 2, -1))
    energies = energies_of(energy, frames.reshape(-1, *frames.shape[2:]))
    return energies.reshape(flat.shape[:2]), correlation, distance
