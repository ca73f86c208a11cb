"""The import of matplotlib, and what all plots share."""

from types import ModuleType
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ..sampling import AbstractDraws

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure as Figure
else:
    # Annotations may be read at run time, when matplotlib is not imported yet.
    Axes = Figure = Any

#: Safe for colour-blind readers, neighbours most distinct; lines also differ in their dashes.
COLORS = ("tab:blue", "tab:orange", "0.35", "#CC79A7", "#009E73", "#F0E442", "#56B4E9")
DASHES = ("-", "--", ":", "-.")
#: For what went wrong.
ALARM = "#D55E00"
#: For unknown values.
UNKNOWN = "tab:blue"


def pyplot() -> ModuleType:
    """Import matplotlib."""
    import matplotlib.pyplot as plt

    return plt


def axes(ax: Axes | None, **figure: Any) -> Axes:
    """`ax`, or the axes of a new figure."""
    return pyplot().subplots(layout="constrained", **figure)[1] if ax is None else ax


def evenly(size: int, num: int) -> np.ndarray:
    """At most `num` of `size` indices, including the first and the last."""
    return np.unique(np.linspace(0, size - 1, min(num, size)).round().astype(int))


def values_of(name: str, draws: Any) -> np.ndarray:
    """The array of points in `draws`, which may be `Draws`."""
    values = draws.values if isinstance(draws, AbstractDraws) else draws
    if not isinstance(values, jax.Array | np.ndarray | list | tuple):
        raise TypeError(
            f"`{name}` must be one array of points, got {type(values).__name__}. For a "
            "pytree, pass one of its arrays."
        )
    return np.asarray(values)
