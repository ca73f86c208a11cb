# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # What R-hat cannot see
#
# Eight chains that all start in the same one of two modes agree with each other. Every number
# that compares chains looks fine, and so does a Stein discrepancy, which compares them with the
# energy's slopes. Yet a third of the mass is missing. Two things reveal it: comparing
# occupancies with a run that can cross between modes, and chains that start elsewhere.
#
# Run it with `python examples/07_blind_spots.py`.

# %%

import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np

import numpyro_ebm as ebm

OUTPUT = "blind_spots.png"
energy = ebm.GaussianMixture(
    [0.7, 0.3], [[-5.0, 0.0], [5.0, 0.0]], [np.eye(2)] * 2
)
run_key, tempered_key, stein_key, probe_key = jr.split(jr.key(0), 4)

# %% [markdown]
# ## Chains that agree

# %%
start = np.array([-5.0, 0.0]) + np.random.default_rng(0).normal(size=(8, 2))
draws = ebm.sample(
    run_key,
    energy,
    ebm.MALA(),
    num_warmup=500,
    num_samples=2000,
    init_params=start,
)
report = ebm.mixing_report(draws)
stein = ebm.diagnostics.kernel_stein_discrepancy(stein_key, energy, draws)
print(report)
print(stein)

# %% [markdown]
# ## A run that crosses
#
# Hot replicas move between modes and hand down what they find. You tell `mode_report` which
# mode a draw belongs to; without such a function, it looks for clusters.

# %%
tempered = ebm.sample(
    tempered_key,
    energy,
    ebm.ParallelTempering(ebm.MALA(), 40.0, num_temperatures=6),
    num_chains=8,
    num_warmup=1000,
    num_samples=2000,
)


def is_right(x):
    return (x[0] > 0).astype(int)


modes = ebm.mode_report(draws, is_right, reference=tempered)
print(modes)

# %% [markdown]
# ## Starts elsewhere
#
# Chains from one mode and chains from wide noise, 1, 10 and 100 times as long as training would
# run them, must converge to the same distribution.

# %%
starts = {
    "one mode": np.asarray(start),
    "noise": 6 * np.random.default_rng(1).normal(size=(64, 2)),
}
probe = ebm.drift_probe(
    probe_key,
    energy,
    ebm.MALA(),
    starts,
    num_steps=20,
    statistics={"right": lambda x: 1.0 * (x[0] > 0)},
)
print(probe)

# %% [markdown]
# ## The picture

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 2.7), layout="constrained")
bounds = ((-9.0, 9.0), (-4.0, 4.0))
ebm.plot_energy(
    energy, draws.values[:, ::20], bounds=bounds, ax=axes[0], colorbar=False
)
axes[0].set_title(
    f"mixing: {'ok' if report.ok else 'NOT ok'}, KSD: p = {stein.p_value:.2f}"
)
ebm.plot_energy(
    energy,
    tempered.values[:, ::20],
    bounds=bounds,
    ax=axes[1],
    colorbar=False,
)
axes[1].set_title(
    f"tempered; against it the modes are {'ok' if modes.ok else 'NOT ok'}"
)
figure.savefig(OUTPUT, dpi=110)
print(f"wrote {OUTPUT}")
