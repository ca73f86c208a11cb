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
# For comparison, use priors whose posteriors have a closed form, fitted to the same digits:
# a full Gaussian, probabilistic PCA, and mixtures of full Gaussians.
#
# The settings of the baselines, and the noise scale, activation, learning rate, weight decay and
# number of steps of the energy, were chosen on 250 of the training digits. The test digits serve
# only the tables.
#
# Run it with `make demo`, or `python examples/01_digits_prior.py`.

# %%
from functools import partial

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
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

import numpyro_ebm as ebm

OUTPUT = "digits_prior.png"
NUM_IMAGES = 32
PIXEL_NOISE = 0.1  # of the observation; paper is 0 and ink is 1
SEEN = np.arange(64) < 32  # the upper half

train, test = ebm.datasets.digits()
keys = jr.split(jr.key(0), 8)
train_key, noise_key, observe_key, start_key, mcmc_key, draw_key, *keys = keys
residual_key, log_z_key = keys


def observe(rng_key, images):
    """The upper halves, with noise."""
    seen = images[:, SEEN]
    return seen + PIXEL_NOISE * np.asarray(jr.normal(rng_key, seen.shape))


# %% [markdown]
# ## Priors to beat
#
# Each is a mixture of Gaussians, of one component or more. So is its posterior, by Bayes' rule
# for each component.


# %%
def posterior(prior, y):
    """Digits, given their upper halves `y`: exact."""
    weights, means, covariances = map(jnp.asarray, prior)
    seen, noise = covariances[:, SEEN], PIXEL_NOISE**2 * np.eye(SEEN.sum())
    evidence = dist.MultivariateNormal(
        means[:, SEEN], seen[:, :, SEEN] + noise
    )
    gain = covariances[:, :, SEEN] @ jnp.linalg.inv(
        evidence.covariance_matrix
    )
    shift = jnp.einsum("kps,nks->nkp", gain, y[:, None] - means[:, SEEN])
    return dist.MixtureSameFamily(
        dist.Categorical(
            logits=jnp.log(weights) + evidence.log_prob(y[:, None])
        ),
        dist.MultivariateNormal(
            means + shift,
            scale_tril=jnp.linalg.cholesky(covariances - gain @ seen),
        ),
    )


def mixture(num_components, floor, images):
    """`floor` is added to all variances."""
    fit = GaussianMixture(
        num_components, reg_covar=floor, n_init=3, random_state=0
    )
    fit.fit(images)
    return fit.weights_, fit.means_, fit.covariances_


def ppca(num_directions, images):
    fit = PCA(num_directions).fit(images)
    return np.ones(1), fit.mean_[None], fit.get_covariance()[None]


def chosen(family, settings):
    """Fitted with the setting that best predicts hidden halves of digits held out."""
    fit, held_out = train[:-250], train[-250:]
    y = observe(jr.key(1), held_out)

    def error(setting):
        mean = posterior(family(setting, fit), y).mean
        return np.mean((mean - held_out)[:, ~SEEN] ** 2)

    return family(min(settings, key=error), train)


FLOORS = 0.001, 0.003, 0.01, 0.02, 0.03
baselines = {
    "full Gaussian": chosen(partial(mixture, 1), FLOORS),
    "probabilistic PCA": chosen(ppca, (10, 15, 20, 30)),
    "mixture of 10": chosen(partial(mixture, 10), FLOORS),
    "mixture of 20": chosen(partial(mixture, 20), FLOORS),
    "mixture of 40": chosen(partial(mixture, 40), FLOORS),
}

# %% [markdown]
# ## Learn the energy
#
# A network tilts a Gaussian reference, so the density is proper. Denoising score matching
# needs no MCMC. It learns the density of digits *plus noise* with standard deviation
# `NOISE_SCALE`. This is smooth enough for chains to move between the shapes a digit may take,
# and keeps the network from memorising single digits.

# %%
NOISE_SCALE = 0.3
NUM_STEPS = 3000


def noisy(rng_key, images):
    return images + NOISE_SCALE * np.asarray(jr.normal(rng_key, images.shape))


