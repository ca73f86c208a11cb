"""The same keys give the same numbers as before: kernels, objectives and normalisers.

`make snapshots` compares them, with the compiler's flags that they were made with: adaptation
amplifies the last bit. `python tests/test_snapshots.py` writes the numbers anew.
"""

import json
import sys
from pathlib import Path

import helpers
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from helpers import SPIN_KERNELS, mixture
from numpyro.infer import MCMC

import numpyro_ebm as ebm

PATH = Path(__file__).parent / "data" / "numbers_before.json"
KNOWN = json.loads(PATH.read_text())
QUIET = {"progress_bar": False}
KERNELS = {
    **helpers.KERNELS,
    "NUTS, two depths": lambda **k: ebm.NUTS(max_tree_depth=(4, 6), dense_mass=True, **k),
    "ParallelTempering": lambda **k: ebm.ParallelTempering(
        ebm.MALA(**k), 4.0, num_temperatures=3
    ),
}


def spins():
    return ebm.IsingModel((2, 3), 0.3, 0.2)


TARGETS = {
    "mixture": mixture,
    "simplex": lambda: ebm.as_energy(dist.Dirichlet(jnp.array([2.0, 3.0, 5.0]))),
}
DATA = np.random.default_rng(0).normal(size=(64, 2))
OBJECTIVES = {
    **helpers.OBJECTIVES,
    "NoiseContrastiveEstimation": ebm.NoiseContrastiveEstimation(),
    "ContrastiveDivergence": ebm.ContrastiveDivergence(
        ebm.MALA(step_size=0.1), 3, ebm.Persistent(size=100)
    ),
    "CD from data": ebm.ContrastiveDivergence(
        ebm.HMC(step_size=0.1, trajectory_length=0.3), 2, ebm.FromData()
    ),
    "MaximumLikelihood": ebm.MaximumLikelihood(ebm.Quadrature([-5.0, -5.0], [5.0, 5.0], 20)),
}
NORMALIZERS = {
    "ImportanceSampling": ebm.ImportanceSampling,
    "AnnealedImportanceSampling": ebm.AnnealedImportanceSampling,
    "SequentialMonteCarlo": ebm.SequentialMonteCarlo,
    "ThermodynamicIntegration": ebm.ThermodynamicIntegration,
    "BridgeSampling": ebm.BridgeSampling,
    "NestedSampling": ebm.NestedSampling,
}


def sampled(Kernel, energy):
    draws = ebm.sample(
        jr.key(0), energy, Kernel(), num_chains=3, num_warmup=60, num_samples=10, **QUIET
    )
    return draws.values[:, -1], draws.accept_prob


def by_mcmc(Kernel, energy):
    settings = {"num_chains": 2, "chain_method": "vectorized", **QUIET}
    mcmc = MCMC(Kernel(potential_fn=energy), num_warmup=60, num_samples=10, **settings)
    mcmc.run(jr.key(0))
    return mcmc.get_samples(group_by_chain=True)[:, -1], mcmc.last_state.mean_accept_prob


def fitted(objective):
    energy = ebm.MLPEnergy(2, 8, key=jr.key(1))
    run = ebm.Estimator(objective, optax.adam(1e-2)).run
    result = run(jr.key(0), 20, energy, DATA, batch_size=32, **QUIET)
    return result.losses[[0, 1, -1]], result.energy(jnp.ones(2))


def log_z(Method):
    energy = ebm.Tilted(mixture(), dist.Normal(0, 2).expand([2]).to_event(1))
    found = ebm.log_partition(jr.key(0), energy, Method())
    return found.estimate, found.std_error


CASES = {
    **{f"sample, {k}, {t}": (sampled, K, t) for k, K in KERNELS.items() for t in TARGETS},
    **{f"MCMC, {k}, {t}": (by_mcmc, K, t) for k, K in KERNELS.items() for t in TARGETS},
    **{f"sample, {k}": (sampled, K, "spins") for k, K in SPIN_KERNELS.items()},
    **{f"MCMC, {k}": (by_mcmc, K, "spins") for k, K in SPIN_KERNELS.items()},
    **{f"fit, {name}": (fitted, objective) for name, objective in OBJECTIVES.items()},
    **{f"log Z, {name}": (log_z, Method) for name, Method in NORMALIZERS.items()},
}


def numbers(name):
    compute, subject, *target = CASES[name]
    made = [{**TARGETS, "spins": spins}[one]() for one in target]
    parts = jax.tree.leaves(compute(subject, *made))
    return np.concatenate([np.ravel(np.asarray(x, float)) for x in parts])


@pytest.mark.slow
@pytest.mark.snapshot
@pytest.mark.filterwarnings("ignore:`NoiseContrastiveEstimation`")
@pytest.mark.parametrize("name", KNOWN)
def test_the_numbers_are_those_of_before(name, x64):
    np.testing.assert_allclose(numbers(name), KNOWN[name], rtol=1e-6, atol=1e-9)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    wanted = sys.argv[1:] or list(CASES)
    known = json.loads(PATH.read_text()) if PATH.exists() else {}
    for name in wanted:
        known[name] = numbers(name).tolist()
        print(name, known[name][:3], flush=True)
        PATH.write_text(json.dumps(known, indent=1) + "\n")
