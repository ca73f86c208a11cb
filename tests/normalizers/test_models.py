"""Evidence of NumPyro models, against closed forms, enumeration and quadrature."""

import functools
import itertools
import warnings

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import count_traces
from models import design, of_regression, regression
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints
from scipy.special import gammaln, logsumexp

import numpyro_ebm as ebm


def binomial(count, size=10):
    p = numpyro.sample("p", dist.Uniform(0, 1))
    numpyro.sample("count", dist.Binomial(size, p), obs=count)


#: Every count from 0 to 10 is equally likely.
BINOMIAL = -np.log(11)


def estimate(model, *args, method=None, seed=0):
    energy = ebm.ModelEnergy(model, *args)
    return ebm.log_partition(jr.key(seed), energy, method, progress_bar=False)


@pytest.mark.parametrize(
    "method",
    [
        ebm.SequentialMonteCarlo(num_particles=1024),
        pytest.param(ebm.ThermodynamicIntegration(), marks=pytest.mark.slow),
        pytest.param(
            ebm.AnnealedImportanceSampling(num_temperatures=50), marks=pytest.mark.slow
        ),
        ebm.ImportanceSampling(),
        pytest.param(ebm.NestedSampling(), marks=pytest.mark.slow),
        pytest.param(ebm.BridgeSampling(num_chains=8), marks=pytest.mark.slow),
    ],
    ids=lambda method: type(method).__name__,
)
def test_every_method_takes_a_model(method):
    log_z = estimate(binomial, 3, method=method)
    assert log_z.ok, log_z
    assert abs(log_z.estimate - BINOMIAL) < 4 * log_z.std_error < 0.4


def test_up_to_three_dimensions_by_quadrature(x64):
    assert float(estimate(binomial, 3).estimate) == pytest.approx(BINOMIAL, abs=1e-6)
    x, y = design(30, 1)
    assert float(estimate(regression, x, y).estimate) == pytest.approx(
        of_regression(x, y), abs=1e-6
    )


@pytest.mark.parametrize(
    "size", [(50, 5), *(pytest.param(s, marks=pytest.mark.slow) for s in ((30, 3), (200, 10)))]
)
def test_the_default_is_precise(size):
    x, y = design(*size)
    log_z = estimate(regression, x, y)
    assert log_z.ok, log_z
    assert abs(log_z.estimate - of_regression(x, y)) < 0.01
    assert abs(log_z.estimate - of_regression(x, y)) < 4 * log_z.std_error


def clusters(y):
    weight = numpyro.sample("weight", dist.Beta(2, 2))
    means = jnp.array([-1.0, 2.0])
    with numpyro.plate("points", len(y)):
        which = numpyro.sample("which", dist.Bernoulli(weight))
        numpyro.sample("y", dist.Normal(means[which], 1), obs=y)


def test_discrete_sites_are_summed_out(x64):
    pytest.importorskip("funsor")
    y = jnp.array([-1.5, 0.3, 1.9, 2.2])
    labels = jnp.array(list(itertools.product([0, 1], repeat=4)))
    ups = labels.sum(1)
    # A Beta integral for each labelling.
    log_prior = np.log(6) + gammaln(2 + ups) + gammaln(6 - ups) - gammaln(8)
    means = jnp.array([-1.0, 2.0])[labels]
    log_likelihood = dist.Normal(means, 1).log_prob(y).sum(1)
    exact = logsumexp(np.asarray(log_prior + log_likelihood))
    assert float(estimate(clusters, y).estimate) == pytest.approx(exact, abs=1e-6)
    energy = ebm.ModelEnergy(clusters, y)
    assert set(energy.constrain({"weight": jnp.zeros(())})) == {"weight"}
    assert energy.trace.discrete == ("which",)


def test_a_model_of_discrete_sites_alone():
    def coin():
        which = numpyro.sample("which", dist.Bernoulli(0.3))
        numpyro.sample("y", dist.Normal(2.0 * which, 1), obs=1.5)

    pytest.importorskip("funsor")
    exact = logsumexp(-0.5 * np.array([1.5, 0.5]) ** 2, b=[0.7, 0.3]) - 0.5 * np.log(2 * np.pi)
    assert float(estimate(coin).estimate) == pytest.approx(exact, abs=1e-5)


