"""The only door to arviz-stats."""

from typing import Any


def array_stats() -> Any:
    """ArviZ's statistics of plain arrays, imported at their first use."""
    from arviz_stats.base.array import array_stats

    return array_stats
