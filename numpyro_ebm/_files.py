"""Files that hold named arrays and a description, written completely or not at all."""

import contextlib
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist

from ._types import Array, PyTree

_FORMAT = 2
_DESCRIPTION = "description.json"
_MAGIC = b"numpyro_ebm "


def leaf_names(tree: PyTree) -> list[str]:
    """A name for each leaf, in JAX's order of the leaves.

    With NumPyro distributions inside, that order changes between runs of Python, because their
    fields come in the order of a set. The names do not change.
    """
    leaves, treedef = jax.tree.flatten(tree)
    names = [""] * len(leaves)
    for name, place in _walk("", treedef.unflatten(range(len(leaves)))):
        names[place] = name
    return names


def _walk(name: str, node: Any) -> Iterator[tuple[str, int]]:
    if isinstance(node, int):
        yield name, node
        return
    if isinstance(node, dist.Distribution):
        fields = type(node).gather_pytree_data_fields()
        children = [(f".{field}", vars(node).get(field)) for field in sorted(fields)]
    else:
        pairs = jax.tree_util.tree_leaves_with_path(node, is_leaf=lambda x: x is not node)
        children = [(jax.tree_util.keystr(path), child) for path, child in pairs]
    for key, child in children:
        if child is not None:
            yield from _walk(name + key, child)


def write_file(path: Path, description: dict, arrays: dict[str, Array]) -> None:
    """Replace the file at `path`, in one step."""
    entries = [[name, kind_of(x), list(x.shape)] for name, x in arrays.items()]
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as file:
        text = json.dumps({"format": _FORMAT, "arrays": entries, **description})
        file.writestr(_DESCRIPTION, text)
        for i, array in enumerate(arrays.values()):
            data = jr.key_data(array) if _is_key(array) else array
            file.writestr(f"{i}", np.asarray(data).tobytes())
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(draft, "wb") as file:
            file.write(_MAGIC + _digest(body.getvalue()) + b"\n" + body.getvalue())
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_file(path: Path) -> tuple[dict, dict[str, Array]]:
    """The description and the arrays that `write_file` wrote.

    **Raises** `ValueError` if anything in the file has changed since.
    """
    head, _, body = path.read_bytes().partition(b"\n")
    if head != _MAGIC + _digest(body):
        raise damaged(path)
    with as_damaged(path), zipfile.ZipFile(io.BytesIO(body)) as file:
        description = json.loads(file.read(_DESCRIPTION))
        if description["format"] != _FORMAT:
            raise UnreadableError(
                f"`{path}` has format {description['format']}, this version reads "
                f"{_FORMAT}: it was written by another version of numpyro_ebm."
            )
        arrays = {
            name: _array(file.read(f"{i}"), dtype, shape)
            for i, (name, dtype, shape) in enumerate(description["arrays"])
        }
    return description, arrays


class UnreadableError(ValueError):
    """The file holds something that this version or this run cannot read."""


@contextlib.contextmanager
def as_damaged(path: Path) -> Iterator[None]:
    """Turn any error inside, other than `UnreadableError`, into one about a damaged file."""
    try:
        yield
    except UnreadableError:
        raise
    except Exception as error:
        raise damaged(path) from error


def damaged(path: Path) -> ValueError:
    return ValueError(f"`{path}` is not a file that `ebm.save` wrote, or is damaged.")


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


def kind_of(array: Array) -> str:
    """The dtype, or the algorithm of random keys."""
    return f"key {jr.key_impl(array)}" if _is_key(array) else str(array.dtype)


def _is_key(array: Array) -> bool:
    return jnp.issubdtype(array.dtype, jax.dtypes.prng_key)


def _array(data: bytes, kind: str, shape: list[int]) -> Array:
    if kind.startswith("key "):
        words = _numbers(data, "uint32", [*shape, -1])
        return jr.wrap_key_data(words, impl=kind.removeprefix("key "))
    return _numbers(data, kind, shape)


def _numbers(data: bytes, kind: str, shape: list[int]) -> Array:
    array = np.frombuffer(data, jnp.dtype(kind)).reshape(shape)
    restored = jnp.asarray(array)
    if restored.dtype != array.dtype:
        raise UnreadableError(
            f"The file holds {array.dtype} arrays, which JAX would cut to {restored.dtype}: "
            'set `jax.config.update("jax_enable_x64", True)` before you load it.'
        )
    return restored
