"""Energies on disk: arrays and a description; nothing in a file is executed."""

import dataclasses
import functools
import inspect
import os
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import PyTree
from numpyro.distributions import constraints, transforms

from . import energies
from ._files import UnreadableError, as_damaged, kind_of, leaf_names, read_file, write_file
from ._trainable import Frozen
from ._types import Array


def save(path: str | os.PathLike, energy: PyTree) -> None:
    """Write an energy and its hyper-parameters to one file, completely or not at all.

    ```python
    ebm.save("moons.ebm", energy)
    energy = ebm.load("moons.ebm")
    ```

    **Arguments**

    - `path`: the file; an existing one is replaced.
    - `energy`: an energy, or any pytree of arrays.
    """
    write_file(Path(path), describe(energy), named_arrays(energy))


def load(path: str | os.PathLike, *, like: PyTree = None) -> Any:
    """Read what [`save`][numpyro_ebm.save] wrote.

    Without `like`, energies of this library and their parts (Equinox layers, NumPyro
    distributions and transforms, JAX activations) are rebuilt. Nothing is unpickled, and no
    name in the file is imported: classes are looked up in a fixed table.

    **Arguments**

    - `path`: the file.
    - `like`: an energy of the same structure, whose arrays are replaced: needed if it contains
      classes or functions of your own.

    **Raises** `ValueError` if the file was not written by `save` or has changed since, holds a
    class of your own and no `like` is given, or disagrees with `like` or with the library's
    current class.
    """
    path = Path(path)
    description, arrays = read_file(path)
    if like is not None:
        return fill(like, path, description, arrays)
    with as_damaged(path):
        return _decode(_upgraded(description["energy"]), arrays)


def fill(like: PyTree, path: Path, description: dict, arrays: dict[str, Array]) -> PyTree:
    """`like` with the arrays of a file.

    **Raises** `ValueError` if the file disagrees with it.
    """
    here, own = describe(like), named_arrays(like)
    with as_damaged(path):
        _check_age(description, arrays, own)
        if description["class"] != here["class"]:
            raise UnreadableError(
                f"The file holds a `{description['class']}`, `like` is a `{here['class']}`."
            )
        for name in sorted({*arrays, *own}):
            saved, mine = _show(arrays.get(name)), _show(own.get(name))
            if saved != mine:
                raise UnreadableError(
                    f"The file disagrees with `like`: it holds {saved} as {name}, where `like` "
                    f"has {mine}."
                )
        difference = _difference(description["energy"], here["energy"])
        if difference is not None:
            raise UnreadableError(f"The file disagrees with `like`: {difference}.")
    leaves, treedef = jax.tree.flatten(like)
    named = zip(leaf_names(like), leaves, strict=True)
    return treedef.unflatten([arrays[name] if eqx.is_array(x) else x for name, x in named])


def _check_age(description: dict, arrays: dict[str, Array], own: dict[str, Array]) -> None:
    if _upgraded(description["energy"]) != description["energy"]:
        raise UnreadableError(
            "The file is from a version in which a network held its own reference, and `like` "
            "cannot take it. `ebm.load(path)`, without `like`, reads it, unless it holds a "
            "class of your own: then it needs the version that wrote it."
        )
    # Parts of a foreign class, such as the state of a run, are known only by their names.
    if {_INSIDE.sub("", name) for name in own} == arrays.keys() != own.keys():
        raise UnreadableError(
            "The file holds a network without a reference, or is from a version in which a "
            "network held its own: give a `like` without a reference, or use the version that "
            "wrote the file."
        )


def _show(array: Array | None) -> str:
    return "nothing" if array is None else f"{kind_of(array)}{list(array.shape)}"


def describe(energy: PyTree) -> dict:
    index = {id(array): name for name, array in named_arrays(energy).items()}
    return {"class": type(energy).__name__, "energy": _encode(energy, index)}


def named_arrays(tree: PyTree) -> dict[str, Array]:
    named = zip(leaf_names(tree), jax.tree.leaves(tree), strict=True)
    return dict(sorted((name, x) for name, x in named if eqx.is_array(x)))


def _encode(obj: Any, index: dict[int, str]) -> Any:
    """`obj` as JSON; arrays appear by their names in the file."""
    if obj is None or type(obj) in (bool, int, float, str):
        return obj
    if id(obj) in index:
        return {"array": index[id(obj)]}
    if type(obj) in _CONTAINERS.values():
        items = obj.items() if isinstance(obj, dict) else obj
        return {type(obj).__name__: [_encode(item, index) for item in items]}
    return _encode_by_name(obj, index)


def _encode_by_name(obj: Any, index: dict[int, str]) -> dict:
    name = next((name for name, known in _functions().items() if known is obj), None)
    if name is not None:
        return {"function": name}
    for kind, known in _classes().items():
        if known.get(type(obj).__name__) is type(obj):
            fields = {name: _encode(value, index) for name, value in _fields(obj).items()}
            return {kind: type(obj).__name__, "fields": fields}
    return {"foreign": f"{type(obj).__module__}.{type(obj).__qualname__}"}


def _decode(code: Any, arrays: dict[str, Array]) -> Any:
    if not isinstance(code, dict):
        return code
    if "array" in code:
        return arrays[code["array"]]
    for name, kind in _CONTAINERS.items():
        if name in code:
            return kind(_decode(item, arrays) for item in code[name])
    return _decode_by_name(code, arrays)


