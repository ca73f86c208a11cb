"""What the trace of a NumPyro model tells: its sites, and whether its prior is a density."""

import importlib.util
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from numpyro import handlers
from numpyro.distributions import MaskedDistribution, biject_to
from numpyro.infer import init_to_uniform
from numpyro.infer.util import log_density
from numpyro.ops.provenance import eval_provenance
from numpyro.primitives import Messenger

from .._types import Shape
from ._bridges import has_sampler, is_normalized, is_relative, lacks_constant
from ._supports import is_real


class Site(NamedTuple):
    """A continuous latent site.

    - **name**: of the site.
    - **is_free**: whether it is unconstrained to begin with.
    - **shape**: of its unconstrained value; `None` if the energy on it does not know it.
    """

    name: str
    is_free: bool
    shape: Shape | None


class ModelSites(NamedTuple):
    """The sites of a model.

    - **latent**: those that are continuous.
    - **discrete**: names of latent sites that are summed out.
    - **unnormalized**: names of sites that are energies without a normaliser.
    - **relative**: those whose normaliser is known up to a constant only.
    - **num_plates**: how deep plates are nested, which enumeration has to know.
    - **not_evidence**: why its integral is not an evidence, as part of a sentence; empty if it
      is one, at least up to the constants of `unnormalized` sites.
    - **not_drawn**: why its prior cannot be sampled; empty if it can.
    - **fingerprint**: of what the model reads besides its arguments, such as data in a closure:
      a compiled program holds it as constants.
    """

    latent: tuple[Site, ...]
    discrete: tuple[str, ...]
    unnormalized: tuple[str, ...]
    relative: tuple[str, ...]
    num_plates: int
    not_evidence: str
    not_drawn: str
    fingerprint: str = ""


def sites_of(model: Callable[..., Any], args: tuple, kwargs: dict) -> ModelSites:
    """Trace the model, without computing anything.

    **Raises** `ValueError` if a discrete latent site cannot be summed out, or if handlers have
    fixed random choices of the model, and `ImportError` if a package is not installed that
    sums.
    """
    _check_handlers(model)
    found: list[ModelSites] = []
    watch = _WatchKeys(handlers.seed(model, jr.key(0)))

    def look() -> None:
        start = handlers.substitute(watch, substitute_fn=init_to_uniform)
        trace = handlers.trace(start).get_trace(*args, **kwargs)
        found.append(_from_trace(trace))

    jax.eval_shape(look)
    sites = found[0]
    if watch.asked and not sites.not_evidence and _is_random(model, args, kwargs):
        return sites._replace(not_evidence=_HIDDEN)
    return sites


class _WatchKeys(Messenger):
    """Notes whether a model asks for a key of its own."""

    asked: bool = False

    def process_message(self, msg: Any) -> None:
        self.asked |= msg["type"] == "prng_key"


def _is_random(model: Callable[..., Any], args: tuple, kwargs: dict) -> bool:
    """Whether the density depends on a key, though all sites have values."""

    def density(**key: Any) -> Any:
        start = handlers.substitute(
            handlers.seed(model, jr.key(0)), substitute_fn=init_to_uniform
        )
        trace = handlers.trace(start).get_trace(*args, **kwargs)
        values = {
            name: site["value"] for name, site in trace.items() if site["type"] == "sample"
        }
        seeded = handlers.seed(model, jr.wrap_key_data(key["data"]))
        return log_density(seeded, args, kwargs, values)[0]

    return bool(eval_provenance(density, data=jr.key_data(jr.key(0))))


_HIDDEN = (
    "its density depends on numbers drawn with `numpyro.prng_key()`, which belong to no site: "
    "draw them by `numpyro.sample`"
)


