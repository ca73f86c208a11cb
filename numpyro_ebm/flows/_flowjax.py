"""The only door to FlowJAX and Paramax, which are optional."""

import functools
import importlib
from typing import Any, NamedTuple


class _FlowJAX(NamedTuple):
    """Modules of FlowJAX, and Paramax."""

    bijections: Any
    distributions: Any
    flows: Any
    paramax: Any


@functools.cache
def flowjax() -> _FlowJAX:
    """FlowJAX, imported when it is first needed."""
    try:
        names = "flowjax.bijections", "flowjax.distributions", "flowjax.flows", "paramax"
        return _FlowJAX(*map(importlib.import_module, names))
    except ImportError as error:
        raise ImportError(
            'Building a flow needs FlowJAX: pip install "numpyro-ebm[flows]".'
        ) from error
