# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # From a three to an eight: translation, and a law for it
#
# Which eight is it that somebody writes who writes this three? No pairs tell. Chains that start
# at threes and run under the energy of eights become eights; what they keep of the three is a
# matter of luck and of time. The posterior of an eight, of which the three is a noisy
# observation, is a law that can be stated: its noise scale says how much to keep.
#
# Both are judged by how many of the results a classifier takes for eights, and by their
# correlation with the source; beside them the most similar eight among the training digits.
#
# Run it with `python examples/18_translation.py`.

# %%
import equinox as eqx
import jax
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.svm import SVC

import numpyro_ebm as ebm

OUTPUT = "translation.png"
SOURCE, TARGET, NOISE_SCALE, NUM_STEPS = 3, 8, 0.3, 3000
train, test = ebm.datasets.digits()
labels, test_labels = ebm.datasets.digit_labels()
judge = SVC(C=10, gamma=0.32).fit(train, labels)
sources = test[test_labels == SOURCE][:16]
examples = train[labels == TARGET]

# %% [markdown]
# ## The energies of all classes
#
# One network, as in the example that composes digits.

# %%
covariance = np.cov(train.T) + NOISE_SCALE**2 * np.eye(64)
reference = ebm.Gaussian(train.mean(0), covariance)
network = eqx.nn.MLP(64, 10, 256, 2, jax.nn.silu, key=jr.key(1))
start = ebm.energies.ClassEnergy(network, 10, (64,), reference)
denoising = ebm.DenoisingScoreMatching(NOISE_SCALE)
schedule = optax.cosine_decay_schedule(2e-3, NUM_STEPS)
estimator = ebm.Estimator(
    ebm.objectives.JointLikelihood(denoising),
    optax.adamw(schedule, weight_decay=0.1),
    ema_decay=0.999,
)
run = estimator.run(
    jr.key(2),
    NUM_STEPS,
    start,
    (labels, train),
    batch_size=256,
    progress_bar=False,
)
digits = run.energy
target = digits.of_class(TARGET)

# %% [markdown]
# ## Two ways
#
# The energy is one of digits with noise. So the chains start at sources with noise, and one step
# along the score of all digits cleans what is shown and judged.

# %%
rng = np.random.default_rng(0)
noisy = sources + NOISE_SCALE * rng.normal(size=sources.shape)
moved = ebm.tasks.translate(
    jr.key(3), target, noisy, num_steps=200, num_frames=20, progress_bar=False
)
print(moved)

scales = np.array([0.4, 0.5, 0.6])
num_sources = len(sources)
posterior = ebm.tasks.denoise(
    jr.key(4),
    target,
    np.tile(sources, (len(scales), 1)),
    np.repeat(scales, num_sources)[:, None],
    num_chains=4,
    num_warmup=300,
    num_samples=1400,
    thinning=4,
    progress_bar=False,
)
print(posterior)
report = ebm.mixing_report(posterior)
print("chains agree:", report.ok, *report.failures)

# %% [markdown]
# ## What became eights, and what is left of the threes

# %%


def clean(images):
    """The mean of the digit behind each noisy image, by no class."""
    flat = images.reshape(-1, 64)
    found = ebm.tasks.tweedie(digits.marginal, flat, NOISE_SCALE).mean
    return np.asarray(found).reshape(images.shape)


def judged(images):
    """The share taken for the target, and the correlations with the sources."""
    named = judge.predict(images.reshape(-1, 64))
    apart = images - images.mean(-1, keepdims=True)
    own = sources - sources.mean(-1, keepdims=True)
    sizes = np.linalg.norm(apart, axis=-1) * np.linalg.norm(own, axis=-1)
    return (named == TARGET).mean(), (apart * own).sum(-1) / sizes


frames = clean(moved.frames).swapaxes(0, 1)
draws = clean(posterior.images[:, ::25])
draws = draws.reshape(-1, len(scales), num_sources, 64).swapaxes(0, 1)
means = draws.mean(1)
gaps = ((sources[:, None] - examples) ** 2).sum(-1)
nearest = examples[gaps.argmin(1)]
others = rng.choice(examples, (20, num_sources))
steps = [0, 10, 20, 30, 50, 100, 200]
found = {f"chain, {n} steps": judged(frames[n // 10]) for n in steps}
found |= {
    f"a draw, {s}": judged(d) for s, d in zip(scales, draws, strict=True)
}
found |= {f"mean, {s}": judged(m) for s, m in zip(scales, means, strict=True)}
found |= {"nearest eight": judged(nearest), "any eight": judged(others)}
print(f"{'':18}{'eights':>8}{'correlation':>13}")
for name, (share, correlations) in found.items():
    print(f"{name:18}{share:>8.2f}{correlations.mean():>13.2f}")
gap = found["mean, 0.6"][1] - found["nearest eight"][1]
error = gap.std() / np.sqrt(num_sources)
print(f"the mean minus the nearest eight: {gap.mean():.3f} +- {error:.3f}")

# %% [markdown]
# A chain is an eight after ten steps and forgets the three soon after: its correlation falls
# towards that of any eight. The mean of the posterior is taken for an eight as well, and is more
# like its source than the nearest eight that anybody has written; but a mean is smoother than any
# digit. Of the draws, three in four are taken for eights.
#
# ## The picture
#
# Chains from four threes; the posterior of eight; and what each way trades.

# %%
figure = plt.figure(figsize=(9, 8.4), layout="constrained")
strips, lower = figure.subfigures(2, 1, height_ratios=[1, 1.25])
strip = np.concatenate([sources[None], frames[[1, 2, 3, 5, 10, 15, 20]]])
ebm.plots.plot_images(
    {f"chain {i}": strip[:, i].reshape(-1, 8, 8) for i in range(4)},
    vmin=0,
    vmax=1,
    ax=(cells := strips.subplots(4, 8)),
)
for axis, n in zip(cells[0], [0, 10, 20, 30, 50, 100, 150, 200], strict=True):
    axis.set_title("source" if n == 0 else f"{n} steps", fontsize=9)
left, right = lower.subfigures(1, 2, width_ratios=[1.3, 1])
kept = len(scales) - 1
rows = {
    "source": sources,
    "mean": means[kept],
    "a draw": draws[kept, 0],
    "another": draws[kept, -1],
    "sd": draws[kept].std(0),
    "nearest": nearest,
}
ebm.plots.plot_images(
    {name: row[:8].reshape(-1, 8, 8) for name, row in rows.items()},
    vmin=0,
    vmax=1,
    ax=left.subplots(6, 8),
)
axis = right.subplots()
kinds = {
    "chain": "o-",
    "a draw": "s-",
    "mean": "D-",
    "nearest": "k*",
    "any": "kx",
}
for kind, style in kinds.items():
    some = [value for name, value in found.items() if name.startswith(kind)]
    shares = [share for share, _ in some]
    axis.plot([c.mean() for _, c in some], shares, style, label=kind)
axis.set(xlabel="correlation with the source", ylabel="share of eights")
axis.legend()
figure.savefig(OUTPUT, dpi=150)
print(f"wrote {OUTPUT}")
