# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Which model? The evidence of NumPyro models
#
# What predicts the progress of diabetes one year on: the body mass index alone, three
# measurements, or all ten? The evidence answers: the likelihood of the data, averaged over the
# prior of a model. Here it is known in closed form, so that each method can be checked.
#
# Run it with `python examples/08_model_choice.py`.

# %%
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy.special import gammaln
from sklearn.datasets import load_diabetes

import numpyro_ebm as ebm

OUTPUT = "model_choice.png"
data = load_diabetes(as_frame=True)
x, y = (np.asarray(part, np.float32) for part in (data.data, data.target))
x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
columns = {
    "nothing": [],
    "body mass": ["bmi"],
    "three": ["bmi", "bp", "s5"],
    "five": ["bmi", "bp", "s5", "sex", "s3"],
    "all ten": list(data.feature_names),
}


def design(names):
    """The measurements, with zeros for all but these."""
    return x * np.isin(data.feature_names, names).astype(np.float32)


# %% [markdown]
# ## The model
#
# A linear regression with unknown noise. Nothing in it knows about evidence. The slope of a
# column of zeros keeps its prior, which integrates to one: it changes no evidence, and all
# models have the same shape, so they share one compiled program.


# %%
def regression(x, y):
    variance = numpyro.sample("variance", dist.InverseGamma(2.0, 1.0))
    slopes = numpyro.sample(
        "slopes", dist.Normal(0, variance**0.5).expand([10]).to_event(1)
    )
    numpyro.sample("y", dist.Normal(x @ slopes, variance**0.5), obs=y)


# %% [markdown]
# ## Compare
#
# Populations start from each model's prior; the result has Bayes factors and posterior
# probabilities, with errors.

# %%
models = {name: (regression, (design(c), y)) for name, c in columns.items()}
comparison = ebm.compare_models(jr.key(0), models)
print(comparison)

# %% [markdown]
# ## Check
#
# For this prior the evidence is a ratio of gamma functions and determinants.


# %%
def closed_form(x, y, a=2.0, b=1.0):
    x, y = x.astype(float), y.astype(float)
    precision = x.T @ x + np.eye(x.shape[1])
    mean = np.linalg.solve(precision, x.T @ y)
    a_n, b_n = a + len(y) / 2, b + (y @ y - mean @ precision @ mean) / 2
    constants = a * np.log(b) - a_n * np.log(b_n) + gammaln(a_n) - gammaln(a)
    log_det = np.linalg.slogdet(precision)[1]
    return constants - len(y) / 2 * np.log(2 * np.pi) - log_det / 2


exact = {name: closed_form(design(c), y) for name, c in columns.items()}
print(f"the truth about five columns: {exact['five']:.4f}")
for name, log_z in zip(
    comparison.names, comparison.log_evidence, strict=True
):
    print(f"{name:<12}{log_z.estimate - exact[name]:+.4f} from the truth")

# %% [markdown]
# ## Every method, side by side
#
# On the model with five columns. They fail in different ways, so two that agree are worth more
# than one with a small error.

# %%
energy = ebm.ModelEnergy(regression, design(columns["five"]), y)
methods = {
    "the default": None,
    "sequential Monte Carlo": ebm.SequentialMonteCarlo(num_particles=1024),
    "annealed importance": ebm.AnnealedImportanceSampling(
        num_temperatures=200
    ),
    "thermodynamic integration": ebm.ThermodynamicIntegration(),
    "bridge from chains": ebm.BridgeSampling(),
    "nested sampling": ebm.NestedSampling(),
}
estimates = {
    name: ebm.log_partition(key, energy, method)
    for key, (name, method) in zip(
        jr.split(jr.key(1), len(methods)), methods.items(), strict=True
    )
}
draws = ebm.sample(
    jr.key(2),
    energy,
    ebm.ParallelTempering(ebm.HMC(num_steps=3, trajectory_length=None)),
    num_samples=2000,
)
report = ebm.tempering_report(draws)
print(report)
estimates["stepping stones"] = report.log_z
for name, log_z in estimates.items():
    print(f"{name:<27}{log_z}")

# %% [markdown]
# ## The picture
#
# Left: the evidence against the number of columns. More columns always fit better; the evidence
# counts what they cost. Right: each method's 95 % interval, and the truth.

# %%
figure, (left, right) = plt.subplots(
    1, 2, figsize=(9, 2.8), layout="constrained"
)
sizes = [len(c) for c in columns.values()]
left.plot(sizes, list(exact.values()), "o-", color="tab:blue")
for name, size in zip(columns, sizes, strict=True):
    left.annotate(
        name,
        (size, exact[name]),
        xytext=(0, -11),
        textcoords="offset points",
        ha="center",
    )
left.set(
    xlabel="columns", ylabel="log evidence", ylim=(-650, None), xlim=(-1, 11)
)
for row, log_z in enumerate(estimates.values()):
    low, high = log_z.interval()
    right.hlines(row, low, high, color="tab:orange", linewidth=3)
    right.plot(float(log_z.estimate), row, "o", color="tab:orange")
right.axvline(exact["five"], color="black", linewidth=0.8)
right.set(
    yticks=range(len(estimates)),
    yticklabels=list(estimates),
    xlabel="log evidence of five columns",
)
right.invert_yaxis()
figure.savefig(OUTPUT, dpi=150)
print(f"wrote {OUTPUT}")
