"""Energies with binary hidden units, normalised by enumeration."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpyro.distributions as dist
from jax.scipy.special import logsumexp

from .._checks import as_floats, finite
from .._types import Array, Float, Key, Sampler, Scalar, Shape
from ._base import AbstractEnergy
from ._latent import LatentEnergy
from ._states import bits, is_enumerable


class AbstractRBM(AbstractEnergy):
    r"""A restricted Boltzmann machine; its energy is the free energy of the visible units.

    **Arguments**

    - `weights`: $W$, of shape `(visible, hidden)`.
    - `visible_bias`, `hidden_bias`: $b$ and $c$.
    """

    weights: Float[Array, "*v h"] = eqx.field(converter=finite("weights", False))
    visible_bias: Float[Array, "*v"] = eqx.field(converter=finite("visible_bias", False))
    hidden_bias: Float[Array, " h"] = eqx.field(converter=finite("hidden_bias", False))
    #: The axes of the visible layer.
    layer: ClassVar[tuple[str, ...]] = ("visible",)

    def __check_init__(self) -> None:
        shape = (*self.visible_bias.shape, *self.hidden_bias.shape)
        if len(shape) != len(self.layer) + 1 or self.weights.shape != shape:
            names = ", ".join(self.layer)
            raise ValueError(
                f"`weights` must have shape ({names}, hidden), `visible_bias` ({names}) and "
                f"`hidden_bias` (hidden), got {self.weights.shape}, "
                f"{self.visible_bias.shape} and {self.hidden_bias.shape}."
            )

    @classmethod
    def create(cls, num_visible: int, num_hidden: int, *, key: Key) -> "AbstractRBM":
        """A machine to train, whose weights have standard deviation 0.01 [Hinton 2012]."""
        weights = 0.01 * jr.normal(key, (num_visible, num_hidden))
        return cls(weights, jnp.zeros(num_visible), jnp.zeros(num_hidden))

    @property
    def event_shape(self) -> Shape:
        return self.visible_bias.shape[:1]

    @property
    def joint(self) -> LatentEnergy:
        """The energy of both layers; a point is `{"x": v, "z": h}`."""
        return LatentEnergy(self.joint_energy, self.event_shape)

    @abc.abstractmethod
    def joint_energy(self, visible: Float[Array, " v"], hidden: Float[Array, " h"]) -> Scalar:
        """The energy of one configuration of both layers."""

    @abc.abstractmethod
    def visible_given_hidden(self, hidden: Float[Array, "*n h"]) -> dist.Distribution:
        r"""$p(v \mid h)$, independent units."""

    def gibbs_sweep(self, rng_key: Key, x: Float[Array, " v"]) -> Float[Array, " v"]:
        """Draw the hidden units given the visible ones, then the visible ones given those."""
        hidden_key, visible_key = jr.split(rng_key)
        hidden = as_floats(self.hidden_given_visible(x).sample(hidden_key))
        return as_floats(self.visible_given_hidden(hidden).sample(visible_key))

    def hidden_given_visible(self, visible: Float[Array, "*n v"]) -> dist.Distribution:
        r"""$p(h \mid v)$: independent units with mean $\sigma(c + W^\top v)$."""
        return _bernoulli(self.hidden_bias + self._inputs(visible))

    def _inputs(self, visible: Float[Array, "*n v"]) -> Float[Array, "*n h"]:
        r"""$W^\top v$."""
        return visible @ self.weights


class BernoulliRBM(AbstractRBM):
    r"""$-b^\top v - \sum_j \operatorname{softplus}(c_j + W_j^\top v)$, the free energy of $v$.

    A restricted Boltzmann machine: visible units $v$ and hidden units $h$ in $\{0, 1\}$ with
    the joint energy $-b^\top v - c^\top h - v^\top W h$, which is `rbm.joint`. If either layer
    has at most 20 units, enumerating it gives exact `log_z`, moments and `sample`.

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
        r"""$p(v \mid h)$: independent units with mean $\sigma(b + W h)$."""
        return _bernoulli(self.visible_bias + hidden @ self.weights.T)

    def __call__(self, x: Float[Array, " v"]) -> Scalar:
        return -x @ self.visible_bias - jnp.sum(
            jax.nn.softplus(self.hidden_bias + x @ self.weights)
        )

    @property
    def _is_small(self) -> bool:
        return is_enumerable(min(self.weights.shape))

    def _draw(self, rng_key: Key, sample_shape: Shape = ()) -> Float[Array, "*n v"]:
        log_weights, visible = self._enumerate()
        state_key, visible_key = jr.split(rng_key)
        mean = visible[jr.categorical(state_key, log_weights, shape=sample_shape)]
        return as_floats(jr.bernoulli(visible_key, mean))

    def _enumerate(self) -> tuple[Float[Array, " n"], Float[Array, "n v"]]:
        """Log-weights of the states of the smaller layer, and E[v] in each."""
        num_visible, num_hidden = self.weights.shape
        if num_visible < num_hidden:
            visible = bits(num_visible)
            return -jax.vmap(self)(visible), visible
        hidden = bits(num_hidden)
        logits = self.visible_bias + hidden @ self.weights.T
        log_weights = hidden @ self.hidden_bias + jnp.sum(jax.nn.softplus(logits), axis=1)
        return log_weights, jax.nn.sigmoid(logits)


class GaussianBernoulliRBM(AbstractRBM):
    r"""$\tfrac12\lVert v - b\rVert^2 - \sum_j \operatorname{softplus}(c_j + W_j^\top v)$.

    The free energy of real visible units $v$ with binary hidden units, for the joint energy
    $\tfrac12\lVert v - b\rVert^2 - c^\top h - v^\top W h$: a mixture of $2^H$ Gaussians written
    as a network. With up to 20 hidden units, `log_z`, the moments and `sample` are exact.

    **Arguments**

    - `weights`: $W$, of shape `(visible, hidden)`.
    - `visible_bias`, `hidden_bias`: $b$ and $c$.
    """

    @property
    def joint(self) -> LatentEnergy:
        """The energy of both layers; a point is `{"x": v, "z": h}`, real and binary."""
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
        return is_enumerable(len(self.hidden_bias))

    def _draw(self, rng_key: Key, sample_shape: Shape = ()) -> Float[Array, "*n v"]:
        log_weights, locs = self._enumerate()
        state_key, noise_key = jr.split(rng_key)
        mean = locs[jr.categorical(state_key, log_weights, shape=sample_shape)]
        return mean + jr.normal(noise_key, mean.shape)

    def _enumerate(self) -> tuple[Float[Array, " n"], Float[Array, "n v"]]:
        """Log-weights of the hidden states, and the mean of `v` in each."""
        hidden = bits(len(self.hidden_bias))
        shifts = hidden @ self.weights.T
        visible_bias = self.visible_bias[None]
        lift = jnp.sum(shifts * (visible_bias + 0.5 * shifts), axis=1)
        return hidden @ self.hidden_bias + lift, visible_bias + shifts


def _bernoulli(logits: Array) -> dist.Distribution:
    return dist.Bernoulli(logits=logits).to_event(1)
