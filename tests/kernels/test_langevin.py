"""Unadjusted Langevin against its own laws, and not the target's."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_moments

import numpyro_ebm as ebm
from numpyro_ebm.kernels import LangevinMove, MALAMove
from numpyro_ebm.kernels._langevin import flat_normal

A = np.array([[2.0, 0.8], [0.8, 1.0]])
ETA, NUM_CHAINS = 0.2, 4000
STATIONARY = np.linalg.inv(A) @ np.linalg.inv(np.eye(2) - ETA * A / 2)
KERNEL = ebm.UnadjustedLangevin(step_size=ETA, adapt_step_size=False)


def run(kernel, num_warmup, num_samples, start, energy=None):
    return ebm.sample(
        jr.key(0),
        ebm.Gaussian(np.zeros(2), precision_matrix=A) if energy is None else energy,
        kernel,
        num_warmup=num_warmup,
        num_samples=num_samples,
        init_params=start,
        progress_bar=False,
    )


def test_the_stationary_law():
    r"""$\Sigma_\eta = A^{-1}(1 - \eta A/2)^{-1}$, which is not $A^{-1}$."""
    draws = run(KERNEL, 100, 100, jnp.zeros((NUM_CHAINS, 2))).values
    # Along the axes, and along a diagonal, which sees the correlation.
    for turn in (np.eye(2), np.array([[1.0, 1.0], [1.0, -1.0]])):
        assert_moments(draws @ turn, np.zeros(2), np.diag(turn.T @ STATIONARY @ turn))
    with pytest.raises(AssertionError, match="variance: z"):
        assert_moments(draws, np.zeros(2), np.diag(np.linalg.inv(A)))


@pytest.mark.parametrize("num_steps", [1, 3, 10])
def test_the_law_after_a_few_steps(num_steps):
    r"""$v_k = (1 - \eta a)^{2k}(s_0 - v_\infty) + v_\infty$, along each eigenvector."""
    a, vectors = np.linalg.eigh(A)
    mean, spread = np.array([1.0, -2.0]), 0.5
    start = mean + spread * jr.normal(jr.key(1), (100_000, 2))
    draws = run(KERNEL, 0, num_steps, start).values[:, -1:] @ vectors
    shrink = (1 - ETA * a) ** num_steps
    limit = 1 / (a * (1 - ETA * a / 2))
    variance = shrink**2 * (spread**2 - limit) + limit
    assert_moments(draws, shrink * (mean @ vectors), variance)
    off_by_one = (1 - ETA * a) ** (num_steps + 1) * (mean @ vectors)
    with pytest.raises(AssertionError, match="mean: z"):
        assert_moments(draws, off_by_one, variance)


@pytest.mark.parametrize("metric", [None, np.array([2.0, 0.3]), np.linalg.inv(A)])
def test_its_acceptance_is_that_of_mala(metric, x64):
    metric = None if metric is None else jnp.asarray(metric)
    energy = ebm.energies.Banana()
    for seed in range(10):
        key, start_key = jr.split(jr.key(seed))
        x = jr.normal(start_key, (2,))
        move, mala = LangevinMove(0.1, metric), MALAMove(0.1, metric)
        new, info = move.step(key, move.init(key, x, energy), energy)
        # The momentum of HMC that leads to the same place.
        matrix = jnp.eye(2) if metric is None else metric
        matrix = jnp.diag(matrix) if matrix.ndim == 1 else matrix
        step = jnp.sqrt(0.2)
        p = jnp.linalg.solve(matrix, (new.position - x) / step)
        p = p - 0.5 * step * ebm.score(energy, x)
        q = p + 0.5 * step * (ebm.score(energy, x) + ebm.score(energy, new.position))
        change = energy(new.position) - energy(x) + 0.5 * (q @ matrix @ q - p @ matrix @ p)
        truth = jnp.exp(jnp.minimum(0, -change))
        np.testing.assert_allclose(info.acceptance_rate, truth, atol=1e-10)
        assert mala.step(key, mala.init(key, x, energy), energy)[1].acceptance_rate <= 1


def test_a_metric_gives_the_law_of_that_metric():
    r"""In the frame of $M = A$ the target is $N(0, 1)$: $\Sigma_\eta = A^{-1}/(1 - \eta/2)$."""
    kernel = ebm.UnadjustedLangevin(
        step_size=ETA, inverse_mass_matrix=np.linalg.inv(A), adapt_step_size=False
    )
    draws = run(kernel, 100, 100, jnp.zeros((NUM_CHAINS, 2))).values
    assert_moments(draws, np.zeros(2), np.diag(np.linalg.inv(A)) / (1 - ETA / 2))


def test_a_chain_stays_where_the_energy_ends():
    draws = run(KERNEL, 0, 200, jnp.ones((100, 2)), energy=lambda x: -jnp.log(x).sum())
    assert draws.finite.all()
    assert (draws.values > 0).all()
    assert draws.state.num_diverging.sum() > 20


@pytest.mark.parametrize("shape", [(3,), (1000, 10), (700, 784)])
def test_flat_noise_is_normal(shape):
    noise = np.asarray(flat_normal(jr.key(0), shape), float)
    assert noise.shape == shape
    flat = noise.reshape(-1)
    if flat.size > 100:
        assert abs(flat.mean()) < 4 / np.sqrt(flat.size)
        assert abs(flat.var() - 1) < 4 * np.sqrt(2 / flat.size)
        assert abs((flat[1:] * flat[:-1]).mean()) < 4 / np.sqrt(flat.size)
        assert len(np.unique(flat)) > 0.9 * min(flat.size, 2**22)


def test_a_step_that_runs_away_is_not_taken():
    r"""At $\eta > 2$ the chain on $x^2/2$ is unstable: it doubles, to infinity."""
    kernel = ebm.UnadjustedLangevin(step_size=3.0, adapt_step_size=False)
    settings = {"num_chains": 20, "num_warmup": 0, "num_samples": 50, "progress_bar": False}
    draws = ebm.sample(jr.key(0), ebm.Gaussian(np.zeros(1), np.eye(1)), kernel, **settings)
    assert np.abs(draws.values).max() < 50
    assert draws.stats["diverging"].any(1).all()
