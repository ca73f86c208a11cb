"""Parallel tempering: barrier, log Z and travel in closed form, and modes in proportion."""

import pickle
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import assert_means, assert_moments
from numpyro.infer import MCMC
from scipy.special import erf

import numpyro_ebm as ebm
from numpyro_ebm.chains import NO_ADAPTATION, Sampler, advance, start
from numpyro_ebm.kernels import FittedGaussian, _ladder as ladder, _replicas as replicas

QUIET = {"progress_bar": False}
WEIGHTS = np.array([0.7, 0.3])
MODES = ebm.GaussianMixture(WEIGHTS, [[-4.0, 0.0], [4.0, 0.0]], [np.eye(2)] * 2)
WIDE = dist.Normal(0.0, 5.0).expand([2]).to_event(1)
START = jnp.tile(jnp.array([4.0, 0.0]), (50, 1))
SHORT = ebm.HMC(num_steps=3, trajectory_length=None)
#: From N(0, 1) to N(SHIFT, 1): the barrier is SHIFT over the root of pi.
SHIFT = 4.0
NORMAL = dist.Normal(0.0, 1.0).expand([1]).to_event(1)
SHIFTED = ebm.Gaussian([SHIFT], np.eye(1))


def run(kernel, start=START, energy=MODES, num_warmup=500, num_samples=2000, **kwargs):
    settings = {"num_warmup": num_warmup, "num_samples": num_samples, **QUIET, **kwargs}
    return ebm.sample(jr.key(0), energy, kernel, init_params=start, **settings)


def along_the_shift(num_chains=32, num_samples=1000, **kwargs):
    kernel = ebm.ParallelTempering(SHORT, reference=NORMAL, num_temperatures=8, **kwargs)
    settings = {"num_chains": num_chains, "num_samples": num_samples}
    return run(kernel, None, SHIFTED, num_warmup=300, **settings)


def check_the_shift(draws):
    """Ladder, rejections, restarts and log Z, all known for two Gaussians."""
    num_pairs = draws.stats["swap_prob"].shape[-1]
    report = ebm.tempering_report(draws)
    # By symmetry the ladder is even, and so are the differences of log weights at its pairs.
    np.testing.assert_allclose(draws.stats["beta"][0, 0], np.linspace(1, 0, 8), atol=0.01)
    beta = np.asarray(draws.stats["beta"][0, 0], float)
    assert_means(1 - draws.stats["swap_prob"], erf(-np.diff(beta) * SHIFT / 2))
    np.testing.assert_allclose(
        report.barrier, num_pairs * erf(SHIFT / 2 / num_pairs), rtol=0.02
    )
    z = (report.log_z.estimate - SHIFTED.log_z) / report.log_z.std_error
    print(f"log Z {report.log_z.estimate:.4f}, z {z:.1f}; {report.rate / report.best_rate:.2f}")
    assert abs(z) < 4
    assert report.log_z.std_error < 0.02
    per_chain = report.chains["restarts"].values / (draws.stats["restarts"].shape[1] - 1)
    assert_means(per_chain[:, None], report.expected_rate, ess_min=10)
    assert report.ok, report


def test_two_gaussians_in_closed_form():
    check_the_shift(along_the_shift())


MUTANTS = {
    "swaps of the wrong sign": lambda c, r: r - c,
    "half a log ratio": lambda c, r: 0.5 * (c - r),
    "the target alone": lambda c, r: c,
}


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_a_wrong_swap_ratio_would_be_seen(mutant, monkeypatch):
    def wrong(log_z, states, cached):
        return mutant(states.logdensity, cached["logdensity"])

    monkeypatch.setattr(replicas, "_log_ratio", wrong)
    with pytest.raises((AssertionError, UserWarning)):
        check_the_shift(along_the_shift(num_samples=1001))


