"""What the tests share: tables of energies, kernels and objectives, and assertions."""

import os
import subprocess
import sys
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pictures
import pytest
import scipy.optimize
from jax.flatten_util import ravel_pytree
from scipy.stats import binom

import numpyro_ebm as ebm
from numpyro_ebm._trainable import partition_trainable
from numpyro_ebm.kernels import AbstractKernel
from numpyro_ebm.objectives import AbstractPointwiseObjective

COVARIANCE = np.array([[1.0, 0.8], [0.8, 1.0]])
MEAN = np.array([1.0, -2.0])


def network(out_size="scalar"):
    return eqx.nn.MLP(2, out_size, 8, 2, jax.nn.silu, key=jax.random.key(7))


def mixture():
    return ebm.GaussianMixture(
        weights=[0.4, 0.6],
        locs=[[-1.0, 0.0], [1.0, 0.5]],
        covariance_matrices=[[[1.0, 0.5], [0.5, 1.0]], [[0.5, -0.2], [-0.2, 0.8]]],
    )


#: One of each kind, all on points of shape (2,): a new energy adds a line.
ENERGIES: dict[str, Callable[[], ebm.AbstractEnergy]] = {
    "Gaussian": lambda: ebm.Gaussian(MEAN, covariance_matrix=COVARIANCE),
    "GaussianMixture": mixture,
    "FunctionEnergy": lambda: ebm.as_energy(network(), (2,)),
    "DistributionEnergy": lambda: ebm.as_energy(dist.StudentT(5.0).expand([2]).to_event(1)),
    "Tilted": lambda: ebm.Tilted(network(), dist.Normal(0, 1).expand([2]).to_event(1)),
    "Bounded": lambda: ebm.energies.Bounded(ebm.as_energy(network(), (2,)), 3.0),
    "Sum": lambda: mixture() + ebm.Gaussian(MEAN, covariance_matrix=COVARIANCE),
    "Scaled": lambda: 0.5 * mixture(),
    "Normalized": lambda: ebm.Normalized(ebm.as_energy(network(), (2,)), 1.5, 0.1),
    "Mixture": lambda: ebm.Mixture([mixture(), ebm.Normalized(network(), 1.5)], [1.0, 3.0]),
    "Clamped": lambda: ebm.clamp(
        ebm.Gaussian(np.zeros(3), np.eye(3) + 0.5), [False, True, False], [np.nan, 2.0, 0.0]
    ),
    "Transformed": lambda: ebm.Transformed(
        mixture(), ebm.energies.Standardize([1.0, 2.0], [0.5, 3.0])
    ),
    "Given": lambda: ebm.ConditionalEnergy(lambda y, x: jnp.sum((y - x) ** 2), (2,)).given(
        jnp.ones(2)
    ),
    "Marginal": lambda: ebm.LatentEnergy(
        lambda x, z: 0.5 * jnp.sum((x - z) ** 2) + z, (2,)
    ).marginal(np.arange(3.0)),
    "MLPEnergy": lambda: ebm.MLPEnergy(2, 8, spectral_norm=True, key=jax.random.key(1)),
    "DoubleWell": lambda: ebm.energies.DoubleWell(dim=2),
    "Ring": ebm.energies.Ring,
    "Banana": ebm.energies.Banana,
    "Funnel": lambda: ebm.energies.Funnel(dim=2),
    "StudentT": lambda: ebm.energies.StudentT(5.0, MEAN, np.linalg.cholesky(COVARIANCE)),
    "IsingModel": lambda: ebm.IsingModel((2,), 0.3, 0.2, periodic=False),
    "PottsModel": lambda: ebm.energies.PottsModel(
        (2,), 3, 0.4, [0.1, -0.2, 0.0], periodic=False
    ),
    "BernoulliRBM": lambda: ebm.BernoulliRBM(np.ones((2, 3)), [0.1, 0.2], [0.3, -0.1, 0.0]),
    "GaussianBernoulliRBM": lambda: ebm.energies.GaussianBernoulliRBM(
        np.array([[0.5, -1.0], [1.0, 0.3]]), [0.1, 0.2], [0.3, -0.1]
    ),
    "Frozen": lambda: ebm.as_energy(ebm.freeze(mixture())),
    "Referenced": lambda: ebm.energies.Referenced(
        mixture(), dist.Normal(0, 3).expand([2]).to_event(1)
    ),
}

