"""Exponential random graphs: energies of networks of ties between vertices."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

import abc
import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.scipy.special import logsumexp

from .._checks import check_count, check_positive, finite
from .._types import Array, Float, Key, Sampler, Scalar, Shape
from ._base import AbstractEnergy
from ._states import bits, is_enumerable


class AbstractGraphStatistic(eqx.Module):
    """A number that describes a graph, from its adjacency matrix."""

    @abc.abstractmethod
    def __call__(self, adjacency: Float[Array, "v v"]) -> Scalar:
        """The statistic of one graph."""

    @abc.abstractmethod
    def change(self, without: Float[Array, "v v"], i: Any, j: Any) -> Scalar:
        """By how much the tie between `i` and `j`, which is absent, would raise it."""


class Edges(AbstractGraphStatistic):
    r"""$\sum_{i<j} a_{ij}$, the number of ties."""

    def __call__(self, adjacency: Float[Array, "v v"]) -> Scalar:
        return 0.5 * adjacency.sum()

    def change(self, without: Float[Array, "v v"], i: Any, j: Any) -> Scalar:
        return jnp.ones((), without.dtype)


class TwoStars(AbstractGraphStatistic):
    r"""$\sum_i\binom{d_i}{2}$, the number of pairs of ties that share a vertex."""

    def __call__(self, adjacency: Float[Array, "v v"]) -> Scalar:
        degrees = adjacency.sum(0)
        return 0.5 * ((degrees**2).sum() - (adjacency**2).sum())

    def change(self, without: Float[Array, "v v"], i: Any, j: Any) -> Scalar:
        return without[i].sum() + without[j].sum()


class Triangles(AbstractGraphStatistic):
    r"""$\sum_{i<j<k} a_{ij}a_{jk}a_{ki}$, the number of triangles."""

    def __call__(self, adjacency: Float[Array, "v v"]) -> Scalar:
        return (adjacency @ adjacency * adjacency).sum() / 6

    def change(self, without: Float[Array, "v v"], i: Any, j: Any) -> Scalar:
        return without[i] @ without[j]


class GWESP(AbstractGraphStatistic):
    r"""$e^\tau\sum_{i<j} a_{ij}\,[1 - (1-e^{-\tau})^{p_{ij}}]$, $p_{ij}$ the shared partners.

    Geometrically weighted edgewise shared partners [Hunter and Handcock 2006]: each further
    triangle on a tie counts less, so that the model does not jump between the empty and the
    complete graph, as it does with [`Triangles`][numpyro_ebm.energies.Triangles].

    **Arguments**

    - `decay`: $\tau > 0$; the larger, the closer to counting triangles.
    """

    decay: float | Scalar = 0.5

    def __check_init__(self) -> None:
        check_positive("decay", self.decay)

    def __call__(self, adjacency: Float[Array, "v v"]) -> Scalar:
        worth = 1 - self._ratio_to(adjacency @ adjacency)
        return 0.5 * jnp.exp(self.decay) * (adjacency * worth).sum()

    def change(self, without: Float[Array, "v v"], i: Any, j: Any) -> Scalar:
        shared = without[i] * without[j]
        own = jnp.exp(self.decay) * (1 - self._ratio_to(shared.sum()))
        # The ties to a shared partner k gain a partner each, i or j.
        gains = self._ratio_to(without[i] @ without) + self._ratio_to(without[j] @ without)
        return own + shared @ gains

    def _ratio_to(self, power: Array) -> Array:
        return jnp.exp(power * jnp.log1p(-jnp.exp(-jnp.asarray(self.decay))))


class ExponentialRandomGraph(AbstractEnergy):
    r"""$-\sum_k\theta_k\,g_k(x)$: a graph by its statistics [Frank and Strauss 1986].

    One point is the vector of the $v(v-1)/2$ dyads of an undirected graph, zeros and ones, in
    the order of the upper triangle of its adjacency matrix:
    [`as_dyads`][numpyro_ebm.energies.as_dyads] makes it from a matrix or a networkx graph, and
    [`as_adjacency`][numpyro_ebm.energies.as_adjacency] goes back. Up to 6 vertices, `log_z` and
    exact draws are by enumeration; beyond that, `log_z` is unknown, and
    [`TieNoTie`][numpyro_ebm.kernels.TieNoTie] draws graphs.

    ```python
    x = ebm.energies.as_dyads([[0, 1, 0], [1, 0, 1], [0, 1, 0]])
    graphs = ebm.energies.ExponentialRandomGraph(3, [-1.0, 0.5])
    graphs.statistics_of(x)
    ```

    Inferring $\theta$ requires $\log Z(\theta)$. A pseudo-likelihood in its place needs a
    weight, [`Simulated`][numpyro_ebm.posteriors.Simulated]: without one it is usually too
    narrow. Shown by `tests/energies/test_graphs.py`.

    **Arguments**

    - `num_vertices`: $v$.
    - `coefficients`: $\theta$, one per statistic.
    - `statistics`: $g$: [`Edges`][numpyro_ebm.energies.Edges],
      [`TwoStars`][numpyro_ebm.energies.TwoStars],
      [`Triangles`][numpyro_ebm.energies.Triangles], [`GWESP`][numpyro_ebm.energies.GWESP], or
      your own; by default edges and GWESP.
    """

    levels: ClassVar[tuple[float, ...] | None] = (0.0, 1.0)

    num_vertices: int = eqx.field(static=True)
    coefficients: Float[Array, " k"] = eqx.field(converter=finite("coefficients"))
    statistics: tuple[AbstractGraphStatistic, ...] = (Edges(), GWESP())

    def __check_init__(self) -> None:
        check_count("num_vertices", self.num_vertices, 2)
        if self.coefficients.shape != (len(self.statistics),):
            raise ValueError(
                f"`coefficients` must hold one number for each of {len(self.statistics)} "
                f"statistics, got shape {self.coefficients.shape}."
            )

    @property
    def event_shape(self) -> Shape:
        return (math.comb(self.num_vertices, 2),)

    @property
    def log_z(self) -> Scalar | None:
        if not is_enumerable(*self.event_shape):
            return None
        return logsumexp(-jax.vmap(self)(bits(*self.event_shape)))

    @property
    def sampler(self) -> Sampler | None:
        return self._draw if is_enumerable(*self.event_shape) else None

    def __call__(self, x: Float[Array, " d"]) -> Scalar:
        return -self.coefficients @ self.statistics_of(x)

    def statistics_of(self, x: Float[Array, " d"]) -> Float[Array, " k"]:
        """$g(x)$ of one graph."""
        adjacency = as_adjacency(x)
        return jnp.stack([g(adjacency) for g in self.statistics])

    def changes_of(self, x: Float[Array, " d"], dyad: Any) -> Float[Array, " k"]:
        """How the statistics of `x` with the tie `dyad` differ from those without it.

        In a time that grows as the square of the number of vertices.
        """
        return self._changes(as_adjacency(x), dyad)

    def gibbs_sweep(self, rng_key: Key, x: Float[Array, " d"]) -> Float[Array, " d"]:
        """Draw each dyad given all others, one after another."""

        def draw(adjacency: Array, step: tuple[Array, Key]) -> tuple[Array, Array]:
            dyad, key = step
            log_odds = self.coefficients @ self._changes(adjacency, dyad)
            tie = jr.bernoulli(key, jax.nn.sigmoid(log_odds)).astype(x.dtype)
            return _with_tie(adjacency, self._ends(dyad), tie), tie

        keys = jr.split(rng_key, x.size)
        return jax.lax.scan(draw, as_adjacency(x), (jnp.arange(x.size), keys))[1]

    def _changes(self, adjacency: Array, dyad: Any) -> Array:
        i, j = self._ends(dyad)
        without = _with_tie(adjacency, (i, j), 0.0)
        return jnp.stack([g.change(without, i, j) for g in self.statistics])

    def _ends(self, dyad: Any) -> tuple[Array, Array]:
        rows, columns = map(jnp.asarray, np.triu_indices(self.num_vertices, 1))
        return rows[dyad], columns[dyad]

    def _draw(self, rng_key: Key, sample_shape: Shape = ()) -> Array:
        states = bits(*self.event_shape)
        return states[jr.categorical(rng_key, -jax.vmap(self)(states), shape=sample_shape)]


def _with_tie(adjacency: Array, ends: tuple[Any, Any], tie: Any) -> Array:
    i, j = ends
    return adjacency.at[i, j].set(tie).at[j, i].set(tie)


def as_adjacency(x: Float[Array, " d"]) -> Float[Array, "v v"]:
    """The adjacency matrix of a vector of dyads."""
    x = jnp.asarray(x)
    size = round((1 + math.sqrt(1 + 8 * x.size)) / 2)
    if x.ndim != 1 or math.comb(size, 2) != x.size:
        raise ValueError(
            f"`x` must be the v(v - 1)/2 dyads of one graph of v vertices, got shape {x.shape}."
        )
    upper = jnp.zeros((size, size), x.dtype).at[np.triu_indices(size, 1)].set(x)
    return upper + upper.T


def as_dyads(graph: Any) -> Float[Array, " d"]:
    """The dyads of a graph: of its adjacency matrix, or of a networkx graph.

    Vertices are in the order of the matrix, or of `graph.nodes`.

    **Raises** `ValueError` unless the graph is undirected, without loops and weights.
    """
    if hasattr(graph, "nodes") and hasattr(graph, "edges"):
        graph = _matrix_of(graph)
    matrix = np.asarray(graph, float)
    if matrix.ndim != 2 or len(matrix) != len(matrix.T) or len(matrix) < 2:
        raise ValueError(
            f"`graph` must be a square matrix or a networkx graph, got shape {matrix.shape}."
        )
    if not np.isin(matrix, (0, 1)).all():
        raise ValueError("`graph` must consist of zeros and ones: ties have no weights here.")
    if (matrix != matrix.T).any() or np.diagonal(matrix).any():
        raise ValueError(
            "`graph` must be symmetric with a diagonal of zeros: ties have no direction, and "
            "no vertex is tied to itself."
        )
    rows, columns = np.triu_indices(len(matrix), 1)
    return jnp.asarray(matrix[rows, columns], jnp.result_type(float))


def _matrix_of(graph: Any) -> np.ndarray:
    places = {node: i for i, node in enumerate(graph.nodes)}
    matrix = np.zeros((len(places), len(places)))
    for a, b, *_ in graph.edges:
        matrix[places[a], places[b]] = 1
        if not graph.is_directed():
            matrix[places[b], places[a]] = 1
    return matrix
