import sys

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

import numpyro_ebm as ebm


def test_two_moons_lie_on_two_half_circles():
    points = np.asarray(ebm.datasets.two_moons(jax.random.key(0), 2000, noise=0.0))
    upper = np.abs(np.linalg.norm(points, axis=1) - 1) < 1e-5
    lower = np.abs(np.linalg.norm(points - [1.0, 0.5], axis=1) - 1) < 1e-5
    assert (upper | lower).all()
    assert abs(upper.mean() - 0.5) < 0.05
    noisy = ebm.datasets.two_moons(jax.random.key(0), 2000, noise=0.1)
    np.testing.assert_allclose((noisy - points).std(), 0.1, rtol=0.05)


PLANE = ["two_moons", "eight_gaussians", "three_rings", "pinwheel", "checkerboard"]
#: In nats, of densities whose entropy is known.
ENTROPIES = {"eight_gaussians": 2.83188, "checkerboard": np.log(32)}


@pytest.mark.parametrize("name", PLANE)
def test_points_in_the_plane_follow_their_density(name):
    """It integrates to one, and its mean energy at the points is its entropy."""
    density = getattr(ebm.datasets, f"{name}_density")()
    points = getattr(ebm.datasets, name)(jax.random.key(0), 20_000)
    grid = np.stack(np.meshgrid(*[np.arange(-6, 6, 0.02) + 0.01] * 2), -1).reshape(-1, 2)
    log_p = -np.asarray(jax.lax.map(density, grid, batch_size=8192)) - float(density.log_z)
    p = np.exp(log_p) * 0.02**2
    np.testing.assert_allclose(p.sum(), 1, atol=1e-3)
    entropy = -np.sum(p * np.where(p > 0, log_p, 0))
    np.testing.assert_allclose(entropy, ENTROPIES.get(name, entropy), atol=1e-3)
    values = jax.vmap(density)(points) + density.log_z
    error = max(float(values.std()) / np.sqrt(len(values)), 1e-6)
    assert abs(values.mean() - entropy) < 4 * error + 1e-3
    for axis, mean in enumerate(p @ grid):
        error = float(points[:, axis].std()) / np.sqrt(len(points))
        assert abs(points[:, axis].mean() - mean) < 4 * error


def test_digits_are_split_the_same_way_each_time():
    a, b = ebm.datasets.digits(), ebm.datasets.digits(num_test=100)
    assert a.train.shape == (1397, 64)
    assert a.test.shape == (400, 64)
    np.testing.assert_array_equal(a.test[:100], b.test)
    assert a.train.min() == 0
    assert a.train.max() == 1


def test_labels_are_those_of_the_digits():
    images, labels = load_digits(return_X_y=True)
    known = {image.tobytes(): label for image, label in zip(images / 16, labels, strict=True)}
    for part in ("train", "test"):
        digits, found = (
            getattr(f(), part) for f in (ebm.datasets.digits, ebm.datasets.digit_labels)
        )
        assert [known[x.tobytes()] for x in digits] == list(found)


def test_digits_say_what_they_need(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"numpyro-ebm\[examples\]"):
        ebm.datasets.digits()
