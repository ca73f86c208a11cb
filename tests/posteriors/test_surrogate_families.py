"""Surrogates of families with four parameters, and what sharing draws gains."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import assert_means
from numpyro.distributions import constraints
from numpyro.infer import MCMC, NUTS
from scipy.optimize import minimize
from scipy.special import logsumexp

import numpyro_ebm as ebm
from numpyro_ebm.posteriors import _pooled, _surrogate
from numpyro_ebm.posteriors._gradient_process import fit_process
from numpyro_ebm.posteriors._pooled import gradients_near

KEY = jax.random.key(0)
TRUTH = np.array([0.1, 0.2, 0.05, -0.1])
SMALL = {"num_points": 16, "num_chains": 16, "num_warmup": 100, "num_samples": 200}


def sums(x):
    """The field, and the bonds along rows, columns and diagonals of free 4×4 spins."""
    bonds = (x[:, 1:] * x[:, :-1], x[1:] * x[:-1], x[1:, 1:] * x[:-1, :-1])
    return jnp.stack([x.sum(), *(bond.sum() for bond in bonds)])


class Anisotropic(ebm.AbstractEnergy):
    theta: jax.Array
    event_shape: tuple = eqx.field(static=True, default=(4, 4))
    levels = (-1.0, 1.0)

    def __call__(self, x):
        return -self.theta @ sums(x)


@functools.cache
def enumerated():
    """The values of `sums`, and how many of the 65536 states have each."""
    states = ebm.IsingModel((4, 4), 0.0, periodic=False).states()
    found = np.asarray(jax.jit(jax.vmap(sums))(states), int)
    return np.unique(found, axis=0, return_counts=True)


def exact(theta):
    r"""$\log Z$ of each row of `theta`, and its gradient."""
    values, counts = enumerated()
    logits = theta @ values.T + np.log(counts)
    log_z = logsumexp(logits, axis=-1)
    return log_z, np.exp(logits - log_z[..., None]) @ values


def data(num_data=40):
    states = ebm.IsingModel((4, 4), 0.0, periodic=False).states()
    logits = jax.vmap(sums)(states) @ TRUTH
    return states[jax.random.categorical(KEY, logits, shape=(num_data,))]


def model(x, family):
    theta = numpyro.sample("theta", dist.Normal(0, 0.3).expand([4]).to_event(1))
    with numpyro.plate("data", len(x)):
        ebm.factor("x", family(theta), x)


def posterior_moments(x, num_nodes=9):
    """Means and variances, by Gauss-Hermite nodes around the mode."""
    total = np.asarray(jax.vmap(sums)(x).sum(0), float)

    def loss(theta):
        log_z, _ = exact(theta)
        return len(x) * log_z - theta @ total + 0.5 * np.sum((theta / 0.3) ** 2, -1)

    found = minimize(loss, np.zeros(4))
    root = 1.2 * np.linalg.cholesky(found.hess_inv)
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    u = np.array(list(itertools.product(nodes, repeat=4)))
    theta = found.x + u @ root.T
    losses = np.concatenate([loss(part) for part in np.array_split(theta, 50)])
    prior = np.prod(list(itertools.product(weights, repeat=4)), axis=1)
    weight = prior * np.exp(found.fun - losses + 0.5 * np.sum(u**2, 1))
    weight /= weight.sum()
    mean = weight @ theta
    return mean, weight @ (theta - mean) ** 2


@pytest.mark.slow
def test_the_posterior_of_four_couplings():
    x = data()
    box = np.full(4, -0.5), np.full(4, 0.5)
    surrogate = ebm.surrogate_log_z(KEY, Anisotropic, box, data=x, progress_bar=False)
    assert surrogate.ok
    chains = {"num_chains": 4, "chain_method": "vectorized", "progress_bar": False}
    mcmc = MCMC(NUTS(model), num_warmup=500, num_samples=4000, **chains)
    mcmc.run(KEY, x, surrogate)
    theta = np.asarray(mcmc.get_samples()["theta"], float).reshape(40, -1, 4)
    mean, variance = posterior_moments(x)
    assert_means(theta, mean)
    assert_means((theta - mean) ** 2, variance)


def looked_at(family, theta, seed=0, support=None):
    """The chains and the gradients of one look at the prior."""
    parameters, prior = _surrogate._prior(theta, support)
    chains = _surrogate._chains(family, parameters, prior, None, None, (16, 16, 100, 200, 1))
    points = prior.points(16, np.random.default_rng(seed))
    return chains, chains.slopes(jax.random.key(seed), points, None), prior


def errors_of_gradients():
    """The root mean squares of pooled gradients and of those that each point has alone."""
    pooled, alone = [], []
    for seed in range(3):
        box = np.full(4, -0.15), np.full(4, 0.15)
        chains, slopes, prior = looked_at(Anisotropic, box, seed)
        truth = exact(slopes.points)[1]
        values = gradients_near(chains, slopes, prior).values[: len(truth)]
        pooled.append(values - truth)
        alone.append(slopes.gradients - truth)
    return np.sqrt(np.mean(np.square(pooled))), np.sqrt(np.mean(np.square(alone)))


@pytest.mark.slow
def test_draws_of_other_points_lower_the_error_of_gradients(monkeypatch):
    pooled, alone = errors_of_gradients()
    print(pooled, alone)
    assert pooled < 0.7 * alone
    monkeypatch.setattr(_pooled, "most_bend", lambda: -1.0)  # The mutant shares nothing.
    pooled, alone = errors_of_gradients()
    assert pooled == alone


class LinearAtFirst(ebm.AbstractEnergy):
    r"""Linear in $\theta$ where chains start, and not far from there."""

    theta: jax.Array
    event_shape: tuple = eqx.field(static=True, default=())

    def __call__(self, x):
        far = jax.nn.relu(jnp.abs(x) - 4.0)
        return 0.5 * self.theta * x**2 + self.theta**2 * far**2


@pytest.mark.slow
def test_an_energy_that_is_linear_at_some_points_only_shares_no_draws():
    theta, support = jnp.linspace(0.02, 0.5, 50), constraints.positive
    chains, slopes, prior = looked_at(LinearAtFirst, theta, support=support)
    assert chains.natural is not None
    assert len(gradients_near(chains, slopes, prior).points) == len(slopes.points)
    surrogate = ebm.surrogate_log_z(KEY, LinearAtFirst, theta, support=support, **SMALL)
    x = np.linspace(-100, 100, 200_001)
    for value in (0.05, 0.1, 0.4):
        energies = np.asarray(jax.vmap(LinearAtFirst(jnp.array(value)))(jnp.asarray(x)))
        truth = logsumexp(-np.asarray(energies, float)) + np.log(x[1] - x[0])
        assert abs(surrogate.log_z(value) - truth) < 4 * surrogate.std_error(value)
        assert surrogate.std_error(value) < 0.1


def test_gradients_that_never_vary_are_no_reason_to_fail():
    """In an ordered phase all draws are alike at most points."""
    points = np.linspace(-1, 1, 8)[:, None]
    region = _surrogate.box_region(np.array([-1.0]), np.array([1.0]))
    process = fit_process(
        points, 1 + points, np.diag([0.0] * 6 + [1e-3] * 2), region.center, region.scale
    )
    values = process.values(np.array([[0.5], [0.0]]))
    assert values[0] - values[1] == pytest.approx(0.5 + 0.125, abs=0.01)
