"""The only place that imports arviz-stats."""

from typing import Any


def array_stats() -> Any:
    """ArviZ's statistics of arrays; importing them takes most of a second."""
    from arviz_stats.base.array import array_stats

    return array_stats