def _decode_by_name(code: dict, arrays: dict[str, Array]) -> Any:
    if "foreign" in code:
        raise UnreadableError(
            f"The energy has a part of type `{code['foreign']}`, which is not of this library: "
            "build an energy of the same structure and pass it, "
            "`ebm.load(path, like=that_energy)`."
        )
    if "function" in code:
        return _look_up(_functions(), code["function"])
    kind = next(kind for kind in code if kind != "fields")
    cls = _look_up(_look_up(_classes(), kind), code[kind])
    fields = {name: _decode(value, arrays) for name, value in code["fields"].items()}
    return _BUILD[kind](cls, fields)


def _upgraded(code: Any) -> Any:
    """A pre-0.1 description, when a network held its own reference, as a current one."""
    if isinstance(code, list):
        return [_upgraded(item) for item in code]
    if not isinstance(code, dict):
        return code
    code = {name: _upgraded(item) for name, item in code.items()}
    return _on_reference(code) if code.get("module") in _NETWORKS else code


def _on_reference(code: dict) -> dict:
    fields = dict(code["fields"])
    reference = fields.pop("reference")
    network = {"module": _NETWORKS[code["module"]], "fields": fields}
    tilted = {"module": "Tilted", "fields": {"energy": network, "reference": reference}}
    return network if reference is None else tilted


def _look_up(table: dict[str, Any], name: str) -> Any:
    if name not in table:
        raise UnreadableError(f"The file needs `{name}`, which this version does not know.")
    return table[name]


def _difference(saved: Any, own: Any, path: str = "energy") -> str | None:
    """The first place in which two descriptions differ."""
    if type(saved) is type(own) is dict and saved.keys() == own.keys():
        pairs = ((saved[k], own[k], path if k in _SILENT else f"{path}.{k}") for k in saved)
    elif type(saved) is type(own) is list and len(saved) == len(own):
        pairs = (
            (a, b, f"{path}[{i}]") for i, (a, b) in enumerate(zip(saved, own, strict=True))
        )
    else:
        return None if saved == own else f"`{path}` is {saved} in the file, and {own} here"
    found = (_difference(*pair) for pair in pairs)
    return next((difference for difference in found if difference is not None), None)


#: In the name of an array: a network inside the `Tilted` that now holds its reference.
_INSIDE = re.compile(r"\.energy(?=\.(network|kernels|biases|head)\b)")
_NETWORKS = {"MLPEnergy": "MLPNetwork", "ConvEnergy": "ConvNetwork"}
_CONTAINERS = {kind.__name__: kind for kind in (tuple, list, dict, OrderedDict)}
_SILENT = {"fields", *_CONTAINERS}


def _fields(obj: Any) -> dict[str, Any]:
    if isinstance(obj, eqx.Module):
        return {field.name: getattr(obj, field.name) for field in dataclasses.fields(obj)}
    values, aux = obj.tree_flatten()
    if isinstance(obj, dist.Distribution):
        # By name: NumPyro's order of the fields changes between runs of Python.
        data, static = _distribution_fields(type(obj))
        return {**dict(zip(data, values, strict=True)), **dict(zip(static, aux, strict=True))}
    names, static = aux
    return {"names": list(names), "values": list(values), "static": static}


def _build_module(cls: type, fields: dict[str, Any]) -> Any:
    expected = {field.name for field in dataclasses.fields(cls)}
    if expected != set(fields):
        raise UnreadableError(
            f"The file and the class `{cls.__name__}` disagree: its fields are "
            f"{sorted(expected)} in this version, and {sorted(fields)} in the file."
        )
    module = object.__new__(cls)
    for name, value in fields.items():
        object.__setattr__(module, name, value)
    return module


def _build_distribution(cls: Any, fields: dict[str, Any]) -> Any:
    data, static = _distribution_fields(cls)
    if {*data, *static} != set(fields):
        raise UnreadableError(
            f"The file was written with another version of NumPyro: the fields of "
            f"`{cls.__name__}` are {sorted({*data, *static})} here, and {sorted(fields)} there."
        )
    return cls.tree_unflatten(tuple(map(fields.get, static)), tuple(map(fields.get, data)))


def _build_transform(cls: Any, fields: dict[str, Any]) -> Any:
    return cls.tree_unflatten((tuple(fields["names"]), fields["static"]), fields["values"])


def _distribution_fields(cls: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return cls.gather_pytree_data_fields(), cls.gather_pytree_aux_fields()


_BUILD = {
    "module": _build_module,
    "distribution": _build_distribution,
    "transform": _build_transform,
}


@functools.cache
def _classes() -> dict[str, dict[str, type]]:
    """Everything a file may name; a name that isn't here is not looked up elsewhere."""
    modules = _subclasses(eqx.Module, energies, eqx.nn) | {"Frozen": Frozen}
    moves = (transforms.Transform, constraints.Constraint)
    return {
        "module": modules,
        "distribution": _subclasses(dist.Distribution, dist),
        "transform": _subclasses(moves, energies, transforms, constraints),
    }


def _subclasses(base: type | tuple[type, ...], *rooms: Any) -> dict[str, type]:
    members = (member for room in rooms for member in vars(room).values())
    return {m.__name__: m for m in members if isinstance(m, type) and issubclass(m, base)}


@functools.cache
def _functions() -> dict[str, Any]:
    names = (
        "silu swish gelu softplus elu selu celu relu relu6 leaky_relu sigmoid hard_tanh tanh"
    )
    known = {name: getattr(jax.nn, name) for name in names.split()} | {"jnp.tanh": jnp.tanh}
    # The last activation of an `eqx.nn.MLP`, which Equinox doesn't export.
    final = inspect.signature(eqx.nn.MLP.__init__).parameters["final_activation"].default
    return known | {"identity": final}
