import sys

import jax
import numpy as np
import pytest

import numpyro_ebm as ebm


def test_two_moons_lie_on_two_half_circles():
    points = np.asarray(ebm.datasets.two_moons(jax.random.key(0), 2000, noise=0.0))
    upper = np.abs(np.linalg.norm(points, axis=1) - 1) < 1e-5
    lower = np.abs(np.linalg.norm(points - [1.0, 0.5], axis=1) - 1) < 1e-5
    assert (upper | lower).all()
    assert abs(upper.mean() - 0.5) < 0.05
    noisy = ebm.datasets.two_moons(jax.random.key(0), 2000, noise=0.1)
    np.testing.assert_allclose((noisy - points).std(), 0.1, rtol=0.05)


def test_digits_are_split_the_same_way_each_time():
    a, b = ebm.datasets.digits(), ebm.datasets.digits(num_test=100)
    assert a.train.shape == (1397, 64)
    assert a.test.shape == (400, 64)
    np.testing.assert_array_equal(a.test[:100], b.test)
    assert a.train.min() == 0
    assert a.train.max() == 1


def test_digits_say_what_they_need(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"numpyro-ebm\[examples\]"):
        ebm.datasets.digits()
