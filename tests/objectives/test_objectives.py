import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import COVARIANCE, ENERGIES, MEAN, OBJECTIVES

import numpyro_ebm as ebm
from numpyro_ebm.objectives import (
    ConditionalNoiseContrastiveEstimation,
    VarianceReducedDenoisingScoreMatching,
)

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
    # The terms of a loss are of order one and may cancel.
    np.testing.assert_allclose(value, loss(energy, None), rtol=1e-5, atol=1e-6)
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


@pytest.mark.slow
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
        (lambda: ebm.objectives.PlainSlicedScoreMatching(0), "`num_slices` must be positive"),
        (
            lambda: VarianceReducedDenoisingScoreMatching(0.0),
            "`noise_scale` must be",
        ),
        (lambda: ebm.MultiscaleDenoisingScoreMatching(0.1), "`noise_scales` must be a vector"),
        (lambda: ebm.MultiscaleDenoisingScoreMatching([1.0, 0.0]), "must be positive"),
        (
            lambda: ConditionalNoiseContrastiveEstimation(-1.0),
            "`noise_scale` must be",
        ),
        (lambda: ebm.NoiseContrastiveEstimation(num_noise=0), "`num_noise` must be positive"),
        (lambda: ebm.ContrastiveDivergence(num_steps=0), "`num_steps` must be positive"),
        (lambda: ebm.Persistent(0), "`size` must be positive"),
        (lambda: ebm.Persistent(reinit=2.0), "`reinit` must lie between 0 and 1, got 2"),
        (
            lambda: ebm.ContrastiveDivergence(ebm.MALA(potential_fn=lambda x: x**2)),
            "neither `model` nor `potential_fn`",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.slow
def test_the_laplacian_is_the_trace_of_the_hessian(x64):
    for dim in (3, 20):
        matrix = np.random.default_rng(0).normal(size=(dim, dim))
        energy = lambda x, a=matrix: jnp.sum(jnp.cosh(a @ x) ** 0.5)  # noqa: E731
        x = jnp.linspace(-0.3, 0.4, dim)
        value = ebm.ScoreMatching().at(jax.random.key(0), energy, x)
        hessian, slope = jax.hessian(energy)(x), jax.grad(energy)(x)
        truth = -jnp.trace(hessian) + 0.5 * slope @ slope
        np.testing.assert_allclose(value, truth, rtol=1e-10)


def test_plain_slices_have_more_variance():
    energy = ebm.Gaussian(MEAN, COVARIANCE)
    keys = jax.random.split(jax.random.key(0), 4000)

    def variance(objective):
        return jax.vmap(lambda key: objective.at(key, energy, BATCH[0]))(keys).var()

    plain, reduced = (
        variance(objective())
        for objective in (ebm.objectives.PlainSlicedScoreMatching, ebm.SlicedScoreMatching)
    )
    assert plain > 2 * reduced


@pytest.mark.slow
def test_denoising_of_small_noise_in_its_variance_reduced_form(x64):
    """At a noise of 0.001 the plain form's standard error is a thousand times larger."""
    energy, x, sigma = ENERGIES["GaussianMixture"](), BATCH[0].astype(float), 1e-3
    keys = jax.random.split(jax.random.key(0), 4000)

    def values(objective, scale=1.0):
        return jax.vmap(lambda key: objective.at(key, energy, x))(keys) / scale

    reduced = values(VarianceReducedDenoisingScoreMatching(sigma))
    plain = values(ebm.DenoisingScoreMatching(sigma), sigma**2)
    exact = ebm.ScoreMatching().at(keys[0], energy, x)
    error = reduced.std() / np.sqrt(len(keys))
    assert abs(reduced.mean() - exact) < 4 * error
    assert plain.std() > 1000 * reduced.std()


def test_conditional_contrast_tends_to_score_matching(x64):
    r"""$2\log 2 + \tfrac12\sigma^2$ times the loss of score matching, up to $\sigma^4$."""
    energy, x = ENERGIES["GaussianMixture"](), BATCH[0].astype(float)
    nodes, weights = np.polynomial.hermite_e.hermegauss(9)
    grid = np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2)
    weights = np.outer(weights, weights).ravel() / weights.sum() ** 2
    exact = ebm.ScoreMatching().at(jax.random.key(0), energy, x)
    for sigma in (1e-2, 1e-3):
        costs = energy(x) - jax.vmap(energy)(x + sigma * grid)
        loss = 2 * weights @ jax.nn.softplus(costs)
        np.testing.assert_allclose((loss - 2 * np.log(2)) / (0.5 * sigma**2), exact, rtol=1e-3)


