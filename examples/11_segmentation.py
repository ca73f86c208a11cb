# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Labels behind a noisy image: a hidden Potts model
#
# Three handwritten digits, in three shades, seen through noise as strong as the difference
# between the shades. Neighbouring pixels like to have the same shade: a Potts model says by
# how much. Its strength, the shades, the noise and the labels are all unknown. On images as
# narrow as these both constants are exact, that of the prior and that of the labels given the
# image, so that plain NUTS samples the parameters, with all $3^{48}$ labellings summed out.
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
from numpyro.infer import MCMC, NUTS, init_to_value
from sklearn.datasets import load_digits

import numpyro_ebm as ebm
from numpyro_ebm.energies import PottsModel

OUTPUT = "segmentation.png"
pixels = load_digits().images[[0, 3, 4], :, 1:7]
labels = np.digitize(pixels, [4.5, 10.5])
noise = np.random.default_rng(0).normal(size=labels.shape)
images = jnp.asarray(labels + 0.7 * noise)

# %% [markdown]
# ## The model
#
# The log-likelihood of a pixel under each label is a field of the Potts model. The difference
# of two values of `log_z` is the log-likelihood of the image, summed over all its labels. The
# gradient of `log_z` with respect to the field, `probs`, are the probabilities of the labels.


# %%
def labelling(coupling, field=None):
    return PottsModel((8, 6), 3, coupling, field, periodic=False)


def fields(shades, scale):
    return dist.Normal(shades, scale).log_prob(images[..., None])


def log_likelihood(coupling, shades, scale):
    given = jax.vmap(lambda field: labelling(coupling, field).log_z)
    constant = labelling(coupling).log_z
    return given(fields(shades, scale)).sum() - len(images) * constant


def model(coupling=None):
    if coupling is None:
        coupling = numpyro.sample("coupling", dist.HalfNormal(1.0))
    first = numpyro.sample("first", dist.Normal(0.0, 0.5))
    steps = numpyro.sample(
        "steps", dist.LogNormal(0.0, 0.3).expand([2]).to_event(1)
    )
    scale = numpyro.sample("scale", dist.LogNormal(-0.5, 0.5))
    shades = numpyro.deterministic(
        "shades", first + jnp.append(0.0, jnp.cumsum(steps))
    )
    numpyro.factor("images", log_likelihood(coupling, shades, scale))


def run(**known):
    start = init_to_value(values={"scale": 0.6, "coupling": 0.5})
    mcmc = MCMC(
        NUTS(model, init_strategy=start),
        num_warmup=200,
        num_samples=300,
        num_chains=2,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jr.key(0), **known)
    return mcmc


# %% [markdown]
# ## With neighbours, and without
#
# A coupling of zero makes it a mixture of three Gaussians, pixel by pixel.

# %%
potts, mixture = run(), run(coupling=0.0)
potts.print_summary(exclude_deterministic=False)
print("chains agree:", ebm.mixing_report(potts).ok)


def label_probs(mcmc):
    """Of each pixel, averaged over the posterior."""
    draws = jax.tree.map(lambda x: x[::10], mcmc.get_samples())
    couplings = draws.get("coupling", jnp.zeros(len(draws["scale"])))

    def of_one(coupling, shades, scale):
        return jax.vmap(lambda field: labelling(coupling, field).probs)(
            fields(shades, scale)
        )

    arguments = couplings, draws["shades"], draws["scale"]
    found = jax.jit(lambda: jax.lax.map(lambda x: of_one(*x), arguments))()
    return np.asarray(found.mean(0))


found = {"mixture": label_probs(mixture), "Potts model": label_probs(potts)}
print(f"{'':14}{'wrong labels':>14}{'log score':>12}")
for name, probs in found.items():
    wrong = np.mean(probs.argmax(-1) != labels)
    score = np.log(np.take_along_axis(probs, labels[..., None], -1)).mean()
    print(f"{name:14}{wrong:>14.3f}{score:>12.3f}")

# %% [markdown]
# ## The picture
#
# What was seen, the most probable labels of both models, how sure the Potts model is of them,
# and the truth.

# %%
columns = {
    "seen": images,
    "mixture": found["mixture"].argmax(-1),
    "Potts model": found["Potts model"].argmax(-1),
    "its certainty": found["Potts model"].max(-1),
    "truth": labels,
}
figure, axes = plt.subplots(3, 5, figsize=(8, 6), layout="constrained")
for column, (name, values) in zip(axes.T, columns.items(), strict=True):
    low, high = (1 / 3, 1) if name == "its certainty" else (0, 2)
    for axis, image in zip(column, values, strict=True):
        axis.imshow(image, cmap="gray_r", vmin=low, vmax=high)
        axis.set(xticks=[], yticks=[])
    column[0].set_title(name)
figure.savefig(OUTPUT, dpi=150)
print(f"wrote {OUTPUT}")
