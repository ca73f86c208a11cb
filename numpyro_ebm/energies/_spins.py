"""Discrete energies, and energies with binary hidden units: normalised by enumeration."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

import abc
import functools
import math
from collections.abc import Callable
from typing import ClassVar, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import logsumexp

from .._checks import as_floats, as_shape, finite
from .._types import Array, Float, Key, Sampler, Scalar, Shape
from ._base import AbstractEnergy
from ._views import LatentEnergy

#: 2^20 states of 20 units are 80 MB.
_MAX_ENUMERATED = 20
#: A table of 2^17 pairs of lines of 9 spins.
_MAX_WIDTH = 9


class IsingModel(AbstractEnergy):
    r"""$-K\sum_{\langle ij\rangle} s_i s_j - h\sum_i s_i$, with $s_i = \pm 1$ on a lattice.

    `log_z` is Kaufman's exact solution on a two-dimensional torus without a field
    [[Kaufman 1949](https://doi.org/10.1103/PhysRev.76.1232)], that of the transfer matrix on a
    ring, and otherwise an enumeration of up to 20 spins; larger lattices don't know theirs.
    A torus of an odd side is frustrated by a negative coupling, and Kaufman's terms cancel:
    there a transfer matrix is applied, up to a shorter side of 9. Beyond it the value is
    checked, and a coupling at which too few digits are left raises an error. Moments and exact
    draws are by enumeration.

    **Arguments**

    - `shape`: of the lattice, one- or two-dimensional, and of one point.
    - `coupling`: $K$, the inverse temperature times the interaction.
    - `field`: $h$, or `None` for none.
    - `periodic`: whether opposite edges are neighbours.
    """

    levels: ClassVar[tuple[float, ...] | None] = (-1.0, 1.0)

    shape: Shape = eqx.field(static=True)
    coupling: Scalar = eqx.field(converter=finite("coupling"))
    field: Scalar | None = eqx.field(converter=finite("field"), default=None)
    periodic: bool = eqx.field(static=True, default=True, kw_only=True)

    def __check_init__(self) -> None:
        shape = as_shape("shape", self.shape)
        if len(shape) not in (1, 2) or min(shape) < 1:
            raise ValueError(
                f"`shape` must be that of a one- or two-dimensional lattice, got {self.shape}."
            )

    @property
    def event_shape(self) -> Shape:
        return self.shape

    @property
    def log_z(self) -> Scalar | None:
        field = jnp.zeros(()) if self.field is None else self.field
        if self.periodic and sum(size > 1 for size in self.shape) < 2:
            # Along a side of one, each spin is its own neighbour, on both ends of a bond.
            own = self.num_spins * (len(self.shape) - 1) * self.coupling
            return _ring_log_z(self.num_spins, self.coupling, field) + own
        if self.periodic and self.field is None:
            return _torus_log_z(self.shape, self.coupling)
        if not _is_enumerable(self.num_spins):
            return None
        return logsumexp(-jax.vmap(self)(self.states()))

    @property
    def num_spins(self) -> int:
        return math.prod(self.shape)

    @property
    def mean(self) -> Float[Array, "*shape"] | None:
        if not _is_enumerable(self.num_spins):
            return None
        states = self.states()
        return jnp.tensordot(jax.nn.softmax(-jax.vmap(self)(states)), states, axes=1)

    @property
    def variance(self) -> Float[Array, "*shape"] | None:
        return None if self.mean is None else 1 - self.mean**2

    @property
    def sampler(self) -> Sampler | None:
        return self._draw if _is_enumerable(self.num_spins) else None

    def states(self) -> Float[Array, "n *shape"]:
        """All configurations, $2^n$ of them."""
        return (2 * _bits(self.num_spins) - 1).reshape(-1, *self.shape)

    def gibbs_sweep(self, rng_key: Key, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Each spin drawn given its neighbours, a sublattice without neighbours at a time."""
        colors = self._colors()
        for color, key in enumerate(jr.split(rng_key, colors.max() + 1)):
            up = jr.bernoulli(key, jax.nn.sigmoid(2 * self._field_at(x)))
            x = jnp.where(colors == color, jnp.where(up, 1.0, -1.0).astype(x.dtype), x)
        return x

    def __call__(self, x: Float[Array, "*shape"]) -> Scalar:
        energy = jnp.zeros(())
        for axis in range(len(self.shape)):
            bonds = x * jnp.roll(x, -1, axis)
            if not self.periodic:
                bonds = jax.lax.slice_in_dim(bonds, 0, self.shape[axis] - 1, axis=axis)
            energy -= self.coupling * jnp.sum(bonds)
        return energy if self.field is None else energy - self.field * jnp.sum(x)

    def _draw(self, rng_key: Key, sample_shape: Shape = ()) -> Array:
        states = self.states()
        return states[jr.categorical(rng_key, -jax.vmap(self)(states), shape=sample_shape)]

    def _field_at(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """What each spin feels of its neighbours and of the field."""
        field = jnp.zeros_like(x) if self.field is None else jnp.full_like(x, self.field)
        for axis, size in enumerate(self.shape):
            if size == 1:
                continue  # Its own neighbour, a constant.
            ahead, behind = jnp.roll(x, -1, axis), jnp.roll(x, 1, axis)
            if not self.periodic:
                place = jnp.arange(size).reshape((-1,) + (1,) * (x.ndim - 1 - axis))
                ahead = jnp.where(place < size - 1, ahead, 0)
                behind = jnp.where(place > 0, behind, 0)
            field += self.coupling * (ahead + behind)
        return field

    def _colors(self) -> np.ndarray:
        """Numbers for the spins, no two neighbours of one number."""
        odd = self.periodic and any(n % 2 for n in self.shape if n > 1)
        lines = [np.arange(n) % 2 for n in self.shape]
        for line in lines if odd else ():
            line[-1] = 2 if len(line) % 2 and len(line) > 1 else line[-1]
        return np.asarray(sum(np.ix_(*lines))) % (3 if odd else 2)


class AbstractRBM(AbstractEnergy):
    r"""A restricted Boltzmann machine: its energy is the free energy of the visible units.

    **Arguments**

    - `weights`: $W$, of shape `(visible, hidden)`.
    - `visible_bias`, `hidden_bias`: $b$ and $c$.
    """

    weights: Float[Array, "v h"] = eqx.field(converter=finite("weights", False))
    visible_bias: Float[Array, " v"] = eqx.field(converter=finite("visible_bias", False))
    hidden_bias: Float[Array, " h"] = eqx.field(converter=finite("hidden_bias", False))

    def __check_init__(self) -> None:
        shape = (*self.visible_bias.shape, *self.hidden_bias.shape)
        if len(shape) != 2 or self.weights.shape != shape:
            raise ValueError(
                "`weights` must have shape (visible, hidden), `visible_bias` (visible,) and "
                f"`hidden_bias` (hidden,), got {self.weights.shape}, "
                f"{self.visible_bias.shape} and {self.hidden_bias.shape}."
            )

    @classmethod
    def create(cls, num_visible: int, num_hidden: int, *, key: Key) -> Self:
        """A machine to be trained, its weights of standard deviation 0.01 [Hinton 2012]."""
        weights = 0.01 * jr.normal(key, (num_visible, num_hidden))
        return cls(weights, jnp.zeros(num_visible), jnp.zeros(num_hidden))

    @property
    def event_shape(self) -> Shape:
        return self.visible_bias.shape

    @property
    def joint(self) -> LatentEnergy:
        """The energy of both layers, a point `{"x": v, "z": h}`."""
        return LatentEnergy(self.joint_energy, self.event_shape)

    @abc.abstractmethod
    def joint_energy(self, visible: Float[Array, " v"], hidden: Float[Array, " h"]) -> Scalar:
        """The energy of one configuration of both layers."""

    @abc.abstractmethod
    def visible_given_hidden(self, hidden: Float[Array, "*n h"]) -> dist.Distribution:
        r"""$p(v \mid h)$, independent units."""

    def gibbs_sweep(self, rng_key: Key, x: Float[Array, " v"]) -> Float[Array, " v"]:
        """The hidden units given the visible ones, and those given the hidden ones."""
        hidden_key, visible_key = jr.split(rng_key)
        hidden = as_floats(self.hidden_given_visible(x).sample(hidden_key))
        return as_floats(self.visible_given_hidden(hidden).sample(visible_key))

    def hidden_given_visible(self, visible: Float[Array, "*n v"]) -> dist.Distribution:
        r"""$p(h \mid v)$: independent units, of mean $\sigma(c + W^\top v)$."""
        return _bernoulli(self.hidden_bias + visible @ self.weights)


class BernoulliRBM(AbstractRBM):
    r"""$-b^\top v - \sum_j \operatorname{softplus}(c_j + W_j^\top v)$, the free energy of $v$.

    A restricted Boltzmann machine: visible units $v$ and hidden units $h$ in $\{0, 1\}$ with
    the joint energy $-b^\top v - c^\top h - v^\top W h$, which is `rbm.joint`. If either layer
    has at most 20 units, `log_z`, the moments and `sample` are exact, by enumeration of it.

    **Arguments**

    - `weights`: $W$, of shape `(visible, hidden)`.
    - `visible_bias`, `hidden_bias`: $b$ and $c$.
    """

    levels: ClassVar[tuple[float, ...] | None] = (0.0, 1.0)

    @property
    def log_z(self) -> Scalar | None:
        return logsumexp(self._enumerate()[0]) if self._is_small else None

    @property
    def mean(self) -> Float[Array, " v"] | None:
        if not self._is_small:
            return None
        log_weights, visible = self._enumerate()
        return jax.nn.softmax(log_weights) @ visible

    @property
    def variance(self) -> Float[Array, " v"] | None:
        return None if self.mean is None else self.mean * (1 - self.mean)

    @property
    def sampler(self) -> Sampler | None:
        return self._draw if self._is_small else None

    def joint_energy(self, visible: Float[Array, " v"], hidden: Float[Array, " h"]) -> Scalar:
        """The energy of one configuration of both layers."""
        biases = visible @ self.visible_bias + hidden @ self.hidden_bias
        return -biases - visible @ self.weights @ hidden

    def visible_given_hidden(self, hidden: Float[Array, "*n h"]) -> dist.Distribution:
        r"""$p(v \mid h)$: independent units, of mean $\sigma(b + W h)$."""
        return _bernoulli(self.visible_bias + hidden @ self.weights.T)

    def __call__(self, x: Float[Array, " v"]) -> Scalar:
        return -x @ self.visible_bias - jnp.sum(
            jax.nn.softplus(self.hidden_bias + x @ self.weights)
        )

    @property
    def _is_small(self) -> bool:
        return _is_enumerable(min(self.weights.shape))

    def _draw(self, rng_key: Key, sample_shape: Shape = ()) -> Float[Array, "*n v"]:
        log_weights, visible = self._enumerate()
        state_key, visible_key = jr.split(rng_key)
        mean = visible[jr.categorical(state_key, log_weights, shape=sample_shape)]
        return as_floats(jr.bernoulli(visible_key, mean))

    def _enumerate(self) -> tuple[Float[Array, " n"], Float[Array, "n v"]]:
        """Log-weights of the states of the smaller layer, and E[v] in each."""
        num_visible, num_hidden = self.weights.shape
        if num_visible < num_hidden:
            visible = _bits(num_visible)
            return -jax.vmap(self)(visible), visible
        hidden = _bits(num_hidden)
        logits = self.visible_bias + hidden @ self.weights.T
        log_weights = hidden @ self.hidden_bias + jnp.sum(jax.nn.softplus(logits), axis=1)
        return log_weights, jax.nn.sigmoid(logits)


class GaussianBernoulliRBM(AbstractRBM):
    r"""$\tfrac12\lVert v - b\rVert^2 - \sum_j \operatorname{softplus}(c_j + W_j^\top v)$.

    The free energy of real visible units $v$ with binary hidden units, of the joint energy
    $\tfrac12\lVert v - b\rVert^2 - c^\top h - v^\top W h$: a mixture of $2^H$ Gaussians in the
    guise of a network. With up to 20 hidden units, `log_z`, the moments and `sample` are exact.

    **Arguments**

    - `weights`: $W$, of shape `(visible, hidden)`.
    - `visible_bias`, `hidden_bias`: $b$ and $c$.
    """

    @property
    def joint(self) -> LatentEnergy:
        """The energy of both layers, a point `{"x": v, "z": h}`, real and binary."""
        return LatentEnergy(self.joint_energy, self.event_shape, is_mixed=True)

    @property
    def log_z(self) -> Scalar | None:
        if not self._is_small:
            return None
        log_weights, _ = self._enumerate()
        return logsumexp(log_weights) + 0.5 * len(self.visible_bias) * jnp.log(2 * jnp.pi)

    @property
    def mean(self) -> Float[Array, " v"] | None:
        if not self._is_small:
            return None
        log_weights, locs = self._enumerate()
        return jax.nn.softmax(log_weights) @ locs

    @property
    def variance(self) -> Float[Array, " v"] | None:
        if not self._is_small:
            return None
        log_weights, locs = self._enumerate()
        weights = jax.nn.softmax(log_weights)
        return 1 + weights @ (locs - weights @ locs) ** 2

    @property
    def sampler(self) -> Sampler | None:
        return self._draw if self._is_small else None

    def joint_energy(self, visible: Float[Array, " v"], hidden: Float[Array, " h"]) -> Scalar:
        """The energy of one configuration of both layers."""
        square = 0.5 * jnp.sum((visible - self.visible_bias) ** 2)
        return square - hidden @ self.hidden_bias - visible @ self.weights @ hidden

    def visible_given_hidden(self, hidden: Float[Array, "*n h"]) -> dist.Distribution:
        r"""$p(v \mid h)$: independent units, normal with mean $b + W h$ and variance one."""
        return dist.Normal(self.visible_bias + hidden @ self.weights.T, 1).to_event(1)

    def __call__(self, x: Float[Array, " v"]) -> Scalar:
        return 0.5 * jnp.sum((x - self.visible_bias) ** 2) - jnp.sum(
            jax.nn.softplus(self.hidden_bias + x @ self.weights)
        )

    @property
    def _is_small(self) -> bool:
        return _is_enumerable(len(self.hidden_bias))

    def _draw(self, rng_key: Key, sample_shape: Shape = ()) -> Float[Array, "*n v"]:
        log_weights, locs = self._enumerate()
        state_key, noise_key = jr.split(rng_key)
        mean = locs[jr.categorical(state_key, log_weights, shape=sample_shape)]
        return mean + jr.normal(noise_key, mean.shape)

    def _enumerate(self) -> tuple[Float[Array, " n"], Float[Array, "n v"]]:
        """Log-weights of the hidden states, and the mean of `v` in each."""
        hidden = _bits(len(self.hidden_bias))
        shifts = hidden @ self.weights.T
        lift = jnp.sum(shifts * (self.visible_bias + 0.5 * shifts), axis=1)
        return hidden @ self.hidden_bias + lift, self.visible_bias + shifts


def _ring_log_z(num_spins: int, coupling: Scalar, field: Scalar) -> Scalar:
    # The eigenvalues of the transfer matrix, middle +- root, both divided by e^|K + h|.
    shift = jnp.abs(coupling) + jnp.abs(field)
    middle = 0.5 * (jnp.exp(coupling + field - shift) + jnp.exp(coupling - field - shift))
    gap = 0.5 * (jnp.exp(coupling + field - shift) - jnp.exp(coupling - field - shift))
    # A root of zero would have no slope.
    root = jnp.sqrt(gap**2 + jnp.exp(jnp.maximum(-2 * (coupling + shift), -80)))
    log_first = shift + jnp.log(middle + root)
    ratio = (middle - root) / (middle + root)
    if num_spins % 2 == 0:
        return num_spins * log_first + jnp.log1p(ratio**num_spins)
    # Where the powers of both eigenvalues almost cancel, what is left: u of |ratio| = 1 - u.
    log_middle = coupling + jnp.abs(field) + jnp.log1p(jnp.exp(-2 * jnp.abs(field)))
    cancels = log_middle - log_first < jnp.log(0.5)
    plain = jnp.log1p(jnp.where(cancels, 0, ratio) ** num_spins)
    log_u = jnp.where(cancels, log_middle - log_first, -1.0)
    # 1 - (1 - u)^n, in factors that are one where u vanishes.
    log_power = jnp.log(num_spins) + log_u + _log_over(lambda u: -jnp.log1p(-u), jnp.exp(log_u))
    left = log_power + _log_over(lambda y: -jnp.expm1(-y), jnp.exp(log_power))
    return num_spins * log_first + jnp.where(cancels, left, plain)


def _log_over(fn: Callable[[Array], Array], x: Array) -> Array:
    """`log(fn(x) / x)`, of a function whose slope at zero is one."""
    is_tiny = x < 1e-6
    safe = jnp.where(is_tiny, 1e-6, x)
    return jnp.where(is_tiny, 0, jnp.log(fn(safe) / safe))


@functools.partial(jax.jit, static_argnums=0)
def _torus_log_z(shape: Shape, coupling: Scalar) -> Scalar:
    if all(size % 2 == 0 for size in shape):
        # Turning every other spin around changes the sign of the coupling.
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
    r"""$\log\operatorname{Tr} V^n$, bond by bond, of terms that are all positive.

    The rows of a table are the states of the first line of spins, of which the first one is
    up, and its columns those of the last line.
    """
    width, length = sorted(shape)
    spins = 2 * _bits(width) - 1
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
    # Forward: no table has to be kept for the way back.
    log_z, slope = jax.jvp(
        lambda k: _by_transfer.fun(shape, k), primals, (jnp.ones_like(primals[0]),)
    )
    return log_z, slope * tangents[0]


def _pfaffian(shape: Shape, t: Scalar, shift: tuple[int, int]) -> tuple[Scalar, Scalar]:
    """One of them, as the logarithm of its positive part and a factor that changes sign.

    A wave of angles (p, q) has the square (1 + t^2)^2 - 2t(1 - t^2)(cos p + cos q), the root of
    which is 1 - 2t - t^2 at (0, 0), 1 + 2t - t^2 at (pi, pi), and positive at all others.
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


def _bits(size: int) -> Float[Array, "n {size}"]:
    """All words of `size` bits."""
    words = np.arange(2**size)[:, None] >> np.arange(size) & 1
    return as_floats(words)


def _bernoulli(logits: Array) -> dist.Distribution:
    return dist.Bernoulli(logits=logits).to_event(1)


def _is_enumerable(num_units: int) -> bool:
    return num_units <= _MAX_ENUMERATED
