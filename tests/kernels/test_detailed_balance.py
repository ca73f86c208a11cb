"""The acceptance of reversible kernels against their proposals, on pairs of points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import COVARIANCE, mixture
from jax.scipy.stats import multivariate_normal

import numpyro_ebm as ebm
from numpyro_ebm.kernels import BarkerMove, MALAMove, RandomWalkMove

STEP = 0.4
METRICS = {"identity": None, "diagonal": np.array([2.0, 0.3]), "dense": COVARIANCE}
ENERGIES = {
    "banana": ebm.energies.Banana,
    "mixture": mixture,
    "tempered": lambda: ebm.energies.Banana() / 3.0,
}


def covariance(metric):
    metric = np.ones(2) if metric is None else metric
    return jnp.diag(metric) if np.ndim(metric) == 1 else jnp.asarray(metric)


def random_walk(x, y, energy, metric):
    return multivariate_normal.logpdf(y, x, STEP**2 * covariance(metric))


def langevin(x, y, energy, metric):
    mean = x + STEP * covariance(metric) @ ebm.score(energy, x)
    return multivariate_normal.logpdf(y, mean, 2 * STEP * covariance(metric))


def barker(x, y, energy, metric):
    # In the frame where the metric is one, x = root @ u.
    root = jnp.linalg.cholesky(covariance(metric))
    z = jnp.linalg.solve(root, y - x)
    drift = root.T @ ebm.score(energy, x)
    density = jax.scipy.stats.norm.logpdf(z, 0, STEP) + jax.nn.log_sigmoid(z * drift)
    return jnp.sum(density + jnp.log(2.0)) - jnp.linalg.slogdet(root)[1]


MOVES = {
    "RandomWalkMetropolis": (RandomWalkMove, random_walk),
    "MALA": (MALAMove, langevin),
    "BarkerMH": (BarkerMove, barker),
}
each_move = pytest.mark.parametrize(("Move", "log_proposal"), MOVES.values(), ids=MOVES)
each_metric = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)


def largest_error(move, log_proposal, energy, metric, truth=None):
    r"""Of $\log p(x) + \log q(y|x) + \log\alpha(x \to y)$ from the lesser of both flows."""
    truth = energy if truth is None else truth

    def error(key):
        start_key, step_key = jax.random.split(key)
        x = 2 * jax.random.normal(start_key, (2,))
        new, info = move.step(step_key, move.init(step_key, x, energy), energy)
        # BlackJAX's random walk keeps no proposal that it rejects.
        is_walk = isinstance(move, RandomWalkMove)
        y = new.position if is_walk else info.proposal.position
        forth = log_proposal(x, y, truth, metric) - truth(x)
        back = log_proposal(y, x, truth, metric) - truth(y)
        flow = forth + jnp.log(info.acceptance_rate)
        seen = info.is_accepted if is_walk else info.acceptance_rate > 1e-200
        return jnp.where(seen, flow - jnp.minimum(forth, back), 0), seen

    errors, seen = jax.vmap(error)(jax.random.split(jax.random.key(0), 200))
    assert seen.sum() > 20
    return float(jnp.abs(errors).max())


@each_move
@each_metric
def test_detailed_balance(Move, log_proposal, metric, x64):
    move = Move(STEP, None if metric is None else jnp.asarray(metric))
    for make in ENERGIES.values():
        assert largest_error(move, log_proposal, make(), metric) < 1e-10


@each_move
def test_another_energy_would_be_seen(Move, log_proposal, x64):
    energy, metric = ebm.energies.Banana(), jnp.asarray(METRICS["diagonal"])
    assert (
        largest_error(Move(STEP, metric), log_proposal, energy, metric, 1.001 * energy) > 1e-4
    )


def test_another_step_would_be_seen(x64):
    assert largest_error(MALAMove(1.001 * STEP), langevin, ebm.energies.Banana(), None) > 1e-4


@pytest.mark.parametrize("metric", [METRICS["dense"]], ids=["dense"])
@each_move
def test_proposals_come_from_that_density(Move, log_proposal, metric, x64):
    """The share of proposals in a half plane, by quadrature of the density."""
    # Everything is accepted where nothing is to be gained: the walk shows its proposals.
    flat = ebm.as_energy(lambda x: jnp.zeros(()), (2,))
    energy = flat if Move is RandomWalkMove else ebm.energies.Banana()
    x = jnp.array([0.5, -0.3])
    move = Move(STEP, None if metric is None else jnp.asarray(metric))
    keys = jax.random.split(jax.random.key(0), 40_000)
    state = move.init(keys[0], x, energy)
    proposals = jax.vmap(lambda key: move.step(key, state, energy)[1].proposal.position)(keys)
    grid = jnp.linspace(-6, 6, 241)
    points = jnp.stack(jnp.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    density = jnp.exp(jax.vmap(lambda y: log_proposal(x, y, energy, metric))(points))
    cell = (grid[1] - grid[0]) ** 2
    np.testing.assert_allclose(density.sum() * cell, 1, atol=1e-3)
    for statistic in (lambda y: y[0], lambda y: y[1], lambda y: y[0] * y[1]):
        values = jax.vmap(statistic)(proposals)
        truth = (density * jax.vmap(statistic)(points)).sum() * cell
        z = (values.mean() - truth) / (values.std() / np.sqrt(len(values)))
        assert abs(z) < 4
