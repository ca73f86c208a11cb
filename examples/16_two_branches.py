# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Two angles reach one target: regression with two branches
#
# A shot lands at a distance that is measured with some error. At which angle was it fired? A
# low one or a high one, and near the largest distance both are the same. A regression that
# predicts a mean names an angle which nobody uses.
#
# A conditional energy learns the whole density $p(y \mid x)$ from shots. Beside it: a Gaussian
# whose mean and scale are networks, and a mixture density network [Bishop 1994]. The
# true density is known here, so each is judged by how far its score is from the best
# possible one, and by whether its intervals cover.
#
# Run it with `python examples/16_two_branches.py`.

# %%
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import numpyro.distributions as dist
import optax

import numpyro_ebm as ebm

OUTPUT = "two_branches.png"
NUM_STEPS = 2000
angle = dist.Normal(0.6, 0.3)  # radians; most shots are low


def measured(y):
    return dist.Normal(jnp.sin(2 * y), 0.1)


def shots(rng_key, number):
    angle_key, error_key = jr.split(rng_key)
    y = angle.sample(angle_key, (number,))
    return y, measured(y).sample(error_key)


y, x = shots(jr.key(0), 4000)
y_test, x_test = shots(jr.key(1), 20_000)

# %% [markdown]
# ## Four densities
#
# The truth is Bayes's rule: the density of the angles times that of the error, normalised at
# each distance. Noise-contrastive estimation trains the energy, without chains.

# %%


class Network(eqx.Module):
    layers: eqx.nn.MLP

    def __call__(self, y, x):
        inputs = 4 * jnp.stack([x, y])  # the branches are narrow
        return self.layers(inputs) + 0.05 * y**2


def learned_energy(rng_key):
    layers = eqx.nn.MLP(2, "scalar", 64, 2, jax.nn.silu, key=rng_key)
    start = ebm.ConditionalEnergy(Network(layers), event_shape=())
    optim = optax.adam(optax.cosine_decay_schedule(5e-3, NUM_STEPS))
    estimator = ebm.Estimator(ebm.NoiseContrastiveEstimation(), optim)
    settings = {"batch_size": 256, "progress_bar": False}
    run = estimator.run(rng_key, NUM_STEPS, start, (y, x), **settings)
    return run.energy.conditional


def learned_mixture(rng_key, num_components):
    """Networks of shares, places and scales, by maximum likelihood."""
    network_key, run_key = jr.split(rng_key)
    sizes = 1, 3 * num_components, 64, 2
    network = eqx.nn.MLP(*sizes, jax.nn.silu, key=network_key)
    optim = optax.adam(optax.cosine_decay_schedule(5e-3, NUM_STEPS))

    def energy(network, y, x):
        shares, places, scales = network(x[None]).reshape(3, -1)
        parts = dist.Normal(places, jax.nn.softplus(scales)).log_prob(y)
        return -jax.nn.logsumexp(jax.nn.log_softmax(shares) + parts)

    def loss(network, rows):
        return jax.vmap(energy, (None, 0, 0))(
            network, y[rows], x[rows]
        ).mean()

    @eqx.filter_jit
    def step(key, network, state):
        rows = jr.choice(key, len(y), (256,))
        updates, state = optim.update(
            eqx.filter_grad(loss)(network, rows), state
        )
        return eqx.apply_updates(network, updates), state

    state = optim.init(eqx.filter(network, eqx.is_inexact_array))
    for key in jr.split(run_key, NUM_STEPS):
        network, state = step(key, network, state)
    return ebm.ConditionalEnergy(eqx.Partial(energy, network), event_shape=())


def joint(y, x):
    return -angle.log_prob(y) - measured(y).log_prob(x)


models = {
    "truth": ebm.ConditionalEnergy(joint, event_shape=()),
    "energy": learned_energy(jr.key(2)),
    "mixture network": learned_mixture(jr.key(3), 5),
    "Gaussian network": learned_mixture(jr.key(3), 1),
}
box = ebm.Quadrature(-4.0, 5.0, 401)
densities = {
    name: ebm.energies.NormalizedConditional(model, box)
    for name, model in models.items()
}

# %% [markdown]
# ## Scores
#
# The expected score of the truth is minus the mean entropy at these distances. What a model
# loses against the truth, on the same shots, estimates its divergence from it.

# %%
predictions = {
    name: ebm.tasks.predict(jr.key(4), density, x_test)
    for name, density in densities.items()
}
found = predictions["truth"]
height = found.points[:, 1:2] - found.points[:, :1]
entropies = jax.scipy.special.entr(found.weights).sum(1) + jnp.log(
    height[:, 0]
)
print(f"entropy {entropies.mean():.3f}")
scores = {
    name: ebm.log_likelihood(density, (y_test, x_test)).values
    for name, density in densities.items()
}

# %% [markdown]
# ## Intervals
#
# Of highest density: two of them where there are two branches. They must hold 90 of 100
# angles, over all and in each tenth of the distances.

# %%
tenths = np.quantile(x_test, np.linspace(0, 1, 11)[1:-1])
group = np.searchsorted(tenths, x_test)
coverage = {}
print(
    f"{'':18}{'NLL':>7}{'lost':>9}{'':10}"
    f"{'90 % covers':>12}{'in each tenth':>15}{'length':>8}"
)
for name, prediction in predictions.items():
    low, high = prediction.highest_density(0.9)
    inside = (low <= y_test[:, None]) & (y_test[:, None] <= high)
    covered = np.asarray(inside.any(1))
    each = np.array([covered[group == k].mean() for k in range(10)])
    coverage[name] = each
    lost = scores["truth"] - scores[name]
    error = lost.std() / np.sqrt(len(lost))
    length = jnp.nansum(high - low, 1).mean()
    print(
        f"{name:18}{-scores[name].mean():>7.3f}{lost.mean():>9.4f}"
        f" +- {error:.4f}{covered.mean():>12.3f}"
        f"{each.min():>8.3f}-{each.max():.3f}{length:>10.2f}"
    )

# %% [markdown]
# ## The picture
#
# Densities by colour, the ends of their 90 % intervals by dots; and coverage by distance.

# %%
figure, axes = plt.subplots(2, 2, figsize=(9, 7), layout="constrained")
*panels, last = axes.flat
shown = jnp.linspace(*np.quantile(x_test, [0.005, 0.995]), 300)
for axis, name in zip(
    panels, ["truth", "energy", "Gaussian network"], strict=True
):
    prediction = ebm.tasks.predict(jr.key(5), densities[name], shown)
    grid = shown, prediction.points[0]
    axis.pcolormesh(*grid, jnp.sqrt(prediction.weights).T, cmap="Blues")
    for ends in prediction.highest_density(0.9):
        axis.plot(shown, ends, ".", color="tab:red", markersize=2)
    axis.scatter(x_test[:1000], y_test[:1000], s=2, color="0.3", alpha=0.4)
    axis.set(title=name, xlabel="distance", ylabel="angle")
    axis.set(xlim=shown[jnp.array([0, -1])], ylim=(-0.6, 1.8))
for name, each in coverage.items():
    last.plot(np.arange(1, 11), each, marker="o", label=name)
last.axhline(0.9, color="black", linestyle="--")
last.set(xlabel="tenth of the distances", ylabel="90 % intervals cover")
last.legend()
figure.savefig(OUTPUT, dpi=150)
print(f"wrote {OUTPUT}")
