r"""Posterior predictive densities and draws of energies whose parameters are uncertain."""

import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.scipy.special import logsumexp

from .._checks import as_data, check_count, check_key, user_level
from .._types import Array, ArrayLike, Float, Key, PyTree, Scalar
from ..chains import run_alone
from ..energies import AbstractEnergy, as_energy, check_energy, unconstrained
from ..kernels import AbstractKernel, as_sampler, check_exact, default_kernel
from ..sampling import SiteDraws
from ._draws import draw_at, map_arrays, map_draws, num_draws


class PredictiveLogLikelihood(eqx.Module):
    r"""$\log p(x^* \mid x)$ of each held-out datum, averaged over the posterior.

    - **values**: one per datum.
    - **mc_error**: of each, from how blocks of consecutive posterior draws differ.
    - **total_mc_error**: of the sum of all values; they share the draws.
    - **log_z_error**: the standard error of $\log Z$, common to all of them.
    """

    values: Float[Array, " n"]
    mc_error: Float[Array, " n"]
    total_mc_error: Scalar
    log_z_error: Scalar

    @property
    def mean(self) -> Scalar:
        return self.values.mean()

    @property
    def std_error(self) -> Scalar:
        """Of the mean: the spread of the data, the posterior draws, and log Z."""
        n = len(self.values)
        spread = self.values.std(ddof=1) / jnp.sqrt(n) if n > 1 else jnp.inf
        return jnp.sqrt(spread**2 + (self.total_mc_error / n) ** 2 + self.log_z_error**2)

    def __repr__(self) -> str:
        n = len(self.values)
        return (
            f"posterior predictive log-likelihood {float(self.mean):.4f} +- "
            f"{float(self.std_error):.2g} per point ({n} points; posterior draws contribute "
            f"{float(self.total_mc_error) / n:.2g}, log Z {float(self.log_z_error):.2g})"
        )


def predictive_log_likelihood(
    family: Callable[[Any], Any], theta: PyTree, data: ArrayLike
) -> PredictiveLogLikelihood:
    r"""$\log\frac1M\sum_m e^{-E_{\theta_m}(x^*)}/Z(\theta_m)$ of held-out data.

    The constant is inside of the average: the mean of $e^{-E_\theta(x)}$ alone is not a
    density, and prefers parameters with a large $Z$. Shown by
    `tests/posteriors/test_predictive.py` against a Student-t.

    ```python
    ebm.posteriors.predictive_log_likelihood(
        surrogate, mcmc.get_samples()["theta"], held_out
    )
    ```

    **Arguments**

    - `family`: a function from one $\theta$ to an energy that knows its `log_z`, such as a
      surrogate, or `lambda theta: ebm.normalized_by(...)`.
    - `theta`: draws from the posterior, in the order of their chains, stacked along the first
      axis; energies themselves, if weights are uncertain, such as those of
      [`EnergyDraws`][numpyro_ebm.posteriors.EnergyDraws].
    - `data`: held-out points along the first axis.

    **Raises** `ValueError` if the energies do not know their `log_z`, or a value is NaN.
    """
    points = as_data(data)
    size = num_draws(theta)
    energy = as_energy(family(draw_at(theta, 0)))
    if energy.log_z is None:
        raise ValueError(
            f"`family` must give energies that know their `log_z`, got {energy!r}: pass a "
            "surrogate, or `lambda theta: ebm.normalized_by(energy(theta), method)`."
        )
    check_energy(energy, points.shape[1:])
    log_densities, errors = _log_densities(family, theta, points)
    if np.isnan(log_densities).any():
        raise ValueError("The log-density of `data` is NaN for some of the draws `theta`.")
    values = logsumexp(log_densities, axis=0) - jnp.log(size)
    blocks = min(_BLOCKS, size)
    ratios = jnp.exp(log_densities - jnp.where(jnp.isfinite(values), values, 0))
    means = jnp.stack([block.mean(0) for block in jnp.array_split(ratios, blocks)])
    scale = jnp.sqrt(blocks) if blocks > 1 else 0.0
    return PredictiveLogLikelihood(
        values,
        means.std(0, ddof=1) / scale,
        means.sum(1).std(ddof=1) / scale,
        errors.mean(),
    )