@pytest.mark.slow
@pytest.mark.parametrize("shift", [1.5, 3.0])
def test_replicas_travel_at_the_best_rate(shift):
    """Restarts per transition, at least four fifths of what any ladder allows."""
    target = ebm.Gaussian([shift], np.eye(1))
    kernel = ebm.ParallelTempering(SHORT, reference=NORMAL, num_temperatures=16)
    report = ebm.tempering_report(run(kernel, None, target, num_chains=20))
    barrier = shift / np.sqrt(np.pi)
    share = report.rate * (2 + 2 * barrier)
    print(f"rate {report.rate:.4f}, {share:.2f} of the best; barrier {report.barrier:.3f}")
    assert share > 0.8
    np.testing.assert_allclose(report.barrier, barrier, rtol=0.03)


@pytest.mark.slow
def test_log_z_of_nine_modes():
    """Within 0.01 in 1e5 gradients."""
    grid = np.stack(np.meshgrid([-4.0, 0.0, 4.0], [-4.0, 0.0, 4.0]), -1).reshape(-1, 2)
    modes = ebm.GaussianMixture(np.arange(1.0, 10), grid, 0.5 * np.eye(2))
    target = ebm.as_energy(lambda x: modes(x) - 2.5, (2,))
    reference = FittedGaussian(dense_mass=True)
    kernel = ebm.ParallelTempering(ebm.MALA(), reference=reference, num_temperatures=3)
    draws = run(kernel, None, target, num_chains=32, num_warmup=150, num_samples=890)
    gradients = int(draws.stats["n_grad"].sum()) + 32 * 150 * 3
    report = ebm.tempering_report(draws)
    error = float(report.log_z.estimate) - 2.5
    print(f"error {error:.4f} +- {report.log_z.std_error:.4f} in {gradients:.1e} gradients")
    assert gradients <= 1e5
    assert report.log_z.std_error < 0.01
    assert abs(error) < 0.01
    assert abs(error) < 4 * report.log_z.std_error


@pytest.mark.slow
def test_log_z_of_many_wells():
    """Sixteen double wells in 32 dimensions, 65,536 modes: within 0.05 in 2e6 gradients."""

    def energy(x):
        well, beside = x[:16], x[16:]
        return jnp.sum(well**4 - 6 * well**2 - 0.5 * well) + 0.5 * jnp.sum(beside**2)

    x = np.linspace(-6, 6, 20_001)
    one = np.log(np.trapezoid(np.exp(-(x**4) + 6 * x**2 + 0.5 * x), x))
    truth = 16 * (one + 0.5 * np.log(2 * np.pi))
    target = ebm.as_energy(energy, (32,))
    kernel = ebm.ParallelTempering(ebm.MALA(), reference=FittedGaussian(), num_temperatures=8)
    start = 2 * jr.normal(jr.key(9), (16, 32))
    sizes = {"num_warmup": 3500, "num_samples": 12_000, "init_params": start}
    errors, covered = [], []
    for seed in range(20):
        draws = ebm.sample(jr.key(seed), target, kernel, **sizes, **QUIET)
        gradients = int(draws.stats["n_grad"].sum()) + 16 * 3500 * 8
        assert gradients <= 2e6
        log_z = ebm.tempering_report(draws).log_z
        low, high = log_z.interval(0.95)
        errors.append(float(log_z.estimate) - truth)
        covered.append(low < truth < high)
    print(f"mean absolute error {np.abs(errors).mean():.4f}, {sum(covered)} of 20 covered")
    assert np.abs(errors).mean() < 0.05
    assert abs(np.mean(errors)) < 4 * np.std(errors, ddof=1) / np.sqrt(20)
    assert sum(covered) >= 17


@pytest.mark.parametrize(
    "kernel",
    [
        ebm.ParallelTempering(ebm.MALA(), reference=WIDE, num_temperatures=5),
        pytest.param(ebm.ParallelTempering(ebm.MALA(), 16.0), marks=pytest.mark.slow),
    ],
)
def test_the_weights_of_two_modes(kernel):
    draws = run(kernel, num_warmup=200, num_samples=1000)
    left = np.asarray(draws.values[..., :1] < 0, float)
    assert_means(left, [0.7])
    assert abs(left.mean() - 0.7) < 0.02


