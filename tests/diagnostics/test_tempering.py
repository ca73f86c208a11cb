"""Tempered runs whose barrier, travel and log Z are known, and what is wrong with bad ones."""

import arviz_base
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest
import xarray as xr
from scipy.signal import lfilter
from scipy.stats import norm

import numpyro_ebm as ebm
from numpyro_ebm.diagnostics import _ladder as ladder

#: The path leads from N(0, 1) to N(SHIFT, 1), whose log Z is log(sqrt(2 pi)).
SHIFT, LOG_Z = 2.0, 0.5 * np.log(2 * np.pi)


def travel(swap_prob, num_chains, num_draws, rng):
    """Which replica is where, and the counts of arrivals, if pairs swap independently."""
    size = len(swap_prob) + 1
    replica = np.tile(np.arange(size), (num_chains, 1))
    leg, counts = np.zeros((num_chains, size), int), np.zeros((2, num_chains), int)
    kept = []
    for t in range(num_draws):
        for k in range(t % 2, size - 1, 2):
            swap = rng.random(num_chains) < swap_prob[k]
            for x in (replica, leg):
                x[swap, k], x[swap, k + 1] = x[swap, k + 1], x[swap, k]
        arrives, returns = leg[:, 0] == 1, leg[:, -1] == 2
        counts += [arrives, returns]
        leg[arrives, 0], leg[:, -1] = 2, 1
        kept.append((replica.copy(), *counts.copy()))
    return (np.stack(x, 1) for x in zip(*kept, strict=True))


def simulated(
    num_pairs=5,
    num_chains=4,
    num_draws=1000,
    rho=0.0,
    seed=0,
    swaps=None,
    told=None,
    beta=None,
    is_narrow=False,
):
    """A run on the path between two normals, with draws correlated by `rho` in time.

    - **swaps**: how often pairs really swap; **told**: what the run reports instead.
    - **is_narrow**: whether a part of the target is too narrow for the kernel.
    """
    rng = np.random.default_rng(seed)
    beta = np.linspace(1, 0, num_pairs + 1) if beta is None else np.asarray(beta)
    noise = rng.normal(size=(num_chains, num_draws, len(beta)))
    start = rho * rng.normal(size=(num_chains, 1, len(beta)))
    noise = lfilter([np.sqrt(1 - rho**2)], [1, -rho], noise, axis=1, zi=start)[0]
    x = SHIFT * beta + noise
    log_ratio = LOG_Z + SHIFT * x - SHIFT**2 / 2
    # Of two normals, the mean of the probability to swap.
    exact = 2 * norm.cdf(np.diff(beta) * SHIFT / np.sqrt(2))
    swaps = exact if swaps is None else np.asarray(swaps)
    told = swaps if told is None else np.asarray(told)
    replica, restarts, trips = travel(swaps, num_chains, num_draws, rng)
    # One draw in ten of a narrow part comes from a place where nothing is accepted.
    stays = np.arange(num_draws) % 1000 < 100
    accepted = np.where(stays & is_narrow, 0.05, rng.uniform(0.6, 1, (num_chains, num_draws)))
    stats = {
        "lp": -0.5 * noise[..., 0] ** 2,
        "acceptance_rate": accepted,
        "beta": np.broadcast_to(beta, x.shape),
        "log_ratio": log_ratio,
        "replica": replica,
        "swap_prob": np.broadcast_to(told, (num_chains, num_draws, len(beta) - 1)),
        "restarts": restarts,
        "round_trips": trips,
    }
    groups = {"posterior": {"x": x[..., 0]}, "sample_stats": stats}
    return arviz_base.from_dict(groups, check_conventions=False)


def test_barrier_rates_and_log_z():
    report = ebm.tempering_report(simulated())
    rejection = 1 - 2 * norm.cdf(-SHIFT / 5 / np.sqrt(2))
    np.testing.assert_allclose(report.barrier, 5 * rejection)
    np.testing.assert_allclose(report.best_rate, 1 / (2 + 10 * rejection))
    np.testing.assert_allclose(report.rate, report.expected_rate, rtol=0.1)
    assert report.chains["restarts"].sum() == pytest.approx(report.rate * 4 * 999)
    assert abs(report.log_z.estimate - LOG_Z) < 4 * report.log_z.std_error
    assert report.log_z.lower < LOG_Z < report.log_z.upper
    np.testing.assert_allclose(report.table["log_z"].sum(), report.log_z.estimate, rtol=1e-6)
    np.testing.assert_allclose(report.table["barrier"][0], report.barrier)
    assert report.ok
    text = repr(report)
    assert "Tempering of 4 chains on 6 rungs" in text
    assert text.splitlines()[-1] == "ok"
    assert "<table" in report._repr_html_()


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_the_error_of_log_z_is_right(rho):
    """Of 200 runs; taking draws for independent ones would be seen."""
    z, wrong = [], []
    for seed in range(200):
        log_z = ebm.tempering_report(simulated(rho=rho, num_draws=500, seed=seed)).log_z
        z.append((float(log_z.estimate) - LOG_Z) / float(log_z.std_error))
        wrong.append(z[-1] * np.sqrt(2000 / float(log_z.ess)))
    print(f"rho {rho}: sd of z {np.std(z):.3f}, of independent draws' z {np.std(wrong):.3f}")
    # The standard deviation of 200 z has an error of 0.05.
    assert 0.85 < np.std(z) < 1.15
    assert abs(np.mean(z)) < 4 / np.sqrt(200)
    assert rho == 0 or np.std(wrong) > 2


