"""Surrogates of log Z, against enumeration and quadrature."""

import functools
import pickle
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import assert_means
from intractable import (
    LATTICE,
    lattice,
    lattice_data,
    lattice_model,
    quartic,
    quartic_data,
    quartic_model,
    quartic_prior,
    quartic_truth,
)
from numpyro.distributions import constraints
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import log_density

import numpyro_ebm as ebm
from numpyro_ebm.posteriors._gradient_process import _loss, fit_process
from numpyro_ebm.sites import check_normalization

KEY = jax.random.key(0)
BOX = ebm.Quadrature(-25.0, 25.0, 4097)


@functools.cache
def quartic_surrogate(seed=0):
    key = jax.random.key(seed)
    return ebm.surrogate_log_z(key, quartic, quartic_prior(), data=quartic_data())


@functools.cache
def lattice_surrogate():
    return ebm.surrogate_log_z(
        KEY, lattice, (-0.2, 1.0), data=lattice_data(), num_points=16, num_samples=300
    )


def run(model, *args, num_samples=2000, seed=1):
    mcmc = MCMC(
        NUTS(model),
        num_warmup=500,
        num_samples=num_samples,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(seed), *args)
    return mcmc


@functools.cache
def spring_surrogate():
    prior, support = jnp.linspace(0.2, 5.0, 50), constraints.positive
    return ebm.surrogate_log_z(KEY, Spring, prior, support=support, num_samples=200)


class Spring(ebm.AbstractEnergy):
    precision: jax.Array
    event_shape: tuple = eqx.field(static=True, default=())

    def __call__(self, x):
        return 0.5 * self.precision * x**2


def in_blocks(draws, *names):
    """Draws as 40 blocks, taken as independent."""
    return np.stack([draws[name] for name in names], -1).reshape(40, -1, len(names))


def test_a_process_integrates_noisy_gradients_and_knows_its_error():
    def field(z):
        return jnp.log(3 * jnp.cosh(z[0]) + jnp.cosh(5 * z[1]))

    rng = np.random.default_rng(0)
    points, others = (rng.normal(size=(n, 2)) * [1, 0.3] + [2, 0] for n in (64, 200))
    gradients = np.asarray(jax.vmap(jax.grad(field))(points), float)
    gradients += 0.01 * rng.normal(size=gradients.shape)
    noise = 0.01**2 * np.eye(128)
    center, scale = points.mean(0), np.linalg.cholesky(np.cov(points.T))
    process = fit_process(points, gradients, noise, center, scale)
    values = process.values(others) - process.values(center[None])
    errors = process.errors(others, center)
    truth = np.asarray(jax.vmap(field)(others) - field(center), float)
    chi2 = np.mean(((values - truth) / errors) ** 2)
    assert 0.2 < chi2 < 2
    inside = np.linalg.norm((others - center) / [1, 0.3], axis=1) < 2
    assert np.abs(values - truth)[inside].max() < 0.02
    # A trace sees the same, in single precision.
    traced = jax.vmap(process.value)(others) - process.value(center)
    np.testing.assert_allclose(traced, values, atol=2e-3)
    rounded = jax.vmap(lambda z: process.traced_error(z, center))(others)
    np.testing.assert_allclose(rounded, errors, rtol=0.2, atol=2e-3)


def test_the_error_of_the_quadratic_part_counts():
    """In a small region log Z is a quadratic, and the rest that is smooth vanishes."""
    rng, squares = np.random.default_rng(0), []
    points, noise = 0.01 * rng.normal(size=(16, 2)), 0.3**2 * np.eye(32)
    truth = 0.5 * np.sum(points**2, 1)
    for _ in range(20):
        gradients = points + 0.3 * rng.normal(size=points.shape)
        process = fit_process(points, gradients, noise, np.zeros(2), 0.01 * np.eye(2))
        values = process.values(points) - process.values(np.zeros((1, 2)))
        squares.append(((values - truth) / process.errors(points, np.zeros(2))) ** 2)
    assert 0.4 < np.mean(squares) < 2.5


