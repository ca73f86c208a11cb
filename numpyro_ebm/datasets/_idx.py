"""The format of MNIST's files: a header, then bytes."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """The bytes of an idx file as an array of `ndim` axes; compressed, if it ends in `.gz`.

    The header is 0, 0, 8 (the code of bytes), the number of axes, and their lengths as
    big-endian integers of four bytes.
    """
    content = _content(path)
    magic = bytes([0, 0, 8, ndim])
    if content[:4] != magic:
        raise ValueError(
            f"`path` must hold idx files, and {path} begins with {content[:4].hex(' ')!r} "
            f"instead of {magic.hex(' ')!r}: it is damaged, or another file of that name."
        )
    start = 4 + 4 * ndim
    shape = tuple(int(size) for size in np.frombuffer(content[4:start].ljust(4 * ndim), ">u4"))
    if len(content) != start + math.prod(shape):
        raise ValueError(
            f"`path` must hold whole idx files, and {path} has {len(content)} bytes, which are "
            f"not those of an array of shape {shape}: copy it again."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"`path` must hold whole gzip files, and {path} is not one: copy it again."
        ) from error
