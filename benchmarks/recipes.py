"""What each objective learns from nine data sets, against a Gaussian, a mixture and `ebm.fit`.

In the plane, where the truth is known, the Kullback-Leibler divergence from it to what was
learned, by a grid. For tables and images, the mean log-likelihood of a held-out fifth of the
rows, with log Z by `ebm.normalize`. Columns are dequantised, so that they have a density, and
whitened; images get normal noise of a tenth of their range. `python benchmarks/recipes.py`
prints all rows, `... wine fit 1 2` some of them, for two other splits.
"""

import itertools
import sys
import time
import warnings

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from sklearn import datasets, mixture, model_selection, neighbors

import numpyro_ebm as ebm

PLANE = ("two_moons", "eight_gaussians", "three_rings", "pinwheel", "checkerboard")
TABLES = {
    "breast_cancer": lambda rng: dequantized(rng, datasets.load_breast_cancer().data),
    "wine": lambda rng: dequantized(rng, datasets.load_wine().data),
    "diabetes": lambda rng: dequantized(rng, datasets.load_diabetes(scaled=False).data),
    "digits": lambda rng: noisy(rng, np.concatenate(ebm.datasets.digits())),
}
NUM_STEPS = 1000
#: Two transitions of five leapfrog steps, and ten of one, cost the same gradients.
HMC = ebm.HMC(step_size=0.1, num_steps=5, trajectory_length=None)
MALA = ebm.MALA(step_size=0.01)


