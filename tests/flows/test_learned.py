r"""$\log Z$ by a flow that is fitted for it."""

import flowjax.distributions as fd
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest
from helpers import COVARIANCE, MEAN
from scipy.special import logsumexp

import numpyro_ebm as ebm
from numpyro_ebm.flows import LearnedProposal

NINE = 6.0 * np.stack(np.meshgrid(*[np.arange(-1, 2)] * 2), -1).reshape(-1, 2)
WIDE = dist.Normal(0, 6).expand([2]).to_event(1)


def test_it_integrates_a_gaussian():
    target = ebm.Gaussian(MEAN, COVARIANCE)
    hidden = ebm.as_energy(lambda x: target(x), (2,))
    flow = fd.MultivariateNormal(jnp.zeros(2), 4 * jnp.eye(2))
    sizes = {"num_draws": 1000, "num_steps": 1500, "num_samples": 10_000}
    method = LearnedProposal(flow, WIDE, **sizes)
    log_z = ebm.log_partition(jr.key(0), hidden, method, progress_bar=False)
    low, high = log_z.interval(0.9973)
    assert low < float(target.log_z) < high
    assert high - low < 0.05
    assert log_z.method == "LearnedProposal"


def test_it_gives_no_interval_if_the_flow_cannot_cover_the_target():
    """Two independent normals on a narrow ridge, after one step."""
    narrow = np.array([[1.0, 0.999], [0.999, 1.0]])
    flow = fd.Normal(jnp.array([3.0, -3.0]), 0.1 * jnp.ones(2))
    method = LearnedProposal(flow, num_draws=400, num_steps=1, num_samples=2000)
    target = ebm.Gaussian(np.zeros(2), narrow)
    with pytest.warns(UserWarning, match="of the flow: it misses them"):
        log_z = ebm.log_partition(jr.key(0), target, method, progress_bar=False)
    assert not log_z.ok


def nine_modes():
    weights = np.arange(1, 10) / 45
    target = ebm.GaussianMixture(weights, NINE, np.tile(0.5 * np.eye(2), (9, 1, 1)))
    return target, float(target.log_z), WIDE


def many_wells():
    """Sixteen planes with two unequal wells each [Midgley et al. 2023]."""

    def target(x):
        a, b = x.reshape(16, 2).T
        return jnp.sum(a**4 - 6 * a**2 - 0.5 * a + 0.5 * b**2)

    grid = np.linspace(-4, 4, 8001)
    height = -(grid**4) + 6 * grid**2 + 0.5 * grid
    log_z = 16 * (logsumexp(height) + np.log(grid[1] - grid[0]) + 0.5 * np.log(2 * np.pi))
    return target, log_z, dist.Normal(0, 3).expand([32]).to_event(1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`log_partition`")
@pytest.mark.parametrize(("make", "most"), [(nine_modes, 0.003), (many_wells, 0.03)])
def test_the_error_over_twenty_seeds(make, most):
    """Its mean absolute value, and the share of intervals that hold the truth."""
    target, truth, wide = make()
    hidden = ebm.as_energy(lambda x: target(x), wide.event_shape)
    method, errors, inside = LearnedProposal(reference=wide), [], []
    for key in jr.split(jr.key(0), 20):
        log_z = ebm.log_partition(key, hidden, method, progress_bar=False)
        errors.append(abs(float(log_z.estimate) - truth))
        if log_z.ok:
            low, high = log_z.interval(0.95)
            inside.append(low < truth < high)
    print(f"error {np.mean(errors):.4f}, {sum(inside)} of {len(inside)} intervals hold it")
    assert np.mean(errors) <= most
    # A right interval fails here 2 times in 100. A run in ten may be refused.
    assert len(inside) >= 18
    assert sum(inside) >= len(inside) - 3


@pytest.mark.slow
def test_it_gives_no_interval_in_a_funnel():
    """It is close; but up to three in a hundred of the mass lie in the neck, unseen."""
    target = ebm.energies.Funnel(3.0, 10)
    hidden = ebm.as_energy(lambda x: target(x), (10,))
    method = LearnedProposal(reference=dist.Normal(0, 5).expand([10]).to_event(1))
    for key in jr.split(jr.key(0), 3):
        with pytest.warns(UserWarning, match="as in the neck of a funnel"):
            log_z = ebm.log_partition(key, hidden, method, progress_bar=False)
        assert not log_z.ok
        np.testing.assert_allclose(log_z.estimate, target.log_z, atol=0.1)
