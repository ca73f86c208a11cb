import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from helpers import COVARIANCE, ENERGIES, MEAN, count_traces, network, trees_equal

import numpyro_ebm as ebm

each_energy = pytest.mark.parametrize("make", ENERGIES.values(), ids=ENERGIES)
POINTS = jnp.array([[0.3, -1.2], [2.0, 0.5], [-1.0, -1.0]])


@each_energy
def test_one_point_to_a_scalar_under_every_transformation(make, x64):
    energy, points = make(), POINTS.astype(float)
    eager = jnp.stack([energy(x) for x in points])
    assert eager.shape == (3,)
    assert eager.dtype == jnp.float64
    assert energy.event_shape == (2,)
    np.testing.assert_allclose(
        eqx.filter_jit(lambda xs: jax.vmap(energy)(xs))(points), eager, rtol=1e-10
    )
    x, step = points[0], 1e-5 * jnp.eye(2)
    numeric = [(energy(x + h) - energy(x - h)) / 2e-5 for h in step]
    np.testing.assert_allclose(jax.grad(energy)(x), numeric, rtol=1e-7, atol=1e-7)


@each_energy
def test_pytree_round_trip(make):
    energy = make()
    leaves, treedef = jax.tree.flatten(energy)
    assert trees_equal(treedef.unflatten(leaves)(POINTS[0]), energy(POINTS[0]))


@each_energy
def test_algebra(make):
    a, b = make(), ENERGIES["Gaussian"]()
    x = POINTS[1]
    expected = [
        (a + b, a(x) + b(x)),
        (b + a, a(x) + b(x)),
        (sum([a, b, a]), 2 * a(x) + b(x)),
        (3 * a, 3 * a(x)),
        (np.float64(3) * a, 3 * a(x)),
        (jnp.array(3.0) * a, 3 * a(x)),
        (a / 2, a(x) / 2),
        ((a + b) / 2, a(x) / 2 + b(x) / 2),
        (a - 0.5 * b, a(x) - 0.5 * b(x)),
        (-a, -a(x)),
    ]
    for energy, value in expected:
        assert isinstance(energy, ebm.AbstractEnergy)
        np.testing.assert_allclose(energy(x), value, rtol=1e-5, atol=1e-6)


def test_sums_take_whatever_is_an_energy_and_flatten():
    a = ENERGIES["Gaussian"]()
    normal = dist.Normal(0, 1).expand([2]).to_event(1)
    total = a + normal + (a + network())
    assert len(total.terms) == 4
    np.testing.assert_allclose(
        total(POINTS[0]),
        2 * a(POINTS[0]) - normal.log_prob(POINTS[0]) + network()(POINTS[0]),
        rtol=1e-5,
    )
    assert isinstance(network() + a, ebm.energies.Sum)


def test_a_changed_weight_does_not_recompile():
    evaluate, traces = count_traces(lambda energy, x: energy(x))
    evaluate = eqx.filter_jit(evaluate)
    for weight in (1.0, 2.0, 3.0):
        evaluate(weight * ENERGIES["Gaussian"](), POINTS[0])
    assert len(traces) == 1


def test_scaled_energy_is_differentiable_in_its_weight():
    a = ENERGIES["Gaussian"]()
    gradient = jax.grad(lambda w: (w * a)(POINTS[0]))(2.0)
    np.testing.assert_allclose(gradient, a(POINTS[0]), rtol=1e-6)


def test_distribution_energy_is_its_negative_log_density():
    normal = dist.MultivariateNormal(MEAN, COVARIANCE)
    energy = ebm.as_energy(normal)
    np.testing.assert_allclose(energy(POINTS[0]), -normal.log_prob(POINTS[0]), rtol=1e-6)
    assert energy.log_z == 0
    assert energy.sample(jax.random.key(0), (5,)).shape == (5, 2)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ebm.as_energy(3), TypeError, "must be an energy, a NumPyro distribution"),
        (lambda: ebm.as_energy(dist.Normal(jnp.zeros(2))), ValueError, r"to_event\(1\)"),
        (
            lambda: ebm.as_energy(ENERGIES["Gaussian"](), (3,)),
            ValueError,
            r"lives on points of shape \(2,\)",
        ),
        (
            lambda: ENERGIES["Gaussian"]() * ENERGIES["Gaussian"](),
            TypeError,
            "weight of an energy must be a number",
        ),
        (lambda: ENERGIES["Gaussian"]() / jnp.ones(2), ValueError, "must be a scalar"),
        (lambda: ebm.score(ENERGIES["Gaussian"](), POINTS), ValueError, "looks like a batch"),
        (lambda: ebm.score(network(3), POINTS[0]), ValueError, "must be a scalar, got"),
        (
            lambda: ENERGIES["Gaussian"]() + ebm.as_energy(network(), (3,)),
            ValueError,
            "must live on the same points",
        ),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()


@each_energy
def test_no_axis_appears_by_broadcasting(make):
    """A point of another shape would otherwise silently pass for a batch."""
    energy = make()
    with jax.numpy_rank_promotion("raise"):
        jax.jit(jax.value_and_grad(energy))(POINTS[0])
        assert jnp.shape(energy.log_z if energy.log_z is not None else 0.0) == ()


@each_energy
def test_score_is_minus_the_gradient(make):
    energy = make()
    np.testing.assert_allclose(
        ebm.score(energy, np.array([0.3, -1.2])), -jax.grad(energy)(POINTS[0]), rtol=1e-6
    )
