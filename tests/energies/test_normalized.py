import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from helpers import COVARIANCE, MEAN, assert_moments, mixture, network, quadrature

import numpyro_ebm as ebm
from numpyro_ebm.energies import forget_constants

WIDE = ebm.energies.FunctionEnergy(lambda x: 0.5 * jnp.sum(x**2), (1,))
NARROW = ebm.energies.FunctionEnergy(lambda x: 0.5 * jnp.sum((x - 6) ** 2) / 0.01, (1,))
LOG_ZS = 0.5 * np.log(2 * np.pi), 0.5 * np.log(2 * np.pi * 0.01)


def components(truth):
    pairs = zip(truth.locs, truth.precision_matrices, strict=True)
    return [ebm.Gaussian(loc, precision_matrix=precision) for loc, precision in pairs]


def normal():
    return ebm.Normalized(WIDE, LOG_ZS[0])


def share_below_five(energy):
    grid = jnp.linspace(-8, 8, 16_001)[:, None]
    weights = jax.nn.softmax(-jax.vmap(energy)(grid))
    return weights @ (grid[:, 0] < 5)


def test_a_mixture_has_true_proportions(x64):
    experts = [ebm.Normalized(e, z) for e, z in zip((WIDE, NARROW), LOG_ZS, strict=True)]
    for weights in ([0.5, 0.5], [3.0, 1.0]):
        energy = ebm.Mixture(experts, weights)
        log_z, _, _ = quadrature(energy, 8, 16_001)
        share = weights[0] / sum(weights)
        np.testing.assert_allclose(share_below_five(energy), share, rtol=1e-6)
        np.testing.assert_allclose(energy.log_z, log_z, atol=1e-9)


def test_the_naive_mixture_would_be_seen(x64):
    naive = ebm.Mixture([ebm.Normalized(WIDE, 0.0), ebm.Normalized(NARROW, 0.0)], [0.5, 0.5])
    np.testing.assert_allclose(share_below_five(naive), 10 / 11, rtol=1e-6)


def test_an_expert_without_its_constant_is_refused():
    with pytest.raises(ValueError, match=r"`energies\[1\]`, MLP, does not know its `log_z`"):
        ebm.Mixture([mixture(), network()], [1.0, 1.0])


def test_a_mixture_of_gaussians_is_a_gaussian_mixture(x64):
    truth = mixture()
    experts = components(truth)
    energy = ebm.Mixture(experts, truth.weights)
    for x in truth.sample(jax.random.key(0), (5,)):
        np.testing.assert_allclose(energy(x), truth(x), rtol=1e-12)
        np.testing.assert_allclose(ebm.score(energy, x), ebm.score(truth, x), rtol=1e-9)


def test_exact_draws_where_every_expert_has_them():
    truth = mixture()
    experts = components(truth)
    draws = ebm.Mixture(experts, truth.weights).sample(jax.random.key(0), (400, 100))
    assert_moments(draws, truth.mean, truth.variance)
    site = ebm.EnergyDistribution(ebm.Mixture(experts, [1, 1]), sampler=None)
    assert site.sample(jax.random.key(0), (3,)).shape == (3, 2)
    assert ebm.Mixture([experts[0], ebm.Normalized(network(), 0.0)], [1, 1]).sampler is None


def test_distributions_mix():
    energy = ebm.Mixture([dist.Normal(0, 1).expand([2]).to_event(1), mixture()], [1, 1])
    assert energy.event_shape == (2,)
    np.testing.assert_allclose(energy.weights, [0.5, 0.5])


