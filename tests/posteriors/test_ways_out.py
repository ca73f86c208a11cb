"""What the guard suggests runs, and each way out finds the same posterior."""

import re
from functools import partial

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from helpers import assert_means
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO

import numpyro_ebm as ebm

X = np.random.default_rng(0).normal(size=50) / np.sqrt(2)
#: The posterior of a precision is a Gamma distribution.
POSTERIOR = dist.Gamma(2 + len(X) / 2, 1 + (X**2).sum() / 2)


def family(precision):
    return ebm.as_energy(lambda x: 0.5 * precision * x**2, ())


def model(x, make=family):
    precision = numpyro.sample("precision", dist.Gamma(2.0, 1.0))
    with numpyro.plate("data", len(x)):
        numpyro.sample("x", ebm.EnergyDistribution(make(precision)), obs=x)


def without_constant(x, weight=1.0):
    precision = numpyro.sample("precision", dist.Gamma(2.0, 1.0))
    ebm.loss_factor("x", ebm.ScoreMatching(), family(precision), x, weight=weight)


def draws(kernel, *args, num_samples=1000, num_warmup=500):
    mcmc = MCMC(
        kernel,
        num_warmup=num_warmup,
        num_samples=num_samples,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jr.key(1), *args)
    return np.asarray(mcmc.get_samples(group_by_chain=True)["precision"])


def by_exact_constant():
    return draws(
        NUTS(model), X, lambda p: ebm.normalized_by(family(p), ebm.Quadrature(-9.0, 9.0))
    )


def by_surrogate():
    surrogate = ebm.surrogate_log_z(
        jr.key(0),
        family,
        (0.2, 8.0),
        data=X,
        support=dist.constraints.positive,
        progress_bar=False,
    )
    return draws(NUTS(model), X, surrogate)


def by_exchange():
    return draws(ebm.Exchange(model), X, num_samples=3000)


WAYS = {
    "normalized_by": by_exact_constant,
    "surrogate_log_z": by_surrogate,
    "Exchange": by_exchange,
}


def refusal(model, *args):
    with pytest.raises(ebm.UnnormalizedError) as error:
        draws(ebm.NUTS(model), *args)
    return str(error.value)


def test_the_guard_names_all_ways():
    message = refusal(model, X)
    named = re.findall(r"ebm\.(\w+)", message)
    ways = [*WAYS, "loss_factor"]
    assert [name for name in dict.fromkeys(named) if name in ways] == ways
    assert all(hasattr(ebm, name) for name in (*named, "calibrate_weight"))


def printed(message):
    """The code of a message, as it stands."""
    quoted = re.findall(r"`([^`]*)`", message)
    return [" ".join(code.split()) for code in quoted if re.search(r"ebm\.\w+\(", code)]


PRIOR = dist.Gamma(2.0, 1.0)


def under_svi(code, names):
    """`energy` as printed, learned inside of a model."""

    def learned(data):
        precision = numpyro.param("precision", 1.0, constraint=dist.constraints.positive)
        energy = eval(code, {**names, "energy": family(precision)})
        with numpyro.plate("data", len(data)):
            numpyro.sample("x", ebm.EnergyDistribution(energy), obs=data)

    svi = SVI(learned, lambda data: None, optax.adam(0.01), Trace_ELBO())
    return svi.run(jr.key(2), 10, X, progress_bar=False).losses


def in_place_of_the_energy(code, names):
    return draws(NUTS(model), X, lambda p: eval(code, {**names, "energy": family(p)}), **SHORT)


def in_place_of_the_site(code, names):
    def generalised(x):
        energy = family(numpyro.sample("precision", PRIOR))
        eval(code, {**names, "energy": energy, "data": x})

    return draws(NUTS(generalised), X, **SHORT)


def before_the_run(code, names):
    exec(code, names)  # This binds `surrogate`.
    return draws(NUTS(model), X, lambda theta: names["surrogate"](theta), **SHORT)


def the_same_model(code, names):
    mcmc = eval(code, names)
    mcmc.run(jr.key(1), X)
    return mcmc.get_samples()["precision"]


def of_spins(code, names):
    """The other suggestions for real points have their counterpart for spins."""

    def spins(x):
        energy = ebm.IsingModel((3, 5), numpyro.sample("precision", dist.Normal(0, 1)))
        energy = energy if code is None else eval(code, {**names, "energy": energy})
        ebm.factor("x", energy, x)

    x = jnp.ones((3, 5))
    with pytest.raises(ebm.UnnormalizedError, match=re.escape(code)):
        ebm.sites.check_normalization(spins, x)
    return draws(NUTS(spins), x, **SHORT)


SHORT = {"num_samples": 10, "num_warmup": 10}
#: How the code that contains a name is used; each piece of a message must be in one.
USES = {
    "MonteCarloLogZ": under_svi,
    "normalized_by(energy, ": in_place_of_the_energy,
    "normalized_by(energy)": of_spins,
    "surrogate_log_z": before_the_run,
    "Exchange": the_same_model,
    "loss_factor": in_place_of_the_site,
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`surrogate_log_z`")
def test_code_of_the_guard_runs_as_it_is_printed():
    codes = printed(refusal(model, X))
    for code in codes:
        use = next(use for part, use in USES.items() if part in code)
        names = {
            "ebm": ebm,
            "MCMC": partial(MCMC, progress_bar=False),
            "rng_key": jr.key(0),
            "family": family,
            "prior_draws": PRIOR.sample(jr.key(3), (100,)),
            "data": X,
            "low": -9.0,
            "high": 9.0,
            "model": model,
            "name": "x",
            "objective": ebm.ScoreMatching(),
            "weight": 1.0,
        }
        assert np.isfinite(use(code, names)).all(), code
    assert len(codes) == 6


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_each_way_finds_the_posterior(way):
    found = way()[..., None]
    mean, variance = float(POSTERIOR.mean), float(POSTERIOR.variance)
    assert_means(np.concatenate([found, (found - mean) ** 2], -1), [mean, variance])


@pytest.mark.slow
def test_without_a_constant_the_spread_is_that_of_the_estimate():
    """Score matching estimates a precision as well as maximum likelihood does."""
    calibration = ebm.calibrate_weight(jr.key(0), without_constant, X)
    found = draws(NUTS(without_constant), X, calibration.weight)
    assert found.mean() == pytest.approx(float(POSTERIOR.mean), rel=0.1)
    assert found.std() == pytest.approx(float(jnp.sqrt(POSTERIOR.variance)), rel=0.35)
