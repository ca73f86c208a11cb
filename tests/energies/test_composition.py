"""Laws of composition, against closed forms."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from helpers import ENERGIES, assert_moments, count_traces, quadrature

import numpyro_ebm as ebm

M1, S1 = np.array([0.5, -1.0]), np.array([[1.0, 0.6], [0.6, 2.0]])
M2, S2 = np.array([-0.3, 0.7]), np.array([[0.5, -0.2], [-0.2, 0.8]])


def normalised(mean, covariance):
    return ebm.energies.from_distribution(dist.MultivariateNormal(mean, covariance))


def test_a_product_of_gaussians(x64):
    product = normalised(M1, S1) + normalised(M2, S2)
    p1, p2 = np.linalg.inv(S1), np.linalg.inv(S2)
    precision = p1 + p2
    mean = np.linalg.solve(precision, p1 @ M1 + p2 @ M2)
    np.testing.assert_allclose(jax.hessian(product)(jnp.zeros(2)), precision, atol=1e-10)
    np.testing.assert_allclose(ebm.score(product, mean), jnp.zeros(2), atol=1e-10)
    log_z, quad_mean, variance = quadrature(product, 12, 1201)
    truth = dist.MultivariateNormal(M2, S1 + S2).log_prob(M1)
    np.testing.assert_allclose(log_z, truth, atol=1e-10)
    np.testing.assert_allclose(quad_mean, mean, atol=1e-10)
    np.testing.assert_allclose(variance, np.diag(np.linalg.inv(precision)), atol=1e-10)


def test_temperature_scales_a_covariance(x64):
    tempered = ebm.Gaussian(M1, S1) / 2.5
    _, mean, variance = quadrature(tempered, 20, 1201)
    np.testing.assert_allclose(mean, M1, atol=1e-10)
    np.testing.assert_allclose(variance, 2.5 * np.diag(S1), atol=1e-10)


def test_negation_subtracts_a_precision(x64):
    """N(0, 1) over N(0, 4)^alpha has precision 1 - alpha / 4, and none from alpha = 4 on."""
    narrow, wide = ebm.Gaussian([0.0], [[1.0]]), ebm.Gaussian([0.0], [[4.0]])
    for alpha in (1.0, 3.9):
        np.testing.assert_allclose(
            jax.hessian(narrow - alpha * wide)(jnp.zeros(1)), 1 - alpha / 4, atol=1e-12
        )
        assert ebm.normalizers.check_integrable(narrow - alpha * wide).ok
    for alpha in (4.0, 5.0):
        assert not ebm.normalizers.check_integrable(narrow - alpha * wide).ok


@pytest.mark.slow
def test_the_product_of_diffused_is_not_the_diffused_product():
    r"""Two N(0, 1), noised by N(0, 1): the product has precision 2, noised 1/(1/2 + 1) = 2/3.

    The noised experts have precision 1/2 each, and their product has 1. Adding scores of noised
    experts, as composed diffusion models do, samples the wrong density at each noise level.
    """
    clean = ebm.Gaussian([0.0], [[1.0]]) + ebm.Gaussian([0.0], [[1.0]])
    product = ebm.EnergyDistribution(clean, num_steps=300)
    draw_key, noise_key = jax.random.split(jax.random.key(0))
    draws = product.sample(draw_key, (400, 200))
    assert_moments(draws, [0.0], [0.5])
    diffused = draws + jax.random.normal(noise_key, draws.shape)
    assert_moments(diffused, [0.0], [1 / 0.6667])

    noised = ebm.Gaussian([0.0], [[2.0]])
    np.testing.assert_allclose(jax.hessian(noised + noised)(jnp.zeros(1)), 1.0, rtol=1e-6)
    with pytest.raises(AssertionError, match="variance: z"):
        assert_moments(diffused, [0.0], [1 / 1.0])


@pytest.mark.parametrize("make", ENERGIES.values(), ids=ENERGIES)
def test_laws(make, x64):
    a, b, x = make(), ENERGIES["GaussianMixture"](), jnp.array([0.3, -1.2])
    # Gradients carry signs and weights that values may hide.
    laws = [
        (a + b, b + a),
        ((a + b) / 2.5, a / 2.5 + b / 2.5),
        (2 * (a - b), 2 * a - 2 * b),
        (a + (b + a), (a + b) + a),
        (b - (-a), a + b),
        (a / 0.5, 2 * a),
    ]
    for left, right in laws:
        np.testing.assert_allclose(left(x), right(x), rtol=1e-12)
        np.testing.assert_allclose(ebm.score(left, x), ebm.score(right, x), rtol=1e-11)
    total = ebm.score(a + b, x)
    np.testing.assert_allclose(total, ebm.score(a, x) + ebm.score(b, x), rtol=1e-11)


def test_sums_flatten_and_weights_merge():
    a, b = ENERGIES["Gaussian"](), ENERGIES["Ring"]()
    assert len((a + (b + a) + (a - b)).terms) == 5
    assert isinstance((2 * (3 * a)).energy, ebm.Gaussian)
    assert float((a / 2 / 4).weight.tree) == 0.125
    trainable = ebm.energies.Scaled(a, jnp.array(2.0))
    assert isinstance((3 * trainable).energy, ebm.energies.Scaled)


def test_nothing_recompiles():
    evaluate, traces = count_traces(lambda energy, x: energy(x))
    evaluate, x = eqx.filter_jit(evaluate), jnp.array([0.3, -1.2])
    values = set()
    for weight in (1.0, 2.0, 3.0):
        a, ring = ebm.Gaussian(weight * M1, S1), ebm.energies.Ring(weight)
        mixed = ebm.Mixture([a, ring], [weight, 1.0])
        energy = (a - weight * ring) / (1 + weight) + ebm.Normalized(mixed, weight)
        values.add(float(evaluate(energy, x)))
    assert len(traces) == 1
    assert len(values) == 3


def test_weights_and_temperatures_are_batched():
    a, b, x = ENERGIES["Gaussian"](), ENERGIES["Ring"](), jnp.array([0.3, -1.2])
    weights = jnp.array([0.5, 1.0, 2.0])
    batched = jax.vmap(lambda w: (a + w * b) / w)(weights)
    values = eqx.filter_vmap(lambda energy: energy(x))(batched)
    np.testing.assert_allclose(values, [(a(x) + w * b(x)) / w for w in weights], rtol=1e-6)


A, B = "Gaussian", "Ring(radius=2, width=0.5)"
FORMULAS = {
    f"{A} + {B}": lambda a, b: a + b,
    f"{A} - 0.5 * {B}": lambda a, b: a - 0.5 * b,
    f"{A} - {B}": lambda a, b: a - b,
    f"0.25 * ({A} + {B})": lambda a, b: (a + b) / 4,
    f"-({A} - {B})": lambda a, b: -(a - b),
    f"6 * {B}": lambda a, b: 2 * (3 * b),
    f"{A} - log Normal": lambda a, b: a + dist.Normal(0, 1).expand([2]).to_event(1),
    f"{B} - log {A}": lambda a, b: ebm.Tilted(b, a),
    f"-log(0.25 * exp(-{A})/Z + 0.75 * exp(-{B})/Z)": lambda a, b: ebm.Mixture([a, b], [1, 3]),
    f"Normalized({A} + {B}, log_z=1.5)": lambda a, b: ebm.Normalized(a + b, 1.5),
    f"({A} + {B})[1 of 2 free]": lambda a, b: ebm.clamp(a + b, [True, False], 0.0),
    f"{A}(Standardize(x)) - log|Standardize'(x)|": lambda a, b: ebm.Transformed(
        a, ebm.energies.Standardize(0.0, 1.0)
    ),
    f"MLPEnergy - log Normal + {A}": lambda a, b: ebm.MLPEnergy(2, key=jax.random.key(0)) + a,
    f"{A} - log LogNormal": lambda a, b: a + dist.LogNormal(0, 1).expand([2]).to_event(1),
    "DoubleWell(a=1, b=2, dim=3)": lambda a, b: ebm.energies.DoubleWell(dim=3),
    "<lambda>": lambda a, b: ebm.as_energy(lambda x: x),
}


@pytest.mark.parametrize(("formula", "make"), FORMULAS.items(), ids=FORMULAS)
def test_printing_shows_the_formula(formula, make):
    assert str(make(ENERGIES["Gaussian"](), ENERGIES["Ring"]())) == formula


@pytest.mark.parametrize("make", ENERGIES.values(), ids=ENERGIES)
def test_printing_survives_what_jax_puts_into_energies(make):
    energy = make()
    for leaf in (None, object()):
        assert repr(jax.tree.map(lambda _, leaf=leaf: leaf, energy))
    traced = []
    eqx.filter_jit(lambda e: traced.append(repr(2 * e)))(energy)
    assert "?" in traced[0]