def test_the_marginal_likelihood_has_the_slope_it_says():
    rng = np.random.default_rng(0)
    fixed = rng.normal(size=(5, 2)), rng.normal(size=10), 0.1 * np.eye(10)
    x, step = np.array([0.1, 0.3, 0.2]), 1e-5
    slope = [
        (_loss(x + step * e, *fixed)[0] - _loss(x - step * e, *fixed)[0]) / (2 * step)
        for e in np.eye(3)
    ]
    np.testing.assert_allclose(_loss(x, *fixed)[1], slope, rtol=1e-6)


def test_the_posterior_of_a_coupling_by_a_surrogate_on_a_grid():
    surrogate, bonds = lattice_surrogate(), 202
    assert surrogate.ok, surrogate
    couplings = jnp.linspace(0.15, 0.6, 181)
    log_z = jax.jit(jax.vmap(surrogate.log_z))(couplings)
    for num_data, is_right in ((20, True), (22, False)):
        p = jax.nn.softmax(couplings * bonds - num_data * log_z - 0.5 * couplings**2)
        mean = p @ couplings
        sd = jnp.sqrt(p @ (couplings - mean) ** 2)
        assert (abs(mean - LATTICE[0]) < 0.1 * LATTICE[1]) == is_right
        assert abs(sd / LATTICE[1] - 1) < 0.05 or not is_right
    # The level is exact here, by enumeration, and its error is known.
    values = jnp.array([lattice(k).log_z for k in (0.3, 0.4)])
    errors = jnp.array([surrogate.std_error(jnp.array(k)) for k in (0.3, 0.4)])
    found = jnp.array([surrogate.log_z(jnp.array(k)) for k in (0.3, 0.4)])
    assert np.all(np.abs(found - values) < 4 * errors)
    assert errors.max() < 0.01


@pytest.mark.slow
def test_nuts_with_a_surrogate_draws_from_the_posterior_of_a_coupling():
    mcmc = run(lattice_model, lattice_data(), lattice_surrogate())
    blocks = in_blocks(mcmc.get_samples(), "K")
    assert_means(blocks, LATTICE[:1])
    assert_means((blocks - LATTICE[0]) ** 2, [LATTICE[1] ** 2], name="variance")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nuts_with_a_surrogate_draws_from_the_posterior_of_a_quartic(seed):
    surrogate = quartic_surrogate(seed)
    assert surrogate.ok, surrogate
    mean, sd, *_ = quartic_truth()
    mcmc = run(quartic_model, quartic_data(), surrogate, seed=seed)
    blocks = in_blocks(mcmc.get_samples(), "log_a", "b")
    assert_means(blocks, mean)
    assert_means((blocks - mean) ** 2, sd**2, name="variance")
    check = ebm.check_surrogate(KEY, mcmc, surrogate)
    assert check.ok, check
    assert check.ess > 900  # Nearly equal weights have a tail index of any size.
    assert max(map(abs, check.shift.values())) < 0.1


@pytest.mark.slow
def test_an_error_of_two_parts_in_a_hundred_of_log_z_would_be_seen():
    def wrong(theta):
        right = quartic_surrogate()(theta)
        return ebm.Normalized(right.energy, 1.02 * right.log_z)

    draws = run(quartic_model, quartic_data(), wrong).get_samples()
    with pytest.raises(AssertionError, match="mean: z = "):
        assert_means(in_blocks(draws, "log_a", "b"), quartic_truth()[0])


