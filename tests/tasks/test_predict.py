"""Predictive quantiles against closed forms, and modes in their proportions."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import optax
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


def test_the_highest_density_of_one_mode_is_its_central_interval():
    prediction = predict(jr.key(0), gaussian((1,)), X)
    low, high = prediction.highest_density(0.8)
    assert low.shape == high.shape == (7, 1)
    half = norm.ppf(0.9) * scale(X)
    np.testing.assert_allclose(low[:, 0], jnp.sin(3 * X) - half, atol=5e-3)
    np.testing.assert_allclose(high[:, 0], jnp.sin(3 * X) + half, atol=5e-3)


def test_the_highest_density_of_two_modes_leaves_out_the_gap():
    """Both ends of each interval at one level, and the mass between them, by SciPy."""
    x = jnp.array([0.0, 0.4, 2.0])
    low, high = predict(jr.key(0), two_modes(), x).highest_density(0.9)
    assert low.shape == high.shape == (3, 2)
    # At x = 2 the lower mode, of share .018, is below the level everywhere.
    np.testing.assert_array_equal(
        np.isnan(low), [[False, False], [False, False], [False, True]]
    )
    share = jax.nn.sigmoid(2 * x)[:, None]

    def law(fn, y):
        return np.nan_to_num((1 - share) * fn(y, -3, 0.3) + share * fn(y, 3, 0.3))

    mass = (law(norm.cdf, high) - law(norm.cdf, low)).sum(1)
    np.testing.assert_allclose(mass, 0.9, atol=2e-3)
    for row in (0, 1):
        ends = np.concatenate([law(norm.pdf, low)[row], law(norm.pdf, high)[row]])
        np.testing.assert_allclose(ends, ends.mean(), rtol=0.03)
    # The central interval is longer by the gap.
    shortest, central = (
        (high - low)[0].sum(),
        np.diff(predict(jr.key(0), two_modes(), x).interval(0.9), axis=0)[0, 0],
    )
    assert shortest < 2.2
    assert central > 6


def test_a_level_density_is_all_in_one_interval():
    flat = ebm.ConditionalEnergy(lambda y, x: 0 * y + x, ())
    with pytest.warns(UserWarning, match="cuts off mass"):
        prediction = predict(jr.key(0), flat, X, ebm.Quadrature(-1.0, 1.0))
    low, high = prediction.highest_density(0.5)
    np.testing.assert_allclose(low, -np.ones((7, 1)), atol=5e-3)
    np.testing.assert_allclose(high, np.ones((7, 1)), atol=5e-3)


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
    with pytest.raises(ValueError, match="these points are draws: use `weights`"):
        prediction.highest_density()


def two_branches(x):
    """Branches whose shares and widths depend on the condition."""
    shares = jax.nn.sigmoid(jnp.stack([-1.5 * x, 1.5 * x]))
    branches = dist.Normal(jnp.stack([-1 - 0.4 * x, 1 + 0.4 * x]), 0.15 + 0.1 * x**2)
    return dist.MixtureSameFamily(dist.Categorical(shares), branches)


class Network(eqx.Module):
    layers: eqx.nn.MLP

    def __call__(self, y, x):
        return self.layers(jnp.stack([x, y])) + 0.05 * y**2


@pytest.mark.slow
def test_a_learned_density_of_two_branches():
    """Within .02 nats of the entropy; intervals that cover, over all and at each condition."""

    def pairs(rng_key, num):
        x_key, y_key = jr.split(rng_key)
        x = jr.uniform(x_key, (num,), minval=-2.0, maxval=2.0)
        keys = jr.split(y_key, num)
        return jax.vmap(lambda x, key: two_branches(x).sample(key))(x, keys), x

    y, x = pairs(jr.key(1), 20_000)
    layers = eqx.nn.MLP(2, "scalar", 64, 2, jax.nn.silu, key=jr.key(2))
    estimator = ebm.Estimator(
        ebm.NoiseContrastiveEstimation(), optax.adam(optax.cosine_decay_schedule(5e-3, 2000))
    )
    start = ebm.ConditionalEnergy(Network(layers), ())
    settings = {"batch_size": 256, "progress_bar": False}
    learned = estimator.run(jr.key(3), 2000, start, pairs(jr.key(0), 4000), **settings).energy
    box = ebm.Quadrature(-6.0, 6.0, 301)
    group = np.digitize(x, np.linspace(-2, 2, 11)[1:-1])

    def judged(fn):
        density = ebm.energies.NormalizedConditional(ebm.ConditionalEnergy(fn, ()), box)
        loss = -ebm.log_likelihood(density, (y, x)).values
        prediction = predict(jr.key(4), density, x)
        low, high = prediction.highest_density(0.9)
        inside = ((low <= y[:, None]) & (y[:, None] <= high)).any(1)
        low, high = prediction.interval(0.9)
        central = (low <= y) & (y <= high)
        each = np.array([inside[group == k].mean() for k in range(10)])
        return loss, inside.mean(), central.mean(), each

    def truth(y, x):
        return -two_branches(x).log_prob(y)

    best, *_ = judged(truth)
    prediction = predict(jr.key(5), ebm.ConditionalEnergy(truth, ()), x[:2000], box)
    spacing = prediction.points[0, 1] - prediction.points[0, 0]
    entropy = jax.scipy.special.entr(prediction.weights).sum(1).mean() + jnp.log(spacing)
    # Two Monte Carlo means, of 2000 entropies and of 20,000 scores.
    assert abs(best.mean() - entropy) < 0.05
    fn = learned.conditional.fn
    loss, covered, central, each = judged(fn)
    gap = loss - best
    error = gap.std() / np.sqrt(len(gap))
    print(f"lost {gap.mean():.4f} +- {error:.4f}, covered {covered:.3f}, {central:.3f}, {each}")
    assert gap.mean() + 2 * error < 0.02
    assert 0.88 < covered < 0.92
    assert 0.88 < central < 0.92
    assert each.min() > 0.85
    assert each.max() < 0.95
    # Mutants: a wrong temperature, and a condition that is off.
    mutants = {
        "too flat": lambda y, x: fn(y, x) / 1.5,
        "too peaked": lambda y, x: fn(y, x) * 1.5,
        "displaced": lambda y, x: fn(y, x + 0.3),
    }
    for name, mutant in mutants.items():
        loss, covered, _, each = judged(mutant)
        print(f"{name}: lost {(loss - best).mean():.3f}, covered {covered:.3f}, {each}")
        assert (loss - best).mean() > 0.02, name
        assert not (0.88 < covered < 0.92 and each.min() > 0.85 and each.max() < 0.95), name


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
        (lambda: predict(jr.key(0), gaussian(), X).highest_density(1.2), "`prob` must lie"),
        (lambda: predict(jr.key(0), gaussian(), X).quantile([0.5, 2]), "`probs` must lie"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
