import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_moments, quadrature

import numpyro_ebm as ebm

CRITICAL = 0.5 * np.log(1 + np.sqrt(2))


def enumerate_ising(shape, coupling, field, *, periodic):
    """`log Z` by sums over bonds, spelled out."""
    sites = list(np.ndindex(shape))
    bonds = [
        (site, tuple(n % shape[k] if k == axis else n for k, n in enumerate(moved)))
        for site in sites
        for axis in range(len(shape))
        for moved in [tuple(n + (k == axis) for k, n in enumerate(site))]
        if periodic or moved[axis] < shape[axis]
    ]
    log_weights = []
    for spins in itertools.product((-1, 1), repeat=len(sites)):
        spin = dict(zip(sites, spins, strict=True))
        log_weights.append(
            coupling * sum(spin[i] * spin[j] for i, j in bonds)
            + np.sum(field * np.reshape(spins, shape))
        )
    return np.logaddexp.reduce(log_weights)


@pytest.mark.parametrize("coupling", [0.3, -0.4, 0.0, CRITICAL])
@pytest.mark.parametrize("periodic", [True, False], ids=["periodic", "free"])
@pytest.mark.parametrize("shape", [(5,), (3, 3), (2, 3), (3, 4)], ids=str)
def test_ising_normaliser_is_the_enumeration(shape, periodic, coupling, x64):
    for field in (None, 0.2):
        model = ebm.IsingModel(shape, coupling, field, periodic=periodic)
        truth = enumerate_ising(shape, coupling, field or 0.0, periodic=periodic)
        np.testing.assert_allclose(model.log_z, truth, atol=1e-10)


@pytest.mark.parametrize("shape", [(5,), (1, 4), (2, 3)], ids=str)
def test_ising_in_a_field_of_each_spin(shape, x64):
    field = np.random.default_rng(0).normal(size=shape)
    model = ebm.IsingModel(shape, 0.3, field)
    truth = enumerate_ising(shape, 0.3, field, periodic=True)
    np.testing.assert_allclose(model.log_z, truth, atol=1e-10)
    assert model.mean.shape == shape
    with pytest.raises(ValueError, match=r"one number or of shape \(2, 3\)"):
        ebm.IsingModel((2, 3), 0.3, jnp.ones(3))


def test_ising_of_a_hundred_spins_by_kaufman(x64):
    np.testing.assert_allclose(ebm.IsingModel((4, 4), 0.3).log_z, 12.785523325714, atol=1e-11)
    np.testing.assert_allclose(ebm.IsingModel((10, 10), 0.3).log_z, 79.060017, atol=1e-6)
    np.testing.assert_allclose(ebm.IsingModel((10, 10), CRITICAL).log_z, 93.610300, atol=1e-6)
    assert ebm.IsingModel((10, 10), 0.3, 0.1).log_z is None
    assert ebm.IsingModel((10, 10), 0.3).sampler is None


def test_derivatives_of_log_z_are_the_cumulants(x64):
    def log_z(coupling):
        return ebm.IsingModel((4, 4), coupling, periodic=False).log_z

    np.testing.assert_allclose(log_z(0.4), 13.186573, atol=1e-6)
    np.testing.assert_allclose(jax.grad(log_z)(0.4), 11.307870, atol=1e-6)
    np.testing.assert_allclose(jax.grad(jax.grad(log_z))(0.4), 35.489055, atol=1e-6)
    # At K = 0 and at the critical point, where Kaufman's Pfaffian changes its sign.
    for coupling in (0.0, CRITICAL):
        slope = jax.grad(lambda k: ebm.IsingModel((4, 4), k).log_z)(coupling)
        model = ebm.IsingModel((4, 4), coupling)
        states = model.states()
        statistic = jax.vmap(ebm.IsingModel((4, 4), -1.0))(states)
        weights = jax.nn.softmax(-jax.vmap(model)(states))
        np.testing.assert_allclose(slope, weights @ statistic, atol=1e-6)


