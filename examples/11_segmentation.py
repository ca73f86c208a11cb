# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Labels behind a noisy photograph: a hidden Potts model
#
# A flower before leaves, seen through noise as strong as the difference between the two. Each
# pixel is bright or dark, and neighbours like to be equal: a Potts model says how much. Its
# strength, the two shades, the noise and all 1040 labels are unknown.
#
# The constant of the Potts model depends on its strength, so it cannot be left out. No lattice
# as wide as this has a known one. A surrogate is learned once; then NumPyro's `HMCGibbs` moves
# the parameters by NUTS, and the labels by sweeps over a chessboard.
#
# Run it with `python examples/11_segmentation.py`.

# %%
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS, HMCGibbs
from sklearn.datasets import load_sample_image

import numpyro_ebm as ebm
from numpyro_ebm.energies import PottsModel

OUTPUT = "segmentation.png"
SHAPE = (26, 40)
photo = load_sample_image("flower.jpg").mean(-1)[:416]
pixels = photo.reshape(26, 16, 40, 16).mean((1, 3))
truth = pixels > 110  # the flower, on the photograph without noise
noise = np.random.default_rng(0).normal(size=SHAPE)
contrast = pixels[truth].mean() - pixels[~truth].mean()
image = jnp.asarray((pixels - pixels.mean()) / contrast + noise)

# %% [markdown]
# ## The constant, once
#
# The slope of $\log Z$ is the mean number of equal neighbours, which chains estimate at a few
# strengths; a Gaussian process integrates it. From 0.88 on, an infinite lattice is mostly of
# one label.

# %%


def prior_of_labels(coupling, field=None):
    return PottsModel(SHAPE, 2, coupling, field, periodic=False)


surrogate = ebm.surrogate_log_z(
    jr.key(1),
    prior_of_labels,
    (0.0, 1.1),
    num_points=8,
    num_chains=4,
    num_warmup=500,
    num_samples=1000,
    progress_bar=False,
)
print(surrogate)

# %% [markdown]
# ## The model
#
# Given the parameters, each label depends on its neighbours and on its pixel, whose
# log-likelihoods are the field of another Potts model.

# %%


def model(image):
    coupling = numpyro.sample("coupling", dist.Uniform(0.0, 1.1))
    dark = numpyro.sample("dark", dist.Normal(0.0, 1.0))
    contrast = numpyro.sample("contrast", dist.LogNormal(0.0, 0.5))
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.5))
    labels = numpyro.sample(
        "labels", ebm.EnergyDistribution(surrogate(coupling))
    )
    shades = dist.Normal(dark + contrast * labels, scale).to_event(2)
    numpyro.sample("image", shades, obs=image)


def sweep(rng_key, gibbs_sites, hmc_sites):
    shades = hmc_sites["dark"] + hmc_sites["contrast"] * jnp.arange(2.0)
    field = dist.Normal(shades, hmc_sites["scale"]).log_prob(image[..., None])
    energy = prior_of_labels(hmc_sites["coupling"], field)
    labels = gibbs_sites["labels"]
    for key in jr.split(rng_key, 5):
        labels = energy.gibbs_sweep(key, labels)
    return {"labels": labels}


potts = MCMC(
    HMCGibbs(NUTS(model), gibbs_fn=sweep, gibbs_sites=["labels"]),
    num_warmup=500,
    num_samples=2000,
    num_chains=2,
    chain_method="sequential",
    progress_bar=False,
)
potts.run(jr.key(2), image)
parameters = ["coupling", "dark", "contrast", "scale"]
report = ebm.mixing_report(
    {k: v for k, v in potts.get_samples(True).items() if k in parameters}
)
print(report)

# %% [markdown]
# ## Without neighbours
#
# With a strength of zero it is a mixture of two Gaussians, pixel by pixel.

# %%


def mixture(image):
    dark = numpyro.sample("dark", dist.Normal(0.0, 1.0))
    contrast = numpyro.sample("contrast", dist.LogNormal(0.0, 0.5))
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.5))
    shades = dist.Normal(dark + contrast * jnp.arange(2.0), scale)
    halves = dist.Categorical(jnp.full(2, 0.5))
    pixels = dist.MixtureSameFamily(halves, shades).expand(SHAPE)
    numpyro.sample("image", pixels.to_event(2), obs=image)


independent = MCMC(
    NUTS(mixture), num_warmup=500, num_samples=1000, progress_bar=False
)
independent.run(jr.key(3), image)


def bright(draws):
    """The probability that each pixel is bright, without neighbours."""

    def one(dark, contrast, scale):
        shades = dist.Normal(dark + contrast * jnp.arange(2.0), scale)
        return jax.nn.softmax(shades.log_prob(image[..., None]))[..., 1]

    found = [draws[name] for name in ("dark", "contrast", "scale")]
    return np.asarray(jax.vmap(one)(*found).mean(0))


found = {
    "mixture": bright(independent.get_samples()),
    "Potts model": np.asarray(potts.get_samples()["labels"].mean(0)),
}
print(f"{'':14}{'wrong labels':>14}{'log score':>12}")
for name, probs in found.items():
    wrong = np.mean((probs > 0.5) != truth)
    right = np.clip(np.where(truth, probs, 1 - probs), 1e-3, None)
    print(f"{name:14}{wrong:>14.3f}{np.log(right).mean():>12.3f}")

# %% [markdown]
# ## The picture
#
# What was seen, how probable it is that each pixel is bright, and the truth.

# %%
columns = {"seen": image, **found, "truth": truth}
figure, axes = plt.subplots(2, 2, figsize=(8, 5.6), layout="constrained")
for axis, (name, values) in zip(axes.flat, columns.items(), strict=True):
    axis.imshow(values, cmap="gray")
    axis.set(xticks=[], yticks=[], title=name)
figure.savefig(OUTPUT, dpi=150)
print(f"wrote {OUTPUT}")
