"""Normalised conditionals against closed forms: their constants, gradients, and learning."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from helpers import trees_equal
from numpyro.infer import MCMC

import numpyro_ebm as ebm
from numpyro_ebm.energies import LogZ, NormalizedConditional

X = jnp.linspace(-1.0, 1.0, 9)
BOX = ebm.Quadrature(-12.0, 12.0)


class Line(eqx.Module):
    """y given x is N(slope x, scale(x)^2), up to a constant that depends on x."""

    slope: jax.Array

    def __call__(self, y, x):
        return 0.5 * jnp.sum((y - self.slope * x) ** 2) / scale(x) ** 2 + 3 * x


def scale(x):
    return 0.3 + x**2


def log_z(x, dim=1):
    return dim * (jnp.log(scale(x)) + 0.5 * jnp.log(2 * jnp.pi)) - 3 * x


def line(shape=(), slope=2.0):
    return ebm.ConditionalEnergy(Line(jnp.array(slope)), shape)


@pytest.mark.parametrize("shape", [(), (1,), (2,)])
def test_the_constant_of_each_condition(shape):
    density = ebm.normalize(jr.key(0), line(shape), conditions=X)
    assert isinstance(density, NormalizedConditional)
    assert isinstance(density.method, ebm.Quadrature)
    found = jax.vmap(lambda x: density.given(x).log_z)(X)
    np.testing.assert_allclose(found, log_z(X, max(len(shape) * sum(shape), 1)), atol=2e-4)
    assert density.event_shape == shape
    assert float(density.given(X[0]).std_error) < 1e-3


def test_the_box_holds_the_densities_of_the_most_distant_conditions():
    """The order of the conditions does not matter, nor how rare the distant ones are."""
    x = jnp.zeros(500).at[123].set(40.0).at[321].set(-30.0)
    shift = ebm.ConditionalEnergy(lambda y, x: 0.5 * (y - x) ** 2, ())
    box = ebm.normalize(jr.key(0), shift, conditions=x).method
    assert box.low < -35
    assert box.high > 45


def test_its_gradients(x64):
    """In the condition and in the parameters, through `jit` and `vmap`."""
    density = NormalizedConditional(line(), BOX)
    by_x = jax.jit(jax.vmap(jax.grad(lambda x: density.given(x).log_z)))(X.astype(float))
    np.testing.assert_allclose(by_x, jax.vmap(jax.grad(log_z))(X.astype(float)), atol=1e-8)

    def log_prob(slope):
        given = NormalizedConditional(line(slope=slope), BOX).given(0.5)
        return -given(1.7) - given.log_z

    truth = jax.grad(lambda slope: dist.Normal(slope * 0.5, scale(0.5)).log_prob(1.7))(2.0)
    np.testing.assert_allclose(jax.grad(log_prob)(2.0), truth, rtol=1e-8)
    np.testing.assert_allclose(
        log_prob(2.0), dist.Normal(1.0, scale(0.5)).log_prob(1.7), rtol=1e-9
    )


def test_one_number_for_all_conditions():
    density = NormalizedConditional(line(), -0.5, 0.1)
    given = density.given(X[0])
    assert (given.log_z, given.std_error) == (-0.5, jnp.asarray(0.1))
    assert density.method is None
    assert repr(density) == "NormalizedConditional(Line(y; x), log_z=-0.5)"
    assert repr(NormalizedConditional(line(), BOX)).endswith("log_z=Quadrature)")
    leaves, structure = jax.tree.flatten(density)
    assert trees_equal(jax.tree.unflatten(structure, leaves), density)


def test_a_latent_condition_is_accounted_for():
    """The posterior of x given y = 1: without log Z(x) it would be refused, and wrong."""
    y = jnp.array(1.0)
    density = NormalizedConditional(line(), BOX)

    def model():
        x = numpyro.sample("x", dist.Normal(0, 0.5))
        numpyro.sample("y", ebm.EnergyDistribution(density.given(x)), obs=y)

    mcmc = MCMC(
        ebm.NUTS(model), num_warmup=300, num_samples=1000, num_chains=4,
        chain_method="vectorized", progress_bar=False,
    )  # fmt: skip
    mcmc.run(jr.key(0))
    grid = jnp.linspace(-2.5, 2.5, 2001)
    log_prob = dist.Normal(0, 0.5).log_prob(grid) + jax.vmap(
        lambda x: dist.Normal(2 * x, scale(x)).log_prob(y)
    )(grid)
    mean = jax.nn.softmax(log_prob) @ grid
    x = np.asarray(mcmc.get_samples()["x"])
    assert abs(x.mean() - mean) < 4 * x.std() / np.sqrt(400)

    def without():
        x = numpyro.sample("x", dist.Normal(0, 0.5))
        numpyro.sample("y", ebm.EnergyDistribution(line().given(x)), obs=y)

    with pytest.raises(ebm.UnnormalizedError):
        ebm.sites.check_normalization(without)
    ebm.sites.check_normalization(model)


def pairs(size, key=5):
    x_key, y_key = jr.split(jr.key(key))
    x = jr.uniform(x_key, (size,), minval=-1, maxval=1)
    return 2 * x + scale(x) * jr.normal(y_key, (size,)), x


def test_held_out_pairs_are_scored():
    y, x = pairs(2000)
    density = ebm.normalize(jr.key(0), line(), conditions=x)
    found = ebm.log_likelihood(density, (y, x))
    truth = dist.Normal(2 * x, scale(x)).log_prob(y)
    np.testing.assert_allclose(found.values, truth, atol=1e-3)
    np.testing.assert_array_equal(
        ebm.log_likelihood(density, ebm.objectives.Batch(y, x)).values, found.values
    )
    unsure = NormalizedConditional(line(), density.method, 0.3)
    assert ebm.log_likelihood(unsure, (y, x)).log_z_error == jnp.asarray(0.3)
    worse = NormalizedConditional(line(slope=1.5), density.method)
    table = ebm.compare({"worse": worse, "truth": density}, (y, x))
    assert table.names == ("truth", "worse")
    expected = (0.25 * x**2 / (2 * scale(x) ** 2)).mean()
    assert abs(table.difference[1] + expected) < 4 * table.difference_error[1] < 2 * expected
    rule = ebm.diagnostics.HyvarinenScore()
    assert ebm.compare({"b": line(slope=1.5), "a": line()}, (y, x), rule).names == ("a", "b")


class Bumps(eqx.Module):
    """Two modes: the network that contrasts learn."""

    net: eqx.nn.MLP

    def __call__(self, y, x):
        return self.net(jnp.stack([x, y])) + 0.5 * (y / 3) ** 2


def two_modes(size, key):
    x_key, up_key, y_key = jr.split(jr.key(key), 3)
    x = jr.uniform(x_key, (size,), minval=-1, maxval=1)
    up = jr.bernoulli(up_key, jax.nn.sigmoid(2 * x))
    return jnp.where(up, 1.5, -1.5) + (0.3 + 0.2 * x) * jr.normal(y_key, (size,)), x


def fit(num_steps):
    net = eqx.nn.MLP(2, "scalar", 32, 2, jax.nn.silu, key=jr.key(1))
    energy = ebm.ConditionalEnergy(Bumps(net), ())
    optim = optax.adam(optax.cosine_decay_schedule(5e-3, num_steps))
    estimator = ebm.Estimator(ebm.NoiseContrastiveEstimation(num_noise=10), optim)
    data = two_modes(4000, 2)
    run = estimator.run
    return run(jr.key(3), num_steps, energy, data, batch_size=500, progress_bar=False).energy


@pytest.mark.slow
def test_contrasts_learn_the_constants_and_their_error():
    density = fit(1500)
    exact = ebm.normalize(jr.key(0), density, conditions=X)
    offs = jax.vmap(lambda x: exact.given(x).log_z)(jnp.linspace(-0.95, 0.95, 100))
    off = float(jnp.sqrt((offs**2).mean()))
    error = float(density.given(X[0]).std_error)
    print(f"log Z(x) is off by {off:.3f}, said to be {error:.3f}")
    assert off < 0.15
    assert off < 1.5 * error < 3 * off + 0.05
    held_out = two_modes(2000, 4)
    found, truth = (ebm.log_likelihood(p, held_out) for p in (density, exact))
    assert abs(found.mean - truth.mean) < 2 * found.log_z_error
    shares = ebm.tasks.predict(jr.key(0), density, X)
    above = (shares.weights * (shares.points > 0)).sum(1)
    np.testing.assert_allclose(above, jax.nn.sigmoid(2 * X), atol=0.06)


def test_a_network_that_is_not_self_normalised_is_reported():
    with pytest.warns(UserWarning, match="`NoiseContrastiveEstimation`: ") as caught:
        density = fit(3)
    text = str([each.message for each in caught])
    assert re.search(r"which should be zero, is off by \d\.\d+ in the root mean square", text)
    assert density.given(X[0]).std_error > 0.2


def test_maximum_likelihood_leaves_its_method_and_training_drops_constants():
    y, x = pairs(500)
    estimator = ebm.Estimator(ebm.MaximumLikelihood(BOX), optax.adam(0.05))
    density = estimator.run(
        jr.key(0), 200, line(slope=0.0), (y, x), batch_size=100, progress_bar=False
    ).energy
    assert isinstance(density, NormalizedConditional)
    weights = 1 / scale(x) ** 2
    slope = (weights * x * y).sum() / (weights * x**2).sum()
    np.testing.assert_allclose(density.conditional.fn.slope, slope, atol=0.05)
    matching = ebm.Estimator(ebm.ScoreMatching(), optax.sgd(1e-3))
    again = matching.run(jr.key(0), 2, density, (y, x), progress_bar=False).energy
    assert isinstance(again, ebm.ConditionalEnergy)
    state = matching.init(jr.key(0), NormalizedConditional(line(), 0.0), (y, x))
    assert isinstance(state.trainable, ebm.ConditionalEnergy)


def test_a_box_that_does_not_fit_is_reported():
    with pytest.warns(
        UserWarning, match=r"`normalize` at 9 conditions: .*at \d of them the box"
    ):
        density = ebm.normalize(
            jr.key(0), line(), ebm.Quadrature(-2.0, 2.0), conditions=np.asarray(X)
        )
    assert jnp.isinf(density.given(X[0]).std_error)


Y = jnp.zeros(9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ebm.normalize(jr.key(0), line()), "`conditions` is needed"),
        (
            lambda: ebm.normalize(jr.key(0), ebm.energies.Ring(), conditions=X),
            "`conditions` is for a `ConditionalEnergy",
        ),
        (lambda: ebm.normalize(jr.key(0), line(None), conditions=X), "`event_shape` is needed"),
        (lambda: ebm.normalize(jr.key(0), line((4,)), conditions=X), "`method` is needed"),
        (
            lambda: ebm.normalize(jr.key(0), line(), ebm.BridgeSampling(), conditions=X),
            "`method` must be exact for a conditional energy",
        ),
        (
            lambda: ebm.normalize(jr.key(0), line(), conditions=(X, X[1:])),
            "same number of rows",
        ),
        (lambda: ebm.log_likelihood(line(), (Y, X)), "conditional, conditions=x"),
        (lambda: ebm.compare({"a": line()}, (Y, X)), r"`energies\['a'\]`, Line"),
        (lambda: ebm.log_likelihood(line(), Y), r"must be a pair `\(y, x\)`"),
        (lambda: ebm.log_likelihood(dist.Normal(0, 1), (Y, X)), r"must be a pair `\(y, x\)`"),
        (lambda: ebm.log_likelihood(line(), (Y, X[:3])), "same number of rows"),
        (lambda: NormalizedConditional(ebm.energies.Ring(), 0.0), "must be a `Conditional"),
        (lambda: ebm.log_partition(jr.key(0), line()), r"`energy\.given\(x\)`"),
        (lambda: ebm.sample(jr.key(0), line(), ebm.MALA()), r"`ebm\.tasks\.predict` draws"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_a_file_holds_it(tmp_path):
    for density in (
        NormalizedConditional(line(), BOX),
        NormalizedConditional(line(), 0.5, 0.1),
    ):
        ebm.save(tmp_path / "density.ebm", density)
        empty = NormalizedConditional(line(slope=0.0), BOX if density.method else 0.0)
        loaded = ebm.load(tmp_path / "density.ebm", like=empty)
        assert loaded.given(X[2]).log_z == density.given(X[2]).log_z
        assert loaded(1.0, X[2]) == density(1.0, X[2]) != empty(1.0, X[2])


def test_a_constant_may_be_a_log_z():
    assert NormalizedConditional(line(), LogZ(0.5, 0.2)).given(X[0]).std_error == jnp.float32(
        0.2
    )
