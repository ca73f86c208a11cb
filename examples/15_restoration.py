# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Half of a digit under noise: what is known, and how well
#
# Digits are seen through strong noise, and their right halves not at all. A learned energy
# fills in and denoises all of them at once; next to it a Gaussian, whose posterior has a closed
# form.
#
# Denoising score matching learns the energy of digits with *some* noise. That is no loss here: a
# digit under stronger noise is such a noisy digit plus the rest of the noise. So `denoise` draws
# the noisy digit, and `tweedie` leads from there to the mean of the clean one, exactly.
#
# Run it with `python examples/15_restoration.py`.

# %%
import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import optax

import numpyro_ebm as ebm

OUTPUT = "restoration.png"
NUM_IMAGES, NOISE_SCALE, LEARNED = 24, 0.4, 0.25
SEEN = np.arange(64) % 8 < 4  # the left half
train, test = ebm.datasets.digits()
truth = test[:NUM_IMAGES]
rng = np.random.default_rng(0)
# The noise in two parts, to know the digit with the first.
partly = truth + LEARNED * rng.normal(size=truth.shape)
rest = np.sqrt(NOISE_SCALE**2 - LEARNED**2)
noisy = partly + rest * rng.normal(size=truth.shape)

# %% [markdown]
# ## The energy of slightly noisy digits

# %%
covariance = np.cov(train.T) + LEARNED**2 * np.eye(64)
reference = ebm.Gaussian(train.mean(0), covariance)
network = eqx.nn.MLP(64, "scalar", 128, 2, jax.nn.silu, key=jr.key(1))
estimator = ebm.Estimator(
    ebm.DenoisingScoreMatching(LEARNED),
    optax.adamw(optax.cosine_decay_schedule(2e-3, 2500), weight_decay=0.1),
    ema_decay=0.999,
)
start = ebm.Tilted(network, reference)
run = estimator.run(
    jr.key(2), 2500, start, train, batch_size=256, progress_bar=False
)
energy = run.energy

# %% [markdown]
# ## The posterior of all digits

# %%
restored = ebm.tasks.denoise(
    jr.key(3),
    energy,
    noisy,
    rest,
    mask=SEEN,
    num_chains=4,
    num_warmup=400,
    num_samples=800,
    progress_bar=False,
)
print(restored)
report = ebm.mixing_report(restored)
print("chains agree:", report.ok, *report.failures)
draws = restored.images[:, ::16].reshape(-1, 64)
clean = ebm.tasks.tweedie(energy, draws, LEARNED).mean
clean = np.asarray(clean).reshape(-1, NUM_IMAGES, 64)

# %% [markdown]
# ## How good is it?
#
# The intervals are those of the digit with little noise, which the energy is about; a good prior
# covers it 90 times in 100.

# %%
gain = covariance[:, SEEN] @ np.linalg.inv(
    covariance[SEEN][:, SEEN] + rest**2 * np.eye(SEEN.sum())
)
gaussian = train.mean(0) + (noisy - train.mean(0))[:, SEEN] @ gain.T
sd = np.sqrt(np.diag(covariance - gain @ covariance[SEEN]))
# From the digit with little noise to the mean of the clean one.
shrink = np.eye(64) - LEARNED**2 * np.linalg.inv(covariance)
wiener = train.mean(0) + (gaussian - train.mean(0)) @ shrink.T
low, high = map(np.asarray, restored.interval(0.9))
inside = {
    "Gaussian": np.abs(partly - gaussian) < 1.645 * sd,
    "energy": (low < partly) & (partly < high),
}
means = {"noisy": noisy, "Gaussian": wiener, "energy": clean.mean(0)}
print(
    f"{'':10}{'RMSE seen':>11}{'hidden':>9}{'90 % covers':>13}{'hidden':>9}"
)
for name, mean in means.items():
    square = (mean - truth) ** 2
    cells = [np.sqrt(square[:, SEEN].mean())]
    if name in inside:
        cells.append(np.sqrt(square[:, ~SEEN].mean()))
        covers = inside[name]
        cells += [covers[:, SEEN].mean(), covers[:, ~SEEN].mean()]
    print(f"{name:10}" + "".join(f"{cell:>10.3f} " for cell in cells))

# %% [markdown]
# ## The picture

# %%
rows = {
    "truth": truth,
    "seen": np.where(SEEN, noisy, np.nan),
    "Gaussian: mean": wiener,
    "energy: mean": clean.mean(0),
    "one draw": clean[0],
    "another": clean[-1],
    "sd": clean.std(0),
}
shown = slice(0, NUM_IMAGES, 2)
axes = ebm.plots.plot_images(
    {name: row[shown].reshape(-1, 8, 8) for name, row in rows.items()},
    vmin=0,
    vmax=1,
)
axes[0, 0].figure.savefig(OUTPUT, dpi=150)
print(f"wrote {OUTPUT}")