@pytest.mark.slow
def test_log_z_and_its_slopes_are_those_of_quadrature():
    surrogate = quartic_surrogate()
    assert surrogate.ok
    assert surrogate.data_error < 0.1
    mean, sd, *_ = quartic_truth()
    for shift in (-1.0, 0.0, 1.0):
        theta = {"log_a": jnp.array(mean[0] + shift * sd[0]), "b": mean[1] + shift * sd[1]}

        def exact(theta):
            return BOX.log_z(quartic(theta))

        value, slopes = jax.value_and_grad(surrogate.log_z)(theta)
        truth, true_slopes = jax.value_and_grad(exact)(theta)
        assert abs(value - truth) < 4 * surrogate.std_error(theta)
        assert abs(value - truth) < 2e-3
        for name, slope in slopes.items():
            assert abs(slope - true_slopes[name]) < 0.02
    assert surrogate.contains({"log_a": mean[0], "b": mean[1]})
    far = {"log_a": jnp.array(3.0), "b": jnp.array(-5.0)}
    assert not surrogate.contains(far)
    assert surrogate.relative_error(far) > 10 * surrogate.relative_error(theta)


def test_the_guard_accepts_a_surrogate_and_the_site_is_a_density():
    surrogate = spring_surrogate()
    site = ebm.EnergyDistribution(surrogate(1.5))
    assert site.is_normalized
    assert site.log_z_error < 0.01
    slope = jax.jit(jax.grad(lambda p: ebm.EnergyDistribution(surrogate(p)).log_prob(1.0)))(1.5)
    np.testing.assert_allclose(slope, 0.5 / 1.5 - 0.5, atol=0.01)
    assert "surrogate of log Z" in repr(surrogate)
    assert "<table>" in surrogate._repr_html_()


def test_a_constant_of_another_support_is_refused():
    normalized = spring_surrogate()(2.0)
    with pytest.raises(ValueError, match="is for its own support, Real"):
        ebm.EnergyDistribution(normalized, support=constraints.positive)
    box = ebm.normalized_by(Spring(jnp.array(2.0)), ebm.Quadrature(0.0, 9.0))
    site = ebm.EnergyDistribution(box, support=constraints.positive)  # The box is the user's.
    np.testing.assert_allclose(
        site.log_prob(1.0), dist.HalfNormal(0.5**0.5).log_prob(1.0), 1e-5
    )
    wide = ebm.normalized_by(Spring(jnp.array(2.0)), ebm.Quadrature(-9.0, 9.0))
    with pytest.raises(ValueError, match="would be wrong on that of the site"):
        ebm.EnergyDistribution(wide, support=constraints.positive)


def test_parameters_of_each_datum():
    """Covariates: one energy per datum, each with a constant of its own."""
    surrogate = spring_surrogate()
    # Their mean is not zero: the constants of all data must not cancel.
    covariates, x = jnp.linspace(0, 1, 6), jnp.linspace(-2, 2, 6)

    def model(x):
        slope = numpyro.sample("slope", dist.Normal(0, 1))
        make = eqx.filter_vmap(lambda z: surrogate(2.5 * jnp.exp(slope * z)))
        site = ebm.EnergyDistribution(make(covariates), batch_shape=(6,))
        with numpyro.plate("data", 6):
            numpyro.sample("x", site, obs=x)

    check_normalization(model, x)
    for slope in (0.3, -0.6):
        found = log_density(model, (x,), {}, {"slope": jnp.array(slope)})[0]
        found -= dist.Normal(0, 1).log_prob(slope)
        stiffness = 2.5 * jnp.exp(slope * covariates)
        constants = sum(map(surrogate.log_z, stiffness))
        own = -jnp.sum(0.5 * stiffness * x**2) - constants
        np.testing.assert_allclose(found, own, atol=1e-4)
        # Near the centre of the region, where the six constants are known best.
        truth = dist.Normal(0, stiffness**-0.5).log_prob(x).sum()
        np.testing.assert_allclose(found, truth, atol=0.01)
    draws = jnp.exp(jnp.linspace(-0.5, 0.5, 40)[:, None] * covariates)
    check = ebm.check_surrogate(KEY, draws, surrogate, num_data=1)
    assert check.ok
    assert check.log_weights.shape == (40,)


