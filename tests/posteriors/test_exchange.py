"""The exchange algorithm, against conjugate, enumerated and quadrature posteriors."""

import pickle
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import assert_means, assert_uniform
from intractable import Drawn, Quadratic, Spins
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.infer import MCMC, NUTS, DiscreteGibbs, Gibbs
from scipy import stats

import numpyro_ebm as ebm
from numpyro_ebm.posteriors import LangevinProposal
from numpyro_ebm.posteriors._auxiliary import AuxiliaryMove

QUIET = {"progress_bar": False}


#: 50 quantiles of a normal with the sum of squares of the published truth.
QUANTILES = stats.norm.ppf((np.arange(50) + 0.5) / 50)
X = QUANTILES * np.sqrt(26.54148 / np.sum(QUANTILES**2))
POSTERIOR = stats.gamma(2 + 25, scale=1 / (1 + 26.54148 / 2))


def precision_model(Energy):
    def model(x):
        theta = numpyro.sample("theta", dist.Gamma(2.0, 1.0))
        with numpyro.plate("n", len(x)):
            numpyro.sample("x", ebm.EnergyDistribution(Energy(theta)), obs=x)

    return model


def run(kernel, *args, num_warmup=300, num_samples=400, num_chains=32, method="vectorized"):
    mcmc = MCMC(
        kernel,
        num_warmup=num_warmup,
        num_samples=num_samples,
        num_chains=num_chains,
        chain_method=method,
        **QUIET,
    )
    mcmc.run(jr.key(0), *args)
    return mcmc


def draws(mcmc, name):
    return np.asarray(mcmc.get_samples(group_by_chain=True)[name])


def assert_precision(mcmc):
    theta = draws(mcmc, "theta")
    assert_means(theta, POSTERIOR.mean())
    assert_means(theta**2, POSTERIOR.moment(2))


KERNELS = {
    "random walk": {},
    "Langevin": {"proposal": LangevinProposal(), "num_aux_sets": 1},
    "bridges": {"num_bridges": 5},
}


@pytest.mark.parametrize("settings", KERNELS.values(), ids=KERNELS)
def test_exact_draws_give_the_conjugate_posterior(settings):
    mcmc = run(ebm.Exchange(precision_model(Drawn), **settings), X)
    assert_precision(mcmc)
    assert np.isnan(mcmc.get_extra_fields()["move_state.aux_accept_prob"]).all()


def without_a_ratio(draw):
    def mutant(self, *args):
        drawn = draw(self, *args)
        return drawn._replace(log_ratio=jnp.zeros_like(drawn.log_ratio))

    return mutant


def stale(draw):
    return lambda self, rng_key, *args: draw(self, jr.key(0), *args)


def drawn_at_the_old_parameters(draw):
    def mutant(self, rng_key, new, old, *args):
        drawn = draw(self, rng_key, old, new, *args)
        return drawn._replace(log_ratio=-drawn.log_ratio)

    return mutant


MUTANTS = [without_a_ratio, stale, drawn_at_the_old_parameters]


@pytest.mark.parametrize("mutate", MUTANTS, ids=lambda f: f.__name__)
def test_mutants_of_the_auxiliary_ratio_fail(mutate, monkeypatch):
    monkeypatch.setattr(AuxiliaryMove, "draw", mutate(AuxiliaryMove.draw))
    mcmc = run(ebm.Exchange(precision_model(Drawn)), X)
    with pytest.raises((AssertionError, RuntimeWarning)):  # One diverges, and overflows.
        assert_precision(mcmc)


def test_the_bias_of_chains_shrinks_and_the_report_sees_it():
    kernel = ebm.Exchange(precision_model(Quadratic), num_aux_steps=2)
    short = run(kernel, X, num_chains=8)
    report = ebm.exchange_report(jr.key(1), short)
    assert draws(short, "theta").var() > 2 * POSTERIOR.var()
    assert not report.ok
    assert "the posterior is too wide" in repr(report)
    assert report.table["share"].values[0] < 0.85
    stats_ = short.get_extra_fields()
    half, full = (
        stats_[f"move_state.exchange_log_ratio{part}"].mean() for part in ("_half", "")
    )
    assert 0 > half > full


