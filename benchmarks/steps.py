"""Our time per step, through `sample`, for the same work as `torchebm_steps.py`.

Both keep only the last state. Alternate the two; on shared cores, give each one thread.
"""

import time

import equinox as eqx
import jax
import jax.random as jr

import numpyro_ebm as ebm

KEY = jr.key(0)


class Energy(eqx.Module):
    network: eqx.nn.MLP

    def __call__(self, x):
        return self.network(x) + 0.5 * x @ x


def network(dim):
    return Energy(eqx.nn.MLP(dim, "scalar", 128, 3, jax.nn.silu, key=KEY))


def milliseconds(energy, kernel, num_chains, shape, num_steps):
    start = jr.normal(KEY, (num_chains, *shape))

    def run():
        settings = {"num_warmup": 0, "num_samples": num_steps, "thinning": num_steps}
        draws = ebm.sample(
            KEY, energy, kernel, init_params=start, progress_bar=False, **settings
        )
        jax.block_until_ready(draws.values)

    run()
    begin = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - begin) / num_steps


FIXED = {"adapt_step_size": False}
LANGEVIN = ebm.UnadjustedLangevin(step_size=0.01, **FIXED)
HMC = ebm.HMC(
    step_size=0.1, num_steps=10, trajectory_length=None, adapt_mass_matrix=False, **FIXED
)
ROWS = {
    "MALA, 1000 chains": (network(2), ebm.MALA(step_size=0.05, **FIXED), 1000, (2,), 500),
    "Langevin, 1000 chains": (network(2), LANGEVIN, 1000, (2,), 500),
    "Langevin, 1 chain": (network(2), LANGEVIN, 1, (2,), 100_000),
    "Langevin, 1000 chains, 784 dimensions": (network(784), LANGEVIN, 1000, (784,), 100),
    "Langevin, double well, 10 dimensions": (
        lambda x: 2 * ((x**2 - 1) ** 2).sum(),
        LANGEVIN,
        1000,
        (10,),
        5000,
    ),
    "Langevin, 64 images of 28 x 28": (
        ebm.ConvEnergy((28, 28), key=KEY),
        LANGEVIN,
        64,
        (28, 28),
        60,
    ),
    "HMC with 10 leapfrog steps, 200 chains": (network(2), HMC, 200, (2,), 200),
}

if __name__ == "__main__":
    for name, row in ROWS.items():
        print(f"{name:<42} {milliseconds(*row):.4f} ms a step")
