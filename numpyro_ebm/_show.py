"""How objects print: as a constructor call, and as text or, in a notebook, a table."""

import abc
import dataclasses
import functools
import html
import inspect
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer

#: Cells of a table, row by row; the first row is its head.
Rows: TypeAlias = list[list[str]]


class Printed(abc.ABC):
    """Prints its parts: sentences and tables, in a notebook as HTML."""

    @abc.abstractmethod
    def _parts(self) -> Iterable[str | Rows]:
        """Sentences, and the rows of tables. An empty sentence is an empty line."""

    def __repr__(self) -> str:
        return "\n".join(line for part in self._parts() for line in _lines(part))

    def _repr_html_(self) -> str:
        return as_html(self._parts())


def _lines(part: str | Rows) -> list[str]:
    """A sentence, or a table with its names to the left and its numbers to the right."""
    if isinstance(part, str):
        return [part]
    first, *others = (max(map(len, column)) for column in zip(*part, strict=True))
    return [
        "  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]).rstrip()
        for row in part
    ]


def as_html(parts: Iterable[str | Rows]) -> str:
    """Paragraphs and tables, with everything in them escaped."""
    return "".join(_html(part) for part in parts if part)


def _html(part: str | Rows) -> str:
    if isinstance(part, str):
        return f"<p>{html.escape(part)}</p>"
    head, *rows = part
    body = "".join(_row("td", row) for row in rows)
    return f"<table><thead>{_row('th', head)}</thead><tbody>{body}</tbody></table>"


def _row(tag: str, cells: list[str]) -> str:
    inside = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
    return f"<tr>{inside}</tr>"


def as_call(name: str, arguments: Mapping[str, Any]) -> str:
    """The call of a constructor, on one line."""
    return f"{name}({', '.join(f'{key}={show(value)}' for key, value in arguments.items())})"


T = TypeVar("T", bound="AsMade")


class AsMade:
    """Prints as the call that made it."""

    #: The arguments of that call.
    made_with: dict[str, Any]

    def __new__(cls: type[T], *args: Any, **kwargs: Any) -> T:
        made = object.__new__(cls)
        made.made_with = _given(cls, args, kwargs)
        return made

    def __repr__(self) -> str:
        return as_call(type(self).__name__, self.made_with)


def _given(cls: type, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a constructor that are not its defaults."""
    signature = inspect.signature(cls.__init__)
    try:
        given = signature.bind(None, *args, **kwargs).arguments
    except TypeError:  # The constructor will say what is wrong.
        return {}
    return {
        name: value
        for name, value in list(given.items())[1:]
        if not is_same(value, signature.parameters[name].default)
    }


def show_module(module: eqx.Module) -> str:
    """The fields of a module that differ from their defaults, as a call."""
    given = {}
    for field in dataclasses.fields(module):  # pyright: ignore[reportArgumentType]
        value, default = getattr(module, field.name, None), field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if not is_same(value, default):
            given[field.name] = value
    return as_call(type(module).__name__, given)


def is_same(value: Any, default: Any) -> bool:
    """Whether an argument has its default value, which may have become an array since."""
    if value is default or isinstance(value, Tracer):
        return value is default
    if isinstance(value, jax.Array | np.ndarray):
        is_number = isinstance(default, int | float | jax.Array | np.ndarray)
        return is_number and np.array_equal(value, np.asarray(default, value.dtype))
    return type(value) is type(default) and bool(value == default)


def show(value: Any) -> str:
    """A value in a call: numbers and short vectors in full, larger arrays by their shape."""
    if isinstance(value, functools.partial):
        return as_call(value.func.__name__, value.keywords)
    if isinstance(value, eqx.Module):
        is_plain = type(value).__repr__ is eqx.Module.__repr__
        return show_module(value) if is_plain else repr(value)
    if callable(value) and hasattr(value, "__name__"):
        return value.__name__
    if _is_short(value):
        text = np.array2string(np.asarray(value), precision=4, separator=", ")
    elif isinstance(value, jax.Array | np.ndarray | list | tuple | dict):
        text = eqx.tree_pformat(value)
    else:
        text = repr(value)
    return " ".join(text.split())


def _is_short(value: Any) -> bool:
    if not isinstance(value, jax.Array | np.ndarray) or isinstance(value, Tracer):
        return False
    return value.size <= _SHORT and np.issubdtype(value.dtype, np.number)


#: The most numbers of an array that are printed.
_SHORT = 8
