import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import COVARIANCE, MEAN, count_traces
from numpyro.distributions import Exponential

import numpyro_ebm as ebm
from numpyro_ebm._radial import at_scale, kernel_products, stein_kernel
from numpyro_ebm.diagnostics._correlation import spread

NORMAL = ebm.Gaussian([0.0], [[1.0]])
KERNELS = {
    "InverseMultiquadric": ebm.diagnostics.InverseMultiquadric(1.3),
    "InverseMultiquadric, -0.3": ebm.diagnostics.InverseMultiquadric(1.5, -0.3),
    "GaussianKernel": ebm.diagnostics.GaussianKernel(1.3),
}
each_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)


def value(kernel, x, y):
    return kernel.profile(jnp.sum((x - y) ** 2) / kernel.length_scale**2)[0]


def autoregressive(rng_key, correlation, num_chains, length, scale=1.0):
    """Chains in equilibrium, `(chain, draw, 1)`, of N(0, scale^2)."""
    noise = scale * jr.normal(rng_key, (length, num_chains, 1))

    def step(x, z):
        x = correlation * x + jnp.sqrt(1 - correlation**2) * z
        return x, x

    return jnp.moveaxis(jax.lax.scan(step, noise[0], noise)[1], 0, 1)


def p_values(make, num, energy=NORMAL, **options):
    """Of `num` replicates."""
    options = {"num_bootstrap": 300} | options
    tests = (
        ebm.diagnostics.kernel_stein_discrepancy(
            jr.key(1000 + i), energy, make(jr.key(i)), **options
        )
        for i in range(num)
    )
    return np.array([test.p_value for test in tests])


@each_kernel
def test_profile_is_that_of_the_kernel(x64, kernel):
    t = jnp.array(0.7)
    first = jax.grad(lambda t: kernel.profile(t)[0])
    np.testing.assert_allclose(kernel.profile(t)[1], first(t), rtol=1e-12)
    np.testing.assert_allclose(kernel.profile(t)[2], jax.grad(first)(t), rtol=1e-12)


@each_kernel
def test_stein_kernel_is_its_definition(x64, kernel):
    x, y, s_x, s_y = jr.normal(jr.key(0), (4, 3))
    slope = jax.grad(value, (1, 2))(kernel, x, y)
    mixed = jax.jacfwd(jax.grad(value, 1), 2)(kernel, x, y)
    truth = value(kernel, x, y) * s_x @ s_y + s_x @ slope[1] + s_y @ slope[0] + jnp.trace(mixed)
    np.testing.assert_allclose(stein_kernel(kernel, (x, s_x), (y, s_y)), truth, rtol=1e-10)


