# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Florentine marriages: the posterior of a random graph
#
# Sixteen families of Renaissance Florence, and twenty marriages between them [Padgett and
# Ansell 1993]. Do families marry where they have a common ally? An exponential random graph
# with the numbers of ties and of triangles says so by its second coefficient. Its $\log Z$ is
# a sum over $2^{120}$ graphs.
#
# A pseudo-likelihood needs none of it, but takes the dyads as independent: its posterior has
# the wrong width, here too narrow. Calibrated by simulated graphs, it has the spread of the
# estimate over graphs like this one. That is wider than the exact posterior: a
# pseudo-likelihood uses less of the data.
#
# The exchange algorithm draws from the posterior itself, with one simulated graph for each
# proposal. A second way by simulated graphs, importance weights, confirms it.
#
# Run it with `python examples/10_florentine.py`.

# %%
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS

import numpyro_ebm as ebm
from numpyro_ebm.energies import (
    Edges,
    ExponentialRandomGraph,
    Triangles,
    as_adjacency,
    as_dyads,
)
from numpyro_ebm.kernels import TieNoTie
from numpyro_ebm.posteriors import Simulated

OUTPUT = "florentine.png"
MARRIAGES = """
Acciaiuoli-Medici Albizzi-Ginori Albizzi-Guadagni Albizzi-Medici Barbadori-Castellani
Barbadori-Medici Bischeri-Guadagni Bischeri-Peruzzi Bischeri-Strozzi Castellani-Peruzzi
Castellani-Strozzi Guadagni-Lamberteschi Guadagni-Tornabuoni Medici-Ridolfi
Medici-Salviati Medici-Tornabuoni Pazzi-Salviati Peruzzi-Strozzi Ridolfi-Strozzi
Ridolfi-Tornabuoni
"""
pairs = [pair.split("-") for pair in MARRIAGES.split()]
families = sorted({name for pair in pairs for name in pair} | {"Pucci"})
places = {name: i for i, name in enumerate(families)}
matrix = np.zeros((16, 16))
for a, b in pairs:
    matrix[places[a], places[b]] = matrix[places[b], places[a]] = 1
marriages = as_dyads(matrix)

# %% [markdown]
# ## The model
#
# `x[None]` is a data set of one graph. With a calibration, the loss is evaluated at adjusted
# coefficients, since no single weight is right for both of them.


# %%
def graphs(theta):
    return ExponentialRandomGraph(16, theta, (Edges(), Triangles()))


def model(x, calibration=None):
    prior = dist.Normal(0, 3).expand([2]).to_event(1)
    theta, weight = numpyro.sample("theta", prior), 1.0
    if calibration is not None:
        theta = calibration.adjust({"theta": theta})["theta"]
        weight = calibration.weight
    objective = ebm.PseudoLikelihood()
    ebm.loss_factor("x", objective, graphs(theta), x[None], weight=weight)


observed = graphs(jnp.zeros(2)).statistics_of(marriages)
print(f"{observed[0]:.0f} marriages, {observed[1]:.0f} triangles")

calibration = ebm.calibrate_weight(
    jr.key(0),
    model,
    marriages,
    method=Simulated(TieNoTie(), num_draws=1000, num_steps=1000),
)
print(calibration)


def posterior(calibration=None):
    mcmc = MCMC(
        NUTS(model),
        num_warmup=500,
        num_samples=1000,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jr.key(1), marriages, calibration)
    return np.asarray(mcmc.get_samples()["theta"])


draws = {
    "pseudo-likelihood": posterior(),
    "calibrated": posterior(calibration),
}

# %% [markdown]
# ## Exchange
#
# The likelihood as a model states it. Its constant cancels against a graph drawn at the
# proposal, by a chain that starts from the marriages. The report runs it on to see whether it
# is long enough.


# %%
def likelihood(x):
    prior = dist.Normal(0, 3).expand([2]).to_event(1)
    ebm.factor("x", graphs(numpyro.sample("theta", prior)), x)


