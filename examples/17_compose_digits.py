# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Ten digits from one network, and what is made of them: AND, OR, NOT
#
# The logits of a classifier are energies of each class, too. Trained for both, one network draws
# all ten digits. Then classes become parts: bold threes, threes or eights, any digit except
# three. No network is trained for any of these.
#
# Each result is judged by what has never seen the network: a support vector machine
# that names the digit, and the ink.
#
# Run it with `python examples/17_compose_digits.py`.

# %%
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from sklearn.svm import SVC

import numpyro_ebm as ebm

OUTPUT = "compose_digits.png"
NOISE_SCALE, NUM_STEPS, NUM_IMAGES = 0.3, 3000, 50
train, test = ebm.datasets.digits()
labels, test_labels = ebm.datasets.digit_labels()
judge = SVC(C=10, gamma=0.32).fit(train, labels)
print(
    f"the judge names {judge.score(test, test_labels):.3f} of unseen digits"
)

# %% [markdown]
# ## One network
#
# Cross-entropy for the labels, denoising score matching for the images.

# %%
covariance = np.cov(train.T) + NOISE_SCALE**2 * np.eye(64)
reference = ebm.Gaussian(train.mean(0), covariance)
network = eqx.nn.MLP(64, 10, 256, 2, jax.nn.silu, key=jr.key(1))
start = ebm.energies.ClassEnergy(network, 10, (64,), reference)
denoising = ebm.DenoisingScoreMatching(NOISE_SCALE)
schedule = optax.cosine_decay_schedule(2e-3, NUM_STEPS)
estimator = ebm.Estimator(
    ebm.objectives.JointLikelihood(denoising),
    optax.adamw(schedule, weight_decay=0.1),
    ema_decay=0.999,
)
run = estimator.run(
    jr.key(2),
    NUM_STEPS,
    start,
    (labels, train),
    batch_size=256,
    progress_bar=False,
)
digits = run.energy

# %% [markdown]
# ## All ten digits
#
# Ten populations come down from the Gaussian at once, each to its class. The energy is of digits
# with noise; one step along the score of *all* digits takes it away, so that this step
# knows of no class.

# %%


def clean(images):
    """The mean of the digit behind each noisy image."""
    flat = images.reshape(-1, 64)
    found = ebm.tasks.tweedie(digits.marginal, flat, NOISE_SCALE).mean
    return np.asarray(found).reshape(images.shape)


def named(images):
    """What the judge sees."""
    return judge.predict(images.reshape(-1, 64)).reshape(images.shape[:-1])


classes = jnp.arange(10.0)
of_class = ebm.ConditionalEnergy(lambda x, y: digits.of_class(y)(x), (64,))
smc = ebm.TemperedSMC(ebm.MALA(), reference, num_steps=10)
ten = ebm.tasks.synthesize(
    jr.key(3),
    of_class,
    NUM_IMAGES,
    smc,
    conditions=classes,
    progress_bar=False,
)
ten_clean = clean(ten.images)
right = named(ten_clean) == np.arange(10)[:, None]
print(f"ten digits: {ten}")
print(f"recognised {right.mean():.3f}, by class {right.mean(1)}")

# %% [markdown]
# Short chains may draw digits from an energy that has its mass elsewhere; ten times as many steps
# would then leave them.

# %%
num_more = 10 * ten.num_steps
longer = ebm.sampling.sample_each(
    jr.key(4),
    digits.of_class,
    classes,
    ebm.MALA(),
    init_params=ten.images[:, :10].swapaxes(0, 1),
    num_chains=10,
    num_warmup=300,
    num_samples=num_more,
    thinning=num_more,
    progress_bar=False,
).values[:, 0]
longer = clean(longer)
right = named(longer) == np.arange(10)
print(f"recognised {right.mean():.3f} after {num_more} more steps")

# %% [markdown]
# ## AND, OR, NOT
#
# A sum is AND; bold is a quadratic in the ink, which asks for more than any three has. OR
# needs normalised parts: the populations have estimated the constant of each class on their way.
# NOT divides by a mixture with a background, so that no image gains more than tenfold.

# %%
experts = [
    ebm.Normalized(digits.of_class(y), ten.log_z[y]) for y in range(10)
]
three, eight = experts[3], experts[8]
any_digit = ebm.Normalized(digits.marginal, jax.nn.logsumexp(ten.log_z))
mostly_three = ebm.Mixture([three, any_digit], [0.9, 0.1])
three_or_eight = ebm.Mixture([three, eight], [0.5, 0.5])
not_three = any_digit - mostly_three
bold = ebm.as_energy(lambda x: 0.5 * ((x.mean() - 0.5) / 0.01) ** 2, (64,))
composed = {
    "3 AND bold": three + bold,
    "3 OR 8": three_or_eight,
    "any NOT 3": any_digit + not_three,
    "3 OR 8, NOT 3, AND bold": three_or_eight + not_three + bold,
}
made = {"3": ten_clean[3]}
for i, (name, energy) in enumerate(composed.items()):
    found = ebm.tasks.synthesize(
        jr.key(5 + i), energy, NUM_IMAGES, smc, progress_bar=False
    )
    made[name] = clean(found.images)

low, middle, high = np.quantile(train[labels == 3].mean(1), [0.05, 0.5, 0.95])
print(f"ink of threes seen: {middle:.3f}, 90 % in {low:.3f}-{high:.3f}")
print(f"{'':24}{'3':>6}{'8':>6}{'other':>7}{'ink':>8}")
for name, images in made.items():
    seen = named(images)
    shares = (seen == 3).mean(), (seen == 8).mean()
    print(
        f"{name:24}{shares[0]:>6.2f}{shares[1]:>6.2f}{1 - sum(shares):>7.2f}"
        f"{images.mean():>8.3f}"
    )

# %% [markdown]
# ## The picture

# %%
rows = {
    "one of each": ten_clean[:, 0],
    "another": ten_clean[:, 1],
    f"{num_more} steps later": longer[0],
    **made,
}
axes = ebm.plots.plot_images(
    {name: row[:10].reshape(-1, 8, 8) for name, row in rows.items()},
    vmin=0,
    vmax=1,
)
axes[0, 0].figure.savefig(OUTPUT, dpi=150)
print(f"wrote {OUTPUT}")
