"""`Batch`: points, each with the condition of its own row."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import numpyro_ebm as ebm
from numpyro_ebm.objectives import AbstractObjective, Batch, as_batch

CONDITIONAL = ebm.ConditionalEnergy(
    lambda y, x: 0.5 * jnp.sum((y - x["shift"]) ** 2) + x["constant"], (2,)
)
POINTS = jnp.array([[0.3, -1.2], [2.0, 0.5], [-1.0, -1.0]])
CONDITIONS = {"shift": POINTS[::-1] + 1, "constant": jnp.array([1.0, -2.0, 3.0])}
PAIR = Batch(POINTS, CONDITIONS)


def energy_of(x, i):
    return CONDITIONAL(x, jax.tree.map(lambda c: c[i], CONDITIONS))


def test_each_energy_is_at_its_condition():
    truth = [energy_of(x, i) for i, x in enumerate(POINTS)]
    np.testing.assert_allclose(PAIR.energies(CONDITIONAL), truth, rtol=1e-6)
    np.testing.assert_allclose(
        PAIR.energy_at(CONDITIONAL, 2)(POINTS[0]), energy_of(POINTS[0], 2)
    )
    energy = ebm.energies.Ring()
    np.testing.assert_allclose(Batch(POINTS).energies(energy), [energy(x) for x in POINTS])
    assert Batch(POINTS).energy_at(energy, 0) is energy


def test_other_points_take_the_conditions_in_turn():
    points = jnp.arange(12.0).reshape(6, 2)
    truth = [energy_of(x, i % 3) for i, x in enumerate(points)]
    np.testing.assert_allclose(PAIR.with_points(points).energies(CONDITIONAL), truth, rtol=1e-6)
    assert Batch(POINTS).with_points(points).conditions is None


def test_a_function_is_mapped_over_rows_of_its_own():
    found = PAIR.map(lambda energy, x, scale: scale * energy(x), CONDITIONAL, jnp.arange(3.0))
    np.testing.assert_allclose(found, jnp.arange(3.0) * PAIR.energies(CONDITIONAL))


OBJECTIVES = {
    "ScoreMatching": ebm.ScoreMatching(),
    "DenoisingScoreMatching": ebm.DenoisingScoreMatching(0.3),
    "NoiseContrastiveEstimation": ebm.NoiseContrastiveEstimation(num_noise=2),
    "MaximumLikelihood": ebm.MaximumLikelihood(ebm.Quadrature([-9.0] * 2, [9.0] * 2, 31)),
    "FromData": ebm.ContrastiveDivergence(ebm.MALA(step_size=0.1), 2, ebm.FromData()),
    "FromNoise": ebm.ContrastiveDivergence(ebm.MALA(step_size=0.1), 2, ebm.FromNoise()),
}
each_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)


@each_objective
def test_a_row_without_weight_has_no_say(objective):
    """Neither its point nor its condition, nor the noise and the chains that share that."""
    weights = jnp.array([1.5, 0.0, 1.5])
    trainable, state = objective.init(jax.random.key(0), CONDITIONAL, PAIR)
    trainable = ebm.unfreeze(trainable)

    @jax.jit
    def loss(batch):
        return objective.loss(jax.random.key(1), trainable, state, batch, weights)[0]

    moved = jax.tree.map(lambda x: x.at[1].multiply(1.5), PAIR)
    np.testing.assert_allclose(loss(moved), loss(PAIR), rtol=1e-5)
    heavy = jax.tree.map(lambda x: x.at[0].multiply(1.5), PAIR)
    assert abs(loss(heavy) - loss(PAIR)) > 1e-3


@each_objective
def test_a_pair_is_a_batch(objective):
    trainable, state = objective.init(jax.random.key(0), CONDITIONAL, PAIR)
    trainable = ebm.unfreeze(trainable)
    losses = [
        objective.loss(jax.random.key(1), trainable, state, batch, None)[0]
        for batch in (PAIR, (POINTS, CONDITIONS))
    ]
    assert losses[0] == losses[1]
    with pytest.raises(ValueError, match=r"a pair `\(y, x\)` .* got a tuple of 3"):
        as_batch((POINTS, POINTS, POINTS))


class Mean(AbstractObjective):
    """As people write them: without a look at what kind of energy it is."""

    def init(self, rng_key, energy, data):
        assert isinstance(data, Batch)
        return energy, None

    def loss(self, rng_key, trainable, state, batch, weights):
        return batch.energies(trainable).mean(), (state, {"rows": jnp.array(len(batch))})

    def quantify(self, rng_key, trainable, state, data, weights):
        return trainable, f"{len(data)} rows"

    def finalize(self, trainable, state):
        return trainable


class Shift(ebm.AbstractEnergy):
    loc: jax.Array
    event_shape = (2,)

    def __call__(self, y, x=0.0):
        return jnp.sum((y - self.loc - x) ** 2)


@pytest.mark.parametrize("is_conditional", [False, True])
def test_an_estimator_passes_batches(is_conditional):
    shift = Shift(jnp.zeros(2))
    energy = ebm.ConditionalEnergy(shift, (2,)) if is_conditional else shift
    x = jnp.array([1.0, 2.0, 6.0])
    data = (POINTS + x[:, None], x) if is_conditional else POINTS
    estimator = ebm.Estimator(Mean(), optax.sgd(0.5))
    with pytest.warns(UserWarning, match="3 rows"):
        result = estimator.run(jax.random.key(0), 2, energy, data, progress_bar=False)
    fitted = result.energy.fn if is_conditional else result.energy
    np.testing.assert_allclose(fitted.loc, POINTS.mean(0), rtol=1e-5)
    assert result.metrics["rows"].tolist() == [3, 3]
    state = estimator.init(jax.random.key(0), energy, data)
    for step in (estimator.update, estimator.stable_update):
        np.testing.assert_allclose(step(state, data)[1], result.losses[0], rtol=1e-6)
    np.testing.assert_allclose(estimator.evaluate(state, data), result.losses[0], rtol=1e-6)
