# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # A learned energy as a prior: half of a handwritten digit
#
# Fit an energy to 8×8 handwritten digits. Then take digits that it has never seen, hide the
# lower half, add noise to the rest, and let NumPyro infer the whole digit, with uncertainty.
# For comparison, use a Gaussian prior with the full covariance of the same training digits.
#
# Run it with `make demo`, or `python examples/01_digits_prior.py`.

# %%
import sys
from pathlib import Path

import arviz_stats
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer import MCMC

import numpyro_ebm as ebm

OUTPUT = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("digits_prior.png")
NUM_IMAGES, NUM_SHOWN = 32, 10
PIXEL_NOISE = 0.1  # of the observation; paper is 0 and ink is 1
SEEN = np.arange(64) < 32  # the upper half

train, test = ebm.datasets.digits()
test = test[:NUM_IMAGES]
train_key, noise_key, mcmc_key, draw_key = jr.split(jr.key(0), 4)

# %% [markdown]
# ## Learn the energy
#
# A network tilts a Gaussian reference, so the density is proper. Denoising score matching
# needs no MCMC. It learns the density of digits *plus noise* with standard deviation
# `NOISE_SCALE`. This is smooth enough for chains to move between the shapes a digit may take.

# %%
NOISE_SCALE = 0.2

mu, covariance = train.mean(0), np.cov(train.T)
reference = ebm.Gaussian(mu, covariance + NOISE_SCALE**2 * np.eye(64))
network = eqx.nn.MLP(64, "scalar", 128, 2, jax.nn.silu, key=jr.key(1))
start = ebm.Tilted(network, reference)

NUM_STEPS = 3000
optimiser = optax.adam(optax.cosine_decay_schedule(2e-3, NUM_STEPS))
estimator = ebm.Estimator(ebm.DenoisingScoreMatching(NOISE_SCALE), optimiser)
result = estimator.run(train_key, NUM_STEPS, start, train, batch_size=256)
energy = result.energy

# %% [markdown]
# ## From a noisy digit to a clean one
#
# The energy is a prior for a digit with added noise, `u`. We want the digit itself, `x`. Its
# mean given `u` is one score away (*Miyasawa 1961*, known as Tweedie's formula). The deviation
# of digits from that mean is measured on the training digits, pixel by pixel.


# %%
def denoise(u):
    return u + NOISE_SCALE**2 * ebm.score(energy, u)


noisy_train = train + NOISE_SCALE * np.asarray(jr.normal(noise_key, train.shape))
residual = np.sqrt(np.mean((train - jax.vmap(denoise)(noisy_train)) ** 2, axis=0))

# %% [markdown]
# ## The model
#
# An energy is a site like any other.


# %%
def model(y):
    with numpyro.plate("image", len(y)):
        u = numpyro.sample("u", ebm.EnergyDistribution(energy))
        mean = numpyro.deterministic("mean", jax.vmap(denoise)(u))
        scale = jnp.sqrt(PIXEL_NOISE**2 + residual[SEEN] ** 2)
        numpyro.sample("y", dist.Normal(mean[:, SEEN], scale).to_event(1), obs=y)


observed = test + PIXEL_NOISE * np.random.default_rng(0).normal(size=test.shape)
mcmc = MCMC(
    ebm.NUTS(model),
    num_warmup=250,
    num_samples=500,
    num_chains=4,
    chain_method="vectorized",
    progress_bar=False,
)
print(f"Sampling {NUM_IMAGES} digits at once, {64 * NUM_IMAGES} dimensions, 4 chains ...")
mcmc.run(mcmc_key, jnp.asarray(observed[:, SEEN]))

# %% [markdown]
# ## Did it converge?
#
# Print the worst pixels by R-hat, and the statistics of the sampler.

# %%
idata = ebm.to_arviz(mcmc, dims={"mean": ["image", "pixel"]})
pixels = idata["posterior"].to_dataset()[["mean"]]
r_hat = arviz_stats.rhat(pixels)["mean"]
ess = {
    "bulk": arviz_stats.ess(pixels, method="bulk")["mean"],
    "tail": arviz_stats.ess(pixels, method="tail", prob=(0.05, 0.95))["mean"],
}
worst = np.argsort(r_hat.values, axis=None)[:-6:-1]
table = arviz_stats.summary(
    {
        f"digit {image}, pixel {pixel}": pixels["mean"].values[:, :, image, pixel]
        for image, pixel in zip(*np.unravel_index(worst, r_hat.shape), strict=True)
    },
    kind="diagnostics",
    round_to="none",
)
stats = idata["sample_stats"].to_dataset()
print(f"\nConvergence (ArviZ): the five of {r_hat.size} pixels with the largest R-hat")
print(table.astype(float).round(3).to_string())
print(
    f"all pixels: r_hat <= {float(r_hat.max()):.3f}, "
    f"ess_bulk >= {float(ess['bulk'].min()):.0f}, ess_tail >= {float(ess['tail'].min()):.0f}\n"
    f"sampler: acceptance {float(stats['acceptance_rate'].mean()):.2f}, "
    f"divergences {int(stats['diverging'].sum())}, "
    f"gradients per draw {float(stats['n_grad'].mean()):.0f}"
)

# %% [markdown]
# ## How good is it?
#
# The posterior under the Gaussian prior has a closed form. Both priors have seen the same
# digits.

# %%
means = idata["posterior"]["mean"].stack(draws=["chain", "draw"])
means = means.transpose("draws", "image", "pixel").values
draws = means + residual * np.asarray(jr.normal(draw_key, means.shape))
low, high = np.quantile(draws, [0.05, 0.95], axis=0)
posterior_mean, posterior_sd = draws.mean(0), draws.std(0)

gain = covariance[:, SEEN] @ np.linalg.inv(
    covariance[np.ix_(SEEN, SEEN)] + PIXEL_NOISE**2 * np.eye(SEEN.sum())
)
gaussian_mean = mu + (observed[:, SEEN] - mu[SEEN]) @ gain.T
gaussian_variance = np.diag(covariance - gain @ covariance[SEEN])
gaussian_sd = np.sqrt(np.clip(gaussian_variance, 0, None))


def judge(name, mean, low, high):
    hidden = test[:, ~SEEN]
    rmse = np.sqrt(np.mean((mean[:, ~SEEN] - hidden) ** 2))
    covered = np.mean((low[:, ~SEEN] <= hidden) & (hidden <= high[:, ~SEEN]))
    print(f"{name:<22}{rmse:>8.3f}{covered:>24.1%}")
    return rmse, covered


print(f"\n{'hidden pixels':<22}{'RMSE':>8}{'90 % interval covers':>24}")
width = 1.6449 * gaussian_sd
rmse, coverage = judge("learned energy", posterior_mean, low, high)
gaussian_rmse, gaussian_coverage = judge(
    "full Gaussian", gaussian_mean, gaussian_mean - width, gaussian_mean + width
)

# %%
shown = slice(NUM_SHOWN)
half = np.where(SEEN, observed, np.nan)
rows = {
    "truth": test,
    "observed": half,
    "posterior mean": posterior_mean,
    "Gaussian's mean": gaussian_mean,
    "one draw": means[0],
    "another": means[len(means) // 2],
    "and another": means[-1],
    "posterior sd": posterior_sd,
}
axes = ebm.plots.plot_images({name: row[shown].reshape(-1, 8, 8) for name, row in rows.items()})
axes[0, 0].figure.savefig(OUTPUT, dpi=150)
print(f"\nPicture: {OUTPUT}")
