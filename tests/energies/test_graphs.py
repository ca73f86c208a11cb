"""Exponential random graphs, against brute force and enumeration."""

import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer.util import log_density

import numpyro_ebm as ebm
from numpyro_ebm.energies import (
    GWESP,
    Edges,
    ExponentialRandomGraph,
    Triangles,
    TwoStars,
    as_adjacency,
    as_dyads,
)
from numpyro_ebm.kernels import TieNoTie
from numpyro_ebm.kernels._ties import TieNoTieMove

ALL = (Edges(), TwoStars(), Triangles(), GWESP(0.7))
THETA = np.array([-0.6, 0.1, 0.3, 0.4])


def graphs(num_vertices, theta=THETA, statistics=ALL):
    return ExponentialRandomGraph(num_vertices, theta, statistics)


def all_graphs(num_vertices):
    size = num_vertices * (num_vertices - 1) // 2
    return jnp.asarray(np.arange(2**size)[:, None] >> np.arange(size) & 1, float)


def counted(a):
    """The statistics by loops over pairs and triples."""
    n = len(a)
    edges = sum(a[i, j] for i, j in itertools.combinations(range(n), 2))
    stars = sum(
        a[i, j] * a[i, k]
        for i in range(n)
        for j, k in itertools.combinations(set(range(n)) - {i}, 2)
    )
    triangles = sum(
        a[i, j] * a[j, k] * a[i, k] for i, j, k in itertools.combinations(range(n), 3)
    )
    shared = np.zeros(n)
    for i, j in itertools.combinations(range(n), 2):
        if a[i, j]:
            shared[int(sum(a[i, k] * a[j, k] for k in range(n)))] += 1
    worth = np.exp(0.7) * (1 - (1 - np.exp(-0.7)) ** np.arange(n))
    return [edges, stars, triangles, shared @ worth]


def test_statistics_by_counting(x64):
    points = np.asarray(jr.bernoulli(jr.key(0), 0.4, (20, 21)), float)
    found = jax.vmap(graphs(7).statistics_of)(points)
    for x, statistics in zip(points, found, strict=True):
        np.testing.assert_allclose(statistics, counted(np.asarray(as_adjacency(x))), rtol=1e-12)


def test_changes_are_differences(x64):
    energy = graphs(6)
    points = jnp.asarray(jr.bernoulli(jr.key(1), 0.5, (10, 15)), float)

    def differences(x, dyad):
        on, off = x.at[dyad].set(1.0), x.at[dyad].set(0.0)
        return energy.statistics_of(on) - energy.statistics_of(off)

    def table(fn):
        return jax.vmap(lambda x: jax.vmap(lambda d: fn(x, d))(jnp.arange(15)))(points)

    np.testing.assert_allclose(table(energy.changes_of), table(differences), atol=1e-12)


def test_matrices_and_graphs():
    matrix = np.array([[0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0]])
    x = as_dyads(matrix)
    np.testing.assert_array_equal(x, [1, 0, 1, 1, 0, 0])
    np.testing.assert_array_equal(as_adjacency(x), matrix)

    class Graph:
        """As networkx has them."""

        nodes, edges = ("d", "a", "b", "c"), [("d", "a"), ("a", "b"), ("d", "c")]

        def is_directed(self):
            return False

    np.testing.assert_array_equal(as_dyads(Graph()), x)


