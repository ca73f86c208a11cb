"""All methods on the same NumPyro models: they agree, and their intervals cover."""

import functools
import warnings

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models import design, of_regression, regression
from sklearn.datasets import load_breast_cancer

import numpyro_ebm as ebm

#: Transitions of the inner kernel that are long enough, and cheap.
HMC = ebm.HMC(num_steps=3, trajectory_length=None)


def stepping_stones(rng_key, energy, num_samples=1000):
    kernel = ebm.ParallelTempering(HMC)
    sizes = {"num_chains": 8, "num_warmup": 500, "num_samples": num_samples}
    draws = ebm.sample(rng_key, energy, kernel, progress_bar=False, **sizes)
    return ebm.tempering_report(draws).log_z


def by(method, rng_key, energy):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # That there is no interval.
        return ebm.log_partition(rng_key, energy, method, progress_bar=False)


METHODS = {
    "SMC": functools.partial(by, ebm.SequentialMonteCarlo()),
    "AIS": functools.partial(by, ebm.AnnealedImportanceSampling(num_temperatures=200)),
    "TI": functools.partial(by, ebm.ThermodynamicIntegration()),
    "bridge": functools.partial(by, ebm.BridgeSampling()),
    "nested": functools.partial(by, ebm.NestedSampling()),
    "stepping stones": stepping_stones,
    "default": functools.partial(by, None),
}


def eight_schools():
    y = jnp.array([28.0, 8, -3, 7, -1, 1, 18, 12])
    sigma = jnp.array([15.0, 10, 16, 11, 9, 11, 10, 18])
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("schools", 8):
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu + tau * z, sigma), obs=y)


def of_eight_schools():
    """The effects integrate out; two dimensions are left."""

    def pooled():
        y = jnp.array([28.0, 8, -3, 7, -1, 1, 18, 12])
        sigma = jnp.array([15.0, 10, 16, 11, 9, 11, 10, 18])
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        tau = numpyro.sample("tau", dist.HalfCauchy(5))
        numpyro.sample("y", dist.Normal(mu, jnp.hypot(sigma, tau)).to_event(1), obs=y)

    return float(
        by(
            ebm.Quadrature([-30.0, -25.0], [30.0, 25.0]), jr.key(0), ebm.ModelEnergy(pooled)
        ).estimate
    )


def counts():
    rng = np.random.default_rng(0)
    x = rng.normal(size=40).astype(np.float32)
    y = rng.poisson(np.exp(0.5 + 0.8 * x))
    a = numpyro.sample("a", dist.Normal(0, 2))
    b = numpyro.sample("b", dist.Normal(0, 2))
    numpyro.sample("y", dist.Poisson(jnp.exp(a + b * x)).to_event(1), obs=y)


def diagnoses():
    data = load_breast_cancer()
    x = (data.data[:, :2] - data.data[:, :2].mean(0)) / data.data[:, :2].std(0)
    a = numpyro.sample("a", dist.Normal(0, 2))
    b = numpyro.sample("b", dist.Normal(0, 2).expand([2]).to_event(1))
    logits = a + jnp.asarray(x, jnp.float32) @ b
    numpyro.sample("y", dist.Bernoulli(logits=logits).to_event(1), obs=jnp.asarray(data.target))


def exact(model):
    if model is eight_schools:
        return of_eight_schools()
    return float(by(None, jr.key(0), ebm.ModelEnergy(model)).estimate)


@pytest.mark.slow
@pytest.mark.parametrize("model", [eight_schools, counts, diagnoses], ids=lambda m: m.__name__)
def test_methods_agree(model):
    truth, energy = exact(model), ebm.ModelEnergy(model)
    found = {name: method(jr.key(1), energy) for name, method in METHODS.items()}
    sound = {name: log_z for name, log_z in found.items() if log_z.ok}
    assert len(sound) >= len(found) - 2, found
    for name, log_z in sound.items():
        assert abs(log_z.estimate - truth) < 3.5 * log_z.std_error + 1e-3, (name, log_z, truth)
        assert log_z.std_error < 0.3, (name, log_z)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SMC", "AIS", "TI", "bridge", "stepping stones"])
def test_intervals_cover(name):
    """Six parameters; .91 to .98 of 200 intervals of 95 % should cover."""
    x, y = design(50, 5)
    truth, energy = of_regression(x, y), ebm.ModelEnergy(regression, x, y)
    covered = []
    for seed in range(200):
        log_z = METHODS[name](jr.key(seed), energy)
        if log_z.ok:
            low, high = log_z.interval(0.95)
            covered.append(low <= truth <= high)
    assert len(covered) > 180
    # Two standard errors of 200 intervals beyond what is asked for.
    assert 0.91 - 0.03 <= np.mean(covered) <= 1, np.mean(covered)
