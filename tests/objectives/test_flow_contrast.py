"""Flow-contrastive estimation: its value and gradients by quadrature, and where it ends."""

import warnings

import equinox as eqx
import flowjax.distributions as fd
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from helpers import COVARIANCE, MEAN
from jax.flatten_util import ravel_pytree

import numpyro_ebm as ebm
from numpyro_ebm._trainable import partition_trainable
from numpyro_ebm.objectives import FlowContrastiveEstimation, _flow_contrast

QUIET = {"progress_bar": False}
CHANCE = -np.log(4)
TWO = ebm.GaussianMixture([0.5, 0.5], [[-1.5], [1.5]], [[[0.25]], [[0.25]]])
WIDE = fd.Normal(jnp.zeros(1), jnp.array([1.6]))
NODES, LOG_WEIGHTS = ebm.Quadrature([-12.0], [12.0], 2001).nodes()


def value(players):
    """V of data from `TWO`, by quadrature."""
    p = jnp.exp(LOG_WEIGHTS - jax.vmap(TWO)(NODES) - TWO.log_z)
    q = jnp.exp(LOG_WEIGHTS - jax.vmap(players.flow)(NODES))
    odds = _flow_contrast._log_odds(players, NODES, jax.vmap(players.flow)(NODES))
    return jnp.sum(p * jax.nn.log_sigmoid(odds) + q * jax.nn.log_sigmoid(-odds))


def game(players):
    """V, and a tenth of the flow's negative log-likelihood, which the energy does not see."""
    p = jnp.exp(LOG_WEIGHTS - jax.vmap(TWO)(NODES) - TWO.log_z)
    return value(players) + 0.1 * jnp.sum(p * jax.vmap(players.flow)(NODES))


def gradients(start):
    """Those of the loss, one per batch of 2000 points, and those of V by quadrature."""
    objective = FlowContrastiveEstimation(WIDE, flow_rate=1.0)
    params, rest = partition_trainable(start)
    flat, unravel = ravel_pytree(params)

    def loss(flat, key):
        data_key, loss_key = jr.split(key)
        full, data = eqx.combine(unravel(flat), rest), TWO.sample(data_key, (2000,))
        return objective.loss(loss_key, full, start.flow, data, None)[0]

    found = jax.lax.map(lambda key: jax.grad(loss)(flat, key), jr.split(jr.key(0), 100))
    exact = jax.grad(lambda flat: game(eqx.combine(unravel(flat), rest)))(flat)
    # The energy and its constant descend on the loss, so ascend on V; the flow descends on V.
    size = len(ravel_pytree(partition_trainable((start.energy, start.log_z))[0])[0])
    return found, exact * jnp.where(jnp.arange(len(flat)) < size, -1, 1)


def players():
    """An energy that is not the best one, with each of its parameters."""
    objective = FlowContrastiveEstimation(WIDE)
    energy = ebm.Gaussian([0.3], [[2.0]])
    return objective.init(jr.key(1), energy, jnp.zeros((2, 1)))[0]


def without_flow(players, points, costs):
    return -jax.vmap(players.energy)(points) - players.log_z


MUTANTS = {
    "the wrong way round": ("ascending", lambda tree: tree),
    "without log q": ("_log_odds", without_flow),
}


def largest_z(found, exact):
    error = found.std(0, ddof=1) / np.sqrt(len(found))
    return np.abs((found.mean(0) - exact) / error).max()


def test_gradients_are_those_of_the_value(x64):
    start = players()
    found, exact = gradients(start)
    assert len(exact) == 5  # Location, precision, log Z; location and scale of the flow.
    assert np.abs(exact).min() > 0.003
    assert largest_z(found, exact) < 4


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
def test_wrong_gradients_are_seen(mutant, monkeypatch, x64):
    start = players()
    _, exact = gradients(start)

    monkeypatch.setattr(_flow_contrast, *MUTANTS[mutant])
    found, _ = gradients(start)
    assert largest_z(found, exact) > 20


