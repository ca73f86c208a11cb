r"""Learning an energy inside of a NumPyro model, by a surrogate of $\log Z$."""

from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.contrib.module import eqx_module
from numpyro.distributions import constraints
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoDelta, AutoNormal

import numpyro_ebm as ebm

SURROGATE = ebm.normalizers.MonteCarloLogZ(ebm.MALA(step_size=0.5), 10, num_chains=2000)
DATA = 0.5 * dist.Normal(0, 1).icdf((jnp.arange(1000) + 0.5) / 1000)


def learn(model, guide, *args, num_steps=600, rate=0.05):
    optim = optax.adam(optax.cosine_decay_schedule(rate, num_steps))
    svi = SVI(model, guide, optim, Trace_ELBO())
    return svi.run(jr.key(0), num_steps, *args, progress_bar=False)


def precision_model(data, precision=None, surrogate=SURROGATE):
    if precision is None:
        precision = numpyro.param("precision", 1.0, constraint=constraints.positive)
    energy = ebm.as_energy(lambda x: 0.5 * precision * x**2, ())
    site = ebm.EnergyDistribution(ebm.Normalized(energy, surrogate.log_z(energy)))
    with numpyro.plate("data", len(data)):
        numpyro.sample("x", site, obs=data)


def no_guide(*args):
    pass


def test_svi_recovers_a_precision():
    result = learn(precision_model, no_guide, DATA)
    expected = 1 / np.mean(DATA**2)
    print(f"precision {result.params['precision']:.3f}, expected {expected:.3f}")
    np.testing.assert_allclose(result.params["precision"], expected, rtol=0.03)


@pytest.mark.slow
def test_the_step_size_settles_where_the_kernel_is_tuned():
    """At 1.25 on two standard normals; the acceptance of this kernel is always one."""
    kernel = ebm.UnadjustedMCLMC(step_size=2.0)
    surrogate = ebm.normalizers.MonteCarloLogZ(kernel, 5, num_chains=200)

    def model():
        energy = ebm.as_energy(lambda x: 0.5 * jnp.sum(x**2), (2,))
        numpyro.factor("log_z", -surrogate.log_z(energy) * numpyro.param("scale", 1.0))

    svi = SVI(model, no_guide, optax.sgd(0.0), Trace_ELBO())
    state = svi.run(jr.key(0), 300, progress_bar=False).state
    np.testing.assert_allclose(state.mutable_state["log_z_chains"]["step_size"], 1.25, atol=0.2)


def test_without_the_surrogate_the_guard_refuses():
    nothing = SimpleNamespace(log_z=lambda energy: jnp.zeros(()))
    with pytest.raises(ebm.UnnormalizedError, match="Under SVI"):
        learn(partial(precision_model, surrogate=nothing), no_guide, DATA)


@pytest.mark.slow
def test_a_posterior_mode_by_a_point_guide():
    """Gamma(2, 1) prior: the posterior of the precision is Gamma(2 + n/2, 1 + S/2)."""

    def model(data):
        precision = numpyro.sample("precision", dist.Gamma(2.0, 1.0))
        precision_model(data, precision)

    found = learn(model, AutoDelta(model), DATA).params["precision_auto_loc"]
    shape, rate = 2 + len(DATA) / 2, 1 + float(jnp.sum(DATA**2)) / 2
    np.testing.assert_allclose(found, (shape - 1) / rate, rtol=0.03)


@pytest.mark.slow
def test_a_prior_of_latents_is_learned_with_its_decoder():
    """$z \\sim e^{-az^2/2}$, $x = z + 0.5\\epsilon$: the variance of $x$ is $1/a + 0.25$."""
    x = 1.5 * dist.Normal(0, 1).icdf((jnp.arange(500) + 0.5) / 500)

    def model(x):
        precision = numpyro.param("precision", 1.0, constraint=constraints.positive)
        energy = ebm.as_energy(lambda z: 0.5 * precision * z**2, ())
        prior = ebm.EnergyDistribution(ebm.Normalized(energy, SURROGATE.log_z(energy)))
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", prior)
            numpyro.sample("x", dist.Normal(z, 0.5), obs=x)

    result = learn(model, AutoNormal(model), x, num_steps=1500)
    expected = 1 / (float(jnp.mean(x**2)) - 0.25)
    print(f"precision {result.params['precision']:.3f}, expected {expected:.3f}")
    np.testing.assert_allclose(result.params["precision"], expected, rtol=0.05)