def test_normalized_knows_its_constant_and_nothing_else_changes():
    gaussian = ebm.Gaussian(MEAN, COVARIANCE)
    energy = ebm.Normalized(gaussian, 1.25, 0.1)
    x = jnp.ones(2)
    assert energy(x) == gaussian(x)
    assert (float(energy.log_z), round(float(energy.std_error), 6)) == (1.25, 0.1)
    site = ebm.EnergyDistribution(energy)
    np.testing.assert_allclose(site.log_prob(x), -gaussian(x) - 1.25, rtol=1e-6)
    draws = energy.sample(jax.random.key(0), (3,))
    assert jnp.array_equal(draws, gaussian.sample(jax.random.key(0), (3,)))
    assert ebm.Normalized(network(), 0.0).sampler is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ebm.Normalized(network(), np.nan), "`log_z` must be finite, got nan"),
        (lambda: ebm.Normalized(network(), 0.0, -1.0), "`std_error` must not be negative"),
        (lambda: ebm.Mixture([mixture()], [1.0, 2.0]), "one number for each of the 1 energies"),
        (lambda: ebm.Mixture([], []), "for each of the 0 energies"),
        (
            lambda: ebm.Mixture([mixture(), mixture()], [1.0, -2.0]),
            "`weights` must be positive",
        ),
        (lambda: ebm.Mixture([mixture(), normal()], [1.0, 1.0]), "live on the same points"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_constant_is_forgotten_when_its_energy_trains():
    energy = ebm.Normalized(network(), 1.5, 0.1)
    data = mixture().sample(jax.random.key(0), (50,))

    def train(energy):
        estimator = ebm.Estimator(ebm.ScoreMatching(), optax.sgd(1e-3))
        return estimator.run(jax.random.key(1), 3, energy, data, progress_bar=False).energy

    assert train(energy).log_z is None
    assert train(2 * energy + mixture()).log_z is None
    frozen = ebm.Normalized(ebm.as_energy(ebm.freeze(network())), 1.5)
    assert train(ebm.Tilted(network(), mixture()) + frozen).terms[1].log_z == 1.5


def test_a_mixture_that_trains_is_the_same_energy_without_a_constant():
    parts = [ebm.Normalized(network(), 1.5), ebm.Normalized(mixture(), 0.0)]
    before = ebm.Mixture(parts, [1.0, 3.0])
    after = forget_constants(before)
    assert (before.log_z, after.log_z) == (0, None)
    points = mixture().sample(jax.random.key(0), (20,))
    gap = jax.vmap(before)(points) - jax.vmap(after)(points)
    np.testing.assert_allclose(gap, gap[0], rtol=1e-5)


def test_the_error_of_a_constant_goes_through_views():
    energy = ebm.Normalized(ebm.Gaussian(MEAN, COVARIANCE), 0.9, 0.3)
    moved = ebm.Transformed(energy, ebm.energies.Standardize([1.0, 2.0], [0.5, 3.0]))
    mixed = ebm.Mixture([energy, energy], [1.0, 1.0])
    site = ebm.EnergyDistribution(energy)
    for view, error in ((moved, 0.3), (mixed, 0.3 / np.sqrt(2)), (site, 0.3)):
        known = ebm.log_partition(jax.random.key(0), view)
        np.testing.assert_allclose(known.std_error, error, rtol=1e-6)
        found = ebm.log_likelihood(view, np.zeros((3, 2)))
        np.testing.assert_allclose(found.log_z_error, error, rtol=1e-6)
    three = ebm.as_energy(site.expand([3]).to_event(1))
    np.testing.assert_allclose(three.partition.std_error, 0.9, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"estimate": np.nan}, "`estimate` must be finite, got nan"),
        ({"estimate": np.inf}, "`estimate` must be finite, got inf"),
        ({"estimate": 0.0, "std_error": np.nan}, "`std_error` must not be negative or NaN"),
        ({"estimate": 0.0, "std_error": -0.1}, "`std_error` must not be negative or NaN"),
        ({"estimate": 0.0, "ess": np.nan}, "`ess` must not be negative or NaN"),
        ({"estimate": 0.0, "df": -1}, "`df` must not be negative or NaN"),
        ({"estimate": 0.0, "lower": np.nan}, "`lower` must be a number"),
    ],
)
def test_a_constant_must_be_a_number(arguments, message):
    with pytest.raises(ValueError, match=message):
        ebm.energies.LogZ(**arguments)


def test_a_constant_whose_check_failed_may_be_anything():
    failed = ebm.energies.LogZ(-np.inf, np.nan, checks={"all weights are zero": True})
    assert not failed.ok
    assert ebm.energies.LogZ(0.0, np.inf).ok
    with pytest.raises(ValueError, match="`log_z` must be finite"):
        ebm.Normalized(lambda x: x @ x, np.nan)
    with pytest.raises(ValueError, match="`std_error` must not be"):
        ebm.Normalized(lambda x: x @ x, 0.0, np.nan)
