"""Generalised posteriors against their closed forms."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import assert_means
from numpyro import handlers
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import log_density
from scipy.stats import norm

import numpyro_ebm as ebm
from numpyro_ebm.diagnostics import InverseMultiquadric
from numpyro_ebm.objectives import (
    ConditionalNoiseContrastiveEstimation,
    FlowContrastiveEstimation,
    GeneralizedScoreMatching,
    KernelSteinDiscrepancy,
    RatioMatching,
)

STEIN = KernelSteinDiscrepancy(InverseMultiquadric(1.0))


def quantiles(loc, size):
    return loc + norm.ppf((np.arange(1, size + 1) - 0.5) / size)


CLEAN = quantiles(1.0, 100)
DIRTY = np.concatenate([quantiles(1.0, 90), quantiles(10.0, 10)])


def location(x, weight=1.0, objective=STEIN, **kwargs):
    theta = numpyro.sample("theta", dist.Normal(0, 1))
    energy = ebm.as_energy(lambda x: 0.5 * (x - theta) ** 2, ())
    ebm.loss_factor("x", objective, energy, x, weight=weight, **kwargs)


def log_densities(model, *args, values=(-0.5, 0.3, 1.7, 2.4), site="theta", **kwargs):
    """The log-density of a model at some values of a site, less the first."""
    found = jax.jit(lambda v: log_density(model, args, kwargs, {site: v})[0])
    found = np.array([found(jnp.array(v)) for v in values])
    return found - found[0]


def normal(mean, precision, values=(-0.5, 0.3, 1.7, 2.4)):
    found = -0.5 * precision * (np.array(values) - mean) ** 2
    return found - found[0]


def stein_location(x, weight=1.0):
    """Mean and precision [Matsubara et al. 2022]."""
    pairs = 1 / np.sqrt(1 + (x[:, None] - x) ** 2)
    precision = 2 * weight * pairs.sum() / len(x)
    return (pairs @ x).sum() / pairs.sum() * precision / (1 + precision), 1 + precision


@pytest.mark.parametrize(
    ("x", "mean", "std", "bayes"),
    [(CLEAN, 0.99297, 0.08385, 0.990099), (DIRTY, 1.24986, 0.090939, 1.881188)],
    ids=["clean", "10 % of outliers"],
)
def test_a_location_by_stein_is_a_known_gaussian(x64, x, mean, std, bayes):
    known, precision = stein_location(x)
    np.testing.assert_allclose(known, mean, atol=1e-5)
    np.testing.assert_allclose(precision**-0.5, std, atol=1e-5)
    np.testing.assert_allclose(log_densities(location, x), normal(mean, precision), rtol=1e-4)
    np.testing.assert_allclose(
        log_densities(location, x), normal(known, precision), rtol=1e-9, atol=1e-9
    )
    assert abs(x.sum() / 101 - bayes) < 1e-5


def test_a_location_by_score_matching_is_the_posterior_itself(x64):
    found = log_densities(location, CLEAN, objective=ebm.ScoreMatching())
    np.testing.assert_allclose(found, normal(CLEAN.sum() / 101, 101), rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_nuts_draws_the_closed_form(weight):
    """Sees an error of 0.1 standard deviations; the mutant doubles the weight."""
    mcmc = MCMC(
        NUTS(location),
        num_warmup=300,
        num_samples=250,
        num_chains=20,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jr.key(0), DIRTY, weight=weight)
    draws = np.asarray(mcmc.get_samples(group_by_chain=True)["theta"])[..., None]
    mean, precision = stein_location(DIRTY, weight)
    assert_means(draws, [mean])
    assert_means((draws - mean) ** 2, [1 / precision], name="variance")
    wrong, other = stein_location(DIRTY, 2 * weight)
    with pytest.raises(AssertionError):
        assert_means((draws - wrong) ** 2, [1 / other], name="variance")


def test_a_robust_weight_multiplies_the_kernel(x64):
    """Against the definition of the Stein kernel of m(x) k(x, y) m(y), by autodiff."""

    def m(x):
        return (1 + jnp.sum(x**2) / 4) ** -0.5

    def k(x, y):
        return m(x) * m(y) * (1 + jnp.sum((x - y) ** 2) / 1.5**2) ** -0.5

    energy = ebm.GaussianMixture([0.3, 0.7], [[0.0, 1.0], [2.0, 0.0]], [np.eye(2)] * 2)
    points = jr.normal(jr.key(0), (6, 2))

    def u(x, y):
        s, t = ebm.score(energy, x), ebm.score(energy, y)
        mixed = jax.jacfwd(jax.grad(k, argnums=1), argnums=0)(x, y)
        slopes = s @ jax.grad(k, argnums=1)(x, y) + t @ jax.grad(k)(x, y)
        return k(x, y) * (s @ t) + slopes + jnp.trace(mixed)

    truth = jax.vmap(lambda x: jax.vmap(lambda y: u(x, y))(points))(points).mean()
    objective = KernelSteinDiscrepancy(InverseMultiquadric(1.5), m)
    _, kernel = objective.init(jr.key(0), energy, points)
    loss = objective.loss(jr.key(0), energy, kernel, points, None)[0]
    np.testing.assert_allclose(loss, truth, rtol=1e-10)
    assert loss > 0


def test_a_robust_weight_bounds_an_outlier(x64):
    """The posterior mean moves back as the outlier leaves; that of Bayes follows it."""

    def mean(outlier, weight):
        x = np.append(CLEAN, outlier)
        grid = np.linspace(0.5, 1.6, 300)
        logs = log_densities(
            location,
            x,
            values=grid,
            objective=KernelSteinDiscrepancy(InverseMultiquadric(1.0), weight),
        )
        mass = np.exp(logs - logs.max())
        return mass @ grid / mass.sum()

    shift = abs(
        mean(1e4, lambda x: (1 + x**2) ** -0.5) - mean(1e3, lambda x: (1 + x**2) ** -0.5)
    )
    assert shift < 1e-3


@pytest.mark.parametrize(
    "objective",
    [
        ebm.SlicedScoreMatching(),
        ebm.DenoisingScoreMatching(0.3),
        ebm.objectives.VarianceReducedDenoisingScoreMatching(0.3),
        ConditionalNoiseContrastiveEstimation(0.3),
    ],
    ids=lambda o: type(o).__name__,
)
def test_random_objectives_need_a_key(objective):
    # Slices of a one-dimensional point have no choice but a sign, and yet depend on the key.
    with pytest.raises(ValueError, match=f"`{type(objective).__name__}` is random, .*rng_key"):
        log_densities(location, CLEAN, objective=objective)
    fixed = [
        log_densities(location, CLEAN, objective=objective, rng_key=jr.key(i))
        for i in (1, 1, 2)
    ]
    np.testing.assert_array_equal(fixed[0], fixed[1])
    assert np.isfinite(fixed[2]).all()
    if not isinstance(objective, ebm.SlicedScoreMatching):
        assert (fixed[0] != fixed[2]).any()


def test_noise_contrastive_estimation_takes_the_constant_as_a_parameter(x64):
    x = quantiles(0.0, 60)
    noise = dist.Normal(0.0, 1.5)
    objective = ebm.NoiseContrastiveEstimation(noise, 4)

    def model(x, rng_key=jr.key(3)):
        theta = numpyro.sample("theta", dist.Normal(0, 1))
        log_z = numpyro.sample("log_z", dist.Normal(0, 10))
        energy = ebm.as_energy(lambda x: 0.5 * (x - theta) ** 2, ())
        ebm.loss_factor("x", objective, ebm.Normalized(energy, log_z), x, rng_key=rng_key)

    def truth(theta, log_z):
        draws = noise.sample(jr.key(3), (240,))

        def logit(u):
            return -0.5 * (u - theta) ** 2 - log_z - noise.log_prob(u) - np.log(4)

        fit = jax.nn.softplus(-logit(x)).sum() + jax.nn.softplus(logit(draws)).sum()
        return -fit + norm.logpdf(theta) + norm.logpdf(log_z, scale=10)

    for theta, log_z in [(0.2, 0.9), (-1.0, 0.3)]:
        found = log_density(model, (x,), {}, {"theta": theta, "log_z": log_z})[0]
        np.testing.assert_allclose(found, truth(theta, log_z), rtol=1e-10)
    with pytest.raises(ValueError, match="needs log Z of `energy`, as a parameter"):
        log_densities(location, x, objective=objective, rng_key=jr.key(0))


def test_maximum_likelihood_is_the_posterior(x64):
    """On quantiles of a quartic density; the table is by quadrature in the parameters."""
    method = ebm.Quadrature(-8.0, 8.0, num_points=801)

    def model(x):
        theta = numpyro.sample("theta", dist.Normal(0, 2))
        energy = ebm.as_energy(lambda x: 0.25 * x**4 - 0.5 * theta * x**2, ())
        ebm.loss_factor("x", ebm.MaximumLikelihood(method), energy, x)

    x = quantiles(0.0, 50)

    def truth(theta):
        grid = np.linspace(-8, 8, 20001)
        energies = 0.25 * grid**4 - 0.5 * theta * grid**2
        log_z = np.log(np.exp(-energies).sum() * (grid[1] - grid[0]))
        fit = (0.25 * x**4 - 0.5 * theta * x**2).sum() + 50 * log_z
        return norm.logpdf(theta, scale=2) - fit

    found = log_densities(model, x)
    known = np.array([truth(v) for v in (-0.5, 0.3, 1.7, 2.4)])
    np.testing.assert_allclose(found, known - known[0], rtol=1e-6)


def test_one_factor_per_row_in_a_plate(x64):
    def in_plate(x, size=None):
        theta = numpyro.sample("theta", dist.Normal(0, 1))
        energy = ebm.as_energy(lambda x: 0.5 * (x - theta) ** 2, ())
        with numpyro.plate("rows", len(x), size):
            rows = numpyro.subsample(jnp.asarray(x), 0)
            ebm.loss_factor("x", ebm.ScoreMatching(), energy, rows, weight=0.7)

    whole = log_densities(location, CLEAN, objective=ebm.ScoreMatching(), weight=0.7)
    np.testing.assert_allclose(log_densities(in_plate, CLEAN), whole, rtol=1e-10)
    # Rows that are all the same: a part of them, scaled up, is the whole.
    same = np.full(40, 1.3)
    part = log_densities(handlers.seed(in_plate, jr.key(0)), same, 10)
    np.testing.assert_allclose(part, log_densities(in_plate, same), rtol=1e-10)


def test_plates_that_do_not_fit_are_refused():
    def model(objective, size):
        theta = numpyro.sample("theta", dist.Normal(0, 1))
        energy = ebm.as_energy(lambda x: 0.5 * (x - theta) ** 2, ())
        with numpyro.plate("rows", size):
            ebm.loss_factor("x", objective, energy, CLEAN)

    with pytest.raises(ValueError, match=r"has 100 rows of data in plates of shape \(3,\)"):
        log_densities(model, ebm.ScoreMatching(), 3)
    with pytest.raises(ValueError, match="not a mean over points"):
        log_densities(model, STEIN, 100)


@pytest.mark.parametrize("objective", [ebm.ScoreMatching(), STEIN], ids=["mean", "pairs"])
def test_a_weight_of_two_is_a_row_twice(x64, objective):
    x, counts = CLEAN[:9], np.arange(9) % 3
    weighted = log_densities(location, x, objective=objective, sample_weights=counts)
    repeated = log_densities(location, np.repeat(x, counts), objective=objective)
    np.testing.assert_allclose(weighted, repeated, rtol=1e-9)


def test_a_regression_by_score_matching_is_least_squares(x64):
    x = quantiles(0.0, 30)
    y = 0.5 * x + np.sin(7 * x)

    def model(y, x):
        theta = numpyro.sample("theta", dist.Normal(0, 1))
        energy = ebm.ConditionalEnergy(lambda y, x: 0.5 * (y - theta * x) ** 2, ())
        ebm.loss_factor("y", ebm.ScoreMatching(), energy, (y, x))

    precision = 1 + (x**2).sum()
    np.testing.assert_allclose(
        log_densities(model, y, x), normal((x * y).sum() / precision, precision), rtol=1e-9
    )
    energy = ebm.ConditionalEnergy(lambda y, x: (y - x) ** 2, ())
    with pytest.raises(TypeError, match="compares points of one density"):
        ebm.loss_factor("y", STEIN, energy, (y, x))


@pytest.mark.parametrize("objective", [ebm.PseudoLikelihood(), RatioMatching()], ids=str)
def test_spins(x64, objective):
    states = ebm.IsingModel((6,), 0.4).sample(jr.key(0), (30,))

    def model(x):
        theta = numpyro.sample("theta", dist.LogNormal(0, 1))
        ebm.loss_factor("x", objective, ebm.IsingModel((6,), theta), x)

    def truth(theta):
        field = np.roll(states, 1, 1) + np.roll(states, -1, 1)
        chance = 1 / (1 + np.exp(-2 * theta * states * field))
        pseudo = isinstance(objective, ebm.PseudoLikelihood)
        loss = -np.log(chance) if pseudo else (1 - chance) ** 2
        return dist.LogNormal(0, 1).log_prob(theta) - loss.sum()

    values = (0.2, 0.5, 0.9)
    known = np.array([truth(v) for v in values])
    found = log_densities(model, states, values=values)
    np.testing.assert_allclose(found, known - known[0], rtol=1e-8)


def test_positive_data(x64):
    """Exponential data: the minimum is at 2 mean(x) / mean(x^2) [Hyvärinen 2007]."""
    x = -np.log1p(-(np.arange(1, 51) - 0.5) / 50)

    class Exponential(ebm.AbstractEnergy):
        rate: jax.Array
        event_shape = ()
        support = dist.constraints.positive

        def __call__(self, x):
            return self.rate * x

    def model(x):
        theta = numpyro.sample("theta", dist.ImproperUniform(dist.constraints.real, (), ()))
        ebm.loss_factor("x", GeneralizedScoreMatching(), Exponential(theta), x)

    values = (0.5, 1.0, 2.0)
    known = [-(0.5 * v**2 * (x**2).sum() - 2 * v * x.sum()) for v in values]
    found = log_densities(model, x, values=values)
    np.testing.assert_allclose(found, np.array(known) - known[0], rtol=1e-9)


def test_the_guard_lets_it_pass_and_kernels_run():
    ebm.sites.check_normalization(location, CLEAN)
    mcmc = MCMC(ebm.MALA(location), num_warmup=20, num_samples=20, progress_bar=False)
    mcmc.run(jr.key(0), CLEAN)
    assert np.isfinite(mcmc.get_samples()["theta"]).all()
    jitted = MCMC(
        NUTS(location), num_warmup=5, num_samples=5, jit_model_args=True, progress_bar=False
    )
    jitted.run(jr.key(0), CLEAN)
    assert np.isfinite(jitted.get_samples()["theta"]).all()


def test_an_inferred_weight_is_refused():
    def model(x):
        location(x, weight=numpyro.sample("weight", dist.LogNormal(0, 1)))

    mcmc = MCMC(NUTS(model), num_warmup=5, num_samples=5, progress_bar=False)
    with pytest.raises(ValueError, match="`weight` of loss factor `x` is inferred"):
        mcmc.run(jr.key(0), CLEAN)


def test_a_masked_factor_is_not_evaluated():
    with handlers.seed(rng_seed=0), handlers.mask(mask=False):
        location(np.full(3, np.nan))


def bounded(x):
    theta = numpyro.sample("theta", dist.Normal(0, 1))
    energy = ebm.as_energy(dist.Beta(2.0, 3.0)) + (lambda x: theta * x)
    ebm.loss_factor("x", ebm.ScoreMatching(), energy, x)


@pytest.mark.parametrize(
    ("model", "kwargs", "error", "message"),
    [
        (location, {"x": [1.0, np.nan]}, ValueError, "`data` must be finite"),
        (location, {"x": CLEAN[:, None]}, ValueError, "lives on points of shape"),
        (location, {"x": CLEAN, "weight": -1.0}, ValueError, "`weight` must be positive"),
        (location, {"x": CLEAN, "sample_weights": [1.0]}, ValueError, "for each of 100 rows"),
        (location, {"x": [1.0, 2.0], "sample_weights": [1, -1]}, ValueError, "negative"),
        (location, {"x": CLEAN, "objective": "score"}, TypeError, "`objective` must be one of"),
        (
            location,
            {"x": CLEAN, "objective": ebm.ContrastiveDivergence(ebm.MALA(), 1)},
            TypeError,
            "a gradient without a value",
        ),
        (
            location,
            {"x": CLEAN, "objective": FlowContrastiveEstimation(dist.Normal(0.0, 1.0))},
            TypeError,
            "a gradient without a value",
        ),
        (bounded, {"x": [0.2, 0.4]}, ValueError, "wrong on the support"),
    ],
)
def test_errors(model, kwargs, error, message):
    with handlers.seed(rng_seed=0), pytest.raises(error, match=message):
        model(**kwargs)


def test_a_loss_of_minus_infinity_is_no_success():
    class Bottomless(ebm.objectives.AbstractPointwiseObjective):
        def at(self, rng_key, energy, x):
            return -jnp.exp(1e3 * energy(x))

    value, _ = log_density(
        location, (CLEAN,), {"objective": Bottomless()}, {"theta": jnp.array(50.0)}
    )
    assert np.isnan(value)
