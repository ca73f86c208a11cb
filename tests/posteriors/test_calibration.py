"""Calibrated weights: closed forms, units, coverage."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import log_density
from scipy.stats import norm

import numpyro_ebm as ebm
from numpyro_ebm.diagnostics import InverseMultiquadric
from numpyro_ebm.objectives import KernelSteinDiscrepancy
from numpyro_ebm.posteriors import Bootstrap, Simulated

DATA = 1.7 * norm.ppf((np.arange(1, 1001) - 0.5) / 1000)
SECOND = (DATA**2).mean()


def precision(x, weight=1.0, objective=ebm.ScoreMatching(), unit=1.0, prior=None, **kwargs):
    """A Gaussian of unknown precision, of data in some unit."""
    prior = dist.LogNormal(0, 1) if prior is None else prior
    theta = numpyro.sample("theta", prior)
    energy = ebm.as_energy(lambda x: 0.5 * theta * (x / unit) ** 2, ())
    ebm.loss_factor("x", objective, energy, x, weight=weight, **kwargs)


def plane(x, calibration=None):
    """Means and a scale, of which score matching has another curvature."""
    params = {
        "loc": numpyro.sample("loc", dist.Normal(0, 5).expand([2]).to_event(1)),
        "scale": numpyro.sample("scale", dist.LogNormal(0, 2)),
    }
    params = params if calibration is None else calibration.adjust(params)
    weight = 1.0 if calibration is None else calibration.weight

    def fn(x):
        return 0.5 * jnp.sum(((x - params["loc"]) / params["scale"]) ** 2)

    ebm.loss_factor("x", ebm.ScoreMatching(), ebm.as_energy(fn, (2,)), x, weight=weight)


def calibrate(model, *args, **kwargs):
    return ebm.calibrate_weight(jr.key(0), model, *args, **kwargs)


def test_score_matching_of_a_precision(x64):
    r"""$\beta = H/J = s^2/(\kappa - 1)$, which is $s^2/2$ for Gaussian data [GT-46]."""
    x = 1.7 * norm.ppf((np.arange(1, 20_001) - 0.5) / 20_000)
    second, fourth = (x**2).mean(), (x**4).mean()
    found = calibrate(precision, x)
    np.testing.assert_allclose(found.minimizer["theta"], 1 / second, rtol=1e-6)
    np.testing.assert_allclose(found.weight, second / (fourth / second**2 - 1), rtol=1e-6)
    np.testing.assert_allclose(found.weight, second / 2, rtol=1e-2)
    # The posterior variance is then the 2 theta^2 / n of maximum likelihood.
    variance = 1 / (len(x) * found.weight * second)
    np.testing.assert_allclose(variance, 2 / (len(x) * second**2), rtol=1e-2)
    assert abs(1 / (len(x) * second) / variance - 1) > 0.2  # The weight one.


def test_one_number_of_any_parameter(x64):
    """The weight does not depend on how the model writes the parameter, nor on the prior."""

    def by_scale(x):
        scale = numpyro.sample("scale", dist.HalfNormal(3.0))
        energy = ebm.as_energy(lambda x: 0.5 * (x / scale) ** 2, ())
        ebm.loss_factor("x", ebm.ScoreMatching(), energy, x)

    weight = calibrate(precision, DATA).weight
    np.testing.assert_allclose(calibrate(by_scale, DATA).weight, weight, rtol=1e-6)
    other = calibrate(precision, DATA, prior=dist.Uniform(0.01, 5.0)).weight
    np.testing.assert_allclose(other, weight, rtol=1e-6)


@pytest.mark.parametrize(
    "name", ["score matching", pytest.param("Stein", marks=pytest.mark.slow)]
)
def test_a_change_of_units_changes_nothing(x64, name):
    """The length scale of a Stein kernel is by default in the units of the data."""
    objective = {"score matching": ebm.ScoreMatching(), "Stein": KernelSteinDiscrepancy()}[name]
    x = DATA[::5]
    in_metres = calibrate(precision, x, objective=objective)
    in_feet = calibrate(precision, 3.28 * x, objective=objective, unit=3.28)
    np.testing.assert_allclose(in_feet.weight / in_metres.weight, 3.28**2, rtol=1e-5)
    np.testing.assert_allclose(in_feet.covariance, in_metres.covariance, rtol=1e-5)

    def log_prob(theta, x, weight, unit):
        kwargs = {"objective": objective, "weight": weight, "unit": unit}
        return log_density(precision, (x,), kwargs, {"theta": jnp.array(theta)})[0]

    def ratio(*args):
        return log_prob(0.5, *args) - log_prob(0.3, *args)

    calibrated = ratio(x, in_metres.weight, 1.0), ratio(3.28 * x, in_feet.weight, 3.28)
    np.testing.assert_allclose(*calibrated, rtol=1e-6)
    assert not np.isclose(ratio(x, 1.0, 1.0), ratio(3.28 * x, 1.0, 3.28), rtol=0.1)


def test_coordinates_of_different_units_are_standardised(x64):
    """Score matching of standardised data does not see their units."""
    rows = np.asarray(jr.normal(jr.key(0), (60, 2)))

    def weight(units):
        whiten = ebm.energies.Standardize.fit(rows * units)
        data = whiten(rows * units)

        def model():
            theta = numpyro.sample("theta", dist.LogNormal(0, 1))
            energy = ebm.as_energy(lambda x: 0.5 * theta * jnp.sum((x / units) ** 4), (2,))
            energy = ebm.Transformed(energy, whiten.inv)
            ebm.loss_factor("x", ebm.ScoreMatching(), energy, data)

        return calibrate(model).weight

    np.testing.assert_allclose(weight(np.array([10.0, 0.01])), weight(np.ones(2)), rtol=1e-5)


def test_pairs_are_not_counted_as_rows(x64):
    """The variance of a V-statistic's minimiser, against the jackknife."""
    objective = KernelSteinDiscrepancy(InverseMultiquadric(1.0))
    x = np.asarray(jr.normal(jr.key(1), (150,)))
    found = calibrate(precision, x, objective=objective)
    theta = float(found.minimizer["theta"])

    def minimum(keep):
        s = x[keep]
        gaps = s[:, None] - s
        base = 1 + gaps**2
        # The sum of u is a constant plus theta^2 k x y - theta (x - y)^2 (1 + (x - y)^2)^-1.5.
        return (gaps**2 * base**-1.5).sum() / (2 * (base**-0.5 * s[:, None] * s).sum())

    assert abs(minimum(np.arange(150)) / theta - 1) < 1e-6
    every = np.array([minimum(np.delete(np.arange(150), i)) for i in range(150)])
    jackknife = 149 / 150 * ((every - every.mean()) ** 2).sum()
    # The covariance is that of log theta.
    np.testing.assert_allclose(found.covariance[0, 0] * theta**2, jackknife, rtol=0.05)


