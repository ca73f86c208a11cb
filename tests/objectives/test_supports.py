"""Score matching where points are constrained: closed forms, and refusals."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from helpers import minimize
from numpyro.distributions import constraints
from numpyro.distributions.transforms import AffineTransform

import numpyro_ebm as ebm


class Exponential(ebm.AbstractEnergy):
    """A rate times x, above zero."""

    rate: jax.Array
    event_shape: tuple[int, ...] = eqx.field(static=True, default=())

    @property
    def support(self):
        return constraints.positive

    def __call__(self, x):
        return self.rate * x


class HalfNormal(Exponential):
    """The mean of a unit normal cut off at zero."""

    def __call__(self, x):
        return 0.5 * (x - self.rate) ** 2


def fit(objective, start, data):
    objective.init(jr.key(0), start, data)

    def loss(energy):
        return objective.loss(jr.key(0), energy, None, data, None)[0]

    return minimize(loss, start).rate


def test_exponential_data(x64):
    r"""$\hat\theta = 2\bar x/\overline{x^2}$ [Hyvärinen 2007]."""
    data = jr.exponential(jr.key(0), (1000,)) / 2.5
    fitted = fit(ebm.objectives.GeneralizedScoreMatching(), Exponential(jnp.array(1.0)), data)
    np.testing.assert_allclose(fitted, 2 * data.mean() / (data**2).mean(), rtol=1e-8)
    assert abs(fitted - 2.5) < 0.3


def test_half_normal_data(x64):
    r"""$\hat\mu = (m_3 - 2m_1)/m_2$."""
    data = jnp.abs(jr.normal(jr.key(0), (2000,)))
    fitted = fit(ebm.objectives.GeneralizedScoreMatching(), HalfNormal(jnp.array(1.0)), data)
    m1, m2, m3 = (float((data**k).mean()) for k in (1, 2, 3))
    np.testing.assert_allclose(fitted, (m3 - 2 * m1) / m2, rtol=1e-7)
    assert abs(fitted) < 0.15


@pytest.mark.parametrize("objective", [ebm.ScoreMatching(), ebm.SlicedScoreMatching()])
def test_without_the_weight_it_would_be_wrong(objective, x64):
    """A mean of 0.8 for half-normal data, were it not refused."""
    data = jnp.abs(jr.normal(jr.key(0), (2000,)))
    loss = lambda e: objective.loss(jr.key(0), e, None, data, None)[0]  # noqa: E731
    np.testing.assert_allclose(minimize(loss, HalfNormal(jnp.array(0.0))).rate, data.mean())
    with pytest.raises(ValueError, match=r"wrong on the support .* `ebm.objectives.Gen"):
        objective.init(jr.key(0), HalfNormal(jnp.array(0.0)), data)


class Beta(ebm.AbstractEnergy):
    """Two independent Beta densities by their exponents."""

    exponents: jax.Array
    event_shape: tuple[int, ...] = eqx.field(static=True, default=(2,))

    @property
    def support(self):
        return constraints.independent(constraints.unit_interval, 1)

    def __call__(self, x):
        a, b = self.exponents
        return -jnp.sum((a - 1) * jnp.log(x) + (b - 1) * jnp.log1p(-x))


@pytest.mark.slow
def test_bounded_data_on_the_population(x64):
    """Quadrature nodes as data: the exponents come back to 1e-5."""
    nodes, log_weights = ebm.Quadrature([1e-3] * 2, [1 - 1e-3] * 2, 301).nodes()
    truth = Beta(jnp.array([4.0, 5.0]))
    weights = len(nodes) * jax.nn.softmax(log_weights - jax.vmap(truth)(nodes))
    objective = ebm.objectives.GeneralizedScoreMatching()
    loss = lambda e: objective.loss(jr.key(0), e, None, nodes, weights)[0]  # noqa: E731
    fitted = minimize(loss, Beta(jnp.array([2.0, 2.0])))
    np.testing.assert_allclose(fitted.exponents, [4.0, 5.0], atol=1e-4)


def test_where_there_is_no_weight():
    simplex = ebm.as_energy(dist.Dirichlet(jnp.ones(3)))
    with pytest.raises(ValueError, match="`weight` is needed"):
        ebm.objectives.GeneralizedScoreMatching().init(jr.key(0), simplex, jnp.ones((2, 3)) / 3)


@pytest.mark.parametrize(
    "objective",
    [
        ebm.ScoreMatching(),
        ebm.objectives.GeneralizedScoreMatching(),
        ebm.DenoisingScoreMatching(1),
    ],
)
def test_integers_are_refused(objective):
    with pytest.raises(ValueError, match="PseudoLikelihood"):
        objective.init(jr.key(0), ebm.IsingModel((3,), 0.1), jnp.ones((2, 3)))


def test_pseudo_likelihood_wants_a_few_levels():
    with pytest.raises(ValueError, match="the same few"):
        ebm.PseudoLikelihood().init(
            jr.key(0), ebm.Gaussian(np.zeros(2), np.eye(2)), jnp.ones((3, 2))
        )


def test_what_is_wrong_at_a_boundary_is_refused_through_views():
    moved = ebm.Transformed(Exponential(jnp.array(1.0)), AffineTransform(0.0, 2.0))
    data = jnp.ones((5,))
    for objective in (ebm.ScoreMatching(), ebm.DenoisingScoreMatching(0.1)):
        with pytest.raises(ValueError, match="wrong on the support"):
            objective.init(jr.key(0), moved, data)


def test_generalized_score_matching_through_a_view(x64):
    """The distance to a boundary that a map has moved."""
    data = jr.exponential(jr.key(0), (1000,)) / 2.5
    moved = ebm.Transformed(Exponential(jnp.array(1.0)), AffineTransform(1.0, -2.0))
    objective = ebm.objectives.GeneralizedScoreMatching()

    def loss(energy):
        return objective.loss(jr.key(0), energy, None, (1 - data) / 2, None)[0]

    fitted = minimize(loss, moved).energy.rate
    np.testing.assert_allclose(fitted, 2 * data.mean() / (data**2).mean(), rtol=1e-8)


def test_bits_are_no_spins():
    energy = ebm.IsingModel((3, 3), 0.1)
    bits = np.random.default_rng(0).integers(0, 2, (50, 3, 3))
    for objective in (
        ebm.NoiseContrastiveEstimation(),
        ebm.ContrastiveDivergence(ebm.GibbsWithGradients(), 5),
        ebm.MaximumLikelihood(ebm.Enumeration()),
        ebm.PseudoLikelihood(),
    ):
        with pytest.raises(ValueError, match="the values -1 and 1"):
            ebm.Estimator(objective, optax.sgd(0.1)).run(
                jr.key(0), 1, energy, bits, progress_bar=False
            )
    with pytest.raises(ValueError, match="must hold the values -1 and 1"):
        ebm.log_likelihood(energy, bits)


def test_data_off_the_support_is_refused():
    energy = Exponential(jnp.array(1.0))
    estimator = ebm.Estimator(ebm.objectives.GeneralizedScoreMatching(), optax.sgd(0.1))
    with pytest.raises(ValueError, match="1 of 3 points do not, the first at index 1"):
        estimator.run(jr.key(0), 1, energy, np.array([1.0, -1.0, 2.0]), progress_bar=False)


@pytest.mark.slow
def test_contrastive_divergence_stays_on_the_support(x64):
    """Chains on exponential data learn its rate; without the wall they would run away."""
    data = np.random.default_rng(0).exponential(size=2000) / 2.5
    objective = ebm.ContrastiveDivergence(ebm.MALA(step_size=0.1), 20, ebm.FromData())
    estimator = ebm.Estimator(objective, optax.adam(0.05))
    energy = Exponential(jnp.array(1.0))
    run = estimator.run(jr.key(0), 200, energy, data, progress_bar=False)
    # The maximum-likelihood estimate, up to the noise of 2000 chains in the last steps.
    assert abs(run.energy.rate * data.mean() - 1) < 0.1


@pytest.mark.slow
def test_noise_may_fall_off_the_support(x64):
    data = np.random.default_rng(0).exponential(size=4000) / 2.5
    objective = ebm.NoiseContrastiveEstimation(num_noise=10)
    estimator = ebm.Estimator(objective, optax.adam(0.05))
    fitted = estimator.run(
        jr.key(0), 400, Exponential(jnp.array(1.0)), data, progress_bar=False
    ).energy
    assert abs(fitted.energy.rate * data.mean() - 1) < 0.15
    assert abs(fitted.log_z + jnp.log(fitted.energy.rate)) < 4 * fitted.std_error