class Directed:
    nodes, edges = (1, 2), [(1, 2)]

    def is_directed(self):
        return True


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: as_dyads(np.eye(3)), "diagonal of zeros"),
        (lambda: as_dyads(np.triu(np.ones((3, 3)), 1)), "must be symmetric"),
        (lambda: as_dyads(Directed()), "ties have no direction"),
        (lambda: as_dyads(2 * (1 - np.eye(3))), "zeros and ones"),
        (lambda: as_dyads(np.full((2, 2), np.nan)), "zeros and ones"),
        (lambda: as_dyads(np.ones((2, 3))), "square matrix or a networkx graph"),
        (lambda: as_adjacency(jnp.zeros(4)), r"v\(v - 1\)/2 dyads"),
        (lambda: graphs(4, [1.0]), "one number for each of 4 statistics"),
        (lambda: graphs(4, [1.0, np.nan, 0.0, 0.0]), "`coefficients` must be finite"),
        (lambda: graphs(1), "`num_vertices` must be at least 2"),
        (lambda: GWESP(0.0), "`decay` must be positive"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_six_vertices_are_enumerated(x64):
    energy = graphs(6)
    statistics = jax.vmap(energy.statistics_of)(all_graphs(6))
    logs = statistics @ THETA
    np.testing.assert_allclose(energy.log_z, jax.nn.logsumexp(logs), rtol=1e-12)
    exact = ebm.log_partition(jr.key(0), energy, ebm.Enumeration())
    np.testing.assert_allclose(exact.estimate, energy.log_z, rtol=1e-12)
    # The gradient of log Z is the mean of the statistics.
    slope = jax.grad(lambda t: graphs(6, t).log_z)(jnp.asarray(THETA))
    np.testing.assert_allclose(slope, jax.nn.softmax(logs) @ statistics, rtol=1e-10)
    assert graphs(7).log_z is None
    assert graphs(7).sampler is None


def test_the_posterior_of_six_vertices(x64):
    """Exact by `factor`; a pseudo-likelihood is the logistic regression on the changes."""
    x = graphs(6).sample(jr.key(3))
    statistics = jax.vmap(graphs(6).statistics_of)(all_graphs(6))

    def exact(x):
        theta = numpyro.sample("theta", dist.Normal(0, 2).expand([4]).to_event(1))
        ebm.factor("x", graphs(6, theta), x)

    def pseudo(x):
        theta = numpyro.sample("theta", dist.Normal(0, 2).expand([4]).to_event(1))
        ebm.loss_factor("x", ebm.PseudoLikelihood(), graphs(6, theta), x[None])

    changes = jax.vmap(lambda d: graphs(6).changes_of(x, d))(jnp.arange(15))
    for theta in (jnp.zeros(4), jnp.asarray(THETA)):
        prior = dist.Normal(0, 2).log_prob(theta).sum()
        truth = theta @ graphs(6).statistics_of(x) - jax.nn.logsumexp(statistics @ theta)
        found = log_density(exact, (x,), {}, {"theta": theta})[0]
        np.testing.assert_allclose(found, prior + truth, rtol=1e-10)
        regression = jax.nn.log_sigmoid((2 * x - 1) * (changes @ theta)).sum()
        found = log_density(pseudo, (x,), {}, {"theta": theta})[0]
        np.testing.assert_allclose(found, prior + regression, rtol=1e-10)


@pytest.mark.parametrize("biased", [False, True])
def test_ties_in_detailed_balance(x64, biased):
    """All transitions between the graphs of four vertices, whose two sides are equal.

    The mutant forgets the Hastings ratio.
    """
    energy, states = graphs(4, [-1.0, 0.1, 0.3, 0.4]), all_graphs(4)
    move, log_probs = TieNoTieMove(), -jax.vmap(graphs(4, [-1.0, 0.1, 0.3, 0.4]))(states)

    def flow(x, y):
        """The log probability to be at `x` and to propose and accept the neighbour `y`."""
        side = (x == 1) == (x.sum() > y.sum())
        size = x.size
        log_forth = jnp.where(side.sum() == size, 0, -jnp.log(2)) - jnp.log(side.sum())
        back = size - side.sum() + 1
        log_back = jnp.where(back == size, 0, -jnp.log(2)) - jnp.log(back)
        log_ratio = energy(x) - energy(y) + (0 if biased else log_back - log_forth)
        return -energy(x) + log_forth + jnp.minimum(0, log_ratio)

    pairs = [(a, b) for a in range(64) for b in range(64) if bin(a ^ b).count("1") == 1]
    gaps = [flow(states[a], states[b]) - flow(states[b], states[a]) for a, b in pairs[::5]]
    assert (np.abs(gaps).max() < 1e-10) != biased

    # The move accepts with these probabilities.
    def accept(key, x):
        state = move.init(key, x, energy)
        _, info = move.step(key, state, energy)
        return info.acceptance_rate, info.proposal.position

    for x in (states[0], states[-1], states[11]):
        rates, proposals = jax.vmap(lambda key, x=x: accept(key, x))(jr.split(jr.key(0), 50))
        truth = [jnp.exp(flow(x, y) + energy(x)) for y in proposals]
        side = (proposals.sum(1) < x.sum())[:, None] == (x == 1)
        chance = np.where(side.sum(1) == 6, 1, 0.5) / side.sum(1)
        assert np.allclose(rates * chance, truth) != biased
    assert np.isfinite(log_probs).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "thinning"),
    [(TieNoTie(), 12), (ebm.BlockGibbs(), 1), (ebm.GibbsWithGradients(), 12)],
)
def test_draws_have_the_distribution_of_four_vertices(kernel, thinning):
    """A total variation of 0.02 would be seen, as it is of other coefficients."""
    energy = graphs(4, [-1.0, 0.1, 0.3, 0.4])
    draws = ebm.sample(
        jr.key(0),
        energy,
        kernel,
        num_chains=500,
        num_warmup=100,
        num_samples=200 * thinning,
        thinning=thinning,
        progress_bar=False,
    )
    words = np.asarray(draws.values).reshape(-1, 6) @ (1 << np.arange(6))
    shares = np.bincount(words.astype(int), minlength=64) / len(words)

    def distance(energy):
        return 0.5 * np.abs(shares - jax.nn.softmax(-jax.vmap(energy)(all_graphs(4)))).sum()

    print(f"total variation {distance(energy):.4f}")
    assert distance(energy) < 0.02
    assert distance(graphs(4, [-0.9, 0.1, 0.3, 0.4])) > 0.02


def test_a_kernel_of_real_points_is_refused():
    with pytest.raises(TypeError, match="discrete"):
        ebm.MALA(potential_fn=graphs(4))
    with pytest.raises(TypeError, match="`TieNoTie` needs an energy of two-valued units"):
        TieNoTie(potential_fn=ebm.Gaussian([0.0], [[1.0]]))
