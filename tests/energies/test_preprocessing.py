import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import mixture
from scipy.stats import multivariate_normal

import numpyro_ebm as ebm

KEY = jax.random.key(0)
TRANSFORMS = {
    "Standardize": lambda: ebm.energies.Standardize([1.0, -2.0], [3.0, 0.5]),
    "Whiten": lambda: ebm.energies.Whiten([1.0, -2.0], [[4.0, 1.5], [1.5, 1.0]]),
    "Logit": lambda: ebm.energies.Logit(17, alpha=0.1),
}
#: Columns with correlations and scales as in tables: lengths, an area, and noise.
COLUMNS = np.random.default_rng(1).normal(size=(500, 3)) @ np.array(
    [[1.0, 7e3, 0.0], [0.1, 1e2, 0.0], [0.0, 0.0, 1e-3]]
) + np.array([10.0, 3e4, 0.5])


@pytest.mark.parametrize("make", TRANSFORMS.values(), ids=TRANSFORMS)
def test_inverse_and_log_determinant(make, x64):
    transform, x = make(), jnp.array([3.0, 11.5])
    y = transform(x)
    np.testing.assert_allclose(transform.inv(y), x, rtol=1e-12)
    jacobian = jax.jacobian(transform)(x)
    log_det = transform.log_abs_det_jacobian(x, y).sum()
    np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], rtol=1e-12)
    leaves, treedef = jax.tree.flatten(transform)
    assert treedef.unflatten(leaves) == transform
    assert transform != object()


def test_standardize_fits_the_data():
    data = np.random.default_rng(0).normal(size=(100, 2)) * [3.0, 0.0] + [5.0, 7.0]
    u = jax.vmap(ebm.energies.Standardize.fit(data))(jnp.asarray(data))
    np.testing.assert_allclose(u.mean(0), [0, 0], atol=1e-5)
    np.testing.assert_allclose(u.std(0), [1, 0], atol=1e-5)


