"""Posteriors of a public database's kind: right, or refused by the report on mixing.

Eight schools, centred and not, against quadrature; a regression on the scale of its data, a
mixture of two Gaussians and a GARCH(1, 1) against importance sampling from Student-t
distributions fitted to the mode. Data are written here, or made here.
"""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.optimize
from jax.flatten_util import ravel_pytree
from numpyro.infer import MCMC
from numpyro.infer.util import initialize_model
from scipy.special import ndtri

import numpyro_ebm as ebm

EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def eight_schools(is_centred):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", 8):
        if is_centred:
            theta = numpyro.sample("theta", dist.Normal(mu, tau))
        else:
            theta = mu + tau * numpyro.sample("z", dist.Normal(0, 1))
            numpyro.deterministic("theta", theta)
        numpyro.sample("y", dist.Normal(theta, ERRORS), obs=EFFECTS)


def shuffled_quantiles(size, seed):
    """A standard normal's, in a fixed order."""
    z = ndtri((np.arange(size) + 0.5) / size)
    return z[np.argsort((np.arange(size) * 0.6180339887 * (seed + 1)) % 1)]


IQ = 100 + 15 * shuffled_quantiles(434, 0)
SCORE = 26 + 0.6 * IQ + 18.3 * shuffled_quantiles(434, 1)


def kidscore():
    """Children's test scores by the IQ of their mothers, on their own scales."""
    flat = dist.ImproperUniform(dist.constraints.real, (), (2,))
    beta = numpyro.sample("beta", flat)
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    with numpyro.plate("child", len(IQ)):
        numpyro.sample("score", dist.Normal(beta[0] + beta[1] * IQ, sigma), obs=SCORE)


POINTS = np.where(
    np.arange(400) % 10 < 6,
    -2.5 + 1.1 * shuffled_quantiles(400, 2),
    2.0 + 0.8 * shuffled_quantiles(400, 3),
)


def gaussian_mixture():
    """Two Gaussians, the means in order."""
    mu = numpyro.sample(
        "mu",
        dist.TransformedDistribution(
            dist.Normal(0, 2).expand([2]).to_event(1), dist.transforms.OrderedTransform()
        ),
    )
    sigma = numpyro.sample("sigma", dist.HalfNormal(2).expand([2]).to_event(1))
    share = numpyro.sample("share", dist.Beta(5, 5))
    parts = dist.Normal(mu, sigma).log_prob(POINTS[:, None])
    logs = jnp.log(jnp.stack([share, 1 - share]))
    numpyro.factor("points", jax.nn.logsumexp(logs + parts, axis=1).sum())


def simulated_garch(size=800):
    z, y, variance = np.random.default_rng(0).normal(size=size), np.zeros(size), 1.0
    for t in range(size):
        y[t] = 5 + np.sqrt(variance) * z[t]
        variance = 0.5 + 0.3 * (y[t] - 5) ** 2 + 0.4 * variance
    return y


RETURNS = simulated_garch()


def garch():
    mu = numpyro.sample("mu", dist.Normal(5, 5))
    base = numpyro.sample("base", dist.HalfNormal(2))
    shock = numpyro.sample("shock", dist.Uniform(0, 1))
    memory = (1 - shock) * numpyro.sample("memory", dist.Uniform(0, 1))

    def step(variance, y):
        return base + shock * (y - mu) ** 2 + memory * variance, variance

    _, variances = jax.lax.scan(step, jnp.ones(()), jnp.asarray(RETURNS))
    numpyro.factor("y", dist.Normal(mu, jnp.sqrt(variances)).log_prob(RETURNS).sum())


def schools_by_quadrature():
    """Means and variances of mu, tau and the effects."""
    mu = np.linspace(-20, 25, 901)[:, None, None]
    log_tau = np.linspace(-12, 6, 1201)[None, :, None]
    tau = np.exp(log_tau)
    spread = np.sqrt(ERRORS**2 + tau**2)
    log_p = -0.5 * (mu / 5) ** 2 - np.log1p((tau / 5) ** 2) + log_tau
    log_p = log_p[..., 0] + (-0.5 * ((EFFECTS - mu) / spread) ** 2 - np.log(spread)).sum(-1)
    weights = np.exp(log_p - log_p.max())
    weights /= weights.sum()
    shrink = tau**2 / spread**2
    effect = mu + shrink * (EFFECTS - mu)
    mean = np.einsum("mt,mtj->j", weights, effect)
    whole = [
        np.einsum("mt,mti->i", weights, np.broadcast_to(x, (*weights.shape, 1)))
        for x in (mu, tau)
    ]
    return {"mu": whole[0][0], "tau": whole[1][0], "theta": mean}


