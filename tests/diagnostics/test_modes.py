import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpy.random import RandomState

import numpyro_ebm as ebm

LOCS = np.array([[-4.0, 0.0], [4.0, 0.0]])
ENERGY = ebm.GaussianMixture([0.7, 0.3], 1.5 * LOCS, [np.eye(2), np.eye(2)])


def switching(shape, weight=0.3, stay=0.0, distance=4.0, dim=2, seed=0):
    """Chains of two modes, `weight` in the second, that redraw theirs unless they `stay`."""
    rng = RandomState(seed)
    fresh = rng.random_sample(shape) < weight
    mode, keeps = fresh.copy(), rng.random_sample(shape) < stay
    for t in range(1, shape[1]):
        mode[:, t] = np.where(keeps[:, t], mode[:, t - 1], fresh[:, t])
    x = rng.normal(size=(*shape, dim))
    x[..., 0] += np.where(mode, distance, -distance)
    return x


def in_modes(modes, num_draws=1000):
    x = RandomState(0).normal(size=(len(modes), num_draws, 2))
    return x + LOCS[np.asarray(modes)][:, None]


def with_a_deaf_chain():
    x = switching((16, 500))
    x[3, :, 0] = 4 + RandomState(1).normal(size=500)
    return x


def with_nan():
    x = switching((5, 1000))
    x[1, 7] = np.nan
    return x


def side(x):
    return (x[0] > 0).astype(int)


REFERENCE = switching((8, 1000), seed=1)
#: A run, settings, and what its failures say, in order; none of a good one.
CASES = {
    "hops": (switching((4, 1000)), {}, []),
    "hops, by a function": (switching((4, 1000)), {"labels": side}, []),
    "hops, as the reference": (switching((4, 1000)), {"reference": REFERENCE}, []),
    "hops, as the weights": (
        switching((4, 1000)),
        {"labels": side, "reference": [0.7, 0.3]},
        [],
    ),
    "hops now and then": (
        switching((4, 4000), stay=0.9),
        {"reference": REFERENCE, "min_ess": 100},
        [],
    ),
    "hops rarely": (
        switching((4, 1000), stay=0.97),
        {},
        [
            "disagree on .* mode 0",
            "disagree on .* mode 1",
            r"0 has an ESS of \d+, below",
            "ESS",
        ],
    ),
    "one mode each": (
        in_modes([0, 1, 0, 1]),
        {},
        ["No chain ever leaves", "disagree on .* mode 0", "disagree", "an ESS of 4", "ESS"],
    ),
    "one mode, unseen": (in_modes([1, 1, 1, 1]), {}, []),
    "one mode": (
        in_modes([1, 1, 1, 1]),
        {"reference": REFERENCE},
        [
            "Mode 0 holds 1.000 of the draws and 0.30",
            "No chain visits mode 1, which holds 0.69",
        ],
    ),
    "one mode, by the weights": (
        in_modes([1, 1, 1, 1]),
        {"labels": side, "reference": {0: 0.7, 1: 0.3}},
        ["No chain visits mode 0, which holds 0.700", "Mode 1 holds 1.000"],
    ),
    "other weights": (
        switching((4, 1000), 0.5),
        {"reference": REFERENCE},
        [r"holds 0.\d+ of the draws and 0.\d+ of the reference, \d+", "Mode 1"],
    ),
    "a reference apart": (
        switching((4, 1000)),
        {"reference": in_modes([0, 0, 0, 1])},
        ["`reference` disagree among themselves on mode 0", "mode 1"],
    ),
    "a deaf chain": (
        with_a_deaf_chain(),
        {},
        ["Chain 3 of 16 never hopped", "an ESS", "an ESS"],
    ),
    "one draw of each chain": (switching((2000, 1)), {}, []),
    "one draw, as the weights": (
        switching((2000, 1)),
        {"labels": side, "reference": [0.7, 0.3]},
        [],
    ),
    "one draw, other weights": (
        switching((2000, 1), 0.5),
        {"labels": side, "reference": [0.7, 0.3]},
        ["Mode 0 holds", "Mode 1 holds"],
    ),
    "two draws that stay": (
        switching((2000, 2), stay=1.0),
        {"labels": side},
        ["No chain ever leaves"],
    ),
    "NaN": (with_nan(), {}, ["1 chains of `source` are not finite"]),
    "a rare mode": (
        switching((4, 1000), 0.0),
        {"labels": side, "reference": [0.9999, 0.0001]},
        [],
    ),
}