def test_a_surrogate_is_pickled():
    surrogate = lattice_surrogate()
    again = pickle.loads(pickle.dumps(surrogate))
    assert again.log_z(jnp.array(0.3)) == surrogate.log_z(jnp.array(0.3))
    assert again(0.3).energy(jnp.ones((4, 4))) == surrogate(0.3).energy(jnp.ones((4, 4)))


def test_arguments_that_cannot_be():
    prior = quartic_prior(50)

    def refused(match, theta=prior, family=quartic, error=ValueError, **more):
        with pytest.raises(error, match=match):
            ebm.surrogate_log_z(KEY, family, theta, **more)

    refused("must hold more than 4 draws", {"log_a": np.ones(3), "b": np.ones(3)})
    refused(r"must be draws or a box", (1.0, 2.0, 3.0))
    refused(r"`low` below `high`", ({"log_a": 1.0, "b": 0.0}, {"log_a": 0.0, "b": 1.0}))
    refused("`theta` must be finite", {"log_a": np.full(9, np.nan), "b": np.ones(9)})
    refused(r"names `c`, which is not among", support={"c": constraints.positive})
    refused("at the boundary of its `support`", support={"b": constraints.positive})
    refused("`support` must be a NumPyro constraint", error=TypeError, support=3)
    refused(r"`data` must hold points of shape \(\)", data=np.ones((5, 2)))
    refused("must leave its target invariant", kernel=ebm.UnadjustedLangevin())
    refused("moves through real points", (0.0, 1.0), lattice, TypeError, kernel=ebm.HMC())
    refused("`num_points` must be at least 4", num_points=2)
    refused("`event_shape`, the shape of one point", (0.1, 1.0), lambda t: lambda x: t * x**2)


@pytest.mark.slow
@pytest.mark.timing
def test_a_lattice_of_a_thousand_spins_takes_less_than_a_minute():
    truth = {"K": 0.3, "h": 0.05}

    def family(theta):
        return ebm.IsingModel((32, 32), theta["K"], theta["h"])

    data = ebm.sample(
        KEY, family(truth), ebm.BlockGibbs(), num_chains=1, num_samples=10, progress_bar=False
    ).values[0, -1:]

    def model(spins, normalized):
        K = numpyro.sample("K", dist.Uniform(0, 0.5))
        h = numpyro.sample("h", dist.Uniform(-0.3, 0.3))
        with numpyro.plate("data", 1):
            ebm.factor("spins", normalized({"K": K, "h": h}), spins)

    begin = time.perf_counter()
    box = {"K": 0.0, "h": -0.3}, {"K": 0.5, "h": 0.3}
    surrogate = ebm.surrogate_log_z(
        *(KEY, family, box),
        **{"data": data, "num_points": 16, "num_chains": 16},
        **{"num_warmup": 100, "num_samples": 100},
    )
    mcmc = run(model, data, surrogate, num_samples=1000)
    seconds = time.perf_counter() - begin
    print(f"{seconds:.1f} s, {surrogate}")
    draws = mcmc.get_samples()
    for name, value in truth.items():
        assert abs(draws[name].mean() - value) < 4 * draws[name].std()
        assert draws[name].std() < 0.04
    check = ebm.check_surrogate(KEY, mcmc, surrogate)
    print(check)
    assert check.ok
    assert seconds < 60


@pytest.mark.slow
def test_evidence_of_a_doubly_intractable_model():
    surrogate = quartic_surrogate()
    energy = ebm.ModelEnergy(quartic_model, quartic_data(), surrogate)
    log_z = ebm.log_partition(KEY, energy, progress_bar=False)
    truth = quartic_truth()[3]
    # The surrogate contributes n times the error of its level, and its own.
    error = np.hypot(float(log_z.std_error), surrogate.data_error)
    print(log_z, truth, error)
    assert abs(float(log_z.estimate) - truth) < 4 * error
    assert error < 0.2