def by_importance(model):
    """Means of all sites, from a Student-t at the mode of the unconstrained posterior."""
    info = initialize_model(jr.key(0), model)
    flat, unravel = ravel_pytree(info.param_info.z)
    energy = jax.jit(lambda x: info.potential_fn(unravel(x)))
    found = scipy.optimize.minimize(energy, flat, jac=jax.jit(jax.grad(energy)), method="BFGS")
    scale = np.linalg.cholesky(np.linalg.inv(jax.hessian(energy)(jnp.asarray(found.x))))
    proposal = dist.MultivariateStudentT(4.0, found.x, 1.4 * scale)
    draws = proposal.sample(jr.key(1), (400_000,))
    log_weights = -jax.lax.map(energy, draws, batch_size=10_000) - proposal.log_prob(draws)
    weights = jax.nn.softmax(log_weights)
    assert 1 / jnp.sum(weights**2) > 40_000
    sites = jax.lax.map(lambda x: info.postprocess_fn(unravel(x)), draws, batch_size=10_000)
    return {name: np.asarray(jnp.tensordot(weights, x, 1)) for name, x in sites.items()}


POSTERIORS = {
    "eight schools, centred": (functools.partial(eight_schools, True), schools_by_quadrature),
    "eight schools": (functools.partial(eight_schools, False), schools_by_quadrature),
    "kidscore": (kidscore, lambda: by_importance(kidscore)),
    "mixture": (gaussian_mixture, lambda: by_importance(gaussian_mixture)),
    "garch": (garch, lambda: by_importance(garch)),
}
#: By which the centred eight schools are not asked to be right: only to say so.
GLOBAL = {
    "NUTS": lambda model: ebm.NUTS(model, target_accept_prob=0.95),
    # A quarter of a period: a chain with a short step makes all others wait.
    "HMC": lambda model: ebm.HMC(
        model, dense_mass=True, target_accept_prob=0.9, trajectory_length=1.5
    ),
    "AdjustedMCLMC": ebm.AdjustedMCLMC,
}
LOCAL = {
    "MALA": lambda model: ebm.MALA(model, dense_mass=True),
    "AutoMALA": lambda model: ebm.AutoMALA(model, dense_mass=True),
    "BarkerMH": lambda model: ebm.BarkerMH(model, dense_mass=True),
}
#: The neck of a funnel, and a mode without the second Gaussian in which a chain of HMC stays.
REFUSED = {*((kernel, "eight schools, centred") for kernel in GLOBAL), ("HMC", "mixture")}


@pytest.mark.slow
@pytest.mark.parametrize("name", POSTERIORS)
@pytest.mark.parametrize("kernel", [*GLOBAL, *LOCAL])
def test_a_posterior_is_right_or_refused(name, kernel, x64):
    model, find_truth = POSTERIORS[name]
    mcmc = MCMC(
        {**GLOBAL, **LOCAL}[kernel](model),
        num_warmup=1000,
        num_samples=2000,
        num_chains=16,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jr.key(0))
    report = ebm.mixing_report(mcmc)
    samples, worst, least = mcmc.get_samples(group_by_chain=True), 0.0, np.inf
    for site, truth in find_truth().items():
        values = np.asarray(samples[site], float)
        means = values.mean(1)
        error = means.std(0, ddof=1) / np.sqrt(len(means))
        worst = max(worst, np.max(np.abs(means.mean(0) - truth) / error))
        least = min(least, np.min(values.var((0, 1)) / error**2))
    print(f"{name} by {kernel}: |z| {worst:.1f}, ESS {least:.0f}, ok {report.ok}")
    is_right = worst < 4 and least >= 400
    may_be_refused = kernel in LOCAL or (kernel, name) in REFUSED
    assert is_right or (may_be_refused and not report.ok), report
