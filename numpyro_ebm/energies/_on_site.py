"""Energies on one of the sites of a NumPyro model."""

import equinox as eqx
from numpyro.distributions import constraints

from .._types import Array, EnergyLike, Scalar
from ._base import AbstractEnergy, as_energy
from ._formula import show_term
from ._model import ModelEnergy
from ._model_sites import Site
from ._supports import bijection, is_real
from ._transformed import Transformed


class OnSite(AbstractEnergy):
    r"""An energy of one site, lifted to the dict of all unconstrained sites.

    With `model`, it is an expert on a site of that model: $E(x)$ with the constrained $x$, so
    `model + OnSite(energy, "x", model)` equals what `numpyro.factor("expert", -energy(x))`
    inside the model would give. The Jacobian of the site is the model's, and counts once.

    Without `model`, $e^{-E}$ is the density of a separate site on `support`:
    $E(T(z)) - \log\lvert T'(z)\rvert$, which a site `EnergyDistribution(energy,
    support=support)` adds to the potential.

    **Arguments**

    - `energy`: anything [`as_energy`][numpyro_ebm.as_energy] takes.
    - `site`: the name of the site.
    - `model`: the [`ModelEnergy`][numpyro_ebm.ModelEnergy] that has the site.
    - `support`: the support of a separate site, by default the energy's.
    """

    energy: AbstractEnergy
    model: ModelEnergy | None
    site: str = eqx.field(static=True)
    sites: tuple[Site, ...] = eqx.field(static=True)

    def __init__(
        self,
        energy: EnergyLike,
        site: str,
        model: ModelEnergy | None = None,
        *,
        support: constraints.Constraint | None = None,
    ) -> None:
        energy = as_energy(energy)
        if model is not None and support is not None:
            raise ValueError(f"`support` is the model's for its site `{site}`; leave it out.")
        if model is not None and not isinstance(model, ModelEnergy):
            raise TypeError(f"`model` must be a `ModelEnergy`, got {type(model).__name__}.")
        if support is None:
            support = constraints.real if model is not None else energy.support
        free = is_real(support)
        self.energy = energy if free else Transformed(energy, bijection(support), is_onto=True)
        self.model = model
        self.site = site
        self.sites = () if model is not None else (Site(site, free, self.energy.event_shape),)

    @property
    def event_shape(self) -> None:
        """None: a dict has no single shape."""

    def __call__(self, x: dict[str, Array]) -> Scalar:
        values = x if self.model is None else self.model.constrain(x)
        if self.site not in values:
            raise ValueError(f"There is no site `{self.site}` among {sorted(values)}.")
        return self.energy(values[self.site])

    def _formula(self) -> str:
        return f"{show_term(repr(self.energy))}[{self.site}]"