@pytest.mark.slow
def test_long_chains_have_no_bias_that_shows():
    mcmc = run(ebm.Exchange(precision_model(Quadratic), auxiliary=ebm.MALA()), X)
    assert_precision(mcmc)
    report = ebm.exchange_report(jr.key(1), mcmc)
    assert report.ok, report
    assert "see `ebm.exchange_report" in repr(ebm.mixing_report(mcmc))
    noisy = run(ebm.Exchange(precision_model(Quadratic), num_aux_sets=8), X)
    assert_means(draws(noisy, "theta"), POSTERIOR.mean())


def lattices():
    """20 lattices with 202 more satisfied bonds than broken ones."""
    model = ebm.IsingModel((4, 4), 1.0, periodic=False)
    states = model.states()
    bonds = np.asarray(-jax.vmap(model)(states))
    ten, twelve = (np.flatnonzero(bonds == n) for n in (10, 12))
    chosen = np.append(ten[:: len(ten) // 19][:19], twelve[0])
    assert bonds[chosen].sum() == 202
    return np.asarray(states)[chosen]


def ising_model(spins):
    coupling = numpyro.sample("K", dist.Normal(0, 1))
    energy = Spins((4, 4), coupling, periodic=False)
    with numpyro.plate("n", len(spins)):
        ebm.factor("spins", energy, spins)


def assert_coupling(kernel, num_warmup, num_samples):
    mcmc = run(
        kernel, lattices(), num_chains=24, num_warmup=num_warmup, num_samples=num_samples
    )
    coupling = draws(mcmc, "K")
    assert_means(coupling, 0.364027)
    assert_means((coupling - 0.364027) ** 2, 0.038311**2)


def test_the_coupling_of_an_ising_model():
    assert_coupling(ebm.Exchange(ising_model, num_aux_steps=8), 100, 300)


@pytest.mark.slow
def test_the_coupling_of_an_ising_model_by_single_flips():
    kernel = ebm.Exchange(ising_model, auxiliary=ebm.GibbsWithGradients())
    assert_coupling(kernel, 100, 300)


COVARIATES = np.linspace(0.5, 2.0, 12)
TIMES = np.linspace(0.1, 1.5, 12) / COVARIATES
SEEN = np.arange(12) < 5


def rates_model(times, seen):
    """One energy per datum, on the positive axis; seven data are masked."""
    rate = numpyro.sample("rate", dist.Gamma(3.0, 1.0))
    energies = jax.vmap(Linear)(rate * COVARIATES)
    site = ebm.EnergyDistribution(
        energies, (), support=constraints.positive, batch_shape=(len(times),)
    )
    with numpyro.plate("n", len(times)), handlers.mask(mask=seen):
        numpyro.sample("times", site, obs=times)


class Linear(eqx.Module):
    rate: jax.Array

    def __call__(self, x):
        return self.rate * x


def test_energies_with_covariates_a_support_and_a_mask():
    """Masked data are missing; their chains, all rejected, once tuned the others' step."""
    kernel = ebm.Exchange(rates_model, num_aux_steps=30)
    times = np.where(SEEN, TIMES, np.nan)
    rate = draws(run(kernel, times, SEEN, num_chains=12, num_warmup=200), "rate")
    truth = stats.gamma(3 + 5, scale=1 / (1 + np.sum((COVARIATES * TIMES)[SEEN])))
    assert_means(rate, truth.mean())
    assert_means(rate**2, truth.moment(2))


@pytest.mark.parametrize("method", ["sequential", "parallel", "vectorized"])
def test_chain_methods_and_arviz(method):
    kernel = ebm.Exchange(precision_model(Drawn))
    mcmc = run(kernel, X, num_warmup=20, num_samples=20, num_chains=2, method=method)
    tree = ebm.to_arviz(mcmc)
    assert tree["posterior"]["theta"].shape == (2, 20)
    names = {"exchange_log_ratio", "exchange_log_ratio_half", "aux_accept_prob"}
    assert names <= set(tree["sample_stats"])
    mcmc.post_warmup_state = mcmc.last_state
    mcmc.run(jr.key(1), X)
    assert np.isfinite(draws(mcmc, "theta")).all()


def test_it_pickles_and_compares_by_value():
    model = precision_model(Drawn)
    assert ebm.Exchange(model) == ebm.Exchange(model) != ebm.Exchange(model, num_aux_steps=7)
    assert hash(ebm.Exchange(model)) == hash(ebm.Exchange(model))
    kernel = pickle.loads(pickle.dumps(ebm.Exchange(ising_model)))
    assert kernel.model is ising_model


def nothing_unknown(x):
    numpyro.sample("x", dist.Normal(numpyro.sample("m", dist.Normal(0, 1)), 1), obs=x[0])


def scaled(x):
    with handlers.scale(scale=2.0):
        precision_model(Quadratic)(x)


def subsampled(x):
    theta = numpyro.sample("theta", dist.Gamma(2.0, 1.0))
    with numpyro.plate("n", 50, subsample_size=10) as i:
        numpyro.sample("x", ebm.EnergyDistribution(Quadratic(theta)), obs=jnp.asarray(x)[i])


def learned(x):
    theta = numpyro.param("theta", 1.0, constraint=constraints.positive)
    numpyro.sample("m", dist.Normal(0, 1))
    numpyro.sample("x", ebm.EnergyDistribution(Quadratic(theta)), obs=x[0])


def discrete(x):
    z = numpyro.sample("z", dist.Bernoulli(0.5))
    theta = numpyro.sample("theta", dist.Gamma(2.0, 1.0 + z))
    numpyro.sample("x", ebm.EnergyDistribution(Quadratic(theta), batch_shape=()), obs=x[0])


def two_values(x):
    theta = numpyro.sample("theta", dist.Gamma(2.0, 1.0))
    y = numpyro.sample("y", dist.Normal(0, 1))
    ebm.factor("f", lambda x, y: theta * (x - y) ** 2, x[0], y)


def masked_by_a_latent_site(x):
    theta = numpyro.sample("theta", dist.Gamma(2.0, 1.0))
    with numpyro.plate("n", len(x)), handlers.mask(mask=theta > 1):
        numpyro.sample("x", ebm.EnergyDistribution(Quadratic(theta)), obs=x)


def moved(x):
    theta = numpyro.sample("theta", dist.Gamma(2.0, 1.0))
    site = ebm.EnergyDistribution(Quadratic(theta))
    transform = dist.transforms.AffineTransform(1.0, 2.0)
    numpyro.sample("x", dist.TransformedDistribution(site, transform), obs=x[0])


def latent_in_a_factor(x):
    theta = numpyro.sample("theta", dist.Gamma(2.0, 1.0))
    ebm.factor("f", Quadratic(theta), numpyro.sample("y", dist.Normal(0, 1)))


REFUSED = {
    nothing_unknown: "has nothing to exchange",
    scaled: "is scaled, by a subsample or `handlers.scale`",
    subsampled: "is scaled, by a subsample or `handlers.scale`",
    learned: "`theta`, a `numpyro.param`, which MCMC does not sample",
    discrete: "moves continuous sites, and `z` is discrete",
    two_values: "is not an energy of one value",
    masked_by_a_latent_site: "The mask of site `x` depends on `theta`",
    moved: "A transformed one is",
    latent_in_a_factor: "depends on `y`, which is sampled here",
}


@pytest.mark.parametrize("model", REFUSED, ids=lambda f: f.__name__)
def test_what_it_cannot_do_it_refuses(model):
    with pytest.raises(ValueError, match=REFUSED[model]):
        ebm.Exchange(model).init(jr.key(0), 10, None, (X,), {})


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="`Exchange` needs a `model`"):
        ebm.Exchange()
    with pytest.raises(ValueError, match="must have neither `model` nor `potential_fn`"):
        ebm.Exchange(ising_model, auxiliary=ebm.MALA(potential_fn=Quadratic(jnp.ones(()))))
    kernel = ebm.Exchange(ising_model, auxiliary=ebm.MALA())
    with pytest.raises(TypeError, match="moves through real points"):
        kernel.init(jr.key(0), 10, None, (lattices(),), {})
    other = MCMC(NUTS(ising_model), num_warmup=1, num_samples=1)
    with pytest.raises(ValueError, match="must be an `MCMC` whose kernel is an `ebm"):
        ebm.exchange_report(jr.key(0), other)


def test_nan_is_never_accepted():
    """An energy that is NaN beyond a value of its parameter confines the chain."""

    class Broken(Drawn):
        def __call__(self, x):
            return jnp.where(self.precision > 2, jnp.nan, super().__call__(x))

    mcmc = run(ebm.Exchange(precision_model(Broken)), X, num_chains=2, num_samples=200)
    assert (draws(mcmc, "theta") <= 2).all()
    assert mcmc.get_extra_fields()["diverging"].any()


def quartic_data():
    """The quantiles of the quartic density at (1, 1.5), which need no random numbers."""
    grid = np.linspace(-6, 6, 200_001)
    density = np.exp(-(grid**4) / 4 + 1.5 * grid**2 / 2)
    cdf = np.cumsum(density) - 0.5 * density
    return np.interp((np.arange(100) + 0.5) / 100, cdf / density.sum(), grid)


class Quartic(eqx.Module):
    a: jax.Array
    b: jax.Array

    def __call__(self, x):
        return self.a * x**4 / 4 - self.b * x**2 / 2


def quartic_model(x):
    a = numpyro.sample("a", dist.LogNormal(0.0, 1.0))
    b = numpyro.sample("b", dist.Normal(0.0, 2.0))
    with numpyro.plate("n", len(x)):
        numpyro.sample("x", ebm.EnergyDistribution(Quartic(a, b), ()), obs=x)


@pytest.mark.slow
def test_a_quartic_energy_without_conjugacy():
    kernel = ebm.Exchange(quartic_model, auxiliary=ebm.MALA(), num_aux_steps=200)
    mcmc = run(kernel, quartic_data(), num_chains=16, num_samples=1600)
    log_a, b = np.log(draws(mcmc, "a")), draws(mcmc, "b")
    assert_means(log_a, -0.050907)
    assert_means(b, 1.429960)
    assert_means((log_a + 0.050907) ** 2, 0.261691**2)
    assert_means((b - 1.429960) ** 2, 0.477061**2)
    cross = (log_a + 0.050907) * (b - 1.429960)
    assert_means(cross, 0.917102 * 0.261691 * 0.477061)


def geweke(num_chains=256, num_steps=400):
    """$\theta$ of chains that alternate between new data and a transition: its prior."""
    kernel = ebm.Exchange(precision_model(Drawn), step_size=0.7, adapt_step_size=False)
    num_data = 5

    def data(rng_key, theta):
        return jr.normal(rng_key, (num_data,)) / jnp.sqrt(theta)

    def step(state, rng_key):
        x = data(rng_key, jnp.exp(state.z["theta"]))
        state = kernel.sample(kernel.refresh(state, (x,), {}), (x,), {})
        return state, state.z["theta"]

    def chain(rng_key):
        prior_key, data_key, init_key, run_key = jr.split(rng_key, 4)
        theta = dist.Gamma(2.0, 1.0).sample(prior_key)
        start = {"theta": jnp.log(theta)}
        state = kernel.init(init_key, 0, start, (data(data_key, theta),), {})
        return jax.lax.scan(step, state, jr.split(run_key, num_steps))[1]

    return jax.jit(jax.vmap(chain))(jr.split(jr.key(3), num_chains))


def assert_prior(log_theta):
    assert_means(log_theta, float(stats.loggamma(2).mean()))
    assert_means(np.exp(log_theta), 2.0)


def test_geweke_finds_the_prior():
    assert_prior(geweke())


@pytest.mark.parametrize("mutate", MUTANTS[:2], ids=lambda f: f.__name__)
def test_geweke_sees_the_mutants(mutate, monkeypatch):
    monkeypatch.setattr(AuxiliaryMove, "draw", mutate(AuxiliaryMove.draw))
    with pytest.raises((AssertionError, RuntimeWarning)):
        assert_prior(geweke())


@pytest.mark.slow
def test_simulation_based_calibration():
    kernel = ebm.Exchange(precision_model(Quadratic), num_aux_steps=50)
    num_draws, thin, num_warmup = 49, 10, 200

    def replicate(rng_key):
        prior_key, data_key, run_key = jr.split(rng_key, 3)
        theta = dist.Gamma(2.0, 1.0).sample(prior_key)
        x = jr.normal(data_key, (10,)) / jnp.sqrt(theta)
        state = kernel.init(run_key, num_warmup, None, (x,), {})

        def step(state, _):
            state = kernel.sample(state, (x,), {})
            return state, state.z["theta"]

        _, z = jax.lax.scan(step, state, length=num_warmup + num_draws * thin)
        return jnp.sum(jnp.exp(z[num_warmup::thin]) < theta)

    ranks = jax.jit(jax.vmap(replicate))(jr.split(jr.key(4), 200))
    assert_uniform(ranks, num_draws)


FIELD = np.array([[1.2, 0.8, -0.4], [0.9, 1.5, 0.2], [-1.1, 0.3, -0.7]])


def hidden_model(y):
    coupling = numpyro.sample("K", dist.Normal(0, 0.5))
    with numpyro.plate("row", 3, dim=-2), numpyro.plate("column", 3, dim=-1):
        up = numpyro.sample("up", dist.Bernoulli(0.5))
        numpyro.sample("y", dist.Normal(2.0 * up - 1, 1.0), obs=y)
    ebm.factor("spins", Spins((3, 3), coupling, periodic=False), 2.0 * up - 1)


@pytest.mark.slow
def test_a_hidden_field_in_a_block_of_gibbs():
    """Against the sum over all lattices, on a grid of couplings."""
    energy = ebm.IsingModel((3, 3), 1.0, periodic=False)
    states = np.asarray(energy.states())
    bonds = -np.asarray(jax.vmap(energy)(states))
    seen = stats.norm(states, 1.0).logpdf(FIELD).sum((1, 2))
    grid = np.linspace(-3, 3, 2001)
    joint = grid[:, None] * bonds + seen
    log_z = np.log(np.exp(grid[:, None] * bonds).sum(1))
    weight = np.exp(joint).sum(1) * np.exp(-log_z) * stats.norm(0, 0.5).pdf(grid)
    weight /= weight.sum()
    up = np.exp(joint - joint.max(1, keepdims=True))
    up /= up.sum(1, keepdims=True)
    corner = weight @ (up @ (states[:, 0, 0] > 0))

    kernel = Gibbs(
        [
            (ebm.Exchange(hidden_model, num_aux_steps=20), ["K"]),
            (DiscreteGibbs(hidden_model), ["up"]),
        ]
    )
    mcmc = run(kernel, FIELD, num_chains=32, num_samples=600, method=jax.vmap)
    coupling = draws(mcmc, "K")
    assert_means(coupling, weight @ grid)
    assert_means(coupling**2, weight @ grid**2)
    assert_means(draws(mcmc, "up")[:, :, 0, 0], corner)


def mixed_model(x, constant=None):
    """A simplex of precisions, a scale, and an ordinary likelihood beside the energy."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.5))
    numpyro.sample("seen", dist.Normal(scale, 0.3), obs=1.2)
    precision = weights * 2 / scale**2
    energy = ebm.as_energy(lambda x: 0.5 * jnp.sum(precision * x**2), (2,))
    if constant is not None:
        energy = ebm.Normalized(energy, constant(precision))
    with numpyro.plate("n", len(x)):
        numpyro.sample("x", ebm.EnergyDistribution(energy), obs=x)


@pytest.mark.slow
def test_constrained_sites_beside_an_ordinary_likelihood():
    x = np.stack([QUANTILES[::3], 0.6 * np.roll(QUANTILES[::3], 5)], 1)

    def constant(precision):
        return jnp.log(2 * jnp.pi) - 0.5 * jnp.sum(jnp.log(precision))

    exact = run(NUTS(mixed_model), x, constant, num_chains=4, num_samples=8000)
    found = run(ebm.Exchange(mixed_model, num_aux_steps=60), x, num_samples=600)
    for name in ("weights", "scale"):
        assert_means(draws(found, name), draws(exact, name).mean((0, 1)))


@pytest.mark.slow
@pytest.mark.timing
def test_a_quartic_posterior_takes_less_than_half_a_minute():
    start = time.perf_counter()
    kernel = ebm.Exchange(quartic_model, auxiliary=ebm.MALA())
    run(kernel, quartic_data(), num_chains=4, num_warmup=500, num_samples=2000)
    assert time.perf_counter() - start < 30


@pytest.mark.slow
@pytest.mark.parametrize("start", [{}, {"a": 1e4, "b": 0.0}], ids=["default", "far"])
def test_no_chain_runs_away(start):
    """Chains went to 1e33, where differences of energies are rounding, and stayed there.

    The light tails trap auxiliary chains of one step size: proposals of narrow densities were
    accepted although the data at the edge had not moved, and the sd of `a` came out twice.
    """
    strategy = numpyro.infer.init_to_value(values=start)
    kernel = ebm.Exchange(quartic_model, auxiliary=ebm.MALA(), init_strategy=strategy)
    mcmc = run(kernel, quartic_data(), num_warmup=500, num_samples=1500, num_chains=8)
    log_a, b = np.log(draws(mcmc, "a")), draws(mcmc, "b")
    assert_means(log_a, -0.050907)
    assert_means(b, 1.429960)
    np.testing.assert_allclose([log_a.std(), b.std()], [0.261691, 0.477061], rtol=0.15)
