"""All states of a few binary units."""

import numpy as np

from .._checks import as_floats
from .._types import Array, Float

#: 2^20 states of 20 units take 80 MB.
_MAX_ENUMERATED = 20


def bits(size: int) -> Float[Array, "n {size}"]:
    """All words of `size` bits."""
    words = np.arange(2**size)[:, None] >> np.arange(size) & 1
    return as_floats(words)


def is_enumerable(num_units: int) -> bool:
    return num_units <= _MAX_ENUMERATED