def test_the_bootstrap_agrees_with_the_sandwich(x64):
    """400 replicates have an error of 7 %; one of 20 % would be seen."""
    godambe = calibrate(precision, DATA).weight
    bootstrap = calibrate(precision, DATA, method=Bootstrap(400)).weight
    assert abs(np.log(bootstrap / godambe)) < 0.2


def ising(x, weight=1.0):
    coupling = numpyro.sample("coupling", dist.Normal(0, 1))
    energy = ebm.IsingModel((3, 3), coupling, periodic=False)
    ebm.loss_factor("x", ebm.PseudoLikelihood(), energy, x, weight=weight)


@pytest.mark.parametrize("kernel", [None, ebm.BlockGibbs()], ids=["exact", "chains"])
def test_a_single_lattice_by_simulation(x64, kernel):
    """Against the sandwich under the enumerated distribution; 4 standard errors are 13 %."""
    truth = ebm.IsingModel((3, 3), 0.4, periodic=False)
    states = truth.states()
    x = truth.sample(jr.key(5))[None]
    found = calibrate(ising, x, method=Simulated(kernel, num_draws=2000, num_steps=50))
    coupling = found.minimizer["coupling"]

    def loss(coupling, x):
        energy = ebm.IsingModel((3, 3), coupling, periodic=False)
        return ebm.PseudoLikelihood().loss(jr.key(0), energy, None, x[None], None)[0]

    slopes = jax.vmap(jax.grad(loss), (None, 0))(coupling, states)
    energy = ebm.IsingModel((3, 3), coupling, periodic=False)
    probs = jax.nn.softmax(-jax.vmap(energy)(states))
    np.testing.assert_allclose(probs @ slopes, 0, atol=1e-10)
    curvature = jax.hessian(loss)(coupling, x[0])
    np.testing.assert_allclose(found.weight, curvature / (probs @ slopes**2), rtol=0.13)
    assert found.weight < 0.8  # Without it, the posterior is too narrow.


