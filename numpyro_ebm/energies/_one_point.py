"""An energy takes one point: a batch is refused."""

import functools
from collections.abc import Callable
from typing import Any

from .._types import Shape


def on_one_point(call: Callable[..., Any]) -> Callable[..., Any]:
    """The `__call__` of an energy that refuses a batch.

    Without this, many energies would return one number for all of it.
    """

    @functools.wraps(call)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        got = getattr(args[0], "shape", ()) if args else ()
        if got and _is_batch(got, known := self.event_shape):
            raise ValueError(
                f"{self!r} takes one point of shape {known}, got {got}: use `jax.vmap`."
            )
        return call(self, *args, **kwargs)

    return checked


def _is_batch(got: Any, known: Shape | None) -> bool:
    extra = len(got) - len(known or ())
    return known is not None and extra > 0 and tuple(got[extra:]) == known