def test_sites_that_the_likelihood_does_not_see_cost_no_accuracy():
    def more(count):
        binomial(count)
        numpyro.sample("tails", dist.HalfCauchy(1).expand([20]).to_event(1))

    method = ebm.SequentialMonteCarlo(num_particles=512)
    alone, together = (estimate(model, 3, method=method) for model in (binomial, more))
    assert together.ok, together
    assert abs(together.estimate - BINOMIAL) < 4 * together.std_error
    assert together.std_error < 3 * alone.std_error


def test_the_prior_is_a_density(x64):
    """A nested prior with a support that depends on another site."""

    def nested():
        top = numpyro.sample("top", dist.Gamma(3, 1))
        numpyro.sample("below", dist.Uniform(0, top))
        numpyro.factor("seen", -top)

    prior = ebm.ModelEnergy(nested).reference
    box = ebm.Quadrature.around(ebm.energies.Flat(prior))
    assert float(box.log_z(ebm.energies.Flat(prior))) == pytest.approx(0, abs=1e-6)
    draws = prior.sample(jr.key(1), (4000,))
    values = jax.vmap(ebm.ModelEnergy(nested).constrain)(draws)
    assert (values["below"] < values["top"]).all()
    assert float(values["top"].mean()) == pytest.approx(3, abs=0.15)
    assert float(estimate(nested).estimate) == pytest.approx(-3 * np.log(2), abs=1e-5)


def test_draws_on_a_boundary_stay_finite():
    def edge():
        numpyro.sample("p", dist.Beta(0.05, 0.05))

    draws = ebm.ModelEnergy(edge).reference.sample(jr.key(0), (2000,))["p"]
    assert jnp.isfinite(draws).all()


def improper():
    numpyro.sample("x", dist.ImproperUniform(constraints.real, (), ()))
    numpyro.factor("f", -1.0)


def point():
    numpyro.sample("x", dist.Delta(1.0))


def masked():
    with handlers.mask(mask=jnp.array([True, False])):
        numpyro.sample("x", dist.Normal(jnp.zeros(2), 1))


def scaled():
    with handlers.scale(scale=2.0):
        numpyro.sample("x", dist.Normal(0, 1))


def subsampled():
    numpyro.sample("x", dist.Normal(0, 1))
    with numpyro.plate("rows", 10, subsample_size=2):
        numpyro.sample("y", dist.Normal(0, 1), obs=jnp.zeros(2))


def from_an_energy():
    numpyro.sample("x", ebm.EnergyDistribution(lambda x: x**4, ()))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (improper, "the prior of site `x`, `ImproperUniform`, is improper"),
        (point, "the prior of site `x`, `Delta`, is improper"),
        (masked, "the prior of site `x` is masked"),
        (scaled, "the density of site `x` is scaled"),
        (subsampled, "plate `rows` draws a subsample"),
        (from_an_energy, "the prior of site `x`, `EnergyDistribution`, is not normalised"),
    ],
)
def test_what_is_no_prior_is_refused_by_name(model, message):
    with pytest.raises(ValueError, match=message):
        estimate(model, method=ebm.SequentialMonteCarlo())
    with pytest.raises(ValueError, match="There is no prior to start from: " + message):
        ebm.energies.ModelPrior(ebm.ModelEnergy(model))


@pytest.mark.parametrize("model", [improper, point, masked, scaled, subsampled])
def test_no_method_integrates_what_is_no_evidence(model):
    with pytest.raises(ValueError, match=f"{model.__name__}.* has no evidence"):
        estimate(model, method=ebm.BridgeSampling())


def test_parameters_without_a_constant_are_refused():
    def unnormalised():
        theta = numpyro.sample("theta", dist.Gamma(2, 1))
        energy = ebm.as_energy(lambda x: theta * x**2, ())
        numpyro.sample("x", ebm.EnergyDistribution(energy), obs=1.0)

    with pytest.raises(ebm.UnnormalizedError):
        estimate(unnormalised, method=ebm.NestedSampling())


