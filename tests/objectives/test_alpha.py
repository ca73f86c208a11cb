r"""Fitting densities by $\int p^\alpha q^{1-\alpha}$, against quadrature."""

import flowjax.distributions as fd
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp

import numpyro_ebm as ebm
from numpyro_ebm.estimation import NonFiniteError, decaying_adam
from numpyro_ebm.objectives import AlphaDivergence, ReverseKL

UNIT = [[[1.0]], [[1.0]]]
#: A main mode and one far off, which draws of a unit normal law at zero hardly reach.
TWO = ebm.GaussianMixture([0.6, 0.4], [[-1.0], [5.0]], UNIT)
APART = ebm.GaussianMixture([0.5, 0.5], [[-6.0], [6.0]], UNIT)


def fit(objective, num_steps, flow, learning_rate=3e-2):
    estimator = ebm.Estimator(objective, decaying_adam(num_steps, learning_rate))
    return estimator.run(jr.key(0), num_steps, flow, progress_bar=False)


def best_normal(alpha):
    r"""The mean and scale that minimise $\int p^\alpha q^{1-\alpha}$, by quadrature."""
    grid = np.linspace(-60, 60, 24_001)
    log_p = -np.asarray(jax.vmap(TWO)(jnp.asarray(grid)[:, None]), float)

    def divergence(parameters):
        mean, log_scale = parameters
        log_q = -0.5 * ((grid - mean) / np.exp(log_scale)) ** 2 - log_scale
        return logsumexp(alpha * log_p + (1 - alpha) * log_q) / (alpha - 1)

    found = minimize(divergence, [1.0, 1.5], method="Nelder-Mead").x
    return found[0], np.exp(found[1])


@pytest.mark.parametrize("alpha", [2.0, pytest.param(1.5, marks=pytest.mark.slow)])
def test_it_finds_the_normal_law_of_least_divergence(alpha):
    start = fd.Normal(jnp.zeros(1), jnp.ones(1))
    found = fit(AlphaDivergence(TWO, alpha), 1500, start).energy
    mean, scale = best_normal(alpha)
    np.testing.assert_allclose(found.loc, mean, atol=0.1)
    np.testing.assert_allclose(found.scale, scale, atol=0.1)


def test_it_covers_modes_where_the_reverse_direction_loses_one():
    flow = ebm.flows.coupling_flow(jr.key(1), (1,), loc=1.0)
    shares = []
    for objective in (ReverseKL(APART), AlphaDivergence(APART)):
        density = fit(objective, 1500, flow).energy
        shares.append(float((density.sample(jr.key(2), (4000,)) < 0).mean()))
    assert shares[0] < 0.01
    np.testing.assert_allclose(shares[1], 0.5, atol=0.1)


def test_a_mixture_is_fitted_as_its_draws_need_no_derivative():
    start = ebm.GaussianMixture([0.5, 0.5], [[-2.0], [2.0]], UNIT)
    found = fit(AlphaDivergence(TWO), 1000, start)
    assert found.metrics["ess"][-100:].mean() > 0.95


def test_what_cannot_be_fitted_is_refused():
    normal = fd.Normal(jnp.zeros(1), jnp.ones(1))
    positive = dist.Gamma(2.0, 1.0).expand([1]).to_event(1)
    with pytest.raises(ValueError, match="unconstrained space"):
        fit(AlphaDivergence(positive), 1, normal)
    with pytest.raises(ValueError, match="without bounds"):
        fit(AlphaDivergence(positive), 1, positive)
    with pytest.raises(ValueError, match="no `log_z` or no `sampler`"):
        fit(AlphaDivergence(TWO), 1, ebm.MLPEnergy(1, 8, key=jr.key(0)))
    with pytest.raises(ValueError, match="`alpha` must be positive"):
        AlphaDivergence(TWO, 0.0)
    with pytest.raises(ValueError, match="`buffer_size` must be at least"):
        AlphaDivergence(TWO, buffer_size=100)
    with pytest.raises(ValueError, match="must leave its target invariant"):
        AlphaDivergence(TWO, kernel=ebm.UnadjustedLangevin(step_size=0.1))
    nowhere = ebm.as_energy(lambda x: jnp.nan * x.sum(), (1,))
    with pytest.raises(NonFiniteError):
        fit(AlphaDivergence(nowhere), 2, normal)
