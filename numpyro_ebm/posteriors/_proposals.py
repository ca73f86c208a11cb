"""How parameters are proposed: a random walk, or one with a drift."""

import abc
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from .._guard import unguarded
from .._types import Array, Float, Point
from ._unknown import UnknownConstants


class AbstractProposal(eqx.Module):
    r"""$\theta' = \theta + \sigma L(\epsilon + b)$, with $LL^\top = M^{-1}$ and a drift $b$."""

    @property
    @abc.abstractmethod
    def num_carried(self) -> int:
        """How many sets of auxiliary data the state carries for the drift."""

    @abc.abstractmethod
    def target(self, size: int) -> float:
        """The acceptance probability to tune for, in `size` dimensions."""

    @abc.abstractmethod
    def best_step(self, size: int) -> float:
        """The step for a Gaussian posterior of the learnt covariance."""

    @abc.abstractmethod
    def drift(
        self,
        position: Point,
        carried: dict[str, Array] | None,
        energy: UnknownConstants,
        root: Float[Array, "d d"],
    ) -> Float[Array, " d"]:
        """$b$ at `position`, for a step of size `root`."""


class RandomWalkProposal(AbstractProposal):
    r"""$\theta' = \theta + \sigma L\epsilon$ in unconstrained space: no drift."""

    @property
    def num_carried(self) -> int:
        return 0

    def target(self, size: int) -> float:
        # Between the optima in one and in many dimensions [Roberts and Rosenthal 2001].
        return 0.234 + 0.206 / size

    def best_step(self, size: int) -> float:
        return 2.38 / math.sqrt(size)

    def drift(self, position: Point, carried: Any, energy: Any, root: Array) -> Array:
        return jnp.zeros(len(root), root.dtype)


class LangevinProposal(AbstractProposal):
    r"""A Langevin step, with a gradient estimated by one set of auxiliary data.

    $g(\theta, u) = \nabla_\theta[\log p(\theta) + \log f(x \mid \theta) - \log f(u \mid
    \theta)]$ has the gradient of the log-posterior as its mean if $u \sim f(\cdot \mid
    \theta)/Z(\theta)$. The state of the chain is $(\theta, u)$, with the target
    $p(\theta \mid x)\,f(u \mid \theta)/Z(\theta)$. A transition proposes $\theta'$ from
    $(\theta, u)$, then draws $u'$ and $w$ at $\theta'$, and accepts $(\theta', u')$ with

    $$\min\left(1, \frac{p(\theta')\,f(x \mid \theta')}{p(\theta)\,f(x \mid \theta)}
    \frac{f(w \mid \theta)}{f(w \mid \theta')}
    \frac{q(\theta \mid \theta', u')}{q(\theta' \mid \theta, u)}\right).$$

    The densities of $u$ and $u'$ cancel with those of the proposals, and $w$ stands in for
    $Z(\theta)/Z(\theta')$. Exact if $u'$ and $w$ are exact draws; a gradient estimated anew at
    both ends would not be. It costs two sets of auxiliary data per transition.

    The estimate is as noisy as the exchange itself, so the drift helps a chain that is far from
    the posterior more than one that has arrived.

    - `max_drift`: the largest length of the drift, in units of the noise of one coordinate, as
      in the truncated algorithm of Roberts and Tweedie [1996].
    """

    max_drift: float = 2.0

    @property
    def num_carried(self) -> int:
        return 1

    def target(self, size: int) -> float:
        return 0.4

    def best_step(self, size: int) -> float:
        return 1.65 / size ** (1 / 6)

    def drift(
        self,
        position: Point,
        carried: dict[str, Array] | None,
        energy: UnknownConstants,
        root: Float[Array, "d d"],
    ) -> Float[Array, " d"]:
        def estimate(position: Point) -> Array:
            sites = energy.likelihoods(position)
            terms = [sites[name].log_density(u) for name, u in (carried or {}).items()]
            return -energy(position) - sum(term.sum() for term in terms)

        with unguarded():
            gradient, _ = ravel_pytree(jax.grad(estimate)(position))
        drift = 0.5 * root.T @ gradient
        length = jnp.linalg.norm(drift)
        return drift * jnp.minimum(1, self.max_drift / jnp.maximum(length, _TINY))


_TINY = 1e-30
