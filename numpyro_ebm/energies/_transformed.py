"""An energy seen through a transform, and the space in which chains move."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from numpyro.distributions.constraints import Constraint
from numpyro.distributions.transforms import Transform

from .._trainable import Frozen, freeze, unfreeze
from .._types import Array, EnergyLike, Key, Point, Sampler, Scalar, Shape
from ._base import AbstractEnergy, as_energy, proper_part
from ._formula import name_of, show_term
from ._levels import discrete_levels, is_discrete, show_levels
from ._log_z import LogZ
from ._supports import bijection, box_of, elementwise, is_real, is_within, same_support
from ._transforms import codomain_of, domain_of, is_injective, keeps_volume, preimage


class Transformed(AbstractEnergy):
    r"""$E(T(x)) - \log\lvert T'(x)\rvert$, the pull-back of $E$ through a transform $T$.

    If $E$ is the energy of $y = T(x)$, this is the energy of $x$. With `biject_to(support)` it
    is an energy over unconstrained points; with
    [`Standardize`][numpyro_ebm.energies.Standardize], preprocessing becomes part of the energy.
    Its support consists of the points that $T$ maps into the support of $E$. If $T$ reaches all
    of that, $\log Z$ is the same, and exact draws and the reference are mapped along; otherwise
    it is $E$ restricted to what $T$ reaches, and has none of them.

    **Arguments**

    - `energy`: anything [`as_energy`][numpyro_ebm.as_energy] takes, on points $T(x)$.
    - `transform`: a NumPyro transform. It doesn't train.

    **Raises** `ValueError` if it is not known whether $T$ reaches all of the support.
    """

    energy: AbstractEnergy
    transform: Frozen | Transform
    #: Whether the transform is a bijection onto the whole support of the energy.
    is_onto: bool = eqx.field(static=True)

    def __init__(
        self, energy: EnergyLike, transform: Any, *, is_onto: bool | None = None
    ) -> None:
        self.energy = as_energy(energy)
        self.transform = freeze(transform)
        transform = unfreeze(transform)
        if not isinstance(transform, Transform):
            raise TypeError(
                f"`transform` must be a NumPyro transform, got {type(transform).__name__}. "
                "`numpyro.distributions.biject_to(constraint)` makes one."
            )
        if is_discrete(self.energy):
            raise ValueError(
                f"{self.energy!r} is discrete: a transform has no Jacobian there. Transform "
                "the data instead."
            )
        self.is_onto = _is_onto(self.energy, transform) if is_onto is None else is_onto

    @property
    def event_shape(self) -> Shape | None:
        shape = self.energy.event_shape
        return None if shape is None else unfreeze(self.transform).inverse_shape(shape)

    @property
    def support(self) -> Constraint | None:
        transform, base = unfreeze(self.transform), self.energy.support
        is_whole = not self.is_onto or is_within(codomain_of(transform), base)
        return domain_of(transform) if is_whole else preimage(base, transform)

    @property
    def log_z(self) -> Scalar | None:
        return self.energy.log_z if self.is_onto else None

    @property
    def partition(self) -> LogZ | None:
        return self.energy.partition if self.is_onto else None

    @property
    def sampler(self) -> Sampler | None:
        return self._draw if self.is_onto and self.energy.sampler is not None else None

    @property
    def reference(self) -> Any:
        reference = proper_part(self.energy)
        if reference is None or not self.is_onto:
            return None
        # If its support is wider, the transform reaches only part of it.
        supports = elementwise(reference.support), elementwise(self.energy.support)
        if not same_support(*supports):
            return None
        return Transformed(reference, self.transform, is_onto=True)

    @property
    def gibbs_sweep(self) -> Callable[[Key, Array], Array] | None:
        """The sweep of the energy behind a bijection, which leaves this one invariant."""
        sweep = getattr(self.energy, "gibbs_sweep", None) if self.is_onto else None
        if sweep is None:
            return None
        transform = unfreeze(self.transform)
        return lambda rng_key, x: jnp.asarray(transform.inv(sweep(rng_key, transform(x))))

    def __call__(self, x: Point) -> Scalar:
        transform = unfreeze(self.transform)
        y, on_the_way = transform.call_with_intermediates(x)
        log_det = transform.log_abs_det_jacobian(x, y, on_the_way)
        return self.energy(y) - jnp.sum(log_det)

    def push_forward(self, points: Array) -> Array:
        """$T(x)$ of points stacked along any leading axes, such as draws of this energy."""
        return jnp.asarray(unfreeze(self.transform)(points))

    def _draw(self, rng_key: Key, sample_shape: Shape = ()) -> Array:
        draws = self.energy.sample(rng_key, sample_shape)
        return jnp.asarray(unfreeze(self.transform).inv(draws))

    def _formula(self) -> str:
        name = name_of(unfreeze(self.transform))
        return f"{show_term(repr(self.energy))}({name}(x)) - log|{name}'(x)|"


def _is_onto(energy: AbstractEnergy, transform: Transform) -> bool:
    """Whether a transform is one-to-one onto the support of `energy` or more."""
    support, codomain = energy.support, codomain_of(transform)
    if is_within(support, codomain):
        if not is_within(codomain, support):
            _check_dimension(energy, transform)
        return is_injective(transform)
    if support is None or is_within(codomain, support):
        return False
    raise ValueError(
        f"`transform` maps onto {codomain}, and the energy lives on {support}: whether it "
        "reaches all of it, or how much, is not known, at least while bounds are traced. Make "
        "one of both that lies in the other, such as `biject_to(energy.support)`."
    )


def _check_dimension(energy: AbstractEnergy, transform: Transform) -> None:
    """Raise if the Jacobian of all coordinates is not that of the points of the support."""
    if box_of(energy.support) is not None or keeps_volume(transform):
        return
    shape = energy.event_shape
    free = None if shape is None else bijection(energy.support).inverse_shape(shape)
    if shape is None or free is None or math.prod(free) < math.prod(shape):
        raise ValueError(
            f"`transform`, {type(transform).__name__}, maps more coordinates than the points "
            f"of {energy.support} have dimensions: what it does to their density is not known. "
            "Transform unconstrained points, `ebm.Transformed(energy, biject_to(support))`."
        )


def unconstrained(energy: AbstractEnergy) -> tuple[AbstractEnergy, Transform | None]:
    """`energy` in the space in which chains move, and the map from there if it differs."""
    if is_discrete(energy) or is_real(energy.support):
        return energy, None
    transform = bijection(energy.support)
    return Transformed(energy, transform, is_onto=True), transform


def unconstrained_from(
    reference: AbstractEnergy, energy: AbstractEnergy
) -> tuple[AbstractEnergy, AbstractEnergy, Transform | None]:
    r"""A reference and `energy` in the space in which chains move, with the same $Z$.

    **Raises** `ValueError` if they do not live in the same space.
    """
    if discrete_levels(reference) != discrete_levels(energy):
        raise ValueError(
            f"The coordinates of the reference take {show_levels(reference)}, those of the "
            f"energy {show_levels(energy)}: give a reference of the same kind."
        )
    free, transform = unconstrained(energy)
    if transform is None and (is_discrete(energy) or is_real(reference.support)):
        return reference, free, None
    # Events have one shape, however each support counts its dimensions.
    if not same_support(elementwise(energy.support), elementwise(reference.support)):
        raise ValueError(
            f"The reference has the support {reference.support}, the energy "
            f"{energy.support}: give a reference of the same support. "
            "`ebm.EnergyDistribution(energy, event_shape, support=...)` tells the energy's."
        )
    return Transformed(reference, transform, is_onto=True), free, transform
