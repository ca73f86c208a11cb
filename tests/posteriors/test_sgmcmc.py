"""Stochastic-gradient Langevin dynamics against closed forms."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest
from helpers import assert_moments

import numpyro_ebm as ebm
from numpyro_ebm.posteriors import sgmcmc

QUIET = {"progress_bar": False}
NUM, DATA = 40, 1.3 * np.asarray(jr.normal(jr.key(0), (40,)))


class Location(ebm.AbstractEnergy):
    loc: jax.Array
    event_shape = ()

    def __call__(self, x):
        return 0.5 * (x - self.loc) ** 2


class Precision(ebm.AbstractEnergy):
    log_precision: jax.Array
    event_shape = ()

    def __call__(self, x):
        return 0.5 * jnp.exp(self.log_precision) * x**2


def persistent(num_steps=5, size=200, **settings):
    start = ebm.Persistent(size, reinit=0.0)
    return ebm.ContrastiveDivergence(ebm.MALA(step_size=1.0), num_steps, start, **settings)


#: Score matching of a location: precision n plus that of the prior.
CURVATURE = NUM + 2.0
MODE = DATA.sum() / CURVATURE


def of_location(batch_size, step_size, num_chains=200, num_samples=1000):
    return sgmcmc(
        jr.key(1),
        ebm.ScoreMatching(),
        Location(jnp.asarray(MODE)),
        DATA,
        prior=dist.Normal(0, 2.0**-0.5),
        step_size=step_size,
        batch_size=batch_size,
        num_chains=num_chains,
        num_warmup=100,
        num_samples=num_samples,
        **QUIET,
    )


@pytest.mark.filterwarnings("ignore:`sgmcmc`")
@pytest.mark.parametrize(("batch_size", "factor"), [(None, 0.5), (10, 0.2)])
def test_the_variance_of_a_gaussian(x64, batch_size, factor):
    """The variance is known to 2 %; long steps and batches add 30 % or more."""
    step_size = factor / CURVATURE
    noise = 0 if batch_size is None else NUM**2 * DATA.var() / batch_size
    excess = (1 + step_size * noise / 2) / (1 - factor / 2) - 1
    draws = of_location(batch_size, step_size)
    values = np.asarray(draws.by_chain.loc)[..., None]
    assert_moments(values, MODE, (1 + excess) / CURVATURE)
    np.testing.assert_allclose(draws.excess_variance.mean(), excess, rtol=0.02)
    # What would be without the noise of batches, with that of their mean, without n.
    forgotten = 1 / (1 - factor / 2) if batch_size else 1.0
    for wrong in (forgotten, (1 + excess) / 2, 2 * (1 + excess)):
        with pytest.raises(AssertionError):
            assert_moments(values, MODE, wrong / CURVATURE)


def precision_moments():
    """Mean and variance of the log-precision of centred data, with a standard normal prior."""
    grid = np.linspace(-4, 4, 4001)
    log_density = NUM * grid / 2 - 0.5 * np.exp(grid) * (DATA**2).sum() - 0.5 * grid**2
    weights = np.exp(log_density - log_density.max())
    weights /= weights.sum()
    mean = weights @ grid
    return mean, weights @ (grid - mean) ** 2


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [None, 10])
def test_a_posterior_whose_constant_is_estimated_by_chains(x64, batch_size):
    """The variance as large as `excess_variance` says, by quadrature; known to 2 %."""
    mean, variance = precision_moments()
    draws = sgmcmc(
        jr.key(1),
        persistent(),
        Precision(jnp.asarray(mean)),
        DATA,
        prior=dist.Normal(0, 1),
        step_size=1e-3,
        batch_size=batch_size,
        num_chains=48,
        num_samples=1000,
        thinning=10,
        **QUIET,
    )
    values = np.asarray(draws.by_chain.log_precision)
    excess = float(draws.excess_variance.mean())
    ratio = values.var() / variance
    print(f"mean {(values.mean() - mean) / variance**0.5:.3f} sd, {ratio:.3f}, {excess:.3f}")
    assert 0.01 < excess < 0.03 if batch_size is None else 0.05 < excess < 0.15
    assert abs(values.mean() - mean) < 0.1 * variance**0.5
    assert abs(ratio / (1 + excess) - 1) < 0.06


def test_what_does_not_train_stays_and_the_same_key_gives_the_same_draws():
    network = eqx.nn.MLP(2, "scalar", 3, 1, jnp.tanh, key=jr.key(0))
    network = eqx.tree_at(lambda n: n.layers[0], network, replace_fn=ebm.freeze)
    data = np.asarray(jr.normal(jr.key(1), (30, 2)))

    def run(**settings):
        return sgmcmc(
            jr.key(2),
            ebm.DenoisingScoreMatching(0.5),
            network,
            data,
            prior=lambda name, shape: dist.Normal(0, 1 if "weight" in name else 2),
            step_size=1e-4,
            num_chains=2,
            num_warmup=5,
            num_samples=6,
            **QUIET,
            **settings,
        )

    draws = run()
    assert draws.by_chain.layers[1].weight.shape == (2, 6, 1, 3)
    first = ebm.unfreeze(network).layers[0].weight
    assert (draws.energies.layers[0].weight == first).all()
    assert draws.sample(jr.key(3), 4).layers[0].weight.shape == (4, 3, 2)
    values = draws.evaluate(lambda energy: energy(jnp.ones(2)) - energy(jnp.zeros(2)))
    assert values.shape == (2, 6)
    posterior = ebm.to_arviz({"gap": values}).posterior
    assert dict(posterior.sizes) == {"chain": 2, "draw": 6}
    thinned = run(thinning=3)
    last = draws.by_chain.layers[1].bias[:, 2::3]
    assert (thinned.by_chain.layers[1].bias[:, :2] == last).all()


def test_predictions_average_over_draws(x64):
    """Against the mean of densities, which are Gaussian."""
    draws = of_location(None, 0.05 / CURVATURE, 2, 8)
    energies = draws.energies
    held_out = jnp.linspace(-2, 2, 5)

    def family(energy):
        return ebm.normalized_by(energy, ebm.Quadrature(-9.0, 9.0, num_points=201))

    found = ebm.posteriors.predictive_log_likelihood(family, energies, held_out)
    densities = jnp.exp(dist.Normal(energies.loc[:, None], 1).log_prob(held_out))
    np.testing.assert_allclose(found.values, jnp.log(densities.mean(0)), rtol=1e-6)
    replicas = ebm.posteriors.predictive_draws(jr.key(2), family, energies, 3, num_steps=20)
    assert replicas.shape == (16, 3)


def test_a_step_that_is_not_finite_is_named():
    with pytest.raises(FloatingPointError, match=r"Step \d+ is not finite in chain 0, 1\. Use"):
        of_location(None, 10.0, 2, 300)
    with pytest.warns(UserWarning, match=r"variances up to \d+% too large"):
        of_location(10, 0.5 / CURVATURE, 2, 50)


def changed(**settings):
    usual = {
        "objective": ebm.ScoreMatching(),
        "energy": Location(jnp.zeros(())),
        "data": DATA,
        "prior": dist.Normal(0, 1),
        "step_size": 1e-3,
    }
    return {**usual, **settings}


CD = ebm.ContrastiveDivergence


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"prior": 1.0}, "`prior` must be a distribution of each weight"),
        ({"prior": dist.HalfNormal(1)}, "`prior` must be a distribution of real numbers"),
        ({"prior": dist.Normal(jnp.zeros(2), 1)}, r"`prior` must broadcast to `loc` of shape"),
        ({"step_size": 0.0}, "`step_size` must be positive"),
        ({"step_size": np.nan}, "`step_size` must be positive"),
        ({"batch_size": 41}, "`batch_size` must lie between 1 and the 40"),
        ({"energy": Location(jnp.asarray(jnp.nan))}, "`energy` must be finite, got nan"),
        ({"energy": ebm.freeze(Location(jnp.zeros(())))}, "has nothing that trains"),
        ({"data": DATA[:, None]}, "shape"),
        ({"objective": "sm"}, "`objective` must be one of this library"),
        ({"objective": CD()}, re.escape("use `start=ebm.Persistent(reinit=0.0)`")),
        ({"objective": CD(start=ebm.Persistent())}, "or its gradient is biased"),
        ({"objective": CD(start=ebm.FromData())}, "or its gradient is biased"),
        ({"objective": persistent(energy_penalty=0.1)}, "`energy_penalty` and `kl_weight`"),
        (
            {"objective": CD(ebm.UnadjustedLangevin(), 5, ebm.Persistent(reinit=0.0))},
            "must leave its target invariant",
        ),
        ({"objective": ebm.NoiseContrastiveEstimation()}, "trains more than the energy"),
        (
            {"objective": ebm.objectives.KernelSteinDiscrepancy(), "batch_size": 5},
            "compares all pairs of rows",
        ),
    ],
)
def test_what_is_refused(settings, says):
    with pytest.raises((TypeError, ValueError), match=says):
        sgmcmc(jr.key(0), **changed(**settings), **QUIET)
