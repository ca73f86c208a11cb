# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # An inverse problem: sharp pulses from few blurred numbers, noise unknown
#
# A sensor observes pulses of 16 samples only through a blur, at 6 places, with unknown noise.
# Past pulses are on record: learn an energy from them, without MCMC, and use it as a prior
# with the likelihood of the sensor. All signals share the unknown noise, so this is a
# hierarchical model. For comparison, use a full Gaussian and a mixture of ten full Gaussians,
# fitted to the same record, as priors of the same model. The record is large and has 16
# dimensions: here the mixture is a strong rival, and does as well as the energy.
#
# Run it with `python examples/03_pulses.py`; it takes a minute.

# %%

import arviz_stats
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer import MCMC
from sklearn.mixture import GaussianMixture

import numpyro_ebm as ebm

OUTPUT = "pulses.png"
SIZE, TEXTURE, NOISE = 16, 0.05, 0.05
TIME = jnp.linspace(0, 1, SIZE)


def pulses(rng_key, number):
    """Height, place and width vary between pulses; the texture is part of the pulse."""
    keys = jr.split(rng_key, 4)
    height = jr.uniform(keys[0], (number, 1), minval=0.5, maxval=1.5)
    place = jr.uniform(keys[1], (number, 1), minval=0.2, maxval=0.8)
    width = jr.uniform(keys[2], (number, 1), minval=0.06, maxval=0.12)
    shape = height * jnp.exp(-0.5 * ((TIME - place) / width) ** 2)
    return shape + TEXTURE * jr.normal(keys[3], shape.shape)


blur = jnp.exp(-0.5 * ((TIME[:, None] - TIME) / 0.12) ** 2)
SENSOR = (blur / blur.sum(1, keepdims=True))[::3]
record, truth = pulses(jr.key(0), 4000), pulses(jr.key(1), 24)
seen = truth @ SENSOR.T + NOISE * jr.normal(
    jr.key(2), (len(truth), len(SENSOR))
)

# %% [markdown]
# ## Learn the energy

# %%
NUM_STEPS = 4000
network = ebm.MLPEnergy(SIZE, key=jr.key(3))
start = ebm.Transformed(network, ebm.energies.Standardize.fit(record))
optimiser = optax.adam(optax.cosine_decay_schedule(2e-3, NUM_STEPS))
estimator = ebm.Estimator(ebm.SlicedScoreMatching(), optimiser)
energy = estimator.run(
    jr.key(4), NUM_STEPS, start, record, batch_size=256
).energy
print(ebm.normalizers.check_integrable(energy))

# %% [markdown]
# ## The model
#
# The energy knows its density only up to a constant. That does no harm here, because its
# parameters are fixed; `check_normalization` confirms it.


# %%
def model(seen, prior):
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    with numpyro.plate("signal", len(seen)):
        x = numpyro.sample("x", prior)
        numpyro.sample(
            "y", dist.Normal(x @ SENSOR.T, noise).to_event(1), obs=seen
        )


def mixture(num_components):
    fit = GaussianMixture(num_components, random_state=0).fit(
        np.asarray(record)
    )
    return dist.MixtureSameFamily(
        dist.Categorical(probs=jnp.asarray(fit.weights_)),
        dist.MultivariateNormal(
            jnp.asarray(fit.means_), jnp.asarray(fit.covariances_)
        ),
    )


priors = {
    "learned energy": ebm.EnergyDistribution(energy),
    "mixture of 10": mixture(10),
    "Gaussian": dist.MultivariateNormal(record.mean(0), jnp.cov(record.T)),
}
ebm.sites.check_normalization(model, seen, priors["learned energy"])


def infer(rng_key, prior):
    mcmc = MCMC(
        ebm.NUTS(model),
        num_warmup=300,
        num_samples=500,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(rng_key, seen, prior)
    return ebm.to_arviz(mcmc)


print(
    "Sampling 24 signals and their noise, 385 dimensions, 4 chains, for each prior ..."
)
runs = {name: infer(jr.key(5), prior) for name, prior in priors.items()}

# %% [markdown]
# ## Did it converge?

# %%
for name, idata in runs.items():
    posterior = idata["posterior"].to_dataset()
    r_hat, ess = arviz_stats.rhat(posterior), arviz_stats.ess(posterior)
    divergences = int(idata["sample_stats"]["diverging"].sum())
    print(
        f"{name}: r_hat <= {float(r_hat.to_array().max()):.3f}, "
        f"ess_bulk >= {float(min(ess['x'].min(), ess['noise'])):.0f}, divergences {divergences}"
    )

# %% [markdown]
# ## How good is it?

# %%
truth = np.asarray(truth)
bands = {}
print(
    f"\n{'':<16}{'RMSE':>8}{'90 % interval covers':>24}{'noise (true 0.05)':>24}"
)
for name, idata in runs.items():
    x = (
        idata["posterior"]["x"]
        .stack(draws=["chain", "draw"])
        .transpose("draws", ...)
        .values
    )
    noise = idata["posterior"]["noise"].values
    low, high = bands[name] = np.quantile(x, [0.05, 0.95], axis=0)
    rmse = np.sqrt(np.mean((x.mean(0) - truth) ** 2))
    covered = np.mean((low <= truth) & (truth <= high))
    print(
        f"{name:<16}{rmse:>8.3f}{covered:>24.1%}{noise.mean():>15.3f} ± {noise.std():.3f}"
    )

# %%
figure, axes = plt.subplots(
    1, 4, figsize=(12, 3), sharey=True, layout="constrained"
)
for i, ax in enumerate(axes):
    # The mixture's band would cover that of the energy.
    for name, colour in {"learned energy": "C0", "Gaussian": "C1"}.items():
        low, high = bands[name]
        ax.fill_between(
            TIME,
            low[i],
            high[i],
            color=colour,
            alpha=0.35,
            label=f"{name}, 90 %",
        )
    ax.plot(TIME, truth[i], "k-", label="truth")
    ax.plot(TIME[::3], seen[i], "kx", label="seen, blurred")
    ax.set_xlabel("time")
figure.legend(
    *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4
)
figure.savefig(OUTPUT, dpi=150)
print(f"\nPicture: {OUTPUT}")
