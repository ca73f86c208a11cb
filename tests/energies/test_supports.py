"""Where energies live: every energy in every view, against quadrature and enumeration."""

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest
from helpers import ENERGIES, assert_means
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.transforms import (
    AffineTransform,
    ExpTransform,
    PermuteTransform,
    SigmoidTransform,
)
from scipy.special import logsumexp

import numpyro_ebm as ebm
from numpyro_ebm.energies import box_of, check_points, is_discrete, is_real
from numpyro_ebm.normalizers._reference import find_reference


class HalfSquare(ebm.AbstractEnergy):
    """Half of a normal, as people write it: without a wall at zero."""

    event_shape: Any = eqx.field(static=True, default=(1,))

    @property
    def support(self):
        return constraints.positive

    def __call__(self, x):
        return 0.5 * jnp.sum(x**2)


class Pair(ebm.AbstractEnergy):
    """Coupled coordinates, each with bounds of its own."""

    event_shape: Any = eqx.field(static=True, default=(2,))

    @property
    def support(self):
        bounds = [constraints.positive, constraints.interval(-1.0, 2.0)]
        return constraints.cat(bounds, dim=-1)

    def __call__(self, x):
        return x[0] + 0.5 * (x[1] - x[0]) ** 2


def event(base, size=2):
    return ebm.as_energy(base.expand([size]).to_event(1))


#: Energies on supports of each kind, beside those of `helpers.py`, which are mostly real.
BOUNDED = {
    "half-square": HalfSquare,
    "pair": Pair,
    "gamma": lambda: event(dist.Gamma(3.0, 2.0), 1),
    "beta": lambda: event(dist.Beta(2.0, 3.0)),
    "uniforms": lambda: ebm.as_energy(
        dist.Uniform(jnp.array([-1.0, 0.1]), jnp.array([1.0, 4.0])).to_event(1)
    ),
    "image of a half-normal": lambda: event(
        dist.TransformedDistribution(dist.HalfNormal(1.0), AffineTransform(3.0, -1.0)), 1
    ),
    "dirichlet": lambda: ebm.as_energy(dist.Dirichlet(jnp.array([2.0, 3.0, 4.0]))),
}


def clamped(energy):
    first = np.arange(energy.event_shape[0]) == 0
    return ebm.clamp(energy, first, jnp.where(first, 0.4, jnp.nan))


#: Each view of an energy.
VIEWS = {
    "itself": lambda energy: energy,
    "affine": lambda energy: ebm.Transformed(energy, AffineTransform(1.0, -2.0)),
    "standardized": lambda energy: ebm.Transformed(energy, ebm.Standardize(2.0, 0.5)),
    "exponential": lambda energy: ebm.Transformed(energy, ExpTransform()),
    "sigmoid": lambda energy: ebm.Transformed(energy, SigmoidTransform()),
    "unconstrained": lambda energy: ebm.Transformed(energy, biject_to(energy.support)),
    "permuted": lambda energy: ebm.Transformed(
        energy, PermuteTransform(jnp.arange(energy.event_shape[0])[::-1])
    ),
    "clamped": clamped,
    "hot": lambda energy: energy / 2,
    "normalized": lambda energy: ebm.normalize(jr.key(0), energy),
    "mixed": lambda energy: ebm.Mixture([ebm.normalize(jr.key(0), energy)] * 2, [1, 3]),
    "frozen": lambda energy: ebm.as_energy(ebm.freeze(energy)),
    "tilted": lambda energy: ebm.Tilted(
        lambda x: jnp.sum(jnp.cos(x)), ebm.normalize(jr.key(0), energy)
    ),
    "sum": lambda energy: energy + energy,
}
TRANSFORMS = {
    "affine",
    "standardized",
    "exponential",
    "sigmoid",
    "unconstrained",
    "permuted",
}
#: Views that do not know what they would be, and say so.
REFUSED = {
    ("clamped", "half-square"): "clamps every coordinate",
    ("clamped", "gamma"): "clamps every coordinate",
    ("clamped", "image of a half-normal"): "clamps every coordinate",
    ("clamped", "dirichlet"): "ties coordinates to each other",
    ("exponential", "uniforms"): "maps onto",
    ("exponential", "image of a half-normal"): "maps onto",
    ("exponential", "pair"): "maps onto",
    ("exponential", "dirichlet"): "maps onto",
    ("sigmoid", "dirichlet"): "maps onto",
    ("affine", "dirichlet"): "more coordinates than",
    ("standardized", "dirichlet"): "more coordinates than",
    ("sigmoid", "uniforms"): "maps onto",
}


