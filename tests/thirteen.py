"""A network of 13 weights in one dimension, whose posterior NUTS finds."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
from helpers import minimize
from jax.flatten_util import ravel_pytree
from numpyro.infer import MCMC, NUTS
from scipy.stats import norm

import numpyro_ebm as ebm
from numpyro_ebm._trainable import partition_trainable

BOX = ebm.Quadrature(-7.0, 7.0, num_points=201)
OBJECTIVE = ebm.MaximumLikelihood(BOX)
#: Where densities are compared, and where there are data.
GRID = jnp.linspace(-7, 7, 281)
INSIDE = np.abs(np.asarray(GRID)) <= 2.5


class Network(ebm.AbstractEnergy):
    """Four hidden units tilt a Gaussian: 13 weights."""

    network: eqx.nn.MLP
    event_shape = ()

    def __call__(self, x):
        return self.network(x[None]) + x**2 / 8


def modes():
    """200 quantiles of two Gaussians: no random numbers."""
    ranks = (np.arange(1, 101) - 0.5) / 100
    return np.concatenate([norm.ppf(ranks, -1.2, 0.6), norm.ppf(ranks, 1.2, 0.6)])


def penalised(energy):
    """Minus the log-posterior with a standard normal prior on what trains."""
    flat, _ = flattened(energy)
    whole = ebm.unfreeze(energy)
    fit = OBJECTIVE.loss(jr.key(0), whole, None, jnp.asarray(modes()), None)[0]
    return 200 * fit + 0.5 * jnp.sum(flat**2)


def trained():
    """The posterior's mode."""
    network = eqx.nn.MLP(1, "scalar", 4, 1, jnp.tanh, key=jr.key(0))
    return minimize(penalised, Network(network))


def flattened(energy):
    """The weights that train, and the way back."""
    params, rest = partition_trainable(energy)
    flat, unravel = ravel_pytree(params)
    return flat, lambda z: eqx.combine(unravel(z), rest)


def log_densities(energies):
    """On the grid, one row per energy of a pytree with a leading axis."""
    arrays, rest = eqx.partition(energies, eqx.is_array)

    def at(arrays):
        energy = ebm.unfreeze(eqx.combine(arrays, rest))
        return -jax.vmap(energy)(GRID) - BOX.log_z(energy)

    return np.asarray(jax.jit(lambda x: jax.lax.map(at, x, batch_size=64))(arrays))


def exact(energy, num_warmup=500, num_samples=1000):
    """Log-densities under the posterior of all that trains, by NUTS in four chains.

    Hidden units can be permuted, so weights do not mix, and log-densities do.
    """
    flat, rebuild = flattened(energy)

    def model(x):
        z = numpyro.sample("z", dist.Normal(0, 1).expand([flat.size]).to_event(1))
        site = ebm.EnergyDistribution(ebm.normalized_by(ebm.unfreeze(rebuild(z)), BOX))
        with numpyro.plate("data", len(x)):
            numpyro.sample("x", site, obs=x)

    mcmc = MCMC(
        NUTS(model),
        num_warmup=num_warmup,
        num_samples=num_samples,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jr.key(1), jnp.asarray(modes()))
    return log_densities(eqx.filter_vmap(rebuild)(mcmc.get_samples()["z"]))
