"""Long paths in short compiled calls, with a progress bar."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.core import Tracer

from .._driver import Progress, drive
from .._types import Array
from ._annealing import MAX_LEVELS, Descent

_Carry = TypeVar("_Carry")


def in_calls(
    go_on: Callable[[_Carry, Array, Array], _Carry],
    carry: _Carry,
    num_levels: int | Array | None,
    *,
    progress_bar: bool,
    label: str,
) -> _Carry:
    """Where `go_on(carry, first, last)` leads from the first level to the last.

    How the levels are divided among calls changes no number. Under a trace there is one call.

    **Arguments**

    - `num_levels`: `None` if the path is adaptive, so that `go_on` may end early; there is a
      `Descent` in `carry`, and `first` is not used.
    """
    most = MAX_LEVELS if num_levels is None else num_levels
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((carry, most))):
        return go_on(carry, jnp.zeros((), int), jnp.asarray(most))
    done = 0

    def call(length: int) -> Progress:
        nonlocal carry, done
        before, first = carry, done
        done = first + length
        carry = jax.block_until_ready(go_on(before, jnp.asarray(first), jnp.asarray(done)))
        if num_levels is not None:
            return Progress(length, "")
        return _progress(_descent_in(before), _descent_in(carry), length)

    drive(
        call,
        int(most),
        progress_bar=progress_bar,
        resume=None,
        label=label,
        in_percent=num_levels is None,
    )
    return carry


def _descent_in(carry: Any) -> Descent:
    def is_one(node: Any) -> bool:
        return isinstance(node, Descent)

    return next(filter(is_one, jax.tree.leaves(carry, is_leaf=is_one)))


def _progress(old: Descent, new: Descent, length: int) -> Progress:
    """How far an adaptive path has come, if it goes on at its present pace."""
    before, levels = int(old.num_levels.max()), int(new.num_levels.max())
    beta = float(new.beta.min())
    pace = (beta - float(old.beta.min())) / max(levels - before, 1)
    share = levels / (levels + (1 - beta) / max(pace, 1e-9))
    ends = levels - before < length or beta >= 1
    return Progress(levels - before, f"step {levels}, beta {beta:.3g}", ends, share)
