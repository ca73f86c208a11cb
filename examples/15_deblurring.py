# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Blurred, shrunk, projected: inverse problems under a learned prior
#
# Digits are seen through a linear operator, $y = A x + \sigma\epsilon$ with unknown $\sigma$: a blur,
# means of 2 × 2 pixels (super-resolution), or 24 random projections of 64 pixels (compressed
# sensing). A learned energy is the prior in a NumPyro model; next to it is a Gaussian prior
# under the same model.
#
# Run it with `python examples/15_deblurring.py`.

# %%
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

OUTPUT = "deblurring.png"
NUM_IMAGES, NUM_STEPS = 8, 1500
SCALE, LEARNED = 0.05, 0.15  # of the noise of `y`, and of what is learned
train, test = ebm.datasets.digits()
truth = test[:NUM_IMAGES]
rng = np.random.default_rng(0)

# %% [markdown]
# ## The prior
#
# Denoising score matching learns the energy of digits with a little noise, `u`. The mean of the
# digit itself is one score away, and what it may be besides is measured on training digits.


# %%
def gaussian(images, noise):
    covariance = np.cov(images.T) + noise**2 * np.eye(64)
    return ebm.Gaussian(images.mean(0), covariance)


network = eqx.nn.MLP(64, "scalar", 128, 2, jax.nn.gelu, key=jr.key(1))
optim = optax.adamw(
    optax.cosine_decay_schedule(5e-3, NUM_STEPS), weight_decay=0.2
)
estimator = ebm.Estimator(
    ebm.DenoisingScoreMatching(LEARNED), optim, ema_decay=0.999
)
start = ebm.Tilted(network, gaussian(train, LEARNED))
energy = estimator.run(
    jr.key(2), NUM_STEPS, start, train, batch_size=256, progress_bar=False
).energy


@jax.vmap
def clean(u):
    return u + LEARNED**2 * ebm.score(energy, u)


noisy_train = train + LEARNED * rng.normal(size=train.shape)
residual = train - np.asarray(clean(noisy_train))
residual_covariance = residual.T @ residual / len(train)

# %% [markdown]
# ## The operators

# %%
distance = np.subtract.outer(np.arange(8), np.arange(8))
blur = np.exp(-0.5 * distance**2)
blur /= blur.sum(1, keepdims=True)
halves = np.kron(np.eye(4), [[0.5, 0.5]])
operators = {
    "deblurring": np.kron(blur, blur),
    "super-resolution": np.kron(halves, halves),
    "compressed sensing": rng.normal(size=(24, 64)) / 8,
}

# %% [markdown]
# ## The model
#
# One noise scale for all images. The Gaussian is widened by noise of 0.1, which shortens its
# trajectories, so its intervals are wide. Given `u`, the digit is Gaussian, and so is what is seen
# of it.


# %%
def model(operator, y, prior, spread, to_image):
    scale = numpyro.sample("scale", dist.HalfNormal(0.2))
    covariance = operator @ spread @ operator.T
    covariance += scale**2 * jnp.eye(len(operator))
    with numpyro.plate("image", len(y)):
        u = numpyro.sample("u", ebm.EnergyDistribution(prior))
        x = numpyro.deterministic("x", to_image(u))
        seen = dist.MultivariateNormal(x @ operator.T, covariance)
        numpyro.sample("y", seen, obs=y)


priors = {
    "Gaussian": (gaussian(train, 0.1), 1e-6 * np.eye(64), lambda u: u),
    "energy": (energy, residual_covariance, clean),
}


def infer(prior, operator, y, images):
    """The chains start at `images`."""
    mcmc = MCMC(
        ebm.NUTS(model),
        num_warmup=100,
        num_samples=250,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    starts = {"u": images, "scale": np.full(4, np.log(0.1))}
    mcmc.run(jr.key(3), operator, y, *priors[prior], init_params=starts)
    return mcmc


def r_hat(mcmc):
    draws = np.asarray(mcmc.get_samples(group_by_chain=True)["x"])
    return numpyro.diagnostics.split_gelman_rubin(draws).max()


def digits(mcmc, operator, y, spread):
    """Draws of the digit, given draws of its mean and of the noise scale."""
    draws = mcmc.get_samples()
    scales = np.asarray(draws["scale"], float)[::4]
    means = np.asarray(draws["x"], float)[::4]
    result = []
    for scale, mean in zip(scales, means, strict=True):
        seen = operator @ spread @ operator.T + scale**2 * np.eye(
            len(operator)
        )
        gain = np.linalg.solve(seen, operator @ spread).T
        root = np.linalg.cholesky(
            spread - gain @ operator @ spread + 1e-9 * np.eye(64)
        )
        noise = rng.normal(size=mean.shape) @ root.T
        result.append(mean + (y - mean @ operator.T) @ gain.T + noise)
    return np.array(result)


def judge(prior, draws, mcmc):
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    inside = np.mean((low <= truth) & (truth <= high))
    rmse = np.sqrt(np.mean((draws.mean(0) - truth) ** 2))
    scale = mcmc.get_samples()["scale"].mean()
    cells = f"{rmse:8.3f}{inside:8.1%}{scale:8.3f}{r_hat(mcmc):8.2f}"
    print(f"  {prior:10}{cells}")


# %% [markdown]
# ## Posterior means, intervals, noise scale
#
# Chains under the energy start warm, from draws under the Gaussian prior, with noise as in `u`.
# If chains disagreed however long they are, the posterior would have several modes, and
# `ebm.ParallelTempering(ebm.NUTS(model))` takes the same model (examples 09 and 12).

# %%
print(f"{'':17}RMSE   90 % in  scale   R-hat  (the truth is {SCALE})")
rows = {"truth": truth}
for task, operator in operators.items():
    print(task)
    y = truth @ operator.T
    y = y + SCALE * rng.normal(size=y.shape)
    cold = rng.normal(size=(4, NUM_IMAGES, 64))
    mcmc = infer("Gaussian", operator, y, cold)
    draws = digits(mcmc, operator, y, priors["Gaussian"][1])
    judge("Gaussian", draws, mcmc)
    noise = LEARNED * rng.normal(size=cold.shape)
    warm = draws[:: len(draws) // 4][:4] + noise
    mcmc = infer("energy", operator, y, warm)
    restored = digits(mcmc, operator, y, residual_covariance)
    judge("energy", restored, mcmc)
    rows |= {
        f"{task}: pseudo-inverse": y @ np.linalg.pinv(operator, 0.1).T,
        "Gaussian, " + task: draws.mean(0),
        "energy, " + task: restored.mean(0),
        "sd, " + task: restored.std(0),
    }

# %%
axes = ebm.plots.plot_images(
    {name: images.reshape(-1, 8, 8) for name, images in rows.items()},
    vmin=0,
    vmax=1,
)
axes[0, 0].figure.savefig(OUTPUT, dpi=120)
print(f"wrote {OUTPUT}")
