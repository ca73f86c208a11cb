"""Exact constants inside a model, against closed forms and a grid."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import assert_means
from intractable import (
    LATTICE,
    lattice,
    lattice_data,
    lattice_model,
    quartic,
    quartic_data,
    quartic_model,
    quartic_prior,
    quartic_truth,
)
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import log_density

import numpyro_ebm as ebm
from numpyro_ebm.posteriors import quadrature_for
from numpyro_ebm.sites import check_normalization

BOX = ebm.Quadrature(-8.0, 8.0)


def exact(theta):
    return ebm.normalized_by(quartic(theta), BOX)


class Spring(eqx.Module):
    """An energy per datum, of whatever parameters."""

    precision: jax.Array

    def __call__(self, x):
        return 0.5 * self.precision * x**2


def run(model, *args, num_samples=2000, num_chains=4):
    mcmc = MCMC(
        NUTS(model),
        num_warmup=500,
        num_samples=num_samples,
        num_chains=num_chains,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(0), *args)
    return mcmc


def test_the_grid_is_the_published_one():
    mean, sd, correlation, log_evidence = quartic_truth()
    np.testing.assert_allclose(mean, [-0.050907, 1.429960], atol=1e-5)
    np.testing.assert_allclose(sd, [0.261691, 0.477061], atol=1e-5)
    np.testing.assert_allclose([correlation, log_evidence], [0.917102, -144.685656], atol=1e-5)


def test_quadrature_is_the_oracle_of_a_posterior(x64):
    """By the library's constant on a grid of parameters, to 1e-4."""
    log_a, b = jnp.meshgrid(
        jnp.linspace(-1.6, 1.2, 71), jnp.linspace(-1.5, 4.5, 76), indexing="ij"
    )
    theta = {"log_a": log_a.ravel(), "b": b.ravel()}
    log_z = jax.jit(lambda theta: jax.lax.map(lambda t: exact(t).log_z, theta, batch_size=64))(
        theta
    )
    log_p = -jnp.exp(theta["log_a"]) * 294.012018 / 4 + theta["b"] * 131.248573 / 2
    log_p += dist.Normal(0, 1).log_prob(theta["log_a"]) - 100 * log_z
    log_p += dist.Normal(0, 2).log_prob(theta["b"])
    p = jax.nn.softmax(log_p)
    mean, sd, _, log_evidence = quartic_truth()
    found = jnp.array([p @ theta["log_a"], p @ theta["b"]])
    np.testing.assert_allclose(found, mean, atol=1e-4)
    spread = jnp.array([p @ theta["log_a"] ** 2, p @ theta["b"] ** 2]) - found**2
    np.testing.assert_allclose(jnp.sqrt(spread), sd, atol=1e-4)
    total = jax.nn.logsumexp(log_p) + jnp.log(2.8 / 70 * 6 / 75)
    np.testing.assert_allclose(total, log_evidence, atol=1e-4)


@pytest.mark.slow
def test_nuts_draws_from_the_posterior_of_a_quartic():
    draws = run(quartic_model, quartic_data(), exact).get_samples(group_by_chain=True)
    mean, sd, *_ = quartic_truth()
    values = np.stack([draws["log_a"], draws["b"]], -1)
    by_blocks = values.reshape(40, -1, 2)
    assert_means(by_blocks, mean)
    assert_means((by_blocks - mean) ** 2, sd**2, name="variance")
    with pytest.raises(AssertionError, match="mean: z = "):  # Of one datum more.
        assert_means(by_blocks, quartic_truth(101)[0])


@pytest.mark.slow
def test_enumeration_gives_the_posterior_of_a_coupling():
    def normalized(coupling):
        return ebm.normalized_by(lattice(coupling))

    draws = run(lattice_model, lattice_data(), normalized).get_samples()["K"]
    mean, sd = LATTICE
    blocks = np.asarray(draws).reshape(40, -1, 1)
    assert_means(blocks, [mean])
    assert_means((blocks - mean) ** 2, [sd**2], name="variance")


def test_enumeration_on_a_grid_of_couplings():
    couplings = jnp.linspace(0.15, 0.6, 61)
    model = ebm.normalized_by(lattice(0.3), ebm.Enumeration())
    data = lattice_data()

    def log_p(coupling):
        energy = ebm.normalized_by(eqx.tree_at(lambda e: e.coupling, lattice(0.0), coupling))
        return -jax.vmap(energy)(data).sum() - 20 * energy.log_z - 0.5 * coupling**2

    p = jax.nn.softmax(jax.jit(lambda k: jax.lax.map(log_p, k))(couplings))
    mean = p @ couplings
    found = mean, jnp.sqrt(p @ (couplings - mean) ** 2)
    np.testing.assert_allclose(found, LATTICE, atol=1e-5)
    np.testing.assert_allclose(model.log_z, lattice(0.3).log_z, rtol=1e-6)