def shifted_v_statistic(kernel, shift, factor=1.0):
    """KSD^2 of N(0, 1) against N(shift, 1) by Gauss-Hermite nodes, and shift^2 E[k]."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    weights = jnp.asarray(weights / weights.sum())
    x = jnp.asarray(nodes)[:, None]
    scores = factor * jax.vmap(lambda x: ebm.score(ebm.Gaussian([shift], [[1.0]]), x))(x)

    def pair(a, b):
        return stein_kernel(kernel, a, b)

    v = weights @ kernel_products(pair, (x, scores), weights[:, None])[:, 0]
    k = kernel_products(lambda a, b: value(kernel, a, b), x, weights[:, None])[:, 0]
    return v, shift**2 * (weights @ k)


@each_kernel
def test_shift_in_closed_form(x64, kernel):
    v, truth = shifted_v_statistic(kernel, 0.5)
    np.testing.assert_allclose(v, truth, rtol=1e-5)
    mutant, _ = shifted_v_statistic(kernel, 0.5, factor=-1.0)
    assert abs(mutant - truth) > 0.1


def test_gaussian_kernel_in_closed_form(x64):
    """E[k] of two N(0, 1) is that of N(0, 2)."""
    v, _ = shifted_v_statistic(ebm.diagnostics.GaussianKernel(1.3), 0.5)
    np.testing.assert_allclose(v, 0.25 / np.sqrt(1 + 2 / 1.3**2), rtol=1e-10)


def test_statistics_are_the_sums_over_pairs(x64):
    energy = ebm.Gaussian(MEAN, COVARIANCE)
    x = MEAN + 1.5 * jr.normal(jr.key(0), (70, 2))
    kernel = ebm.diagnostics.InverseMultiquadric(1.3)
    test = ebm.diagnostics.kernel_stein_discrepancy(jr.key(1), energy, x, kernel=kernel)
    points = x, jax.vmap(lambda x: ebm.score(energy, x))(x)
    pair = jax.vmap(
        jax.vmap(lambda a, b: stein_kernel(kernel, a, b), in_axes=(None, 0)), in_axes=(0, None)
    )
    matrix = pair(points, points)
    np.testing.assert_allclose(test.v_statistic, matrix.mean())
    np.testing.assert_allclose(
        test.statistic, (matrix.sum() - jnp.trace(matrix)) / (70 * 69), rtol=1e-6
    )


def test_median_distance():
    x = jnp.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    np.testing.assert_allclose(
        at_scale(ebm.diagnostics.GaussianKernel(), x).length_scale, np.sqrt(18), rtol=1e-6
    )


def test_rounding_far_from_zero():
    """In float32, at 1000 standard deviations from zero."""
    x = jr.normal(jr.key(0), (100, 2))
    near = ebm.diagnostics.kernel_stein_discrepancy(
        jr.key(1), ebm.Gaussian(np.zeros(2), np.eye(2)), x
    )
    far = ebm.Gaussian(np.full(2, 1000.0), np.eye(2))
    moved = ebm.diagnostics.kernel_stein_discrepancy(jr.key(1), far, x + 1000)
    assert abs(near.v_statistic - moved.v_statistic) < 1e-4


@pytest.mark.parametrize(
    "make",
    [
        lambda key: 0.5 + jr.normal(key, (100, 1)),
        jax.jit(lambda key: 0.5 + autoregressive(key, 0.5, 3, 50)),
    ],
    ids=["independent", "chains"],
)
def test_std_error_is_the_spread_of_the_statistic(make):
    """Over 40 replicates, known to 11 %."""
    options = {
        "kernel": ebm.diagnostics.InverseMultiquadric(1.0),
        "thinning": 1,
        "num_bootstrap": 100,
    }
    tests = [
        ebm.diagnostics.kernel_stein_discrepancy(jr.key(0), NORMAL, make(jr.key(i)), **options)
        for i in range(40)
    ]
    error = np.std([test.statistic for test in tests])
    np.testing.assert_allclose(np.mean([test.std_error for test in tests]), error, rtol=0.35)


def assert_level(ps):
    """Of 500 p-values, whose share below 0.05 is known to 0.01."""
    level = np.mean(ps <= 0.05)
    print(f"level {level:.3f}, at 0.5 {np.mean(ps <= 0.5):.3f}")
    assert abs(level - 0.05) <= 0.02
    assert abs(np.mean(ps <= 0.5) - 0.5) <= 0.09


@pytest.mark.slow
def test_level_of_independent_draws():
    assert_level(p_values(lambda key: jr.normal(key, (200, 1)), 500))


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.5, 0.9])
@pytest.mark.parametrize("num_chains", [1, 4])
def test_level_of_chains(correlation, num_chains):
    length = 1000 // num_chains
    make = jax.jit(lambda key: autoregressive(key, correlation, num_chains, length))
    assert_level(p_values(make, 500))


@pytest.mark.slow
def test_level_of_points_in_ten_dimensions():
    energy = ebm.Gaussian(np.zeros(10), np.eye(10))
    assert_level(p_values(lambda key: jr.normal(key, (200, 10)), 500, energy))


QUICK = {"kernel": ebm.diagnostics.InverseMultiquadric(1.0), "num_bootstrap": 100}


@pytest.mark.slow
def test_level_at_a_glance():
    """Thirty replicates, of which more than 5 below 0.05 have probability 0.003."""
    independent = p_values(lambda key: jr.normal(key, (100, 1)), 30, **QUICK)
    assert np.sum(independent <= 0.05) <= 5
    make = jax.jit(lambda key: autoregressive(key, 0.8, 2, 100))
    assert np.sum(p_values(make, 30, **QUICK) <= 0.05) <= 5
    # A bootstrap that takes correlated draws for independent ones is wrong half of the time.
    mutant = p_values(make, 20, thinning=1, flip_prob=0.5, **QUICK)
    assert np.sum(mutant <= 0.05) > 6


@pytest.mark.parametrize(
    "make",
    [
        lambda key: 1.3 * jr.normal(key, (300, 1)),
        lambda key: 0.7 * jr.normal(key, (300, 1)),
        lambda key: 0.3 + jr.normal(key, (300, 1)),
        jax.jit(lambda key: autoregressive(key, 0.5, 4, 300, scale=1.3)),
    ],
    ids=["wide", "narrow", "shifted", "wide chains"],
)
def test_power(make):
    assert np.sum(p_values(make, 6, **QUICK) <= 0.05) >= 5


def langevin_draws(step_size):
    """Of unadjusted Langevin's own law on N(0, 1)."""
    return jr.normal(jr.key(0), (1000, 1)) / jnp.sqrt(1 - step_size / 2)


