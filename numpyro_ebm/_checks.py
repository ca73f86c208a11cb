"""Static errors, raised before any work starts."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ._types import Array


def as_floats(values: Any) -> Array:
    return jnp.asarray(values, jnp.result_type(float))


def as_finite(name: str, values: Any) -> Array:
    """`values` as floats, which must be finite numbers."""
    array = _as_numbers(name, values)
    if not isinstance(array, Tracer) and not np.isfinite(array).all():
        shown = values if np.ndim(values) == 0 else f"an array with {_first_bad(array)}"
        raise ValueError(f"`{name}` must be finite, got {shown}.")
    return array


def finite(name: str) -> Callable[[Any], Any]:
    """A converter of a field, which may be left `None`."""
    return lambda values: None if values is None else as_finite(name, values)


def check_positive(name: str, value: Any) -> None:
    array = _as_numbers(name, value)
    if not isinstance(array, Tracer) and not np.all((array > 0) & (array < np.inf)):
        raise ValueError(f"`{name}` must be positive, got {value}.")


def check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"`{name}` must be a whole number, got {value!r}.")
    if value < 1:
        raise ValueError(f"`{name}` must be positive, got {value}.")


def check_probability(name: str, value: Any) -> None:
    array = _as_numbers(name, value)
    if not isinstance(array, Tracer) and not np.all((array > 0) & (array < 1)):
        raise ValueError(f"`{name}` must lie between 0 and 1, got {value}.")


def _as_numbers(name: str, values: Any) -> Any:
    try:
        return as_floats(values)
    except (TypeError, ValueError) as error:
        raise TypeError(f"`{name}` must be numbers, got {values!r:.80}.") from error


def _first_bad(array: Any) -> str:
    where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
    return f"{np.asarray(array)[where]} at index {where}"


def user_level() -> int:
    """The `stacklevel` of a warning that is to point at the code which called the library."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in _LIBRARIES:
        frame, level = frame.f_back, level + 1
    return level


_LIBRARIES = {"numpyro_ebm", "numpyro", "jax"}


def as_data(data: Any, name: str = "data") -> Array:
    """`data` as floats, one point a row; raises for whatever nobody can learn from."""
    if isinstance(data, Tracer):
        return data
    array = data if isinstance(data, jax.Array) else np.asarray(data)
    kind = array.dtype.kind
    if kind in "OSUVMmc":
        remedy = {
            "c": "Pass real and imaginary parts as separate coordinates.",
            "O": "Rows of different lengths, or None among them, make an object array.",
        }.get(kind, "Pass numbers.")
        raise TypeError(f"`{name}` must be real numbers, got dtype {array.dtype}. {remedy}")
    if array.ndim == 0 or array.shape[0] == 0:
        raise ValueError(
            f"`{name}` must hold at least one point along its first axis, got shape "
            f"{array.shape}."
        )
    array = jnp.asarray(array, jnp.result_type(float))
    bad = ~np.isfinite(np.asarray(array))
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"`{name}` must be finite, got {int(bad.sum())} NaN or infinite values, the first "
            f"at index {where}. Remove or impute them first."
        )
    return array
