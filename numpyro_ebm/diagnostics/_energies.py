"""Checks based on energies, of two models and of held-out data."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._calculus import score
from .._checks import as_floats
from .._types import Array, Energy, EnergyLike, Float, Scalar, Shape
from ..energies import energy_named
from ._points import as_energy_and_points


def fisher_divergence(
    energy: EnergyLike,
    draws: Any,
    other_energy: EnergyLike,
    *,
    event_shape: Shape | None = None,
    weights: Float[Array, " n"] | None = None,
) -> Scalar:
    r"""$\tfrac12\,\mathbb E_p\lVert s_p(x) - s_q(x)\rVert^2$, with the ½ of score matching.

    Of $p$, the law of `energy` and `draws`, from $q$, that of `other_energy`: what score
    matching minimises, up to a constant. It needs neither normaliser. Like score matching, it
    is nearly blind to the weights of modes that lie far apart.

    **Arguments**

    - `energy`: what [`as_energy`][numpyro_ebm.as_energy] takes.
    - `draws`: of `energy`, `(n, *event)`, `(chain, draw, *event)`, or of
      [`sample`][numpyro_ebm.sample].
    - `other_energy`: another energy of the same points.
    - `event_shape`: the shape of one point, if `energy` does not know it.
    - `weights`: one per draw, not negative; with quadrature nodes as draws, the result is
      exact.

    **Raises** `ValueError` if draws have another shape or are not finite.
    """
    energy, points = as_energy_and_points(energy, draws, event_shape)
    other = energy_named("other_energy", other_energy)
    if other.event_shape not in (None, points.shape[1:]):
        raise ValueError(
            f"`other_energy` lives on points of shape {other.event_shape}, `energy` on points "
            f"of shape {points.shape[1:]}."
        )
    if weights is not None:
        weights = as_floats(weights)
        if weights.shape != points.shape[:1]:
            raise ValueError(
                f"`weights` must hold one weight per draw, shape {points.shape[:1]}, got shape "
                f"{weights.shape}."
            )
    return _mean_square(energy, other, points, weights)


@eqx.filter_jit
def _mean_square(energy: Energy, other: Energy, points: Array, weights: Array | None) -> Scalar:
    def at(x: Array) -> Scalar:
        return 0.5 * jnp.sum((score(energy, x) - score(other, x)) ** 2)

    return jnp.average(jax.vmap(at)(points), weights=weights)


class EnergyPIT(eqx.Module):
    """The result of `energy_pit`; prints itself.

    - **values**: one per datum, in [0, 1]; uniform if data and draws share a law.
    - **statistic**: the Kolmogorov-Smirnov statistic, the greatest distance between the two
      distribution functions of energies.
    - **p_value**: the probability of a distance at least this large if they share a law.
    """

    values: Float[Array, " n"]
    statistic: float
    p_value: float

    @property
    def ok(self) -> bool:
        """Whether no difference is detected at level 0.05."""
        return self.p_value > 0.05

    def __repr__(self) -> str:
        verdict = "no difference seen" if self.ok else "data and draws DIFFER in energy"
        return (
            f"{verdict}: of a draw and a datum, the datum has the higher energy with "
            f"probability {float(self.values.mean()):.3f}, p = {self.p_value:.2g}"
        )


def energy_pit(
    energy: EnergyLike, data: Any, draws: Any, *, event_shape: Shape | None = None
) -> EnergyPIT:
    r"""$P(E(x') < E(x))$ of each datum $x$, over draws $x'$: uniform if the model is right.

    The probability integral transform of the energy, by ranks. Many values near one are data in
    the tails of a model that is too narrow; many values near zero mean a model that is too
    wide. On training data it is optimistic: use held-out data. The p-value is that of the
    two-sample Kolmogorov-Smirnov test, for independent points: thin chains first. It uses one
    number per point, so it misses errors that leave the energies unchanged.

    **Arguments**

    - `energy`: what [`as_energy`][numpyro_ebm.as_energy] takes.
    - `data`: points, `(n, *event)`.
    - `draws`: of `energy`, `(n, *event)`, `(chain, draw, *event)`, or of
      [`sample`][numpyro_ebm.sample].
    - `event_shape`: the shape of one point, if the energy does not know it.

    **Raises** `ValueError` if points have another shape or are not finite.
    """
    energy, points = as_energy_and_points(energy, data, event_shape, "data")
    _, drawn = as_energy_and_points(energy, draws, points.shape[1:])
    of_data = _energies(energy, points, "data")
    ordered = np.sort(_energies(energy, drawn, "draws"))
    below, up_to = (np.searchsorted(ordered, of_data, side) for side in ("left", "right"))
    values = (below + up_to) / (2 * len(ordered))  # Ties count half.
    statistic = _distance(of_data, ordered)
    size = len(of_data) * len(ordered) / (len(of_data) + len(ordered))
    return EnergyPIT(as_floats(values), statistic, _kolmogorov(statistic, size))


def _energies(energy: Energy, points: Array, name: str) -> np.ndarray:
    energies = np.asarray(_evaluate(energy, points))
    num_bad = int(np.isnan(energies).sum())
    if num_bad:
        raise ValueError(
            f"The energy is NaN at {num_bad} of `{name}`, so they cannot be ranked."
        )
    return energies


@eqx.filter_jit
def _evaluate(energy: Energy, points: Array) -> Float[Array, " n"]:
    return jax.vmap(energy)(points)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """The greatest distance between two empirical distribution functions."""
    at = np.concatenate([a, b])
    below = [np.searchsorted(np.sort(x), at, "right") / len(x) for x in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


def _kolmogorov(distance: float, size: float) -> float:
    r"""$2\sum_k (-1)^{k-1} e^{-2k^2\lambda^2}$, with the small-sample $\lambda$ of Stephens."""
    scaled = (np.sqrt(size) + 0.12 + 0.11 / np.sqrt(size)) * distance
    if scaled < 0.2:  # There the sum is one to twelve digits, and has many terms.
        return 1.0
    k = np.arange(1, 101)
    terms = np.where(k % 2, 2.0, -2.0) * np.exp(-2 * (k * scaled) ** 2)
    return float(np.clip(terms.sum(), 0.0, 1.0))