def test_the_value_at_the_best_energy_is_the_divergence(x64):
    r"""$-\log 4 + 2\,\mathrm{JSD}$, here -1.129121; -log 4 for the right flow."""
    objective = FlowContrastiveEstimation(WIDE)
    best = eqx.tree_at(lambda p: (p.energy, p.log_z), players(), (TWO, TWO.log_z))
    np.testing.assert_allclose(value(best), -1.129121, atol=1e-6)
    data = TWO.sample(jr.key(0), (100_000,))
    loss, (_, metrics) = objective.loss(jr.key(1), best, best.flow, data, None)
    np.testing.assert_allclose(metrics["value"], -1.129121, atol=0.01)
    log_likelihood = -jax.vmap(TWO)(data).mean() - TWO.log_z
    # The constant is estimated from the draws.
    np.testing.assert_allclose(loss, -log_likelihood, atol=0.02)
    equal = eqx.tree_at(lambda p: p.flow, best, TWO)
    _, (_, metrics) = objective.loss(jr.key(1), equal, TWO, data[:100], None)
    np.testing.assert_allclose(metrics["value"], CHANCE, rtol=1e-10)


def run(flow, energy, data, num_steps, rate, **kwargs):
    optim = optax.adam(optax.cosine_decay_schedule(rate, num_steps), b1=0.5, b2=0.99)
    estimator = ebm.Estimator(FlowContrastiveEstimation(flow, 1.0), optim, ema_decay=0.98)
    return estimator.run(jr.key(1), num_steps, energy, data, **QUIET, **kwargs)


def test_an_energy_and_a_flow_both_become_the_data():
    data = ebm.Gaussian(MEAN, COVARIANCE).sample(jr.key(0), (4000,))
    flow = fd.MultivariateNormal(jnp.zeros(2), 4 * jnp.eye(2))
    start = ebm.Gaussian(np.zeros(2), np.eye(2))
    result = run(flow, start, data, 500, 0.08, batch_size=500)
    learned, flow = result.energy, ebm.unfreeze(result.energy.reference)
    assert isinstance(learned, ebm.Normalized)
    gaussian = learned.energy.energy
    sample = np.cov(data.T, bias=True)
    for loc, covariance in (
        (gaussian.loc, np.linalg.inv(gaussian.precision_matrix)),
        (flow.flow.loc, flow.flow.covariance),
    ):
        np.testing.assert_allclose(loc, data.mean(0), atol=0.05)
        np.testing.assert_allclose(covariance, sample, atol=0.06)
    assert 0 < learned.std_error < 0.01
    assert abs(learned.log_z - gaussian.log_z) < 4 * learned.std_error + 1e-4
    last = {name: values[-100:].mean() for name, values in result.metrics.items()}
    assert set(last) == {"accuracy", "value", "log_z"}
    assert abs(last["value"] - CHANCE) < 0.01
    assert abs(last["accuracy"] - 0.5) < 0.03
    assert abs(last["log_z"] - gaussian.log_z) < 0.05
    # The losses are the negative log-likelihood.
    entropy = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * sample)[1]
    np.testing.assert_allclose(result.losses[-100:].mean(), entropy, atol=0.02)


@pytest.mark.parametrize(
    ("flow", "energy", "message"),
    [
        (WIDE, ebm.Gaussian(MEAN, COVARIANCE), "points of shape"),
        (TWO, TWO, "choose among components"),
        (lambda x: jnp.sum(x**2), TWO, "no `log_z` or no `sampler`"),
        (ebm.Normalized(ebm.MLPEnergy(1, 4, key=jr.key(0)), 1.0), TWO, "no `log_z`"),
        (WIDE, ebm.IsingModel((1,), 0.1), "of real points without conditions"),
        (WIDE, ebm.ConditionalEnergy(lambda y, x: y[0], (1,)), "without conditions"),
        (WIDE, dist.Gamma(2.0, 1.0).expand([1]).to_event(1), "in unconstrained space"),
    ],
)
def test_what_cannot_be_contrasted_is_refused(flow, energy, message):
    energy = energy if isinstance(energy, ebm.ConditionalEnergy) else ebm.as_energy(energy)
    objective = FlowContrastiveEstimation(flow)
    with pytest.raises(ValueError, match=message):
        objective.init(jr.key(0), energy, jnp.ones((3, 1)))


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="`flow_rate` must be positive"):
        FlowContrastiveEstimation(WIDE, flow_rate=0.0)
    with pytest.raises(ValueError, match="`likelihood_weight` must not be negative"):
        FlowContrastiveEstimation(WIDE, likelihood_weight=-1.0)