@pytest.mark.slow
def test_mala_alone_does_not_find_the_weights():
    left = np.asarray(run(ebm.MALA()).values[..., 0] < 0)
    assert abs(left.mean() - 0.7) > 0.2


NEAR = ebm.GaussianMixture(WEIGHTS, [[-2.0, 0.0], [2.0, 0.0]], [np.eye(2)] * 2)


def check_moments(inner, num_samples=1000, **path):
    path = path or {"temperatures": 6.0}
    kernel = ebm.ParallelTempering(inner, num_temperatures=4, **path)
    draws = run(kernel, None, NEAR, num_chains=500, num_warmup=300, num_samples=num_samples)
    mean = WEIGHTS @ np.array([-2, 2])
    assert_moments(draws.values, [mean, 0], [5 - mean**2, 1])


INNER = [ebm.MALA(), SHORT, ebm.RandomWalkMetropolis(), ebm.GHMC()]


@pytest.mark.slow
@pytest.mark.parametrize("path", [{"temperatures": 6.0}, {"reference": WIDE}])
@pytest.mark.parametrize("inner", INNER)
def test_moments(inner, path):
    check_moments(inner, **path)


@pytest.mark.slow
@pytest.mark.parametrize("path", [{"temperatures": 6.0}, {"reference": WIDE}])
def test_energies_of_another_rung_would_be_seen(path, monkeypatch):
    # What each replica caches, as if nothing had been tempered.
    for name in ("heated", "cooled"):
        monkeypatch.setattr(replicas, name, lambda state, cached, beta: state)
    with pytest.raises((AssertionError, UserWarning)):
        check_moments(ebm.MALA(), num_samples=1001, **path)


@pytest.mark.slow
def test_the_ladder_swaps_equally_often():
    kernel = ebm.ParallelTempering(ebm.MALA(), [1.0, 1.1, 1.2, 16.0])
    draws = run(kernel, num_warmup=1000, num_samples=500)
    temperatures = 1 / np.asarray(draws.stats["beta"][0, -1])
    assert temperatures[0] == 1
    np.testing.assert_allclose(temperatures[-1], 16, rtol=1e-5)
    report = ebm.tempering_report(draws)
    assert report.log_z is None
    assert np.ptp(report.table["swap_prob"].values) < 0.1
    fixed = ebm.ParallelTempering(ebm.MALA(), [1.0, 2.0, 16.0], adapt_temperatures=False)
    draws = run(fixed, num_samples=10)
    np.testing.assert_allclose(1 / draws.stats["beta"][0, -1], [1, 2, 16], rtol=1e-6)


def test_an_equalised_ladder_stays():
    beta = jnp.array([1.0, 0.5, 0.2, 0.0])
    np.testing.assert_allclose(ladder.equalised(beta, jnp.full(3, 0.3)), beta, atol=1e-6)
    # One pair has the whole barrier, so it gets all rungs.
    new = ladder.equalised(beta, jnp.array([0.0, 0.9, 0.0]))
    assert ((new[1:-1] < 0.5) & (new[1:-1] > 0.2)).all()
    # Nothing swaps with the reference: the first rungs come nearer by factors.
    new = ladder.equalised(beta, jnp.array([0.1, 0.1, 1.0]))
    assert (jnp.diff(new) < 0).all()
    assert new[-2] < 0.2 / 50
    assert ladder.round_ends(100) == [100, 50, 25, 12]
    assert ladder.round_ends(5) == [5]


def regression(x, y=None):
    w = numpyro.sample("w", dist.Normal(0, 3).expand([2]).to_event(1))
    scale = numpyro.sample("scale", dist.HalfNormal(2))
    numpyro.sample("y", dist.Normal(x @ w, scale), obs=y)


def conjugate(y):
    mu = numpyro.sample("mu", dist.Normal(0, 10.0))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


Y = 3 + np.random.default_rng(0).normal(size=30)