def _from_trace(trace: dict[str, Any]) -> ModelSites:
    random = {name: site for name, site in trace.items() if site["type"] == "sample"}
    latent = {name: site for name, site in random.items() if not site["is_observed"]}
    discrete = tuple(n for n, site in latent.items() if site["fn"].support.is_discrete)
    for name in discrete:
        _check_enumerable(name, latent[name])
    depths = [-f.dim for site in random.values() for f in site["cond_indep_stack"]]
    return ModelSites(
        latent=tuple(_site(n, site) for n, site in latent.items() if n not in discrete),
        discrete=discrete,
        unnormalized=tuple(n for n, site in random.items() if lacks_constant(site["fn"])),
        relative=tuple(n for n, site in random.items() if is_relative(site["fn"])),
        num_plates=max(depths, default=0),
        not_evidence=next(
            itertools.chain(_subsamples(trace), _random(trace), _improper(latent)), ""
        ),
        not_drawn=next(_not_drawn(latent), ""),
    )


def _site(name: str, site: dict[str, Any]) -> Site:
    support = site["fn"].support
    free = jnp.shape(biject_to(support).inv(site["value"]))
    return Site(name, is_real(support), free)


def _check_enumerable(name: str, site: dict[str, Any]) -> None:
    distribution = site["fn"]
    plates = {f.dim for f in site["cond_indep_stack"]}
    # The steps of a `scan` come as one batch.
    shape = () if "_control_flow_done" in site else distribution.batch_shape
    sizes = enumerate(reversed(shape), 1)
    if distribution.event_shape or any(n > 1 and -i not in plates for i, n in sizes):
        raise ValueError(
            f"Site `{name}` has several discrete values: to sum over them, draw each in a "
            "`numpyro.plate`."
        )
    if not distribution.has_enumerate_support:
        raise ValueError(
            f"Site `{name}` is discrete, and `{type(distribution).__name__}` has too many "
            "values to sum over: sample it by one of NumPyro's Gibbs kernels."
        )
    if importlib.util.find_spec("funsor") is None:
        raise ImportError(
            f"Site `{name}` is discrete; NumPyro sums over its values, and needs `funsor` for "
            "that: `pip install funsor`."
        )


def _check_handlers(model: Any) -> None:
    """Raise if `model` is wrapped in handlers that its prior and its potential disagree on."""
    while isinstance(model, Messenger):
        if isinstance(model, handlers.seed):
            raise ValueError(
                "`model` is already seeded, so all draws from its prior would be "
                "equal: pass it without `handlers.seed`."
            )
        if isinstance(model, handlers.substitute):
            raise ValueError(
                "`model` is wrapped in `handlers.substitute`, which does not change "
                "its density: use `handlers.condition(model, data)`, or `handlers.do`."
            )
        model = model.fn


def _random(trace: dict[str, Any]) -> Iterator[str]:
    """What is drawn anew each time, and belongs to no site."""
    for name, site in trace.items():
        if site["type"] == "param" and not site["args"]:
            yield f"the value of `numpyro.param` `{name}` is drawn at random: give it a number"


def _subsamples(trace: dict[str, Any]) -> Iterator[str]:
    for name, site in trace.items():
        if site["type"] == "plate" and site["args"][0] != math.prod(site["value"].shape):
            yield (
                f"plate `{name}` draws a subsample, and its likelihood is only an estimate: "
                "give the model all data"
            )


def _improper(latent: dict[str, Any]) -> Iterator[str]:
    """Why the factors of latent sites are not densities, or not those of their draws."""
    for name, site in latent.items():
        fn = site["fn"]
        if isinstance(fn, MaskedDistribution) and fn._mask is not True:
            yield f"the prior of site `{name}` is masked, and has no density there"
        elif not is_normalized(fn) and not lacks_constant(fn):
            yield (
                f"the prior of site `{name}`, `{type(fn).__name__}`, is improper, which leaves "
                "the evidence undefined by a factor: give it a proper distribution, such as a "
                "wide `dist.Normal`"
            )
        elif site["scale"] is not None:
            yield f"the density of site `{name}` is scaled, so it is not that of its draws"


def _not_drawn(latent: dict[str, Any]) -> Iterator[str]:
    for name, site in latent.items():
        what = f"the prior of site `{name}`, `{type(site['fn']).__name__}`,"
        if lacks_constant(site["fn"]):
            yield f"{what} is not normalised"
        elif not has_sampler(site["fn"]):
            yield f"{what} has no exact sampler"
