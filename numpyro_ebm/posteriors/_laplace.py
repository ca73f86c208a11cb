"""Laplace's approximation to the posterior of a trained energy."""

import abc
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._checks import check_key, check_positive, user_level
from .._trainable import unfreeze
from .._types import Array, ArrayLike, Float, Key, Scalar
from ..objectives import AbstractObjective
from ._losses import Loss, check_objective, loss_of
from ._weights import AbstractEnergyPosterior, check_trains, flattened


class AbstractCurvature(eqx.Module):
    """What of the Hessian of a loss is kept."""

    @abc.abstractmethod
    def root(
        self, loss: Callable[[Array], Scalar], z: Float[Array, " p"], prior_precision: Scalar
    ) -> Array:
        """A root of the covariance, dense or its diagonal; negative curvature counts as 0."""


class DiagonalCurvature(AbstractCurvature):
    r"""The diagonal of the Hessian, by one Hessian-vector product per parameter.

    It ignores that weights depend on each other, and so cannot say how sure a network is in
    one direction and unsure in another.
    """

    def root(
        self, loss: Callable[[Array], Scalar], z: Float[Array, " p"], prior_precision: Scalar
    ) -> Array:
        def entry(i: Array) -> Scalar:
            unit = jnp.zeros_like(z).at[i].set(1)
            return jax.jvp(jax.grad(loss), (z,), (unit,))[1][i]

        diagonal = jax.lax.map(entry, jnp.arange(z.size))
        return (prior_precision + jnp.maximum(diagonal, 0)) ** -0.5


class FullCurvature(AbstractCurvature):
    """The whole Hessian: for up to a thousand parameters, such as those of the last layer."""

    def root(
        self, loss: Callable[[Array], Scalar], z: Float[Array, " p"], prior_precision: Scalar
    ) -> Array:
        spectrum, axes = jnp.linalg.eigh(jax.hessian(loss)(z))
        return axes * (prior_precision + jnp.maximum(spectrum, 0)) ** -0.5


class LaplacePosterior(AbstractEnergyPosterior):
    r"""A Gaussian over the trainable numbers of an energy.

    What [`laplace`][numpyro_ebm.posteriors.laplace] returns.

    - **energy**: at its centre.
    - **scale**: a root of the covariance, dense or its diagonal, over the flat parameters.
    """

    energy: Any
    scale: Array

    def sample(self, rng_key: Key, num_draws: int) -> Any:
        """Energies whose arrays have a leading axis, as `eqx.filter_vmap` takes them.

        They do not know their `log_z`, even if `energy` does: each has its own.
        """
        check_key(rng_key)
        return eqx.filter_vmap(self._draw)(jr.split(rng_key, num_draws))

    def _draw(self, rng_key: Key) -> Any:
        flat, rebuild = flattened(self.energy)
        noise = jr.normal(rng_key, flat.shape, flat.dtype)
        moved = self.scale * noise if self.scale.ndim == 1 else self.scale @ noise
        return unfreeze(rebuild(flat + moved))


def laplace(
    objective: AbstractObjective,
    energy: Any,
    data: Any,
    *,
    prior_precision: ArrayLike,
    curvature: AbstractCurvature = DiagonalCurvature(),
    weight: ArrayLike = 1.0,
    rng_key: Key | None = None,
) -> LaplacePosterior:
    r"""$\mathcal N(\hat\theta, (\beta n H + \lambda I)^{-1})$ around a trained energy.

    Approximate: right only as far as the posterior is Gaussian near one mode. With
    [`MaximumLikelihood`][numpyro_ebm.MaximumLikelihood] it approximates the posterior itself,
    with another objective a generalised one, whose spread is that of `weight`. What is frozen
    stays fixed, so freezing all but the last layer, by [`freeze`][numpyro_ebm.freeze], gives a
    last-layer approximation [Daxberger et al. 2021]. For an energy it is nearly exact given the
    other layers, because it is an exponential family there, and too sure, because they are not
    known either. `tests/posteriors/test_networks.py` compares them with the exact posterior of
    a network of 13 weights.

    ```python
    posterior = ebm.posteriors.laplace(
        ebm.ScoreMatching(), energy, data, prior_precision=0.01
    )
    energies = posterior.sample(key, 10)
    ```

    **Arguments**

    - `objective`, `energy`, `data`: what was minimised, and where.
    - `prior_precision`: $\lambda$, of a Gaussian prior with mean zero, which training should
      have included as weight decay.
    - `curvature`: [`DiagonalCurvature`][numpyro_ebm.posteriors.DiagonalCurvature] or
      [`FullCurvature`][numpyro_ebm.posteriors.FullCurvature].
    - `weight`: $\beta$, of [`loss_factor`][numpyro_ebm.loss_factor].
    - `rng_key`: fixes the noise of a random objective.

    **Warns** if the energy is not at a minimum, by more than a standard deviation per
    parameter. **Raises** `ValueError` if the loss is not finite there, or nothing trains.
    """
    check_objective(objective)
    check_positive("prior_precision", prior_precision)
    check_positive("weight", weight)
    flat, rebuild = flattened(energy)
    check_trains(flat)
    precision, beta = (jnp.asarray(x, flat.dtype) for x in (prior_precision, weight))

    def loss(z: Array) -> Scalar:
        found: Loss = loss_of(objective, rebuild(z), data, None, rng_key)
        return beta * found.sizes.sum() * found.mean()

    slope = jax.jit(jax.grad(loss))(flat) + precision * flat
    scale = jax.jit(lambda z: curvature.root(loss, z, precision))(flat)
    if not (np.isfinite(slope).all() and np.isfinite(scale).all()):
        raise ValueError("The loss, or a derivative of it, is not finite at `energy`.")
    offset = scale * slope if scale.ndim == 1 else scale.T @ slope
    distance = float(jnp.sqrt(jnp.mean(offset**2)))
    if distance > 1:
        warnings.warn(
            f"`energy` is not at a minimum of its loss and prior: it lies {distance:.2g} "
            "standard deviations per parameter away. Train longer, with the prior as weight "
            "decay.",
            stacklevel=user_level(),
        )
    return LaplacePosterior(energy, scale)