def with_noise(prior):
    """The density of noisy digits under a mixture of Gaussians."""
    weights, means, covariances = prior
    return ebm.GaussianMixture(
        weights, means, covariances + NOISE_SCALE**2 * np.eye(64)
    )


reference = ebm.Gaussian(
    train.mean(0), np.cov(train.T) + NOISE_SCALE**2 * np.eye(64)
)
network = eqx.nn.MLP(64, "scalar", 256, 2, jax.nn.gelu, key=jr.key(1))
schedule = optax.cosine_decay_schedule(5e-3, NUM_STEPS)
estimator = ebm.Estimator(
    ebm.DenoisingScoreMatching(NOISE_SCALE),
    optax.adamw(schedule, weight_decay=0.2),
    ema_decay=0.999,
)
start = ebm.Tilted(network, reference)
energy = estimator.run(
    train_key, NUM_STEPS, start, train, batch_size=256
).energy

# %% [markdown]
# ## From a noisy digit to a clean one
#
# The energy is a prior for a digit with added noise, `u`. We want the digit itself, `x`. Its
# mean given `u` is one score away (*Miyasawa 1961*, known as Tweedie's formula). The covariance
# around that mean is measured on the training digits.


# %%
@jax.vmap
def denoise(u):
    return u + NOISE_SCALE**2 * ebm.score(energy, u)


residual = train - np.asarray(denoise(noisy(residual_key, train)))
residual_covariance = residual.T @ residual / len(train)

# %% [markdown]
# ## The model
#
# An energy is a site like any other.

# %%
seen_covariance = residual_covariance[SEEN][
    :, SEEN
] + PIXEL_NOISE**2 * np.eye(SEEN.sum())
SEEN_TRIL = jnp.linalg.cholesky(seen_covariance)


def model(y):
    with numpyro.plate("image", len(y)):
        u = numpyro.sample("u", ebm.EnergyDistribution(energy))
        mean = numpyro.deterministic("mean", denoise(u))
        numpyro.sample(
            "y",
            dist.MultivariateNormal(mean[:, SEEN], scale_tril=SEEN_TRIL),
            obs=y,
        )


y = jnp.asarray(observe(observe_key, test[:NUM_IMAGES]))
others = noisy(start_key, train[: 4 * NUM_IMAGES]).reshape(4, NUM_IMAGES, 64)
mcmc = MCMC(
    ebm.NUTS(model),
    num_warmup=300,
    num_samples=800,
    num_chains=4,
    chain_method="vectorized",
    progress_bar=False,
)
print(
    f"Sampling {NUM_IMAGES} digits at once, {64 * NUM_IMAGES} dimensions, 4 chains ..."
)
mcmc.run(mcmc_key, y, init_params={"u": jnp.asarray(others)})

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
        f"digit {image}, pixel {pixel}": pixels["mean"].values[
            :, :, image, pixel
        ]
        for image, pixel in zip(
            *np.unravel_index(worst, r_hat.shape), strict=True
        )
    },
    kind="diagnostics",
    round_to="none",
)
stats = idata["sample_stats"].to_dataset()
print(
    f"\nConvergence (ArviZ): the five of {r_hat.size} pixels with the largest R-hat"
)
print(table.astype(float).round(3).to_string())
print(
    f"all pixels: r_hat <= {float(r_hat.max()):.3f}, "
    f"ess_bulk >= {float(ess['bulk'].min()):.0f}, ess_tail >= {float(ess['tail'].min()):.0f}\n"
    f"sampler: acceptance {float(stats['acceptance_rate'].mean()):.2f}, "
    f"divergences {int(stats['diverging'].sum())}, "
    f"gradients per draw {float(stats['n_grad'].mean()):.0f}"
)

# %% [markdown]
# ## From draws of `u` to digits
#
# Given `u` and `y`, a digit is Gaussian: its mean given `u`, corrected by what `y` says.

