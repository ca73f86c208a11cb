"""MALA against closed forms."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import COVARIANCE, MEAN
from numpyro.infer import MCMC

import numpyro_ebm as ebm
from numpyro_ebm.kernels import MALAMove

PRECISION = np.linalg.inv(COVARIANCE)
ENERGY = ebm.Gaussian(MEAN, precision_matrix=PRECISION)


def proposal_and_acceptance(move, rng_key, x, energy):
    """Where the move wanted to go from `x`, and how likely it was to go there."""
    _, info = move.step(rng_key, move.init(rng_key, x, energy), energy)
    return info.proposal.position, info.acceptance_rate


def check_acceptance(move, step_size, energy):
    r"""$\log\alpha(x\to y) = \frac\eta4 (x^\top A^2 x - y^\top A^2 y)$ on a Gaussian."""
    for seed in range(20):
        start_key, step_key = jax.random.split(jax.random.key(seed))
        x = MEAN + 3 * jax.random.normal(start_key, (2,))
        y, acceptance = proposal_and_acceptance(move, step_key, x, energy)
        norms = [float(jnp.sum((PRECISION @ (z - MEAN)) ** 2)) for z in (x, y)]
        truth = min(1.0, float(np.exp(step_size / 4 * (norms[0] - norms[1]))))
        np.testing.assert_allclose(acceptance, truth, atol=1e-10)


def test_acceptance_is_the_closed_form(x64):
    gaussian = ebm.Gaussian(MEAN, precision_matrix=PRECISION)
    check_acceptance(MALAMove(0.3), 0.3, gaussian)
    with pytest.raises(AssertionError):
        check_acceptance(MALAMove(0.3), 0.15, gaussian)
    with pytest.raises(AssertionError):
        check_acceptance(MALAMove(0.3), 0.3, 1.1 * gaussian)


def test_the_proposal_is_a_langevin_step(x64):
    eta, x = 0.2, jnp.array([2.0, -1.0])
    energy = ebm.Gaussian(MEAN, precision_matrix=PRECISION)
    keys = jax.random.split(jax.random.key(0), 100_000)
    step = jax.vmap(lambda key: proposal_and_acceptance(MALAMove(eta), key, x, energy)[0])
    proposals = step(keys)
    np.testing.assert_allclose(proposals.mean(0), x + eta * ebm.score(energy, x), atol=0.01)
    np.testing.assert_allclose(np.cov(proposals.T), 2 * eta * np.eye(2), atol=0.01)


@pytest.mark.parametrize("metric", [np.array([4.0, 0.25]), COVARIANCE], ids=["diag", "dense"])
def test_a_preconditioned_proposal_is_a_langevin_step_in_that_metric(metric, x64):
    eta, x = 0.2, jnp.array([2.0, -1.0])
    energy = ebm.Gaussian(MEAN, precision_matrix=PRECISION)
    matrix = np.diag(metric) if metric.ndim == 1 else metric
    keys = jax.random.split(jax.random.key(0), 100_000)
    move = MALAMove(eta, jnp.asarray(metric))
    proposals = jax.vmap(lambda key: proposal_and_acceptance(move, key, x, energy)[0])(keys)
    mean = x + eta * matrix @ ebm.score(energy, x)
    np.testing.assert_allclose(proposals.mean(0), mean, atol=0.02)
    np.testing.assert_allclose(np.cov(proposals.T), 2 * eta * matrix, atol=0.02)


@pytest.mark.parametrize("eta", [0.125, 0.5, 1.0])
def test_mean_acceptance_on_a_standard_normal(eta):
    r"""$E[\alpha] = 1 - \frac2\pi\arctan(h^{3/2}/8)$, $h = 2\eta$ [Calvo et al. 2021]."""
    kernel = ebm.MALA(potential_fn=lambda x: 0.5 * x**2, step_size=eta, adapt_step_size=False)
    mcmc = MCMC(
        kernel,
        num_warmup=50,
        num_samples=200,
        num_chains=2000,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(0), init_params=jax.random.normal(jax.random.key(1), (2000,)))
    means = mcmc.get_extra_fields(group_by_chain=True)["accept_prob"].mean(1)
    truth = 1 - 2 / np.pi * np.arctan((2 * eta) ** 1.5 / 8)
    assert abs(means.mean() - truth) < 4 * means.std() / np.sqrt(2000)


def test_one_gradient_a_transition():
    evaluations = []

    def energy(x):
        evaluations.append(None)
        return 0.5 * jnp.sum(x**2)

    move = MALAMove(0.1)
    state = move.init(jax.random.key(0), jnp.zeros(2), energy)
    evaluations.clear()
    jaxpr = jax.make_jaxpr(lambda s: move.step(jax.random.key(0), s, energy))(state)
    assert len(evaluations) == 1
    assert jaxpr is not None


def test_a_new_step_size_and_new_parameters_do_not_recompile():
    traces = []

    @eqx.filter_jit
    def step(move, energy):
        traces.append(None)
        return move.step(
            jax.random.key(0), move.init(jax.random.key(0), jnp.zeros(2), energy), energy
        )

    for i in (1.0, 2.0, 3.0):
        step(MALAMove(jnp.array(0.1 * i)), ebm.Gaussian(MEAN * i, COVARIANCE))
    assert len(traces) == 1