def evidence(y):
    """The log evidence of `conjugate`, and the mean and variance of its posterior."""
    n = len(y)
    covariance = np.eye(n) + 100.0
    log_z = dist.MultivariateNormal(np.zeros(n), covariance).log_prob(y)
    variance = 1 / (1 / 100 + n)
    return float(log_z), variance * y.sum(), variance


def by_mcmc(kernel, *args, chain_method="vectorized", num_chains=4, **sizes):
    sizes = {"num_warmup": 500, "num_samples": 1000, **sizes}
    settings = {"num_chains": num_chains, "chain_method": chain_method, **QUIET}
    mcmc = MCMC(kernel, **sizes, **settings)
    mcmc.run(jr.key(0), *args)
    return mcmc


def test_a_model_begins_at_its_prior():
    """The evidence, and the law of the parameter, in closed form."""
    mcmc = by_mcmc(ebm.ParallelTempering(SHORT_OF(conjugate), num_temperatures=6), Y)
    log_z, mean, variance = evidence(Y)
    report = ebm.tempering_report(mcmc)
    z = (report.log_z.estimate - log_z) / report.log_z.std_error
    print(f"log Z {report.log_z.estimate:.3f} of {log_z:.3f}, z {z:.1f}")
    assert abs(z) < 4
    mu = mcmc.get_samples(group_by_chain=True)["mu"][..., None]
    assert abs(mu.mean() - mean) < 0.3 * variance**0.5
    tree = ebm.to_arviz(mcmc)
    stats = tree["sample_stats"]
    assert stats["log_ratio"].dims == ("chain", "draw", "temperature")
    assert stats["swap_prob"].dims == ("chain", "draw", "pair")
    np.testing.assert_allclose(stats.attrs["log_z"], report.log_z.estimate)
    # Each chain has its own ladder.
    assert np.ptp(stats["beta"].values[:, -1, 2]) > 0
    assert ebm.tempering_report(tree).barrier == report.barrier


def SHORT_OF(model):
    return ebm.HMC(model, num_steps=3, trajectory_length=None)


@pytest.mark.slow
@pytest.mark.parametrize("chain_method", ["sequential", "parallel", "vectorized"])
def test_all_chain_methods(chain_method):
    kernel = ebm.ParallelTempering(SHORT_OF(conjugate), num_temperatures=6)
    if chain_method == "parallel" and jax.local_device_count() < 2:
        pytest.skip("one device")
    mcmc = by_mcmc(kernel, Y, chain_method=chain_method, num_chains=2)
    assert abs(mcmc.get_samples()["mu"].mean() - evidence(Y)[1]) < 0.1
    assert ebm.tempering_report(mcmc).chains.sizes["chain"] == 2