#: The kernels that move real points: a new kernel adds a line.
KERNELS: dict[str, Callable[..., AbstractKernel]] = {
    "RandomWalkMetropolis": ebm.RandomWalkMetropolis,
    "UnadjustedLangevin": ebm.UnadjustedLangevin,
    "MALA": ebm.MALA,
    "AutoMALA": ebm.AutoMALA,
    "BarkerMH": ebm.BarkerMH,
    "HMC": ebm.HMC,
    "NUTS": ebm.NUTS,
    "GHMC": ebm.GHMC,
    "UnadjustedMCLMC": ebm.UnadjustedMCLMC,
    "AdjustedMCLMC": ebm.AdjustedMCLMC,
}
#: Those without a bias.
EXACT = {name: K for name, K in KERNELS.items() if not name.startswith("Unadjusted")}
#: The kernels that flip units.
SPIN_KERNELS: dict[str, Callable[..., AbstractKernel]] = {
    "GibbsWithGradients": ebm.GibbsWithGradients,
    "BlockGibbs": ebm.BlockGibbs,
}


def tempered(*args, **kwargs):
    return ebm.ParallelTempering(ebm.MALA(*args, **kwargs), [1.0, 2.0])


#: The objectives that are a mean over points: a new objective adds a line.
OBJECTIVES: dict[str, AbstractPointwiseObjective] = {
    "ScoreMatching": ebm.ScoreMatching(),
    "ExplicitScoreMatching": ebm.objectives.ExplicitScoreMatching(jnp.sin),
    "SlicedScoreMatching": ebm.SlicedScoreMatching(),
    "PlainSlicedScoreMatching": ebm.objectives.PlainSlicedScoreMatching(),
    "DenoisingScoreMatching": ebm.DenoisingScoreMatching(0.3),
    "VarianceReducedDenoisingScoreMatching": (
        ebm.objectives.VarianceReducedDenoisingScoreMatching(0.3)
    ),
    "GeneralizedScoreMatching": ebm.objectives.GeneralizedScoreMatching(jnp.square),
    "ConditionalNoiseContrastiveEstimation": (
        ebm.objectives.ConditionalNoiseContrastiveEstimation(0.3)
    ),
}


def quick(table, names):
    """A test for each entry of `table`, which is slow except for `names`."""
    return [
        pytest.param(entry, id=name, marks=() if name in names else pytest.mark.slow)
        for name, entry in table.items()
    ]


def quadrature(energy, half_width, num_grid):
    """`log Z`, mean and variance on a box around zero, by the trapezoidal rule."""
    grid = jnp.linspace(-half_width, half_width, num_grid)
    axes = [grid] * energy.event_shape[0]
    points = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))
    log_weights = -jax.vmap(energy)(points) + len(axes) * jnp.log(grid[1] - grid[0])
    weights = jax.nn.softmax(log_weights)
    mean = weights @ points
    return jax.nn.logsumexp(log_weights), mean, weights @ (points - mean) ** 2


def assert_moments(draws, mean, variance, *, num_blocks=None, ess_variance=28_800):
    """Mean and variance of `draws`, `(chain, draw, d)`, within four standard errors of truth.

    Blocks of draws, by default one per chain, are taken as independent, so standard errors need
    no autocorrelation estimate. Too few effective draws fail: 400 for the mean, and 28,800 for
    the variance, at which a bias of 5 % lies 6 standard errors off.
    """
    draws = np.asarray(draws, float)
    num_blocks = len(draws) if num_blocks is None else num_blocks
    blocks = draws.reshape(num_blocks, -1, draws.shape[-1])
    mean, variance = np.asarray(mean), np.asarray(variance)
    _assert_z("mean", blocks, mean, 400)
    _assert_z("variance", (blocks - mean) ** 2, variance, ess_variance)