def test_a_model_and_experts_are_one_integral(x64):
    model = ebm.ModelEnergy(binomial, 3)
    expert = ebm.OnSite(lambda p: -jnp.log(p), "p", model)
    # Beta(5, 8) over Beta(4, 8), times the evidence.
    exact = BINOMIAL + np.log(4 / 12)
    log_z = ebm.log_partition(jr.key(0), model + expert)
    assert float(log_z.estimate) == pytest.approx(exact, abs=1e-6)
    density = ebm.normalize(jr.key(0), model)
    assert float(ebm.log_partition(jr.key(0), density).estimate) == float(density.log_z)
    with_constant = ebm.log_partition(
        jr.key(0), ebm.Normalized(model, 7.0), ebm.Quadrature([-20.0], [20.0])
    )
    assert float(with_constant.estimate) == pytest.approx(BINOMIAL, abs=1e-6)
    separate = model + ebm.OnSite(dist.Normal(0, 1), "w")
    with pytest.raises(ValueError, match="not one of all sites"):
        ebm.log_partition(jr.key(0), separate, ebm.SequentialMonteCarlo())
    assert float(ebm.log_partition(jr.key(0), separate).estimate) == pytest.approx(
        BINOMIAL, abs=1e-6
    )


def test_populations_and_nested_sampling_draw_from_a_model():
    energy = ebm.ModelEnergy(binomial, 3)
    smc = ebm.TemperedSMC(ebm.MALA())
    draws = ebm.sample(
        jr.key(0), energy, smc, num_chains=8, num_samples=500, progress_bar=False
    )
    assert draws.log_z.ok
    assert abs(draws.log_z.estimate - BINOMIAL) < 5 * draws.log_z.std_error
    p = jax.vmap(jax.vmap(energy.constrain))(draws.values)["p"]
    exact = dist.Beta(4, 8)
    error = p.mean(1).std(ddof=1) / np.sqrt(8)
    assert abs(p.mean() - exact.mean) < 4 * error < 0.03
    assert draws.seconds > 0


@pytest.mark.slow
def test_nested_sampling_draws_from_a_model():
    energy = ebm.ModelEnergy(binomial, 3)
    draws = ebm.NestedSampling().sample(jr.key(0), energy, progress_bar=False)
    assert draws.log_z.ok
    assert draws.ess > 400
    assert abs(draws.log_z.estimate - BINOMIAL) < 4 * draws.log_z.std_error
    p = jax.vmap(energy.constrain)(draws.resample(jr.key(1), int(draws.ess)))["p"]
    exact = dist.Beta(4, 8)
    assert abs(p.mean() - exact.mean) < 4 * np.sqrt(exact.variance / draws.ess)
    tree = ebm.to_arviz(draws)
    assert tree["posterior"]["p"].shape == (1, int(draws.ess))
    assert tree["posterior"].attrs["log_z"] == pytest.approx(float(draws.log_z.estimate))


def normal(y, scale):
    mean = numpyro.sample("mean", dist.Normal(0, scale))
    numpyro.sample("y", dist.Normal(mean, 1), obs=y)


def of_normal(y, scale):
    return float(dist.Normal(0, np.sqrt(1 + scale**2)).log_prob(y))


def test_models_are_compared():
    models = {"wide": (normal, (2.5, 100.0)), "narrow": (normal, (2.5,), {"scale": 1.0})}
    found = ebm.compare_models(jr.key(0), models, prior=[0.8, 0.2])
    assert found.ok
    assert found.names == ("narrow", "wide")
    exact = np.array([of_normal(2.5, 1.0), of_normal(2.5, 100.0)])
    odds = np.exp(exact - exact[0]) * [0.2, 0.8]
    assert found.log_bayes_factor == pytest.approx(exact - exact[0], abs=1e-4)
    assert found.probability == pytest.approx(odds / odds.sum(), abs=1e-4)
    assert "narrow" in repr(found)


def test_errors_of_evidences_propagate():
    from numpyro_ebm.normalizers._models import _ranked

    log_zs = [ebm.energies.LogZ(x, e) for x, e in ((-3.0, 0.2), (-2.0, 0.1), (-9.0, 0.3))]
    found = _ranked(("a", "b", "c"), log_zs, np.full(3, 1 / 3))
    draws = np.random.default_rng(0).normal([-2, -3, -9], [0.1, 0.2, 0.3], (100_000, 3))
    shares = np.exp(draws - logsumexp(draws, axis=1, keepdims=True))
    assert found.names == ("b", "a", "c")
    assert found.probability_error == pytest.approx(shares.std(0), rel=0.15)
    assert found.log_bayes_factor_error == pytest.approx(
        [0, np.hypot(0.1, 0.2), np.hypot(0.1, 0.3)]
    )


