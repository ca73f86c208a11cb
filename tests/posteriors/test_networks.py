"""What approximates the posterior of a network's weights, against the exact one."""

import equinox as eqx
import jax
import jax.numpy as jnp
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


def by_ensemble(bootstrap):
    rate = optax.cosine_decay_schedule(0.03, 3000)
    # Weight decay is the prior.
    optim = optax.chain(optax.add_decayed_weights(1 / 200), optax.adam(rate))
    members = ensemble(
        jr.key(6),
        ebm.Estimator(OBJECTIVE, optim),
        3000,
        thirteen.network,
        modes(),
        num_members=50,
        bootstrap=bootstrap,
        **QUIET,
    )
    print(np.sort(np.asarray(members.metrics["loss"][:, 0])).round(3))
    return log_densities(members.energies)


def compare(name, found, truth):
    """`(KL, width, coverage)`, and prints them.

    - KL: from the exact predictive density to the other.
    - width: the standard deviation of log-densities, relative to the exact one, the median over
      where data are.
    - coverage: the share of exact log-densities in the pointwise band of 90 %.
    """
    p, q = (np.exp(values).mean(0) for values in (truth, found))
    divergence = float(np.sum(p * np.log(p / q)) * (GRID[1] - GRID[0]))
    ratio = (found.std(0) / truth.std(0))[INSIDE]
    low, high = np.quantile(found, [0.05, 0.95], axis=0)
    coverage = ((truth >= low) & (truth <= high))[:, INSIDE].mean()
    print(
        f"{name:30} KL {divergence:.5f}, width {np.median(ratio):.2f} "
        f"({ratio.min():.2f} to {ratio.max():.2f}), coverage {coverage:.2f}"
    )
    return divergence, float(np.median(ratio)), float(coverage)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`sgmcmc`")
def test_a_network_of_13_weights(x64):
    energy = trained()
    flat, _ = thirteen.flattened(energy)
    assert flat.size == 13
    truth = exact(energy)
    halves = truth[::2], truth[1::2]
    itself = compare("exact, two halves", *halves)
    compare(
        "the mode",
        log_densities(jax.tree.map(lambda x: x[None] if eqx.is_array(x) else x, energy)),
        truth,
    )
    full = compare("Laplace, full", by_laplace(energy, FullCurvature()), truth)
    diagonal = compare("Laplace, diagonal", by_laplace(energy, DiagonalCurvature()), truth)
    last = eqx.tree_at(lambda e: e.network.layers[0], energy, replace_fn=ebm.freeze)
    last = minimize(penalised, last)
    by_last = by_laplace(last, FullCurvature())
    within = compare("Laplace, last, of its own", by_last, exact(last))
    last = compare("Laplace, last layer", by_last, truth)
    langevin = compare("sgmcmc, quadrature", by_langevin(energy, OBJECTIVE), truth)
    chains = compare("sgmcmc, chains", by_langevin(energy, CHAINS), truth)
    plain = compare("ensemble", by_ensemble(False), truth)
    weighted = compare("ensemble, bootstrap", by_ensemble(True), truth)
