"""How much longer one function takes than another, from the operations they are made of."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def work(fn: Callable[..., Any], *args: Any) -> int:
    """The number of operations on single numbers, without computing anything.

    On many chains at once, a rough measure of time. The body of a loop of unknown length
    counts once.
    """
    return _work(jax.make_jaxpr(fn)(*args).jaxpr)


def _work(jaxpr: Jaxpr) -> int:
    return sum(map(_of_equation, jaxpr.eqns))


def _of_equation(equation: Any) -> int:
    inner = [_work(jaxpr) for jaxpr in _parts(equation.params)]
    if inner and equation.primitive.name == "cond":
        return max(inner)
    if inner:
        return equation.params.get("length", 1) * sum(inner)
    sizes = [math.prod(v.aval.shape) for v in (*equation.invars, *equation.outvars)]
    if equation.primitive.name == "dot_general":
        (summed, _), _ = equation.params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * math.prod(shape[i] for i in summed) * sizes[-1]
    return max(sizes)


def _parts(params: dict[str, Any]) -> Iterator[Jaxpr]:
    """The programs inside an operation, such as the body of a loop."""
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, Jaxpr):
                yield part
