"""False alarms at the rate that was asked for, and not if calibrated on training data."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest
from helpers import mixture

import numpyro_ebm as ebm
from numpyro_ebm.tasks import (
    AnomalyScores,
    HighEnergy,
    LikelihoodRatio,
    Typicality,
    anomaly_score,
    log_density_ratio,
    log_ratio,
)
from numpyro_ebm.tasks._anomaly import _p_values

TRAIN, REFERENCE, NEW = (
    mixture().sample(jr.key(i), (n,)) for i, n in enumerate((200, 5000, 20_000))
)


def memorised(train=TRAIN, width=0.1):
    """An energy that has learned its training points by heart."""
    return ebm.GaussianMixture(np.ones(len(train)), train, width**2 * np.eye(2))


@pytest.mark.parametrize(
    "statistic",
    [HighEnergy(), Typicality(), LikelihoodRatio(ebm.Gaussian(np.zeros(2), 4 * np.eye(2)))],
    ids=lambda s: type(s).__name__,
)
def test_false_alarms_have_the_nominal_rate(statistic):
    scores = anomaly_score(memorised(), NEW, REFERENCE, statistic)
    rate = float(scores.alarms(0.05).mean())
    low, high = scores.rate_interval(0.05, 0.999)
    print(f"false alarms {rate:.4f}, between {low:.4f} and {high:.4f} for these references")
    assert 0.04 < rate < 0.06
    # Calibrated on what the energy has learned, there are many times as many.
    mutant = anomaly_score(memorised(), NEW, TRAIN, statistic)
    assert not 0.04 < float(mutant.alarms(0.05).mean()) < 0.06


@pytest.mark.parametrize("statistic", [HighEnergy(), Typicality()], ids=["high", "typical"])
def test_p_values_are_exactly_uniform_for_few_references(statistic):
    """Over 20,000 reference samples of 19; an error of .006 would show."""
    values = jr.gamma(jr.key(0), 1.5, (20_000, 20))
    p = jax.vmap(lambda v: _p_values(statistic, v[:1], v[1:])[0])(values)
    counts = np.bincount(np.round(np.asarray(p) * 20).astype(int), minlength=21)[1:]
    assert np.abs(counts / 20_000 - 0.05).max() < 4 * np.sqrt(0.05 * 0.95 / 20_000)


def test_the_rate_of_one_reference_sample():
    """Its law over reference samples is the beta distribution."""
    energy = ebm.Gaussian(np.zeros(1), np.eye(1))
    reference = jr.normal(jr.key(0), (300, 99, 1))
    rates = []
    for one in reference:
        values = np.sort(0.5 * np.asarray(one)[:, 0] ** 2)
        rates.append(2 * float(dist.Normal(0, 1).cdf(-np.sqrt(2 * values[-5]))))
    low, high = anomaly_score(energy, jnp.zeros((1, 1)), reference[0]).rate_interval(0.05, 0.8)
    inside = np.mean((low < np.array(rates)) & (np.array(rates) < high))
    assert abs(inside - 0.8) < 4 * np.sqrt(0.16 / 300)
    assert abs(np.mean(rates) - 0.05) < 4 * np.std(rates) / np.sqrt(300)


def test_what_each_statistic_sees():
    """In 100 dimensions nearly nothing lies near the mode; an energy alone likes that."""
    energy = ebm.Gaussian(np.zeros(100), np.eye(100))
    reference = energy.sample(jr.key(0), (500,))
    new = jnp.stack([jnp.zeros(100), jnp.full(100, 1.6), reference[0]])
    found = {s: anomaly_score(energy, new, reference, s()) for s in (HighEnergy, Typicality)}
    assert found[HighEnergy].alarms().tolist() == [False, True, False]
    assert found[Typicality].alarms().tolist() == [True, True, False]
    # What makes the data special is the first coordinate; the others vary in the background.
    data = ebm.Gaussian(np.zeros(2), np.diag([0.01, 100.0]))
    ratio = LikelihoodRatio(ebm.Gaussian(np.zeros(2), np.diag([1.0, 100.0])))
    reference = data.sample(jr.key(1), (500,))
    new = jnp.array([[0.0, 35.0], [0.4, 0.0]])
    assert anomaly_score(data, new, reference, ratio).alarms().tolist() == [False, True]
    assert anomaly_score(data, new, reference).alarms().tolist() == [True, True]


def test_discoveries_are_mostly_true():
    energy = ebm.Gaussian(np.zeros(2), np.eye(2))
    reference = energy.sample(jr.key(0), (2000,))
    shares = []
    for i in range(20):
        normal, strange = jr.normal(jr.key(i), (2, 100, 2))
        scores = anomaly_score(energy, jnp.concatenate([normal, strange + 3]), reference)
        found = scores.discoveries(0.1)
        shares.append(float(found[:100].sum() / max(found.sum(), 1)))
    assert np.mean(shares) < 0.1
    assert found[100:].mean() > 0.5
    none = anomaly_score(energy, normal[:2] * 0, reference)
    assert not none.discoveries().any()


def test_a_p_value_that_equals_its_bound_is_a_discovery():
    """In 32 bits, 0.1 is above the 0.1 of 64 bits."""
    p_values = jnp.array([0.1, 0.1, 1.0, 1.0])
    scores = AnomalyScores(p_values, p_values, jnp.zeros(19))
    assert scores.discoveries(0.2).tolist() == [True, True, False, False]


def test_scores_print_what_they_promise():
    scores = anomaly_score(memorised(), NEW[:100], REFERENCE)
    assert "in 100 points at a rate of 0.05; with these 5000 reference points" in repr(scores)
    few = anomaly_score(memorised(), NEW[:100], REFERENCE[:9])
    assert repr(few) == "100 points against 9 reference points; the least p-value is 0.1"
    impossible = anomaly_score(
        lambda x: jnp.where(x[0] > 0, jnp.inf, x[0]), NEW[:50], -NEW[50:90]
    )
    assert (impossible.p_values > 0).all()


def test_ratios(x64):
    gaussian, other = ebm.Gaussian(np.zeros(2), np.eye(2)), mixture()
    x, y = np.asarray(NEW[:5], float), np.asarray(NEW[5:10], float)

    def log_prob(energy, x):
        return -jax.vmap(energy)(x) - energy.log_z

    apart = log_prob(gaussian, x) - log_prob(gaussian, y)
    np.testing.assert_allclose(log_ratio(gaussian, x, y), apart, atol=1e-12)
    np.testing.assert_allclose(log_ratio(gaussian, x, x[:1])[0], 0, atol=1e-12)
    apart = log_prob(gaussian, x) - log_prob(other, x)
    np.testing.assert_allclose(log_density_ratio(gaussian, other, x), apart, atol=1e-12)
    difference = log_ratio(gaussian - other, x, y)
    at_y = log_density_ratio(gaussian, other, y)
    np.testing.assert_allclose(difference, apart - at_y, atol=1e-12)


GAUSSIAN = ebm.Gaussian(np.zeros(2), np.eye(2))
GAMMA = dist.Gamma(2.0, 1.0).expand([2]).to_event(1)
SPINS = ebm.IsingModel((2,), 0.3, periodic=False)
ROWS = np.ones((3, 2))


@pytest.mark.parametrize("energy", [GAUSSIAN, GAMMA, SPINS, dist.Dirichlet(np.ones(2))])
def test_every_kind_of_support(energy):
    points = ebm.as_energy(energy).sample(jr.key(0), (40,))
    for statistic in (HighEnergy(), Typicality(), LikelihoodRatio(energy)):
        assert np.isfinite(anomaly_score(energy, points[:9], points, statistic).p_values).all()
    if energy is not GAUSSIAN:
        with pytest.raises(ValueError, match="where the energy lives; 9 of 9 points do not"):
            anomaly_score(energy, points[:9] - 7.5, points)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: anomaly_score(GAUSSIAN, ROWS[0], ROWS), r"pass `x\[None\]`"),
        (lambda: anomaly_score(GAUSSIAN, ROWS, ROWS[:, :1]), "`reference` must hold points"),
        (lambda: anomaly_score(GAUSSIAN, ROWS * np.nan, ROWS), "`x` must be finite"),
        (lambda: anomaly_score(GAUSSIAN, ROWS, ROWS, Typicality), "`statistic` must be"),
        (lambda: anomaly_score(lambda x: x[0] * jnp.nan, ROWS, ROWS), "NaN at 3 of 3 points"),
        (lambda: anomaly_score(GAUSSIAN, ROWS, ROWS).alarms(0.05), "give 19 or more"),
        (lambda: anomaly_score(GAUSSIAN, ROWS, ROWS).alarms(1.5), "between 0 and 1"),
        (lambda: log_ratio(GAUSSIAN, ROWS, ROWS[:2]), "as many points as `x`, 3, or one"),
        (lambda: log_ratio(lambda x: x[0] * jnp.inf, ROWS, ROWS), "they have no ratio"),
        (lambda: log_density_ratio(GAUSSIAN, lambda x: x[0], ROWS), "does not know its log Z"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
