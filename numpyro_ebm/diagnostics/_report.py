"""The sentences and tables of reports."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from xarray import Dataset

from .._advice import next_step
from .._show import Rows

#: The most rows in a table, and the most names in a sentence.
_MAX_ROWS = 25
_MAX_NAMES = 5


def some_of(names: Iterable[Any]) -> str:
    """`a, b and c`, or the first five of many."""
    names = [str(name) for name in names]
    if len(names) > _MAX_NAMES:
        return f"{', '.join(names[:_MAX_NAMES])} and {len(names) - _MAX_NAMES} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def chains(where: np.ndarray) -> str:
    """The chains for which `where` is true."""
    (indices,) = np.nonzero(where)
    return f"chain{'s' if len(indices) > 1 else ''} {some_of(indices)} of {len(where)}"


def as_parts(table: Dataset, order: np.ndarray) -> list[str | Rows]:
    """A table in its own order; of a long one, the rows that are first in `order`."""
    (dim,) = table.dims
    shown = np.sort(order[:_MAX_ROWS])
    names = [str(name) for name in table[dim].values[shown]]
    columns = {
        str(name): [_number(str(name), x) for x in table[name].values[shown]] for name in table
    }
    cells = [[str(dim), *names], *([name, *column] for name, column in columns.items())]
    rows = [list(row) for row in zip(*cells, strict=True)]
    left = table.sizes[dim] - len(shown)
    return [rows, f"and {left} that look better"] if left else [rows]


def verdict(failures: tuple[str, ...], advice: Mapping[str, str]) -> list[str]:
    """The failures, and what to do about the one that comes first in `advice`."""
    if not failures:
        return ["ok"]
    return ["NOT ok:", *(f"- {failure}" for failure in failures), *next_step(failures, advice)]


def _number(name: str, x: float | np.number) -> str:
    if "r_hat" in name and x < 100:
        return f"{x:.3f}"
    return f"{x:.0f}" if 1000 <= abs(x) < 1e9 else f"{x:.3g}"
