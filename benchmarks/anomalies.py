"""How well energies tell anomalies from normal images, beside what scikit-learn has.

The area under the ROC curve, in per cent, with its standard error. `digits`: 8 x 8 digits 0 to
4 against 5 to 9. `mnist`: the same at 28 x 28. `fashion`: digits of MNIST against clothes. Each
method learns from normal training images only; the joint energy sees their labels as well.

Settings were compared by how well they tell some of the digits 0 to 4 from the others, with
digits 5 to 9 of another split in view: small differences say nothing. The larger images use the
same settings, with a bandwidth in proportion to the distance of neighbours, and ten components,
of 784 x 784 numbers each, instead of forty.
`python benchmarks/anomalies.py digits mnist` prints two tables.
"""

import sys
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity, NearestNeighbors

import numpyro_ebm as ebm

#: The noise of denoising, and by how much of a Gaussian's energy the ratio corrects.
NOISE_SCALE, WEIGHT = 0.25, 0.5


class Case:
    """Normal images for training and testing, the labels of the former, and anomalies."""

    def __init__(self, name):
        images, labels = {
            "digits": lambda: (ebm.datasets.digits(), ebm.datasets.digit_labels()),
            "mnist": lambda: (ebm.datasets.mnist(), ebm.datasets.mnist_labels()),
            "fashion": lambda: (ebm.datasets.mnist(), ebm.datasets.mnist_labels()),
        }[name]()
        limit = 10 if name == "fashion" else 5
        self.train = np.asarray(images.train, float)[labels.train < limit]
        self.labels = labels.train[labels.train < limit]
        self.normal = np.asarray(images.test, float)[labels.test < limit]
        both, of_both = np.concatenate(images), np.concatenate(labels)
        self.strange = np.asarray(both, float)[of_both >= limit]
        if name == "fashion":
            self.strange = np.asarray(ebm.datasets.fashion_mnist().test[:1000], float)
        self.dim = self.train.shape[1]

    def judge(self, score):
        """The area of a score that is high for anomalies, and its error."""
        scores = [np.asarray(score(x), float) for x in (self.normal, self.strange)]
        is_strange = np.repeat([0, 1], [len(values) for values in scores])
        return roc_auc_score(is_strange, np.concatenate(scores)), _error(*scores)


def _error(normal, strange):
    """DeLong's standard error of the area."""
    wins = (strange[:, None] > normal).mean(1), (strange[:, None] > normal).mean(0)
    return np.sqrt(sum(np.var(share, ddof=1) / len(share) for share in wins))


class Noisy(eqx.Module):
    """The energy of images with noise of any scale: a Gaussian's, tilted by a network."""

    network: eqx.nn.MLP
    gaussian: tuple

    def __call__(self, x, noise_scale):
        mean, variances, axes = ebm.unfreeze(self.gaussian)
        squares = (axes.T @ (x - mean)) ** 2
        inputs = jnp.append(x, jnp.log(noise_scale))
        return self.network(inputs) + 0.5 * jnp.sum(squares / (variances + noise_scale**2))


class Denoiser(eqx.Module):
    """How far an image is from what a network makes of it; proper, since pixels are bounded."""

    network: eqx.nn.MLP

    def __call__(self, x):
        clean = jax.nn.sigmoid(self.network((x - 0.3) / 0.4))
        return 0.5 * jnp.sum((x - clean) ** 2) / NOISE_SCALE**2


def network(inputs, outputs):
    return eqx.nn.MLP(inputs, outputs, 256, 3, jax.nn.silu, key=jr.key(0))


def fit(objective, energy, data, num_steps=3000):
    optim = optax.adam(optax.cosine_decay_schedule(1e-3, num_steps))
    estimator = ebm.Estimator(objective, optim, ema_decay=0.99)
    run = estimator.run(jr.key(0), num_steps, energy, data, batch_size=128, progress_bar=False)
    return run.energy


def noisy_gaussian(case):
    images = case.train
    covariance = np.cov(images.T) + NOISE_SCALE**2 * np.eye(images.shape[1])
    return ebm.Gaussian(images.mean(0), covariance)


