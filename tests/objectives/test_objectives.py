import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import COVARIANCE, ENERGIES, MEAN

import numpyro_ebm as ebm

OBJECTIVES = {
    "DenoisingScoreMatching": ebm.DenoisingScoreMatching(0.3),
    "SlicedScoreMatching": ebm.SlicedScoreMatching(),
}
each_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
each_energy = pytest.mark.parametrize("make", ENERGIES.values(), ids=ENERGIES)
BATCH = jnp.array([[0.3, -1.2], [2.0, 0.5], [-1.0, -1.0]])


@each_objective
@each_energy
def test_a_finite_loss_and_gradient_under_jit(objective, make):
    def loss(energy, weights):
        return objective.loss(jax.random.key(0), energy, None, BATCH, weights)[0]

    energy = ebm.unfreeze(make())
    value = jax.jit(lambda w: loss(energy, w))(jnp.ones(3))
    np.testing.assert_allclose(value, loss(energy, None), rtol=1e-5)
    assert np.isfinite(value)


@each_objective
def test_weights_are_a_weighted_mean(objective):
    def loss(batch, weights):
        return objective.loss(jax.random.key(0), energy, None, batch, weights)[0]

    energy = ENERGIES["Gaussian"]()
    only_first = loss(BATCH, jnp.array([3.0, 0.0, 0.0]))
    keys = jax.random.split(jax.random.key(0), 3)
    np.testing.assert_allclose(only_first, objective.at(keys[0], energy, BATCH[0]), rtol=1e-5)


def test_denoising_on_one_point_is_its_formula(x64):
    energy, sigma = ENERGIES["GaussianMixture"](), 0.3
    key, x = jax.random.key(1), BATCH[0].astype(float)
    noise = jax.random.normal(key, x.shape)
    score = -jax.grad(energy)(x + sigma * noise)
    truth = 0.5 * sum((sigma * score + noise) ** 2)
    loss = ebm.DenoisingScoreMatching(sigma).at(key, energy, x)
    np.testing.assert_allclose(loss, truth, rtol=1e-12)


def test_slices_average_to_the_laplacian(x64):
    """Over all sign vectors the sliced loss is $-\\Delta E + \\frac12|\\nabla E|^2$ exactly."""
    energy, x = ENERGIES["GaussianMixture"](), BATCH[0].astype(float)
    signs = jnp.array(list(itertools.product([-1.0, 1.0], repeat=2)))
    objective = ebm.SlicedScoreMatching()
    keys = jax.random.split(jax.random.key(0), 200)
    drawn = jax.vmap(lambda key: jax.random.rademacher(key, (1, 2), float)[0])(keys)
    losses = jax.vmap(lambda key: objective.at(key, energy, x))(keys)
    each = [losses[(drawn == sign).all(1)][0] for sign in signs]
    sliced = jnp.mean(jnp.stack(each))
    exact = -jnp.trace(jax.hessian(energy)(x)) + 0.5 * jnp.sum(jax.grad(energy)(x) ** 2)
    np.testing.assert_allclose(sliced, exact, rtol=1e-12)


def test_a_separable_energy_has_no_slicing_noise(x64):
    energy = ebm.Gaussian(MEAN, covariance_matrix=np.diag(np.diag(COVARIANCE)))
    x = BATCH[0].astype(float)
    losses = [ebm.SlicedScoreMatching().at(jax.random.key(i), energy, x) for i in range(5)]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ebm.DenoisingScoreMatching(0.0), "`noise_scale` must be positive, got 0.0"),
        (lambda: ebm.DenoisingScoreMatching(-1.0), "`noise_scale` must be positive"),
        (lambda: ebm.SlicedScoreMatching(0), "`num_slices` must be positive"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
