"""Energies without a constant, and posteriors of their parameters with known moments."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy.special import logsumexp

import numpyro_ebm as ebm


class Hidden(ebm.AbstractEnergy):
    """An energy without its constant, its exact draws, and its blocks."""

    energy: ebm.AbstractEnergy

    @property
    def event_shape(self):
        return self.energy.event_shape

    def __call__(self, x):
        return self.energy(x)


class Quadratic(ebm.AbstractEnergy):
    r"""$\tfrac12\theta x^2$, without a `log_z`."""

    precision: jax.Array
    event_shape: tuple = eqx.field(static=True, default=())

    def __call__(self, x):
        return 0.5 * self.precision * x**2


class Drawn(Quadratic):
    """The same, with exact draws."""

    @property
    def sampler(self):
        return lambda key, shape=(): jr.normal(key, shape) / jnp.sqrt(self.precision)


class Spins(ebm.IsingModel):
    """An Ising model that does not know its constant, and cannot be drawn exactly."""

    @property
    def log_z(self):
        return None

    @property
    def sampler(self):
        return None


def quartic(theta):
    r"""$a x^4/4 - b x^2/2$."""
    a, b = jnp.exp(theta["log_a"]), theta["b"]
    return ebm.as_energy(lambda x: a * x**4 / 4 - b * x**2 / 2, ())


@functools.cache
def quartic_data():
    """The quantiles of the quartic at a = 1, b = 1.5: no random numbers."""
    x = np.linspace(-5, 5, 200_001)
    density = np.exp(-(x**4) / 4 + 1.5 * x**2 / 2)
    cdf = np.concatenate([[0], np.cumsum(density[1:] + density[:-1])])
    return np.interp((np.arange(100) + 0.5) / 100, cdf / cdf[-1], x)


def quartic_model(x, normalized):
    log_a = numpyro.sample("log_a", dist.Normal(0, 1))
    b = numpyro.sample("b", dist.Normal(0, 2))
    with numpyro.plate("data", 100):
        site = ebm.EnergyDistribution(normalized({"log_a": log_a, "b": b}))
        numpyro.sample("x", site, obs=x)


def quartic_prior(size=500):
    """Draws from the prior of the model."""
    rng = np.random.default_rng(0)
    return {"log_a": rng.normal(size=size), "b": 2 * rng.normal(size=size)}


@functools.cache
def quartic_truth(num_data=100, s2=131.248573, s4=294.012018):
    """Means, standard deviations, correlation, and log evidence, by a grid in NumPy."""
    log_a, b = np.meshgrid(
        np.linspace(-1.6, 1.2, 141), np.linspace(-1.5, 4.5, 151), indexing="ij"
    )
    x = np.linspace(-12, 12, 2401)[:, None]
    # One value of log a at a time, to save memory.
    log_z = np.stack(
        [
            logsumexp(-np.exp(la) * x**4 / 4 + row * x**2 / 2, axis=0) + np.log(0.01)
            for la, row in zip(log_a[:, 0], b, strict=True)
        ]
    )
    log_p = -np.exp(log_a) * s4 / 4 + b * s2 / 2 - num_data * log_z
    log_p -= 0.5 * log_a**2 + b**2 / 8 + np.log(4 * np.pi)
    cell = (log_a[1, 0] - log_a[0, 0]) * (b[0, 1] - b[0, 0])
    log_evidence = logsumexp(log_p) + np.log(cell)
    p = np.exp(log_p - logsumexp(log_p))
    mean = np.array([np.sum(p * log_a), np.sum(p * b)])
    apart = log_a - mean[0], b - mean[1]
    sd = np.sqrt([np.sum(p * u**2) for u in apart])
    return mean, sd, np.sum(p * apart[0] * apart[1]) / sd.prod(), log_evidence


def lattice(coupling):
    """4 x 4 spins with free boundaries."""
    return ebm.IsingModel((4, 4), coupling, periodic=False)


def lattice_data():
    """20 configurations of 4 x 4 spins, the sum of whose bonds is 202."""
    states = np.asarray(lattice(0.0).states())
    bonds = -np.asarray(_bonds(states))
    tens, twelves = (states[bonds == n] for n in (10, 12))
    chosen = np.random.default_rng(0).choice(len(tens), 19, replace=False)
    return np.concatenate([tens[chosen], twelves[:1]])


def _bonds(states):
    return -np.sum(states[:, 1:] * states[:, :-1], (1, 2)) - np.sum(
        states[..., 1:] * states[..., :-1], (1, 2)
    )


def lattice_model(spins, normalized):
    coupling = numpyro.sample("K", dist.Normal(0, 1))
    with numpyro.plate("data", 20):
        ebm.factor("spins", normalized(coupling), spins)


#: The exact posterior mean and standard deviation of the coupling.
LATTICE = 0.364027, 0.038311