@pytest.mark.slow
def test_the_evidence_of_a_prior_far_away():
    """The first rung is at 1e-6; a fitted reference makes the path fifty times shorter."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 5))
    y = x @ rng.normal(size=5) + 0.5 * rng.normal(size=500)

    def model(x, y):
        w = numpyro.sample("w", dist.Normal(0, 30.0).expand([5]).to_event(1))
        numpyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)

    covariance = 900 * x @ x.T + 0.25 * np.eye(500)
    log_z = -0.5 * y @ np.linalg.solve(covariance, y)
    log_z -= 0.5 * (np.linalg.slogdet(covariance)[1] + 500 * np.log(2 * np.pi))
    energy = ebm.ModelEnergy(model, jnp.array(x), jnp.array(y))
    start = jax.vmap(energy.init)(jr.split(jr.key(0), 8))
    inner, barriers = ebm.HMC(num_steps=4, trajectory_length=None), []
    for reference, num_temperatures in ((None, 20), (FittedGaussian(), 10)):
        kernel = ebm.ParallelTempering(
            inner, reference=reference, num_temperatures=num_temperatures
        )
        draws = run(kernel, start, energy, num_warmup=1000, num_samples=1000)
        report = ebm.tempering_report(draws)
        assert report.ok, report
        z = (report.log_z.estimate - log_z) / report.log_z.std_error
        print(f"{report.log_z} of {log_z:.3f}, z {z:.1f}; barrier {report.barrier:.2f}")
        assert abs(z) < 4
        assert np.ptp(report.table["swap_prob"].values) < 0.1
        barriers.append(report.barrier)
    assert barriers[1] < 0.1 * barriers[0]


@pytest.mark.slow
@pytest.mark.parametrize("dense_mass", [False, True])
def test_a_fitted_reference_halves_the_barrier(dense_mass):
    x = np.random.default_rng(0).normal(size=(100, 2))
    y = x @ np.array([1.0, -2.0]) + 0.3 * np.random.default_rng(1).normal(size=100)
    inner = ebm.HMC(regression, num_steps=5, trajectory_length=None)
    paths = {"prior": None, "fitted": FittedGaussian(dense_mass)}
    reports = {
        name: ebm.tempering_report(by_mcmc(ebm.ParallelTempering(inner, reference=r), x, y))
        for name, r in paths.items()
    }
    for name, report in reports.items():
        print(name, f"{report.barrier:.2f}", report.log_z)
        assert report.ok, report
    assert reports["fitted"].barrier < 0.5 * reports["prior"].barrier
    differs = reports["fitted"].log_z.estimate - reports["prior"].log_z.estimate
    error = np.hypot(*(report.log_z.std_error for report in reports.values()))
    assert abs(differs) < 4 * error


def test_a_fitted_reference_of_a_gaussian_is_that_gaussian():
    covariance = np.array([[2.0, 0.9], [0.9, 1.0]])
    target = ebm.Gaussian([3.0, -5.0], covariance)
    kernel = ebm.ParallelTempering(SHORT, reference=FittedGaussian(True), num_temperatures=4)
    draws = run(kernel, None, target, num_chains=50, num_samples=500)
    fit = draws.state.adapt_state.fit
    found = np.linalg.inv(fit.whitening.T @ fit.whitening)
    np.testing.assert_allclose(found, 1.2 * covariance, rtol=0.1)
    np.testing.assert_allclose(fit.loc, target.loc, atol=0.1)
    report = ebm.tempering_report(draws)
    assert report.barrier < 0.3
    assert abs(report.log_z.estimate - target.log_z) < 4 * report.log_z.std_error


GAMMA = dist.Gamma(3.0, 2.0).expand([2]).to_event(1)


@pytest.mark.slow
def test_a_reference_on_a_constrained_support():
    target = ebm.as_energy(dist.Gamma(6.0, 5.0).expand([2]).to_event(1))
    kernel = ebm.ParallelTempering(SHORT, reference=GAMMA, num_temperatures=4)
    draws = run(kernel, None, target, num_chains=100, num_samples=500)
    assert_means(draws.values, [1.2, 1.2])
    report = ebm.tempering_report(draws)
    assert abs(report.log_z.estimate) < 4 * report.log_z.std_error
    assert report.log_z.std_error < 0.02


@pytest.mark.slow
def test_spins_begin_where_all_states_are_equally_likely():
    spins = ebm.IsingModel((3, 3), 0.6, 0.1, periodic=False)
    energies = jax.vmap(spins)(spins.states())
    kernel = ebm.ParallelTempering(ebm.GibbsWithGradients(), num_temperatures=4)
    draws = run(kernel, None, spins, num_chains=200, num_samples=1000)
    assert_means(
        draws.stats["potential_energy"][..., None], [jax.nn.softmax(-energies) @ energies]
    )
    report = ebm.tempering_report(draws)
    z = (report.log_z.estimate - jax.nn.logsumexp(-energies)) / report.log_z.std_error
    print(f"z {z:.1f}, error {report.log_z.std_error:.4f}")
    assert abs(z) < 4


def test_where_the_target_has_no_density_log_z_counts_it():
    """Half of the reference: log Z is the logarithm of one half."""

    def energy(x):
        return jnp.where(x[0] > 0, 0.5 * x @ x + 0.5 * jnp.log(2 * jnp.pi), jnp.inf)

    kernel = ebm.ParallelTempering(
        ebm.RandomWalkMetropolis(), reference=NORMAL, num_temperatures=3
    )
    draws = run(kernel, jnp.ones((50, 1)), ebm.as_energy(energy, (1,)), num_samples=1000)
    log_z = ebm.tempering_report(draws).log_z
    assert abs(log_z.estimate - np.log(0.5)) < 4 * log_z.std_error
    assert log_z.std_error < 0.01


def test_in_double_precision(x64):
    draws = along_the_shift(num_chains=4, num_samples=200)
    assert draws.stats["log_ratio"].dtype == np.float64
    assert draws.values.dtype == np.float64


def test_thinning_loses_no_restarts():
    whole = along_the_shift(num_chains=4, num_samples=600)
    kernel = ebm.ParallelTempering(SHORT, reference=NORMAL, num_temperatures=8)
    thinned = run(
        kernel, None, SHIFTED, num_warmup=300, num_chains=4, num_samples=600, thinning=3
    )
    for name in ("restarts", "replica", "log_ratio"):
        np.testing.assert_array_equal(thinned.stats[name], whole.stats[name][:, 2::3])
    ours, all_of_them = map(ebm.tempering_report, (thinned, whole))
    assert abs(ours.rate - all_of_them.rate) < 0.1 * all_of_them.rate


@pytest.mark.slow
@pytest.mark.parametrize("reference", [NORMAL, FittedGaussian()])
def test_a_resumed_run_is_the_whole_run(reference):
    kernel = ebm.ParallelTempering(SHORT, reference=reference, num_temperatures=4)
    settings = {"num_warmup": 50, "num_chains": 3}
    whole = run(kernel, None, SHIFTED, num_samples=40, **settings)
    first = run(kernel, None, SHIFTED, num_samples=20, **settings)
    rest = ebm.sample(
        jr.key(0), SHIFTED, kernel, num_samples=20, init_state=first.state, **QUIET
    )
    for name, stat in whole.stats.items():
        parts = jnp.concatenate([first.stats[name], rest.stats[name]], 1)
        np.testing.assert_array_equal(stat, parts, name)


def test_new_data_of_the_same_shape_compile_nothing():
    traced = []

    def model(y):
        traced.append(None)
        conjugate(y)

    mcmc = MCMC(
        ebm.ParallelTempering(SHORT_OF(model), num_temperatures=3),
        num_warmup=20,
        num_samples=20,
        jit_model_args=True,
        **QUIET,
    )
    mcmc.run(jr.key(0), Y)
    before, counts = len(traced), []
    for shift in (1.0, 2.0):
        mcmc.run(jr.key(0), Y + shift)
        counts.append(len(traced) - before)
        before = len(traced)
    # Each run starts its chains anew, and traces nothing of the loop.
    assert counts[0] == counts[1]
    evaluated = []

    class Energy(eqx.Module):
        loc: jax.Array

        def __call__(self, x):
            evaluated.append(None)
            return 0.5 * jnp.sum((x - self.loc) ** 2)

    def draw(loc, scale):
        reference = dist.Normal(0.0, scale).expand([2]).to_event(1)
        kernel = ebm.ParallelTempering(ebm.MALA(), reference=reference, num_temperatures=3)
        energy = ebm.as_energy(Energy(jnp.full(2, loc)), (2,))
        return run(kernel, None, energy, num_warmup=20, num_samples=20)

    draw(0.0, 2.0)
    counts = []
    for loc, scale in ((1.0, 3.0), (2.0, 4.0)):
        before = len(evaluated)
        draw(loc, scale)
        counts.append(len(evaluated) - before)
    # Its shape is looked at twice, and its derivative once, for the guard.
    assert counts == [3, 3]


@pytest.mark.slow
def test_the_draws_do_not_depend_on_the_number_of_devices():
    code = """
