"""Exact methods against closed forms."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import COVARIANCE, MEAN

import numpyro_ebm as ebm

QUADRATURES = {
    "Gaussian, 1-D": (lambda: ebm.Gaussian(np.zeros(1), np.eye(1)), [-9.0], [9.0]),
    "Gaussian, 2-D": (lambda: ebm.Gaussian(MEAN, COVARIANCE), [-8.0, -11.0], [10.0, 7.0]),
    "Gaussian, 3-D": (lambda: ebm.Gaussian(np.zeros(3), np.eye(3)), [-8.0] * 3, [8.0] * 3),
    "DoubleWell": (ebm.energies.DoubleWell, [-4.0], [4.0]),
    "Banana": (ebm.energies.Banana, [-7.0, -7.0], [7.0, 30.0]),
    "scalar points": (lambda: ebm.as_energy(lambda x: 0.5 * x**2, ()), -9.0, 9.0),
}


@pytest.mark.parametrize(("make", "low", "high"), QUADRATURES.values(), ids=QUADRATURES)
def test_quadrature(make, low, high, x64):
    energy = make()
    truth = 0.5 * np.log(2 * np.pi) if energy.log_z is None else energy.log_z
    log_z = jax.jit(lambda: ebm.Quadrature(low, high).log_z(energy))()
    np.testing.assert_allclose(log_z, truth, atol=1e-7)


SPINS = {
    "torus": lambda: ebm.IsingModel((3, 3), 0.4),
    "ring in a field": lambda: ebm.IsingModel((6,), 0.3, 0.2),
    "free lattice": lambda: ebm.IsingModel((2, 4), 0.3, -0.1, periodic=False),
    "labels on a ring": lambda: ebm.energies.PottsModel((7,), 4, 0.6),
    "Boltzmann machine": lambda: ebm.BernoulliRBM(
        np.random.default_rng(0).normal(size=(14, 3)), np.ones(14), np.zeros(3)
    ),
}


@pytest.mark.parametrize("make", SPINS.values(), ids=SPINS)
def test_enumeration(make, x64):
    energy = make()
    np.testing.assert_allclose(ebm.Enumeration().log_z(energy), energy.log_z, rtol=1e-10)


def test_their_gradients_are_minus_mean_gradients_of_the_energy(x64):
    r"""$\partial_\theta\log Z = -E[\partial_\theta E]$, of a precision and of a coupling."""
    box = ebm.Quadrature([-9.0], [9.0], 2001)

    def log_z(precision):
        return box.log_z(lambda x: 0.5 * precision * x[0] ** 2)

    np.testing.assert_allclose(jax.grad(log_z)(2.0), -0.25, rtol=1e-8)
    ising = ebm.IsingModel((3, 3), 0.4)
    ours = eqx.filter_grad(ebm.Enumeration().log_z)(ising).coupling
    np.testing.assert_allclose(ours, eqx.filter_grad(lambda e: e.log_z)(ising).coupling)


def test_enumeration_sees_each_state_once():
    states = ebm.Enumeration().states(ebm.IsingModel((2, 2), 0.1))
    assert {tuple(s) for s in np.asarray(states).reshape(16, 4)} == {
        (a, b, c, d) for a in (-1, 1) for b in (-1, 1) for c in (-1, 1) for d in (-1, 1)
    }


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ebm.Quadrature([1.0], [0.0]), "`low` must lie below `high`"),
        (
            lambda: ebm.Quadrature([0.0] * 4, [1.0] * 4),
            "one to three dimensions, got a box in 4",
        ),
        (lambda: ebm.Quadrature([0.0], [1.0], 1), "`num_points` must be at least 2"),
        (
            lambda: ebm.Enumeration().log_z(ebm.Gaussian(MEAN, COVARIANCE)),
            "the same few values",
        ),
        (
            lambda: ebm.Enumeration().log_z(ebm.IsingModel((5, 5), 0.1)),
            "got 25 coordinates with 2 values",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_nodes_integrate_one_to_the_volume():
    _, log_weights = ebm.Quadrature([0.0, -1.0], [2.0, 2.0], (5, 7)).nodes()
    np.testing.assert_allclose(jnp.exp(log_weights).sum(), 6.0, rtol=1e-6)
