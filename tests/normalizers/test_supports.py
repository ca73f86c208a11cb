"""Normalisers on the support of an energy, and on spins: right, or refused."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from numpyro.distributions import constraints

import numpyro_ebm as ebm


class HalfNormal(ebm.AbstractEnergy):
    """A unit normal cut off at zero, written without a wall."""

    mean_: Any = 0.0
    event_shape: Any = eqx.field(static=True, default=())

    @property
    def support(self):
        return constraints.positive

    def __call__(self, x):
        return 0.5 * jnp.sum((x - self.mean_) ** 2)


LOG_Z = 0.5 * np.log(np.pi / 2)
ISING = ebm.IsingModel((3, 3), 0.2)

METHODS = {
    "default": lambda: None,
    "a box beyond the support": lambda: ebm.Quadrature(-8.0, 8.0),
    "a box up to the support": lambda: ebm.Quadrature(0.0, 8.0),
    "a box that is looked for": lambda: ebm.Quadrature.around(HalfNormal()),
    "a real proposal": lambda: ebm.BridgeSampling(proposal=dist.Normal(0.0, 1.2)),
    "a fitted proposal": ebm.BridgeSampling,
    "importance": lambda: ebm.ImportanceSampling(dist.Normal(0.0, 1.5)),
    "islands": lambda: ebm.SequentialMonteCarlo(reference=dist.HalfNormal(2.0)),
    "annealing": lambda: ebm.AnnealedImportanceSampling(reference=dist.HalfNormal(2.0)),
}


@pytest.mark.slow
@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_a_half_normal_without_a_wall(make, x64):
    found = ebm.log_partition(jr.key(0), HalfNormal(), make())
    assert found.ok
    assert abs(found.estimate - LOG_Z) < max(4 * found.std_error, 1e-9)


@pytest.mark.parametrize(
    ("make", "box"),
    [
        (lambda: dist.Beta(0.5, 0.7), (0.0, 1.0)),
        (lambda: dist.Uniform(-1.0, 3.0), (-1.0, 3.0)),
        (lambda: dist.Gamma(0.5, 1.0), (0.0, 60.0)),
        (lambda: dist.Exponential(2.0), (-5.0, 30.0)),
    ],
)
def test_a_density_that_does_not_vanish_at_its_bounds(make, box, x64):
    found = ebm.log_partition(jr.key(0), 1.0 * ebm.as_energy(make()), ebm.Quadrature(*box))
    assert found.ok
    assert abs(found.estimate) < 1e-7


@pytest.mark.slow
def test_maximum_likelihood_of_half_normal_data(x64):
    data = np.abs(np.random.default_rng(0).normal(size=4000))
    estimator = ebm.Estimator(ebm.MaximumLikelihood(ebm.Quadrature(-8.0, 8.0)), optax.adam(0.1))
    start = HalfNormal(jnp.array(0.5))
    fitted = estimator.run(jr.key(0), 300, start, data, progress_bar=False).energy
    # The mean of a half-normal moves by 1 - 2/pi with its parameter.
    assert abs(fitted.energy.mean_) < 4 * np.sqrt(1 / (1 - 2 / np.pi) / 4000)


@pytest.mark.slow
def test_a_ratio_across_supports(x64):
    whole = ebm.as_energy(lambda x: 0.5 * x**2, ())
    found = ebm.normalizers.log_partition_ratio(jr.key(0), HalfNormal(), whole)
    assert found.ok
    assert abs(found.estimate - np.log(0.5)) < 4 * found.std_error


REFUSED = {
    "a Gaussian fitted to spins": (
        lambda: ebm.log_partition(jr.key(0), 1.0 * ISING, ebm.BridgeSampling()),
        "would fit a Gaussian",
    ),
    "a box of spins": (
        lambda: ebm.log_partition(jr.key(0), ISING, ebm.Quadrature([[-1.0]], [[1.0]])),
        "lives on points of shape",
    ),
    "a real reference of spins": (
        lambda: ebm.log_partition(
            jr.key(0),
            1.0 * ISING,
            ebm.SequentialMonteCarlo(reference=dist.Normal(0, 1).expand([3, 3]).to_event(2)),
        ),
        "take real values, those of the energy the values -1 and 1",
    ),
    "bits for spins": (
        lambda: ebm.log_partition(
            jr.key(0),
            1.0 * ISING,
            ebm.SequentialMonteCarlo(reference=dist.Bernoulli(0.5).expand([3, 3]).to_event(2)),
        ),
        "take the values 0 and 1",
    ),
    "a real kernel on spins": (
        lambda: ebm.log_partition(jr.key(0), 1.0 * ISING, ebm.SequentialMonteCarlo(ebm.MALA())),
        "moves through real points",
    ),
    "a box on the simplex": (
        lambda: ebm.log_partition(
            jr.key(0),
            1.0 * ebm.as_energy(dist.Dirichlet(jnp.ones(3))),
            ebm.Quadrature(np.zeros(3), np.ones(3)),
        ),
        "`Quadrature` is on a box",
    ),
    "a box elsewhere": (
        lambda: ebm.log_partition(jr.key(0), HalfNormal(), ebm.Quadrature(-3.0, -1.0)),
        "misses the support",
    ),
    "a proposal of other dimension": (
        lambda: ebm.log_partition(
            jr.key(0),
            1.0 * ebm.as_energy(dist.Dirichlet(jnp.ones(3))),
            ebm.ImportanceSampling(dist.Normal(0, 1).expand([3]).to_event(1)),
        ),
        "no density on the points",
    ),
    "a proposal that misses some": (
        lambda: ebm.log_partition(
            jr.key(0),
            ebm.as_energy(lambda x: 0.5 * x**2, ()),
            ebm.ImportanceSampling(dist.HalfNormal(1.0)),
        ),
        "never falls on the rest",
    ),
    "a reference on another support": (
        lambda: ebm.sample(
            jr.key(0), HalfNormal(), ebm.TemperedSMC(ebm.MALA(), dist.Normal(0, 3))
        ),
        "give a reference of the same support",
    ),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


@pytest.mark.slow
def test_tempered_populations_stay_on_the_simplex():
    shares = jnp.array([2.0, 3.0, 5.0])
    energy = 1.0 * ebm.as_energy(dist.Dirichlet(shares))
    smc = ebm.TemperedSMC(ebm.MALA(), dist.Dirichlet(jnp.ones(3)))
    draws = ebm.sample(jr.key(0), energy, smc, num_chains=16, num_samples=200)
    np.testing.assert_allclose(draws.values.sum(-1), 1, rtol=1e-5)
    means = np.asarray(draws.values.mean(1), float)
    error = means.std(0, ddof=1) / 4
    assert (np.abs(means.mean(0) - shares / 10) < 4 * error).all()


# Walls inside of a reference, which are not part of the support.

SQUARE = dist.Uniform(-jnp.ones(2), jnp.ones(2)).to_event(1)
NORMAL = dist.Normal(0, 1).expand([2]).to_event(1)


def walled(x):
    """Zero density on the left."""
    return jnp.where(x[0] > 0, 0.0, jnp.inf)


WALLED = {
    "half a square": (ebm.Tilted(walled, SQUARE), np.log(0.5)),
    "half a normal": (ebm.Tilted(walled, NORMAL), np.log(0.5)),
    # A fifth of the draws of the reference, and another shape there.
    "a tail": (
        ebm.Tilted(lambda x: jnp.where(x[0] > 0.8416, 0.5 * x[1] ** 2, jnp.inf), NORMAL),
        np.log(0.2) - 0.5 * np.log(2),
    ),
}
PATHS = {
    "islands": ebm.SequentialMonteCarlo(num_particles=128),
    "annealing": ebm.AnnealedImportanceSampling(num_temperatures=50, num_particles=1000),
    "integration": ebm.ThermodynamicIntegration(num_particles=128),
}


@pytest.mark.slow
@pytest.mark.parametrize("target", WALLED)
@pytest.mark.parametrize("path", PATHS)
def test_draws_inside_of_a_wall_count_as_zero(path, target):
    """Of eight runs; without the share of the living, log Z would be off by log 2 or more."""
    energy, truth = WALLED[target]
    runs = [PATHS[path].estimate(jr.key(seed), energy) for seed in range(8)]
    assert all(run.ok for run in runs)
    errors = np.array([float(run.estimate) - truth for run in runs])
    stated = np.array([float(run.std_error) for run in runs])
    assert abs(errors.mean()) < 4 * np.sqrt((stated**2).mean() / 8) < 0.15
    assert all(run.lower <= run.estimate + 1e-3 for run in runs)


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_a_reference_that_lies_inside_of_walls_is_flagged(path):
    energy = ebm.Tilted(lambda x: jnp.where(x[0] > 50, 0.0, jnp.inf), NORMAL)
    found = PATHS[path].estimate(jr.key(0), energy)
    assert any("infinite at all draws of the reference" in text for text in found.problems)