def test_whitened_data_have_the_identity_as_covariance():
    u = np.asarray(ebm.energies.Whiten.fit(COLUMNS)(jnp.asarray(COLUMNS)), float)
    np.testing.assert_allclose(u.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(np.cov(u.T, bias=True), np.eye(3), atol=1e-3)
    # It moves standardised data the least: no rotation, so the matrix is symmetric.
    standard = (COLUMNS - COLUMNS.mean(0)) / COLUMNS.std(0)
    cross = standard.T @ u / len(u)
    np.testing.assert_allclose(cross, cross.T, atol=1e-3)


def test_a_standard_normal_of_whitened_points_is_the_gaussian_of_the_points():
    whiten = ebm.energies.Whiten.fit(COLUMNS)
    normal = ebm.Gaussian(np.zeros(3), np.eye(3))
    energy = ebm.Transformed(normal, whiten)
    loc, scale = COLUMNS.mean(0), COLUMNS.std(0)
    scaled, correlation = (COLUMNS - loc) / scale, np.corrcoef(COLUMNS.T)
    expected = multivariate_normal(np.zeros(3), correlation).logpdf(scaled[:50])
    expected -= np.log(scale).sum()
    found = ebm.log_likelihood(energy, COLUMNS[:50]).values
    np.testing.assert_allclose(found, expected, atol=2e-2)
    draws = np.asarray(energy.sample(KEY, (20_000,)), float)
    error = (draws.mean(0) - loc) / scale * np.sqrt(len(draws))
    assert (np.abs(error) < 4).all(), error


def test_whitening_of_images_keeps_their_shape():
    images = np.random.default_rng(0).normal(size=(100, 4, 3)).cumsum(1)
    whiten = ebm.energies.Whiten.fit(images)
    u = whiten(jnp.asarray(images))
    assert u.shape == images.shape
    np.testing.assert_allclose(np.cov(u.reshape(100, 12).T, bias=True), np.eye(12), atol=1e-3)
    assert whiten.log_abs_det_jacobian(images, u).shape == (100,)
    network = ebm.ConvEnergy((4, 3), (4,), key=KEY)
    energy = ebm.Transformed(network, whiten)
    assert energy.event_shape == (4, 3)
    np.testing.assert_allclose(jax.vmap(whiten)(images), u, atol=1e-4)
    assert whiten(jnp.zeros((0, 4, 3))).shape == (0, 4, 3)


def test_an_identity_between_columns_stays_narrow():
    """A sum of columns adds no volume: its direction is not stretched to unit scale."""
    data = np.random.default_rng(0).normal(size=(200, 2))
    data = np.column_stack([data, data.sum(1)])
    whiten = ebm.energies.Whiten.fit(data)
    u = whiten(jnp.asarray(data))
    assert np.linalg.eigvalsh(np.cov(u.T))[0] < 1e-2
    np.testing.assert_allclose(whiten.inv(u), data, atol=1e-3)


@pytest.mark.parametrize("name", ["Standardize", "Whiten"])
def test_constant_columns_and_weights(name):
    fit = getattr(ebm.energies, name).fit
    data = np.random.default_rng(0).normal(size=(100, 3)) * [3.0, 0.0, 1.0] + [5.0, 0.1, 7.0]
    u = fit(data)(jnp.asarray(data))
    np.testing.assert_allclose(u.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(u.std(0), [1, 0, 1], atol=1e-5)
    weights = np.repeat([1.0, 3.0], 50)
    again = fit(np.concatenate([data, data[50:], data[50:]]))
    for a, b in zip(jax.tree.leaves(fit(data, weights)), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_whitened_network_trains_and_is_saved(tmp_path):
    network = ebm.MLPEnergy(3, 8, key=KEY)
    start = ebm.Transformed(network, ebm.energies.Whiten.fit(COLUMNS))
    run = ebm.Estimator(ebm.SlicedScoreMatching(), optax.adam(1e-2)).run
    energy = run(KEY, 5, start, COLUMNS, progress_bar=False).energy
    ebm.save(tmp_path / "whitened.ebm", energy)
    loaded = ebm.load(tmp_path / "whitened.ebm")
    before = ebm.unfreeze(energy.transform)
    assert before.eq(ebm.unfreeze(loaded.transform))
    assert before.eq(ebm.unfreeze(start.transform))
    assert not before.eq(ebm.energies.Whiten.fit(2 * COLUMNS))
    np.testing.assert_array_equal(loaded(COLUMNS[0]), energy(COLUMNS[0]))


def test_units_do_not_change_densities(x64):
    """log p(x) transforms by the log-determinant, so the mass stays."""
    energy = ebm.Transformed(mixture(), ebm.energies.Standardize([1.0, 2.0], [3.0, 0.5]))
    x = jnp.array([2.0, 2.2])
    u = (x - jnp.array([1.0, 2.0])) / jnp.array([3.0, 0.5])
    np.testing.assert_allclose(-energy(x), -mixture()(u) - np.log(1.5), rtol=1e-12)


def test_bits_per_dimension_of_uniform_pixels_are_their_levels():
    """The logit of uniform pixels is logistic between its margins: exactly log2(n) bits."""
    num_levels, alpha = 16, 0.05
    pixels = ebm.energies.dequantize(
        KEY, np.random.default_rng(0).integers(0, num_levels, (200, 4))
    )
    assert pixels.min() >= 0
    assert pixels.max() < num_levels
    transform = ebm.energies.Logit(num_levels, alpha)

    def uniform(y):
        p = jax.nn.sigmoid(y)
        return -jnp.sum(jnp.log(p * (1 - p) / (1 - 2 * alpha)))

    energy = ebm.Normalized(ebm.Transformed(uniform, transform), 0.0)
    bits = (jax.vmap(energy)(pixels) + energy.log_z) / (4 * jnp.log(2))
    np.testing.assert_allclose(bits, np.log2(num_levels), rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ebm.energies.Standardize(0.0, 0.0), "`scale` must be positive"),
        (lambda: ebm.energies.Whiten([0.0], np.eye(2)), r"must have shape \(1, 1\)"),
        (lambda: ebm.energies.Whiten(np.zeros(2), np.zeros((2, 2))), "positive variances"),
        (lambda: ebm.energies.Whiten.fit(np.eye(3)), "more points than coordinates"),
        (lambda: ebm.energies.Whiten.fit(COLUMNS, np.ones(3)), "`weights` must be one per"),
        (lambda: ebm.energies.Standardize.fit(COLUMNS, -np.ones(500)), "not be negative"),
        (lambda: ebm.energies.Logit(0), "`num_levels` must be positive"),
        (lambda: ebm.energies.Logit(alpha=0.5), "`alpha` must lie between 0 and 0.5"),
        (lambda: ebm.energies.dequantize(KEY, [[0.5]]), "must be integers"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
