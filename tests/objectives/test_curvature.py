"""Warnings about losses with second derivatives: kinks, collinear columns, no lower bound."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import numpyro_ebm as ebm
from numpyro_ebm.objectives._curvature import remark_on_losses

DATA = np.random.default_rng(0).normal(size=(200, 2))
CURVED = {
    "ScoreMatching": ebm.ScoreMatching(),
    "SlicedScoreMatching": ebm.SlicedScoreMatching(),
    "PlainSlicedScoreMatching": ebm.objectives.PlainSlicedScoreMatching(),
    "GeneralizedScoreMatching": ebm.objectives.GeneralizedScoreMatching(lambda x: x**2),
}
#: What has curvature to learn from, or none that it needs.
SMOOTH = {
    "silu": lambda: ebm.MLPEnergy(2, 8, key=jr.key(0)),
    "tanh": lambda: ebm.MLPEnergy(2, 8, activation=jnp.tanh, key=jr.key(0)),
    "bare": lambda: ebm.MLPEnergy(2, 8, reference=None, key=jr.key(0)),
    "Gaussian": lambda: ebm.Gaussian(np.zeros(2), np.eye(2)),
    "Gaussian mean": lambda: eqx.tree_at(
        lambda g: g.precision_matrix,
        ebm.Gaussian(np.zeros(2), np.eye(2)),
        replace_fn=ebm.freeze,
    ),
    "linear": lambda: ebm.Tilted(ebm.MLPEnergy(2, 1, 0, reference=None, key=jr.key(0)), NORMAL),
    "mixture": lambda: ebm.GaussianMixture([1.0, 1.0], DATA[:2], np.eye(2)),
}
NORMAL = dist.Normal(0, 2).expand([2]).to_event(1)
KINKED = {
    "relu": lambda: ebm.MLPEnergy(2, 8, activation=jax.nn.relu, key=jr.key(0)),
    "leaky": lambda: ebm.MLPEnergy(2, 8, activation=jax.nn.leaky_relu, key=jr.key(0)),
    "bare": lambda: ebm.MLPEnergy(2, 8, activation=jax.nn.relu, reference=None, key=jr.key(0)),
    "whitened": lambda: ebm.Transformed(
        ebm.MLPEnergy(2, 8, activation=jax.nn.relu, key=jr.key(0)),
        ebm.energies.Whiten.fit(DATA),
    ),
}


@pytest.mark.parametrize("objective", CURVED.values(), ids=CURVED)
@pytest.mark.parametrize("make", KINKED.values(), ids=KINKED)
def test_kinks_are_told_before_the_first_step(make, objective):
    assert "no second derivative" in objective.caution(make(), jnp.asarray(DATA))


@pytest.mark.parametrize("make", SMOOTH.values(), ids=SMOOTH)
def test_smooth_energies_are_not_suspected(make):
    assert ebm.ScoreMatching().caution(make(), jnp.asarray(DATA)) is None


def test_objectives_without_second_derivatives_take_kinks():
    for objective in (ebm.DenoisingScoreMatching(0.1), ebm.NoiseContrastiveEstimation()):
        assert objective.caution(KINKED["relu"](), jnp.asarray(DATA)) is None


def test_a_run_warns_of_kinks():
    estimator = ebm.Estimator(ebm.SlicedScoreMatching(), optax.adam(1e-3))
    with pytest.warns(UserWarning, match="`SlicedScoreMatching`: .* no second derivative"):
        estimator.run(jr.key(0), 1, KINKED["relu"](), DATA, progress_bar=False)


@pytest.mark.parametrize(("spread", "warns"), [(0.01, True), (0.1, False)])
def test_collinear_columns_are_told(spread, warns):
    data = np.column_stack([DATA, DATA.sum(1) + spread * np.roll(DATA[:, 0], 1)])
    said = ebm.ScoreMatching().caution(ebm.MLPEnergy(3, 8, key=jr.key(0)), jnp.asarray(data))
    assert (said is not None) == warns
    if said is not None:
        assert "Whiten" in said


@pytest.mark.parametrize(
    ("fall", "warns"),
    [
        (lambda t: -2e3 * t**2, True),  # Faster and faster.
        (lambda t: -2e3 * t, True),  # Without end.
        (lambda t: -2e3 * (1 - np.exp(-8 * t)), False),  # Deep, but it settles.
        (lambda t: -20.0 * t**2, False),  # Not deep: the run has just begun.
    ],
)
def test_a_loss_that_does_not_settle_is_told(fall, warns):
    noise = np.random.default_rng(0).normal(size=1000)
    losses = fall(np.linspace(0, 1, 1000)) - 1 + noise
    assert (remark_on_losses(losses) is not None) == warns
    assert remark_on_losses(losses[:100]) is None


def test_a_run_without_lower_bound_warns():
    """Few rows in many dimensions, even whitened: training and held-out losses part."""
    rows = np.random.default_rng(0).standard_t(3, size=(120, 20))
    network = ebm.MLPEnergy(20, 64, key=jr.key(0))
    estimator = ebm.Estimator(ebm.SlicedScoreMatching(), optax.adam(3e-3))
    with pytest.warns(UserWarning, match="The loss does not settle"):
        result = estimator.run(jr.key(1), 600, network, rows[:60], progress_bar=False)
    train, test = (float(estimator.evaluate(result.state, x)) for x in (rows[:60], rows[60:]))
    print(f"loss {train:.3g} on training rows, {test:.3g} on others")
    assert test > train + abs(train)


@pytest.mark.parametrize("scale", [1e3, 1e-3])
def test_inputs_of_another_scale_are_told_with_the_remedy(scale):
    estimator = ebm.Estimator(ebm.DenoisingScoreMatching(1.0), optax.adam(1e-3))
    network, data = ebm.MLPEnergy(2, 8, key=jr.key(0)), scale * DATA
    with pytest.warns(UserWarning, match="learns well from inputs of unit scale only"):
        estimator.run(jr.key(0), 1, network, data, progress_bar=False)


@pytest.mark.parametrize("name", ["Standardize", "Whiten"])
def test_the_remedies_of_scale_are_taken(name):
    estimator = ebm.Estimator(ebm.DenoisingScoreMatching(1.0), optax.adam(1e-3))
    data = 1e3 * DATA + 5e3
    transform = getattr(ebm.energies, name).fit(data)
    network = ebm.Transformed(ebm.MLPEnergy(2, 8, key=jr.key(0)), transform)
    estimator.run(jr.key(0), 1, network, data, progress_bar=False)