def assert_means(values, truth, *, name="mean", ess_min=400):
    """The means of `values`, `(chain, draw, k)`, within four standard errors of `truth`.

    Chains are taken as independent; too few effective draws fail.
    """
    _assert_z(name, np.asarray(values, float), np.asarray(truth), ess_min)


def _assert_z(name, values, truth, ess_min):
    block_means = values.mean(1)
    error = block_means.std(0, ddof=1) / np.sqrt(len(block_means))
    ess = values.var((0, 1)) / error**2
    z = (block_means.mean(0) - truth) / error
    # What a |z| of 4 catches 98 times in 100, as a part of the scale of the values.
    visible = 6 * error / values.std((0, 1))
    print(
        f"{name}: |z| {np.abs(z).max():.1f}, ESS {ess.min():.0f}, sees {visible.max():.4f} sd"
    )
    assert ess.min() >= ess_min, f"{name}: ESS {ess.min():.0f} < {ess_min}"
    assert np.abs(z).max() < 4, f"{name}: z = {z}, estimate {block_means.mean(0)} of {truth}"


def code_blocks(text):
    """The Python in a page or a module, block by block."""
    return [code for code, _ in pictures.blocks(text)]


def count_traces(function):
    """`function` and a list that grows whenever JAX traces it."""
    traces = []

    def counted(*args):
        traces.append(None)
        return function(*args)

    return counted, traces


def trees_equal(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: jnp.array_equal(x, y), a, b))


def assert_uniform(ranks, num_draws, *, num_simulations=2000):
    """Ranks, one per replicate, among `num_draws` draws: in the 95 % band of a uniform ECDF.

    The band holds for all ranks at once, by simulation (Säilynoja, Bürkner and Vehtari 2022).
    """
    ranks = np.asarray(ranks)
    rng = np.random.default_rng(0)
    grid = np.arange(num_draws)  # The ECDF at num_draws is one.
    chance = (grid + 1) / (num_draws + 1)

    def counts(ranks):
        return (ranks[:, None] <= grid).sum(0)

    simulated = rng.integers(0, num_draws + 1, (num_simulations, len(ranks)))
    simulated = np.stack([counts(one) for one in simulated])

    # For each simulation, how far out in the binomial's tails its ECDF gets anywhere.
    def tail(counts):
        below = binom.cdf(counts, len(ranks), chance)
        return np.minimum(below, binom.sf(counts - 1, len(ranks), chance)).min(-1)

    level, ours = np.quantile(tail(simulated), 0.05), tail(counts(ranks))
    assert ours >= level, (
        f"an ECDF this far out has probability {ours:.1e}, the band {level:.1e}"
    )


def minimize(loss, tree):
    """The minimiser of `loss(tree)` over its trainable arrays, by BFGS; under x64."""
    params, rest = partition_trainable(tree)
    flat, unravel = ravel_pytree(params)

    def rebuild(flat):
        return eqx.combine(unravel(flat), rest)

    value_and_grad = jax.jit(jax.value_and_grad(lambda flat: loss(rebuild(flat))))

    def fun(flat):
        value, slope = value_and_grad(jnp.asarray(flat))
        return float(value), np.asarray(slope)

    found = scipy.optimize.minimize(
        fun, np.asarray(flat), jac=True, method="BFGS", options={"gtol": 1e-10}
    )
    assert np.abs(found.jac).max() < 1e-6, found.message
    return rebuild(jnp.asarray(found.x))


def hash_seeds():
    """Two seeds of Python's hashes under which a `Normal` has its fields in different orders.

    NumPyro's distributions flatten their fields in the order of a set, which follows them.
    """
    orders = {}
    for seed in range(20):
        command = [sys.executable, "-c", "print(*{'loc', 'scale'})"]
        env = {**os.environ, "PYTHONHASHSEED": str(seed)}
        order = subprocess.run(command, env=env, capture_output=True, check=True).stdout
        orders.setdefault(order, seed)
    first, second = orders.values()
    return first, second