import numpyro
numpyro.set_host_device_count(2)
import jax, numpy as np, numpyro.distributions as dist
from jax.sharding import NamedSharding, PartitionSpec
import numpyro_ebm as ebm
reference = dist.Normal(0.0, 2.0).expand([2]).to_event(1)
kernel = ebm.ParallelTempering(ebm.MALA(), reference=reference, num_temperatures=4)
modes = ebm.GaussianMixture([0.7, 0.3], [[-2.0, 0.0], [2.0, 0.0]], np.eye(2))
mesh = jax.make_mesh((2,), ("chain",))
shardings = None, NamedSharding(mesh, PartitionSpec("chain"))
one, two = (
    ebm.sample(
        jax.random.key(0), modes, kernel, num_chains=8, num_warmup=0, num_samples=50,
        sharding=sharding, progress_bar=False,
    )
    for sharding in shardings
)
np.testing.assert_allclose(one.values, two.values, rtol=1e-4, atol=1e-4)
np.testing.assert_array_equal(one.stats["replica"], two.stats["replica"])
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.parametrize("inner", [ebm.MALA(step_size=0.05), SHORT])
def test_a_transition_costs_little_more_than_those_of_its_replicas(inner):
    """At most 1.15 times a loop over as many chains of the inner kernel, written by hand."""
    from time import perf_counter

    num_chains, num_rungs, num_steps = 8, 10, 100
    energy = ebm.MLPEnergy(16, 512, key=jr.key(1))
    kernel = ebm.ParallelTempering(inner, num_temperatures=num_rungs)
    target = kernel.as_target(energy)
    sampler = Sampler(kernel.move, NO_ADAPTATION)
    positions = jr.normal(jr.key(0), (num_chains, 16))
    state = start(jr.key(0), sampler, target, positions, 0)

    @jax.jit
    def tempered(state):
        return advance(sampler, target, state, num_steps)[0].z

    size = num_chains * num_rungs
    keys, move = jr.split(jr.key(1), size), inner.move
    states = jax.vmap(lambda x: move.init(jr.key(0), x, energy))(
        jr.normal(jr.key(0), (size, 16))
    )

    @jax.jit
    def by_hand(states):
        def step(i, states):
            now = jax.vmap(jr.fold_in, (0, None))(keys, i)
            return jax.vmap(lambda key, one: move.step(key, one, energy)[0])(now, states)

        return jax.lax.fori_loop(0, num_steps, step, states).position

    times = {"tempered": [], "by hand": []}
    for _ in range(8):
        for name, fn, arg in (("tempered", tempered, state), ("by hand", by_hand, states)):
            begin = perf_counter()
            fn(arg).block_until_ready()
            times[name].append(perf_counter() - begin)
    ours, theirs = (min(times[name][1:]) for name in times)
    print(f"{ours / num_steps:.2e} s and {theirs / num_steps:.2e} s, ratio {ours / theirs:.3f}")
    assert ours <= 1.15 * theirs


