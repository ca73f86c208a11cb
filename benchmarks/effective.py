"""Effective samples per gradient and per second, against NumPyro's own kernels.

The bulk ESS of the worst coordinate over four chains, by ArviZ. Seconds include the warm-up;
gradients do not. Both run once per round; a row is the median over rounds of the ratio. NumPyro
runs vectorized with its progress bar on, which keeps its compiled loop from run to run.
"""

import os
import sys
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import arviz_stats
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from numpyro.infer import HMC, MCMC, NUTS
from overhead import ENERGY

import numpyro_ebm as ebm

WARMUP, DRAWS, CHAINS, ROUNDS = 500, 1000, 4, 5
SCALES = np.geomspace(1, 1e-3, 50) ** 0.5
ILL = ebm.Gaussian(np.zeros(50), np.diag(SCALES**2))


def ess(values):
    flat = np.asarray(values, float).reshape(CHAINS, DRAWS, -1)
    return min(arviz_stats.ess(flat[..., i]) for i in range(flat.shape[-1]))


def ours(energy, kernel):
    def run(seed):
        draws = ebm.sample(
            jr.key(seed),
            energy,
            kernel,
            num_warmup=WARMUP,
            num_samples=DRAWS,
            progress_bar=False,
        )
        return draws.values, float(draws.state.n_grad.sum())

    return run


def theirs(energy, kernel):
    mcmc = MCMC(
        kernel,
        num_warmup=WARMUP,
        num_samples=DRAWS,
        num_chains=CHAINS,
        chain_method="vectorized",
        progress_bar=True,
    )

    def run(seed):
        start = jr.uniform(jr.key(seed), (CHAINS, *energy.event_shape), minval=-2, maxval=2)
        mcmc.run(jr.key(seed), init_params=start, extra_fields=("num_steps",))
        num_steps = mcmc.get_extra_fields()["num_steps"]
        return mcmc.get_samples(group_by_chain=True), float(jnp.sum(num_steps))

    return run


def compare(name, energy, *runs):
    for run in runs:
        run(0)
    per_gradient, per_second = [], []
    for seed in range(1, ROUNDS + 1):
        rows = []
        for run in runs:
            begin = time.perf_counter()
            values, num_grad = run(seed)
            np.asarray(values)
            rows.append((ess(values) / num_grad, time.perf_counter() - begin, ess(values)))
        per_gradient.append(rows[0][0] / rows[1][0])
        per_second.append(rows[0][2] / rows[0][1] / (rows[1][2] / rows[1][1]))
    gradient, second = np.median(per_gradient), np.median(per_second)
    print(f"{name:<44} ESS per gradient {gradient:.2f}, per second {second:.2f}")


if __name__ == "__main__":
    os.environ.pop("CI", None)
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    compare(
        "NUTS, network",
        ENERGY,
        ours(ENERGY, ebm.NUTS()),
        theirs(ENERGY, NUTS(potential_fn=ENERGY)),
    )
    compare(
        "NUTS, 50 dimensions of condition 1000",
        ILL,
        ours(ILL, ebm.NUTS()),
        theirs(ILL, NUTS(potential_fn=ILL)),
    )
    compare(
        "HMC, 50 dimensions of condition 1000",
        ILL,
        ours(ILL, ebm.HMC()),
        theirs(ILL, HMC(potential_fn=ILL)),
    )
