import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import count_traces

import numpyro_ebm as ebm

NORMAL = ebm.Gaussian(np.zeros(2), np.eye(2))


def test_predictive_check_of_one_energy():
    data, replicates = NORMAL.sample(jr.key(0), (50,)), NORMAL.sample(jr.key(1), (400, 50))
    check = ebm.diagnostics.predictive_check(NORMAL, data, replicates)
    assert check.ok
    assert repr(check).startswith("no misfit seen: max p = ")
    np.testing.assert_allclose(check.observed["mean"], jax.vmap(NORMAL)(data).mean(), rtol=1e-5)
    assert check.replicated["std"].shape == (400,)
    below = np.mean(check.replicated["mean"] <= check.observed["mean"])
    np.testing.assert_allclose(check.p_value["mean"], 2 * min(below, 1 - below), atol=0.01)
    # Heavier tails with the same mean energy.
    outlier = data.at[0].set(6.0)
    check = ebm.diagnostics.predictive_check(NORMAL, outlier, replicates)
    assert not check.ok
    assert check.p_value["max"] < 0.01
    assert repr(check).startswith("the data are NOT like their replicates: ")


def test_predictive_check_is_two_sided_and_takes_any_statistic():
    data, replicates = NORMAL.sample(jr.key(0), (50,)), NORMAL.sample(jr.key(1), (400, 50))

    def radius(energy, points):
        return jnp.sqrt(jnp.mean(points**2))

    for factor in (0.6, 1.6):
        assert not ebm.diagnostics.predictive_check(
            NORMAL, factor * data, replicates, statistic=radius
        ).ok
    check = ebm.diagnostics.predictive_check(
        NORMAL, data, replicates, statistic=lambda e, x: jnp.ones(())
    )
    assert check.p_value == 1  # All are tied.
    assert repr(check).startswith("no misfit seen")


def posterior_check(data, scale):
    """N(theta, I), with its exact posterior under a flat prior."""
    mean = jnp.mean(data, 0)
    locs = mean + jr.normal(jr.key(0), (300, 2)) / jnp.sqrt(len(data))
    noise = jr.normal(jr.key(1), (300, *data.shape))
    energy, traces = count_traces(
        lambda theta: ebm.Gaussian(theta["loc"], scale**2 * jnp.eye(2))
    )
    replicates = locs[:, None] + scale * noise
    check = ebm.diagnostics.predictive_check(energy, data, replicates, params={"loc": locs})
    assert len(traces) == 1
    return check


def test_predictive_check_of_a_posterior():
    data = 3 + NORMAL.sample(jr.key(2), (50,))
    check = posterior_check(data, 1.0)
    assert check.ok
    assert check.observed["mean"].shape == (300,)
    assert not posterior_check(data, 0.7).ok
    assert not posterior_check(data, 1.5).ok


def test_p_values_are_uniform_where_nothing_is_fitted():
    """Of 100 two-sided p-values a tenth below 0.1, known to 0.03."""
    replicates = NORMAL.sample(jr.key(1), (500, 20))
    data_sets = NORMAL.sample(jr.key(2), (100, 20))
    p = [
        ebm.diagnostics.predictive_check(NORMAL, data, replicates).p_value for data in data_sets
    ]
    assert abs(np.mean([one["mean"] <= 0.1 for one in p]) - 0.1) < 0.09


#: Data that no replicate of N(0, I) is like, and from how few of them it shows.
GROSS = {
    "elsewhere": (lambda z: 20 + 5 * z, 3),
    "wider": (lambda z: 3 * z, 3),
    "collapsed": (lambda z: 0.1 * z, 12),
    "an outlier": (lambda z: z.at[0].set(30.0), 5),
}


@pytest.mark.parametrize(("change", "at_least"), GROSS.values(), ids=GROSS)
def test_gross_misfit_shows_in_few_replicates(change, at_least):
    """By ranks alone, three statistics can fail from 119 replicates on."""
    data = change(NORMAL.sample(jr.key(0), (50,)))
    replicates = NORMAL.sample(jr.key(1), (120, 50))
    for number in {at_least, 20, 118, 120}:
        check = ebm.diagnostics.predictive_check(NORMAL, data, replicates[:number])
        assert not check.ok, (number, check)
        assert "take" not in repr(check)


def test_few_replicates_say_so():
    data, replicates = NORMAL.sample(jr.key(0), (50,)), NORMAL.sample(jr.key(1), (120, 50))
    few = ebm.diagnostics.predictive_check(NORMAL, data, replicates[:119])
    assert few.ok
    assert repr(few).endswith("(only gross misfit shows in 119 replicates; take 120)")
    assert "take" not in repr(ebm.diagnostics.predictive_check(NORMAL, data, replicates))
    # A statistic that hardly varies says nothing about its tails.
    flat = ebm.diagnostics.predictive_check(
        NORMAL, data, replicates[:5], statistic=lambda energy, x: jnp.sum(x > 2.5) > 0
    )
    assert flat.p_value >= 2 / 6


@pytest.mark.parametrize("number", [5, 40])
def test_false_alarms_of_few_replicates_are_rare(number):
    """One in twenty is meant; of 400, 38 are four standard errors more."""
    energy = ebm.energies.StudentT(3.0, np.zeros(2), np.eye(2))
    points = energy.sample(jr.key(number), (400, number + 1, 30))
    checks = [ebm.diagnostics.predictive_check(energy, one[0], one[1:]) for one in points]
    assert sum(not check.ok for check in checks) < 38


@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_any_event_shape(x64, shape):
    points = jr.normal(jr.key(0), (20, 30, *shape))
    assert ebm.diagnostics.predictive_check(lambda x: 0.5 * jnp.sum(x**2), points[0], points).ok


SAMPLE = np.ones((5, 2))
BAD = {
    "check shape": (
        lambda: ebm.diagnostics.predictive_check(NORMAL, SAMPLE, SAMPLE),
        "`replicates` must be data sets like `data`",
    ),
    "check number": (
        lambda: ebm.diagnostics.predictive_check(NORMAL, SAMPLE, np.ones((1, 5, 2))),
        "`replicates` must be two or more, got 1",
    ),
    "check params": (
        lambda: ebm.diagnostics.predictive_check(
            lambda loc: ebm.Gaussian(loc, np.eye(2)),
            SAMPLE,
            np.ones((3, 5, 2)),
            params=np.ones((4, 2)),
        ),
        "`params` must have as many entries as `replicates`",
    ),
    "check statistic": (
        lambda: ebm.diagnostics.predictive_check(
            NORMAL, SAMPLE, np.ones((3, 5, 2)), statistic=lambda energy, x: x[0]
        ),
        "`statistic` must return scalars",
    ),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