@pytest.mark.slow
def test_a_network_as_the_likelihood():
    net = ebm.MLPEnergy(1, 16, 1, key=jr.key(0))
    reference = dist.Normal(0.0, 1.0).expand([1]).to_event(1)
    data = 0.7 * jr.normal(jr.key(1), (500, 1)) + 0.5

    def model(data):
        energy = ebm.Tilted(eqx_module("net", net), reference)
        site = ebm.EnergyDistribution(ebm.Normalized(energy, SURROGATE.log_z(energy)))
        with numpyro.plate("data", len(data)):
            numpyro.sample("x", site, obs=data)

    params = learn(model, no_guide, data, rate=0.01).params["net$params"]
    fitted = ebm.Tilted(eqx.combine(params, net), reference)
    draws = ebm.sample(
        jr.key(2),
        fitted,
        ebm.MALA(),
        num_chains=500,
        num_warmup=200,
        num_samples=50,
        progress_bar=False,
    ).values
    np.testing.assert_allclose(draws.mean(), data.mean(), atol=0.06)
    np.testing.assert_allclose(draws.std(), data.std(), atol=0.06)


@pytest.mark.parametrize("kernel", [NUTS, ebm.NUTS, ebm.RandomWalkMetropolis])
def test_mcmc_is_refused(kernel):
    def model(data):
        precision_model(data, numpyro.sample("precision", dist.Gamma(2.0, 1.0)))

    mcmc = MCMC(kernel(model), num_warmup=10, num_samples=10, progress_bar=False)
    with pytest.raises(ebm.UnnormalizedError):
        mcmc.run(jr.key(0), DATA)


def test_predictive_runs():
    predictive = Predictive(precision_model, params={"precision": 4.0}, num_samples=3)
    assert predictive(jr.key(0), DATA)["x"].shape == (3, len(DATA))


def test_bad_input():
    seeded = numpyro.handlers.seed(SURROGATE.log_z, 0)
    with pytest.raises(ValueError, match="must know its event shape"):
        seeded(lambda x: x**2)
    with pytest.raises(TypeError, match="`kernel` must be a kernel"):
        ebm.normalizers.MonteCarloLogZ("MALA")
    with pytest.raises(ValueError, match="`num_chains` must be positive"):
        ebm.normalizers.MonteCarloLogZ(num_chains=0)


def two_precisions(data, names, scopes=("", "")):
    for i, (name, scope) in enumerate(zip(names, scopes, strict=True)):
        precision = numpyro.param(f"precision_{i}", 1.0, constraint=constraints.positive)
        energy = ebm.as_energy(lambda x, a=precision: 0.5 * a * x**2, ())
        surrogate = ebm.normalizers.MonteCarloLogZ(ebm.MALA(step_size=0.5), 5, name=name)
        with numpyro.handlers.scope(prefix=scope) if scope else nullcontext():
            log_z = surrogate.log_z(energy)
        with numpyro.plate(f"data_{i}", len(data)):
            site = ebm.EnergyDistribution(ebm.Normalized(energy, log_z))
            numpyro.sample(f"x_{i}", site, obs=(i + 1) * data)


@pytest.mark.parametrize("scopes", [("", ""), ("a", "a")])
def test_two_energies_under_one_name_are_refused(scopes):
    """Chains of one followed the other: its precision grew to 5e15."""
    with pytest.raises(ValueError, match="Two energies share the chains of `chains`"):
        learn(two_precisions, no_guide, DATA, ["chains"] * 2, scopes, num_steps=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "scopes"), [(["one", "two"], ("", "")), (["chains"] * 2, ("a", "b"))]
)
def test_two_energies_under_two_names_are_learned(names, scopes):
    model = partial(two_precisions, names=names, scopes=scopes)
    found = learn(model, no_guide, DATA, num_steps=400).params
    square = np.mean(DATA**2)
    np.testing.assert_allclose(found["precision_0"], 1 / square, rtol=0.05)
    np.testing.assert_allclose(found["precision_1"], 1 / (4 * square), rtol=0.05)
