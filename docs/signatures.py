"""How classes are made, for the API: an Equinox module takes its fields."""

import importlib
import inspect
from typing import Any

import griffe


class Signatures(griffe.Extension):
    def on_class(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        thing = getattr(
            importlib.import_module(cls.module.path), cls.name, None
        )
        if "__init__" in cls.members or not hasattr(
            thing, "__dataclass_fields__"
        ):
            return
        parameters = inspect.signature(thing).parameters.values()
        names = [
            griffe.Parameter("self"),
            *(_parameter(cls, p) for p in parameters),
        ]
        made = griffe.Function(
            "__init__", parameters=griffe.Parameters(*names)
        )
        cls.set_member("__init__", made)


def _parameter(
    cls: griffe.Class, parameter: inspect.Parameter
) -> griffe.Parameter:
    field = cls.members.get(parameter.name)
    default = parameter.default
    return griffe.Parameter(
        parameter.name,
        annotation=getattr(field, "annotation", None),
        kind=griffe.ParameterKind(parameter.kind.description),
        default=None if default is inspect.Parameter.empty else repr(default),
    )