class Case:
    """A data set in whitened coordinates, and how a density of them is judged."""

    def __init__(self, name, seed=0):
        self.name, self.seed, self.in_plane = name, seed, name in PLANE
        if self.in_plane:
            self.truth = getattr(ebm.datasets, f"{name}_density")()
            train = np.asarray(self.truth.sample(jr.key(seed), (4000,)))
            test = train[:0]
        else:
            rng = np.random.default_rng(seed)
            rows = rng.permutation(TABLES[name](rng))
            test, train = np.split(rows, [len(rows) // 5])
        self.raw_train, self.raw_test = train, test
        self.whiten = ebm.energies.Whiten.fit(train)
        self.train = np.asarray(self.whiten(jnp.asarray(train)))
        self.test = np.asarray(self.whiten(jnp.asarray(test)))
        # Log-likelihoods are those of standardised data, whatever the units of the columns.
        self.shift = float(self.whiten.log_det) + np.log(train.std(0)).sum()

    def judge(self, log_density):
        """The divergence, or the held-out log-likelihood, and its error."""
        if not self.in_plane:
            values = np.asarray(log_density(jnp.asarray(self.test)), float) + self.shift
            return values.mean(), values.std() / np.sqrt(len(values))
        x, log_weights, log_p = grid(self.truth)
        log_q = np.asarray(log_density(self.whiten(x)), float) + float(self.whiten.log_det)
        mass = np.exp(log_p + log_weights)
        inside = mass > 0
        return (mass * (log_p - log_q))[inside].sum(), 0.0


def shares_of_rings(case, log_density):
    """How much of the learned mass lies on the inner, the middle and the outer ring."""
    x, log_weights, _ = grid(case.truth)
    mass = np.exp(np.asarray(log_density(case.whiten(x)), float) + log_weights)
    ring = np.digitize(np.linalg.norm(x, axis=1), [1.5, 2.5])
    shares = np.bincount(ring, mass) / mass.sum()
    return " ".join(f"{share:.2f}" for share in shares)


def grid(truth, size=401):
    """Points of a box, log weights of the trapezoidal rule, and the truth there."""
    points, log_weights = ebm.Quadrature([-6.0, -6.0], [6.0, 6.0], size).nodes()
    log_p = -jax.lax.map(truth, points, batch_size=8192) - truth.log_z
    return points, np.asarray(log_weights, float), np.asarray(log_p, float)


def dequantized(rng, table):
    """Columns plus uniform noise as wide as the least distance between their values."""
    gaps = [np.diff(np.unique(column)).min(initial=np.inf) for column in table.T]
    gaps = np.where(np.isfinite(gaps), gaps, 1)
    return table + gaps * rng.uniform(size=table.shape)


def noisy(rng, images):
    """Pixels from 0 to 1 plus noise, so that they have a density."""
    return images + 0.1 * rng.normal(size=images.shape)


def slow_start(num_steps=NUM_STEPS):
    """Scores have heavy tails: Adam needs a long memory and a slow start."""
    return optax.adam(optax.cosine_onecycle_schedule(num_steps, 4e-3))


def objectives(noise_scale):
    """Name: the objective, and its optimiser."""
    fast, slower = (ebm.estimation.decaying_adam(NUM_STEPS, rate) for rate in (1e-2, 5e-3))
    o, persistent = ebm.objectives, ebm.Persistent(reinit=0.01)
    return {
        "ScoreMatching": (o.ScoreMatching(), slow_start()),
        "SlicedScoreMatching": (o.SlicedScoreMatching(), slow_start()),
        "DenoisingScoreMatching": (o.DenoisingScoreMatching(noise_scale), fast),
        "ConditionalNoiseContrastive": (
            o.ConditionalNoiseContrastiveEstimation(3 * noise_scale),
            fast,
        ),
        "NoiseContrastiveEstimation": (o.NoiseContrastiveEstimation(), fast),
        "CD from data, MALA": (ebm.ContrastiveDivergence(MALA, 10, ebm.FromData()), fast),
        "CD persistent, 10 x MALA": (ebm.ContrastiveDivergence(MALA, 10, persistent), slower),
        "CD persistent, 2 x HMC(5)": (ebm.ContrastiveDivergence(HMC, 2, persistent), slower),
    }


def learn(case, name, seed=0):
    """A normalised density of whitened points by one objective."""
    objective, optim = objectives(0.1 if case.in_plane else 0.3)[name]
    net_key, run_key, z_key = jr.split(jr.key(seed), 3)
    energy = ebm.MLPEnergy(case.train.shape[1], 64, key=net_key)
    stopping = None
    if not (case.in_plane or isinstance(objective, ebm.ContrastiveDivergence)):
        stopping = ebm.EarlyStopping(0.1, every=50, patience=10)
    result = ebm.Estimator(objective, optim, ema_decay=0.99).run(
        run_key,
        NUM_STEPS,
        energy,
        case.train,
        batch_size=min(256, len(case.train) // 2),
        early_stopping=stopping,
        progress_bar=False,
    )
    learned = result.energy
    learned = learned.energy if isinstance(learned, ebm.Normalized) else learned
    return ebm.normalize(z_key, learned)


def log_density(energy):
    return lambda x: -jax.lax.map(energy, x, batch_size=8192) - energy.log_z


def by_objective(name):
    def row(case):
        density = learn(case, name)
        return log_density(density), density.partition.problems

    return row


def by_fit(case):
    fit = ebm.fit(jr.key(0), case.train, case.test if len(case.test) else None, **QUIET)
    return log_density(fit.energy), fit.failures


def by_gaussian(case):
    return log_density(ebm.Gaussian(np.zeros(len(case.train[0])), np.cov(case.train.T))), ()


def by_mixture(case):
    """In standardised coordinates, as scikit-learn's users have it."""
    found = mixture.GaussianMixture(10, random_state=0).fit(standardized(case, case.train))
    return lambda x: of_standardized(case, found, x), ()


def by_kernels(case):
    rows = standardized(case, case.train)
    search = model_selection.GridSearchCV(
        neighbors.KernelDensity(), {"bandwidth": np.geomspace(0.03, 1.5, 12)}
    )
    found = search.fit(rows[:1500]).best_params_["bandwidth"]
    kernels = neighbors.KernelDensity(bandwidth=found).fit(rows)
    return lambda x: of_standardized(case, kernels, x), ()


def standardized(case, x):
    raw = np.asarray(case.whiten.inv(jnp.asarray(x)), float)
    return (raw - case.raw_train.mean(0)) / case.raw_train.std(0)


def of_standardized(case, model, x):
    return model.score_samples(standardized(case, x)) - case.shift


QUIET = {"progress_bar": False}
ROWS = {
    "Gaussian": by_gaussian,
    "mixture of 10": by_mixture,
    "kernel density": by_kernels,
    "fit": by_fit,
    **{name: by_objective(name) for name in objectives(0.1)},
}


def report(case, name):
    """One row of the table, in words if it failed."""
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            density, problems = ROWS[name](case)
            value, error = case.judge(density)
            text = f"{value:9.3f} +- {error:.3f}" if error else f"{value:9.3f}"
            if case.name == "three_rings":
                text += f"  {shares_of_rings(case, density)}"
        except (ebm.estimation.NonFiniteError, ValueError) as failure:
            text, problems = "   failed", (str(failure),)
    remarks = [*problems, *(str(w.message) for w in caught if w.category is UserWarning)]
    seconds = time.perf_counter() - start
    said = f"  ! {' / '.join(remarks)[:240]}" if remarks else ""
    where = f"{case.name} {case.seed}"
    print(f"{where:18}{name:29}{text:26}{seconds:6.1f} s{said}", flush=True)


def chosen(names, only):
    return [name for name in names if name in only] or list(names)


def main(*only):
    seeds = [int(word) for word in only if word.isdigit()] or [0]
    for case_name, seed in itertools.product(chosen([*PLANE, *TABLES], only), seeds):
        case = Case(case_name, seed)
        for name in chosen(ROWS, only):
            report(case, name)


if __name__ == "__main__":
    main(*sys.argv[1:])