def test_it_pickles_and_compares_by_value():
    kernels = [ebm.ParallelTempering(SHORT, reference=r) for r in (NORMAL, FittedGaussian())]
    for kernel in kernels:
        again = pickle.loads(pickle.dumps(kernel))
        assert again.made_with.keys() == kernel.made_with.keys()
        assert eqx.tree_equal(again.move, kernel.move)
    assert kernels[1] == pickle.loads(pickle.dumps(kernels[1]))
    assert kernels[0] == ebm.ParallelTempering(SHORT, reference=NORMAL)
    assert kernels[0] != kernels[1]


@pytest.mark.slow
def test_under_mcmc_with_a_potential():
    kernel = ebm.ParallelTempering(ebm.MALA(potential_fn=MODES), reference=WIDE)
    mcmc = MCMC(
        kernel,
        num_warmup=500,
        num_samples=500,
        num_chains=20,
        chain_method="vectorized",
        **QUIET,
    )
    mcmc.run(jr.key(0), init_params=START[:20])
    assert abs((mcmc.get_samples()[:, 0] < 0).mean() - 0.7) < 0.05


@pytest.mark.slow
def test_spins_at_every_temperature_and_how_they_swap():
    """Energies at each, and the rates of swaps, by enumeration."""
    spins = ebm.IsingModel((3, 3), 0.6, 0.1, periodic=False)
    states = 1 - 2 * jnp.stack(jnp.meshgrid(*[jnp.arange(2)] * 9), -1).reshape(-1, 3, 3)
    energies = jax.vmap(spins)(states.astype(float))
    betas = 1 / jnp.array([1.0, 1.5, 3.0])
    laws = jax.nn.softmax(-betas[:, None] * energies, 1)

    def swap_prob(k):
        gain = (betas[k] - betas[k + 1]) * (energies[:, None] - energies)
        return laws[k] @ jnp.minimum(1, jnp.exp(gain)) @ laws[k + 1]

    move = ebm.ParallelTempering(ebm.GibbsWithGradients(), 1 / betas).move

    @jax.vmap
    def chain(key, start):
        def step(state, i):
            state, info = move.step(jr.fold_in(key, i), state, spins)
            return state, (state, info.swap_prob)

        _, kept = jax.lax.scan(step, move.init(key, start, spins), jnp.arange(150))
        return jax.tree.map(lambda x: x[100:], kept)

    starts = jr.choice(jr.key(1), states.astype(float), (1000,))
    found, swaps = jax.jit(chain)(jr.split(jr.key(0), 1000), starts)
    assert_means(-found.replicas.logdensity, laws @ energies, name="energy")
    assert_means(swaps, [swap_prob(0), swap_prob(1)], name="swap")
    sums = found.position.sum((2, 3))[..., None]
    assert_means(sums, laws[0] @ states.sum((1, 2)), name="sum")


