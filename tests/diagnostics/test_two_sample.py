from functools import cache, partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.stats import binomtest, wasserstein_distance

import numpyro_ebm as ebm
from numpyro_ebm.diagnostics import _two_sample as two_sample

TESTS = {
    "maximum_mean_discrepancy": partial(
        ebm.diagnostics.maximum_mean_discrepancy, num_permutations=200
    ),
    "classifier_two_sample_test": ebm.diagnostics.classifier_two_sample_test,
}
each_test = pytest.mark.parametrize("test", TESTS.values(), ids=TESTS)


def gaussian_mmd(shift, dim, h=1.3):
    """MMD^2 of N(0, I) and N(shift, I) with a Gaussian kernel."""
    overlap = (1 + 2 / h**2) ** (-dim / 2)
    return 2 * overlap * (1 - np.exp(-(shift @ shift) / (2 * h**2 + 4)))


@cache
def mmds(shift, num=40):
    """U-statistics of replicates, whose mean is without bias."""
    keys = jr.split(jr.key(0), (num, 2))
    return np.array(
        [
            ebm.diagnostics.maximum_mean_discrepancy(
                jr.key(0),
                jr.normal(x_key, (100, 2)),
                jnp.array(shift) + jr.normal(y_key, (70, 2)),
                kernel=ebm.diagnostics.GaussianKernel(1.3),
                num_permutations=1,
            ).statistic
            for x_key, y_key in keys
        ]
    )


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.5, -1.0)])
def test_mmd_in_closed_form(shift):
    values = mmds(shift)
    error = values.std(ddof=1) / np.sqrt(len(values))
    truth = gaussian_mmd(np.array(shift), 2)
    assert abs(values.mean() - truth) < 4 * error
    # Leaving out a factor of two of `x` against `y` would show, where there is a shift.
    assert not any(shift) or abs(truth - values.mean() / 2) > 4 * error


def test_counting_each_point_with_itself_would_show():
    values = mmds((0.0, 0.0))
    error = values.std(ddof=1) / np.sqrt(len(values))
    bias = (1 - 1 / (1 + 2 / 1.3**2)) * (1 / 100 + 1 / 70)
    assert abs(values.mean() + bias) > 4 * error


def test_mmd_is_its_definition(x64):
    x, y = jr.normal(jr.key(0), (60, 3)), 0.5 + jr.normal(jr.key(1), (40, 3))
    kernel = ebm.diagnostics.InverseMultiquadric(0.8)
    test = ebm.diagnostics.maximum_mean_discrepancy(jr.key(2), x, y, kernel=kernel)
    pooled = jnp.concatenate([x, y])
    t = jnp.sum((pooled[:, None] - pooled) ** 2, -1) / 0.8**2
    matrix = (1 + t) ** -0.5
    within = [
        (m.sum() - len(m)) / (len(m) * (len(m) - 1))
        for m in (matrix[:60, :60], matrix[60:, 60:])
    ]
    np.testing.assert_allclose(test.statistic, sum(within) - 2 * matrix[:60, 60:].mean())


def normals(i, shape=(60, 2)):
    x_key, y_key, test_key = jr.split(jr.key(i), 3)
    return test_key, jr.normal(x_key, shape), jr.normal(y_key, shape)


@each_test
def test_level_at_a_glance(test):
    """Thirty replicates, of which more than 5 below 0.05 have probability 0.003."""
    p = np.array([test(*normals(i)).p_value for i in range(30)])
    assert np.sum(p <= 0.05) <= 5
    assert np.sum(p <= 0.5) >= 6


@pytest.mark.slow
@each_test
def test_level(test):
    """Five hundred replicates, whose level is known to 0.01."""
    p = np.array([test(*normals(i)).p_value for i in range(500)])
    print(f"level {np.mean(p <= 0.05):.3f}, at 0.5 {np.mean(p <= 0.5):.3f}")
    assert np.mean(p <= 0.05) <= 0.07


@each_test
@pytest.mark.parametrize(
    "change",
    [lambda y: y + 1.0, lambda y: 3 * y, lambda y: jnp.stack([y[:, 0], y[:, 0]], 1)],
    ids=["shifted", "wide", "correlated"],
)
def test_power(test, change):
    key, x, y = normals(0, (300, 2))
    assert test(key, x, y).ok
    found = test(key, x, change(y))
    assert not found.ok
    assert repr(found).startswith("the samples DIFFER: ")
    assert not test(key, change(y), x).ok


def test_p_value_of_the_classifier_is_the_binomial():
    key, x, y = normals(0)
    test = ebm.diagnostics.classifier_two_sample_test(key, x, y + 0.5)
    truth = binomtest(round(60 * test.statistic), 60, alternative="greater").pvalue
    np.testing.assert_allclose(test.p_value, truth, rtol=1e-3)


def test_classifier_at_its_limits():
    _, x, y = normals(0)
    apart = ebm.diagnostics.classifier_two_sample_test(jr.key(0), x, y[:31] + 100)
    assert apart.statistic == 1
    np.testing.assert_allclose(apart.p_value, 0.5**32, rtol=1e-3)
    # A coordinate that never varies, and two points.
    flat = jnp.zeros((2, 1))
    assert ebm.diagnostics.classifier_two_sample_test(jr.key(0), flat, flat).ok


