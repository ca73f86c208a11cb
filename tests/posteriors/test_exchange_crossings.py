"""Exchange in models of many forms whose posterior is the same Gamma distribution."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import assert_means
from intractable import Drawn, Quadratic
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints, transforms
from numpyro.infer import MCMC
from scipy import stats

import numpyro_ebm as ebm
from numpyro_ebm.posteriors import LangevinProposal

X = 0.8 * stats.norm.ppf((np.arange(12) + 0.5) / 12)[[3, 9, 1, 11, 6, 0, 7, 4, 10, 2, 8, 5]]
GRID = X.reshape(3, 4)
SEEN = np.array([True, True, False])
RATES = np.array([0.5, 1.0, 2.0])


def prior():
    return numpyro.sample("theta", dist.Gamma(2.0, 1.0))


def site(precision, Energy=Drawn):
    return ebm.EnergyDistribution(Energy(precision))


def in_two_plates():
    theta = prior()
    with numpyro.plate("row", 3, dim=-2), numpyro.plate("column", 4, dim=-1):
        numpyro.sample("x", site(theta), obs=GRID)


def in_an_event():
    numpyro.sample("x", site(prior()).expand([12]).to_event(1), obs=X)


def in_a_scan():
    theta = prior()

    def body(carry, x):
        numpyro.sample("x", site(theta), obs=x)
        return carry, None

    scan(body, 0.0, jnp.asarray(X))


def in_a_scope():
    with handlers.scope(prefix="inner", hide_types=["sample"]):
        in_two_plates()


def beside_a_likelihood():
    theta = prior()
    with numpyro.plate("some", 4):
        numpyro.sample("x", site(theta), obs=X[:4])
    with numpyro.plate("others", 8):
        numpyro.sample("y", dist.Normal(0, theta**-0.5), obs=X[4:])


def beside_a_factor():
    theta = prior()
    with numpyro.plate("some", 4):
        ebm.factor("x", Drawn(theta), X[:4])
    with numpyro.plate("others", 8):
        numpyro.sample("y", site(theta), obs=X[4:])


def one_energy_per_row():
    energies = jax.vmap(jax.vmap(Drawn))(prior() * RATES[:, None])
    rows = ebm.EnergyDistribution(energies, (), batch_shape=(3, 1))
    with numpyro.plate("row", 3, dim=-2), numpyro.plate("column", 4, dim=-1):
        numpyro.sample("x", rows, obs=GRID / np.sqrt(RATES)[:, None])


def masked_rows():
    rows = site(prior()).expand([3, 4]).to_event(1).mask(SEEN)
    with numpyro.plate("row", 3):
        numpyro.sample("x", rows, obs=GRID)


def masked_coordinates():
    rows = site(prior()).expand([3, 4]).mask(SEEN[:, None]).to_event(1)
    with numpyro.plate("row", 3):
        numpyro.sample("x", rows, obs=np.where(SEEN[:, None], GRID, np.nan))


def conditioned():
    def model():
        precision = prior() * numpyro.sample("scale", dist.Gamma(2.0, 1.0))
        with numpyro.plate("n", 12):
            numpyro.sample("x", site(precision))

    handlers.condition(model, data={"scale": jnp.ones(()), "x": jnp.asarray(X)})()


def substituted():
    def model():
        precision = prior() * numpyro.param("scale", 2.0)
        with numpyro.plate("n", 12):
            numpyro.sample("x", site(precision), obs=X)

    handlers.substitute(model, data={"scale": 1.0})()


def by_chains():
    theta = prior()
    energy = ebm.as_energy(lambda x: 0.5 * theta * jnp.sum(x**2), (3,))
    with numpyro.plate("n", 4):
        numpyro.sample("x", ebm.EnergyDistribution(energy), obs=X.reshape(4, 3))


def given_conditions():
    theta, scales = prior(), jnp.linspace(0.5, 2.0, 12)
    energy = ebm.ConditionalEnergy(lambda x, z: 0.5 * theta * z * x**2, event_shape=())
    each = ebm.EnergyDistribution(eqx.filter_vmap(energy.given)(scales), batch_shape=(12,))
    with numpyro.plate("n", 12):
        numpyro.sample("x", each, obs=X / jnp.sqrt(scales))


def tilted():
    theta = prior()
    energy = ebm.Tilted(
        ebm.as_energy(lambda x: 0.5 * (theta - 1) * x**2, ()), dist.Normal(0.0, 1.0)
    )
    with numpyro.plate("n", 12):
        numpyro.sample("x", ebm.EnergyDistribution(energy), obs=X)


def transformed():
    log = transforms.ExpTransform().inv
    energy = ebm.Transformed(Quadratic(prior()), log)
    positive = ebm.EnergyDistribution(energy, support=constraints.positive)
    with numpyro.plate("n", 12):
        numpyro.sample("x", positive, obs=np.exp(X))


QUICK = [beside_a_likelihood, masked_coordinates]
FEWER = [masked_rows, masked_coordinates]
MODELS = [
    in_two_plates,
    in_an_event,
    in_a_scan,
    in_a_scope,
    beside_a_likelihood,
    beside_a_factor,
    one_energy_per_row,
    masked_rows,
    masked_coordinates,
    conditioned,
    substituted,
    by_chains,
    given_conditions,
    tilted,
    transformed,
]


def run(kernel, num_warmup=300):
    mcmc = MCMC(
        kernel,
        num_warmup=num_warmup,
        num_samples=500,
        num_chains=24,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jr.key(0))
    return mcmc


def assert_posterior(mcmc, seen=X):
    found = mcmc.get_samples(group_by_chain=True)
    theta = np.asarray(found["inner/theta" if "inner/theta" in found else "theta"])
    truth = stats.gamma(2 + seen.size / 2, scale=1 / (1 + (seen**2).sum() / 2))
    assert_means(theta, truth.mean())
    assert_means(theta**2, truth.moment(2))


@pytest.mark.parametrize(
    "model",
    [pytest.param(m, marks=() if m in QUICK else pytest.mark.slow) for m in MODELS],
    ids=lambda model: model.__name__,
)
def test_the_same_posterior_of_each_model(model):
    mcmc = run(ebm.Exchange(model, num_aux_steps=40))
    assert_posterior(mcmc, GRID[SEEN] if model in FEWER else X)


SETTINGS = {
    "AutoMALA": {"auxiliary": ebm.AutoMALA(), "num_aux_steps": 20},
    "AutoMALA with bridges": {"auxiliary": ebm.AutoMALA(), "num_bridges": 3},
    "MALA with bridges": {"auxiliary": ebm.MALA(), "num_bridges": 3},
    "a drift": {"proposal": LangevinProposal()},
    "a drift with bridges": {"proposal": LangevinProposal(), "num_bridges": 3},
}


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_same_posterior_by_each_kernel(settings):
    assert_posterior(run(ebm.Exchange(by_chains, **{"num_aux_steps": 40, **settings})))


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"num_bridges": 3}], ids=["plain", "bridges"])
def test_double_precision(settings, x64):
    mcmc = run(ebm.Exchange(by_chains, num_aux_steps=40, **settings))
    assert mcmc.get_samples()["theta"].dtype == jnp.float64
    assert_posterior(mcmc)


@pytest.mark.slow
def test_a_resumed_run_needs_no_warm_up():
    mcmc = run(ebm.Exchange(by_chains, num_aux_steps=40))
    before = mcmc.get_samples()["theta"]
    mcmc.post_warmup_state = mcmc.last_state
    mcmc.run(jr.key(1))
    assert_posterior(mcmc)
    assert not jnp.isin(before, mcmc.get_samples()["theta"]).mean() > 0.01


@pytest.mark.slow
def test_bridges_raise_the_acceptance():
    """By the same proposals, of twice the spread of the posterior."""
    fixed = dict.fromkeys(["adapt_step_size", "adapt_mass_matrix", "dense_mass"], False)
    accepted = [
        run(ebm.Exchange(in_two_plates, num_bridges=n, **fixed)).get_extra_fields()
        for n in (0, 3, 15)
    ]
    rates = [float(fields["accept_prob"].mean()) for fields in accepted]
    print(rates)
    assert rates[0] + 0.01 < rates[1]
    assert rates[1] + 0.01 < rates[2]
