"""What the pages say about energies of images: `benchmarks/images.py` and `anomalies.py`."""

import importlib
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.mark.slow
def test_energies_of_small_digits(benchmark):
    """Denoising learns an energy, whose long chains stay; the tutorial's recipe does not."""
    images = benchmark("images")
    rows = images.table("digits", ["Gaussian", "denoising", "tutorial"])
    (gaussian, _), (loss, draws), (_, drifts) = rows.values()
    assert abs(gaussian - 8.14) < 0.1
    assert loss < 5.9
    for share, most, near in draws.values():
        assert share > 0.75
        assert most < 0.3
        # Neither copies of the training images nor far from all of them.
        assert 0.7 < near < 1.3
    short, long = (most for _, most, _ in drifts.values())
    assert short < long
    assert long > 0.75


@pytest.mark.slow
def test_energies_of_mnist(benchmark):
    rows = benchmark("images").table("mnist", ["Gaussian", "multi-scale denoising"])
    (gaussian, _), (loss, draws) = rows.values()
    assert abs(gaussian - 54.1) < 0.5
    assert loss < 35
    ((share, most, _),) = draws.values()
    assert share > 0.5
    assert most < 0.4


@pytest.mark.slow
def test_anomalies_among_small_digits(benchmark):
    """Our ratios are not worse than the best of scikit-learn, and no score is far off."""
    rows = benchmark("anomalies").table("digits")
    for name, expected in AREAS.items():
        area, error = rows[name]
        assert abs(area - expected) < 0.004, name
        assert error < 0.003 or expected < 0.99
    best = max(rows["nearest neighbour"][0], rows["kernel density"][0], rows["mixture"][0])
    for name in ("denoising, ratio", "joint, with labels, ratio"):
        assert rows[name][0] > best - 0.001, name
    assert np.isfinite([area for area, _ in rows.values()]).all()


#: As in `docs/how-to/anomalies.md`.
AREAS = {
    "nearest neighbour": 0.9972,
    "kernel density": 0.9971,
    "mixture": 0.9967,
    "denoising": 0.9967,
    "denoising, ratio": 0.9977,
    "multi-scale denoising": 0.9944,
    "joint, with labels": 0.9964,
    "joint, with labels, ratio": 0.9977,
}
