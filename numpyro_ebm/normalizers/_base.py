"""Estimators of a normaliser: methods without and with Monte Carlo error."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from .._arviz import array_stats
from .._show import show_module
from .._types import Array, Energy, Float, Key, Scalar
from ..energies import AbstractEnergy, LogZ, judged


class AbstractNormalizer(eqx.Module):
    r"""Estimates $\log Z$; called by [`log_partition`][numpyro_ebm.log_partition]."""

    def __repr__(self) -> str:
        return show_module(self)

    @abc.abstractmethod
    def estimate(self, rng_key: Key, energy: AbstractEnergy) -> LogZ:
        r"""$\log Z$ of `energy`, with its error."""


class AbstractLongMethod(AbstractNormalizer):
    r"""Estimates $\log Z$ by chains or particles, in short calls with a progress bar."""

    @abc.abstractmethod
    def run(self, rng_key: Key, energy: AbstractEnergy, *, progress_bar: bool) -> LogZ:
        r"""$\log Z$ of `energy`, with its error."""

    def estimate(self, rng_key: Key, energy: AbstractEnergy) -> LogZ:
        return self.run(rng_key, energy, progress_bar=False)


class AbstractExactMethod(AbstractNormalizer):
    r"""$\log Z$ as a deterministic function of the energy's parameters."""

    @abc.abstractmethod
    def log_z(self, energy: Energy) -> Scalar:
        r"""$\log\int e^{-E(x)}\,dx$, differentiable in the parameters of `energy`."""


def log_sum(
    energy: Energy, nodes: Float[Array, "n *event"], log_weights: Float[Array, " n"]
) -> Scalar:
    r"""$\log\sum_i w_i e^{-E(x_i)}$ in blocks; the gradient recomputes their inner values."""
    num_blocks = -(-len(nodes) // BLOCK)
    size = -(-len(nodes) // num_blocks)
    missing = num_blocks * size - len(nodes)
    # The last block is padded with nodes of zero weight.
    nodes = jnp.concatenate([nodes, jnp.repeat(nodes[:1], missing, 0)])
    log_weights = jnp.concatenate([log_weights, jnp.full(missing, -jnp.inf)])

    @jax.checkpoint
    def block(part: tuple[Array, Array]) -> Scalar:
        points, log_weights = part
        return logsumexp(log_weights - jax.vmap(energy)(points))

    if num_blocks == 1:
        return block((nodes, log_weights))
    shape = (num_blocks, size)
    parts = nodes.reshape(*shape, *nodes.shape[1:]), log_weights.reshape(shape)
    return logsumexp(jax.lax.map(block, parts))


#: Nodes per block.
BLOCK = 8192


def rounding(*energies: Array) -> Scalar:
    """The rounding error of a log weight that sums these energies, from their float type."""
    size = jnp.sum(
        jnp.stack([jnp.abs(jnp.where(jnp.isfinite(e), e, 0)).mean() for e in energies])
    )
    return jnp.finfo(jnp.result_type(float)).eps * size


def with_common_checks(log_z: LogZ, noise: Scalar) -> LogZ:
    """`log_z` with the checks common to all estimates; `noise` bounds its rounding error."""
    return judged(
        log_z,
        {
            "the estimate is not finite": ~jnp.isfinite(log_z.estimate),
            "the energies are too large for their floating-point type, whose rounding exceeds "
            "the standard error: set `jax_enable_x64`": noise
            > jnp.maximum(log_z.std_error, _FINE),
        },
    )


#: Smaller errors are ignored.
_FINE = 1e-4


def weighted(log_weights: Float[Array, " n"], noise: Scalar, **more: Any) -> LogZ:
    r"""$\log\frac1n\sum_i w_i$ of independent weights, with a check of their tail."""
    values = np.asarray(log_weights, float)
    values = np.where(np.isnan(values), -np.inf, values)
    num = len(values)
    estimate = logsumexp(values) - np.log(num)
    ess = min(float(np.exp(2 * logsumexp(values) - logsumexp(2 * values))), num)
    finite = values[np.isfinite(values)]
    log_z = LogZ(
        estimate,
        np.sqrt(max(1 / ess - 1 / num, 0)),
        # Jensen's bound, from the nonzero weights.
        lower=finite.mean() + np.log(len(finite) / num) if len(finite) else -np.inf,
        ess=ess,
        ess_of=f"{num} draws",
        df=num - 1,
        checks={"all weights are zero": not np.isfinite(estimate)},
        **more,
    )
    tail = _tail_index(finite) if len(finite) > _FEWEST_WEIGHTS else np.inf
    limit = min(1 - 1 / np.log10(num), 0.7) if num > 1 else 0.0
    return judged(
        with_common_checks(log_z, noise),
        {
            f"the effective sample size is below {_FEWEST_WEIGHTS}": not ess >= _FEWEST_WEIGHTS,
            "the weights have such a heavy tail (Pareto k) that few draws decide, as if the "
            "proposal or reference missed part of the target": not tail <= limit,
        },
    )


#: With a smaller effective sample size there is no interval.
_FEWEST_WEIGHTS = 50


def _tail_index(log_weights: np.ndarray) -> float:
    """Pareto k of the largest weights [Vehtari et al. 2024]; equal weights have no tail."""
    if np.ptp(log_weights) < 1e-3:
        return -np.inf
    with np.errstate(all="ignore"):
        try:
            # ArviZ takes the negative log weights.
            return float(array_stats().psislw(-log_weights)[1])
        except ValueError:  # All but a few weights are zero.
            return np.inf
