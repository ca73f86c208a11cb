r"""The guard: inferring an energy's parameters requires its $\log Z$.

Two checks look for the same mistake. `guard` makes `log_prob` raise if it is differentiated
with respect to parameters whose normaliser is not accounted for, through `jit`, `vmap`, `scan`
and `cond`. `check_normalization` traces what every constant and parameter of a model depends
on, without a gradient.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.custom_derivatives import SymbolicZero
from numpyro import handlers
from numpyro.distributions import MaskedDistribution
from numpyro.ops.provenance import eval_provenance

from ._trainable import unfreeze
from ._types import Array, Point, PyTree, Scalar
from .energies import AbstractEnergy, Mixture, Normalized, Transformed


class UnnormalizedError(ValueError):
    r"""Parameters of an energy are inferred, and its $\log Z$ is not accounted for."""


class Dependence(NamedTuple):
    r"""What $\log Z$ depends on, and the constant that should account for it.

    - **parameters**: arrays that depend only on the parameters of an energy.
    - **log_z**: what is subtracted, or `None` if it is unknown.
    """

    parameters: PyTree
    log_z: Scalar | None


def dependences(energy: Callable[..., Any], *point: Point) -> list[Dependence]:
    """What the constant of `energy` has to account for, and possibly does not.

    `point` is any one point. The energy of a constant depends only on parameters, whether they
    are leaves of the energy or closed over by one of its functions.
    """
    if isinstance(energy, Transformed) and energy.is_onto:  # This keeps the normaliser.
        shape = unfreeze(energy.transform).forward_shape(jnp.shape(point[0]))
        return dependences(energy.energy, any_point(shape))
    if isinstance(energy, Mixture) and energy.log_z is not None:
        return [each for expert in energy.energies for each in dependences(expert, *point)]
    if isinstance(energy, Normalized):
        return [Dependence(energy.energy(*point), energy.log_z)]
    if isinstance(energy, AbstractEnergy) and energy.log_z is not None:
        return []
    return [Dependence(energy(*point), None)]


def any_point(shape: tuple[int, ...]) -> Array:
    """A constant in the interior of most supports."""
    return jnp.full(shape, 0.5, jnp.result_type(float))


def guard(log_z: Scalar, needed: list[Dependence], where: str) -> Scalar:
    """`log_z` unchanged; raises `UnnormalizedError` if what it misses is differentiated."""
    if _is_accounted_for.get():
        return log_z
    for parameters, counted in needed:
        log_z = _guarded(where, log_z, counted, parameters)
    return log_z


#: Whether the caller accounts for unknown normalisers, as an exchange does.
_is_accounted_for: ContextVar[bool] = ContextVar("_is_accounted_for", default=False)


@contextlib.contextmanager
def unguarded() -> Iterator[None]:
    """Switch the guard off, for code that accounts for unknown normalisers in another way."""
    token = _is_accounted_for.set(True)
    try:
        yield
    finally:
        _is_accounted_for.reset(token)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _guarded(where: str, log_z: Scalar, counted: Scalar | None, parameters: PyTree) -> Scalar:
    return log_z


def _guarded_jvp(where: str, primals: tuple, tangents: tuple) -> tuple[Scalar, Any]:
    tangent, counted, parameters = tangents
    if _moves(parameters) and not _moves(counted):
        raise UnnormalizedError(
            f"`{where}` is differentiated with respect to parameters of its energy, but its "
            f"normaliser is unknown, and changes with them.\n{_WAYS_OUT}"
        )
    return primals[0], tangent


_guarded.defjvp(_guarded_jvp, symbolic_zeros=True)


def _moves(tangents: PyTree) -> bool:
    return any(not isinstance(tangent, SymbolicZero) for tangent in jax.tree.leaves(tangents))


def check_normalization(model: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    r"""Raise if a NumPyro model infers parameters of an energy without its $\log Z$.

    The likelihood $x_i \sim e^{-\theta x_i^2/2}/Z(\theta)$, written without $Z(\theta)$, turns
    the posterior Gamma$(a + n/2, b + S/2)$ of $\theta$ into Gamma$(a, b + S/2)$, silently. The
    same happens with a prior on the weights of a network (`random_eqx_module`), a network
    learned inside a model (`eqx_module`), and an energy `.given(z)` with a latent `z`.

    Without computing numbers, it traces which latent sites and which `numpyro.param`s the
    parameters of each energy depend on. The kernels of this library call it when they start;
    call it yourself before SVI or a kernel of another library. A parameter with a substituted
    value is fixed.

    **Arguments**

    - `model`: a NumPyro model.
    - `args`, `kwargs`: its arguments.

    **Raises** [`UnnormalizedError`][numpyro_ebm.UnnormalizedError], which names the sites.
    """
    guilty = guilty_sites(model, args, kwargs)
    if guilty:
        sites = (f"site `{name}`: {list_names(names)}" for name, names in guilty.items())
        raise unnormalized("; ".join(sites))


def check_potential(potential: Callable[[Point], Scalar], position: Point) -> None:
    """Raise if parameters of an energy without its log Z are coordinates of a potential.

    A kernel that uses gradients triggers the guard anyway. For one that uses none, this
    differentiates the potential once, by shapes alone.
    """
    shapes = jax.eval_shape(lambda x: x, position)
    if not all(jnp.issubdtype(x.dtype, jnp.inexact) for x in jax.tree.leaves(shapes)):
        return
    try:
        # Forward mode, which also handles loops of unknown length.
        jax.eval_shape(lambda x: jax.jvp(potential, (x,), (x,)), shapes)
    except UnnormalizedError:
        raise
    except (TypeError, ValueError, NotImplementedError):
        pass  # Without a derivative, the energy cannot be checked.


def unnormalized(where: str) -> UnnormalizedError:
    """The error for parameters that depend on latent sites, which `where` names."""
    return UnnormalizedError(
        "Parameters of an energy are inferred, but its normaliser is unknown, and changes "
        f"with them ({where}).\n{_WAYS_OUT}"
    )


def guilty_sites(model: Callable[..., Any], args: tuple, kwargs: dict) -> dict[str, set[str]]:
    """The sites whose normaliser is not accounted for, and what it depends on."""

    def trace(handler: Any) -> dict[str, Any]:
        seeded = handlers.seed(model, jr.key(0))
        return handlers.trace(handler(seeded)).get_trace(*args, **kwargs)

    def free_values() -> dict[str, Any]:
        sites = trace(lambda fn: _Free(fn, substitute_fn=_start))
        return {name: site["value"] for name, site in sites.items() if _is_free(site)}

    def all_needed(**values: Any) -> dict[str, Any]:
        sites = trace(lambda fn: _Free(fn, data=values))
        found = {name: _needed(site) for name, site in sites.items()}
        return {name: needed for name, needed in found.items() if needed}

    guilty = {}
    for name, needed in eval_provenance(all_needed, **jax.eval_shape(free_values)).items():
        missing = set()
        for parameters, counted in needed:
            missing |= _union(parameters) - _union(counted)
        if missing:
            guilty[name] = missing
    return guilty


class _Free(handlers.substitute):
    """Substitutes only if nothing inside the model has set a value."""

    def process_message(self, msg: Any) -> None:
        if msg["value"] is None:
            super().process_message(msg)


def _start(site: dict[str, Any]) -> Array | None:
    # Only shapes matter, and drawing from an energy takes a long chain.
    if site["type"] != "sample" or site["is_observed"] or site["fn"].support.is_discrete:
        return None
    return jnp.zeros(site["fn"].shape(site["kwargs"]["sample_shape"]))


def _is_free(site: dict[str, Any]) -> bool:
    return site["type"] == "param" or (site["type"] == "sample" and not site["is_observed"])


def _needed(site: dict[str, Any]) -> list[Dependence]:
    if site["type"] != "sample":
        return []
    nodes = jax.tree.leaves(site["fn"], is_leaf=lambda node: _has_energy(node) or _is_off(node))
    return [each for node in nodes if _has_energy(node) for each in node.dependences()]


def _has_energy(node: Any) -> bool:
    return hasattr(node, "dependences")


def _is_off(node: Any) -> bool:
    return isinstance(node, MaskedDistribution) and node._mask is False


def _union(provenance: PyTree) -> set[str]:
    return set().union(*jax.tree.leaves(provenance, is_leaf=lambda x: isinstance(x, frozenset)))


def list_names(names: set[str]) -> str:
    first = sorted(names)[:3]
    rest = len(names) - len(first)
    return ", ".join(f"`{name}`" for name in first) + (f" and {rest} more" if rest else "")


_WAYS_OUT = """\
Left out, the posterior would be wrong, and nothing would show it. Ways out, by their price:
- the constant itself, in place of `energy`: `ebm.normalized_by(energy, ebm.Quadrature(low,
  high))` in up to three dimensions, `ebm.normalized_by(energy)` for up to 20 spins;
- for few parameters, its surrogate: before the run `surrogate =
  ebm.surrogate_log_z(rng_key, family, prior_draws, data=data)`, and in place of `energy`
  `surrogate(theta)`;
- the same model under `MCMC(ebm.Exchange(model), num_warmup=500, num_samples=2000)`;
- no constant at all, generalised Bayes: in place of the site
  `ebm.loss_factor(name, objective, energy, data, weight=weight)`, with the weight of
  `ebm.calibrate_weight`.
Under SVI, `ebm.Normalized(energy, ebm.normalizers.MonteCarloLogZ().log_z(energy))`. Or infer
no parameters of the energy: learn it outside of the model (`ebm.Estimator`) and keep it fixed,
move and scale a fixed one (`dist.TransformedDistribution`), or, if the normaliser is
in fact constant, say so: `constant_z=True`."""