def denoising(case):
    start = ebm.Tilted(network(case.dim, "scalar"), noisy_gaussian(case))
    return fit(ebm.DenoisingScoreMatching(NOISE_SCALE), start, case.train)


def denoiser(case):
    start = ebm.as_energy(Denoiser(network(case.dim, case.dim)), event_shape=(case.dim,))
    return fit(ebm.DenoisingScoreMatching(NOISE_SCALE), start, case.train)


def multiscale(case):
    variances, axes = np.linalg.eigh(np.cov(case.train.T))
    gaussian = case.train.mean(0), np.maximum(variances, 0), axes
    gaussian = ebm.freeze(tuple(jnp.asarray(x, jnp.float32) for x in gaussian))
    start = ebm.ConditionalEnergy(Noisy(network(case.dim + 1, "scalar"), gaussian), (case.dim,))
    scales = NOISE_SCALE * np.array([2.0, 1.0, 0.5])
    objective = ebm.MultiscaleDenoisingScoreMatching(scales)
    return fit(objective, start, case.train).given(NOISE_SCALE)


def joint(case):
    """Of the images, and of their labels given the image."""
    num_classes = int(case.labels.max()) + 1
    logits = network(case.dim, num_classes)
    start = ebm.energies.ClassEnergy(logits, num_classes, (case.dim,), noisy_gaussian(case))
    objective = ebm.objectives.JointLikelihood(ebm.DenoisingScoreMatching(NOISE_SCALE))
    return fit(objective, start, (case.labels, case.train)).marginal


def mixture(case):
    """That of scikit-learn, as an energy."""
    num = 40 if case.dim == 64 else 10
    fitted = GaussianMixture(num, reg_covar=0.03, random_state=0).fit(case.train)
    return ebm.GaussianMixture(fitted.weights_, fitted.means_, fitted.covariances_)


def energies(case):
    """Scores by `anomaly_score`, alone and against a background, which is the Gaussian."""
    background = ebm.tasks.LikelihoodRatio(WEIGHT * noisy_gaussian(case))
    makers = {
        "denoising": denoising,
        "denoising, denoiser": denoiser,
        "multi-scale denoising": multiscale,
        "joint, with labels": joint,
        "mixture": mixture,
    }
    for name, make in makers.items():
        energy = make(case)
        for suffix, statistic in (("", None), (", ratio", background)):
            yield name + suffix, scorer(energy, case, statistic)


def scorer(energy, case, statistic):
    def score(x):
        return ebm.tasks.anomaly_score(energy, x, case.normal[:20], statistic).values

    return score


def of_sklearn(case):
    distance = np.median(NearestNeighbors(n_neighbors=2).fit(case.train).kneighbors()[0][:, 0])
    density = KernelDensity(bandwidth=0.3 * distance)
    models = {
        "Gaussian": GaussianMixture(1, reg_covar=0.01),
        "kernel density": density,
        "isolation forest": IsolationForest(n_estimators=500, random_state=0),
    }
    for name, model in models.items():
        yield name, lambda x, model=model.fit(case.train): -model.score_samples(x)
    neighbours = NearestNeighbors(n_neighbors=1).fit(case.train)
    yield "nearest neighbour", lambda x: neighbours.kneighbors(x)[0][:, 0]


def table(name):
    """The area and its error, by method."""
    case, rows = Case(name), {}
    print(
        f"{name}: {len(case.train)} images, {len(case.normal)} normal, {len(case.strange)} not"
    )
    for maker in (of_sklearn, energies):
        start = time.perf_counter()
        for method, score in maker(case):
            rows[method] = area, error = case.judge(score)
            seconds = time.perf_counter() - start
            print(
                f"{method:30}{100 * area:8.2f} ±{100 * error:5.2f}{seconds:7.0f} s", flush=True
            )
            start = time.perf_counter()
    return rows


if __name__ == "__main__":
    for name in sys.argv[1:] or ("digits", "mnist", "fashion"):
        table(name)