def test_adjusted_draws_have_the_covariance_of_the_estimate(x64):
    """By the curvature of the adjusted model at the minimum, in free coordinates."""
    x = np.asarray(jr.normal(jr.key(2), (400, 2))) * 2 + 1
    found = calibrate(plane, x)
    assert found.spread[-1] > 1.05 * found.spread[0]
    np.testing.assert_allclose(found.spread.mean(), 1, rtol=1e-8)
    loc, log_scale = found.minimizer["loc"], jnp.log(found.minimizer["scale"])

    def potential(free, calibration):
        values = {"loc": free[:2], "scale": jnp.exp(free[2])}
        logs = log_density(plane, (x, calibration), {}, values)[0]
        prior = dist.Normal(0, 5).log_prob(free[:2]).sum()
        return -logs + prior + dist.LogNormal(0, 2).log_prob(values["scale"])

    precisions = jax.hessian(potential)(jnp.append(loc, log_scale), found)
    np.testing.assert_allclose(jnp.linalg.inv(precisions), found.covariance, rtol=1e-5)
    assert "within factors" in repr(found)
    with pytest.raises(ValueError, match=r"`params` must hold the sites \['loc', 'scale'\]"):
        found.adjust({"loc": jnp.zeros(2)})


def mixed_columns(y, x, calibration=None):
    share = numpyro.sample("share", dist.Dirichlet(jnp.ones(3)))
    weight = 1.0
    if calibration is not None:
        share = calibration.adjust({"share": share})["share"]
        weight = calibration.weight
    energy = ebm.ConditionalEnergy(lambda y, x: 0.5 * (y - x @ share) ** 2, ())
    ebm.loss_factor("y", ebm.ScoreMatching(), energy, (y, x), weight=weight)


def test_a_simplex_and_covariates(x64):
    """Errors of variance four, where the energy says one: the weight is about a quarter."""
    x = np.asarray(jr.normal(jr.key(0), (400, 3)))
    y = x @ [0.2, 0.3, 0.5] + 2 * np.asarray(jr.normal(jr.key(1), (400,)))
    found = calibrate(mixed_columns, y, x)
    np.testing.assert_allclose(found.weight, 0.25, rtol=0.2)
    share = found.minimizer["share"]
    np.testing.assert_allclose(share.sum(), 1, rtol=1e-10)
    # Least squares on the simplex: residuals are orthogonal to the differences of columns.
    slopes = x.T @ (y - x @ np.asarray(share))
    np.testing.assert_allclose(slopes, slopes.mean(), atol=1e-4)
    # At the minimum, the adjustment changes nothing.
    fixed = [
        log_density(mixed_columns, (y, x, c), {}, {"share": share})[0] for c in (None, found)
    ]
    prior = dist.Dirichlet(jnp.ones(3)).log_prob(share)
    np.testing.assert_allclose(fixed[1] - prior, found.weight * (fixed[0] - prior), rtol=1e-8)