@pytest.mark.parametrize(
    ("order", "sizes"), [(2.0, (50, 50)), (1.0, (50, 37)), (2.0, (50, 37)), (3.0, (2, 9))]
)
def test_sliced_wasserstein_in_one_dimension(x64, order, sizes):
    x, y = jr.normal(jr.key(0), sizes[:1]), 1 + 2 * jr.normal(jr.key(1), sizes[1:])
    ours = ebm.diagnostics.sliced_wasserstein(jr.key(2), x, y, num_projections=3, order=order)
    # Each point as often as makes the samples equally long.
    x, y = np.sort(np.repeat(x, sizes[1])), np.sort(np.repeat(y, sizes[0]))
    np.testing.assert_allclose(ours, np.mean(np.abs(x - y) ** order) ** (1 / order))


def test_sliced_wasserstein_is_that_of_scipy(x64):
    x, y = jr.normal(jr.key(0), (50,)), 1 + 2 * jr.normal(jr.key(1), (37,))
    ours = ebm.diagnostics.sliced_wasserstein(jr.key(2), x, y, order=1)
    np.testing.assert_allclose(ours, wasserstein_distance(x, y))


def test_sliced_wasserstein_of_a_shift(x64):
    """W_2 of a shift is its length along a direction: |shift| / sqrt(d)."""
    x = jr.normal(jr.key(0), (40, 5))
    shift = jnp.arange(5.0)
    ours = ebm.diagnostics.sliced_wasserstein(jr.key(1), x, x + shift, num_projections=4000)
    # The square of a direction's cosine has mean 1/5 and variance 8/175.
    np.testing.assert_allclose(ours**2, shift @ shift / 5, rtol=4 * np.sqrt(8 / 7 / 4000))


def test_sliced_wasserstein_of_gaussians():
    """Of N(0, I) and N(0, 9 I), W_2 is 2 along each direction."""
    x, y = jr.normal(jr.key(0), (4000, 2)), 3 * jr.normal(jr.key(1), (5000, 2))
    np.testing.assert_allclose(
        ebm.diagnostics.sliced_wasserstein(jr.key(2), x, y), 2, rtol=0.05
    )


def test_sliced_wasserstein_pulls():
    x, y = jr.normal(jr.key(0), (20, 2)), jr.normal(jr.key(1), (30, 2)) + 3
    step = jax.grad(lambda x: ebm.diagnostics.sliced_wasserstein(jr.key(2), x, y))(x)
    before, after = (
        ebm.diagnostics.sliced_wasserstein(jr.key(2), z, y) for z in (x, x - 100 * step)
    )
    assert after < 0.5 * before


@pytest.mark.parametrize(
    ("test", "shape"), [*zip(TESTS.values(), [(), (2, 3)], strict=True)], ids=TESTS
)
def test_any_event_shape(x64, test, shape):
    found = test(*normals(0, (30, *shape)))
    assert found.ok
    assert repr(found).startswith("no difference seen: ")
    assert ebm.diagnostics.sliced_wasserstein(*normals(0, (30, *shape)), num_projections=20) < 1


def test_compiles_once():
    ebm.diagnostics.classifier_two_sample_test(*normals(0))
    before = two_sample._classify._cache_size()
    ebm.diagnostics.classifier_two_sample_test(*normals(1))
    assert two_sample._classify._cache_size() == before


POINTS = np.random.default_rng(0).normal(size=(6, 2))
BAD = {
    "one point": (POINTS[:1], POINTS, ValueError, "`x` must hold at least two points"),
    "NaN": (POINTS, POINTS * np.nan, ValueError, "`y` must be finite"),
    "events": (POINTS, np.ones((6, 3)), ValueError, "`x` and `y` must hold points of one"),
    "chains": (
        ebm.sampling.Draws(jnp.ones((2, 3, 2)), jnp.ones(2), 3),
        POINTS,
        TypeError,
        "`x` must be an array of independent points",
    ),
    "words": (POINTS, np.array(["a", "b"]), TypeError, "`y` must be real numbers"),
}


@pytest.mark.parametrize(
    "compare",
    [*TESTS.values(), ebm.diagnostics.sliced_wasserstein],
    ids=[*TESTS, "sliced_wasserstein"],
)
@pytest.mark.parametrize(("x", "y", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input(compare, x, y, error, message):
    with pytest.raises(error, match=message):
        compare(jr.key(0), x, y)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ebm.diagnostics.maximum_mean_discrepancy(
                jr.key(0), POINTS, POINTS, num_permutations=0
            ),
            "`num_permutations` must be positive",
        ),
        (
            lambda: ebm.diagnostics.sliced_wasserstein(
                jr.key(0), POINTS, POINTS, num_projections=0
            ),
            "`num_projections` must be positive",
        ),
        (
            lambda: ebm.diagnostics.sliced_wasserstein(jr.key(0), POINTS, POINTS, order=0.5),
            "`order` must be at least 1",
        ),
        (
            lambda: ebm.diagnostics.maximum_mean_discrepancy(
                jr.key(0), np.ones((3, 2)), np.ones((3, 2))
            ),
            "The median distance",
        ),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()
