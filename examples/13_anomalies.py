# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Digits that nobody has seen: alarms at a rate that was chosen
#
# An energy learns the digits 0 to 4. Which of the other images are not of that kind? A threshold
# on the energy is a guess; p-values calibrated on digits held out are not: five in a hundred
# normal digits raise an alarm, however good or bad the energy is. How many of the digits 5 to 9
# do is what the energy is worth.
#
# Run it with `python examples/13_anomalies.py`.

# %%
import equinox as eqx
import jax
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

import numpyro_ebm as ebm

OUTPUT = "anomalies.png"
RATE, NOISE_SCALE = 0.05, 0.2
pixels, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(pixels))
pixels, labels = pixels[order] / 16, labels[order]
normal, strange = pixels[labels < 5], pixels[labels >= 5]
train, reference, new = normal[:400], normal[400:650], normal[650:]

# %% [markdown]
# ## The energies
#
# A network that tilts a Gaussian, by denoising score matching, and the Gaussian alone. A
# background learns the same digits, but with a third of their pixels exchanged between images:
# it knows how much ink there is and where, and not which strokes go together.

# %%


def learn(rng_key, images):
    covariance = np.cov(images.T) + NOISE_SCALE**2 * np.eye(64)
    reference = ebm.Gaussian(images.mean(0), covariance)
    network = eqx.nn.MLP(64, "scalar", 128, 2, jax.nn.silu, key=rng_key)
    estimator = ebm.Estimator(
        ebm.DenoisingScoreMatching(NOISE_SCALE),
        optax.adam(optax.cosine_decay_schedule(2e-3, 2000)),
        ema_decay=0.99,
    )
    start = ebm.Tilted(network, reference)
    run = estimator.run(
        rng_key, 2000, start, images, batch_size=128, progress_bar=False
    )
    return run.energy, reference


rng = np.random.default_rng(1)
shuffled = rng.permuted(train, axis=0)
perturbed = np.where(rng.random(train.shape) < 0.3, shuffled, train)
energy, gaussian = learn(jr.key(0), train)
background, _ = learn(jr.key(1), perturbed)

# %% [markdown]
# ## The alarms
#
# The last row is the mistake: calibrated on the training images, which the energy knows, it
# promises fewer false alarms than there are.

# %%
tasks = ebm.tasks
ways = {
    "Gaussian": (gaussian, tasks.HighEnergy(), reference),
    "energy": (energy, tasks.HighEnergy(), reference),
    "typicality": (energy, tasks.Typicality(), reference),
    "ratio": (energy, tasks.LikelihoodRatio(background), reference),
    "on training": (energy, tasks.HighEnergy(), train),
}
found = {}
print(f"{'':12}{'false alarms':>14}{'found':>8}{'AUROC':>8}")
for name, (model, statistic, calibration) in ways.items():
    both = np.concatenate([new, strange])
    scores = tasks.anomaly_score(model, both, calibration, statistic)
    alarms = np.asarray(scores.alarms(RATE))
    is_strange = np.arange(len(both)) >= len(new)
    auroc = roc_auc_score(is_strange, -scores.p_values)
    rates = alarms[: len(new)].mean(), alarms[len(new) :].mean()
    found[name] = scores
    print(f"{name:12}{rates[0]:>14.3f}{rates[1]:>8.3f}{auroc:>8.3f}")
low, high = found["energy"].rate_interval(RATE)
print(f"with these {len(reference)} digits, between {low:.3f} and {high:.3f}")

# %% [markdown]
# ## The picture
#
# The energies, with the threshold that 5 % of the normal digits exceed; the normal digits with
# the smallest p-values, and the strange ones with the largest.

# %%
scores = found["energy"]
values, p_values = np.asarray(scores.values), np.asarray(scores.p_values)
threshold = np.quantile(scores.reference_values, 1 - RATE, method="higher")
figure = plt.figure(figsize=(9, 5.4), layout="constrained")
top, bottom = figure.subfigures(2, 1, height_ratios=[1.4, 1])
axis = top.subplots()
bins = np.linspace(values.min(), np.quantile(values, 0.98), 60)
groups = {
    "digits 0 to 4": values[: len(new)],
    "digits 5 to 9": values[len(new) :],
}
for name, some in groups.items():
    axis.hist(some, bins, density=True, alpha=0.6, label=name)
axis.axvline(threshold, color="black", linestyle="--", label="threshold")
axis.set(xlabel="energy", ylabel="share per nat")
axis.legend()
worst = np.argsort(p_values[: len(new)], kind="stable")[:10]
missed = np.argsort(-p_values[len(new) :], kind="stable")[:10]
rows = {"false alarms": new[worst], "missed": strange[missed]}
cells = bottom.subplots(2, 10)
ebm.plots.plot_images(
    {name: row.reshape(-1, 8, 8) for name, row in rows.items()}, ax=cells
)
figure.savefig(OUTPUT, dpi=150)
print(f"wrote {OUTPUT}")