mcmc = MCMC(
    ebm.Exchange(
        likelihood, auxiliary=ebm.GibbsWithGradients(), num_aux_steps=300
    ),
    num_warmup=300,
    num_samples=1000,
    num_chains=4,
    chain_method="vectorized",
    progress_bar=False,
)
mcmc.run(jr.key(3), marriages)
print(ebm.exchange_report(jr.key(4), mcmc, num_draws=100))
draws["exchange"] = np.asarray(mcmc.get_samples()["theta"])

# %% [markdown]
# ## The exact posterior
#
# $Z(\theta)/Z(\theta_0) = \mathbb E_{\theta_0}\, e^{(\theta-\theta_0)^\top g(x)}$ [Geyer and
# Thompson 1992]: graphs drawn at the minimum of the loss give it near there.

# %%
center = calibration.minimizer["theta"]
simulated = ebm.sample(
    jr.key(2),
    graphs(center),
    TieNoTie(),
    num_chains=500,
    num_warmup=1000,
    num_samples=4000,
    thinning=200,
    progress_bar=False,
)
print("chains of graphs agree:", ebm.mixing_report(simulated).ok)
statistics = jax.jit(jax.vmap(graphs(center).statistics_of))(
    simulated.values.reshape(-1, 120)
)


@jax.jit
def exact(theta):
    log_ratio = jax.nn.logsumexp((theta - center) @ statistics.T)
    log_prior = dist.Normal(0, 3).log_prob(theta).sum()
    return (theta - center) @ observed - log_ratio + log_prior


edges, triangles = np.linspace(-2.7, -0.7, 61), np.linspace(-2.0, 1.6, 61)
grid = np.stack(np.meshgrid(edges, triangles, indexing="ij"), -1).reshape(
    -1, 2
)
mass = np.exp(np.asarray(jax.lax.map(exact, jnp.asarray(grid))))
mass /= mass.sum()
mean = mass @ grid
std = np.sqrt(mass @ (grid - mean) ** 2)

print(f"{'':20}{'ties':>16}{'triangles':>16}")
rows = {"exact": (mean, std)} | {
    name: (x.mean(0), x.std(0)) for name, x in draws.items()
}
for name, (loc, scale) in rows.items():
    cells = [f"{m:.2f} +- {s:.2f}" for m, s in zip(loc, scale, strict=True)]
    print(f"{name:20}" + "".join(f"{cell:>16}" for cell in cells))

# %% [markdown]
# ## The picture
#
# The graph, and the posteriors: the exact one in grey.

# %%
figure, (left, right) = plt.subplots(
    1, 2, figsize=(9, 4), layout="constrained"
)
angles = 2 * np.pi * np.arange(16) / 16
x, y = np.cos(angles), np.sin(angles)
for i, j in np.argwhere(np.triu(np.asarray(as_adjacency(marriages)))):
    left.plot(x[[i, j]], y[[i, j]], color="0.6", zorder=1)
left.scatter(x, y, zorder=2)
for name, a, b in zip(families, x, y, strict=True):
    side = "center" if abs(a) < 0.1 else "left" if a > 0 else "right"
    left.text(1.08 * a, 1.1 * b, name, ha=side, va="center", fontsize=7)
left.set(
    aspect="equal", xlim=(-1.7, 1.7), ylim=(-1.3, 1.3), title="marriages"
)
left.axis("off")
right.contourf(edges, triangles, mass.reshape(61, 61).T, 8, cmap="Greys")
for name, found in draws.items():
    right.scatter(*found[:: len(found) // 200].T, s=4, label=name)
right.set(
    xlim=edges[[0, -1]],
    ylim=triangles[[0, -1]],
    xlabel="coefficient of ties",
    ylabel="coefficient of triangles",
)
right.legend()
figure.savefig(OUTPUT, dpi=150)
print(f"wrote {OUTPUT}")
