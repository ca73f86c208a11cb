"""Whether draws follow an energy: kernel Stein discrepancy."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._calculus import score
from .._checks import check_count, check_key
from .._radial import (
    AbstractRadialKernel,
    InverseMultiquadric,
    at_scale,
    kernel_products,
    stein_kernel,
)
from .._types import Array, Energy, EnergyLike, Float, Key, PyTree, Scalar, Shape
from ..energies import AbstractEnergy, is_discrete, is_real
from ._correlation import decorrelation_time, markov_signs, spread, thin
from ._points import as_energy_and_chains


class SteinTest(eqx.Module):
    r"""The result of `kernel_stein_discrepancy`; prints itself.

    - **statistic**: the U-statistic of $\mathrm{KSD}^2$: unbiased for independent draws, and
      below zero half of the time if they fit.
    - **v_statistic**: the V-statistic, which counts each draw with itself; never negative.
    - **std_error**: of `statistic` if draws do not fit; if they do, its errors are not normal.
    - **p_value**: the probability of a discrepancy at least this large if draws follow the
      energy.
    - **length_scale**: of the Stein kernel. Compare discrepancies only at the same one.
    - **num_points**: how many draws were used.
    - **thinning**: the spacing of the draws used in a chain.
    """

    statistic: float
    v_statistic: float
    std_error: float
    p_value: float
    length_scale: float
    num_points: int
    thinning: int

    @property
    def ok(self) -> bool:
        """Whether no misfit is detected at level 0.05."""
        return self.p_value > 0.05

    def __repr__(self) -> str:
        verdict = "no misfit seen" if self.ok else "draws do NOT follow the energy"
        every = f", every {self.thinning} of a chain" if self.thinning > 1 else ""
        return (
            f"{verdict}: KSD^2 = {self.statistic:.3g} at length scale {self.length_scale:.3g}, "
            f"p = {self.p_value:.2g} ({self.num_points} draws{every})"
        )


def kernel_stein_discrepancy(
    rng_key: Key,
    energy: EnergyLike,
    draws: Any,
    *,
    kernel: AbstractRadialKernel = InverseMultiquadric(),
    event_shape: Shape | None = None,
    num_bootstrap: int = 1000,
    max_points: int = 2000,
    thinning: int | None = None,
    flip_prob: float = 0.05,
) -> SteinTest:
    r"""$\mathrm{KSD}^2 = \mathbb E\,u(x, x')$: do `draws` follow $p \propto e^{-E}$?

    $$u(x, y) = k\,s(x)^\top s(y) + s(x)^\top\nabla_y k + s(y)^\top\nabla_x k
    + \operatorname{tr}\nabla_x\nabla_y k$$

    has mean zero under $p$ whatever the normaliser [Liu et al. 2016; Chwialkowski et al. 2016].
    It takes one score per draw. The p-value comes from the wild bootstrap: signs are
    independent between chains and flip along a chain with probability `flip_prob`, so they
    outlast the remaining correlation of its draws.

    ```python
    print(
        ebm.diagnostics.kernel_stein_discrepancy(jax.random.key(0), energy, draws)
    )
    ```

    It detects a wrong scale, shape or location, such as the bias from too large a step. It is
    blind to the weights of modes that lie far apart, even if one is missing: the score inside a
    mode does not depend on the others [Wenliang and Kanagawa 2020]. For that, start chains from
    dispersed points and check R-hat. The level and the blind spot are shown by
    `tests/diagnostics/test_stein.py`.

    **Arguments**

    - `energy`: what [`as_energy`][numpyro_ebm.as_energy] takes, on unconstrained points.
    - `draws`: independent points, `(n, *event)`, or chains, `(chain, draw, *event)`, or what
      [`sample`][numpyro_ebm.sample] drew.
    - `kernel`: $k$, an
      [`InverseMultiquadric`][numpyro_ebm.diagnostics.InverseMultiquadric] or a
      [`GaussianKernel`][numpyro_ebm.diagnostics.GaussianKernel].
    - `event_shape`: the shape of one point, if the energy does not know it.
    - `num_bootstrap`: the number of random signs per draw.
    - `max_points`: the most draws to use, evenly spaced; time grows as its square.
    - `thinning`: the spacing of the draws used in a chain; by default such that the
      autocorrelation of the averaged quantity falls below 0.2.
    - `flip_prob`: the probability that a sign flips from one draw to the next.

    **Raises** `ValueError` if draws have another shape, are not finite or have no finite score,
    or if the energy is on discrete or constrained points.
    """
    check_key(rng_key)
    energy, chains = as_energy_and_chains(energy, draws, event_shape)
    _check_real(energy)
    _check_options(num_bootstrap, max_points, thinning, flip_prob)
    chains, every = spread(chains, thinning or 1, max_points)
    scores = _scores(energy, chains)
    num_bad = int((~np.isfinite(np.asarray(scores))).any(-1).sum())
    if num_bad:
        raise ValueError(f"The score is not finite at {num_bad} of `draws`: leave them out.")
    chains = chains.reshape(scores.shape)
    chains -= chains.mean((0, 1))  # Centring reduces rounding errors.
    kernel = at_scale(kernel, chains.reshape(-1, chains.shape[-1]))
    pair = eqx.Partial(stein_kernel, kernel)
    if thinning is None and chains.shape[1] > 1:
        more = decorrelation_time(pair, (chains, scores))
        chains, scores = thin(chains, more), thin(scores, more)
        every *= more
    signs = markov_signs(rng_key, chains.shape[:2], num_bootstrap, flip_prob)
    found = _statistics(pair, (chains, scores), signs)
    statistic, v_statistic, std_error, p_value = (float(value) for value in found)
    scale = float(jnp.asarray(kernel.length_scale))
    return SteinTest(statistic, v_statistic, std_error, p_value, scale, len(signs), every)


@eqx.filter_jit
def _statistics(
    pair: Callable[[PyTree, PyTree], Scalar], chains: PyTree, signs: Float[Array, "n num"]
) -> tuple[Scalar, Scalar, Scalar, Scalar]:
    """U- and V-statistic, standard error and p-value."""
    n = len(signs)
    points = jax.tree.map(lambda x: x.reshape(n, -1), chains)
    columns = jnp.column_stack([jnp.ones(n, signs.dtype), signs])
    products = kernel_products(pair, points, columns)
    sums, diagonal = products[:, 0], jax.vmap(pair)(points, points)
    v_statistic = sums.sum() / n**2
    statistic = (sums - diagonal).sum() / (n * (n - 1))
    # Signs square to one, so both include the diagonal: this is the test of the U-statistic.
    wild = (signs * products[:, 1:]).sum(0) / n**2
    p_value = (1 + (wild >= v_statistic).sum()) / (1 + len(wild))
    # Hoeffding's first term; signs emulate the variation of rows of correlated draws.
    deviations = 2 * signs.T @ (sums - sums.mean()) / n**2
    return statistic, v_statistic, jnp.sqrt((deviations**2).mean()), p_value


@eqx.filter_jit
def _scores(energy: Energy, chains: Array) -> Float[Array, "chain draw d"]:
    scores = jax.vmap(jax.vmap(lambda x: score(energy, x)))(chains)
    return scores.reshape(*chains.shape[:2], -1)


def _check_real(energy: AbstractEnergy) -> None:
    if is_discrete(energy) or not is_real(energy.support):
        raise ValueError(
            "`energy` must live on all real points, where Stein's identity holds, got support "
            f"{energy.support}. For a constrained one, test "
            "`ebm.Transformed(energy, biject_to(energy.support))` on unconstrained draws."
        )


def _check_options(
    num_bootstrap: int, max_points: int, thinning: int | None, flip_prob: float
) -> None:
    check_count("num_bootstrap", num_bootstrap)
    if max_points < 2:
        raise ValueError(f"`max_points` must be at least 2, got {max_points}.")
    if thinning is not None and thinning < 1:
        raise ValueError(f"`thinning` must be at least 1, got {thinning}.")
    if not 0 < flip_prob <= 0.5:
        raise ValueError(f"`flip_prob` must lie in (0, 0.5], got {flip_prob}.")
