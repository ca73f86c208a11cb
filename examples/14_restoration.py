# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Half of a digit under noise: what is known, and how well
#
# Digits are seen through strong noise, and their right halves not at all. A learned energy
# fills in and denoises all of them at once; next to it a Gaussian, probabilistic PCA and a
# mixture of ten Gaussians, whose posteriors have a closed form.
#
# Denoising score matching learns the energy of digits with *some* noise. That is no loss here: a
# digit under stronger noise is such a noisy digit plus the rest of the noise. So `denoise` draws
# the noisy digit, and `tweedie` leads from there to the mean of the clean one, exactly.
#
# Run it with `python examples/14_restoration.py`.

# %%
import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import optax
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

import numpyro_ebm as ebm

OUTPUT = "restoration.png"
NUM_IMAGES, NOISE_SCALE, LEARNED = 48, 0.4, 0.25
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
network = eqx.nn.MLP(64, "scalar", 128, 2, jax.nn.gelu, key=jr.key(1))
estimator = ebm.Estimator(
    ebm.DenoisingScoreMatching(LEARNED),
    optax.adamw(optax.cosine_decay_schedule(5e-3, 2500), weight_decay=0.2),
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
    num_samples=1200,
    progress_bar=False,
)
print(restored)
report = ebm.mixing_report(restored)
print("chains agree:", report.ok, *report.failures)
draws = restored.images[:, ::24].reshape(-1, 64)
# The mean of `ebm.tasks.tweedie`, without its standard deviations.
clean = draws + LEARNED**2 * jax.vmap(lambda u: ebm.score(energy, u))(draws)
clean = np.asarray(clean).reshape(-1, NUM_IMAGES, 64)

# %% [markdown]
# ## Priors to beat
#
# Each is a mixture of Gaussians, of one component or ten. So is its posterior, by Bayes' rule for
# each component.


# %%
def mixture(num_components):
    fit = GaussianMixture(num_components, reg_covar=0.01, random_state=0)
    fit.fit(train)
    return fit.weights_, fit.means_, fit.covariances_


def ppca(num_directions):
    fit = PCA(num_directions).fit(train)
    return np.ones(1), fit.mean_[None], fit.get_covariance()[None]


def posterior(prior, noise_scale, extra=0.0):
    """The digit with noise of scale `extra`, given its noisy left half."""
    weights, means, covariances = prior
    covariances = covariances + extra**2 * np.eye(64)
    seen = covariances[:, SEEN]
    total = seen[:, :, SEEN] + noise_scale**2 * np.eye(SEEN.sum())
    evidence = dist.MultivariateNormal(means[:, SEEN], total)
    gain = np.einsum(
        "kps,kst->kpt", seen.transpose(0, 2, 1), np.linalg.inv(total)
    )
    gap = noisy[:, None, SEEN] - means[:, SEEN]
    left = covariances - gain @ seen
    return dist.MixtureSameFamily(
        dist.Categorical(
            logits=np.log(weights) + evidence.log_prob(noisy[:, None, SEEN])
        ),
        dist.MultivariateNormal(
            means + np.einsum("kps,nks->nkp", gain, gap), left
        ),
    )


# %% [markdown]
# ## How good is it?
#
# The intervals are those of the digit with little noise, which the energy is about; a good prior
# covers it 90 times in 100.

# %%
priors = {
    "Gaussian": mixture(1),
    "PPCA": ppca(20),
    "mixture": mixture(10),
}
means, intervals = {"noisy": noisy}, {}
for name, prior in priors.items():
    means[name] = np.asarray(posterior(prior, NOISE_SCALE).mean)
    less_noisy = posterior(prior, rest, LEARNED).sample(jr.key(4), (2000,))
    intervals[name] = np.quantile(less_noisy, [0.05, 0.95], axis=0)
means["energy"] = clean.mean(0)
intervals["energy"] = np.asarray(restored.interval(0.9))
print(
    f"{'':10}{'RMSE seen':>11}{'hidden':>9}{'90 % covers':>13}{'hidden':>9}"
)
for name, mean in means.items():
    square = (mean - truth) ** 2
    cells = [np.sqrt(square[:, SEEN].mean())]
    if name in intervals:
        low, high = intervals[name]
        covers = (low < partly) & (partly < high)
        cells.append(np.sqrt(square[:, ~SEEN].mean()))
        cells += [covers[:, SEEN].mean(), covers[:, ~SEEN].mean()]
    print(f"{name:10}" + "".join(f"{cell:>10.3f} " for cell in cells))

# %% [markdown]
# ## The picture

# %%
rows = {
    "truth": truth,
    "seen": np.where(SEEN, noisy, np.nan),
    "mixture: mean": means["mixture"],
    "energy: mean": clean.mean(0),
    "one draw": clean[0],
    "another": clean[-1],
    "sd": clean.std(0),
}
shown = slice(0, NUM_IMAGES, 4)
axes = ebm.plots.plot_images(
    {name: row[shown].reshape(-1, 8, 8) for name, row in rows.items()},
    vmin=0,
    vmax=1,
)
axes[0, 0].figure.savefig(OUTPUT, dpi=150)
print(f"wrote {OUTPUT}")