def test_ising_draws_have_the_moments():
    model = ebm.IsingModel((3, 3), 0.2, 0.3)
    draws = model.sample(jax.random.key(0), (400, 100))
    assert set(np.unique(draws)) == {-1.0, 1.0}
    mean, variance = model.mean.ravel(), model.variance.ravel()
    assert_moments(draws.reshape(400, 100, 9), mean, variance)
    with pytest.raises(AssertionError, match="mean: z"):
        assert_moments(-draws.reshape(400, 100, 9), mean, variance)


def rbm(cls, num_visible, num_hidden):
    keys = jax.random.split(jax.random.key(3), 3)
    shapes = (num_visible, num_hidden), (num_visible,), (num_hidden,)
    return cls(*(0.7 * jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)))


def words(size):
    return jnp.array(list(itertools.product((0.0, 1.0), repeat=size)))


MACHINES = {
    "wide Bernoulli": (ebm.BernoulliRBM, 3, 5),
    "tall Bernoulli": (ebm.BernoulliRBM, 6, 3),
    "Gaussian": (ebm.energies.GaussianBernoulliRBM, 2, 4),
}
each_rbm = pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)


@each_rbm
def test_the_free_energy_is_the_marginal_of_the_joint(machine, x64):
    model, visible = rbm(*machine), words(machine[1])
    marginal = model.joint.marginal(words(machine[2]))
    assert marginal.event_shape == model.event_shape
    np.testing.assert_allclose(
        jax.vmap(model)(visible), jax.vmap(marginal)(visible), rtol=1e-10
    )


@each_rbm
def test_conditionals_are_those_of_the_joint(machine, x64):
    model, hidden, v = rbm(*machine), words(machine[2]), words(machine[1])[-2]
    joint = -jax.vmap(lambda h: model.joint({"x": v, "z": h}))(hidden)
    expected = jax.nn.log_softmax(joint)
    log_probs = model.hidden_given_visible(v).log_prob(hidden)
    np.testing.assert_allclose(log_probs, expected, rtol=1e-9)
    # log p(v | h) - log p(v' | h) is a difference of joint energies.
    other, h = words(machine[1])[1], hidden[-2]
    ratio = model.visible_given_hidden(h).log_prob(jnp.stack([v, other]))
    difference = model.joint_energy(other, h) - model.joint_energy(v, h)
    np.testing.assert_allclose(ratio[0] - ratio[1], difference, rtol=1e-9)


@pytest.mark.parametrize("sizes", [(3, 5), (6, 3)], ids=str)
def test_bernoulli_rbm_is_normalised_over_all_words(sizes, x64):
    model, visible = rbm(ebm.BernoulliRBM, *sizes), words(sizes[0])
    log_weights = -jax.vmap(model)(visible)
    np.testing.assert_allclose(model.log_z, jax.nn.logsumexp(log_weights), atol=1e-10)
    np.testing.assert_allclose(model.mean, jax.nn.softmax(log_weights) @ visible, atol=1e-10)


def test_gaussian_rbm_is_normalised_by_quadrature(x64):
    model = rbm(ebm.energies.GaussianBernoulliRBM, 3, 5)
    log_z, mean, variance = quadrature(model, 12, 121)
    np.testing.assert_allclose(model.log_z, log_z, atol=1e-8)
    np.testing.assert_allclose(model.mean, mean, atol=1e-8)
    np.testing.assert_allclose(model.variance, variance, atol=1e-8)


@each_rbm
def test_rbm_draws_have_the_moments(machine):
    model = rbm(*machine)
    assert_moments(model.sample(jax.random.key(0), (400, 100)), model.mean, model.variance)


def test_a_machine_to_be_trained():
    model = ebm.BernoulliRBM.create(30, 25, key=jax.random.key(0))
    assert model.weights.shape == (30, 25)
    np.testing.assert_allclose(model.weights.std(), 0.01, rtol=0.1)
    assert (model.log_z, model.mean, model.variance, model.sampler) == (None,) * 4
    with pytest.raises(NotImplementedError, match="has no exact sampler"):
        model.sample(jax.random.key(0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ebm.IsingModel((2, 2, 2), 0.3), "one- or two-dimensional lattice"),
        (lambda: ebm.BernoulliRBM(np.ones((2, 3)), np.ones(3), np.ones(2)), "must have shape"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
