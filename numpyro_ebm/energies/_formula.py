"""How an energy is printed."""

from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
from jax.core import Tracer


def name_of(obj: Any) -> str:
    """The name of a function, a transform or a distribution in a formula."""
    while isinstance(obj, dist.Independent | dist.ExpandedDistribution):
        obj = obj.base_dist
    return getattr(obj, "__name__", type(obj).__name__)


def show_number(value: Any) -> str:
    return "?" if isinstance(value, Tracer) else f"{float(value):.4g}"


def show_term(text: str) -> str:
    return f"({text})" if " + " in text or " - " in text else text


def show_sum(*terms: str) -> str:
    return " + ".join(terms).replace("+ -", "- ")


def is_number(value: Any) -> bool:
    if isinstance(value, jax.Array | np.ndarray):
        return value.ndim == 0 and np.issubdtype(value.dtype, np.number)
    return isinstance(value, int | float) and not isinstance(value, bool)