def test_too_large_a_langevin_step_is_seen():
    """Variance 1 / (1 - eta/2): 1.43 at a step of 0.6, 1.005 at 0.01."""
    large = ebm.diagnostics.kernel_stein_discrepancy(jr.key(1), NORMAL, langevin_draws(0.6))
    assert not large.ok
    assert large.p_value < 0.01
    assert ebm.diagnostics.kernel_stein_discrepancy(jr.key(1), NORMAL, langevin_draws(0.01)).ok


@pytest.mark.slow
def test_chains_of_sample():
    def draw(step_size):
        kernel = ebm.UnadjustedLangevin(step_size=step_size, adapt_step_size=False)
        return ebm.sample(
            jr.key(0), NORMAL, kernel, num_chains=20, num_samples=200, progress_bar=False
        )

    assert not ebm.diagnostics.kernel_stein_discrepancy(jr.key(1), NORMAL, draw(0.8)).ok
    test = ebm.diagnostics.kernel_stein_discrepancy(jr.key(1), NORMAL, draw(0.02))
    assert test.ok
    assert test.thinning > 8  # x' = 0.98 x + ..., of which a tenth is left after 114 steps.


def test_blind_to_the_weights_of_separate_modes():
    """All draws in one of two modes pass; in a mode of the wrong width they don't."""
    modes = ebm.GaussianMixture(
        weights=[0.5, 0.5], locs=[[-10.0], [10.0]], covariance_matrices=[[[1.0]], [[1.0]]]
    )
    x = jr.normal(jr.key(0), (500, 1))
    assert ebm.diagnostics.kernel_stein_discrepancy(jr.key(1), modes, 10 + x).p_value > 0.1
    assert not ebm.diagnostics.kernel_stein_discrepancy(jr.key(1), modes, 10 + 1.4 * x).ok


def test_stuck_chains():
    """Nothing is ever forgotten: what is left are the two ends of each half."""
    x = jnp.broadcast_to(jnp.array([-1.0, 0.0, 1.0])[:, None, None], (3, 40, 1))
    test = ebm.diagnostics.kernel_stein_discrepancy(jr.key(1), NORMAL, x)
    assert (test.num_points, test.thinning) == (6, 20)
    assert np.isfinite(test.p_value)


def test_two_draws_in_two_chains():
    test = ebm.diagnostics.kernel_stein_discrepancy(
        jr.key(0),
        NORMAL,
        jnp.zeros((2, 1, 1)) + 0.1,
        kernel=ebm.diagnostics.InverseMultiquadric(1.0),
    )
    assert test.num_points == 2


@pytest.mark.parametrize(
    ("shape", "every", "kept", "spacing"),
    [
        ((500, 1), 1, (100, 1), 1),
        ((2, 500), 1, (2, 50), 10),
        ((2, 500), 5, (2, 50), 10),
        ((2, 500), 20, (2, 25), 20),
        ((300, 7), 1, (100, 1), 7),
        ((2, 7), 20, (2, 1), 7),
    ],
)
def test_which_draws_are_used(shape, every, kept, spacing):
    draws = np.arange(np.prod(shape)).reshape(shape)
    values, every = spread(draws, every, 100)
    assert values.shape == kept
    assert every == spacing
    assert np.all(np.diff(values, axis=1) == spacing)
    assert np.isin(values[:, -1], draws[:, -1]).all()


