"""Effective samples per second of an energy's parameters: a surrogate with NUTS, and exchange.

One field of 32 x 32 spins, whose coupling and field are unknown. The bulk ESS of the worse of
the two over four chains, by ArviZ. Seconds include compilation and warm-up.
"""

import os
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import arviz_stats
import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS

import numpyro_ebm as ebm

KEY = jax.random.key(0)
BOX = {"K": 0.0, "h": -0.3}, {"K": 0.5, "h": 0.3}


def family(theta):
    return ebm.IsingModel((32, 32), theta["K"], theta["h"])


def model(spins, energy=family):
    K = numpyro.sample("K", dist.Uniform(0, 0.5))
    h = numpyro.sample("h", dist.Uniform(-0.3, 0.3))
    with numpyro.plate("data", len(spins)):
        ebm.factor("spins", energy({"K": K, "h": h}), spins)


def observed():
    chain = ebm.sample(
        KEY,
        family({"K": 0.3, "h": 0.05}),
        ebm.BlockGibbs(),
        num_chains=1,
        num_samples=500,
        progress_bar=False,
    )
    return chain.values[0, -1:]


def run(kernel, *args):
    mcmc = MCMC(
        kernel,
        num_warmup=500,
        num_samples=1000,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    begin = time.perf_counter()
    mcmc.run(KEY, *args)
    draws = jax.tree.map(np.asarray, mcmc.get_samples(group_by_chain=True))
    seconds = time.perf_counter() - begin
    return mcmc, draws, seconds


def show(name, draws, seconds):
    ess = min(float(arviz_stats.ess(draws[k].astype(float))) for k in "Kh")
    moments = ", ".join(f"{k} {draws[k].mean():.4f} +- {draws[k].std():.4f}" for k in "Kh")
    print(
        f"{name:<32} {moments}: {seconds:5.1f} s, ESS {ess:6.0f}, {ess / seconds:7.1f} per s",
        flush=True,
    )
    return ess / seconds


def compare():
    data = observed()
    begin = time.perf_counter()
    surrogate = ebm.surrogate_log_z(
        KEY,
        family,
        BOX,
        data=data,
        num_points=16,
        num_chains=16,
        num_warmup=100,
        num_samples=100,
        progress_bar=False,
    )
    learned = time.perf_counter() - begin
    print(f"{learned:.1f} s for the {surrogate}", flush=True)
    _, draws, seconds = run(NUTS(model), data, surrogate)
    after = show("NUTS after the surrogate", draws, seconds)
    in_all = show("surrogate and NUTS", draws, learned + seconds)
    mcmc, draws, seconds = run(ebm.Exchange(model, num_aux_steps=100), data)
    exchange = show("exchange", draws, seconds)
    print(ebm.exchange_report(KEY, mcmc, num_draws=100))
    print(f"against exchange: {after / exchange:.0f}, in all {in_all / exchange:.1f}")


if __name__ == "__main__":
    compare()