def nodes(low, high, num=301):
    """A double exponential rule between bounds that may be infinite."""
    t = np.linspace(-3.4, 3.4, num)
    step, s, c = t[1] - t[0], 0.5 * np.pi * np.sinh(t), 0.5 * np.pi * np.cosh(t)
    if np.isfinite(low) and np.isfinite(high):
        half = 0.5 * (high - low)
        return low + half * (1 + np.tanh(s)), np.log(half * step * c) - 2 * np.log(np.cosh(s))
    if np.isfinite(low):
        return low + np.exp(s), np.log(step * c) + s
    if np.isfinite(high):
        return high - np.exp(s), np.log(step * c) + s
    return np.sinh(s), np.log(step * c * np.cosh(s))


def integrate(energy):
    """`log Z` and the mean, by code that knows nothing but the energy and its bounds."""
    if is_discrete(energy):
        points = ebm.Enumeration().states(energy)
        log_weights = np.zeros(len(points))
    elif box_of(energy.support) is None:
        points, log_weights = simplex_nodes()
    else:
        sides = [
            np.broadcast_to(np.asarray(bound, float), energy.event_shape)
            for bound in box_of(energy.support)
        ]
        rules = [nodes(*pair) for pair in zip(*sides, strict=True)]
        axes, weights = zip(*rules, strict=True)
        points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))
        log_weights = sum(np.meshgrid(*weights, indexing="ij")).reshape(-1)
    values = np.asarray(jax.jit(jax.vmap(energy))(jnp.asarray(points)))
    log_weights = np.where(np.isfinite(values), log_weights - values, -np.inf)
    log_z = logsumexp(log_weights)
    weights = np.exp(log_weights - log_z)
    return log_z, weights @ np.nan_to_num(points, posinf=0, neginf=0)


def simplex_nodes():
    (x, log_w), (s, log_v) = nodes(0.0, 1.0), nodes(0.0, 1.0)
    first, share = (g.ravel() for g in np.meshgrid(x, s, indexing="ij"))
    second = (1 - first) * share
    log_weights = (log_w[:, None] + log_v).ravel() + np.log1p(-np.minimum(first, 1 - 1e-16))
    return np.stack([first, second, 1 - first - second], -1), log_weights


def check(energy):
    """Each fact that an energy claims is true, and its default normaliser finds the rest."""
    log_z, mean = integrate(energy)
    if energy.log_z is not None:
        np.testing.assert_allclose(energy.log_z, log_z, atol=1e-5)
    if energy.mean is not None:
        np.testing.assert_allclose(energy.mean, mean, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of a tail that no grid holds.
        found = ebm.log_partition(jr.key(0), energy)
    if found.ok:
        np.testing.assert_allclose(found.estimate, log_z, atol=1e-5)
    if energy.sampler is not None:
        draws = energy.sample(jr.key(1), (40, 100)).reshape(40, 100, -1)
        assert_means(draws, mean)
        check_points(energy, draws.reshape(-1, *energy.event_shape), "draws")
    reference = find_reference(energy)
    if reference is not None:
        assert not is_real(energy.support) or is_real(reference.support)
        np.testing.assert_allclose(integrate(reference)[0], reference.log_z, atol=1e-6)


#: What has no normaliser, what only claims to have one, and what no grid holds.
UNTRUE = {"FunctionEnergy", "Normalized", "Mixture", "Funnel"}
DISCRETE = {"IsingModel", "BernoulliRBM"}


@pytest.mark.slow
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", [name for name in ENERGIES if name not in UNTRUE])
def test_a_view_of_an_energy_knows_what_is_true(view, name, x64):
    energy = ENERGIES[name]()
    if name in DISCRETE and view in TRANSFORMS:
        with pytest.raises(ValueError, match="is discrete"):
            VIEWS[view](energy)
        return
    check(VIEWS[view](energy))


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", BOUNDED)
def test_a_view_of_a_bounded_energy_knows_what_is_true(view, name, x64):
    energy = BOUNDED[name]()
    if (view, name) in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[view, name]):
            VIEWS[view](energy)
        return
    check(VIEWS[view](energy))
