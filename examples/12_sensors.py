# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Sensors on either side of a road: jumps between two worlds
#
# Three beacons stand along a road, nearly in a line. Three sensors measure noisy distances to
# the beacons and to each other, if they hear them. Where are they? Mirrored at the road, all
# distances stay nearly the same: the posterior has two worlds, far apart, of unequal weight.
#
# NUTS stays in the world in which it starts. A flow learns both from a tempered population,
# and chains that jump to its draws get the proportions right.
#
# Run it with `python examples/12_sensors.py`.

# %%
import time

import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS

import numpyro_ebm as ebm

OUTPUT = "sensors.png"
NOISE = 0.05
BEACONS = np.array([[0.1, 0.47], [0.5, 0.52], [0.9, 0.48]])
TRUTH = np.array([[0.2, 0.72], [0.45, 0.8], [0.72, 0.7]])
places = np.concatenate([BEACONS, TRUTH])
one, other = np.triu_indices(6, 1)
one, other = one[other >= 3], other[other >= 3]  # beacons know where they are
rng = np.random.default_rng(3)
apart = np.linalg.norm(places[one] - places[other], axis=-1)
heard = rng.uniform(size=len(apart)) < np.exp(-0.5 * (apart / 0.4) ** 2)
distances = np.where(heard, apart + NOISE * rng.normal(size=len(apart)), 0)
data = distances.astype(np.float32), heard.astype(np.int32)

# %% [markdown]
# ## The model, and NUTS
#
# That two sensors do not hear each other says something, too: they are far apart.


# %%
def network(distances, heard):
    square = dist.Uniform(0, 1).expand([3, 2]).to_event(2)
    sensors = numpyro.sample("sensors", square)
    reach = numpyro.sample("reach", dist.LogNormal(-1.0, 0.5))
    at = jnp.concatenate([jnp.asarray(BEACONS), sensors])
    apart = jnp.linalg.norm(at[one] - at[other], axis=-1)
    hears = dist.Bernoulli(jnp.exp(-0.5 * (apart / reach) ** 2))
    numpyro.sample("heard", hears.to_event(1), obs=heard)
    measured = dist.Normal(apart, NOISE).mask(heard)
    numpyro.sample("distances", measured.to_event(1), obs=distances)


def north(mcmc):
    """The share of the draws of each chain in which all sensors are north of the road."""
    sensors = mcmc.get_samples(group_by_chain=True)["sensors"]
    return np.mean(np.all(sensors[..., 1] > 0.5, axis=-1), axis=1)


def run(kernel, key, **sizes):
    start = time.perf_counter()
    mcmc = MCMC(
        kernel,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
        **sizes,
    )
    mcmc.run(key, *data)
    return mcmc, time.perf_counter() - start


nuts, seconds = run(
    NUTS(network), jr.key(0), num_warmup=500, num_samples=1000
)
print(f"NUTS, north in each chain: {north(nuts)} ({seconds:.0f} s)")

# %% [markdown]
# ## A flow, and jumps
#
# The population starts at the prior. `found` says how good the flow is; weighted, its draws
# are another answer, which no chain has a part in.

# %%
start = time.perf_counter()
energy = ebm.ModelEnergy(network, *data)
found = ebm.flows.approximate(jr.key(1), energy, progress_bar=False)
print(found, f"({time.perf_counter() - start:.0f} s)")

kernel = found.kernel(ebm.NUTS(network, max_tree_depth=5))
jumping, seconds = run(kernel, jr.key(2), num_warmup=500, num_samples=2000)
print(f"jumps, north in each chain: {north(jumping)} ({seconds:.0f} s)")


def world(sites):
    return jnp.where(jnp.mean(sites["sensors"][:, 1]) > 0.5, 1, 0)


print(ebm.diagnostics.jump_report(jumping, world))
print(ebm.mixing_report(jumping))

# %% [markdown]
# ## Tempering
#
# The same answer, in its own time.

# %%
tempering = ebm.ParallelTempering(ebm.NUTS(network, max_tree_depth=5))
tempered, seconds = run(
    tempering, jr.key(3), num_warmup=500, num_samples=2000
)
print(f"tempering, north in each chain: {north(tempered)} ({seconds:.0f} s)")


def ess_of_world(mcmc):
    report = ebm.mode_report(mcmc, world)
    return float(report.table["ess"].min())


for name, mcmc in {"jumps": jumping, "tempering": tempered}.items():
    print(f"effective draws of the world, {name}: {ess_of_world(mcmc):.0f}")

# %% [markdown]
# ## The picture
#
# Each chain in its own colour: of NUTS, each knows one world.

# %%
figure, axes = plt.subplots(
    1, 2, figsize=(8, 4), layout="constrained", sharey=True
)
for ax, (name, mcmc) in zip(
    axes, {"NUTS": nuts, "jumps": jumping}.items(), strict=True
):
    for chain in mcmc.get_samples(group_by_chain=True)["sensors"]:
        ax.scatter(*np.moveaxis(chain[::10], -1, 0), s=2, alpha=0.5)
    ax.plot(*BEACONS.T, "ks", label="beacons")
    ax.plot(*TRUTH.T, "k*", markersize=9, label="truth")
    ax.set(title=name, xlim=(0, 1), ylim=(0, 1), aspect="equal")
axes[0].legend(loc="lower left")
figure.savefig(OUTPUT, dpi=150)
print(f"wrote {OUTPUT}")
