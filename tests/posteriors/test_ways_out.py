"""What the guard suggests runs, and each way out finds the same posterior."""

import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from helpers import assert_means
from intractable import Spins
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO

import numpyro_ebm as ebm
from numpyro_ebm._types import Array

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
    return [
        " ".join(code.split()) for code in quoted if re.search(r"ebm\.\w+\(|surrogate\(", code)
    ]


def spins(coupling):
    return Spins((3, 3), coupling)


class Problem(NamedTuple):
    """A family of energies, in a model whose site takes them from `make`."""

    family: Callable
    data: Array
    objective: ebm.objectives.AbstractObjective

    def model(self, x, make=None):
        theta = numpyro.sample("precision", dist.Gamma(2.0, 1.0))
        energy = (make or self.family)(theta)
        with numpyro.plate("data", len(x)):
            if self.family is spins:
                ebm.factor("x", energy, x)
            else:
                numpyro.sample("x", ebm.EnergyDistribution(energy), obs=x)

    def generalised(self, x, make):
        make(self.family(numpyro.sample("precision", dist.Gamma(2.0, 1.0))))

    def learned(self, x, make):
        theta = numpyro.param("precision", 1.0, constraint=dist.constraints.positive)
        with numpyro.plate("data", len(x)):
            numpyro.sample("x", ebm.EnergyDistribution(make(self.family(theta))), obs=x)


SHORT = {"num_samples": 10, "num_warmup": 10}


def in_place_of_the_energy(problem, code, names):
    def make(theta):
        return eval(code, {**names, "theta": theta, "energy": problem.family(theta)})

    return draws(NUTS(problem.model), problem.data, make, **SHORT)


def in_place_of_the_site(problem, code, names):
    def make(energy):
        return eval(code, {**names, "energy": energy})

    return draws(NUTS(problem.generalised), problem.data, make, **SHORT)


def before_the_run(problem, code, names):
    exec(code, names)
    assert isinstance(names["surrogate"], ebm.posteriors.SurrogateLogZ)
    return 0.0


def the_same_model(problem, code, names):
    mcmc = eval(code, names)
    mcmc.run(jr.key(1), problem.data)
    return mcmc.get_samples()["precision"]


def under_svi(problem, code, names):
    def make(energy):
        return eval(code, {**names, "energy": energy})

    svi = SVI(problem.learned, lambda *_: None, optax.adam(0.01), Trace_ELBO())
    return svi.run(jr.key(2), 10, problem.data, make, progress_bar=False).losses


#: How the code that contains a name is used.
USES = {
    "ebm.Quadrature": in_place_of_the_energy,
    "normalized_by(energy)": in_place_of_the_energy,
    "surrogate =": before_the_run,
    "surrogate(theta)": in_place_of_the_energy,
    "Exchange": the_same_model,
    "loss_factor": in_place_of_the_site,
    "MonteCarloLogZ": under_svi,
}
#: Real points in one dimension have no sum over states; spins have no integral and no MALA.
PROBLEMS = {
    "normalized_by(energy)": Problem(family, X, ebm.ScoreMatching()),
    "Quadrature MonteCarloLogZ": Problem(
        spins, np.random.default_rng(1).choice([-1.0, 1.0], (20, 3, 3)), ebm.PseudoLikelihood()
    ),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`surrogate_log_z`")
@pytest.mark.parametrize("excluded", PROBLEMS, ids=["real", "spins"])
def test_code_of_the_guard_runs_as_it_is_printed(excluded, monkeypatch):
    short = {"num_points": 8, "num_chains": 8, "num_samples": 50, "max_rounds": 2}
    learn = partial(ebm.surrogate_log_z, **short, progress_bar=False)
    monkeypatch.setattr(ebm, "surrogate_log_z", learn)
    problem = PROBLEMS[excluded]
    names = {
        "ebm": ebm,
        "MCMC": partial(MCMC, progress_bar=False),
        "rng_key": jr.key(0),
        "family": problem.family,
        "prior_draws": dist.Gamma(2.0, 1.0).sample(jr.key(3), (100,)),
        "data": problem.data,
        "low": -9.0,
        "high": 9.0,
        "model": problem.model,
        "name": "x",
        "objective": problem.objective,
        "weight": 1.0,
    }
    codes = printed(refusal(problem.model, problem.data))
    assert len(codes) == len(USES)
    for part, code in zip(USES, codes, strict=True):
        assert part in code
        if not any(word in code for word in excluded.split()):
            found = USES[part](problem, code, names)
            assert np.isfinite(found).all(), code


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