def test_chains_with_their_own_ladders():
    tree = simulated(num_draws=2000)
    moved = tree["sample_stats"]["beta"].values.copy()
    other = simulated(num_draws=2000, seed=1, beta=[1, 0.9, 0.6, 0.3, 0.1, 0])["sample_stats"]
    stats = tree["sample_stats"].to_dataset()
    for name in ("beta", "log_ratio"):
        values = stats[name].values.copy()
        values[2:] = other[name].values[2:]
        stats[name] = (stats[name].dims, values)
    tree["sample_stats"] = xr.DataTree(stats)
    report = ebm.tempering_report(tree)
    assert abs(report.log_z.estimate - LOG_Z) < 4 * report.log_z.std_error
    np.testing.assert_allclose(report.table["beta"][1], (moved[0, 0, 1] + 0.9) / 2)


def test_a_path_of_temperatures_has_no_log_z():
    report = ebm.tempering_report(simulated(beta=[1.0, 0.7, 0.5, 0.3, 0.2, 0.1]))
    assert report.log_z is None
    assert "log Z" not in repr(report)


FAILURES = {
    "few restarts": ({"num_draws": 40, "num_chains": 2}, "fewer than 20", "`num_samples`"),
    "uneven": (
        {"swaps": [0.9, 0.9, 0.2, 0.9, 0.9]},
        "not equalised: pairs swap with probabilities from 0.20 to 0.90",
        "double `num_warmup`",
    ),
    "a wall": (
        {"swaps": [0.05] * 5, "num_draws": 20000, "num_chains": 2},
        "below 0.1: take `num_temperatures=12`",
        "add rungs",
    ),
    "a narrow part": ({"is_narrow": True}, "no step size suits all", "smaller steps"),
    "slow replicas": (
        {"swaps": [0.3] * 5, "told": [0.8] * 5},
        "of the rate that their swaps allow",
        "inner kernel",
    ),
}


@pytest.mark.parametrize(("settings", "failure", "advice"), FAILURES.values(), ids=FAILURES)
def test_what_fails(settings, failure, advice):
    report = ebm.tempering_report(simulated(**settings))
    assert not report.ok
    assert any(failure in text for text in report.failures), report.failures
    last = next(line for line in repr(report).splitlines() if "What to do next" in line)
    print(report)
    assert advice in repr(report), last


def test_a_chain_that_never_arrives_is_named():
    tree = simulated()
    restarts = tree["sample_stats"]["restarts"]
    restarts[2] = 0
    (failure,) = ebm.tempering_report(tree).failures
    assert failure.startswith("Chain 2 of 4 made no restart, where the mean is")


def test_few_restarts_give_log_z_no_interval():
    log_z = ebm.tempering_report(simulated(num_draws=40, num_chains=2)).log_z
    assert not np.isfinite(log_z.std_error)
    with pytest.raises(ValueError, match="have come from the reference to the target, fewer"):
        log_z.interval()


def test_no_finite_energy_at_the_reference():
    tree = simulated()
    tree["sample_stats"]["log_ratio"][..., -1] = -np.inf
    log_z = ebm.tempering_report(tree).log_z
    assert "no draw of the reference has a finite energy" in log_z.problems


def test_a_bridge_without_some_of_the_draws():
    """Minus infinity counts as a weight of zero: half of the draws, half of the ratio."""
    rng = np.random.default_rng(0)
    below = np.where(rng.random((4, 5000)) < 0.5, 0.0, -np.inf)
    series = ladder._bridge(np.zeros((4, 5000)), below)
    error = series.std() / np.sqrt(series.size)
    assert abs(series.mean() - np.log(0.5)) < 4 * error


@pytest.mark.parametrize("source", [np.zeros((2, 10)), {"x": np.zeros((2, 10))}])
def test_other_runs_are_refused(source):
    with pytest.raises(ValueError, match=r"must be a run of `ebm\.ParallelTempering`"):
        ebm.tempering_report(source)
    with pytest.raises(ValueError, match=r"must be a run of `ebm\.ParallelTempering`"):
        ebm.plots.plot_index_process(source)


def test_a_tree_keeps_it_all_in_a_file(tmp_path):
    kernel = ebm.ParallelTempering(
        ebm.HMC(num_steps=3, trajectory_length=None),
        reference=ebm.kernels.FittedGaussian(),
        num_temperatures=3,
    )
    import jax

    draws = ebm.sample(
        jax.random.key(0),
        ebm.energies.Banana(),
        kernel,
        num_warmup=100,
        num_samples=100,
        progress_bar=False,
    )
    tree = ebm.to_arviz(draws)
    attrs = tree["sample_stats"].attrs
    tree.to_netcdf(tmp_path / "draws.nc")
    with xr.open_datatree(tmp_path / "draws.nc") as back:
        ours, theirs = map(ebm.tempering_report, (draws, back))
        assert ours.barrier == theirs.barrier == attrs["barrier"]
        assert back["sample_stats"].attrs["log_z"] == attrs["log_z"] == ours.log_z.estimate
        xr.testing.assert_equal(
            back["sample_stats"].to_dataset(), tree["sample_stats"].to_dataset()
        )


@pytest.mark.slow
def test_a_funnel_has_no_interval():
    """Its neck is never seen: log Z was .95 too low, by eleven standard errors."""
    funnel = ebm.energies.Funnel(10)
    energy = ebm.as_energy(lambda x: funnel(x), (10,))
    reference = dist.Normal(0, 5).expand([10]).to_event(1)
    kernel = ebm.ParallelTempering(
        ebm.HMC(num_steps=3, trajectory_length=None), reference=reference
    )
    draws = ebm.sample(
        jr.key(0), energy, kernel, num_chains=8, num_samples=2000, progress_bar=False
    )
    report = ebm.tempering_report(draws)
    assert any("no step size suits all" in failure for failure in report.failures)
    with pytest.raises(ValueError, match="no step size suits all"):
        report.log_z.interval()
