"""A restricted Boltzmann machine whose visible units are labels."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

from typing import ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr
import numpyro.distributions as dist
from jax.scipy.special import logsumexp

from .._checks import as_floats
from .._types import Array, Float, Key, Sampler, Scalar, Shape
from ._latent import LatentEnergy
from ._rbm import AbstractRBM
from ._states import bits, has_level, is_enumerable


class CategoricalRBM(AbstractRBM):
    r"""$-\sum_i b_{iv_i} - \sum_j \operatorname{softplus}(c_j + \sum_i W_{iv_ij})$.

    The free energy of visible labels $v_i\in\{0,\dots,k-1\}$ with hidden units
    $h\in\{0, 1\}^H$ [Salakhutdinov, Mnih and Hinton 2007]; `rbm.joint` is that of both layers.
    With up to 20 hidden units, `log_z`, `probs` and `sample` are exact, by enumerating them.
    Shown by `tests/energies/test_labels.py`.

    **Arguments**

    - `weights`: $W$, of shape `(visible, k, hidden)`.
    - `visible_bias`, `hidden_bias`: $b$, of shape `(visible, k)`, and $c$.
    """

    layer: ClassVar[tuple[str, ...]] = ("visible", "k")

    def __check_init__(self) -> None:
        if self.visible_bias.shape[1] < 2:
            raise ValueError(
                "`visible_bias` must be of two or more labels per unit, got shape "
                f"{self.visible_bias.shape}."
            )

    @classmethod
    def create(
        cls, num_visible: int, num_hidden: int, *, num_states: int = 2, key: Key
    ) -> "CategoricalRBM":
        """A machine to train, whose weights have standard deviation 0.01 [Hinton 2012]."""
        weights = 0.01 * jr.normal(key, (num_visible, num_states, num_hidden))
        return cls(weights, jnp.zeros((num_visible, num_states)), jnp.zeros(num_hidden))

    @property
    def levels(self) -> tuple[float, ...]:
        return tuple(map(float, range(self.visible_bias.shape[1])))

    @property
    def joint(self) -> LatentEnergy:
        """The energy of both layers; a point is `{"x": v, "z": h}`."""
        return LatentEnergy(self.joint_energy, self.event_shape, is_mixed=True)

    @property
    def log_z(self) -> Scalar | None:
        return logsumexp(self._enumerate()[0]) if self._is_small else None

    @property
    def probs(self) -> Float[Array, "v k"] | None:
        """The probability of each label of each unit."""
        if not self._is_small:
            return None
        log_weights, probs = self._enumerate()
        return jnp.tensordot(jax.nn.softmax(log_weights), probs, 1)

    @property
    def sampler(self) -> Sampler | None:
        return self._draw if self._is_small else None

    def joint_energy(self, visible: Float[Array, " v"], hidden: Float[Array, " h"]) -> Scalar:
        """The energy of one configuration of both layers."""
        codes = self._codes(visible)
        own = jnp.sum(codes * self.visible_bias) + hidden @ self.hidden_bias
        return -own - self._inputs(visible) @ hidden

    def visible_given_hidden(self, hidden: Float[Array, "*n h"]) -> dist.Distribution:
        r"""$p(v \mid h)$: independent labels, $\operatorname{softmax}_k(b_{ik} + W_{ik}h)$."""
        return dist.CategoricalLogits(self._logits(hidden)).to_event(1)

    def of_one_hot(self, codes: Float[Array, "v k"]) -> Scalar:
        """The energy of one-hot codes of labels, and of what lies between them."""
        softplus = jax.nn.softplus(self.hidden_bias + self._of_codes(codes))
        return -jnp.sum(codes * self.visible_bias) - jnp.sum(softplus)

    def __call__(self, x: Float[Array, " v"]) -> Scalar:
        return self.of_one_hot(self._codes(x))

    def _codes(self, visible: Float[Array, "*n v"]) -> Float[Array, "*n v k"]:
        return as_floats(has_level(self.levels, visible))

    def _inputs(self, visible: Float[Array, "*n v"]) -> Float[Array, "*n h"]:
        return self._of_codes(self._codes(visible))

    def _of_codes(self, codes: Float[Array, "*n v k"]) -> Float[Array, "*n h"]:
        return jnp.tensordot(codes, self.weights, 2)

    def _logits(self, hidden: Float[Array, "*n h"]) -> Float[Array, "*n v k"]:
        return self.visible_bias + jnp.tensordot(hidden, self.weights, (-1, -1))

    @property
    def _is_small(self) -> bool:
        return is_enumerable(len(self.hidden_bias))

    def _enumerate(self) -> tuple[Float[Array, " n"], Float[Array, "n v k"]]:
        """Log-weights of the hidden states, and the probabilities of the labels in each."""
        hidden = bits(len(self.hidden_bias))
        logits = self._logits(hidden)
        log_weights = hidden @ self.hidden_bias + jnp.sum(logsumexp(logits, -1), -1)
        return log_weights, jax.nn.softmax(logits)

    def _draw(self, rng_key: Key, sample_shape: Shape = ()) -> Float[Array, "*n v"]:
        log_weights, probs = self._enumerate()
        state_key, visible_key = jr.split(rng_key)
        state = jr.categorical(state_key, log_weights, shape=sample_shape)
        return as_floats(jr.categorical(visible_key, jnp.log(probs[state])))
