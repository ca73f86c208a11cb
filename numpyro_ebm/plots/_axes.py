"""The import of matplotlib, and what all plots share: style, axes and colour bars."""

import contextlib
from collections.abc import Iterator
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
#: Of shares and of images, from nothing to all.
SHARE_MAP, IMAGE_MAP = "Blues", "gray_r"
#: For samples, which must be seen on every colour of the maps; and their chains.
SAMPLES = "#56B4E9"
#: For what went wrong.
ALARM = "#D55E00"
#: Below unknown values: stripes, which no grey tone of an image can be taken for.
UNKNOWN = {"facecolor": "0.97", "edgecolor": "0.75", "hatch": "//////", "linewidth": 0}


def pyplot() -> ModuleType:
    """Import matplotlib."""
    import matplotlib.pyplot as plt

    return plt


def energy_map() -> Any:
    """Perceptually uniform colours, from dark, which is likely, to light; without black."""
    plt = pyplot()
    colors = plt.get_cmap("magma")(np.linspace(0.15, 1, 256))
    return plt.matplotlib.colors.ListedColormap(colors)


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The matplotlib style of all plots of this library, for your own figures.

    ```python
    import matplotlib.pyplot as plt

    with ebm.plots.style():
        figure, axes = plt.subplots(1, 2)
    ```
    """
    plt = pyplot()
    settings = {
        "axes.prop_cycle": plt.cycler(color=COLORS),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "figure.constrained_layout.use": True,
        "legend.fontsize": "small",
        "legend.frameon": False,
    }
    with plt.rc_context(settings):
        yield


def axes(ax: Axes | None, **figure: Any) -> Axes:
    """`ax`, or the axes of a new figure."""
    return pyplot().subplots(**figure)[1] if ax is None else ax


def grid_of_axes(ax: Any, shape: tuple[int, int], **figure: Any) -> np.ndarray:
    """`ax` as an array of this shape, or the axes of a new figure."""
    if ax is None:
        return pyplot().subplots(*shape, squeeze=False, **figure)[1]
    given = np.asarray(ax, dtype=object)
    if given.size != np.prod(shape):
        rows, columns = shape
        raise ValueError(
            f"`ax` must be {rows} x {columns} axes, such as `plt.subplots({rows}, "
            f"{columns})[1]`, got an array of shape {given.shape}."
        )
    return given.reshape(shape)


def colour_bar(ax: Axes, mappable: Any, label: str) -> None:
    """A colour bar beside `ax`, whose numbers and label stay clear of its neighbours."""
    room = _room(ax) if ax.figure.get_layout_engine() is None else {}
    bar = ax.figure.colorbar(mappable, ax=ax, format="%g", **room)
    bar.set_label(label, size="small")
    bar.ax.tick_params(labelsize="small")


def _room(ax: Axes) -> dict[str, Any]:
    """The room for a bar and its numbers, as high as a plane, where no layout makes it."""
    box, (x, y) = ax.get_window_extent(), (np.ptp(ax.get_xlim()), np.ptp(ax.get_ylim()))
    fraction = min(_BAR_INCHES * ax.figure.dpi / box.width, 0.6)
    height = (1 - fraction - _PAD) * box.width * y / x
    shrink = min(height / box.height, 1.0) if ax.get_aspect() == 1 else 1.0
    return {"fraction": fraction, "pad": _PAD, "shrink": shrink, "aspect": 25 * shrink}


#: The width of a colour bar with its numbers and its label, and its distance.
_BAR_INCHES, _PAD = 0.85, 0.03


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
