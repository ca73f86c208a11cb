"""Laplace's approximation against the exact posterior of a network of 13 weights."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import minimize
from numpyro.infer import MCMC, NUTS
from scipy.stats import norm

import numpyro_ebm as ebm
from numpyro_ebm._trainable import partition_trainable
from numpyro_ebm.posteriors import DiagonalCurvature, FullCurvature, laplace

BOX = ebm.Quadrature(-7.0, 7.0, num_points=201)
OBJECTIVE = ebm.MaximumLikelihood(BOX)
GRID = jnp.linspace(-2.5, 2.5, 21)


class Network(ebm.AbstractEnergy):
    """Four hidden units tilt a Gaussian: 13 weights."""

    network: eqx.nn.MLP
    event_shape = ()

    def __call__(self, x):
        return self.network(x[None]) + x**2 / 8


def modes():
    ranks = (np.arange(1, 101) - 0.5) / 100
    return np.concatenate([norm.ppf(ranks, -1.2, 0.6), norm.ppf(ranks, 1.2, 0.6)])


def penalised(energy):
    flat = jax.flatten_util.ravel_pytree(partition_trainable(energy)[0])[0]
    whole = ebm.unfreeze(energy)
    fit = OBJECTIVE.loss(jr.key(0), whole, None, jnp.asarray(modes()), None)[0]
    return 200 * fit + 0.5 * jnp.sum(flat**2)


def trained():
    network = eqx.nn.MLP(1, "scalar", 4, 1, jnp.tanh, key=jr.key(0))
    return minimize(penalised, Network(network))


def log_densities(energy):
    return -jax.vmap(energy)(GRID) - BOX.log_z(energy)


def oracle(energy):
    """Standard deviations of the log-density under the exact posterior, by NUTS."""
    params, rest = partition_trainable(energy)
    flat, unravel = jax.flatten_util.ravel_pytree(params)

    def potential(z):
        return penalised(eqx.combine(unravel(z), rest))

    mcmc = MCMC(
        NUTS(potential_fn=potential),
        num_warmup=300,
        num_samples=500,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jr.key(1), init_params=flat + 0.01 * jr.normal(jr.key(2), (4, flat.size)))

    def at(z):
        return log_densities(ebm.unfreeze(eqx.combine(unravel(z), rest)))

    return np.asarray(jax.lax.map(at, mcmc.get_samples())).std(0)


def approximate(energy, curvature):
    posterior = laplace(OBJECTIVE, energy, modes(), prior_precision=1.0, curvature=curvature)
    energies = posterior.sample(jr.key(3), 1000)
    return np.asarray(eqx.filter_vmap(log_densities)(energies)).std(0)


@pytest.mark.slow
def test_a_network_of_13_weights(x64):
    """The last layer within 15 %, the whole within a factor of two, the diagonal too wide."""
    energy = trained()
    flat = jax.flatten_util.ravel_pytree(partition_trainable(energy)[0])[0]
    assert flat.size == 13
    last = eqx.tree_at(lambda e: e.network.layers[0], energy, replace_fn=ebm.freeze)
    last = minimize(penalised, last)
    ratio = approximate(last, FullCurvature()) / oracle(last)
    print(f"last layer: {ratio.min():.2f} to {ratio.max():.2f}")
    assert 0.85 < ratio.min() < ratio.max() < 1.15
    exact = oracle(energy)
    ratio = approximate(energy, FullCurvature()) / exact
    print(f"all layers: {ratio.min():.2f} to {ratio.max():.2f}")
    assert 0.5 < np.median(ratio) < 2
    ratio = approximate(energy, DiagonalCurvature()) / exact
    print(f"diagonal: {ratio.min():.2f} to {ratio.max():.2f}")
    assert np.median(ratio) > 1


class Location(ebm.AbstractEnergy):
    loc: jax.Array
    event_shape = (2,)

    def __call__(self, x):
        return 0.5 * jnp.sum(jnp.array([1.0, 0.25]) * (x - self.loc) ** 2)


@pytest.mark.parametrize("curvature", [DiagonalCurvature(), FullCurvature()], ids=repr)
def test_a_gaussian_is_exact(x64, curvature):
    """Score matching of a location: precision n P^2 + lambda."""
    data = np.asarray(jr.normal(jr.key(0), (50, 2)))
    squares = 50 * np.array([1.0, 0.0625])
    mode = squares * data.mean(0) / (squares + 2.0)
    energy = Location(jnp.asarray(mode))
    posterior = laplace(
        ebm.ScoreMatching(), energy, data, prior_precision=2.0, curvature=curvature
    )
    draws = np.asarray(posterior.sample(jr.key(1), 20_000).loc)
    std = (squares + 2.0) ** -0.5
    np.testing.assert_allclose(draws.std(0), std, rtol=0.02)
    assert (np.abs(draws.mean(0) - mode) < 4 * std / np.sqrt(20_000)).all()
    root = posterior.scale if posterior.scale.ndim == 2 else np.diag(posterior.scale)
    np.testing.assert_allclose(root @ root.T, np.diag(std**2), rtol=1e-8)


def test_what_cannot_be_approximated():
    data = np.asarray(jr.normal(jr.key(0), (50, 2)))
    with pytest.warns(UserWarning, match="is not at a minimum"):
        laplace(ebm.ScoreMatching(), Location(jnp.full(2, 9.0)), data, prior_precision=1.0)
    frozen = eqx.tree_at(lambda e: e.loc, Location(jnp.zeros(2)), replace_fn=ebm.freeze)
    with pytest.raises(ValueError, match="has nothing that trains"):
        laplace(ebm.ScoreMatching(), frozen, data, prior_precision=1.0)
    with pytest.raises(ValueError, match="not finite at `energy`"):
        laplace(ebm.ScoreMatching(), Location(jnp.full(2, jnp.nan)), data, prior_precision=1.0)
    with pytest.raises(ValueError, match="`prior_precision` must be positive"):
        laplace(ebm.ScoreMatching(), Location(jnp.zeros(2)), data, prior_precision=0.0)


def test_draws_forget_the_constant_of_the_centre():
    """Each draw has another constant, so that of a trained energy would be a wrong one."""
    data = np.asarray(jr.normal(jr.key(0), (50, 2)))
    centre = ebm.Normalized(Location(jnp.asarray(data.mean(0))), 1.0)
    posterior = laplace(ebm.ScoreMatching(), centre, data, prior_precision=1e-3)
    drawn = posterior.sample(jr.key(1), 3)
    assert posterior.energy.log_z == 1.0
    assert drawn.log_z is None
    assert drawn.loc.shape == (3, 2)
