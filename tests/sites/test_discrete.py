"""Sites of spins, labels and units, against sums over all their states."""

import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import assert_means, assert_moments
from intractable import Hidden
from numpyro import handlers
from numpyro.infer import MCMC, NUTS, HMCGibbs, Predictive
from numpyro.infer.util import log_density

import numpyro_ebm as ebm
from numpyro_ebm.energies import PottsModel


class Blocks(Hidden):
    """An energy without its constant and its exact draws."""

    def gibbs_sweep(self, rng_key, x):
        return self.energy.gibbs_sweep(rng_key, x)


class Label(ebm.AbstractEnergy):
    """One of three labels, and no constant."""

    slope: jax.Array

    levels = (0.0, 1.0, 2.0)
    event_shape = ()

    def __call__(self, x):
        return self.slope * x**2


ISING = ebm.IsingModel((2, 3), 0.4, 0.2)
POTTS = PottsModel((2, 2), 3, 0.3, np.array([0.1, -0.3, 0.4]))
SITES = {
    "exact": lambda: ISING,
    "blocks": lambda: Blocks(POTTS),
    "spins": lambda: ISING + ebm.IsingModel((2, 3), -0.3, 0.1),
    "labels": lambda: Hidden(POTTS),
    "units": lambda: ebm.BernoulliRBM(
        np.array([[0.5, -1.0], [1.0, 0.3]]), [0.1, 0.2], [0.3, -0.1]
    ),
}


def expectations(energy):
    """Of all coordinates, and of the energy."""
    states = ebm.Enumeration().states(energy)
    energies = jax.vmap(energy)(states)
    values = jnp.c_[states.reshape(len(states), -1), energies]
    return jax.nn.softmax(-energies) @ values


@pytest.mark.parametrize("make", SITES.values(), ids=SITES)
def test_draws_by_enumeration(make):
    energy = make()
    site = ebm.EnergyDistribution(energy, num_steps=100)
    assert site.is_discrete
    draws = np.asarray(site.sample(jr.key(0), (4000,)))
    assert site.support(draws).all()
    values = np.c_[draws.reshape(len(draws), -1), jax.vmap(energy)(draws)]
    assert_means(values.reshape(100, 40, -1), expectations(energy))


def test_densities_and_batches():
    couplings = jnp.array([0.1, 0.5])
    make = eqx.filter_vmap(lambda coupling: ebm.IsingModel((2, 3), coupling))
    batch = ebm.EnergyDistribution(make(couplings), batch_shape=(2,))
    spins = batch.sample(jr.key(0), (4,))
    assert spins.shape == (4, 2, 2, 3)
    for i, coupling in enumerate(couplings):
        one = ebm.IsingModel((2, 3), coupling)
        truth = -jax.vmap(one)(spins[:, i]) - one.log_z
        np.testing.assert_allclose(batch.log_prob(spins)[:, i], truth, rtol=1e-5)
    copied = pickle.loads(pickle.dumps(batch))
    np.testing.assert_array_equal(copied.log_prob(spins), batch.log_prob(spins))
    assert not ebm.EnergyDistribution(Hidden(ISING)).is_normalized


def observed(spins, energy=ebm.IsingModel):
    coupling = numpyro.sample("coupling", dist.HalfNormal(1.0))
    with numpyro.plate("grid", len(spins)):
        site = ebm.EnergyDistribution(energy((2, 3), coupling))
        numpyro.sample("spins", site, obs=spins)


def factored(spins):
    coupling = numpyro.sample("coupling", dist.HalfNormal(1.0))
    with numpyro.plate("grid", len(spins)):
        ebm.factor("spins", ebm.IsingModel((2, 3), coupling), spins)


def test_observed_spins(x64):
    spins = ISING.sample(jr.key(0), (5,))
    for coupling in (0.1, 0.7):
        at = {"coupling": jnp.asarray(coupling)}
        found, truth = (
            log_density(model, (spins,), {}, at)[0] for model in (observed, factored)
        )
        np.testing.assert_allclose(found, truth, rtol=1e-12)
    kernel = NUTS(lambda spins: observed(spins, lambda *of: Hidden(ebm.IsingModel(*of))))
    with pytest.raises(ebm.UnnormalizedError, match="normaliser is unknown"):
        MCMC(kernel, num_warmup=1, num_samples=1, progress_bar=False).run(jr.key(0), spins)


