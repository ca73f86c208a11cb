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
    AbsTransform,
    AffineTransform,
    ComposeTransform,
    ExpTransform,
    PermuteTransform,
    PowerTransform,
    SigmoidTransform,
)
from scipy.special import logsumexp

import numpyro_ebm as ebm
from numpyro_ebm.energies import box_of, check_points, find_reference, is_discrete, is_real
from numpyro_ebm.energies._constraints import Box
from numpyro_ebm.energies._supports import hull, intersection, is_within
from numpyro_ebm.energies._transforms import codomain_of, domain_of


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
    "standardized": lambda energy: ebm.Transformed(energy, ebm.energies.Standardize(2.0, 0.5)),
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
UNTRUE = {"FunctionEnergy", "Bounded", "Normalized", "Mixture", "Funnel"}
DISCRETE = {"IsingModel", "PottsModel", "BernoulliRBM"}


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


def test_what_a_map_reaches_and_where_it_is_defined(x64):
    """NumPyro says of a composition what its last part, by itself, maps onto."""
    shifted = ComposeTransform([ExpTransform(), AffineTransform(1.0, 2.0)])
    assert codomain_of(shifted) == constraints.greater_than(1.0)
    assert domain_of(shifted.inv) == constraints.greater_than(1.0)
    logged = ComposeTransform([AffineTransform(-1.0, 1.0), ExpTransform().inv])
    assert domain_of(logged) == constraints.greater_than(1.0)
    assert is_real(codomain_of(logged))
    assert box_of(codomain_of(ebm.energies.Standardize(1.0, 2.0))) == (-np.inf, np.inf)
    assert box_of(domain_of(ebm.energies.Logit(1.0, 0.25))) == (-0.5, 1.5)


def test_bounds_that_meet(x64):
    unit, half = constraints.unit_interval, constraints.greater_than(0.5)
    assert box_of(intersection([unit, constraints.real, half])) == (0.5, 1.0)
    assert box_of(hull([unit, half])) == (0.0, np.inf)
    assert is_real(hull([unit, constraints.real]))
    assert intersection([constraints.positive, constraints.less_than(-1.0)]) is None
    assert intersection([constraints.positive, constraints.simplex]) is None
    assert is_within(unit, constraints.positive)
    assert not is_within(constraints.positive, unit)


def test_mixed_bounds_have_a_bijection(x64):
    bounds = jnp.array([-jnp.inf, 0.0, -jnp.inf, -1.0]), jnp.array([jnp.inf, jnp.inf, 2.0, 3.0])
    box = Box(*bounds)
    transform = biject_to(box)
    z = jr.normal(jr.key(0), (5, 4))
    x = transform(z)
    assert box(x).all()
    assert not box(jnp.array([0.0, -0.1, 0.0, 0.0]))[1]
    np.testing.assert_allclose(transform.inv(x), z, rtol=1e-9)
    jacobian = jax.vmap(jax.jacfwd(transform))(z)
    truth = np.log(np.abs(np.diagonal(jacobian, axis1=1, axis2=2)))
    np.testing.assert_allclose(transform.log_abs_det_jacobian(z, x), truth, rtol=1e-9)
    assert jax.jit(lambda low: biject_to(Box(low, bounds[1]))(z[0]))(bounds[0]).shape == (4,)


def test_a_constant_survives_a_bijection_onto_the_support_alone(x64):
    """A normal through an exponential loses what lies below zero."""
    energy = ebm.Transformed(ebm.Gaussian(jnp.zeros(1), jnp.eye(1)), ExpTransform())
    assert (energy.log_z, energy.sampler, energy.reference) == (None, None, None)
    assert not energy.is_onto
    folded = ebm.Transformed(ebm.Gaussian(jnp.zeros(1), jnp.eye(1)), AbsTransform())
    assert folded.log_z is None

    def log_prob(loc):
        gaussian = ebm.Gaussian(loc[None], jnp.eye(1))
        site = ebm.EnergyDistribution(ebm.Transformed(gaussian, ExpTransform()))
        return site.log_prob(jnp.ones(1))

    with pytest.raises(ebm.UnnormalizedError, match="its normaliser is unknown"):
        jax.grad(log_prob)(jnp.array(0.0))
    squared = ebm.Transformed(dist.Gamma(2.0), PowerTransform(2.0))
    assert squared.log_z == 0


def test_a_masked_or_degenerate_distribution_has_no_constant():
    for distribution in (dist.Normal(0, 1).mask(False), dist.Delta(jnp.array(0.0))):
        energy = ebm.as_energy(distribution)
        assert (energy.log_z, energy.sampler) == (None, None)
        assert not ebm.EnergyDistribution(energy).is_normalized
    assert ebm.as_energy(dist.Normal(0, 1).mask(True)).log_z == 0


def test_an_error_inside_of_a_fact_is_not_taken_for_ignorance():
    class Broken(ebm.AbstractEnergy):
        event_shape: Any = eqx.field(static=True, default=(1,))

        @property
        def log_z(self):
            return self.misspelt

        def __call__(self, x):
            return 0.5 * jnp.sum(x**2)

    with pytest.raises(AttributeError, match="misspelt"):
        ebm.EnergyDistribution(Broken()).log_prob(jnp.zeros(1))


def test_a_fact_may_be_a_field():
    class Learned(ebm.AbstractEnergy):
        scale: Any
        log_z: Any
        event_shape: Any = eqx.field(static=True, default=(1,))

        def __call__(self, x):
            return 0.5 * jnp.sum((x / self.scale) ** 2)

    assert Learned(jnp.array(1.0), jnp.array(0.9)).log_z == jnp.array(0.9)
    assert ebm.as_energy(lambda x: x).log_z is None


def test_draws_of_an_energy_of_chains_are_not_called_exact():
    inner = ebm.EnergyDistribution(ebm.as_energy(lambda x: 0.5 * jnp.sum(x**2), (1,)))
    energy = ebm.as_energy(inner)
    assert energy.sampler is None
    outer = ebm.EnergyDistribution(energy, num_steps=20)
    assert "end of 20 steps" in repr(outer.draw(jr.key(0), (5,)))
    exact = ebm.as_energy(ebm.EnergyDistribution(ebm.Gaussian(jnp.zeros(1), jnp.eye(1))))
    assert exact.sampler is not None


def test_the_layers_of_a_machine_are_not_moved_by_gradients():
    machine = ebm.energies.GaussianBernoulliRBM(np.ones((2, 1)), np.zeros(2), np.zeros(1))
    assert is_discrete(machine.joint)
    assert not is_discrete(machine)
    with pytest.raises(TypeError, match="moves through real points"):
        ebm.MALA(potential_fn=machine.joint)
    with pytest.raises(ValueError, match="is discrete"):
        ebm.Transformed(ebm.IsingModel((2,), 0.1), AffineTransform(0.0, 2.0))


def test_counts_are_counts():
    counts = ebm.as_energy(dist.Poisson(3.0).expand([2]).to_event(1))
    check_points(counts, np.array([[0.0, 2.0]]), "data")
    for bad in ([[1.5, 2.0]], [[-1.0, 2.0]]):
        with pytest.raises(ValueError, match="must hold points of the support"):
            check_points(counts, np.array(bad), "data")
