"""Objects compared by value: for shared compilations, and for checking files."""

import dataclasses
import functools
import hashlib
import types
from collections.abc import Callable, Hashable
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.core import Tracer


@runtime_checkable
class HasParts(Protocol):
    """An object that defines what it is compared by."""

    def parts_by_value(self) -> tuple[Any, ...]: ...


class ByValue:
    """Holds an object made of functions; equal to another one that computes the same.

    Optax's optimisers are functions that hold their learning rate in a closure: rebuilt with
    the same arguments, they have the same code and equal closures. An object that can change,
    or is of an unknown kind, equals only itself: two that differ are never taken for equal.
    """

    def __init__(self, value: Any) -> None:
        self.value = value
        self._key = _Walk(_Identity).value(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByValue) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def fingerprint(obj: Any) -> str:
    """A digest of `obj`, the same in every process that builds it in the same way."""
    return _digest(repr(_Walk(_name).value(obj)).encode())


class _Walk:
    """Turns an object, which may refer to itself, into nested tuples.

    - `leaf`: represents an object without known parts: the object itself, or its name.
    """

    def __init__(self, leaf: Callable[[Any], Hashable]) -> None:
        self.leaf = leaf
        self.is_strict = leaf is _Identity
        # Keeps the objects alive, so no other object can reuse the `id` of one of them.
        self._known: dict[int, tuple[Any, Hashable]] = {}

    def value(self, obj: Any) -> Hashable:
        if obj is None or isinstance(obj, bool | int | float | complex | str | bytes):
            return type(obj).__name__, repr(obj)
        if id(obj) not in self._known:
            self._known[id(obj)] = obj, ("cycle", len(self._known))
            parts = self._parts(obj)
            # Short, because an object may be a part of many others.
            value = parts if self.is_strict else _digest(repr(parts).encode())
            self._known[id(obj)] = obj, value
        return self._known[id(obj)][1]

    def _parts(self, obj: Any) -> Hashable:
        for kind, parts in _FIXED + (() if self.is_strict else _CHANGEABLE):
            if isinstance(obj, kind):
                return parts(self, obj)
        return self.leaf(obj)

    def values(self, *objects: Any) -> tuple[Hashable, ...]:
        return tuple(map(self.value, objects))

    def fields(self, items: dict[Any, Any]) -> tuple[Hashable, ...]:
        return tuple(self.values(*pair) for pair in items.items())


def _array(walk: _Walk, x: jax.Array) -> Hashable:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return "key", str(jax.random.key_impl(x)), walk.value(jax.random.key_data(x))
    return _numbers(walk, np.asarray(x))


def _numbers(walk: _Walk, x: Any) -> Hashable:
    return "array", str(x.dtype), x.shape, _digest(x.tobytes())


def _function(walk: _Walk, fn: types.FunctionType) -> Hashable:
    closure = _closure(fn)
    named = walk.fields(fn.__kwdefaults__ or {})
    return (
        *walk.values(fn.__code__, fn.__defaults__, *closure),
        *(walk.leaf(fn.__globals__), fn.__qualname__, named),
    )


def _closure(fn: types.FunctionType) -> list[Any]:
    """The contents of a function's closure cells, of those already filled."""
    found = []
    for cell in fn.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:
            continue
    return found


def _code(walk: _Walk, code: types.CodeType) -> Hashable:
    if walk.is_strict:
        return code  # Python compares these by value.
    return code.co_code, code.co_names, *walk.values(*code.co_consts)


def _module(walk: _Walk, module: eqx.Module) -> Hashable:
    names = [field.name for field in dataclasses.fields(module)]  # pyright: ignore
    fields = {name: getattr(module, name, None) for name in names}
    return walk.leaf(type(module)), *walk.fields(fields)


def _distribution(walk: _Walk, it: dist.Distribution) -> Hashable:
    names = {*it.gather_pytree_data_fields(), *it.gather_pytree_aux_fields()}
    return walk.leaf(type(it)), *walk.fields(
        {name: vars(it).get(name) for name in sorted(names)}
    )


_Kinds = tuple[tuple[Any, Callable[[_Walk, Any], Hashable]], ...]

#: Objects that do not change after creation.
_FIXED: _Kinds = (
    (Tracer | type | types.ModuleType | types.BuiltinFunctionType, lambda w, x: w.leaf(x)),
    (jax.Array, _array),
    (jax.ShapeDtypeStruct, lambda w, x: ("shape", str(x.dtype), x.shape)),
    (types.FunctionType, _function),
    (types.CodeType, _code),
    (types.MethodType, lambda w, x: ("method", *w.values(x.__func__, x.__self__))),
    (functools.partial, lambda w, x: (*w.values(x.func, x.args), w.fields(x.keywords))),
    (tuple, lambda w, x: (w.leaf(type(x)), *w.values(*x))),
    (eqx.Module, _module),
    (HasParts, lambda w, x: (w.leaf(type(x)), w.value(x.parts_by_value()))),
)
#: Objects that may change: taken as they are now. To strict walks each equals only itself.
_CHANGEABLE: _Kinds = (
    (np.ndarray | np.generic, _numbers),
    (dist.Distribution, _distribution),
    (list, lambda w, x: ("list", *w.values(*x))),
    (dict, lambda w, x: ("dict", *w.fields(x))),
    (set | frozenset, lambda w, x: ("set", *sorted(map(repr, w.values(*x))))),
    (object, lambda w, x: (w.leaf(x), *w.fields(getattr(x, "__dict__", {})))),
)


class _Identity:
    """Equal only to itself, and keeps its object alive."""

    def __init__(self, obj: Any) -> None:
        self.obj = obj

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.obj is other.obj

    def __hash__(self) -> int:
        return id(self.obj)


def _name(obj: Any) -> str:
    if isinstance(obj, dict):
        return str(obj.get("__name__"))  # The globals of a function.
    if isinstance(obj, types.ModuleType):
        return obj.__name__
    named = obj if isinstance(obj, type | types.BuiltinFunctionType) else type(obj)
    return f"{named.__module__}.{named.__qualname__}"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
