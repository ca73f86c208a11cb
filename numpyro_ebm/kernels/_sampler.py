"""How a kernel enters the engine, and what is checked there."""

from typing import Any

import jax
import numpy as np

from .._checks import as_floats
from ..chains import Adaptation, Sampler
from ._numpyro import AbstractKernel, check_samples


def as_sampler(kernel: Any) -> Sampler:
    """How `kernel` moves chains, on any energy; its numbers become arrays.

    **Raises** `TypeError` unless it is a kernel of this library, and `ValueError` if it already
    has a target, or does not sample.
    """
    check_free_kernel(kernel)
    check_samples(kernel)
    return with_arrays(Sampler(kernel.move, kernel.adaptation))


def with_arrays(tree: Any) -> Any:
    """`tree` with arrays for Python's numbers: those would be constants of compiled code."""

    def convert(leaf: Any) -> Any:
        return as_floats(leaf) if isinstance(leaf, float | np.ndarray | np.generic) else leaf

    return jax.tree.map(convert, tree)


def step_adaptation(kernel: AbstractKernel) -> Adaptation:
    """How `kernel` adapts its one step size; raises if it has several."""
    if not isinstance(kernel.adaptation, Adaptation):
        raise TypeError(f"`kernel` must move by itself, got {type(kernel).__name__}.")
    return kernel.adaptation


def check_kernel(kernel: Any) -> None:
    if not isinstance(kernel, AbstractKernel):
        raise TypeError(
            "`kernel` must be a kernel of this library, such as `ebm.NUTS()`, got "
            f"{kernel!r:.80}."
        )


def check_free_kernel(kernel: Any) -> None:
    """Raise unless it is a kernel without a target."""
    check_kernel(kernel)
    if kernel.has_target:
        raise ValueError(
            "`kernel` must have neither `model` nor `potential_fn` here, where it moves on "
            f"`energy`: pass `ebm.{type(kernel).__name__}()`."
        )


def check_exact(kernel: AbstractKernel) -> None:
    """Raise unless `kernel` leaves its target invariant, for methods that rely on it."""
    if not kernel.move.is_exact:
        raise ValueError(
            f"`kernel` must leave its target invariant here, and `{type(kernel).__name__}` is "
            "biased, which would make the result wrong: use `ebm.MALA()` or "
            "`ebm.AdjustedMCLMC()`."
        )