@pytest.mark.parametrize(("run", "settings", "expected"), CASES.values(), ids=CASES)
def test_verdict(run, settings, expected):
    report = ebm.mode_report(run, **settings)
    assert report.ok == (not expected), report
    assert len(report.failures) == len(expected), report
    for failure, pattern in zip(report.failures, expected, strict=True):
        assert re.search(pattern, failure), report
    assert all(failure in str(report) for failure in report.failures)


@pytest.mark.slow
def test_r_hat_does_not_see_a_mode_that_all_chains_miss():
    start = jnp.tile(1.5 * LOCS[1], (8, 1)) + jax.random.normal(jax.random.key(0), (8, 2))
    settings = {"num_warmup": 300, "num_samples": 500, "progress_bar": False}
    draws = ebm.sample(jax.random.key(1), ENERGY, ebm.MALA(), init_params=start, **settings)
    assert ebm.mixing_report(draws).ok
    assert ebm.mode_report(draws).ok
    tempered = ebm.sample(
        jax.random.key(2),
        ENERGY,
        ebm.ParallelTempering(ebm.MALA(), temperatures=32.0),
        init_params=start,
        **settings,
    )
    smc = ebm.sample(
        jax.random.key(3),
        ENERGY,
        ebm.TemperedSMC(ebm.MALA(), dist.Normal(0, 8).expand([2]).to_event(1)),
        num_chains=16,
        num_samples=300,
    )
    exact = ebm.EnergyDistribution(ENERGY).draw(jax.random.key(4), (4000,))
    for reference in (tempered, smc, exact):
        report = ebm.mode_report(draws, reference=reference)
        assert any("No chain visits mode" in failure for failure in report.failures), report
        held = report.table["reference"].values[report.table["occupancy"].values == 0]
        np.testing.assert_allclose(held, 0.7, atol=0.15)
    # The other way round there is nothing to see.
    assert ebm.mode_report(tempered, side, reference=exact, min_ess=50).ok


def test_numbers_of_modes():
    labels = np.array([[0, 0, 1, 1, 1, 0], [1, 1, 1, 1, 2, 2]])
    report = ebm.mode_report(labels[..., None] * 1.0, lambda x: x[0].astype(int), min_ess=1)
    np.testing.assert_array_equal(report.labels, labels)
    table = report.table
    np.testing.assert_allclose(table["occupancy"], [3 / 12, 7 / 12, 2 / 12])
    np.testing.assert_array_equal(table["visits"], [2, 2, 1])
    np.testing.assert_allclose(table["dwell"], [1.5, 3.5, 2.0])
    np.testing.assert_array_equal(report.chains["hops"], [2, 1])
    np.testing.assert_allclose(report.chains["occupancy"], [[0.5, 0.5, 0], [0, 4 / 6, 2 / 6]])
    np.testing.assert_allclose(
        report.transitions, [[1 / 2, 1 / 2, 0], [1 / 7, 5 / 7, 1 / 7], [0, 0, 1]]
    )


def test_the_error_of_an_occupancy():
    runs = [switching((4, 1000), stay=0.8, seed=seed) for seed in range(40)]
    tables = [ebm.mode_report(x, side).table.sel(mode=1) for x in runs]
    actual = np.std([float(table["occupancy"]) for table in tables])
    reported = np.mean([float(table["mcse"]) for table in tables])
    assert abs(reported / actual - 1) < 0.3
    # As if draws were independent, it would be a third of that.
    assert np.sqrt(0.3 * 0.7 / 4000) < 0.5 * actual
    # A stay of 0.8 ends with 0.2, and then in the same mode with its weight.
    assert abs(np.mean([float(table["dwell"]) for table in tables]) - 1 / (0.2 * 0.7)) < 0.4


ANGLES = 2 * np.pi * np.arange(8) / 8
ISLANDS = 4 * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=-1)


def ring():
    rng = RandomState(0)
    weights = np.array([8, 1, 4, 2, 3, 1, 3, 2]) / 24
    return ISLANDS[rng.choice(8, (4, 1000), p=weights)] + 0.4 * rng.normal(size=(4, 1000, 2))


def faces():
    """Two modes in 784 coordinates, half of which differ by one standard deviation."""
    x = RandomState(0).normal(size=(4, 300, 784))
    x[::2, :, :392] += 1
    return x