# %%
means = (
    pixels["mean"]
    .stack(draws=["chain", "draw"])
    .transpose("draws", "image", "pixel")
    .values
)
gain = residual_covariance[:, SEEN] @ np.linalg.inv(seen_covariance)
rest = np.linalg.cholesky(
    residual_covariance - gain @ residual_covariance[SEEN]
)
means = means + (np.asarray(y) - means[..., SEEN]) @ gain.T
draws = means + np.asarray(jr.normal(draw_key, means.shape)) @ rest.T

# %% [markdown]
# ## How good is it?
#
# RMSE, coverage and energy score (*Gneiting and Raftery 2007*) judge the hidden halves. The
# digits are the same for all priors, so a difference has a smaller error than its two parts.

# %%
truth = test[:NUM_IMAGES, ~SEEN]


def distance(a, b):
    return np.linalg.norm(a - b, axis=-1).mean(0)


def judge(mean, draws):
    """One number per digit for each score; the mean over digits is the score."""
    mean, draws = mean[:, ~SEEN], draws[..., ~SEEN]
    square = np.mean((mean - truth) ** 2, axis=1)
    rmse = np.sqrt(square.mean())
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    shifts = len(draws) * np.array([0.2, 0.3, 0.5])
    spread = np.mean(
        [distance(draws, np.roll(draws, int(k), axis=0)) for k in shifts],
        axis=0,
    )
    return {
        # Linear in each square, so that errors are easy.
        "RMSE": (square / rmse + rmse) / 2,
        "energy score": distance(draws, truth) - spread / 2,
        "90 % covers": np.mean((low <= truth) & (truth <= high), axis=1),
    }


predictions = {"learned energy": (means.mean(0), draws)}
for name, prior in baselines.items():
    exact = posterior(prior, y)
    exact_draws = jax.lax.map(exact.sample, jr.split(draw_key, 1000))
    predictions[name] = np.asarray(exact.mean), np.asarray(exact_draws)
judged = {
    name: judge(*prediction) for name, prediction in predictions.items()
}


def with_error(values):
    return f"{values.mean():8.3f} ± {values.std(ddof=1) / np.sqrt(len(values)):.3f}"


print(
    f"\n{'hidden halves':<20}{'90 % covers':>12}"
    + f"{'RMSE':>16}{'energy score':>16}"
)
for name, scores in judged.items():
    rmse, energy_score, covers = scores.values()
    print(
        f"{name:<20}{covers.mean():>12.1%}{with_error(rmse)}{with_error(energy_score)}"
    )
print("\nlearned energy minus")
for name in baselines:
    gaps = [
        judged["learned energy"][s] - judged[name][s]
        for s in ("RMSE", "energy score")
    ]
    print(f"{name:<32}{''.join(map(with_error, gaps))}")

# %% [markdown]
# ## Whole digits
#
# The likelihood of all 400 test digits, with noise, per digit in nats. For the learned energy
# this needs log Z, whose error counts.

# %%
log_z = ebm.log_partition(log_z_key, energy, ebm.SequentialMonteCarlo())
densities = {"learned energy": ebm.Normalized(energy, log_z)}
densities |= {name: with_noise(prior) for name, prior in baselines.items()}
print(f"\n{ebm.compare(densities, noisy(noise_key, test))}")

# %%
best = min(baselines, key=lambda name: judged[name]["RMSE"].mean())
best_mean, best_draws = predictions[best]
upper = np.full((NUM_IMAGES, 64), np.nan)
upper[:, SEEN] = y
rows = {
    "truth": test[:NUM_IMAGES],
    "observed": upper,
    "posterior mean": means.mean(0),
    "one draw": draws[0],
    "another": draws[len(draws) // 2],
    "and another": draws[-1],
    "posterior sd": draws.std(0),
    f"{best}: mean": best_mean,
    "one draw of it": best_draws[0],
    "another of it": best_draws[1],
}
shown = slice(0, NUM_IMAGES, 6)
axes = ebm.plots.plot_images(
    {name: row[shown].reshape(-1, 8, 8) for name, row in rows.items()},
    vmin=0,
    vmax=1,
)
axes[0, 0].figure.savefig(OUTPUT, dpi=150)
print(f"\nPicture: {OUTPUT}")
