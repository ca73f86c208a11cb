"""Which chain should produce one draw of an `EnergyDistribution`?

For each target, compare 1000 draws by each candidate with exact draws: the largest
Kolmogorov-Smirnov distance over coordinates (for 1000 exact draws it is 0.03, or 0.05 in 64
dimensions), and seconds without compilation. Run with `python benchmarks/inner_sampler.py`; it
takes minutes.
"""

import os
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import jax.random as jr
import numpy as np
from scipy.stats import ks_2samp

import numpyro_ebm as ebm


def ill_conditioned(dim, condition):
    basis, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(dim, dim)))
    scales = np.geomspace(1 / condition, 1, dim)
    return ebm.Gaussian(np.zeros(dim), basis * scales @ basis.T)


def two_modes(sd):
    return ebm.GaussianMixture([0.3, 0.7], [[-2.0, 0.0], [2.0, 0.0]], sd**2 * np.eye(2))


TARGETS = {
    "correlation 0.95": ebm.Gaussian(np.zeros(2), [[1.0, 0.95], [0.95, 1.0]]),
    "sd 0.01": ebm.Gaussian(np.zeros(2), 1e-4 * np.eye(2)),
    "20-d, condition 100": ill_conditioned(20, 100),
    "64-d": ebm.Gaussian(np.zeros(64), np.eye(64)),
    "modes, overlapping": two_modes(1.0),
    "modes, apart": two_modes(0.5),
    "ring": ebm.energies.Ring(),
    "banana": ebm.energies.Banana(),
    "funnel": ebm.energies.Funnel(dim=3),
}
SAMPLERS = {
    "MALA, 300": (ebm.MALA(), 300),
    "MALA, 1000": (ebm.MALA(), 1000),
    "NUTS, 100": (ebm.NUTS(), 100),
}


def judge(energy, sampler, num_steps):
    hidden = ebm.energies.FunctionEnergy(energy, energy.event_shape)  # Hides the exact sampler.
    site = ebm.EnergyDistribution(hidden, sampler=sampler, num_steps=num_steps)
    jax.block_until_ready(site.draw(jr.key(0), 1000))
    start = time.perf_counter()
    draws = np.asarray(site.draw(jr.key(1), 1000).values)
    seconds = time.perf_counter() - start
    exact = np.asarray(energy.sample(jr.key(2), (20_000,)))
    distances = [ks_2samp(x, y).statistic for x, y in zip(draws.T, exact.T, strict=True)]
    return max(distances), seconds


if __name__ == "__main__":
    print(f"{'':<22}" + "".join(f"{name:>20}" for name in SAMPLERS))
    for name, energy in TARGETS.items():
        results = (judge(energy, *each) for each in SAMPLERS.values())
        print(f"{name:<22}" + "".join(f"{ks:>11.3f}{s:>7.2f} s" for ks, s in results))
