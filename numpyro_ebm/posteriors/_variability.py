r"""How an estimate varies over repeated data: by a sandwich, a bootstrap, or simulation."""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from .._checks import check_count
from .._types import Array, Float, Key, Scalar
from ..energies import AbstractEnergy
from ..kernels import AbstractKernel, check_exact
from ..objectives import Batch
from ..sampling import sample
from ._losses import Loss
from ._minimum import minimize


class Problem(eqx.Module):
    r"""The mean loss $D(\theta; w)$ of unconstrained parameters and weights of the data."""

    at: Callable[[Array], Loss]
    num_rows: int

    def __call__(self, z: Float[Array, " p"], weights: Float[Array, " n"] | None) -> Scalar:
        return self.at(z).mean(weights)

    def curvature(self, z: Float[Array, " p"]) -> Float[Array, "p p"]:
        r"""$H = \nabla^2 D$."""
        return jax.hessian(lambda z: self(z, None))(z)

    def influences(self, z: Float[Array, " p"]) -> Float[Array, "n p"]:
        r"""$\psi_i = n\,\partial_{w_i}\nabla D$: of one datum on the gradient.

        For a mean over points its gradient, centred; by weights, it is also right for a mean
        over pairs.
        """

        def of_weights(z: Array) -> Array:
            return jax.grad(self, argnums=1)(z, jnp.ones(self.num_rows, z.dtype))

        return self.num_rows * jax.jacfwd(of_weights)(z)


class AbstractVariability(eqx.Module):
    """How the covariance of an estimate over repeated data is found."""

    @abc.abstractmethod
    def covariance(
        self, rng_key: Key, problem: Problem, z: Array, curvature: Array
    ) -> Float[Array, "p p"]:
        """Of the minimiser `z` of the loss, whose `curvature` there is $H$."""


class Godambe(AbstractVariability):
    r"""$H^{-1} J H^{-1}/n$, with $J$ the covariance of the gradients of single data.

    The sandwich [Godambe 1960; Huber 1967]: of independent data, to first order in $1/n$.
    """

    def covariance(
        self, rng_key: Key, problem: Problem, z: Array, curvature: Array
    ) -> Float[Array, "p p"]:
        _check_rows(problem, z)
        influences = jax.jit(problem.influences)(z)
        moves = jnp.linalg.solve(curvature, influences.T) / problem.num_rows
        return moves @ moves.T


class Bootstrap(AbstractVariability):
    r"""The covariance of minimisers with random weights of the data, $n\,$Dirichlet$(1,…,1)$.

    The loss-likelihood bootstrap [Lyddon et al. 2019]: beyond the first order of
    [`Godambe`][numpyro_ebm.posteriors.Godambe], at the price of one minimisation per replicate.

    **Arguments**

    - `num_replicates`: how many; the standard error of the weight is about
      $\sqrt{2/(p\,\text{num\_replicates})}$ of it, for $p$ parameters.
    """

    num_replicates: int = eqx.field(static=True, default=400)

    def __check_init__(self) -> None:
        check_count("num_replicates", self.num_replicates, 10)

    def covariance(
        self, rng_key: Key, problem: Problem, z: Array, curvature: Array
    ) -> Float[Array, "p p"]:
        _check_rows(problem, z)
        size = problem.num_rows

        def replicate(key: Key) -> Array:
            weights = size * jr.dirichlet(key, jnp.ones(size, z.dtype))
            return minimize(lambda z: problem(z, weights), z)

        keys = jr.split(rng_key, self.num_replicates)
        moved = jax.jit(lambda keys: jax.lax.map(replicate, keys))(keys)
        return jnp.atleast_2d(jnp.cov(moved.T))


class Simulated(AbstractVariability):
    r"""$H^{-1} J H^{-1}/n$, with $J$ from data that the energy itself generates at the minimum.

    For a single graph, lattice or image, of which there are no rows to compare
    [Bouranis et al. 2017]. Unlike the other methods, it assumes that the energy is right. It
    costs one run of chains, whose last states are the data.

    ```python
    method = ebm.posteriors.Simulated(ebm.kernels.TieNoTie(), num_steps=2000)
    ```

    **Arguments**

    - `kernel`: the chains' kernel; without one, the energy must have an exact sampler.
    - `num_draws`: how many chains, of one draw each. The standard error of the weight is about
      $\sqrt{2/(p\,\text{num\_draws})}$ of it.
    - `num_steps`: transitions of each chain, which starts at a row of the data.
    """

    kernel: AbstractKernel | None = eqx.field(static=True, default=None)
    num_draws: int = eqx.field(static=True, default=1000, kw_only=True)
    num_steps: int = eqx.field(static=True, default=1000, kw_only=True)

    def __check_init__(self) -> None:
        check_count("num_draws", self.num_draws, 10)
        check_count("num_steps", self.num_steps)
        if self.kernel is not None:
            check_exact(self.kernel)

    def covariance(
        self, rng_key: Key, problem: Problem, z: Array, curvature: Array
    ) -> Float[Array, "p p"]:
        loss = problem.at(z)
        draws = self._draw(rng_key, loss)

        def slope(x: Array) -> Array:
            return jax.grad(lambda z: _of_one(problem.at(z), x).mean())(z)

        slopes = jax.jit(lambda draws: jax.lax.map(slope, draws))(draws)
        moves = jnp.linalg.solve(curvature, (slopes - slopes.mean(0)).T)
        share = (loss.sizes**2).sum() / loss.sizes.sum() ** 2
        return moves @ moves.T / len(draws) * share

    def _draw(self, rng_key: Key, loss: Loss) -> Array:
        if not isinstance(loss.trainable, AbstractEnergy):
            raise TypeError(
                "`Simulated` needs data of one energy, without conditions or a learned "
                "constant: use `ebm.posteriors.Godambe()`."
            )
        if self.kernel is None:
            return loss.trainable.sample(rng_key, (self.num_draws,))
        chosen = jnp.arange(self.num_draws) % len(loss.batch)
        draws = sample(
            rng_key,
            loss.trainable,
            self.kernel,
            num_chains=self.num_draws,
            num_warmup=self.num_steps,
            num_samples=1,
            init_params=loss.batch.points[chosen],
            progress_bar=False,
        )
        return jnp.asarray(draws.values)[:, -1]


def _of_one(loss: Loss, x: Array) -> Loss:
    """The same loss, of one point."""
    data = Batch(x[None]), jnp.ones(1, loss.sizes.dtype)
    return eqx.tree_at(lambda loss: (loss.batch, loss.sizes), loss, data)


def _check_rows(problem: Problem, z: Array) -> None:
    if problem.num_rows <= z.size:
        raise ValueError(
            f"{problem.num_rows} rows of data cannot show the variability of {z.size} "
            "parameters: a calibration needs more rows than parameters, or "
            "`method=ebm.posteriors.Simulated(kernel)`."
        )
