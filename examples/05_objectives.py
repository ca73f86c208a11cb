# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # One data set, six objectives
#
# The data are two moons in the plane, where a grid can compute every normaliser. So we can
# compare each learned energy with the density that generated the points, in nats. Only
# noise-contrastive estimation also estimates log Z.
#
# Run it with `python examples/05_objectives.py`; it takes a minute.

# %%

import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import optax

import numpyro_ebm as ebm

OUTPUT = "objectives.png"
NUM_STEPS = 3000
data = ebm.datasets.two_moons(jr.key(0), 8192)

# %% [markdown]
# ## The truth
#
# Each moon is an arc plus Gaussian noise: a mixture of many Gaussians along the arc.

# %%
angle = (np.arange(200) + 0.5) * np.pi / 200
upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
arcs = np.concatenate([upper, np.array([1.0, 0.5]) - upper])
truth = ebm.GaussianMixture(np.full(400, 1 / 400), arcs, 0.1**2 * np.eye(2))

grid = ebm.Quadrature([-5.0, -5.0], [6.0, 5.5], 401)
points, log_weights = grid.nodes()
log_truth = -jax.vmap(truth)(points)


def divergence(energy):
    """The Kullback-Leibler divergence from the truth to `energy`, on the grid."""
    log_density = -jax.lax.map(energy, points, batch_size=8192) - grid.log_z(
        energy
    )
    return jnp.sum(
        jnp.exp(log_truth + log_weights) * (log_truth - log_density)
    )


# %% [markdown]
# ## Six fits

# %%
OBJECTIVES = {
    "score matching": ebm.ScoreMatching(),
    "sliced": ebm.SlicedScoreMatching(),
    "denoising": ebm.DenoisingScoreMatching(0.05),
    "noise-contrastive": ebm.NoiseContrastiveEstimation(),
    "contrastive divergence": ebm.ContrastiveDivergence(
        ebm.MALA(step_size=0.01), 5, ebm.FromData()
    ),
    "persistent": ebm.ContrastiveDivergence(
        ebm.MALA(step_size=0.01), 10, ebm.Persistent(2000, reinit=0.01)
    ),
}
start = ebm.MLPEnergy(2, 64, key=jr.key(1))
slow_start = optax.adam(optax.cosine_onecycle_schedule(NUM_STEPS, 1e-2))
falling = optax.adam(optax.cosine_decay_schedule(5e-3, NUM_STEPS), b2=0.99)
results = {}
for name, objective in OBJECTIVES.items():
    # Scores have heavy tails; with chains, the energy must not change faster than they move.
    optim = (
        falling
        if isinstance(objective, ebm.ContrastiveDivergence)
        else slow_start
    )
    results[name] = ebm.Estimator(objective, optim).run(
        jr.key(2), NUM_STEPS, start, data, batch_size=256, progress_bar=False
    )

# %%
print(f"{'':<24}{'KL, nats':>9}{'log Z':>9}{'learned':>20}")
for name, result in results.items():
    energy = ebm.unfreeze(result.energy)
    learned = ""
    if isinstance(energy, ebm.Normalized):
        learned = f"{energy.log_z:.3f} +- {energy.std_error:.3f}"
    print(
        f"{name:<24}{divergence(energy):>9.4f}{grid.log_z(energy):>9.3f}{learned:>20}"
    )

# %% [markdown]
# ## Pictures

# %%
figure, axes = plt.subplots(
    2, 4, figsize=(13, 5), layout="constrained", sharex=True, sharey=True
)
shown = {"data": None, "truth": truth} | {
    n: r.energy for n, r in results.items()
}
for ax, (name, energy) in zip(axes.flat, shown.items(), strict=True):
    if energy is None:
        ax.scatter(*np.asarray(data[:2000]).T, s=2, alpha=0.4)
        ax.set_aspect("equal")
    else:
        bounds = ((-1.6, 2.6), (-1.1, 1.6))
        ebm.plot_energy(
            ebm.unfreeze(energy), bounds=bounds, ax=ax, colorbar=False
        )
    ax.set_title(name)
figure.savefig(OUTPUT, dpi=120)
print(f"wrote {OUTPUT}")
