"""Whether a run can begin: its key, its sizes, and what it keeps."""

from typing import Any

from .._checks import check_count, check_key
from .._types import Key


def check_run(
    rng_key: Key, num_chains: Any, num_warmup: Any, num_samples: Any, least: int = 1
) -> None:
    """Raise unless all are what a run needs; `num_chains` may be `None`."""
    check_key(rng_key)
    check_count("num_chains", 1 if num_chains is None else num_chains)
    check_count("num_warmup", num_warmup, 0)
    check_count("num_samples", num_samples, least)


def check_thinning(thinning: Any, num_samples: int) -> None:
    """Raise if no draw would be kept."""
    check_count("thinning", thinning)
    if thinning > num_samples:
        raise ValueError(
            f"`thinning` must be at most `num_samples`, {num_samples}, to keep a draw, got "
            f"{thinning}."
        )
