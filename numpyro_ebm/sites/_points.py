"""A function of many points, each with the energy of a site."""

from collections.abc import Callable, Sequence
from typing import Any

from .._types import Point, PyTree, Shape
from ._batch import map_batch, vmap_times
from ._distribution import EnergyDistribution
from ._factor import EnergyFactor


def over_points(
    fn: Callable[..., Any],
    sites: Sequence[EnergyDistribution | EnergyFactor],
    points: PyTree,
    shape: Shape,
) -> Any:
    """`fn(point, (energy, support), ...)` of points with leading `shape`.

    Each point meets the energies of its batch element, one of each of `sites`, which are of
    the same form.
    """
    factors = [site.energy for site in sites if isinstance(site, EnergyFactor)]
    if factors:
        parts = [(energy, None if energy is None else energy.support) for energy in factors]
        return vmap_times(lambda point: fn(point, *parts), len(shape))(points)
    batches = [site for site in sites if isinstance(site, EnergyDistribution)]

    def one(arrays: PyTree, point: Point) -> Any:
        return fn(point, *(s._unpack(a) for s, a in zip(batches, arrays, strict=True)))

    arrays = [site._arrays for site in batches]
    return map_batch(one, arrays, sites[0].batch_shape, points, shape)