def test_without_a_level_a_site_is_no_density_and_a_path_gives_one():
    box = {"K": 0.0, "h": -0.2}, {"K": 0.3, "h": 0.2}
    size = {"num_points": 16, "num_chains": 16, "num_warmup": 100, "num_samples": 200}

    def family(theta):
        return ebm.IsingModel((6, 6), theta["K"], theta["h"], periodic=False)

    relative = ebm.surrogate_log_z(KEY, family, box, **size)
    assert relative.level.is_relative
    assert "unknown" in repr(relative)
    assert np.isinf(relative.std_error({"K": 0.1, "h": 0.0}))
    _check_that_nothing_takes_it_for_a_density(relative)
    free = 36 * jnp.log(2 * jnp.cosh(0.1))
    known = ({"K": 0.0, "h": 0.1}, free)
    surrogate = ebm.surrogate_log_z(KEY, family, box, level=known, **size)
    for theta in ({"K": 0.0, "h": -0.1}, {"K": 0.25, "h": 0.0}):
        found = surrogate.log_z(theta)
        truth = free if theta["K"] == 0 else _by_transfer(6, theta["K"])
        assert abs(found - truth) < 4 * surrogate.std_error(theta)
        assert surrogate.std_error(theta) < 0.2


def _check_that_nothing_takes_it_for_a_density(relative):
    spins = jnp.ones((2, 6, 6))

    def model():
        K = numpyro.sample("K", dist.Uniform(0, 0.3))
        with numpyro.plate("data", 2):
            ebm.factor("x", relative({"K": K, "h": jnp.array(0.0)}), spins)

    def site_model():
        p = numpyro.sample("p", dist.LogNormal(0, 1))
        constant = ebm.energies.LogZ(-0.5 * jnp.log(p), np.inf, is_relative=True)
        site = ebm.EnergyDistribution(ebm.Normalized(Spring(p), constant))
        numpyro.sample("x", site, obs=1.0)

    energy = relative({"K": 0.1, "h": 0.0})
    unknown = "known up to a constant only.*give its surrogate a level"
    for refused in (
        lambda: ebm.log_partition(KEY, ebm.ModelEnergy(model)),
        lambda: ebm.log_partition(KEY, ebm.ModelEnergy(site_model)),
        lambda: ebm.compare_models(KEY, {"one": model, "two": model}),
        lambda: ebm.log_partition(KEY, energy),
        lambda: ebm.log_likelihood(energy, spins),
        lambda: ebm.Mixture([energy, lattice(0.1)], [0.5, 0.5]),
    ):
        with pytest.raises(ValueError, match=unknown):
            refused()


def _by_transfer(size, coupling):
    """log Z of free square spins without a field, row by row."""
    rows = 2.0 * ((np.arange(2**size)[:, None] >> np.arange(size)) & 1) - 1
    within = coupling * np.sum(rows[:, 1:] * rows[:, :-1], 1)
    between = np.exp(coupling * rows @ rows.T + within)
    total, log_scale = np.exp(within), 0.0
    for _ in range(size - 1):
        total = between.T @ total
        log_scale, total = log_scale + np.log(total.max()), total / total.max()
    # Each step weighs the row that it adds once.
    return log_scale + np.log(total.sum())


def test_a_simplex_of_parameters_under_x64(x64):
    """Three spins with fields from a simplex: the constant is a closed form."""

    class Fields(ebm.AbstractEnergy):
        fields: jax.Array
        event_shape: tuple = eqx.field(static=True, default=(3,))
        levels = (-1.0, 1.0)

        def __call__(self, x):
            return -jnp.sum(self.fields * x)

    prior = np.random.default_rng(0).dirichlet([2.0, 3.0, 4.0], 200)
    surrogate = ebm.surrogate_log_z(
        KEY, Fields, prior, support=constraints.simplex, num_samples=200, num_points=16
    )
    weights = jnp.array([0.2, 0.3, 0.5])
    truth = jnp.sum(jnp.log(2 * jnp.cosh(weights)))
    assert surrogate.log_z(weights).dtype == jnp.float64
    assert abs(surrogate.log_z(weights) - truth) < 4 * surrogate.std_error(weights)
    assert surrogate.std_error(weights) < 0.01
