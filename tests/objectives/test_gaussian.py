"""A Gaussian fitted by each objective gives its closed-form answer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import COVARIANCE, MEAN

import numpyro_ebm as ebm
from numpyro_ebm.objectives import AbstractPointwiseObjective

NOISE = 0.5
#: Objective and the covariance whose inverse it learns.
ANSWERS = {
    "DenoisingScoreMatching": (
        ebm.DenoisingScoreMatching(NOISE),
        COVARIANCE + NOISE**2 * np.eye(2),
    ),
    "SlicedScoreMatching": (ebm.SlicedScoreMatching(), COVARIANCE),
    "SlicedScoreMatching, 3 slices": (ebm.SlicedScoreMatching(3), COVARIANCE),
    "PlainSlicedScoreMatching": (ebm.objectives.PlainSlicedScoreMatching(), COVARIANCE),
    "ScoreMatching": (ebm.ScoreMatching(), COVARIANCE),
    "ExplicitScoreMatching": (
        ebm.objectives.ExplicitScoreMatching(lambda x: -np.linalg.inv(COVARIANCE) @ (x - MEAN)),
        COVARIANCE,
    ),
    "VarianceReducedDenoisingScoreMatching": (
        ebm.objectives.VarianceReducedDenoisingScoreMatching(NOISE),
        COVARIANCE + NOISE**2 * np.eye(2),
    ),
    "ConditionalNoiseContrastiveEstimation": (
        ebm.objectives.ConditionalNoiseContrastiveEstimation(1.0),
        COVARIANCE,
    ),
}
each_answer = pytest.mark.parametrize(
    ("objective", "covariance"), ANSWERS.values(), ids=ANSWERS
)


def points():
    """Nodes and weights that integrate polynomials of degree 7 against the data's density."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    grid = np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2)
    return MEAN + grid @ np.linalg.cholesky(COVARIANCE).T, np.outer(weights, weights).ravel()


def fit(objective, num_steps=3000):
    data, weights = points()
    schedule = optax.cosine_decay_schedule(0.1, num_steps)
    estimator = ebm.Estimator(objective, optax.adam(schedule))
    start = ebm.Gaussian(np.zeros(2), precision_matrix=np.eye(2))
    # Repeated points average the objective's own noise.
    data, weights = np.repeat(data, 64, 0), np.repeat(weights, 64)
    return estimator.run(
        jax.random.key(0), num_steps, start, data, weights=weights, progress_bar=False
    ).energy


def check(objective, covariance):
    fitted = fit(objective)
    np.testing.assert_allclose(fitted.loc, MEAN, atol=0.01)
    np.testing.assert_allclose(fitted.precision_matrix, np.linalg.inv(covariance), rtol=0.01)


@each_answer
def test_closed_form(objective, covariance):
    check(objective, covariance)


class PlusScore(AbstractPointwiseObjective):
    """Denoising with the sign of the noise flipped: it learns the inverted energy."""

    def at(self, rng_key, energy, x):
        noise = jax.random.normal(rng_key, x.shape)
        return 0.5 * jnp.sum((NOISE * ebm.score(energy, x + NOISE * noise) - noise) ** 2)


class NoHalf(AbstractPointwiseObjective):
    """Sliced score matching without its one half."""

    def at(self, rng_key, energy, x):
        v = jax.random.rademacher(rng_key, x.shape, x.dtype)
        score, slope = jax.jvp(lambda y: ebm.score(energy, y), (x,), (v,))
        return jnp.sum(v * slope) + jnp.sum(score**2)


class MeanForSum(AbstractPointwiseObjective):
    """Sliced score matching whose curvature is divided by the dimension."""

    def at(self, rng_key, energy, x):
        v = jax.random.rademacher(rng_key, x.shape, x.dtype)
        score, slope = jax.jvp(lambda y: ebm.score(energy, y), (x,), (v,))
        return jnp.mean(v * slope) + 0.5 * jnp.sum(score**2)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", [PlusScore(), NoHalf(), MeanForSum()])
def test_mutants_are_seen(mutant):
    covariance = COVARIANCE + NOISE**2 * np.eye(2) if mutant == PlusScore() else COVARIANCE
    with pytest.raises(AssertionError):
        check(mutant, covariance)


def test_denoising_does_not_learn_the_covariance_of_the_data():
    with pytest.raises(AssertionError):
        check(ebm.DenoisingScoreMatching(NOISE), COVARIANCE)
