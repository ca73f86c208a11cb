"""The cost around the transitions: NumPyro's driver, the progress bar, compilation, devices.

Rows are medians. Rows under `MCMC` time only its second half, because NumPyro recompiles
its loop in each run without a progress bar. Run with `make bench`.
"""

import os
import subprocess
import sys
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import jax.random as jr
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from numpyro.infer import HMC, MCMC
from overhead import ENERGY, KEY, NETWORK, Energy, eqx
from sampling import LOOPS, PARAMS, mala

import numpyro_ebm as ebm

CHAINS, STEPS, ROUNDS = 1000, 400, 5
START = jr.normal(KEY, (CHAINS, 2))
MALA = LOOPS["MALA"][0]


def seconds(run):
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def under_mcmc(make_kernel):
    def run(num_samples):
        # If NumPyro's HMC is initialised twice for many chains, it maps over them twice.
        kernel = make_kernel()
        settings = {"num_chains": CHAINS, "chain_method": "vectorized", "progress_bar": False}
        mcmc = MCMC(kernel, num_warmup=0, num_samples=num_samples, **settings)
        mcmc.run(KEY, init_params=START)
        return mcmc.get_samples()

    return lambda: seconds(lambda: run(2 * STEPS)) - seconds(lambda: run(STEPS))


def by_sample(num_samples=STEPS, progress_bar=False, sharding=None, energy=ENERGY):
    return ebm.sample(
        KEY,
        energy,
        MALA,
        num_warmup=0,
        num_samples=num_samples,
        init_params=START,
        progress_bar=progress_bar,
        sharding=sharding,
    ).values


def rows():
    loop = jax.jit(mala, static_argnums=2)

    def numpyros():
        step_size = (2 * 0.05) ** 0.5
        fixed = {"adapt_step_size": False, "adapt_mass_matrix": False}
        return HMC(
            potential_fn=ENERGY, step_size=step_size, trajectory_length=step_size, **fixed
        )

    def ours():
        return ebm.MALA(potential_fn=ENERGY, step_size=0.05, adapt_step_size=False)

    return {
        "hand-written loop": lambda: seconds(lambda: loop(PARAMS, START, STEPS, 0.05)),
        "MALA under MCMC": under_mcmc(ours),
        "NumPyro's HMC of one step": under_mcmc(numpyros),
        "sample": lambda: seconds(by_sample),
        "sample with its bar": lambda: seconds(lambda: by_sample(progress_bar=True)),
    }


def compile_times():
    first = seconds(by_sample)
    second = seconds(by_sample)
    other = Energy(jax.tree.map(lambda x: 1.01 * x if eqx.is_array(x) else x, NETWORK))
    new_weights = seconds(lambda: by_sample(energy=ebm.as_energy(other, (2,))))
    print(
        f"first call {first - second:.2f} s more, new weights {new_weights - second:.2f} s more"
    )


def by_devices():
    num_devices = jax.device_count()
    mesh = jax.make_mesh((num_devices,), ("chain",))
    sharding = NamedSharding(mesh, PartitionSpec("chain")) if num_devices > 1 else None
    by_sample(sharding=sharding)
    print(min(seconds(lambda: by_sample(sharding=sharding)) for _ in range(ROUNDS)))


def in_a_process(flags):
    environment = {**os.environ, "XLA_FLAGS": flags}
    command = [sys.executable, __file__, "devices"]
    out = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
    return float(out.stdout.split()[-1])


if __name__ == "__main__":
    if "devices" in sys.argv:
        by_devices()
        sys.exit()
    compile_times()
    runs = rows()
    for run in runs.values():
        run()
    table = np.array([[run() for run in runs.values()] for _ in range(ROUNDS)])
    for name, ratios in zip(runs, (table / table[:, :1]).T, strict=True):
        print(f"{name:<44}{np.median(ratios):>6.2f}")
    bar = np.median(table[:, -1] / table[:, -2])
    print(f"{'the bar alone':<44}{bar:>6.2f}")
    one_thread = "--xla_force_host_platform_device_count=2 --xla_cpu_multi_thread_eigen=false"
    ratios = [in_a_process(one_thread) / in_a_process("") for _ in range(3)]
    print(f"{'two sharded devices against threads':<44}{np.median(ratios):>6.2f}")
