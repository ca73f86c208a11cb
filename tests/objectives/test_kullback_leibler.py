"""Fitting densities by both directions of the Kullback-Leibler divergence."""

import equinox as eqx
import flowjax.distributions as fd
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from helpers import COVARIANCE, MEAN

import numpyro_ebm as ebm
from numpyro_ebm.objectives import ForwardKL, ReverseKL


def fit(objective, num_steps, flow, data=None, learning_rate=3e-2):
    optim = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))
    estimator = ebm.Estimator(objective, optim)
    return estimator.run(jr.key(0), num_steps, flow, data, progress_bar=False)


def standard(dim=2):
    return fd.MultivariateNormal(jnp.zeros(dim), jnp.eye(dim))


def test_the_reverse_direction_recovers_a_gaussian_and_its_log_z():
    target = ebm.Gaussian(MEAN, COVARIANCE)
    result = fit(ReverseKL(target), 1500, standard())
    np.testing.assert_allclose(result.energy.loc, MEAN, atol=1e-3)
    np.testing.assert_allclose(result.energy.covariance, COVARIANCE, atol=1e-3)
    np.testing.assert_allclose(result.metrics["elbo"][-1], target.log_z, atol=1e-3)


@pytest.mark.slow
def test_the_gap_of_the_elbo_is_the_divergence():
    r"""The best independent normals have variance $1/\Lambda_{ii}$ [Turner and Sahani 2011]."""
    root = np.random.default_rng(0).normal(size=(10, 10)) / np.sqrt(10)
    precision = np.linalg.inv(root @ root.T + 0.5 * np.eye(10))
    target = ebm.Gaussian(np.zeros(10), np.linalg.inv(precision))
    objective = ReverseKL(target)
    found = fit(objective, 3000, fd.Normal(jnp.zeros(10), jnp.ones(10))).energy
    np.testing.assert_allclose(found.scale**2, 1 / np.diag(precision), rtol=1e-2)
    divergence = 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
    energy = ebm.as_energy(found)
    objective = ReverseKL(target, 200_000)
    elbo, _ = objective.loss(jr.key(1), energy, None, objective.without_data(energy), None)
    np.testing.assert_allclose(float(target.log_z) + float(elbo), divergence, atol=0.01)


def test_the_forward_direction_is_maximum_likelihood():
    data = np.asarray(ebm.Gaussian(MEAN, COVARIANCE).sample(jr.key(2), (500,)))
    found = fit(ForwardKL(), 800, standard(), data).energy
    np.testing.assert_allclose(found.loc, data.mean(0), atol=1e-3)
    np.testing.assert_allclose(found.covariance, np.cov(data.T, bias=True), atol=2e-3)


def test_a_long_fit_of_a_gaussian_stays_at_the_moments():
    """A skew part of the precision, which no energy sees, must not lower the loss."""
    data = jr.normal(jr.key(0), (500, 2)) @ jnp.array([[1.6, 1.0], [0.0, 0.6]])
    start = ebm.Gaussian([-1.0, 0.0], np.eye(2))
    estimator = ebm.Estimator(ForwardKL(), ebm.estimation.decaying_adam(2000, 0.03))
    result = estimator.run(jr.key(1), 2000, start, data, progress_bar=False)
    np.testing.assert_allclose(result.energy.mean, data.mean(0), atol=1e-3)
    covariance = np.cov(np.asarray(data).T, bias=True)
    np.testing.assert_allclose(result.energy.covariance_matrix, covariance, rtol=1e-2)


def test_one_direction_covers_modes_and_the_other_seeks_them():
    target = ebm.GaussianMixture([0.5, 0.5], [[-4.0], [4.0]], [[[1.0]], [[1.0]]])
    start = fd.Normal(jnp.array([0.5]), jnp.array([1.0]))
    seeking = fit(ReverseKL(target), 800, start).energy
    np.testing.assert_allclose(seeking.loc, 4, atol=0.05)
    np.testing.assert_allclose(seeking.scale, 1, atol=0.05)
    draws = np.asarray(target.sample(jr.key(0), (4000,)))
    covering = fit(ForwardKL(), 2000, start, draws, 0.1).energy
    np.testing.assert_allclose(covering.loc, draws.mean(), atol=0.01)
    np.testing.assert_allclose(covering.scale, draws.std(), atol=0.01)


def test_the_gradient_is_zero_where_the_fit_is_exact():
    """With the gradient of the density as well, it would vary with the draws."""
    objective, energy = ReverseKL(standard(), 4), ebm.as_energy(standard())
    grads = eqx.filter_grad(
        lambda e: objective.loss(jr.key(0), e, None, objective.without_data(e), None)[0]
    )(energy)
    slopes = jnp.stack([jnp.abs(g).max() for g in jax.tree.leaves(grads)])
    assert slopes.max() < 1e-5


def test_what_cannot_be_fitted_is_refused():
    target = ebm.Gaussian(MEAN, COVARIANCE)
    network = ebm.MLPEnergy(2, 8, key=jr.key(0))
    with pytest.raises(ValueError, match="does not know its `log_z`"):
        fit(ForwardKL(), 1, network, np.zeros((3, 2)))
    with pytest.raises(TypeError, match=r"`data` is needed: `ForwardKL`"):
        fit(ForwardKL(), 1, standard())
    with pytest.raises(ValueError, match="no `log_z` or no `sampler`"):
        fit(ReverseKL(target), 1, network)
    two = ebm.GaussianMixture([0.5, 0.5], [MEAN, -MEAN], [COVARIANCE, COVARIANCE])
    with pytest.raises(ValueError, match="choose among components"):
        fit(ReverseKL(target), 1, two)
    with pytest.raises(ValueError, match="shape"):
        fit(ReverseKL(target), 1, standard(3))
    positive = ebm.as_energy(dist.Gamma(2.0, 1.0).expand([2]).to_event(1))
    with pytest.raises(ValueError, match="unconstrained space"):
        fit(ReverseKL(positive), 1, standard())