#: Blocks of consecutive draws, taken as independent.
_BLOCKS = 20


@eqx.filter_jit
def _log_densities(
    family: Any, theta: PyTree, points: Float[Array, "n *event"]
) -> tuple[Float[Array, "m n"], Float[Array, " m"]]:
    def one(theta: PyTree) -> tuple[Array, Array]:
        energy = as_energy(family(theta))
        known = energy.partition
        assert known is not None
        return -jax.vmap(energy)(points) - known.estimate, known.std_error

    return map_draws(one, theta)


def predictive_draws(
    rng_key: Key,
    family: Callable[[Any], Any],
    theta: PyTree,
    num_data: int,
    *,
    kernel: AbstractKernel | None = None,
    num_steps: int = 1000,
) -> Float[Array, "draw n *event"]:
    r"""Replicated data sets: `num_data` points from the energy at each posterior draw.

    Exact if the energy has a `sampler`; else each point is the end of its own chain, as those
    of [`EnergyDistribution`][numpyro_ebm.EnergyDistribution], with which NumPyro's `Predictive`
    does the same for a model whose data are a site. Use it for energies of spins, and pass the
    result to [`predictive_check`][numpyro_ebm.diagnostics.predictive_check].

    **Arguments**

    - `family`: a function from one $\theta$ to an energy.
    - `theta`: draws from the posterior, stacked along the first axis.
    - `num_data`: points of each data set.
    - `kernel`: by default [`HMC`][numpyro_ebm.HMC], or Gibbs sampling if points are discrete.
    - `num_steps`: the length of each chain, of which the first half adapts.

    Warns if chains got stuck or are not finite.
    """
    check_key(rng_key)
    check_count("num_data", num_data)
    check_count("num_steps", num_steps)
    theta = map_arrays(jnp.asarray, theta)
    energy = as_energy(family(draw_at(theta, 0)))
    if energy.event_shape is None:
        raise ValueError("`family` must give energies that know their `event_shape`.")
    kernel = default_kernel(energy) if kernel is None else kernel
    check_exact(kernel)
    as_sampler(kernel).move.check(energy)
    keys = jr.split(rng_key, num_draws(theta))
    values, accept_prob = _draw(family, kernel, keys, theta, num_data, num_steps)
    draws = SiteDraws(values, accept_prob, 0 if energy.sampler is not None else num_steps)
    if not draws.ok:
        warnings.warn(f"`predictive_draws`: {draws}.", stacklevel=user_level())
    return values


@eqx.filter_jit
def _draw(
    family: Any, kernel: AbstractKernel, keys: Key, theta: PyTree, num_data: int, num_steps: int
) -> tuple[Array, Array]:
    def one(each: tuple[Key, PyTree]) -> tuple[Array, Array]:
        rng_key, theta = each
        energy = as_energy(family(theta))
        if energy.sampler is not None:
            return energy.sampler(rng_key, (num_data,)), jnp.ones(num_data)
        return _ends(rng_key, energy, kernel, num_data, num_steps)

    return map_draws(one, (keys, theta))


def _ends(
    rng_key: Key, energy: AbstractEnergy, kernel: AbstractKernel, num_data: int, num_steps: int
) -> tuple[Array, Array]:
    start_key, chain_key = jr.split(rng_key)
    free, transform = unconstrained(kernel.as_target(energy))
    sampler = as_sampler(kernel)
    shape = free.event_shape
    assert shape is not None
    starts = jax.vmap(lambda key: sampler.move.draw_start(key, free, shape))(
        jr.split(start_key, num_data)
    )
    end = run_alone(jr.split(chain_key, num_data), sampler, free, starts, num_steps)
    values = end.z[:, 0]
    if transform is not None:
        values = jnp.asarray(jax.vmap(transform)(values))
    return values, end.accept_prob[:, 0]