def test_points_and_thinning_are_told():
    x = jr.normal(jr.key(0), (2, 50, 1))
    test = ebm.diagnostics.kernel_stein_discrepancy(jr.key(1), NORMAL, x, thinning=5)
    assert (test.num_points, test.thinning) == (20, 5)
    assert "20 draws, every 5 of a chain" in repr(test)


@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_any_event_shape_and_double_precision(x64, shape):
    x = jr.normal(jr.key(0), (50, *shape))
    test = ebm.diagnostics.kernel_stein_discrepancy(
        jr.key(1), lambda x: 0.5 * jnp.sum(x**2), x, event_shape=shape
    )
    assert test.ok
    assert repr(test).startswith("no misfit seen: KSD^2 = ")


def test_in_single_precision_too():
    x = 3 * jr.normal(jr.key(0), (50, 2, 3))
    test = ebm.diagnostics.kernel_stein_discrepancy(
        jr.key(1), lambda x: 0.5 * jnp.sum(x**2), x, event_shape=(2, 3)
    )
    assert repr(test).startswith("draws do NOT follow the energy: KSD^2 = ")


def test_compiles_once():
    energy, traces = count_traces(lambda x: 0.5 * jnp.sum(x**2))
    for i in range(3):
        x = jr.normal(jr.key(i), (50, 1))
        ebm.diagnostics.kernel_stein_discrepancy(jr.key(i), energy, x, event_shape=(1,))
        once = len(traces) if i == 0 else once
    # What comes later only looks at shapes.
    assert len(traces) - once <= 2


BAD = {
    "one draw": (NORMAL, np.zeros((1, 1)), {}, "`draws` must hold at least two points"),
    "no chains": (NORMAL, np.zeros(5), {}, r"`draws` must be of shape `\(n, \*event\)`"),
    "other event": (NORMAL, np.zeros((5, 3)), {}, "points of shape"),
    "NaN": (NORMAL, np.array([[0.0], [np.nan]]), {}, "`draws` must be finite"),
    "no shape": (lambda x: jnp.sum(x**2), np.zeros((5, 1)), {}, "`event_shape` is needed"),
    "score": (
        lambda x: jnp.sqrt(jnp.sum(x)),
        np.array([[0.0], [1.0]]),
        {"event_shape": (1,)},
        "The score is not finite at 1 of `draws`",
    ),
    "spins": (ebm.IsingModel((2,), 0.1, 0.1), np.ones((3, 2)), {}, "all real points"),
    "half-line": (ebm.as_energy(Exponential(1.0)), np.ones(3), {}, "all real points"),
    "equal": (NORMAL, np.zeros((5, 1)), {}, "The median distance"),
    "flips": (NORMAL, np.ones((5, 1)), {"flip_prob": 0.0}, "`flip_prob` must lie"),
    "max_points": (NORMAL, np.ones((5, 1)), {"max_points": 1}, "`max_points` must be"),
    "thinning": (NORMAL, np.ones((5, 1)), {"thinning": 0}, "`thinning` must be"),
    "num_bootstrap": (NORMAL, np.ones((5, 1)), {"num_bootstrap": 0}, "`num_bootstrap`"),
}


@pytest.mark.parametrize(("energy", "draws", "options", "message"), BAD.values(), ids=BAD)
def test_bad_input(energy, draws, options, message):
    with pytest.raises(ValueError, match=message):
        ebm.diagnostics.kernel_stein_discrepancy(jr.key(0), energy, draws, **options)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: ebm.diagnostics.InverseMultiquadric(-1.0),
            ValueError,
            "`length_scale` must be positive",
        ),
        (
            lambda: ebm.diagnostics.GaussianKernel(0.0),
            ValueError,
            "`length_scale` must be positive",
        ),
        (
            lambda: ebm.diagnostics.InverseMultiquadric(1.0, 0.5),
            ValueError,
            "`exponent` must lie",
        ),
        (
            lambda: ebm.diagnostics.kernel_stein_discrepancy(
                jr.key(0), NORMAL, np.ones((5, 1)), kernel=ebm.MALA()
            ),
            TypeError,
            "`kernel` must be a kernel of pairs of points",
        ),
    ],
)
def test_bad_kernels(make, error, message):
    with pytest.raises(error, match=message):
        make()
