"""Networks that SVI has trained, out of its parameters."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro import handlers
from numpyro.contrib.module import eqx_module
from numpyro.infer import SVI, Trace_ELBO

import numpyro_ebm as ebm
from numpyro_ebm.sites import trained_module

NETWORK = eqx.nn.MLP(1, "scalar", 8, 1, jax.nn.silu, key=jr.key(0))
GRID = jnp.linspace(-6, 6, 241)
DATA = 1.0 + 0.5 * jr.normal(jr.key(1), (500,))


def density(network):
    """A network of one number as an energy, normalised on a grid."""
    energy = ebm.Tilted(lambda x: network(x[None]), dist.Normal(0, 2))
    log_z = jax.nn.logsumexp(-jax.vmap(energy)(GRID)) + jnp.log(GRID[1] - GRID[0])
    return ebm.Normalized(energy, log_z)


def model(x):
    site = ebm.EnergyDistribution(density(eqx_module("net", NETWORK)), ())
    with numpyro.plate("n", len(x)):
        numpyro.sample("x", site, obs=x)


def trained(fn=model, num_steps=300):
    svi = SVI(fn, lambda x: None, optax.adam(0.02), Trace_ELBO())
    return svi.run(jr.key(2), num_steps, DATA, progress_bar=False).params


def test_a_trained_energy_comes_out_of_svi():
    energy = density(trained_module(trained(), "net", NETWORK))
    weights = jnp.exp(-jax.vmap(energy)(GRID) - energy.log_z) * (GRID[1] - GRID[0])
    mean = weights @ GRID
    spread = jnp.sqrt(weights @ (GRID - mean) ** 2)
    np.testing.assert_allclose([mean, spread], [DATA.mean(), DATA.std()], atol=0.05)
    assert abs(density(NETWORK).partition.estimate - energy.log_z) > 0.1
    draws = ebm.sample(jr.key(3), energy, ebm.HMC(), num_samples=200, progress_bar=False)
    np.testing.assert_allclose(draws.values.mean(), mean, atol=0.1)


def test_it_keeps_what_is_not_trained_and_works_in_a_scope():
    params = trained(handlers.scope(model, prefix="outer"), 2)
    network = trained_module(params, "outer/net", NETWORK)
    assert network.activation is NETWORK.activation
    assert not jnp.array_equal(network.layers[0].weight, NETWORK.layers[0].weight)


@pytest.mark.parametrize(
    ("name", "template", "message"),
    [
        ("ned", NETWORK, r"no network named 'ned', only \['net'\]"),
        ("net", eqx.nn.MLP(1, "scalar", 9, 1, key=jr.key(0)), "`template` must be"),
        ("net", eqx.nn.MLP(1, "scalar", 8, 2, key=jr.key(0)), "`template` must be"),
    ],
)
def test_bad_input(name, template, message):
    params = {"net$params": eqx.filter(NETWORK, eqx.is_inexact_array), "scale": jnp.ones(())}
    with pytest.raises(ValueError, match=message):
        trained_module(params, name, template)
