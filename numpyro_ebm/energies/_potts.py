"""Labels on a lattice or a graph."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.scipy.special import logsumexp

from .._checks import as_shape, check_count, finite
from .._types import Array, Float, Key, Sampler, Scalar, Shape
from ._base import AbstractEnergy
from ._labels import can_transfer, graph_colors, lattice_edges, neighbours, transfer_log_z
from ._states import all_states, has_level, is_enumerable


class PottsModel(AbstractEnergy):
    r"""$-K\sum_{\langle ij\rangle} [x_i = x_j] - \sum_i h_{i x_i}$, $x_i\in\{0,\dots,k-1\}$.

    `log_z` is exact and differentiable: a transfer matrix's on narrow lattices, of up to
    $2^{17}$ states of a line, or of pairs of lines if the lattice is periodic; otherwise an
    enumeration of up to $2^{20}$ states. Beyond that it is unknown. `probs`, the probabilities
    of all labels, are its gradient. Shown by `tests/energies/test_potts.py`.

    With a log-likelihood of each label as the field, it is a hidden Potts model: the field
    turns the prior into the posterior of the labels, and the difference of their `log_z` is the
    log-likelihood of the image, summed over all labels.

    ```python
    def model(image):
        coupling = numpyro.sample("coupling", dist.HalfNormal(1))
        mean = numpyro.sample(
            "mean", dist.Normal(0, 1).expand([3]).to_event(1)
        )
        field = dist.Normal(mean, 0.2).log_prob(image[..., None])
        prior, posterior = (
            ebm.energies.PottsModel(
                image.shape, 3, coupling, each, periodic=False
            )
            for each in (None, field)
        )
        numpyro.factor("image", posterior.log_z - prior.log_z)
    ```

    **Arguments**

    - `shape`: the shape of the lattice, one- or two-dimensional, and of one point.
    - `num_states`: $k$.
    - `coupling`: $K$; positive if neighbours like to be equal.
    - `field`: $h$, of shape `(num_states,)` or `(*shape, num_states)`, or `None` for none.
    - `periodic`: whether opposite edges are neighbours.
    - `edges`: pairs of neighbours, as flat indices, in place of those of a lattice; `shape`
      may then be any.
    """

    shape: Shape = eqx.field(static=True)
    num_states: int = eqx.field(static=True)
    coupling: Scalar = eqx.field(converter=finite("coupling"))
    field: Float[Array, "*any k"] | None = eqx.field(converter=finite("field"), default=None)
    periodic: bool = eqx.field(static=True, default=True, kw_only=True)
    edges: tuple[tuple[int, int], ...] | None = eqx.field(
        static=True,
        default=None,
        kw_only=True,
        converter=lambda edges: None if edges is None else _as_pairs(edges),
    )

    def __check_init__(self) -> None:
        shape = as_shape("shape", self.shape)
        if (self.edges is None and len(shape) not in (1, 2)) or min(shape, default=1) < 1:
            raise ValueError(
                "`shape` must be that of a one- or two-dimensional lattice, or come with "
                f"`edges`, got {self.shape}."
            )
        check_count("num_states", self.num_states, 2)
        shapes = (self.num_states,), (*shape, self.num_states)
        if self.field is not None and self.field.shape not in shapes:
            raise ValueError(
                f"`field` must be of shape {shapes[0]} or {shapes[1]}, got {self.field.shape}."
            )
        if self.edges and not 0 <= min(map(min, self.edges)) <= max(map(max, self.edges)) < (
            math.prod(shape)
        ):
            raise ValueError(
                f"`edges` must be pairs of indices from 0 to {math.prod(shape) - 1}, got "
                f"{min(map(min, self.edges))} to {max(map(max, self.edges))}."
            )

    @property
    def event_shape(self) -> Shape:
        return self.shape

    @property
    def levels(self) -> tuple[float, ...]:
        return tuple(map(float, range(self.num_states)))

    @property
    def log_z(self) -> Scalar | None:
        return self._log_z(self._fields()) if self._is_solvable() else None

    @property
    def probs(self) -> Float[Array, "*shape k"] | None:
        """The probability of each label at each place."""
        return jax.grad(self._log_z)(self._fields()) if self._is_solvable() else None

    @property
    def mean(self) -> Float[Array, "*shape"] | None:
        probs = self.probs
        return None if probs is None else probs @ jnp.arange(self.num_states, dtype=probs.dtype)

    @property
    def variance(self) -> Float[Array, "*shape"] | None:
        probs = self.probs
        if probs is None:
            return None
        labels = jnp.arange(self.num_states, dtype=probs.dtype)
        return jnp.sum(probs * (labels - (probs @ labels)[..., None]) ** 2, -1)

    @property
    def sampler(self) -> Sampler | None:
        return self._draw if self._is_enumerable() else None

    def gibbs_sweep(self, rng_key: Key, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Draw each label given its neighbours, one set without neighbours at a time."""
        size, edges = math.prod(self.shape), self._pairs()
        colors, table = graph_colors(edges, size), neighbours(edges, size)
        fields = self._fields().reshape(size, -1)
        flat = x.reshape(-1)
        for color, key in enumerate(jr.split(rng_key, colors.max() + 1)):
            places = np.flatnonzero(colors == color)
            # A place that is missing from the table of neighbours has a label of its own.
            around = jnp.append(flat, -1.0)[table[places]]
            equal = jnp.sum(has_level(self.levels, around), 1)
            drawn = jr.categorical(key, fields[places] + self.coupling * equal)
            flat = flat.at[places].set(drawn.astype(x.dtype))
        return flat.reshape(self.shape)

    def of_one_hot(self, codes: Float[Array, "*shape k"]) -> Scalar:
        """The energy of one-hot codes of labels, and of what lies between them."""
        flat, (i, j) = codes.reshape(-1, self.num_states), self._pairs().T
        return -self.coupling * jnp.sum(flat[i] * flat[j]) - jnp.sum(self._fields() * codes)

    def __call__(self, x: Float[Array, "*shape"]) -> Scalar:
        flat, (i, j) = x.reshape(-1), self._pairs().T
        energy = -self.coupling * jnp.sum((flat[i] == flat[j]).astype(x.dtype))
        if self.field is None:
            return energy
        return energy - jnp.sum(jnp.where(has_level(self.levels, x), self._fields(), 0))

    def _log_z(self, fields: Float[Array, "*shape k"]) -> Scalar:
        if self._can_transfer():
            return transfer_log_z(self.coupling, fields, periodic=self.periodic)
        whole = eqx.tree_at(lambda e: e.field, self, fields, is_leaf=lambda x: x is None)
        return logsumexp(-jax.vmap(whole)(all_states(self.levels, self.shape)))

    def _fields(self) -> Float[Array, "*shape k"]:
        field = jnp.zeros(self.num_states) if self.field is None else self.field
        return jnp.broadcast_to(field, (*self.shape, self.num_states))

    def _pairs(self) -> np.ndarray:
        if self.edges is not None:
            return np.asarray(self.edges, int).reshape(-1, 2)
        return lattice_edges(self.shape, periodic=self.periodic)

    def _can_transfer(self) -> bool:
        lattice = self.edges is None
        return lattice and can_transfer(self.shape, self.num_states, periodic=self.periodic)

    def _is_enumerable(self) -> bool:
        return is_enumerable(math.prod(self.shape), self.num_states)

    def _is_solvable(self) -> bool:
        return self._can_transfer() or self._is_enumerable()

    def _draw(self, rng_key: Key, sample_shape: Shape = ()) -> Array:
        states = all_states(self.levels, self.shape)
        return states[jr.categorical(rng_key, -jax.vmap(self)(states), shape=sample_shape)]


def _as_pairs(edges: Sequence[Any]) -> tuple[tuple[int, int], ...]:
    pairs = np.asarray(list(edges))
    if pairs.size and (pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu"):
        raise ValueError(
            f"`edges` must be pairs of integers, such as [(0, 1), (1, 2)], got {edges!r}."
        )
    return tuple((int(i), int(j)) for i, j in pairs.reshape(-1, 2))
