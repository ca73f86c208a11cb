r"""The level of a surrogate: $\log Z$ at one point."""

from typing import Any

import numpy as np

from .._types import Key
from ..energies import AbstractEnergy, LogZ
from ..normalizers import AbstractExactMethod, AbstractNormalizer, default_method, log_partition
from ._gradient_process import fit_process
from ._slopes import Chains


def level_by(
    rng_key: Key,
    energy: AbstractEnergy,
    method: AbstractNormalizer | None,
    progress_bar: bool,
) -> LogZ:
    r"""$\log Z$ of `energy` by `method`, by default by an exact one, or unknown."""
    if method is not None:
        return log_partition(rng_key, energy, method, progress_bar=progress_bar)
    try:
        suited, target = default_method(energy)
    except ValueError:  # Nothing suits it without being told how.
        return unknown()
    if not isinstance(suited, AbstractExactMethod):
        return unknown()
    return log_partition(rng_key, target, suited, progress_bar=progress_bar)


def unknown() -> LogZ:
    r"""A level that nobody needs: without it, $\log Z$ is known up to a constant."""
    return LogZ(0.0, np.inf, method="Surrogate without a level", is_relative=True)


def level_along(
    rng_key: Key, chains: Chains, first: np.ndarray, last: np.ndarray, known: Any, num: int
) -> LogZ:
    r"""$\log Z$ at `last` from that at `first`, by gradients at points on the line between."""
    known = known if isinstance(known, LogZ) else LogZ(known)
    way = last - first
    if not way.any():
        return known
    # Denser at the ends, beyond which there are no points.
    t = 0.5 - 0.5 * np.cos(np.pi * (np.arange(num) + 0.5) / num)
    found = chains.slopes(rng_key, first + t[:, None] * way, None)
    gradients = found.gradients @ way[:, None]
    noise = np.einsum("a,nab,b->n", way, found.noise, way)
    process = fit_process(
        t[:, None], gradients, np.diag(noise), np.array([0.5]), np.array([[0.3]])
    )
    ends = np.array([[0.0], [1.0]])
    low, high = process.values(ends)
    error = np.hypot(process.errors(ends[1:], ends[0])[0], float(known.std_error))
    return LogZ(known.estimate + high - low, error, method="Path")
