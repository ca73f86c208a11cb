# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Glasses and hats: AND, OR and NOT of learned energies
#
# Two experts, each learned from its own data: people with glasses, and people with hats.
# "People" are points in the plane here, so every composition can be compared with the exact
# density. No data point has both attributes labelled; the algebra of energies combines them.
#
# Run it with `python examples/02_glasses_and_hats.py`; it takes a minute.

# %%

import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpyro.distributions as dist
import optax

import numpyro_ebm as ebm

OUTPUT = "glasses_and_hats.png"
NUM_STEPS = 3000

# %% [markdown]
# ## Two exact densities, and the energies learned from them
#
# Each expert is a network on a Gaussian reference, inside the transform that standardises
# its data. Sliced score matching fits it to 10,000 points, without MCMC.

# %%
exact_glasses = ebm.energies.Ring(radius=2.0, width=0.4)
exact_hats = ebm.GaussianMixture(
    weights=[0.5, 0.5],
    locs=[[-1.0, 1.6], [1.0, 1.6]],
    covariance_matrices=[
        [[0.8, 0.2], [0.2, 0.5]],
        [[0.8, -0.2], [-0.2, 0.5]],
    ],
)


def learn(rng_key, data):
    network_key, run_key = jr.split(rng_key)
    network = ebm.MLPEnergy((2,), width_size=64, key=network_key)
    start = ebm.Transformed(network, ebm.energies.Standardize.fit(data))
    optimiser = optax.adam(optax.cosine_decay_schedule(3e-3, NUM_STEPS))
    estimator = ebm.Estimator(ebm.SlicedScoreMatching(), optimiser)
    return estimator.run(
        run_key, NUM_STEPS, start, data, batch_size=256
    ).energy


data_keys, learn_keys = jr.split(jr.key(0), 2), jr.split(jr.key(1), 2)
glasses = learn(learn_keys[0], exact_glasses.sample(data_keys[0], (10_000,)))
hats = learn(learn_keys[1], exact_hats.sample(data_keys[1], (10_000,)))
print(f"glasses: {glasses}")

# %% [markdown]
# ## Proportions need log Z
#
# A sum or a difference of energies needs no constants. A mixture does: without them, each
# expert would get a share proportional to its own volume. In the plane, a grid gives them.

# %%
BOUNDS = (-4.0, 4.0), (-4.0, 4.0)
axis = jnp.linspace(-5, 5, 401)
grid = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)
log_cell = 2 * jnp.log(axis[1] - axis[0])


def log_weights(energy):
    return -jax.jit(jax.vmap(energy))(grid) + log_cell


def normalise(energy):
    return ebm.Normalized(energy, jax.nn.logsumexp(log_weights(energy)))


# %% [markdown]
# ## AND, OR, NOT
#
# - glasses AND hats: $E_g + E_h$, the product of the experts.
# - glasses OR hats: `Mixture`, with correct proportions.
# - glasses, NOT hats: the plain difference $E_g - w E_h$ is dangerous. `check_integrable` finds
#   that far out, where neither network has seen data, the learned one falls without end. So
#   compare hats with a background $b$: $E_g + E_b - E_{h\text{ or }b}$ multiplies the
#   density of glasses by $p_b / (w p_h + (1 - w) p_b)$. This is bounded, whatever the networks
#   do.

# %%
print(
    f"glasses - 0.5 * hats: {ebm.normalizers.check_integrable(glasses - 0.5 * hats)}"
)
background = ebm.energies.from_distribution(
    dist.Normal(0, 3).expand([2]).to_event(1)
)


def without(energy, expert):
    return energy + background - ebm.Mixture([expert, background], [0.9, 0.1])


def compositions(glasses, hats):
    return {
        "glasses": glasses,
        "hats": hats,
        "glasses AND hats": glasses + hats,
        "glasses OR hats": ebm.Mixture(
            [normalise(glasses), normalise(hats)], [0.5, 0.5]
        ),
        "glasses, NOT hats": without(glasses, normalise(hats)),
    }


exact, learned = (
    compositions(exact_glasses, exact_hats),
    compositions(glasses, hats),
)
print(
    f"against a background: {ebm.normalizers.check_integrable(learned['glasses, NOT hats'])}"
)

# %% [markdown]
# ## Comparison with the exact densities
#
# Total variation is the share of the mass that is in the wrong place.

# %%
print(f"{'':20s}{'total variation':>16s}{'KL(exact | learned)':>22s}")
for name in exact:
    log_p, log_q = (
        jax.nn.log_softmax(log_weights(e[name])) for e in (exact, learned)
    )
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    variation, kl = (
        0.5 * jnp.sum(jnp.abs(p - q)),
        jnp.sum(p * (log_p - log_q)),
    )
    print(f"{name:20s}{variation:16.3f}{kl:22.4f}")

figure, axes = plt.subplots(2, 5, figsize=(15, 6.4), layout="constrained")
for (name, energy), key, (top, bottom) in zip(
    learned.items(), jr.split(jr.key(2), 5), axes.T, strict=True
):
    draws = ebm.EnergyDistribution(energy).sample(key, (400,))
    ebm.plot_energy(exact[name], bounds=BOUNDS, ax=top, colorbar=False)
    ebm.plot_energy(energy, draws, bounds=BOUNDS, ax=bottom, colorbar=False)
    top.set_title(name)
    for ax in (top, bottom):
        ax.set(xticks=[], yticks=[])
axes[0, 0].set_ylabel("exact")
axes[1, 0].set_ylabel("learned, and 400 draws")
figure.savefig(OUTPUT, dpi=90)
print(f"Wrote {OUTPUT}")