#: Draws, and how many modes they have.
NUM_MODES = {
    "normal": (RandomState(0).normal(size=(4, 1000, 2)), 1),
    "normal, 1 coordinate": (RandomState(0).normal(size=(4, 1000)), 1),
    "normal, 50 coordinates": (RandomState(0).normal(size=(4, 1000, 50)), 1),
    "heavy tails": (RandomState(0).standard_t(3, size=(4, 1000, 2)), 1),
    "uniform": (RandomState(0).random_sample((4, 1000, 2)), 1),
    "a constant": (np.ones((4, 100, 2)), 1),
    "close": (switching((4, 1000), distance=1.0), 1),
    "two": (switching((4, 1000), distance=2.5), 2),
    "two, one of them small": (switching((4, 1000), 0.05), 2),
    "two in 10 coordinates": (switching((4, 1000), distance=3.0, dim=10), 2),
    "two kinds of images": (faces(), 2),
    "eight": (ring(), 8),
}


@pytest.mark.parametrize(("x", "number"), NUM_MODES.values(), ids=NUM_MODES)
def test_how_many_modes(x, number):
    report = ebm.mode_report(x)
    assert report.table.sizes["mode"] == number, report
    assert (np.diff(report.table["occupancy"]) <= 0.02).all()
    again = ebm.mode_report(x)
    np.testing.assert_array_equal(report.labels, again.labels)


def test_a_given_number_of_modes():
    x = ring()
    labels = ebm.mode_report(x, num_modes=8).labels
    truth = ((x[..., None, :] - ISLANDS) ** 2).sum(-1).argmin(-1)
    pairs = np.unique(np.stack([labels.ravel(), truth.ravel()]), axis=1, return_counts=True)
    assert np.sort(pairs[1])[-8:].sum() > 0.99 * labels.size
    assert ebm.mode_report(x, num_modes=3).table.sizes["mode"] == 3
    both = {"a": x[..., 0], "b": x[..., 1]}
    assert ebm.mode_report(both).table.sizes["mode"] == 8
    by_name = ebm.mode_report(both, lambda point: point["a"] > 0)
    assert by_name.table.sizes["mode"] == 2


PRINTED = """\
Modes of 4 chains of 100 draws

mode  occupancy   mcse   ess  r_hat  visits  dwell
0          0.75  0.208  4.35    inf       3    100
1          0.25  0.208  4.35    inf       1    100

0 hops
NOT ok:
- No chain ever leaves its mode: the occupancies are those of the starts.
- Chains disagree on the occupancy of mode 0: R-hat is inf, above the 1.022 expected by chance.
- Chains disagree on the occupancy of mode 1: R-hat is inf, above the 1.022 expected by chance.
- The occupancy of mode 0 has an ESS of 4, below 400.
- The occupancy of mode 1 has an ESS of 4, below 400.
What to do next: sample with `ebm.ParallelTempering(kernel)`, whose chains change modes.
A mode that no chain visits shows against a `reference` only."""


def test_it_prints_the_same_everywhere():
    assert str(ebm.mode_report(in_modes([0, 0, 0, 1], 100))) == PRINTED


def test_one_draw_says_nothing_of_hops():
    text = str(ebm.mode_report(switching((2000, 1)), side))
    assert "Chains of one draw do not show whether they leave their mode" in text
    assert "hops" not in text
    known = str(ebm.mode_report(switching((2000, 1)), side, reference=[0.7, 0.3]))
    assert known.endswith("ok")


X = np.zeros((4, 10, 2))
BAD = {
    "weights alone": ({"reference": [0.5, 0.5]}, ValueError, "needs `labels`"),
    "sum": ({"labels": side, "reference": [0.5, 0.6]}, ValueError, "sum to one"),
    "sign": ({"labels": side, "reference": {0: -0.5, 1: 1.5}}, ValueError, "sum to one"),
    "labels of reals": ({"labels": lambda x: x[0]}, ValueError, "to an integer, got dtype"),
    "labels of arrays": ({"labels": lambda x: x > 0}, ValueError, "to an integer"),
    "other points": (
        {"reference": X[..., :1]},
        ValueError,
        "points with the same number of coordinates",
    ),
    "all NaN": ({"reference": X * np.nan}, ValueError, "a chain of finite draws"),
    "num_modes": ({"num_modes": 0}, ValueError, "`num_modes` must be positive"),
    "min_ess": ({"min_ess": -1}, ValueError, "`min_ess` must be positive"),
}


@pytest.mark.parametrize(("settings", "error", "match"), BAD.values(), ids=BAD)
def test_bad_input(settings, error, match):
    with pytest.raises(error, match=match):
        ebm.mode_report(X, **settings)


@pytest.mark.slow
def test_false_alarms_are_rare():
    def report(seed):
        reference = switching((8, 2000), stay=0.5, seed=1000 + seed)
        return ebm.mode_report(switching((4, 2000), stay=0.5, seed=seed), reference=reference)

    num_alarms = sum(not report(seed).ok for seed in range(200))
    print(f"{num_alarms} false alarms of 200")
    assert num_alarms <= 10