def test_the_constant_is_differentiable_and_follows_jit():
    def log_z(precision):
        energy = ebm.normalized_by(Spring(precision), ebm.Quadrature(-9.0, 9.0))
        return energy.log_z

    value, slope = jax.jit(jax.value_and_grad(log_z))(2.0)
    np.testing.assert_allclose(value, 0.5 * np.log(np.pi), rtol=1e-5)
    np.testing.assert_allclose(slope, -0.25, rtol=1e-5)


def test_a_box_that_cuts_or_a_grid_too_coarse_shows_in_the_error():
    fine = ebm.normalized_by(Spring(jnp.array(1.0)), ebm.Quadrature(-9.0, 9.0))
    coarse = ebm.normalized_by(Spring(jnp.array(900.0)), ebm.Quadrature(-9.0, 9.0, 65))
    assert fine.std_error < 1e-5
    assert coarse.std_error > 0.1


def test_an_energy_per_datum_has_a_constant_per_datum():
    covariates, x = jnp.linspace(-1, 1, 6), jnp.linspace(-2, 2, 6)
    box = ebm.Quadrature(-12.0, 12.0)

    def model(x):
        slope = numpyro.sample("slope", dist.Normal(0, 1))
        make = eqx.filter_vmap(lambda z: ebm.normalized_by(Spring(jnp.exp(slope * z)), box))
        site = ebm.EnergyDistribution(make(covariates), batch_shape=(6,))
        with numpyro.plate("data", 6):
            numpyro.sample("x", site, obs=x)

    check_normalization(model, x)
    for slope in (0.3, -1.2):
        found = log_density(model, (x,), {}, {"slope": jnp.array(slope)})[0]
        scale = jnp.exp(-0.5 * slope * covariates)
        truth = dist.Normal(0, scale).log_prob(x).sum() + dist.Normal(0, 1).log_prob(slope)
        np.testing.assert_allclose(found, truth, rtol=1e-5)


def test_a_bounded_support_and_a_known_constant():
    energy = ebm.as_energy(dist.Gamma(2.0, 3.0))
    assert ebm.normalized_by(energy).log_z == 0
    beta = ebm.as_energy(dist.Beta(2.0, 3.0))
    found = ebm.normalized_by(0.5 * beta, ebm.Quadrature(-1.0, 2.0))
    truth = ebm.log_partition(jax.random.key(0), 0.5 * beta, ebm.Quadrature(-1.0, 2.0))
    np.testing.assert_allclose(found.log_z, truth.estimate, rtol=1e-5)


def test_a_box_is_found_that_holds_all_of_a_family():
    prior = quartic_prior(30)
    box = quadrature_for(quartic, prior)
    for i in range(0, 30, 10):
        one = {name: x[i] for name, x in prior.items()}
        wide = ebm.Quadrature(3 * box.low, 3 * box.high, 4097)
        energies = quartic(one)
        np.testing.assert_allclose(box.log_z(energies), wide.log_z(energies), atol=1e-4)


def test_outside_of_a_trace_a_box_is_searched_for_and_inside_it_is_refused():
    energy = ebm.normalized_by(Spring(jnp.array(1.0)), event_shape=())
    np.testing.assert_allclose(energy.log_z, 0.5 * np.log(2 * np.pi), rtol=1e-5)

    def model():
        precision = numpyro.sample("precision", dist.Gamma(2.0, 1.0))
        energy = ebm.normalized_by(Spring(precision), event_shape=())
        numpyro.sample("x", ebm.EnergyDistribution(energy), obs=0.3)

    with pytest.raises(ValueError, match=r"`method` is needed inside a model: no box can be"):
        run(model, num_samples=1)


def test_arguments_that_cannot_be():
    spring = Spring(jnp.array(1.0))
    with pytest.raises(TypeError, match="`method` must be exact"):
        ebm.normalized_by(spring, ebm.ImportanceSampling())
    with pytest.raises(ValueError, match="`event_shape` is needed"):
        ebm.normalized_by(spring)
    with pytest.raises(ValueError, match="is discrete: use"):
        ebm.normalized_by(ebm.IsingModel((2,), 0.1, 0.2), ebm.Quadrature([-1.0] * 2, [1.0] * 2))
    with pytest.raises(ValueError, match="up to 2\\^20 states"):
        ebm.normalized_by(ebm.IsingModel((5, 5), 0.1, 0.2))
    with pytest.raises(ValueError, match="`event_shape` is needed"):
        quadrature_for(Spring, jnp.ones(3))