@pytest.mark.parametrize(
    ("models", "error", "message"),
    [
        ({}, ValueError, "`models` must be a dict"),
        ({"a": (normal, 3.0)}, TypeError, "`args` a tuple"),
        ({"a": 3.0}, TypeError, "`models\\['a'\\]` must be"),
        ({"a": from_an_energy}, ValueError, "is an energy without a normaliser"),
    ],
)
def test_bad_models(models, error, message):
    with pytest.raises(error, match=message):
        ebm.compare_models(jr.key(0), models)


def test_new_data_compile_nothing():
    counted, traces = count_traces(lambda y, mean: dist.Normal(mean, 1).log_prob(y))

    def five(y):
        mean = numpyro.sample("mean", dist.Normal(0, 1).expand([5]).to_event(1))
        numpyro.factor("y", counted(y, mean).sum())

    method = ebm.SequentialMonteCarlo(num_particles=16, num_islands=4)
    estimate(five, jnp.zeros(5), method=method)
    first = len(traces)
    estimate(five, jnp.ones(5), method=method)
    # Each time the model is traced for its sites, for the guard and for the checks of shapes.
    assert len(traces) - first <= 6 < first / 3


def test_a_prior_knows_nothing_of_the_data(x64):
    """Enumeration gives the first step of a `scan` other names."""
    pytest.importorskip("funsor")
    steps = jnp.array([[0.9, 0.1], [0.2, 0.8]])

    def hidden_markov(y):
        means = numpyro.sample("means", dist.Normal(jnp.array([-1.0, 1.0]), 1).to_event(1))

        def step(state, y_t):
            state = numpyro.sample("state", dist.Categorical(steps[state]))
            numpyro.sample("y", dist.Normal(means[state], 0.5), obs=y_t)
            return state, None

        scan(step, 0, y)

    exact = -dist.Normal(jnp.array([-1.0, 1.0]), 1).log_prob(0).sum()
    for first in (0.0, 3.0):
        prior = ebm.ModelEnergy(hidden_markov, jnp.array([first, 0.9, 1.3])).reference
        assert float(prior({"means": jnp.zeros(2)})) == pytest.approx(float(exact))


def test_what_a_model_closes_over_may_change():
    data = {"y": jnp.zeros(4)}

    def closed():
        mean = numpyro.sample("mean", dist.Normal(0, 1).expand([4]).to_event(1))
        numpyro.sample("y", dist.Normal(mean, 1).to_event(1), obs=data["y"])

    for y in (0.0, 2.0):
        data["y"] = jnp.full(4, y)
        log_z = estimate(closed, method=ebm.ImportanceSampling())
        exact = 4 * dist.Normal(0, np.sqrt(2)).log_prob(y)
        assert abs(log_z.estimate - exact) < 4 * log_z.std_error < 0.3


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda model: handlers.seed(model, 0), "already seeded"),
        (lambda model: handlers.substitute(model, {"p": 0.5}), "use `handlers.condition"),
    ],
)
def test_handlers_that_the_prior_would_not_see_are_refused(wrap, message):
    with pytest.raises(ValueError, match=message):
        ebm.ModelEnergy(wrap(binomial), 3)


def random_start():
    start = numpyro.param("start", lambda key: jr.normal(key))
    numpyro.sample("x", dist.Normal(start, 1))


def test_a_parameter_with_a_random_start_is_refused():
    with pytest.raises(ValueError, match=r"`numpyro\.param` `start` is drawn at random"):
        estimate(random_start, method=ebm.ImportanceSampling())


@pytest.mark.parametrize(
    ("prior", "is_lost"),
    [
        (dist.Beta(0.1, 0.1), True),
        (dist.InverseGamma(0.01, 0.01), True),
        (dist.HalfCauchy(1.0), False),
        (dist.Uniform(0, 1), False),
    ],
)
def test_mass_at_a_boundary_is_seen(prior, is_lost):
    from numpyro_ebm.normalizers._boundary import lost_at_boundaries

    energy = ebm.ModelEnergy(lambda: numpyro.sample("x", prior))
    (failed,) = lost_at_boundaries(jr.key(0), energy).values()
    assert bool(failed) == is_lost


