"""Sites of a model whose constants are unknown, and the model that contains them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.core import Tracer
from numpyro import handlers
from numpyro.distributions import ExpandedDistribution, Independent, MaskedDistribution
from numpyro.infer.initialization import init_to_uniform
from numpyro.infer.util import constrain_fn
from numpyro.ops.provenance import eval_provenance

from .._guard import guilty_sites, list_names, unguarded
from .._types import Array, Bool, Energy, Float, Point, Scalar, Shape
from ..energies import AbstractEnergy, is_discrete, is_real
from ..sites import EnergyDistribution, EnergyFactor, over_points


class Likelihood(NamedTuple):
    r"""$f(x \mid \theta)$ at given parameters: the product of $e^{-E(x_i)}$ over points.

    - **site**: holds the energies.
    - **value**: the points $x$, with leading axes `shape`.
    - **mask**: which of them count.
    """

    site: EnergyDistribution | EnergyFactor
    value: Float[Array, "*shape_and_event"]
    mask: Bool[Array, "..."] | bool
    shape: Shape

    @property
    def event_shape(self) -> Shape:
        return self.value.shape[len(self.shape) :]

    @property
    def num_lead(self) -> int:
        """The number of leading axes of several sets of points."""
        return 1 + len(self.shape)

    @property
    def energy(self) -> AbstractEnergy:
        """Of one point, or in one pytree those of all."""
        assert self.site.energy is not None
        return self.site.energy

    @property
    def has_exact_sampler(self) -> bool:
        if isinstance(self.site, EnergyDistribution):
            return self.site.has_exact_sampler
        return self.energy.sampler is not None

    def log_density(
        self, values: Float[Array, "sets *shape_and_event"]
    ) -> Float[Array, " sets"]:
        r"""$\log f(w \mid \theta)$ of each of several sets of points."""
        terms = over_points(log_density_at, [self.site], values, (len(values), *self.shape))
        return self.sum(terms)

    def sum(self, terms: Float[Array, "sets *shape"]) -> Float[Array, " sets"]:
        """The sum over the points that count."""
        kept = jnp.where(self.mask, terms, 0)
        return kept.reshape(len(terms), -1).sum(1)

    def mean(self, terms: Float[Array, "sets *shape k"]) -> Float[Array, " k"]:
        """The mean over sets and the points that count; NaN if none does."""
        mask = jnp.broadcast_to(self.mask, terms.shape[:-1])[..., None]
        kept = jnp.where(mask, terms, 0).reshape(-1, terms.shape[-1])
        return kept.sum(0) / mask.sum()


def log_density_at(x: Point, at: tuple[AbstractEnergy, Any]) -> Scalar:
    """$-E(x)$, or minus infinity outside the support."""
    energy, support = at
    if is_discrete(energy) or is_real(support):
        return -energy(x)
    inside = jnp.all(support(x))
    # Outside, the energy may be NaN, and so would be the gradient.
    safe = jnp.where(inside, x, support.feasible_like(x))
    return jnp.where(inside, -energy(safe), -jnp.inf)


class UnknownConstants(NamedTuple):
    r"""The potential of a model, up to the $\log Z$ of some of its sites.

    - **potential**: of the unconstrained latent sites, without those constants.
    - **names**: of the sites whose constants are unknown.
    """

    potential: Energy
    model: Callable[..., Any]
    args: tuple
    kwargs: dict[str, Any]
    names: tuple[str, ...]

    def __call__(self, z: Point) -> Scalar:
        with unguarded():
            return self.potential(z)

    def likelihoods(self, z: Point) -> dict[str, Likelihood]:
        """The sites of unknown constant, at the latent values `z`."""
        seeded = handlers.seed(self.model, jr.key(0))
        with unguarded():
            values = constrain_fn(seeded, self.args, self.kwargs, z)
            fixed = handlers.substitute(seeded, data=values)
            trace = handlers.trace(fixed).get_trace(*self.args, **self.kwargs)
        return {name: _likelihood(name, trace[name]) for name in self.names}


def unknown_sites(
    model: Callable[..., Any],
    args: tuple,
    kwargs: dict,
    check: Callable[[Likelihood], Any],
) -> tuple[str, ...]:
    """The sites of `model` whose constant changes with latent sites, and is unknown.

    `check` raises if it cannot draw auxiliary data of one.

    **Raises** `ValueError` if there is none, or one that auxiliary data cannot stand in for.
    """
    guilty = guilty_sites(model, args, kwargs)
    if not guilty:
        raise ValueError(
            "`Exchange` has nothing to exchange: no energy of this model has an unknown "
            "normaliser that changes with latent sites. Use `numpyro.infer.NUTS(model)`."
        )

    def traced(**how: Any) -> dict[str, Any]:
        started = handlers.substitute(handlers.seed(model, jr.key(0)), **how)
        with unguarded():
            return handlers.trace(started).get_trace(*args, **kwargs)

    def look() -> dict[str, Any]:
        trace = traced(substitute_fn=init_to_uniform)
        latent = latent_sites(trace)
        _check_discrete(latent)
        for name, causes in guilty.items():
            _check_causes(name, causes, trace)
            check(_likelihood(name, trace[name]))
        return {name: site["value"] for name, site in latent.items()}

    def fixed(**values: Any) -> dict[str, Any]:
        trace = traced(data=values)
        found = {name: _likelihood(name, trace[name]) for name in guilty}
        masks = {name: jnp.asarray(x.mask) for name, x in found.items()}
        factors = [n for n, x in found.items() if isinstance(x.site, EnergyFactor)]
        return {"value": {name: found[name].value for name in factors}, "mask": masks}

    causes_of = eval_provenance(fixed, **jax.eval_shape(look))
    for name, latent in causes_of["value"].items():
        _check_value(name, latent)
    for name, latent in causes_of["mask"].items():
        _check_mask(name, latent)
    return tuple(guilty)


def latent_sites(trace: dict[str, Any]) -> dict[str, Any]:
    """The sites that a sampler moves, by name."""
    return {
        name: site
        for name, site in trace.items()
        if site["type"] == "sample" and not site["is_observed"]
    }


def _check_value(name: str, latent: set[str] | frozenset[str]) -> None:
    if latent:
        raise ValueError(
            f"The value of factor `{name}` depends on {list_names(set(latent))}, which is "
            "sampled here, so its normaliser depends on the prior of that site, too: make it "
            "one site, `ebm.EnergyDistribution(ebm.Tilted(energy, prior))`."
        )


def _check_mask(name: str, latent: set[str] | frozenset[str]) -> None:
    if latent:
        raise ValueError(
            f"The mask of site `{name}` depends on {list_names(set(latent))}, which is sampled "
            "here, so auxiliary data would count at one value and not at the other: choose the "
            "data that count before the run."
        )


def _check_discrete(latent: dict[str, Any]) -> None:
    discrete = {name for name, site in latent.items() if site["fn"].support.is_discrete}
    if discrete:
        raise ValueError(
            f"`Exchange` moves continuous sites, and {list_names(discrete)} is discrete: give "
            "it to a `numpyro.infer.DiscreteGibbs` block beside this one, in "
            "`numpyro.infer.Gibbs`."
        )


def _check_causes(name: str, causes: set[str], trace: dict[str, Any]) -> None:
    params = {cause for cause in causes if trace[cause]["type"] == "param"}
    if params:
        raise ValueError(
            f"The normaliser of site `{name}` depends on {list_names(params)}, a "
            "`numpyro.param`, which MCMC does not sample: make it a `numpyro.sample` with a "
            "prior, or substitute its value."
        )


def _likelihood(name: str, site: dict[str, Any]) -> Likelihood:
    _check_scale(name, site["scale"])
    base, masks, num_events = _unwrapped(site["fn"])
    value: Any
    if isinstance(base, EnergyFactor) and base.points is not None:
        value, event_shape = base.points, base.points.shape[len(base.batch_shape) :]
    elif isinstance(base, EnergyDistribution):
        value, event_shape = site["value"], base.event_shape
    else:
        raise ValueError(
            f"`Exchange` draws auxiliary data from the energy of a site, and site `{name}`, "
            f"`{type(base).__name__}`, is not an energy of one value: make it an "
            "`ebm.EnergyDistribution`, outside of a `scan`, or an `ebm.factor` of one value. A "
            "transformed one is `ebm.EnergyDistribution(ebm.Transformed(energy, transform))`."
        )
    shape = jnp.shape(value)[: jnp.ndim(value) - len(event_shape)]
    mask: Any = True
    for one, depth in masks:
        # A mask outside of `to_event` has none of its axes.
        mask = mask & jnp.reshape(one, jnp.shape(one) + (1,) * (num_events - depth))
    return Likelihood(base, jnp.asarray(value), mask, shape)


def _unwrapped(fn: Any) -> tuple[Any, list[tuple[Any, int]], int]:
    """The distribution inside, its masks, and how many axes `to_event` has taken."""
    masks, depth = [], 0
    while isinstance(fn, MaskedDistribution | ExpandedDistribution | Independent):
        if isinstance(fn, MaskedDistribution):
            masks.append((fn._mask, depth))
        if isinstance(fn, Independent):
            depth += fn.reinterpreted_batch_ndims
        fn = fn.base_dist
    return fn, masks, depth


def _check_scale(name: str, scale: Any) -> None:
    if scale is None or (not isinstance(scale, Tracer) and np.all(np.asarray(scale) == 1)):
        return
    raise ValueError(
        f"The density of site `{name}` is scaled, by a subsample or `handlers.scale`, and "
        "auxiliary data stand in for the normaliser of whole data only: give the model all "
        "data, without a scale."
    )
