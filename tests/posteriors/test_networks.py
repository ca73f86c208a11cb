"""What approximates the posterior of a network's weights, against the exact one."""

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
import thirteen
from helpers import minimize
from thirteen import GRID, INSIDE, OBJECTIVE, exact, log_densities, modes, penalised, trained

import numpyro_ebm as ebm
from numpyro_ebm.posteriors import (
    DiagonalCurvature,
    FullCurvature,
    ensemble,
    laplace,
    sgmcmc,
)

pytestmark = pytest.mark.slow
QUIET = {"progress_bar": False}
CHAINS = ebm.ContrastiveDivergence(ebm.MALA(step_size=0.5), 5, ebm.Persistent(200, reinit=0.0))


def by_laplace(energy, curvature):
    posterior = laplace(OBJECTIVE, energy, modes(), prior_precision=1.0, curvature=curvature)
    return log_densities(posterior.sample(jr.key(3), 2000))


def by_langevin(energy, objective):
    draws = sgmcmc(
        jr.key(5),
        objective,
        energy,
        modes(),
        prior=dist.Normal(0, 1),
        step_size=1e-4,
        num_chains=8,
        num_warmup=4000,
        num_samples=500,
        thinning=40,
        **QUIET,
    )
    print(draws)
    return log_densities(draws.energies)


def by_ensemble(energy, bootstrap):
    flat, rebuild = thirteen.flattened(energy)
    rate = optax.cosine_decay_schedule(0.03, 3000)
    # Weight decay is the prior, from which members start, too.
    optim = optax.chain(optax.add_decayed_weights(1 / 200), optax.adam(rate))
    members = ensemble(
        jr.key(6),
        ebm.Estimator(OBJECTIVE, optim),
        3000,
        lambda key: rebuild(jr.normal(key, flat.shape)),
        modes(),
        num_members=50,
        bootstrap=bootstrap,
        **QUIET,
    )
    print(np.quantile(members.metrics["loss"], [0, 0.25, 0.5, 0.75, 1]).round(3))
    return log_densities(members.energies)


def compare(name, found, truth):
    """`(KL, width, coverage)`, and prints them.

    - KL: from the exact predictive density to the other.
    - width: the standard deviation of log-densities, relative to the exact one, at each point
      of the grid where data are.
    - coverage: the share of exact log-densities in the pointwise band of 90 %.
    """
    p, q = (np.exp(values).mean(0) for values in (truth, found))
    divergence = float(np.sum(p * np.log(p / q)) * (GRID[1] - GRID[0]))
    ratio = (found.std(0) / truth.std(0))[INSIDE]
    low, high = np.quantile(found, [0.05, 0.95], axis=0)
    coverage = float(((truth >= low) & (truth <= high))[:, INSIDE].mean())
    print(
        f"{name:30} KL {divergence:.5f}, width {np.median(ratio):.2f} "
        f"({ratio.min():.2f} to {ratio.max():.2f}), coverage {coverage:.2f}"
    )
    return divergence, ratio, coverage


@pytest.fixture(scope="module")
def network():
    """The mode of the posterior, and log-densities under draws of the posterior."""
    with jax.enable_x64(True):
        energy = trained()
        flat, _ = thirteen.flattened(energy)
        assert flat.size == 13
        return energy, exact(energy)


def test_the_oracle_and_the_mode(x64, network):
    """Two halves of the draws agree; the mode alone knows no uncertainty."""
    energy, truth = network
    divergence, ratio, _ = compare("exact, by halves", truth[::2], truth[1::2])
    assert divergence < 1e-4
    assert 0.9 < ratio.min() < ratio.max() < 1.1
    flat, rebuild = thirteen.flattened(energy)
    divergence, _, _ = compare(
        "mode", log_densities(eqx.filter_vmap(rebuild)(flat[None])), truth
    )
    assert 5e-4 < divergence < 2e-3


def test_laplace(x64, network):
    """The last layer is right about itself, and too sure; the whole is too wide, by half."""
    energy, truth = network
    last = eqx.tree_at(lambda e: e.network.layers[0], energy, replace_fn=ebm.freeze)
    last = minimize(penalised, last)
    found = by_laplace(last, FullCurvature())
    divergence, ratio, coverage = compare("last layer, of its own", found, exact(last))
    assert divergence < 2e-4
    assert 0.85 < ratio.min() < ratio.max() < 1.15
    assert abs(coverage - 0.9) < 0.03
    divergence, ratio, coverage = compare("last layer", found, truth)
    assert divergence < 2e-3
    assert 0.5 < ratio.min() < ratio.max() < 1
    assert 0.6 < coverage < 0.85
    for curvature, most in ((FullCurvature(), 5e-3), (DiagonalCurvature(), 1e-3)):
        found = by_laplace(energy, curvature)
        divergence, ratio, coverage = compare(type(curvature).__name__, found, truth)
        assert divergence < most
        assert 1 < np.median(ratio) < 2
        assert 0.9 < coverage < 0.98


@pytest.mark.parametrize("objective", [OBJECTIVE, CHAINS], ids=["quadrature", "chains"])
def test_langevin_dynamics(x64, network, objective):
    """Log-densities have the standard deviation of the posterior within 10 %."""
    energy, truth = network
    divergence, ratio, coverage = compare("sgmcmc", by_langevin(energy, objective), truth)
    assert divergence < 2e-4
    assert 0.9 < ratio.min() < ratio.max() < 1.1
    assert abs(coverage - 0.9) < 0.03


def test_ensembles(x64, network):
    """One of minima is no posterior; its bootstrap is one within a fifth, for the median."""
    energy, truth = network
    divergence, ratio, coverage = compare("ensemble", by_ensemble(energy, False), truth)
    assert ratio.min() < 0.5
    assert coverage < 0.7
    divergence, ratio, coverage = compare("bootstrap", by_ensemble(energy, True), truth)
    assert divergence < 2e-3
    assert 0.8 < np.median(ratio) < 1.3
    assert 0.8 < coverage < 0.95
