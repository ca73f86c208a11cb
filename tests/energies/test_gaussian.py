import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from helpers import COVARIANCE, MEAN, assert_moments, mixture, quadrature

import numpyro_ebm as ebm

X = jnp.array([0.3, -1.2])


@pytest.mark.parametrize(
    "matrix",
    [
        {"covariance_matrix": COVARIANCE},
        {"precision_matrix": np.linalg.inv(COVARIANCE)},
        {"scale_tril": np.linalg.cholesky(COVARIANCE)},
    ],
    ids=lambda matrix: next(iter(matrix)),
)
def test_gaussian_is_numpyros(matrix, x64):
    energy = ebm.Gaussian(MEAN, **matrix)
    truth = dist.MultivariateNormal(MEAN, **matrix).log_prob(X)
    np.testing.assert_allclose(-energy(X) - energy.log_z, truth, rtol=1e-12)
    np.testing.assert_allclose(energy.covariance_matrix, COVARIANCE, rtol=1e-12)


def test_mixture_is_numpyros(x64):
    energy = mixture()
    components = dist.MultivariateNormal(
        energy.locs, precision_matrix=energy.precision_matrices
    )
    truth = dist.MixtureSameFamily(dist.Categorical(energy.weights), components)
    np.testing.assert_allclose(-energy(X) - energy.log_z, truth.log_prob(X), rtol=1e-12)
    np.testing.assert_allclose(energy.weights, [0.4, 0.6], rtol=1e-12)


def test_normalisers_and_moments_by_quadrature(x64):
    for energy in (mixture(), ebm.Gaussian(MEAN, covariance_matrix=COVARIANCE)):
        log_z, mean, variance = quadrature(energy, 12, 801)
        np.testing.assert_allclose(log_z, energy.log_z, atol=1e-10)
        np.testing.assert_allclose(mean, energy.mean, atol=1e-10)
        np.testing.assert_allclose(variance, energy.variance, atol=1e-10)


def test_exact_samples():
    gaussian = ebm.Gaussian(MEAN, covariance_matrix=COVARIANCE)
    draws = gaussian.sample(jax.random.key(0), (1000, 40))
    assert_moments(draws, MEAN, np.diag(COVARIANCE))
    np.testing.assert_allclose(np.cov(draws.reshape(-1, 2).T), COVARIANCE, atol=0.03)
    draws = mixture().sample(jax.random.key(0), (1000, 40))
    mean = 0.4 * np.array([-1, 0]) + 0.6 * np.array([1, 0.5])
    second = 0.4 * np.array([2, 1]) + 0.6 * np.array([1.5, 1.05])
    assert_moments(draws, mean, second - mean**2)
    with pytest.raises(AssertionError):
        assert_moments(draws, mean, 1.05 * (second - mean**2))


def test_mixture_with_one_covariance_for_all():
    energy = ebm.GaussianMixture([1, 1], [[0.0, 0.0], [3.0, 0.0]], np.eye(2))
    assert energy.precision_matrices.shape == (2, 2, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ebm.Gaussian(MEAN), "exactly one of .* got none"),
        (lambda: ebm.Gaussian(MEAN, COVARIANCE, COVARIANCE), "exactly one of"),
        (lambda: ebm.Gaussian(MEAN, np.eye(3)), r"got \(2,\) and \(3, 3\)"),
        (lambda: ebm.GaussianMixture([[1.0]], [[0.0]], [[1.0]]), "must be a vector"),
        (lambda: ebm.GaussianMixture([1.0], [0.0], [[1.0]]), r"must have shape \(1, d\)"),
        (lambda: ebm.GaussianMixture([1.0], [[0.0]], np.eye(2)), r"\(1, 1, 1\) or \(1, 1\)"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_only_the_symmetric_part_of_a_precision_counts(x64):
    symmetric, skew = np.linalg.inv(COVARIANCE), np.array([[0.0, 0.7], [-0.7, 0.0]])
    right, given = (
        ebm.Gaussian([0.0, 0.0], precision_matrix=p) for p in (symmetric, symmetric + skew)
    )
    trained = eqx.tree_at(lambda e: e.precision_matrix, right, jnp.asarray(symmetric + skew))
    x = jnp.array([0.3, -1.2])
    for energy in (given, trained):
        np.testing.assert_allclose(energy(x), right(x), rtol=1e-12)
        np.testing.assert_allclose(energy.log_z, right.log_z, rtol=1e-12)
    gradient = jax.grad(lambda p: eqx.tree_at(lambda e: e.precision_matrix, right, p).log_z)(
        jnp.asarray(symmetric)
    )
    np.testing.assert_allclose(gradient, -0.5 * COVARIANCE, rtol=1e-10)


def test_an_indefinite_precision_has_no_log_z():
    energy = ebm.Gaussian([0.0, 0.0], np.eye(2))
    indefinite = eqx.tree_at(lambda e: e.precision_matrix, energy, -jnp.eye(2))
    assert jnp.isnan(indefinite.log_z)
    mixture = ebm.GaussianMixture([1.0], [[0.0, 0.0]], np.eye(2))
    indefinite = eqx.tree_at(lambda e: e.precision_matrices, mixture, -jnp.eye(2)[None])
    assert jnp.isnan(indefinite(jnp.zeros(2)))
