# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Eight islands: chains that cannot leave, and what to do
#
# Eight modes lie on a ring; the first holds a third of the mass. A hundred MALA chains start on
# the first island and stay there. R-hat finds nothing wrong, because they all agree.
# In parallel tempering, hot replicas carry points across; tempered SMC anneals down to all
# islands at once. The target is a mixture, so the truth is known.
#
# Run it with `python examples/04_islands.py`; it takes half a minute.

# %%

import arviz_stats
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import numpyro.distributions as dist

import numpyro_ebm as ebm

OUTPUT = "islands.png"
angles = 2 * np.pi * np.arange(8) / 8
ISLANDS = 5 * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
WEIGHTS = np.array([8.0, 1.0, 4.0, 2.0, 3.0, 1.0, 3.0, 2.0]) / 24
energy = ebm.GaussianMixture(WEIGHTS, ISLANDS, [0.15 * np.eye(2)] * 8)

# %% [markdown]
# ## Three samplers
#
# All chains start on the first island. MALA's step is fixed: long trajectories of an adaptive
# warm-up would carry a few chains to other islands, which R-hat sees. The SMC populations need
# no starting points.

# %%
NUM_CHAINS = 100
start = ISLANDS[0] + 0.3 * jr.normal(jr.key(0), (NUM_CHAINS, 2))
settings = {"num_warmup": 1000, "num_samples": 1000, "init_params": start}
draws = {
    "MALA": ebm.sample(
        jr.key(1),
        energy,
        ebm.MALA(step_size=0.1, adapt_step_size=False),
        **settings,
    ),
    "tempered": ebm.sample(
        jr.key(2),
        energy,
        ebm.ParallelTempering(ebm.MALA(), temperatures=50.0),
        **settings,
    ),
    "SMC": ebm.sample(
        jr.key(3),
        energy,
        ebm.TemperedSMC(
            ebm.MALA(), dist.Normal(0, 4).expand([2]).to_event(1)
        ),
        num_chains=16,
        num_samples=2000,
    ),
}

# %% [markdown]
# ## How much mass is on each island?
#
# Total variation is half the sum of the absolute errors; 0 is perfect.

# %%


def shares(values):
    distance = ((np.asarray(values)[..., None, :] - ISLANDS) ** 2).sum(-1)
    return (
        np.bincount(distance.argmin(-1).ravel(), minlength=8)
        / distance[..., 0].size
    )


print(
    "share of each island     "
    + " ".join(f"{w:5.3f}" for w in WEIGHTS)
    + "   error"
)
for name, one in draws.items():
    found = shares(one.values)
    error = 0.5 * np.abs(found - WEIGHTS).sum()
    print(
        f"{name:<24} "
        + " ".join(f"{w:5.3f}" for w in found)
        + f"   {error:.3f}"
    )

# %% [markdown]
# ## What the usual numbers say
#
# The MALA chains agree with each other: a good R-hat does not show that nothing is missing.

# %%
for name in ("MALA", "tempered"):
    table = arviz_stats.summary(
        ebm.to_arviz(draws[name]), kind="diagnostics", round_to="none"
    )
    r_hat, ess = table["r_hat"].max(), table["ess_bulk"].min()
    print(
        f"{name}: r_hat <= {r_hat:.3f}, ess_bulk >= {ess:.0f}; {draws[name]}"
    )

# %%
figure, axes = plt.subplots(
    1, 3, figsize=(12, 4.2), layout="constrained", sharey=True
)
for ax, (name, one) in zip(axes, draws.items(), strict=True):
    values = one.values.reshape(-1, 2)
    some = values[jnp.linspace(0, len(values) - 1, 1000).astype(int)]
    ebm.plot_energy(
        energy, some, bounds=((-7, 7), (-7, 7)), ax=ax, colorbar=False
    )
    ax.set_title(name)
figure.savefig(OUTPUT, dpi=120)
print(f"wrote {OUTPUT}")