def test_the_rate_of_the_flow_is_relative():
    """Under Adam's first step: every parameter moves by the learning rate, or that times it."""
    data = TWO.sample(jr.key(0), (200,))
    moved = {}
    for rate in (1.0, 0.1):
        estimator = ebm.Estimator(FlowContrastiveEstimation(WIDE, rate), optax.adam(1e-3))
        energy = ebm.Gaussian([0.3], [[2.0]])
        result = estimator.run(jr.key(1), 1, energy, data, **QUIET)
        flow = ebm.unfreeze(result.energy.reference).flow
        moved[rate] = (
            abs(float(flow.loc[0])),
            abs(float(result.energy.energy.energy.loc[0]) - 0.3),
        )
    np.testing.assert_allclose(moved[1.0], 1e-3, rtol=1e-3)
    np.testing.assert_allclose(moved[0.1], [1e-4, 1e-3], rtol=1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*The constant by which the classifier")
def test_what_is_frozen_stays():
    frozen = eqx.tree_at(lambda f: f.bijection.loc, WIDE, replace_fn=ebm.freeze)
    result = run(frozen, ebm.Gaussian([0.3], [[2.0]]), TWO.sample(jr.key(0), (200,)), 5, 0.1)
    flow = ebm.unfreeze(result.energy.reference).flow
    assert flow.loc == 0
    assert flow.scale != 1.6


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*The constant by which the classifier")
def test_early_stopping_judges_the_energy():
    """The value of a game does not fall, but the held-out log-likelihood rises."""
    data = TWO.sample(jr.key(0), (1000,))
    stopping = ebm.EarlyStopping(every=20, patience=3)
    start = ebm.MLPEnergy(1, 16, key=jr.key(2))
    result = run(WIDE, start, data, 2000, 0.01, early_stopping=stopping)
    losses = result.validation_losses
    # Training went on beyond the first evaluations, and ended near the entropy.
    assert len(losses) > 5
    assert losses.min() < losses[0] - 0.05
    entropy = float(
        jnp.sum(
            jnp.exp(LOG_WEIGHTS - jax.vmap(TWO)(NODES) - TWO.log_z)
            * (jax.vmap(TWO)(NODES) + TWO.log_z)
        )
    )
    assert abs(losses.min() - entropy) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
def test_wrong_games_do_not_end_at_chance(mutant, monkeypatch):
    """The Gaussian that is learned above, in as many steps."""

    monkeypatch.setattr(_flow_contrast, *MUTANTS[mutant])
    data = ebm.Gaussian(MEAN, COVARIANCE).sample(jr.key(0), (4000,))
    flow = fd.MultivariateNormal(jnp.zeros(2), 4 * jnp.eye(2))
    start = ebm.Gaussian(np.zeros(2), np.eye(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = run(flow, start, data, 500, 0.08, batch_size=500)
        except ebm.estimation.NonFiniteError:
            return
    gaussian = result.energy.energy.energy
    covariance = np.linalg.inv(gaussian.precision_matrix)
    is_right = np.abs(covariance - np.cov(data.T)).max() < 0.06
    is_at_chance = abs(result.metrics["value"][-100:].mean() - CHANCE) < 0.01
    assert not (is_right and is_at_chance)
