"""The normaliser of an Ising model on a ring or a torus."""

import functools
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from .._types import Array, Scalar, Shape
from ._states import bits

#: A table of 2^17 pairs of lines of 9 spins.
_MAX_WIDTH = 9


def ring_log_z(num_spins: int, coupling: Scalar, field: Scalar) -> Scalar:
    # The eigenvalues of the transfer matrix, middle +- root, both divided by e^|K + h|.
    shift = jnp.abs(coupling) + jnp.abs(field)
    middle = 0.5 * (jnp.exp(coupling + field - shift) + jnp.exp(coupling - field - shift))
    gap = 0.5 * (jnp.exp(coupling + field - shift) - jnp.exp(coupling - field - shift))
    # A root of zero would have no gradient.
    root = jnp.sqrt(gap**2 + jnp.exp(jnp.maximum(-2 * (coupling + shift), -80)))
    log_first = shift + jnp.log(middle + root)
    ratio = (middle - root) / (middle + root)
    if num_spins % 2 == 0:
        return num_spins * log_first + jnp.log1p(ratio**num_spins)
    # What is left if the powers of both eigenvalues almost cancel: u of |ratio| = 1 - u.
    log_middle = coupling + jnp.abs(field) + jnp.log1p(jnp.exp(-2 * jnp.abs(field)))
    cancels = log_middle - log_first < jnp.log(0.5)
    plain = jnp.log1p(jnp.where(cancels, 0, ratio) ** num_spins)
    log_u = jnp.where(cancels, log_middle - log_first, -1.0)
    # 1 - (1 - u)^n, in factors that are one if u vanishes.
    log_power = jnp.log(num_spins) + log_u + _log_over(lambda u: -jnp.log1p(-u), jnp.exp(log_u))
    left = log_power + _log_over(lambda y: -jnp.expm1(-y), jnp.exp(log_power))
    return num_spins * log_first + jnp.where(cancels, left, plain)


def _log_over(fn: Callable[[Array], Array], x: Array) -> Array:
    """`log(fn(x) / x)` for a function whose slope at zero is one."""
    is_tiny = x < 1e-6
    safe = jnp.where(is_tiny, 1e-6, x)
    return jnp.where(is_tiny, 0, jnp.log(fn(safe) / safe))


@functools.partial(jax.jit, static_argnums=0)
def torus_log_z(shape: Shape, coupling: Scalar) -> Scalar:
    if all(size % 2 == 0 for size in shape):
        # Flipping every other spin changes the sign of the coupling.
        return _kaufman(shape, jnp.where(coupling < 0, -coupling, coupling))[0]
    if min(shape) <= _MAX_WIDTH:
        return jax.lax.cond(
            coupling < 0,
            lambda k: _by_transfer(shape, k),
            lambda k: _kaufman(shape, k)[0],
            coupling,
        )
    log_z, error = _kaufman(shape, coupling)
    return eqx.error_if(
        log_z,
        ~(error < 1e-3),
        f"`log_z` of an `IsingModel` of shape {shape}, frustrated by this negative coupling, "
        "is a difference of numbers that agree in all digits: set `jax_enable_x64`, make the "
        f"shorter side at most {_MAX_WIDTH}, or both sides even.",
    )


def _kaufman(shape: Shape, coupling: Scalar) -> tuple[Scalar, Scalar]:
    """Kaufman's solution, as the four Pfaffians of Kasteleyn (1963), and its rounding error."""
    t = jnp.tanh(coupling)
    sectors = [_pfaffian(shape, t, shift) for shift in ((1, 1), (1, 0), (0, 1), (0, 0))]
    logs, roots = map(jnp.stack, zip(*sectors, strict=True))
    total = logsumexp(logs, b=roots * jnp.array([1.0, 1.0, 1.0, -1.0]))
    magnitude = jnp.abs(coupling)
    log_cosh = magnitude + jnp.log1p(jnp.exp(-2 * magnitude)) - jnp.log(2.0)
    log_z = math.prod(shape) * (jnp.log(2.0) + 2 * log_cosh) - jnp.log(2.0) + total
    size = jnp.maximum(jnp.abs(logs).max(), 1)
    return log_z, jnp.finfo(t.dtype).eps * size * jnp.exp(logs.max() - total)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _by_transfer(shape: Shape, coupling: Scalar) -> Scalar:
    r"""$\log\operatorname{Tr} V^n$, bond by bond; all terms are positive.

    The rows of a table are the states of the first line of spins, whose first spin is up; the
    columns are those of the last line.
    """
    width, length = sorted(shape)
    spins = 2 * bits(width) - 1
    along = coupling * jnp.sum(spins * jnp.roll(spins, 1, axis=1), axis=1)

    def add_line(_: Array, table: Array) -> Array:
        table = table + along
        for i in range(width):
            pairs = table.reshape(-1, 2, 2**i)
            table = jnp.logaddexp(pairs + coupling, pairs[:, ::-1] - coupling)
        return table.reshape(2**width, -1)

    diagonal = jnp.arange(2 ** (width - 1))
    table = jnp.full((2 ** (width - 1), 2**width), -1e30, along.dtype)
    columns = 2 * diagonal + 1
    table = table.at[diagonal, columns].set(0)
    table = jax.lax.fori_loop(0, length, lambda i, x: add_line(i, x).reshape(x.shape), table)
    return jnp.log(2.0) + logsumexp(table[diagonal, columns])


@_by_transfer.defjvp
def _by_transfer_jvp(shape: Shape, primals: tuple, tangents: tuple) -> tuple[Scalar, Scalar]:
    # Forward mode: no table has to be stored for a backward pass.
    log_z, slope = jax.jvp(
        lambda k: _by_transfer.fun(shape, k), primals, (jnp.ones_like(primals[0]),)
    )
    return log_z, slope * tangents[0]


def _pfaffian(shape: Shape, t: Scalar, shift: tuple[int, int]) -> tuple[Scalar, Scalar]:
    """One Pfaffian, as the logarithm of its positive part and a factor that changes sign.

    A wave of angles (p, q) has the square (1 + t^2)^2 - 2t(1 - t^2)(cos p + cos q). Its root
    is 1 - 2t - t^2 at (0, 0), 1 + 2t - t^2 at (pi, pi), and positive at all others.
    """
    rows, columns = (
        np.cos(np.pi * (2 * np.arange(n) + s) / n) for n, s in zip(shape, shift, strict=True)
    )
    both = rows[:, None] + columns
    at_zero, at_pi = np.isclose(both, 2), np.isclose(both, -2)
    waves = (1 + t**2) ** 2 - 2 * t * (1 - t**2) * both[~(at_zero | at_pi)]
    root = (1 - 2 * t - t**2 if at_zero.any() else 1.0) * (
        1 + 2 * t - t**2 if at_pi.any() else 1.0
    )
    return 0.5 * jnp.sum(jnp.log(waves)), jnp.asarray(root, t.dtype)
