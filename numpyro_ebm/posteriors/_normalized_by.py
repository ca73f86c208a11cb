r"""Exact constants inside a model: $\log Z(\theta)$ by quadrature or enumeration."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .._guard import any_point
from .._types import EnergyLike, Point, PyTree, Scalar, Shape
from ..energies import (
    AbstractEnergy,
    ConditionalEnergy,
    LogZ,
    Normalized,
    as_energy,
    check_energy,
    is_discrete,
)
from ..normalizers import AbstractExactMethod, Enumeration, Quadrature, quadrature_at


def normalized_by(
    energy: EnergyLike,
    method: AbstractExactMethod | None = None,
    *,
    event_shape: Shape | None = None,
) -> Normalized:
    r"""`energy` with its exact constant, which follows its parameters inside a model.

    ```python
    box = ebm.Quadrature(-6.0, 6.0)


    def model(x):
        a = numpyro.sample("a", dist.LogNormal(0, 1))
        energy = ebm.normalized_by(lambda x: a * x**4 / 4, box, event_shape=())
        with numpyro.plate("data", len(x)):
            numpyro.sample("x", ebm.EnergyDistribution(energy), obs=x)
    ```

    Like [`normalize`][numpyro_ebm.normalize], but a function of parameters that are traced: the
    constant is differentiable, so plain NUTS or SVI infers them, and the guard accepts it.
    Exact up to the box and its nodes, whose error is the `std_error` of the result. For an
    energy per datum, make all of them under `eqx.filter_vmap`. Shown by
    `tests/posteriors/test_normalized_by.py`.

    **Arguments**

    - `energy`: what [`as_energy`][numpyro_ebm.as_energy] takes.
    - `method`: [`Quadrature(low, high)`][numpyro_ebm.Quadrature] in one to three dimensions,
      [`Enumeration()`][numpyro_ebm.Enumeration] of up to 20 spins. By default the energy's own
      `log_z`, or enumeration. The box has to hold the density at all parameters in question:
      [`quadrature_for`][numpyro_ebm.posteriors.quadrature_for] finds one.
    - `event_shape`: the shape of one point, if the energy does not know it.

    **Raises** `ValueError` if there is no exact method, or if a box would have to be searched
    for while parameters are traced.
    """
    if method is not None and not isinstance(method, AbstractExactMethod):
        raise TypeError(
            "`method` must be exact, such as `ebm.Quadrature(low, high)` or "
            f"`ebm.Enumeration()`, got {type(method).__name__}. Where nothing exact is "
            "feasible, `ebm.surrogate_log_z` learns the constant before inference."
        )
    if event_shape is None and isinstance(method, Quadrature):
        event_shape = as_energy(energy).event_shape
        event_shape = method.low.shape if event_shape is None else event_shape
    energy = as_energy(energy, event_shape)
    known = energy.partition
    if method is None and known is not None:
        return energy if isinstance(energy, Normalized) else Normalized(energy, known)
    method = _default_method(energy) if method is None else method
    if isinstance(method, Quadrature):
        return Normalized(energy, _by_quadrature(method, energy))
    value = method.log_z(energy)
    return Normalized(energy, LogZ(value, 0.0, value, value, method=type(method).__name__))


def _default_method(energy: AbstractEnergy) -> AbstractExactMethod:
    if is_discrete(energy):
        return Enumeration()
    shape = energy.event_shape
    if shape is None:
        raise ValueError(
            "`event_shape` is needed, because this energy doesn't know the shape of one point."
        )
    if isinstance(energy(any_point(shape)), Tracer):
        raise ValueError(
            "`method` is needed inside a model: no box can be searched for while parameters "
            "are traced. Give one, `ebm.normalized_by(energy, ebm.Quadrature(low, high))`, "
            "that holds the density at all parameters in question; "
            "`ebm.posteriors.quadrature_for(family, theta)` finds it from draws of the prior."
        )
    return Quadrature.around(energy)


def _by_quadrature(method: Quadrature, energy: AbstractEnergy) -> LogZ:
    """The constant, and the change from half as many nodes as its error."""
    check_energy(energy, method.low.shape)
    if is_discrete(energy):
        raise ValueError(
            f"`Quadrature` integrates over real points, and {energy!r} is discrete: use "
            "`ebm.Enumeration()`."
        )
    value, coarse = method.log_z(energy), method.with_halved_points().log_z(energy)
    # Its slope would be that of a kink.
    error = jax.lax.stop_gradient(jnp.abs(value - coarse))
    low, high = (tuple(map(float, np.ravel(end))) for end in (method.low, method.high))
    return LogZ(value, error, method="Quadrature", box=(low, high))


def quadrature_for(
    family: Callable[[Any], Any], theta: PyTree, event_shape: Shape | None = None
) -> Quadrature:
    r"""A box that holds the densities of a family at each of many parameters.

    ```python
    prior_draws = jax.random.normal(jax.random.key(0), (100,))
    box = ebm.posteriors.quadrature_for(family, prior_draws)
    ```

    **Arguments**

    - `family`: a function from one `theta` to an energy in one to three dimensions.
    - `theta`: an array or a pytree of arrays, stacked along the first axis, of which up to 32
      are looked at.
    - `event_shape`: the shape of one point, if the energy does not know it.

    **Raises** `ValueError` if a density does not fall off.
    """
    one = jax.tree.map(lambda x: jnp.asarray(x)[0], theta)
    shape = as_energy(family(one), event_shape).event_shape
    if shape is None:
        raise ValueError(
            "`event_shape` is needed, because the energies of this family do not know the "
            "shape of one point."
        )

    def energy(x: Point, theta: PyTree) -> Scalar:
        return as_energy(family(theta), shape)(x)

    return quadrature_at(ConditionalEnergy(energy, event_shape=shape), theta)
