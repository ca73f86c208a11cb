"""What each objective learns on two known densities: the divergence, and the seconds.

The Kullback-Leibler divergence from the truth to the learned density is computed on a grid,
including log Z. Print one table with `python benchmarks/estimators.py moons` (or `ring`), or
some of its rows with `... moons NoiseContrastiveEstimation`.
"""

import sys
import time

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import numpyro_ebm as ebm

MALA = ebm.MALA(step_size=0.01)


def moons_density(noise=0.1, num_nodes=400):
    """The density of `datasets.two_moons`: each arc is a mixture of Gaussians along it."""
    angle = (np.arange(num_nodes) + 0.5) * np.pi / num_nodes
    upper = np.stack([np.cos(angle), np.sin(angle)], 1)
    centres = np.concatenate([upper, np.array([1.0, 0.5]) - upper])
    weights = np.full(len(centres), 1 / len(centres))
    return ebm.GaussianMixture(weights, centres, noise**2 * np.eye(2))


def score_matching(num_steps):
    """Scores have heavy tails: Adam needs a long memory and a slow start."""
    peak = 1e-2 if num_steps > 3000 else 4e-3
    return optax.adam(optax.cosine_onecycle_schedule(num_steps, peak))


def contrasts(num_steps, learning_rate=1e-2):
    return optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps), b2=0.99)


def likelihood(num_steps):
    """No contrast with the same batch cancels its random fluctuations in the gradient."""
    return contrasts(num_steps, 5e-3)


def rows(noise_scale):
    """Name: the objective, and its optimiser."""
    denoising = ebm.DenoisingScoreMatching(noise_scale)
    reduced = ebm.objectives.VarianceReducedDenoisingScoreMatching(noise_scale / 5)
    conditional = ebm.objectives.ConditionalNoiseContrastiveEstimation(0.3)
    from_data = ebm.ContrastiveDivergence(MALA, 10, ebm.FromData())
    persistent = ebm.ContrastiveDivergence(MALA, 10, ebm.Persistent(reinit=0.01))
    grid = ebm.Quadrature([-5.0, -5.0], [6.0, 5.0], (89, 81))
    return {
        "ScoreMatching": (ebm.ScoreMatching(), score_matching),
        "SlicedScoreMatching": (ebm.SlicedScoreMatching(), score_matching),
        "PlainSlicedScoreMatching": (ebm.objectives.PlainSlicedScoreMatching(), score_matching),
        "DenoisingScoreMatching": (denoising, contrasts),
        "VarianceReducedDenoisingScoreMatching": (reduced, score_matching),
        "ConditionalNoiseContrastiveEstimation": (conditional, contrasts),
        "NoiseContrastiveEstimation": (ebm.NoiseContrastiveEstimation(), contrasts),
        "ContrastiveDivergence, from data": (from_data, contrasts),
        "ContrastiveDivergence, persistent": (persistent, likelihood),
        "MaximumLikelihood": (ebm.MaximumLikelihood(grid), likelihood),
    }


TABLES = {
    # Name: truth, hidden units, points, steps, noise scale of denoising, box.
    "moons": (moons_density(), 128, 8192, 6000, 0.05, ([-6.0, -6.0], [7.0, 6.5])),
    "ring": (ebm.energies.Ring(), 64, 20_000, 3000, 0.1, ([-8.0, -8.0], [8.0, 8.0])),
}


class Judge:
    """KL to the learned density, and its log Z, by the trapezoidal rule on a fine grid."""

    def __init__(self, truth, box):
        grid = ebm.Quadrature(*map(np.array, box), 601)
        self.points, self.log_weights = grid.nodes()
        self.log_p = -jax.vmap(truth)(self.points) - truth.log_z
        self.mass = jnp.exp(self.log_p + self.log_weights)

    def __call__(self, energy):
        """`(KL, log Z)`."""
        log_q = -jax.lax.map(energy, self.points, batch_size=8192)
        log_z = jax.nn.logsumexp(log_q + self.log_weights)
        return float(self.mass @ (self.log_p - log_q + log_z)), float(log_z)


def fit(objective, optimiser, table, seed=0):
    """`(energy, seconds)`."""
    truth, width, num_points, num_steps, _, _ = TABLES[table]
    data_key, init_key, run_key = jr.split(jr.key(seed), 3)
    data = truth.sample(data_key, (num_points,))
    energy = ebm.MLPEnergy(2, width, 2, key=init_key)
    estimator = ebm.Estimator(objective, optimiser(num_steps))
    settings = {"batch_size": 256, "progress_bar": False}
    start = time.perf_counter()
    result = estimator.run(run_key, num_steps, energy, data, **settings)
    return result.energy, time.perf_counter() - start


def main(table, *only, num_seeds=3):
    truth, *_, noise_scale, box = TABLES[table]
    judge = Judge(truth, box)
    columns = f"{'KL, seed by seed':>26}{'log Z':>9}{'learned':>19}{'seconds':>9}"
    print(f"{table:<39}{columns}")
    for name, row in rows(noise_scale).items():
        if only and name not in only:
            continue
        fits = [fit(*row, table, seed) for seed in range(num_seeds)]
        divergences, log_zs = zip(
            *(judge(ebm.unfreeze(energy)) for energy, _ in fits), strict=True
        )
        energy, seconds = fits[0]
        learned = "" if energy.log_z is None else f"{energy.log_z:.4f}"
        if energy.partition is not None and energy.partition.std_error > 0:
            learned += f" +- {energy.std_error:.4f}"
        found = "".join(f"{divergence:>9.4f}" for divergence in divergences)
        print(f"{name:<38}{found}{log_zs[0]:>9.4f}{learned:>19}{seconds:>9.1f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
