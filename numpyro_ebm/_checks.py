"""Static errors, raised before any work starts."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding, Sharding
from numpyro.util import is_prng_key

from ._types import Array, Shape


def as_floats(values: Any) -> Array:
    return jnp.asarray(values, jnp.result_type(float))


def as_finite(name: str, values: Any) -> Array:
    """`values` as floats, which must be finite numbers."""
    array = as_numbers(name, values)
    if not isinstance(array, Tracer) and not np.isfinite(array).all():
        where = _first(~np.isfinite(array))
        place = f" at index {where}" if where else ""
        raise ValueError(f"`{name}` must be finite, got {np.asarray(array)[where]}{place}.")
    return array


def finite(name: str, is_optional: bool = True) -> Callable[[Any], Any]:
    """A converter for a field; `None` stays `None`."""

    def convert(values: Any) -> Any:
        return None if is_optional and values is None else as_finite(name, values)

    return convert


def check_positive(name: str, value: Any) -> None:
    array = _as_known(name, value)
    if array is not None and not np.all((array > 0) & (array < np.inf)):
        raise ValueError(f"`{name}` must be positive, got {value}.")


def check_count(name: str, value: Any, least: int = 1) -> None:
    if not is_count(value):
        raise TypeError(f"`{name}` must be a whole number, got {value!r:.80}.")
    if value < least:
        must = "positive" if least == 1 else f"at least {least}"
        raise ValueError(f"`{name}` must be {must}, got {value}.")


def is_count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def as_shape(name: str, shape: Any) -> Shape:
    sizes = tuple(shape) if isinstance(shape, tuple | list) else None
    if sizes is None or not all(map(is_count, sizes)):
        raise TypeError(f"`{name}` must be a tuple of whole numbers, got {shape!r:.80}.")
    if any(size < 0 for size in sizes):
        raise ValueError(f"`{name}` must not be negative, got {shape}.")
    return tuple(int(size) for size in sizes)


def check_key(rng_key: Any) -> None:
    if is_count(rng_key):
        raise TypeError(
            f"`rng_key` must be a random key, got the integer {rng_key}: use "
            f"`jax.random.key({rng_key})`."
        )
    if not is_prng_key(rng_key):
        raise TypeError(
            f"`rng_key` must be a random key such as `jax.random.key(0)`, got {rng_key!r:.80}."
        )


def as_typed_key(rng_key: Any) -> Any:
    """A typed key, such as FlowJAX needs, from that or from a legacy one."""
    is_typed = jnp.issubdtype(rng_key.dtype, jax.dtypes.prng_key)
    return rng_key if is_typed else jax.random.wrap_key_data(rng_key)


def check_probability(name: str, value: Any) -> None:
    array = _as_known(name, value)
    if array is not None and not np.all((array > 0) & (array < 1)):
        raise ValueError(f"`{name}` must lie between 0 and 1, got {value}.")


def check_finite(name: str, value: Any) -> None:
    array = _as_known(name, value)
    if array is not None and not np.isfinite(array).all():
        raise ValueError(f"`{name}` must be finite, got {value}.")


def _as_known(name: str, value: Any) -> np.ndarray | None:
    """The numbers in `value`, or `None` while they are traced.

    Uses NumPy: JAX would start its backend for a default that is created at import.
    """
    if isinstance(value, Tracer):
        return None
    array = np.asarray(value)
    if array.dtype.kind not in "biufV" or array.size == 0:
        raise TypeError(f"`{name}` must be numbers, got {value!r:.80}.")
    return array.astype(float)


def as_numbers(name: str, values: Any) -> Array:
    try:
        return as_floats(values)
    except (TypeError, ValueError) as error:
        raise TypeError(f"`{name}` must be numbers, got {values!r:.80}.") from error


def check_noise(noise: Any, shape: Shape) -> None:
    """Raise unless `noise` can draw, and score, points of this shape."""
    if not (hasattr(noise, "sample") and hasattr(noise, "log_prob")):
        raise TypeError(
            "`noise` must have `sample(rng_key, sample_shape)` and `log_prob(x)`, as NumPyro's "
            f"and FlowJAX's distributions do, got {type(noise).__name__}."
        )
    drawn = jax.eval_shape(lambda: noise.sample(jr.key(0), (2,)))
    scored = jax.eval_shape(lambda: noise.log_prob(jnp.zeros((2, *shape))))
    if drawn.shape != (2, *shape) or scored.shape != (2,):
        raise ValueError(
            f"`noise` must draw one point of shape {shape} at a time, got draws of shape "
            f"{drawn.shape[1:]} whose `log_prob` has shape {scored.shape[1:]}. `to_event` "
            "makes one distribution of a batch of coordinates."
        )


def _first(flags: Any) -> tuple[int, ...]:
    """The index of the first true entry."""
    return tuple(int(i) for i in np.argwhere(flags)[0])


def user_level() -> int:
    """The `stacklevel` that makes a warning point at the code which called the library."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in _LIBRARIES:
        frame, level = frame.f_back, level + 1
    return level


_LIBRARIES = {"numpyro_ebm", "numpyro", "jax"}


def as_array(values: Any, name: str) -> Any:
    """`values` as an array of real numbers; the columns of a table become coordinates."""
    if hasattr(values, "columns") and hasattr(values, "items"):  # pandas' `DataFrame`.
        # One by one, because columns of different types together make an object array.
        columns = [as_array(column, f"{name}[{key!r}]") for key, column in values.items()]
        return np.array(columns).T
    array = values if isinstance(values, jax.Array) else np.asarray(values)
    kind = array.dtype.kind
    if kind in "OSUVMmc":
        remedy = {
            "c": "Pass real and imaginary parts as separate coordinates.",
            "O": "Rows of different lengths, or None among them, make an object array.",
        }.get(kind, "Pass numbers.")
        raise TypeError(f"`{name}` must be real numbers, got dtype {array.dtype}. {remedy}")
    return array


def as_data(data: Any, name: str = "data") -> Array:
    """`data` as floats, one point per row; raises if empty, not numeric, or not finite."""
    if isinstance(data, Tracer):
        return data
    array = as_array(data, name)
    if array.ndim == 0 or array.shape[0] == 0:
        raise ValueError(
            f"`{name}` must hold at least one point along its first axis, got shape "
            f"{array.shape}."
        )
    array = jnp.asarray(array, jnp.result_type(float))
    bad = ~np.isfinite(np.asarray(array))
    if bad.any():
        raise ValueError(
            f"`{name}` must be finite, got {int(bad.sum())} NaN or infinite values, the first "
            f"at index {_first(bad)}. Remove or impute them first."
        )
    return array


def as_automatic(sharding: Sharding | None) -> Sharding | None:
    """`sharding` on a mesh whose axes JAX manages, which those of `jax.make_mesh` are not.

    On explicit axes, each slice of an array would have to name its sharding.
    """
    if not isinstance(sharding, NamedSharding):
        return sharding
    mesh = Mesh(np.asarray(sharding.mesh.devices), sharding.mesh.axis_names)
    return NamedSharding(mesh, sharding.spec)


def as_factor(name: str, value: Any) -> Array:
    """`value` as a number that multiplies an energy."""
    if callable(value):
        raise TypeError(
            f"The {name} of an energy must be a number, got {type(value).__name__}; energies "
            "are combined by `+` and `-`."
        )
    factor = as_finite(name, value)
    if factor.ndim:
        raise ValueError(f"The {name} of an energy must be a scalar, got shape {factor.shape}.")
    return factor
