"""Every kernel on every kind of support, by every driver: right, or refused by name."""

import helpers
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import EXACT, SPIN_KERNELS, assert_means, tempered
from numpyro.distributions import constraints
from numpyro.infer import MCMC

import numpyro_ebm as ebm

KERNELS = {
    **helpers.KERNELS,
    **SPIN_KERNELS,
    "ParallelTempering": tempered,
    "tempered spins": lambda **target: ebm.ParallelTempering(
        ebm.GibbsWithGradients(**target), [1.0, 2.0]
    ),
}
OF_SPINS = {*SPIN_KERNELS, "tempered spins"}
#: Biased: right up to a few per cent of a standard deviation.
BIASED = helpers.KERNELS.keys() - EXACT.keys()


class Gammas(ebm.AbstractEnergy):
    """Gamma(3, 2), coordinate by coordinate, without a wall at zero."""

    event_shape = (2,)

    @property
    def support(self):
        return constraints.positive

    def __call__(self, x):
        return jnp.sum(2 * x - 2 * jnp.log(jnp.abs(x)))


def tree(z):
    """A gamma, log-transformed, and a correlated pair, as a potential over a dict."""
    return (
        2 * jnp.exp(z["a"])
        - 3 * z["a"]
        + 0.5 * (z["b"] @ jnp.array([[1.0, 0.5], [0.5, 1.0]]) @ z["b"])
    )


ISING = ebm.IsingModel((2, 3), 0.3, 0.2)
#: Energies, a statistic of a point, its mean, and a start of chains where one is needed.
TARGETS = {
    "real": (
        lambda: ebm.Gaussian(np.array([1.0, -2.0]), np.array([[1.0, 0.6], [0.6, 2.0]])),
        lambda x: jnp.stack([x[0], x[1], x[0] * x[1]]),
        [1.0, -2.0, -1.4],
        None,
    ),
    "positive": (Gammas, lambda x: jnp.concatenate([x, x[:1] ** 2]), [1.5, 1.5, 3.0], None),
    "simplex": (
        lambda: ebm.as_energy(dist.Dirichlet(jnp.array([2.0, 3.0, 5.0]))),
        lambda x: jnp.append(x, x[0] ** 2),
        [0.2, 0.3, 0.5, 0.6 / 11],
        None,
    ),
    "spins": (
        lambda: ISING,
        lambda x: jnp.stack([x.mean(), x[0, 0] * x[0, 1], x[0, 0] * x[1, 2]]),
        None,
        None,
    ),
    "tree": (
        lambda: tree,
        lambda z: jnp.append(jnp.exp(z["a"]), z["b"][0] * z["b"][1]),
        [1.5, -2 / 3],
        lambda n: {"a": jnp.zeros(n), "b": jnp.zeros((n, 2))},
    ),
}
NUM_CHAINS = 64


def by_sample(Kernel, energy, start):
    init = None if start is None else start(NUM_CHAINS)
    kwargs = {"num_warmup": 400, "num_samples": 400, "progress_bar": False}
    draws = ebm.sample(
        jr.key(1), energy, Kernel(), num_chains=NUM_CHAINS, init_params=init, **kwargs
    )
    return draws.values


def run(kernel, start):
    mcmc = MCMC(
        kernel,
        num_warmup=400,
        num_samples=400,
        num_chains=NUM_CHAINS,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jr.key(1), init_params=None if start is None else start(NUM_CHAINS))
    return mcmc.get_samples(group_by_chain=True)


def by_potential(Kernel, energy, start):
    return run(Kernel(potential_fn=energy), start)


def by_model(Kernel, energy, start):
    if not isinstance(energy, ebm.AbstractEnergy):
        energy = None

    def model():
        if energy is not None:
            numpyro.sample("x", ebm.EnergyDistribution(energy))
            return
        a = numpyro.sample("a", dist.ImproperUniform(constraints.real, (), ()))
        b = numpyro.sample("b", dist.ImproperUniform(constraints.real, (), (2,)))
        numpyro.factor("tree", -tree({"a": a, "b": b}))

    samples = run(Kernel(model=model), None)
    return samples["x"] if energy is not None else samples


DRIVERS = {"sample": by_sample, "potential": by_potential, "model": by_model}


def refusal(kernel, target, driver):
    """What is refused, and in which words."""
    if driver == "model" and (kernel in OF_SPINS or target == "spins"):
        return "takes a discrete energy as `potential_fn`|does not have enumerate support"
    if target == "spins" and kernel not in OF_SPINS:
        return "moves through real points"
    if target != "spins" and kernel in OF_SPINS:
        return "needs an energy"
    return None


def crossings():
    for kernel in KERNELS:
        for target in TARGETS:
            for driver in DRIVERS:
                quick = refusal(kernel, target, driver) or (
                    kernel == "MALA" and driver != "model" and target != "real"
                )
                marks = () if quick else pytest.mark.slow
                yield pytest.param(kernel, target, driver, marks=marks)


@pytest.mark.parametrize(("kernel", "target", "driver"), list(crossings()))
def test_a_crossing_is_right_or_refused(kernel, target, driver):
    make, statistic, mean, start = TARGETS[target]
    message = refusal(kernel, target, driver)
    if message is not None:
        with pytest.raises((TypeError, ValueError, RuntimeError), match=message):
            DRIVERS[driver](KERNELS[kernel], make(), start)
        return
    draws = DRIVERS[driver](KERNELS[kernel], make(), start)
    values = np.asarray(jax.vmap(jax.vmap(statistic))(draws), float)
    if mean is None:
        states = ISING.states()
        mean = jax.nn.softmax(-jax.vmap(ISING)(states)) @ jax.vmap(statistic)(states)
    if kernel in BIASED:
        error = np.abs(values.mean((0, 1)) - mean) / values.std((0, 1))
        assert error.max() < 0.1, error
    else:
        assert_means(values, mean)