def labelled(x):
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    with numpyro.plate("data", len(x)):
        label = numpyro.sample(
            "label",
            ebm.EnergyDistribution(Label(jnp.asarray(0.3))),
            infer={"enumerate": "parallel"},
        )
        numpyro.sample("x", dist.Normal(slope * label, 1.0), obs=x)


def test_numpyro_sums_over_single_labels():
    x, labels = jnp.array([0.3, -1.0, 2.0]), jnp.arange(3.0)
    mcmc = MCMC(NUTS(labelled), num_warmup=200, num_samples=4000, progress_bar=False)
    mcmc.run(jr.key(0), x)
    grid = jnp.linspace(-6, 6, 2001)
    log_weights = jax.nn.log_softmax(-0.3 * labels**2)
    each = dist.Normal(grid[:, None, None] * labels, 1.0).log_prob(x[:, None]) + log_weights
    probs = jax.nn.softmax(
        jax.nn.logsumexp(each, -1).sum(-1) + dist.Normal(0, 1).log_prob(grid)
    )
    mean = probs @ grid
    variance = probs @ (grid - mean) ** 2
    draws = mcmc.get_samples()["slope"]
    assert_moments(
        draws[None, :, None], mean[None], variance[None], num_blocks=50, ess_variance=300
    )


def test_predictions_are_labels():
    model = handlers.condition(labelled, {"slope": jnp.asarray(0.5)})
    drawn = Predictive(model, num_samples=500)(jr.key(0), jnp.zeros(3))["label"]
    truth = jax.nn.softmax(-0.3 * jnp.arange(3.0) ** 2)
    shares = (drawn.reshape(-1, 1) == jnp.arange(3)).mean(0)
    np.testing.assert_allclose(shares, truth, atol=4 * np.sqrt(0.25 / drawn.size))


def hidden(image):
    coupling = numpyro.sample("coupling", dist.HalfNormal(1.0))
    spins = numpyro.sample("spins", ebm.EnergyDistribution(ebm.IsingModel((3, 3), coupling)))
    numpyro.sample("image", dist.Normal(spins, 1.0).to_event(2), obs=image)


@pytest.mark.slow
def test_hidden_spins_by_numpyros_gibbs():
    image = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)) + 1.0)

    def field(coupling):
        return ebm.IsingModel((3, 3), coupling, image)  # -(x - s)^2 / 2 = x s + ...

    def sweep(rng_key, gibbs_sites, hmc_sites):
        energy = field(hmc_sites["coupling"])
        return {"spins": energy.gibbs_sweep(rng_key, gibbs_sites["spins"])}

    kernel = HMCGibbs(NUTS(hidden), gibbs_fn=sweep, gibbs_sites=["spins"])
    mcmc = MCMC(kernel, num_warmup=500, num_samples=20_000, progress_bar=False)
    mcmc.run(jr.key(0), image)
    grid = jnp.linspace(1e-3, 6, 600)
    logits = jax.vmap(lambda k: field(k).log_z - ebm.IsingModel((3, 3), k).log_z - k**2 / 2)(
        grid
    )
    probs = jax.nn.softmax(logits)
    mean = probs @ grid
    variance = probs @ (grid - mean) ** 2
    draws = mcmc.get_samples()
    couplings = draws["coupling"][None, :, None]
    assert_moments(couplings, mean[None], variance[None], num_blocks=50, ess_variance=4000)
    means = jnp.tensordot(probs, jax.vmap(lambda k: field(k).mean)(grid), 1)
    np.testing.assert_allclose(draws["spins"].mean(0), means, atol=0.06)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ebm.EnergyDistribution(ISING, support=dist.constraints.boolean),
            "is discrete and knows the values",
        ),
        (
            lambda: ebm.EnergyDistribution(
                ISING + dist.Bernoulli(jnp.full((2, 3), 0.5)).to_event(2)
            ),
            "its experts do not agree on their values",
        ),
        (
            lambda: ebm.EnergyDistribution(lambda x: x, (), support=dist.constraints.boolean),
            "does not say which values its coordinates take",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_kernel_that_cannot_move_them():
    site = ebm.EnergyDistribution(Hidden(ISING), sampler=ebm.HMC())
    with pytest.raises(TypeError, match="moves through real points"):
        site.sample(jr.key(0))
