# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Two periods that fit: tempering a NumPyro model
#
# A star is observed once a night, at nearly the same hour. A signal of frequency $f$ per day
# then looks almost like one of $1 - f$: the posterior has two narrow modes, an *alias* and the
# truth, and many small ones. NUTS stays where it starts. Parallel tempering starts from the
# prior, again and again, and says how often a new point has reached the posterior.
#
# Run it with `python examples/09_aliases.py`.

# %%
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS
from scipy.special import logsumexp

import numpyro_ebm as ebm

OUTPUT = "aliases.png"
NOISE = 0.7
rng = np.random.default_rng(7)
nights = np.sort(rng.choice(40, 25, replace=False))
t = nights + rng.normal(0, 0.07, 25)  # days
y = np.sin(2 * np.pi * 0.31 * t + 0.5) + NOISE * rng.normal(size=25)
t, y = t.astype(np.float32), y.astype(np.float32)

# %% [markdown]
# ## The model, and NUTS


# %%
def waves(frequency, t):
    angle = 2 * jnp.pi * frequency * t
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], -1)


def signal(t, y):
    frequency = numpyro.sample("frequency", dist.Uniform(0, 1))
    size = numpyro.sample("size", dist.Normal(0, 1).expand([2]).to_event(1))
    mean = waves(frequency, t) @ size
    numpyro.sample("y", dist.Normal(mean, NOISE), obs=y)


chains = {
    "num_chains": 4,
    "chain_method": "vectorized",
    "progress_bar": False,
}
nuts = MCMC(NUTS(signal), num_warmup=1000, num_samples=1000, **chains)
nuts.run(jr.key(0), t, y)
print(ebm.mixing_report(nuts))

# %% [markdown]
# ## Tempering
#
# The same model under the same `MCMC`. The path leads from the prior, of which each transition
# draws a new point, to the posterior.

# %%
kernel = ebm.ParallelTempering(ebm.NUTS(signal, max_tree_depth=5))
tempered = MCMC(kernel, num_warmup=1000, num_samples=3000, **chains)
tempered.run(jr.key(1), t, y)
report = ebm.tempering_report(tempered)
print(report)
print(ebm.mixing_report(tempered))

# %% [markdown]
# ## The truth
#
# Given the frequency the model is linear, so that an integral over one number remains.

# %%
grid = np.linspace(0, 1, 20_001)[1:-1]
bases = np.stack(
    [
        np.sin(2 * np.pi * grid[:, None] * t),
        np.cos(2 * np.pi * grid[:, None] * t),
    ],
    -1,
).astype(float)
covariance = NOISE**2 * np.eye(25) + bases @ bases.transpose(0, 2, 1)
whitened = np.linalg.solve(
    covariance, np.broadcast_to(y, (len(grid), 25))[..., None]
)
log_p = -0.5 * (
    whitened[..., 0] @ y.astype(float)
    + np.linalg.slogdet(2 * np.pi * covariance)[1]
)
evidence = logsumexp(log_p) - np.log(len(grid))
density = np.exp(log_p - evidence)
share = density[grid > 0.5].mean() / density.mean() / 2
print(f"log evidence {evidence:.3f}, by stepping stones {report.log_z}")

draws = {
    "NUTS": nuts.get_samples(group_by_chain=True)["frequency"],
    "tempering": tempered.get_samples(group_by_chain=True)["frequency"],
}
print(f"probability of the alias, f > 1/2: {share:.3f}")
for name, frequency in draws.items():
    print(f"by {name}, chain by chain: {np.mean(frequency > 0.5, axis=1)}")

# %% [markdown]
# ## The picture
#
# Each chain in its own colour. Tempered chains agree with each other and with the truth (grey).

# %%
figure, axes = plt.subplots(
    1, 3, figsize=(11, 2.8), layout="constrained", width_ratios=[1, 1, 1.2]
)
for ax, (name, frequency) in zip(axes, draws.items(), strict=False):
    ax.fill_between(grid, density, color="0.85")
    bins = np.linspace(0, 1, 251)
    for chain in frequency:
        ax.hist(chain, bins, density=True, histtype="step")
    ax.set(title=name, xlabel="frequency per day", yticks=[], xlim=(0.2, 0.8))
ebm.plots.plot_index_process(tempered, ax=axes[2])
figure.savefig(OUTPUT, dpi=150)
print(f"wrote {OUTPUT}")
