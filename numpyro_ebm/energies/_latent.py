"""Energies with latent variables, and their marginals."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from .._trainable import Frozen, freeze, unfreeze
from .._types import Array, ArrayLike, Point, Scalar, Shape
from ._base import AbstractEnergy
from ._formula import name_of


class LatentEnergy(AbstractEnergy):
    r"""$E(x, z)$ of a point $x$ and a latent $z$.

    Its point is `{"x": x, "z": z}`, so a kernel samples both together:
    `MCMC(ebm.MALA(potential_fn=energy), ...)` with such a dict as `init_params`.

    **Arguments**

    - `fn`: a callable `fn(x, z)` to a scalar.
    - `x_shape`: the shape of one `x`.
    - `is_mixed`: whether `z` is discrete, so no gradient can move it.
    """

    fn: Any
    x_shape: Shape | None = eqx.field(static=True, default=None)
    is_mixed: bool = eqx.field(static=True, default=False, kw_only=True)

    @property
    def levels(self) -> tuple[float, ...] | None:
        return () if self.is_mixed else None

    @property
    def event_shape(self) -> None:
        """None: a dict has no single shape."""

    def __call__(self, x: Point) -> Scalar:
        return unfreeze(self.fn)(x["x"], x["z"])

    def marginal(self, values: ArrayLike, log_weights: ArrayLike = 0.0) -> "Marginal":
        r"""$-\log\sum_k w_k\,e^{-E(x, z_k)}$, the energy of `x` alone.

        Exact if `values` are all the values of a discrete `z`. With the nodes and weights of a
        quadrature rule, it is as accurate as the rule.

        **Arguments**

        - `values`: $z_k$, along the first axis.
        - `log_weights`: $\log w_k$, or one number for all.
        """
        values = jnp.asarray(values)
        log_weights = jnp.asarray(log_weights, jnp.result_type(float))
        if values.ndim == 0 or not values.size:
            raise ValueError(
                "`values` must hold one value of z or more along its first axis, got shape "
                f"{values.shape}."
            )
        if log_weights.shape not in ((), values.shape[:1]):
            raise ValueError(
                f"`log_weights` must hold one number for each of the {len(values)} values, got "
                f"shape {log_weights.shape}."
            )
        return Marginal(self, freeze((values, log_weights)))

    def _formula(self) -> str:
        return f"{name_of(unfreeze(self.fn))}(x, z)"


class Marginal(AbstractEnergy):
    r"""$-\log\sum_k w_k\,e^{-E(x, z_k)}$, returned by `LatentEnergy.marginal`."""

    joint: LatentEnergy
    nodes: Frozen | tuple[Array, Array]

    @property
    def event_shape(self) -> Shape | None:
        return self.joint.x_shape

    def __call__(self, x: Point) -> Scalar:
        values, log_weights = unfreeze(self.nodes)
        energies = eqx.filter_vmap(lambda z: self.joint({"x": x, "z": z}))(values)
        return -logsumexp(log_weights - energies)

    def _formula(self) -> str:
        return f"-log sum_z exp(-{self.joint!r})"