@pytest.mark.slow
def test_a_lost_mode_leaves_no_precise_bridge():
    """By bridge alone, log Z was 2.3 nats too low, by thousands of standard errors."""

    def modes():
        x = numpyro.sample("x", dist.Normal(0, 4).expand([10]).to_event(1))
        low, high = (dist.Normal(c, 0.1).log_prob(x).sum() for c in (0.0, 5.0))
        numpyro.factor("data", jnp.logaddexp(low, 10.0 + high))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log_z = estimate(modes)
    prior = dist.Normal(0, np.hypot(4, 0.1))
    exact = np.logaddexp(10 * prior.log_prob(0.0), 10 + 10 * prior.log_prob(5.0))
    assert not log_z.ok or abs(log_z.estimate - exact) < 4 * log_z.std_error


def hidden_noise():
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    noise = jr.normal(numpyro.prng_key())
    numpyro.sample("y", dist.Normal(mu + noise, 1), obs=1.0)


def harmless_key():
    numpyro.prng_key()
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(mu, 1), obs=1.0)


def test_random_numbers_that_no_site_owns_are_refused():
    """The evidence of one draw of the noise was 1.5 nats too low, and exact to six digits."""
    with pytest.raises(ValueError, match=r"drawn with `numpyro\.prng_key\(\)`"):
        estimate(hidden_noise)
    truth = dist.Normal(0, np.sqrt(2.0)).log_prob(1.0)
    np.testing.assert_allclose(estimate(harmless_key).estimate, truth, atol=1e-4)


def several_at_once():
    z = numpyro.sample("z", dist.Bernoulli(0.5).expand([3]).to_event(1))
    numpyro.sample("y", dist.Normal(z, 1).to_event(1), obs=jnp.ones(3))


def several_without_a_plate():
    z = numpyro.sample("z", dist.Bernoulli(0.5 * jnp.ones(3)))
    numpyro.sample("y", dist.Normal(z, 1).to_event(1), obs=jnp.ones(3))


@pytest.mark.parametrize("model", [several_at_once, several_without_a_plate])
def test_discrete_vectors_without_a_plate_are_refused(model):
    with pytest.raises(ValueError, match="`z` has several discrete values"):
        ebm.ModelEnergy(model)


def grouped(group, y):
    with numpyro.plate("groups", int(group.max()) + 1):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(mu[group], 1).to_event(1), obs=y)


def test_shapes_from_data_are_bound_to_the_model():
    y, group = jnp.array([0.0, 1.0]), np.array([0, 1])
    with pytest.raises(ValueError, match=r"functools\.partial"):
        estimate(grouped, group, y)
    truth = dist.Normal(0, np.sqrt(2.0)).log_prob(y).sum()
    found = estimate(functools.partial(grouped, group), y)
    np.testing.assert_allclose(found.estimate, truth, atol=1e-4)
    assert found.seconds > 0


def test_data_that_change_in_place_change_no_energy():
    y = np.ones(())
    energy = ebm.ModelEnergy(normal, y, np.int64(2))
    before = energy({"mean": jnp.zeros(())})
    y += 1
    assert energy({"mean": jnp.zeros(())}) == before


def test_evidence_under_jit_needs_a_box():
    def by(method):
        def evidence(y):
            energy = ebm.ModelEnergy(normal, y, 1.0)
            return ebm.log_partition(jr.key(0), energy, method).estimate

        return jax.jit(evidence)(jnp.ones(()))

    for method in (None, ebm.ImportanceSampling(), ebm.SequentialMonteCarlo()):
        with pytest.raises(ValueError, match=r"Under `jax\.jit`"):
            by(method)
    np.testing.assert_allclose(by(ebm.Quadrature(-9.0, 9.0)), of_normal(1.0, 1.0), atol=1e-4)


def test_a_density_of_zero_everywhere():
    def impossible():
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.factor("never", 0 * mu - jnp.inf)

    with pytest.raises(ValueError, match="infinite wherever it was looked at"):
        estimate(impossible)
