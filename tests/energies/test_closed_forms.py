"""Closed forms where digits are scarce: extreme parameters, and single precision."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import COVARIANCE, MEAN, mixture
from scipy.special import gammaln, ive, kve, logsumexp

import numpyro_ebm as ebm

LATTICES = [(3, 3), (1, 5), (5, 1), (5,), (2, 5), (3, 4), (1, 1), (4, 4), (2, 3), (1,), (4,)]


def all_lines(size):
    return 2.0 * ((np.arange(2**size)[:, None] >> np.arange(size)) & 1) - 1


def enumerated(shape, coupling, field=0.0):
    """`log Z`, and its slope in the coupling."""
    spins = all_lines(np.prod(shape)).reshape(-1, *shape)
    products = [spins * np.roll(spins, 1, 1 + axis) for axis in range(len(shape))]
    bonds = sum(product.reshape(len(spins), -1).sum(1) for product in products)
    log_weights = coupling * bonds + field * spins.reshape(len(spins), -1).sum(1)
    log_z = logsumexp(log_weights)
    return log_z, np.exp(log_weights - log_z) @ bonds


def by_transfer_matrix(shape, coupling):
    """Of wider lattices, in double precision, by scaled products of a positive matrix."""
    width, length = sorted(shape)
    spins = all_lines(width)
    along = coupling * (spins * np.roll(spins, 1, 1)).sum(1)
    log_matrix = coupling * spins @ spins.T + along
    table = log_matrix
    for _ in range(length - 1):
        table = np.stack([logsumexp(row + log_matrix.T, axis=1) for row in table])
    return logsumexp(np.diagonal(table))


@pytest.mark.parametrize("shape", LATTICES, ids=str)
@pytest.mark.parametrize("is_double", [False, True])
def test_an_ising_model_at_any_coupling(shape, is_double):
    with jax.enable_x64(is_double):
        rtol = 1e-10 if is_double else 3e-6
        both = jax.jit(jax.value_and_grad(lambda k: ebm.IsingModel(shape, k).log_z))
        for coupling in (-20.0, -3.0, -1.0, -0.3, 0.0, 0.4, 2.0, 25.0):
            log_z, slope = both(jnp.asarray(coupling, float))
            truth, bonds = enumerated(shape, coupling)
            np.testing.assert_allclose(log_z, truth, rtol=rtol, atol=rtol)
            np.testing.assert_allclose(slope, bonds, rtol=10 * rtol, atol=1e3 * rtol)


@pytest.mark.parametrize("coupling", [-20.0, -1.0, 0.5])
@pytest.mark.parametrize("field", [0.3, -2.0])
def test_a_ring_in_a_field(coupling, field, x64):
    for size in (1, 4, 5):
        found = ebm.IsingModel((size,), coupling, field).log_z
        np.testing.assert_allclose(found, enumerated((size,), coupling, field)[0], rtol=1e-9)


def test_frustrated_tori_that_cannot_be_enumerated(x64):
    known = {((5, 5), -2.0): 67.81, ((7, 7), -1.0): 80.98, ((3, 3), -20.0): 124.62}
    for (shape, coupling), value in known.items():
        truth = by_transfer_matrix(shape, coupling)
        np.testing.assert_allclose(truth, value, atol=0.01)
        np.testing.assert_allclose(ebm.IsingModel(shape, coupling).log_z, truth, rtol=1e-10)
    single = jax.jit(lambda k: ebm.IsingModel((7, 7), k).log_z)(jnp.float32(-1.0))
    np.testing.assert_allclose(single, by_transfer_matrix((7, 7), -1.0), rtol=1e-5)


def test_a_wide_frustrated_torus_is_refused_where_digits_are_lost(x64):
    def log_z(coupling):
        return ebm.IsingModel((11, 11), coupling).log_z

    compiled = eqx.filter_jit(log_z)
    narrow = compiled(jnp.array(-0.1))
    np.testing.assert_allclose(narrow, 121 * np.log(2) + 121 * 0.01, atol=0.02)
    assert np.isfinite(compiled(jnp.array(3.0)))
    with pytest.raises(RuntimeError, match="agree in all digits"):
        compiled(jnp.array(-3.0))


def test_the_posterior_of_a_frustrated_coupling_is_as_wide_as_it_is(x64):
    """By quadrature, of a flat prior: the closed form against enumeration."""
    couplings = jnp.linspace(-8.0, 1.0, 91)
    bonds = -5.9
    ours = jax.vmap(lambda k: k * bonds - ebm.IsingModel((3, 3), k).log_z)(couplings)
    truth = np.array([float(k) * bonds - enumerated((3, 3), float(k))[0] for k in couplings])
    np.testing.assert_allclose(
        jax.nn.softmax(ours), np.exp(truth - logsumexp(truth)), rtol=1e-8
    )


def double_well(a, b):
    """By Bessel functions of order 1/4, of what a barrier of $b^2/4a$ leaves."""
    z = b**2 / (8 * a)
    if b == 0:
        return gammaln(0.25) - np.log(2) - 0.25 * np.log(a)
    if b < 0:
        return 0.5 * np.log(-b / (4 * a)) + np.log(kve(0.25, z))
    bessel = ive(0.25, z) + ive(-0.25, z)
    return 2 * z + 0.5 * np.log(b / (8 * a)) + np.log(np.pi * bessel)


@pytest.mark.parametrize("a", [0.3, 2.0])
@pytest.mark.parametrize(
    "barrier", [0.0, 1e-3, 1.0, 10.0, 59.0, 61.0, 1e2, 1e4, 1e6, -1.0, -1e4]
)
def test_a_double_well_of_any_barrier(barrier, a, x64):
    b = np.sign(barrier) * np.sqrt(4 * a * abs(barrier))
    energy = ebm.energies.DoubleWell(a, b)
    np.testing.assert_allclose(energy.log_z, double_well(a, b), rtol=1e-9)
    step = 1e-4 * max(1, abs(b))
    mean_square = (double_well(a, b + step) - double_well(a, b - step)) / (2 * step)
    np.testing.assert_allclose(energy.variance[0], mean_square, rtol=1e-4)
    slope = eqx.filter_grad(lambda e: e.log_z)(energy).b
    np.testing.assert_allclose(slope, energy.variance[0], rtol=1e-6)


#: Energies at parameters where a naive formula would cancel or overflow.
EXTREME = {
    "Gaussian": lambda: ebm.Gaussian(MEAN, COVARIANCE),
    "ill-conditioned": lambda: ebm.Gaussian(MEAN, np.diag([1e3, 1e-3])),
    "GaussianMixture": mixture,
    "double well": lambda: ebm.energies.DoubleWell(1.0, 20.0, 3),
    "high barrier": lambda: ebm.energies.DoubleWell(1.0, 2000.0),
    "thin ring": lambda: ebm.energies.Ring(1000.0, 1.0),
    "small ring": lambda: ebm.energies.Ring(0.01, 1.0),
    "Banana": lambda: ebm.energies.Banana(30.0, 0.5, 0.01),
    "Funnel": lambda: ebm.energies.Funnel(3.0, 10),
    "heavy": lambda: ebm.energies.StudentT(2.5, MEAN),
    "almost normal": lambda: ebm.energies.StudentT(1e4, np.zeros(3)),
    "quite normal": lambda: ebm.energies.StudentT(1e6, np.zeros(2)),
    "torus": lambda: ebm.IsingModel((64, 64), 0.44),
    "frozen": lambda: ebm.IsingModel((3, 5), -15.0),
    "BernoulliRBM": lambda: ebm.BernoulliRBM(
        30 * np.random.default_rng(0).normal(size=(4, 3)), np.ones(4), -np.ones(3)
    ),
    "GaussianBernoulliRBM": lambda: ebm.energies.GaussianBernoulliRBM(
        10 * np.random.default_rng(0).normal(size=(2, 3)), [500.0, -300.0], np.ones(3)
    ),
}


@pytest.mark.parametrize("make", EXTREME.values(), ids=EXTREME)
def test_single_precision_keeps_its_digits(make):
    found = {}
    for is_double in (False, True):
        with jax.enable_x64(is_double):
            energy = make()
            found[is_double] = [
                np.asarray(fact, float)
                for fact in (energy.log_z, energy.mean, energy.variance)
                if fact is not None
            ]
    for single, double in zip(found[False], found[True], strict=True):
        scale = np.abs(double).max(initial=1.0)
        np.testing.assert_allclose(single, double, rtol=3e-5, atol=1e-5 * min(scale, 10))
