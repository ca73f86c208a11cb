"""Posteriors of hidden and noisy images against closed forms, on every kind of support."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest
from helpers import assert_means, count_traces

import numpyro_ebm as ebm
from numpyro_ebm.tasks import denoise, denoise_mode, inpaint, tweedie

KNOWN = np.array([True, False, True, False])


def prior(dim=4, num=3, spread=1.0, seed=0):
    rng = np.random.default_rng(seed)
    roots = np.eye(dim) + 0.5 * rng.normal(size=(num, dim, dim)) / np.sqrt(dim)
    locs = spread * rng.normal(size=(num, dim))
    return ebm.GaussianMixture(np.arange(1, num + 1), locs, roots @ roots.transpose(0, 2, 1))


def posterior(energy, y, operator, noise):
    """Weights, means and covariances of x, given y = operator x + noise, in closed form."""
    locs = np.asarray(energy.locs, float)
    covariances = np.linalg.inv(np.asarray(energy.precision_matrices, float))
    inner = operator @ covariances @ operator.T + noise
    gain = covariances @ operator.T @ np.linalg.inv(inner)
    evidence = dist.MultivariateNormal(locs @ operator.T, inner).log_prob(y)
    weights = jax.nn.softmax(energy.log_weights + evidence)
    means = locs + np.einsum("kij,kj->ki", gain, y - locs @ operator.T)
    return np.asarray(weights), means, covariances - gain @ operator @ covariances


def moments(weights, means, covariances):
    mean = weights @ means
    second = np.einsum("k,kij->ij", weights, covariances)
    apart = means - mean
    return mean, np.diag(second) + weights @ apart**2


def assert_restored(images, truths):
    """Means and variances of each image, from chains that are independent."""
    for i, (mean, variance) in enumerate(truths):
        x = np.asarray(images[:, :, i])
        hidden = variance > 1e-9
        values = np.concatenate([x[..., hidden], (x - mean)[..., hidden] ** 2], -1)
        assert_means(values, np.concatenate([mean[hidden], variance[hidden]]))


def points(energy, num, seed=1):
    return np.asarray(energy.sample(jr.key(seed), (num,)))


RUN = {"num_chains": 24, "num_warmup": 300, "num_samples": 300, "progress_bar": False}
NOISE = 0.7


def test_denoised_images_have_the_exact_posterior():
    energy = prior()
    y = points(energy, 3) + NOISE * np.asarray(jr.normal(jr.key(2), (3, 4)))
    restored = denoise(jr.key(3), energy, y, NOISE, **RUN)
    truths = [moments(*posterior(energy, one, np.eye(4), NOISE**2 * np.eye(4))) for one in y]
    assert_restored(restored.images, truths)
    # At twice the variance, or for images in another order, it fails.
    twice = [moments(*posterior(energy, one, np.eye(4), 2 * NOISE**2 * np.eye(4))) for one in y]
    for wrong in (twice, truths[::-1]):
        with pytest.raises(AssertionError, match="z ="):
            assert_restored(restored.images, wrong)
    np.testing.assert_allclose(restored.mean, restored.images.mean((0, 1)), atol=1e-6)
    low, high = restored.interval(0.9)
    inside = (restored.images >= low) & (restored.images <= high)
    np.testing.assert_allclose(inside.mean((0, 1)), 0.9, atol=0.01)
    assert "3 images from 24 chains of 300 draws on each of 3 energies" in repr(restored)
    tree = ebm.to_arviz(restored)
    assert tree["posterior"]["x"].dims == ("chain", "draw", "row", "x_dim_0")
    assert tree["sample_stats"]["lp"].dims == ("chain", "draw", "row")
    assert ebm.mixing_report(restored).ok, ebm.mixing_report(restored)
    assert ebm.mixing_report(restored.draws[1]).ok
    assert restored.draws[1:].values.shape == (24, 300, 2, 4)


def test_hidden_coordinates_have_the_exact_conditional_law():
    energy = prior()
    x = points(energy, 3)
    seen = np.where(KNOWN, x, np.nan)
    restored = inpaint(jr.key(3), energy, seen, KNOWN, **RUN)
    operator = np.eye(4)[KNOWN]
    truths = [moments(*posterior(energy, one[KNOWN], operator, 0.0)) for one in x]
    assert_restored(restored.images, truths)
    np.testing.assert_array_equal(restored.images[0, 0][:, KNOWN], x[:, KNOWN].astype("f4"))
    with pytest.raises(AssertionError, match="z ="):
        assert_restored(restored.images, truths[::-1])
    assert ebm.mixing_report(restored).ok


@pytest.mark.slow
def test_rows_that_hide_different_numbers():
    energy, x = prior(), points(prior(), 4)
    mask = np.array([KNOWN, ~KNOWN, [True, True, True, False], [False] * 4])
    restored = inpaint(jr.key(3), energy, np.where(mask, x, np.nan), mask, **RUN)
    for i, known in enumerate(mask):
        if known.any():
            truth = moments(*posterior(energy, x[i, known], np.eye(4)[known], 0.0))
        else:
            truth = moments(*posterior(energy, np.zeros(1), np.zeros((1, 4)), np.eye(1)))
        assert_restored(restored.images[:, :, i : i + 1], [truth])


@pytest.mark.slow
def test_inpainting_is_exact_in_64_dimensions():
    energy = prior(64, 3, 0.3)
    x, known = points(energy, 4), np.arange(64) < 32
    restored = inpaint(jr.key(3), energy, x, known, **RUN | {"num_samples": 600})
    truths = [moments(*posterior(energy, one[known], np.eye(64)[known], 0.0)) for one in x]
    assert_restored(restored.images, truths)


@pytest.mark.slow
def test_tempering_finds_completions_that_lie_apart():
    locs = np.array([[0.0, -5.0], [0.2, 5.0]])
    energy = ebm.GaussianMixture([0.3, 0.7], locs, np.eye(2))
    x, known = np.array([[0.0, 0.0], [2.0, 0.0]]), np.array([True, False])
    truths = [posterior(energy, one[known], np.eye(2)[known], 0.0)[0][1] for one in x]
    kernel = ebm.ParallelTempering(ebm.HMC(), 30.0, num_temperatures=6)
    settings = RUN | {"num_warmup": 500, "num_samples": 1500}
    restored = inpaint(jr.key(0), energy, x, known, kernel, **settings)
    for i, truth in enumerate(truths):
        assert_means(restored.images[:, :, i, 1:] > 0, np.array([truth]))
    # Chains without it stay where they began, half of them on each side.
    start = np.stack([np.tile(locs[k % 2], (2, 1)) for k in range(24)])
    plain = inpaint(jr.key(0), energy, x, known, init_params=start, **RUN)
    assert float((plain.images[:, :, 0, 1] > 0).mean()) < truths[0] - 0.1


@pytest.mark.slow
def test_an_unknown_noise_scale():
    """Of a Gaussian prior: the noise scale by quadrature, and the image given it, exactly."""
    dim, scale_prior = 30, dist.HalfNormal(1.0)
    rng = np.random.default_rng(0)
    root = rng.normal(size=(dim, 5))
    covariance = root @ root.T + 0.05 * np.eye(dim)
    sizes, axes = np.linalg.eigh(covariance)
    energy = ebm.Gaussian(np.zeros(dim), covariance)
    noise = np.array([0.3, 1.0])[:, None] * rng.normal(size=(2, dim))
    y = rng.normal(size=(2, dim)) * np.sqrt(sizes) @ axes.T + noise
    restored = denoise(jr.key(0), energy, y, scale_prior, **RUN | {"num_samples": 1000})
    grid = np.linspace(1e-3, 6, 6000)
    for i, one in enumerate(y @ axes):
        variance = sizes + grid[:, None] ** 2
        log_weights = -0.5 * (one**2 / variance + np.log(variance)).sum(1)
        weights = np.asarray(jax.nn.softmax(log_weights + scale_prior.log_prob(grid)))
        assert_means(restored.noise_scale[:, :, i, None], np.array([weights @ grid]))
        mean = axes @ ((weights @ (sizes / variance)) * one)
        assert_means(restored.images[:, :, i], mean)
    assert set(ebm.to_arviz(restored)["posterior"].data_vars) == {"x", "noise_scale"}


def test_one_step_of_the_score_is_exact_for_noisy_data(x64):
    clean = prior()
    noisy = ebm.GaussianMixture(
        jnp.exp(clean.log_weights),
        clean.locs,
        jnp.linalg.inv(clean.precision_matrices) + NOISE**2 * jnp.eye(4),
    )
    y = points(noisy, 5)
    found = tweedie(noisy, y, NOISE)
    for i, one in enumerate(y):
        mean, variance = moments(*posterior(clean, one, np.eye(4), NOISE**2 * np.eye(4)))
        np.testing.assert_allclose(found.mean[i], mean, atol=1e-8)
        np.testing.assert_allclose(found.sd[i] ** 2, variance, atol=1e-8)
    with pytest.warns(UserWarning, match="the variance is negative at .* of 20 pixels"):
        assert np.isnan(tweedie(noisy, y, 5.0).sd).any()


def test_the_mode_of_a_gaussian():
    """In closed form, for all noise levels at once; a coordinate that was not seen follows."""
    energy = ebm.Gaussian(np.ones(4), np.eye(4) + 0.5)
    y, scales = np.linspace(-2, 2, 12).reshape(3, 4), np.array([[0.1], [0.5], [2.0]])
    found = denoise_mode(energy, y, scales, mask=KNOWN)
    precision = np.asarray(energy.precision_matrix)
    for one, scale, image in zip(y, scales, found.images, strict=True):
        weight = np.diag(KNOWN / scale**2)
        exact = np.linalg.solve(precision + weight, precision @ np.ones(4) + weight @ one)
        np.testing.assert_allclose(image, exact, atol=5e-3)
    assert found.converged.all()
    with pytest.warns(UserWarning, match="has not converged for . of 3 images"):
        denoise_mode(lambda x: jnp.sum(jnp.abs(x)) + 10 * jnp.sum(jnp.sin(50 * x)), y, 1.0)


def test_other_images_of_the_same_shape_compile_nothing():
    energy = prior(2)
    fn, traces = count_traces(energy)
    counted = ebm.as_energy(fn, (2,))
    settings = {"num_chains": 2, "num_warmup": 20, "num_samples": 20, "progress_bar": False}
    first = denoise(jr.key(0), counted, points(energy, 3), 0.5, **settings)
    num = len(traces)
    second = denoise(jr.key(0), counted, points(energy, 3) + 0.1, 0.6, **settings)
    # The checks of shapes trace it, on one point; the run does not.
    assert len(traces) - num <= 3
    assert not np.allclose(first.mean, second.mean)


def test_rows_do_not_depend_on_each_other():
    def family(y):
        return prior(2) + ebm.as_energy(dist.Normal(y, 0.5).to_event(1))

    y = points(prior(2), 3)
    settings = {"num_warmup": 0, "num_samples": 5, "progress_bar": False}
    run = functools.partial(ebm.sampling.sample_each, kernel=ebm.HMC(), **settings)
    all_rows, two_rows = run(jr.key(0), family, y), run(jr.key(0), family, y[:2])
    np.testing.assert_allclose(all_rows[:2].values, two_rows.values, rtol=1e-3)
    assert not np.allclose(all_rows[0].values, all_rows[1].values)


BOOLEAN = dist.Bernoulli(0.3).expand([3]).to_event(1)
POISSON = dist.Poisson(2.0).expand([3]).to_event(1)
GAMMA = dist.Gamma(3.0, 1.0).expand([3]).to_event(1)
BETA = dist.Beta(2.0, 3.0).expand([3]).to_event(1)
DIRICHLET = dist.Dirichlet(np.array([2.0, 3.0, 4.0]))
ISING = ebm.IsingModel((3,), 0.3, 0.2, periodic=False)


def grid_posterior(energy, y, scale, low, high):
    """Mean of a posterior in which the coordinates are independent, by quadrature."""
    grid = jnp.linspace(low, high, 4001)[1:-1]
    log_prior = energy.base_dist.log_prob(grid[:, None])
    weights = jax.nn.softmax(log_prior - 0.5 * ((y - grid[:, None]) / scale) ** 2, 0)
    return np.asarray(jnp.sum(weights * grid[:, None], 0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("energy", "low", "high"), [(GAMMA, 0.0, 20.0), (BETA, 0.0, 1.0)], ids=["positive", "box"]
)
def test_bounded_supports(energy, low, high):
    y = np.array([[0.1, 0.5, 0.9], [0.7, -0.2, 0.3]])
    restored = denoise(jr.key(0), energy, y, 0.4, **RUN)
    for i, one in enumerate(y):
        truth = grid_posterior(energy, one, 0.4, low, high)
        assert_means(restored.images[:, :, i], truth)
    mask = np.array([[True, False, False], [True, True, False]])
    filled = inpaint(jr.key(1), energy, np.abs(y), mask, **RUN)
    assert_means(filled.images[:, :, 0, 1:], np.full(2, energy.mean[0]))
    assert_means(filled.images[:, :, 1, 2:], np.full(1, energy.mean[0]))
    found = denoise_mode(energy, y, 0.4)
    assert found.converged.all()
    assert ((found.images > low) & (found.images < high)).all()


@pytest.mark.slow
def test_a_simplex():
    y = np.array([[0.2, 0.3, 0.5], [0.6, 0.1, 0.1]])
    restored = denoise(jr.key(0), DIRICHLET, y, 0.2, **RUN)
    x = jr.dirichlet(jr.key(1), DIRICHLET.concentration, (400_000,))
    for i, one in enumerate(y):
        weights = jax.nn.softmax(-0.5 * jnp.sum(((one - x) / 0.2) ** 2, -1))
        assert_means(restored.images[:, :, i, :2], np.asarray(weights @ x)[:2])


@pytest.mark.slow
@pytest.mark.parametrize("energy", [BOOLEAN, ISING], ids=["bits", "spins"])
def test_discrete_supports(energy):
    energy = ebm.as_energy(energy)
    low = float(ebm.energies.discrete_levels(energy)[0])
    states = ebm.energies.all_states((low, 1.0), (3,))
    y, scale = np.array([[0.2, 0.4, 0.9], [-0.3, 0.8, 0.1]]), 0.8
    restored = denoise(jr.key(0), energy, y, scale, **RUN)
    for i, one in enumerate(y):
        log_weights = -jax.vmap(energy)(states) - 0.5 * jnp.sum(
            ((one - states) / scale) ** 2, 1
        )
        assert_means(restored.images[:, :, i], jax.nn.softmax(log_weights) @ states)
    mask = np.array([[True, False, False], [False, True, True]])
    x = np.array([[1.0, np.nan, np.nan], [np.nan, low, 1.0]])
    filled = inpaint(jr.key(1), energy, x, mask, **RUN)
    for i, known in enumerate(mask):
        agrees = (states == jnp.nan_to_num(x[i]))[:, known].all(1)
        weights = jax.nn.softmax(jnp.where(agrees, -jax.vmap(energy)(states), -jnp.inf))
        truth = np.asarray(weights @ states)
        assert_means(filled.images[:, :, i][..., ~known], truth[~known])


Y, TWO = np.full((2, 3), 0.5), np.array([True, False, False])
CLEAN, GAUSSIAN = np.zeros((2, 3)), ebm.Gaussian(np.zeros(3), np.eye(3))
SCALE = dist.HalfNormal(1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: denoise(jr.key(0), BOOLEAN, Y, SCALE), "NumPyro's `HMCGibbs`"),
        (lambda: denoise(jr.key(0), POISSON, Y, 0.5), "units with the same few values"),
        (lambda: denoise(jr.key(0), GAUSSIAN, Y, dist.Normal(0, 1)), "or the prior of one"),
        (lambda: denoise(jr.key(0), GAUSSIAN, Y, 0.0), "`noise_scale` must be positive"),
        (lambda: denoise(jr.key(0), GAUSSIAN, Y, np.ones(2)), "or fit images of shape"),
        (lambda: denoise(jr.key(0), GAUSSIAN, Y * np.nan, 0.5), "`y` must be finite"),
        (lambda: denoise(jr.key(0), GAUSSIAN, Y[0], 0.5), r"pass `y\[None\]`"),
        (lambda: denoise(0, GAUSSIAN, Y, 0.5), "random key"),
        (lambda: denoise(jr.key(0), GAUSSIAN, Y, 0.5, init_params=Y), "`init_params` must"),
        (lambda: denoise(jr.key(0), GAUSSIAN, Y, 0.5, ebm.MALA(lambda: 0)), "neither `model`"),
        (lambda: denoise(jr.key(0), GAUSSIAN, Y, 0.5, mask=TWO[:2]), "`mask` must have the"),
        (lambda: denoise_mode(ISING, Y, 0.5), "follows slopes"),
        (lambda: denoise_mode(GAUSSIAN, Y, SCALE), "must be a number here"),
        (lambda: tweedie(GAMMA, Y, 0.5), "can be any real numbers"),
        (lambda: tweedie(ISING, Y, 0.5), "can be any real numbers"),
        (lambda: tweedie(GAUSSIAN, Y, np.ones((2, 1))), "must be one number, that of the"),
        (lambda: inpaint(jr.key(0), DIRICHLET, Y, TWO), "ties coordinates to each other"),
        (lambda: inpaint(jr.key(0), POISSON, CLEAN, np.array([TWO, ~TWO])), "once per mask"),
        (lambda: inpaint(jr.key(0), GAMMA, -Y, TWO), "`x` must hold points of the support"),
        (lambda: inpaint(jr.key(0), GAUSSIAN, Y * np.nan, TWO), "`x` must be finite"),
        (lambda: inpaint(jr.key(0), GAUSSIAN, Y, ~TWO | TWO), "`mask` hides nothing"),
        (lambda: inpaint(jr.key(0), GAUSSIAN, Y, 1.0 * TWO), "`mask` must be boolean"),
        (lambda: inpaint(jr.key(0), GAUSSIAN, Y, TWO, init_params=Y), "whole images"),
        (lambda: ebm.sampling.sample_each(jr.key(0), GAUSSIAN.__add__, 3.0, ebm.HMC()), "rows"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
