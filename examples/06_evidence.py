# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # How good is a learned density? Log Z with an error bar
#
# Unnormalised energies cannot be compared with each other. With its log Z, an energy is a
# density of the 64 pixels. Its likelihood for images that it has never seen can be compared
# with that of Gaussians; the error of log Z is part of the comparison.
#
# Run it with `python examples/06_evidence.py`.

# %%

import equinox as eqx
import jax
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import numpyro.distributions as dist
import optax

import numpyro_ebm as ebm

OUTPUT = "evidence.png"
NUM_STEPS = 1500
NOISE = 0.2  # discrete grey values have no density; with added noise they do
train_key, noise_key, test_key, *keys = jr.split(jr.key(0), 8)

train, test = ebm.datasets.digits()
train = train + NOISE * np.asarray(jr.normal(noise_key, train.shape))
test = test + NOISE * np.asarray(jr.normal(test_key, test.shape))

# %% [markdown]
# ## An energy that tilts a Gaussian
#
# Denoising score matching would learn the density with even more noise. Noise contrast learns
# this one, and also log Z. A Gaussian fitted to the data is both the noise and the reference.

# %%
mu, covariance = train.mean(0), np.cov(train.T)
noise = dist.MultivariateNormal(mu, covariance_matrix=1.05 * covariance)
reference = ebm.Gaussian(mu, 1.05 * covariance)
network = eqx.nn.MLP(64, "scalar", 128, 2, jax.nn.silu, key=jr.key(1))
objective = ebm.NoiseContrastiveEstimation(noise, num_noise=5)
optimiser = optax.adam(optax.cosine_decay_schedule(1e-3, NUM_STEPS))
fit = ebm.Estimator(objective, optimiser).run(
    train_key,
    NUM_STEPS,
    ebm.Tilted(network, reference),
    train,
    batch_size=256,
)
energy = fit.energy.energy  # without the constant that was learned with it

# %% [markdown]
# ## Its constant, by independent methods
#
# Sequential Monte Carlo is the default of `log_partition` here. Annealed importance sampling
# goes from the reference to the target and back, and encloses log Z between two bounds. The
# upper bound is approximate, because the starting points of the way back are.

# %%
methods = {
    "sequential Monte Carlo": ebm.SequentialMonteCarlo(),
    "annealed importance": ebm.AnnealedImportanceSampling(
        num_temperatures=1000
    ),
    "thermodynamic integration": ebm.ThermodynamicIntegration(),
}
estimates = {
    name: ebm.log_partition(key, energy, method)
    for key, (name, method) in zip(keys, methods.items(), strict=False)
}
estimates["noise contrast"] = fit.energy.partition
for name, log_z in estimates.items():
    print(f"{name:<27}{log_z}")

# %% [markdown]
# ## Held-out likelihood
#
# In nats per image. The data are paired, so images that are hard for all densities cancel; the
# error of log Z does not.

# %%
densities = {
    "learned energy": ebm.Normalized(
        energy, estimates["sequential Monte Carlo"]
    ),
    "full Gaussian": ebm.Gaussian(mu, covariance),
    "independent pixels": dist.Normal(mu, train.std(0)).to_event(1),
}
print(ebm.compare(densities, test))

# %% [markdown]
# ## The picture
#
# Points are estimates with 95 % intervals; bars reach from the lower to the upper bound. An
# empty point is an estimate that warns of its error, and has no interval: few of the noise's
# draws look like digits.

# %%
figure, ax = plt.subplots(figsize=(7, 2.2), layout="constrained")
for row, log_z in enumerate(estimates.values()):
    filling = "full" if log_z.ok else "none"
    ax.plot(
        float(log_z.estimate), row, "o", color="tab:orange", fillstyle=filling
    )
    if log_z.ok:
        ax.hlines(row, *log_z.interval(), color="tab:orange")
    bounds = np.array([log_z.lower, log_z.upper])
    if np.isfinite(bounds).all():
        ax.barh(
            row,
            np.diff(bounds),
            left=bounds[0],
            height=0.5,
            color="tab:blue",
            alpha=0.3,
        )
ax.set(
    yticks=range(len(estimates)),
    yticklabels=list(estimates),
    xlabel="log Z of the learned energy",
)
ax.use_sticky_edges = False
ax.invert_yaxis()
figure.savefig(OUTPUT, dpi=150)
print(f"wrote {OUTPUT}")