def test_many_scales_are_each_the_one_scale():
    """At one scale it is `DenoisingScoreMatching`, of the energy at that scale."""
    fn = lambda x, scale: 0.5 * jnp.sum(x**2) / (1 + scale**2)  # noqa: E731
    conditional = ebm.ConditionalEnergy(fn, (2,))
    many = ebm.MultiscaleDenoisingScoreMatching([0.7])
    data = jax.random.normal(jax.random.key(0), (5000, 2))
    trainable, state = many.init(jax.random.key(1), conditional, data)
    loss = many.loss(jax.random.key(2), trainable, state, data, None)[0]
    one = ebm.DenoisingScoreMatching(0.7)
    other = one.loss(jax.random.key(3), conditional.given(0.7), None, data, None)[0]
    np.testing.assert_allclose(loss, other, rtol=0.05)
    with pytest.raises(TypeError, match="must be a `ConditionalEnergy"):
        many.init(jax.random.key(0), ENERGIES["Gaussian"](), data)


CONDITIONAL = {
    "ScoreMatching": ebm.ScoreMatching(),
    "SlicedScoreMatching": ebm.SlicedScoreMatching(),
    "DenoisingScoreMatching": ebm.DenoisingScoreMatching(0.05),
    "MaximumLikelihood": ebm.MaximumLikelihood(ebm.Quadrature([-8.0], [8.0], 161)),
    "NoiseContrastiveEstimation": ebm.NoiseContrastiveEstimation(),
    "ConditionalNoiseContrastiveEstimation": ConditionalNoiseContrastiveEstimation(0.5),
    "ContrastiveDivergence": ebm.ContrastiveDivergence(
        ebm.MALA(step_size=0.1), 5, ebm.FromData()
    ),
}


@pytest.mark.parametrize("objective", CONDITIONAL.values(), ids=CONDITIONAL)
def test_a_regression_as_a_conditional_energy(objective):
    """$y = 2x - 1 + 0.5\\epsilon$, with an intercept of the energy for contrasts to learn."""

    class Regression(eqx.Module):
        slope: jax.Array
        intercept: jax.Array
        log_precision: jax.Array
        constant: jax.Array

        def __call__(self, y, x):
            error = y[0] - self.slope * x - self.intercept
            return 0.5 * jnp.exp(self.log_precision) * error**2 + self.constant

    x_key, y_key, run_key = jax.random.split(jax.random.key(0), 3)
    x = jax.random.uniform(x_key, (2000,), minval=-1, maxval=1)
    y = (2 * x - 1 + 0.5 * jax.random.normal(y_key, x.shape))[:, None]
    energy = ebm.ConditionalEnergy(Regression(*jnp.zeros(4)), (1,))
    optim = optax.adam(optax.cosine_decay_schedule(0.05, 1000))
    estimator = ebm.Estimator(objective, optim)
    fitted = estimator.run(
        run_key, 1000, energy, (y, x), batch_size=500, progress_bar=False
    ).energy
    fitted = ebm.normalizers.as_plain(fitted).fn
    residuals = np.polyfit(x, y[:, 0], 1)
    np.testing.assert_allclose([fitted.slope, fitted.intercept], residuals, atol=0.06)
    np.testing.assert_allclose(jnp.exp(fitted.log_precision), 4.0, rtol=0.12)
    if isinstance(objective, ebm.NoiseContrastiveEstimation):
        log_z = 0.5 * np.log(2 * np.pi / 4)
        np.testing.assert_allclose(fitted.constant, log_z, atol=0.08)


def _conditional():
    return ebm.ConditionalEnergy(lambda y, x: jnp.sum((y - x) ** 2) * jnp.ones(()), (1,))


OUTSIDE = {
    "an energy": (
        lambda: ebm.Gaussian([0.0], [[1.0]]),
        np.array([[0.5], [2.5], [-3.0]]),
    ),
    "a conditional energy": (
        _conditional,
        (np.array([[0.5], [2.5], [-3.0]]), np.zeros((3, 1))),
    ),
}


@pytest.mark.parametrize(("make", "data"), OUTSIDE.values(), ids=OUTSIDE)
def test_maximum_likelihood_refuses_data_outside_of_its_box(make, data):
    """On [-2, 2], a Gaussian of precision 1 came out as one of .527."""
    objective = ebm.MaximumLikelihood(ebm.Quadrature([-2.0], [2.0]))
    with pytest.raises(ValueError, match=r"2 of 3 points do not, the first at index 1: \[2.5"):
        objective.init(jax.random.key(0), make(), jax.tree.map(jnp.asarray, data))


def test_a_later_batch_outside_of_the_box_is_not_learned_from():
    energy = ebm.as_energy(ebm.Gaussian([0.0], [[1.0]]))
    batches = iter([np.full((4, 1), 0.5)] + [np.full((4, 1), 2.5)] * 9)
    objective = ebm.MaximumLikelihood(ebm.Quadrature([-2.0], [2.0]))
    estimator = ebm.Estimator(objective, optax.sgd(0.1))
    with pytest.raises(ebm.estimation.NonFiniteError):
        estimator.run(jax.random.key(0), 10, energy, batches, progress_bar=False)
