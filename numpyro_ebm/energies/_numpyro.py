"""NumPyro models as energies, and energies on the sites of a model."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.infer import init_to_uniform
from numpyro.infer.util import (
    constrain_fn,
    initialize_model,
    potential_energy,
    unconstrain_fn,
)

from .._checks import check_key
from .._trainable import Frozen, freeze, unfreeze
from .._types import Array, EnergyLike, Key, Scalar
from ._base import AbstractEnergy, as_energy
from ._formula import name_of, show_term
from ._supports import bijection, is_real
from ._transformed import Transformed


class ModelEnergy(AbstractEnergy):
    r"""$-\log p(\theta, y) - \log\lvert T'\rvert$, the potential of a NumPyro model.

    Its point is the dict of the model's unconstrained latent sites, as for NumPyro's HMC: a
    model is an expert like any other, and `MCMC(ebm.NUTS(potential_fn=energy), ...)` samples
    it. The arguments of the model are data; they don't train.

    **Arguments**

    - `model`: a NumPyro model without discrete latent sites. Any subsample is drawn once and
      then fixed.
    - `args`, `kwargs`: the arguments of the model.
    """

    model: Callable[..., Any] = eqx.field(static=True)
    arguments: Frozen | tuple[tuple, dict]
    sites: tuple[tuple[str, bool], ...] = eqx.field(static=True)

    def __init__(self, model: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self.model = model
        self.arguments = freeze((args, kwargs))
        self.sites = _latent_sites(model, args, kwargs)

    @property
    def event_shape(self) -> None:
        """None: a dict has no single shape."""

    def init(
        self, rng_key: Key, init_strategy: Callable[..., Any] = init_to_uniform
    ) -> dict[str, Array]:
        """A start for a chain, found by NumPyro's method."""
        check_key(rng_key)
        args, kwargs = unfreeze(self.arguments)
        info = initialize_model(
            rng_key,
            self.model,
            init_strategy=init_strategy,
            model_args=args,
            model_kwargs=kwargs,
        )
        return info.param_info.z

    def constrain(self, z: dict[str, Array]) -> dict[str, Array]:
        """The latent and deterministic sites of the model at unconstrained `z`."""
        args, kwargs = unfreeze(self.arguments)
        return constrain_fn(self._seeded, args, kwargs, self._own(z), return_deterministic=True)

    def unconstrain(self, sites: dict[str, Array]) -> dict[str, Array]:
        """The inverse of `constrain`, for latent sites."""
        args, kwargs = unfreeze(self.arguments)
        return unconstrain_fn(self._seeded, args, kwargs, self._own(sites))

    def __call__(self, x: dict[str, Array]) -> Scalar:
        args, kwargs = unfreeze(self.arguments)
        return jnp.asarray(potential_energy(self._seeded, args, kwargs, self._own(x)))

    @property
    def _seeded(self) -> Callable[..., Any]:
        return handlers.seed(self.model, jr.key(0))

    def _own(self, values: dict[str, Array]) -> dict[str, Array]:
        # A missing site would be drawn from its prior.
        missing = [name for name, _ in self.sites if name not in values]
        if missing:
            raise ValueError(
                f"A point of this energy is a dict of the model's latent sites; `{missing[0]}` "
                f"is missing among {sorted(values)}."
            )
        return {name: values[name] for name, _ in self.sites}

    def _formula(self) -> str:
        return f"-log p[{name_of(self.model)}]"


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
    sites: tuple[tuple[str, bool], ...] = eqx.field(static=True)

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
        self.sites = () if model is not None else ((site, free),)

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


def _latent_sites(model: Any, args: tuple, kwargs: dict) -> tuple[tuple[str, bool], ...]:
    """Names of the latent sites, and whether each is unconstrained to begin with."""
    found = {}

    def look() -> None:
        seeded = handlers.seed(model, jr.key(0))
        start = handlers.substitute(seeded, substitute_fn=init_to_uniform)
        for name, site in handlers.trace(start).get_trace(*args, **kwargs).items():
            if site["type"] == "sample" and not site["is_observed"]:
                if site["fn"].support.is_discrete:
                    raise ValueError(
                        f"Site `{name}` is discrete: only continuous latent sites have a "
                        "potential. Sum it out, or sample it by one of NumPyro's Gibbs kernels."
                    )
                found[name] = is_real(site["fn"].support)

    jax.eval_shape(look)
    return tuple(found.items())