def test_blocks_do_not_survive_a_temperature():
    kernel = ebm.ParallelTempering(ebm.BlockGibbs(), 4.0)
    with pytest.raises(TypeError, match="tempered or annealed has lost them; `GibbsWithGrad"):
        ebm.sample(jr.key(0), ebm.IsingModel((3, 3), 0.1), kernel, num_chains=2)


@pytest.mark.parametrize(
    "temperatures", [[2.0, 4.0], [1.0], [1.0, 3.0, 2.0], 0.5, [[1.0, 2.0]]]
)
def test_bad_temperatures(temperatures):
    with pytest.raises(ValueError, match="`temperatures` must rise from 1"):
        ebm.ParallelTempering(ebm.MALA(), temperatures)


def improper(y):
    mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


BAD = {
    "both": (lambda: ebm.ParallelTempering(ebm.MALA(), 4.0, reference=WIDE), "only one of"),
    "one rung": (lambda: ebm.ParallelTempering(ebm.MALA(), num_temperatures=1), "at least 2"),
    "none": (lambda: run(ebm.ParallelTempering(ebm.MALA())), "needs the start of a path"),
    "no sampler": (
        lambda: run(ebm.ParallelTempering(ebm.MALA(), reference=lambda x: x @ x)),
        "normalised and have an exact sampler",
    ),
    "shape": (
        lambda: run(ebm.ParallelTempering(ebm.MALA(), reference=NORMAL)),
        r"points of shape \(1,\)",
    ),
    "support": (
        lambda: run(ebm.ParallelTempering(ebm.MALA(), reference=GAMMA)),
        "give a reference of the same support",
    ),
    "fitted spins": (
        lambda: run(
            ebm.ParallelTempering(ebm.GibbsWithGradients(), reference=FittedGaussian()),
            None,
            ebm.IsingModel((2, 2), 0.1),
        ),
        "leave `reference` out",
    ),
    "no latent sites": (
        lambda: by_mcmc(ebm.ParallelTempering(ebm.MALA(lambda: None))),
        "nothing to temper",
    ),
    "improper prior": (
        lambda: by_mcmc(ebm.ParallelTempering(ebm.MALA(improper)), Y),
        "The prior cannot be the start of a path: .*`mu`",
    ),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
