"""Neighbours of labels, and the normaliser of labels on a narrow lattice."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from .._types import Array, Float, Scalar, Shape

#: The most entries of a table of lines, or of pairs of lines.
_MAX_ENTRIES = 2**17
#: The logarithm of zero; a true -inf would have no gradient.
_NEVER = -1e30


def lattice_edges(shape: Shape, *, periodic: bool) -> np.ndarray:
    """Pairs of neighbours, as flat indices; both bonds of a periodic side of two."""
    index = np.arange(math.prod(shape)).reshape(shape)
    pairs = []
    for axis, size in enumerate(shape):
        last = size if periodic else size - 1
        ahead = np.roll(index, -1, axis)
        here, there = (np.take(x, range(last), axis).ravel() for x in (index, ahead))
        pairs.append(np.stack([here, there], 1))
    return np.concatenate(pairs)


def neighbours(edges: np.ndarray, size: int) -> np.ndarray:
    """The neighbours of each place, filled up with `size`."""
    around: list[list[int]] = [[] for _ in range(size)]
    for i, j in edges:
        if i != j:
            around[i].append(j)
            around[j].append(i)
    most = max(map(len, around), default=0)
    table = np.full((size, most), size)
    for i, others in enumerate(around):
        table[i, : len(others)] = others
    return table


def graph_colors(edges: np.ndarray, size: int) -> np.ndarray:
    """Colours of the places, as numbers; no two neighbours share one."""
    colors = np.full(size + 1, -1)
    for i, others in enumerate(neighbours(edges, size)):
        taken = set(colors[others])
        colors[i] = next(color for color in range(size) if color not in taken)
    return colors[:-1]


def can_transfer(shape: Shape, num_states: int, *, periodic: bool) -> bool:
    """Whether the states of a line, or of pairs of lines, fit into a table."""
    width = min(shape) if len(shape) == 2 else 1
    return num_states ** (width * (2 if periodic else 1)) <= _MAX_ENTRIES


def transfer_log_z(
    coupling: Scalar, fields: Float[Array, "*shape k"], *, periodic: bool
) -> Scalar:
    """Line by line, and label by label; all terms are positive.

    The rows of a table are the states of the first line if the last is its neighbour; the
    columns are those of the last line so far.
    """
    lines = fields[:, None] if fields.ndim == 2 else fields
    if lines.shape[0] < lines.shape[1]:
        lines = lines.swapaxes(0, 1)
    _, width, num_states = lines.shape
    closed = periodic and fields.ndim == 3
    along = _along(coupling, width, num_states, periodic=closed)
    bond = coupling * jnp.eye(num_states, dtype=lines.dtype)

    def with_line(table: Array, line: Array) -> Array:
        """A table whose last axes are the labels of a line, with their own energy added."""
        for i, field in enumerate(line):
            axes = [1] * (width + 1)
            axes[i + 1] = num_states
            table = table + field.reshape(axes)
        return table + along[None]

    def coupled(table: Array) -> Array:
        """Each label of the last line is replaced by that of the next, at the end."""
        for _ in range(width):
            first = jnp.moveaxis(table, 1, -1)
            bonds = jnp.broadcast_to(bond, (*first.shape, num_states))
            table = logsumexp(first[..., None] + bonds, axis=-2)
        return table

    @jax.checkpoint
    def add(table: Array, line: Array) -> tuple[Array, None]:
        return with_line(coupled(table), line), None

    line_shape = (num_states,) * width
    if not periodic:
        start = jnp.zeros((1, *line_shape), lines.dtype)
        return logsumexp(jax.lax.scan(add, with_line(start, lines[0]), lines[1:])[0])
    size = num_states**width
    start = jnp.where(np.eye(size, dtype=bool), 0.0, _NEVER).astype(lines.dtype)
    table = with_line(start.reshape(size, *line_shape), lines[0])
    table = coupled(jax.lax.scan(add, table, lines[1:])[0])
    return logsumexp(jnp.diagonal(table.reshape(size, size)))


def _along(coupling: Scalar, width: int, num_states: int, *, periodic: bool) -> Array:
    """Minus the energy of the bonds within a line, for each of its states."""
    labels = np.indices((num_states,) * width)
    if not periodic:
        return coupling * (labels[1:] == labels[:-1]).sum(0)
    return coupling * (labels == np.roll(labels, -1, 0)).sum(0)
