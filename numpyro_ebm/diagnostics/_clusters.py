"""k-means, and the number of modes from the valleys between them."""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from ._summaries import principal_components

#: A mode holds at least this share of the points, and this many of those clustered.
_MIN_SHARE, _MIN_POINTS = 0.01, 20
#: The density between two modes is less than half that of the lower one.
_VALLEY = 0.5
#: With more coordinates, a few principal components represent the point.
_MANY = 20
_NUM_COMPONENTS = 8
#: Points clustered per group.
_NUM_POINTS = 2000
_NUM_STARTS, _NUM_STEPS = 5, 50
_NUM_GRID = 201


def cluster(groups: list[np.ndarray], num_modes: int | None, seed: int) -> list[np.ndarray]:
    """Labels of each group of points `(n, d)`: modes of all groups, the largest one first.

    Coordinates are standardised; if there are more than 20, the leading principal components
    are used. If `num_modes` is not given, points are split recursively: two halves are modes if
    the density has a valley between their centres.
    """
    rng = np.random.default_rng(seed)
    points = np.concatenate([_some(x) for x in groups])
    embed = _embedding(points)
    points = embed(points)
    if num_modes is None:
        min_size = max(_MIN_POINTS, _MIN_SHARE * len(points))
        centres = _lloyd(points, np.stack(_modes(points, min_size, rng)))
    else:
        centres = _k_means(points, num_modes, rng)
    sizes = np.bincount(_nearest(points, centres), minlength=len(centres))
    centres = centres[np.argsort(-sizes, kind="stable")]
    return [_nearest(embed(x), centres) for x in groups]


def _some(x: np.ndarray) -> np.ndarray:
    return x[np.linspace(0, len(x) - 1, min(_NUM_POINTS, len(x))).astype(int)]


def _embedding(points: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    if points.shape[1] > _MANY:
        components = principal_components(points, _NUM_COMPONENTS)
        return lambda x: x @ components.T
    scale = points.std(0)
    scale = np.where(scale > 0, scale, 1)
    return lambda x: x / scale


def _modes(points: np.ndarray, min_size: float, rng: Generator) -> list[np.ndarray]:
    """Centres of the modes among `points`."""
    if len(points) < 2 * min_size:
        return [points.mean(0)]
    first, second = _k_means(points, 2, rng)
    way = second - first
    along = (points - (first + second) / 2) @ way / max(way @ way, np.finfo(float).tiny)
    valley = _valley(along)
    halves = [points[along <= valley], points[along > valley]]
    if min(map(len, halves)) < min_size:
        return [points.mean(0)]
    return [centre for half in halves for centre in _modes(half, min_size, rng)]


def _valley(t: np.ndarray) -> float:
    """Where the density of `t` has a valley between -0.5 and 0.5; infinite if there is none."""
    halves = t[t <= 0], t[t > 0]
    if min(map(len, halves)) == 0:  # All points coincide.
        return np.inf
    width = 0.9 * min(half.std() for half in halves) * min(map(len, halves)) ** -0.2
    grid = np.linspace(-0.5, 0.5, _NUM_GRID)
    # Silverman's rule in the narrower half.
    z = (grid[:, None] - t) / max(width, 1 / _NUM_GRID)
    density = np.exp(-0.5 * z**2).sum(1)
    lowest = int(density.argmin())
    lower_peak = min(density[: lowest + 1].max(), density[lowest:].max())
    return float(grid[lowest]) if density[lowest] < _VALLEY * lower_peak else np.inf


def _k_means(points: np.ndarray, k: int, rng: Generator) -> np.ndarray:
    """The best of a few runs, each seeded by k-means++ [Arthur, Vassilvitskii 2007]."""
    runs = [_lloyd(points, _seeding(points, k, rng)) for _ in range(_NUM_STARTS)]
    return min(runs, key=lambda centres: _squared(points, centres).min(1).sum())


def _seeding(points: np.ndarray, k: int, rng: Generator) -> np.ndarray:
    """Draw each centre with probability proportional to squared distance from the others."""
    centres = points[[rng.integers(len(points))]]
    while len(centres) < k:
        squared = _squared(points, centres).min(1)
        total = squared.sum()
        chance = squared / total if total > 0 else None
        centres = np.concatenate([centres, points[[rng.choice(len(points), p=chance)]]])
    return centres


def _lloyd(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    for _ in range(_NUM_STEPS):
        labels = _nearest(points, centres)
        sizes = np.bincount(labels, minlength=len(centres))
        sums = np.zeros_like(centres)
        np.add.at(sums, labels, points)
        # A centre without points stays.
        new = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centres)
        if np.array_equal(new, centres):
            break
        centres = new
    return centres


def _nearest(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return _squared(points, centres).argmin(1)


def _squared(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    columns = [((points - centre) ** 2).sum(1) for centre in centres]
    return np.stack(columns, axis=1)