def test_a_result_passes_through_jit():
    found = calibrate(precision, DATA[::10])
    again = jax.jit(lambda c: c.adjust({"theta": jnp.array(0.5)})["theta"])(found)
    np.testing.assert_allclose(
        again, found.adjust({"theta": jnp.array(0.5)})["theta"], rtol=1e-5
    )
    assert repr(found).startswith("weight ")


def without_factor(x):
    numpyro.sample("theta", dist.Normal(0, 1))


def idle(x):
    numpyro.sample("idle", dist.Normal(0, 1))
    precision(x)


def falling(x):
    theta = numpyro.sample("theta", dist.Normal(0, 1))
    energy = ebm.as_energy(lambda x: jnp.exp(theta) * (x - x), ())
    ebm.loss_factor("x", ebm.ScoreMatching(), energy, x)


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (without_factor, DATA, r"must have one `ebm\.loss_factor`.*got none"),
        (idle, DATA, "The loss does not determine `idle`"),
        (precision, DATA[:1], "1 rows of data cannot show the variability of 1 parameters"),
        (falling, DATA, "The loss does not determine `theta`"),
    ],
    ids=["none", "idle", "rows", "flat"],
)
def test_what_cannot_be_known_is_refused(model, x, message):
    with pytest.raises(ValueError, match=message):
        calibrate(model, x)


GRID = np.exp(np.linspace(-1.5, 1.5, 401))


@jax.jit
def interval(x, weight):
    """A central 95 % interval of the posterior of the precision, on a grid."""

    def at(theta):
        kwargs = {"weight": weight, "prior": dist.LogUniform(0.01, 99.0)}
        return log_density(precision, (x,), kwargs, {"theta": theta})[0]

    mass = jax.nn.softmax(jax.vmap(at)(jnp.asarray(GRID)) + jnp.log(GRID))
    return jnp.interp(jnp.array([0.025, 0.975]), jnp.cumsum(mass), GRID)


@pytest.mark.slow
def test_coverage_if_the_energy_is_wrong(x64):
    """Of 300 data with heavy tails, under a Gaussian energy.

    Calibrated intervals cover the minimum of the population in [0.91, 0.98] of 300 replicates;
    those of weight one, and of the exact posterior, do not: the error of 0.95 is 0.013.
    """
    truth = 1 / 1.5  # One over the variance of Student's t with six degrees of freedom.
    draws = np.asarray(dist.StudentT(6.0).sample(jr.key(0), (300, 300)))
    covered = {"calibrated": 0, "weight one": 0, "exact": 0}
    for x in draws:
        second, fourth = (x**2).mean(), (x**4).mean()
        weights = {
            # The closed form that `calibrate_weight` is tested against above.
            "calibrated": second / (fourth / second**2 - 1),
            "weight one": 1.0,
            # As wide as the posterior of a Gaussian's precision.
            "exact": second / 2,
        }
        for name, weight in weights.items():
            low, high = interval(x, weight)
            covered[name] += low < truth < high
    shares = {name: count / 300 for name, count in covered.items()}
    print(shares)
    assert 0.91 < shares["calibrated"] < 0.98
    assert shares["weight one"] < 0.9
    assert shares["exact"] < 0.9


@pytest.mark.slow
def test_nuts_has_the_calibrated_spread():
    calibration = calibrate(precision, DATA)
    mcmc = MCMC(
        NUTS(precision),
        num_warmup=300,
        num_samples=1000,
        num_chains=8,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jr.key(0), DATA, weight=calibration.weight)
    spread = np.std(mcmc.get_samples()["theta"])
    np.testing.assert_allclose(spread, (1000 * calibration.weight * SECOND) ** -0.5, rtol=0.05)
