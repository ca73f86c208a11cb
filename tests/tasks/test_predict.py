"""Predictive quantiles against closed forms, and modes in their proportions."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.stats import norm

import numpyro_ebm as ebm
from numpyro_ebm.tasks import predict

X = jnp.linspace(-1.0, 1.0, 7)


def scale(x):
    return 0.2 + x**2


def gaussian(shape=()):
    """y given x is N(sin 3x, scale(x)^2), up to a constant that depends on x."""
    return ebm.ConditionalEnergy(
        lambda y, x: 0.5 * jnp.sum(((y - jnp.sin(3 * x)) / scale(x)) ** 2) + 7 * x, shape
    )


def two_modes(shape=()):
    """Modes at -3 and 3; the upper one has the share sigmoid(2x)."""

    def fn(y, x):
        heights = jnp.stack([jax.nn.log_sigmoid(-2 * x), jax.nn.log_sigmoid(2 * x)])
        apart = jnp.stack([jnp.sum((y + 3) ** 2), jnp.sum((y - 3) ** 2)])
        return -jax.nn.logsumexp(heights - 0.5 * apart / 0.3**2)

    return ebm.ConditionalEnergy(fn, shape)


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("method", [None, "box"])
def test_quantiles_of_a_gaussian(shape, method):
    box = ebm.Quadrature(np.full(shape, -12.0), np.full(shape, 12.0), 2001)
    prediction = predict(jr.key(0), gaussian(shape), X, box if method else None)
    probs = np.array([0.01, 0.25, 0.5, 0.9])
    truth = np.sin(3 * X) + norm.ppf(probs)[:, None] * scale(X)
    found = prediction.quantile(probs)
    assert found.shape == (4, 7, *shape)
    np.testing.assert_allclose(found.reshape(4, 7), truth, atol=5e-3)
    low, high = prediction.interval(0.8)
    assert low.shape == high.shape == (7, *shape)
    np.testing.assert_array_equal(prediction.quantile(0.9), high)
    np.testing.assert_allclose(prediction.mean.ravel(), jnp.sin(3 * X), atol=1e-3)
    np.testing.assert_allclose(prediction.variance.ravel(), scale(X) ** 2, rtol=1e-3)


def test_quantiles_are_sharp_in_double_precision(x64):
    x = X.astype(float)
    prediction = predict(jr.key(0), gaussian(), x, ebm.Quadrature(-12.0, 12.0, 4001))
    truth = np.sin(3 * x) + norm.ppf(0.975) * scale(x)
    # Linear between nodes that are .003 apart.
    np.testing.assert_allclose(prediction.quantile(0.975), truth, atol=2e-5)


def test_modes_have_their_shares_at_every_condition():
    prediction = predict(jr.key(0), two_modes(), X)
    above = (prediction.weights * (prediction.points > 0)).sum(1)
    np.testing.assert_allclose(above, jax.nn.sigmoid(2 * X), atol=1e-4)
    draws = prediction.sample(jr.key(1), (20_000,))
    assert draws.shape == (20_000, 7)
    truth = jax.nn.sigmoid(2 * X)
    error = np.sqrt(truth * (1 - truth) / 20_000)
    assert (np.abs((draws > 0).mean(0) - truth) < 4 * error).all()
    within = jnp.where(draws > 0, draws - 3, draws + 3)
    np.testing.assert_allclose(within.std(0), 0.3, rtol=0.03)


def test_a_population_finds_the_shares_in_the_plane():
    noise = dist.Normal(0, 4).expand([2]).to_event(1)
    smc = ebm.TemperedSMC(ebm.MALA(), noise, 3)
    x = jnp.linspace(-1.0, 1.0, 40)
    prediction = predict(jr.key(0), two_modes((2,)), x, smc, num_samples=1000)
    assert prediction.points.shape == (40, 1000, 2)
    found = (prediction.points[..., 0] > 0).mean(1)
    # A single population of 1000 errs by .03; over 40 of them a bias of .02 would show.
    gap = found - jax.nn.sigmoid(2 * x)
    print(f"gap {gap.mean():.4f}, spread {gap.std():.3f}")
    assert np.abs(gap.mean()) < 4 * gap.std() / np.sqrt(40) < 0.03
    assert np.abs(gap).max() < 0.15
    assert prediction.quantile([0.1, 0.9]).shape == (2, 40, 2)
    assert prediction.sample(jr.key(2), (5, 3)).shape == (5, 3, 40, 2)


def test_a_normalised_conditional_brings_its_box():
    box = ebm.Quadrature(-9.0, 9.0, 501)
    density = ebm.energies.NormalizedConditional(gaussian(), box)
    prediction = predict(jr.key(0), density, X)
    assert prediction.points.shape == (7, 1001)
    assert repr(prediction) == "p(y | x) at 7 conditions, by 1001 points each"


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (ebm.Quadrature(-1.0, 1.0), "at 6 of them the box cuts off mass"),
        (ebm.Quadrature(-12.0, 12.0, 40), "at 7 of them the nodes are too few"),
    ],
)
def test_a_box_that_does_not_fit_is_reported(box, message):
    with pytest.warns(UserWarning, match=message):
        predict(jr.key(0), gaussian(), X, box)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: predict(0, gaussian(), X), "random key"),
        (lambda: predict(jr.key(0), ebm.energies.Ring(), X), "must be a `ConditionalEnergy"),
        (lambda: predict(jr.key(0), gaussian((2,)), X), "TemperedSMC.ebm.MALA"),
        (lambda: predict(jr.key(0), gaussian(None), X), "`event_shape` is needed"),
        (lambda: predict(jr.key(0), gaussian(), jnp.zeros(())), "at least one point"),
        (lambda: predict(jr.key(0), gaussian(), X, ebm.MALA()), "proportions of their"),
        (lambda: predict(jr.key(0), gaussian(), X, ebm.Quadrature([0.0], [1.0])), "box of"),
        (lambda: predict(jr.key(0), gaussian(), (X, X[:2])), "same number of rows"),
        (lambda: predict(jr.key(0), gaussian(), X).interval(1.0), "`prob` must lie between"),
        (lambda: predict(jr.key(0), gaussian(), X).quantile([0.5, 2]), "`probs` must lie"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
