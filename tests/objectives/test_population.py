"""On the whole population, each objective is minimal at the truth, without chance.

Quadrature nodes or enumerated states are the data, their probabilities the weights.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest
from helpers import minimize

import numpyro_ebm as ebm
from numpyro_ebm.objectives._contrastive import Contrasted


def weighted(energy, nodes, log_weights):
    """Nodes as data, with weights of average one."""
    log_p = log_weights - jax.vmap(energy)(nodes)
    return nodes, len(nodes) * jax.nn.softmax(log_p)


def fit(objective, start, data, weights):
    trainable, state = objective.init(jr.key(0), start, data)

    def loss(trainable):
        return objective.loss(jr.key(1), trainable, state, data, weights)[0]

    return objective.finalize(minimize(loss, trainable), state)


class Quartic(ebm.AbstractEnergy):
    r"""$a x^4 - b x^2 + c x$."""

    coefficients: jax.Array
    event_shape: tuple[int, ...] = eqx.field(static=True, default=(1,))

    def __call__(self, x):
        a, b, c = self.coefficients
        return jnp.sum(a * x**4 - b * x**2 + c * x)


TRUTH = (1.0, 2.0, 0.3)
BOX = ebm.Quadrature([-4.0], [4.0], 801)


@pytest.mark.parametrize(
    "objective",
    [
        ebm.ScoreMatching(),
        ebm.SlicedScoreMatching(),  # One coordinate has only one slice.
        ebm.objectives.PlainSlicedScoreMatching(),
        ebm.MaximumLikelihood(BOX),
        ebm.objectives.ExplicitScoreMatching(lambda x: -4 * x**3 + 4 * x - 0.3),
        ebm.objectives.GeneralizedScoreMatching(lambda x: 1 + x**2),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_two_unequal_wells(objective, x64):
    data, weights = weighted(Quartic(jnp.array(TRUTH)), *BOX.nodes())
    fitted = fit(objective, Quartic(jnp.array([0.5, 1.0, 0.0])), data, weights)
    energy = fitted.energy if isinstance(fitted, ebm.Normalized) else fitted
    np.testing.assert_allclose(energy.coefficients, TRUTH, atol=1e-5)
    if isinstance(fitted, ebm.Normalized):
        np.testing.assert_allclose(
            fitted.log_z, BOX.log_z(Quartic(jnp.array(TRUTH))), atol=1e-5
        )


def ising(coupling, field=0.2):
    return ebm.IsingModel((3, 3), coupling, field, periodic=False)


DISCRETE = [
    ebm.PseudoLikelihood(),
    ebm.objectives.RatioMatching(),
    ebm.MaximumLikelihood(ebm.Enumeration()),
]


@pytest.mark.parametrize("objective", DISCRETE, ids=lambda objective: type(objective).__name__)
@pytest.mark.parametrize("coupling", [0.4, -0.3])
def test_ising(objective, coupling, x64):
    states = ebm.Enumeration().states(ising(0.0))
    data, weights = weighted(ising(coupling), states, jnp.zeros(len(states)))
    fitted = fit(objective, ising(0.0, 0.0), data, weights)
    energy = fitted.energy if isinstance(fitted, ebm.Normalized) else fitted
    np.testing.assert_allclose([energy.coupling, energy.field], [coupling, 0.2], atol=1e-6)


@pytest.mark.parametrize("objective", DISCRETE, ids=lambda objective: type(objective).__name__)
def test_three_labels(objective, x64):
    truth = ebm.energies.PottsModel((4,), 3, 0.5, [0.2, -0.3, 0.1], periodic=False)
    states = ebm.Enumeration().states(truth)
    data, weights = weighted(truth, states, jnp.zeros(len(states)))
    start = ebm.energies.PottsModel((4,), 3, 0.0, np.zeros(3), periodic=False)
    fitted = fit(objective, start, data, weights)
    energy = fitted.energy if isinstance(fitted, ebm.Normalized) else fitted
    # A field that is the same for all labels cancels.
    field = energy.field - energy.field.mean()
    np.testing.assert_allclose([energy.coupling, *field], [0.5, 0.2, -0.3, 0.1], atol=1e-6)


@pytest.mark.parametrize("objective", DISCRETE, ids=lambda objective: type(objective).__name__)
def test_a_boltzmann_machine_by_its_marginal_energy(objective, x64):
    """Its hidden units are summed out; from near the truth it comes back to it."""
    rng = np.random.default_rng(0)
    truth = ebm.BernoulliRBM(rng.normal(size=(4, 1)), rng.normal(size=4), [0.3])
    states = ebm.Enumeration().states(truth)
    data, weights = weighted(truth, states, jnp.zeros(len(states)))
    start = jax.tree.map(lambda x: x + 0.05 * jnp.ones_like(x), truth)
    fitted = fit(objective, start, data, weights)
    energy = fitted.energy if isinstance(fitted, ebm.Normalized) else fitted
    log_p = jax.nn.log_softmax(-jax.vmap(energy)(states))
    expected = jax.nn.log_softmax(-jax.vmap(truth)(states))
    np.testing.assert_allclose(log_p, expected, atol=1e-4)


GRID = ebm.Quadrature([-12.0], [12.0], 1201)


def contrast(objective, noise, logits=None, noise_logits=None):
    """Precision and `-log Z` learned from N(0, 1) against `noise`, both on a grid."""
    nodes, log_weights = GRID.nodes()
    _, of_data = weighted(lambda x: 0.5 * jnp.sum(x**2), nodes, log_weights)
    of_noise = len(nodes) * jax.nn.softmax(log_weights + noise.log_prob(nodes))
    start = Contrasted(
        ebm.Gaussian(jnp.zeros(1), precision_matrix=2 * jnp.eye(1)), jnp.zeros(())
    )
    frozen = eqx.tree_at(lambda c: c.energy.loc, start, replace_fn=ebm.freeze)
    logits = objective.logits if logits is None else logits
    noise_logits = logits if noise_logits is None else noise_logits

    def loss(contrasted):
        full = ebm.unfreeze(contrasted)
        of_losses = of_data * jax.nn.softplus(-logits(full, noise, nodes))
        lies = jax.nn.softplus(noise_logits(full, noise, nodes))
        return jnp.mean(of_losses + objective.num_noise * of_noise * lies)

    fitted = minimize(loss, frozen)
    return float(fitted.energy.precision_matrix[0, 0]), -float(fitted.log_z)


WIDE = dist.Normal(0.0, 2.0).expand([1]).to_event(1)


@pytest.mark.parametrize("num_noise", [1, 5])
def test_noise_contrastive_estimation(num_noise, x64):
    found = contrast(ebm.NoiseContrastiveEstimation(WIDE, num_noise), WIDE)
    np.testing.assert_allclose(found, [1.0, -0.5 * np.log(2 * np.pi)], atol=1e-6)


@pytest.mark.slow
def test_its_loss_is_that_of_its_logits(x64):
    objective = ebm.NoiseContrastiveEstimation(WIDE, 3)
    energy = ebm.Gaussian(jnp.zeros(1), jnp.eye(1))
    data = jr.normal(jr.key(0), (50, 1))
    trainable, state = objective.init(jr.key(1), energy, data)
    loss, (_, metrics) = objective.loss(jr.key(2), trainable, state, data, None)
    noise = WIDE.sample(jr.key(2), (150,)).reshape(3, 50, 1)
    log_ratio = WIDE.log_prob(noise) + jax.vmap(jax.vmap(energy))(noise) + trainable.log_z
    of_noise = jnp.log1p(jnp.exp(-log_ratio - jnp.log(3)))
    log_ratio = WIDE.log_prob(data) + jax.vmap(energy)(data) + trainable.log_z
    of_data = jnp.log1p(jnp.exp(log_ratio + jnp.log(3)))
    np.testing.assert_allclose(loss, jnp.mean(of_data) + jnp.sum(of_noise) / 50, rtol=1e-10)
    assert 0.5 < metrics["accuracy"] < 1


def test_what_a_tutorial_forgets_is_seen(x64):
    r"""Without $\log p_n$ the precision is 0.75; with the sign of $\log\nu$ flipped, 1.153."""

    def without_noise(contrasted, noise, nodes):
        return -jax.vmap(contrasted.energy)(nodes) - contrasted.log_z

    one = ebm.NoiseContrastiveEstimation(WIDE, 1)
    found = contrast(one, WIDE, without_noise)
    np.testing.assert_allclose(found, [0.75, np.log(2)], atol=1e-3)
    five = ebm.NoiseContrastiveEstimation(WIDE, 5)

    def flipped(contrasted, noise, nodes):
        return five.logits(contrasted, noise, nodes) + 2 * jnp.log(5)

    found = contrast(five, WIDE, noise_logits=flipped)
    np.testing.assert_allclose(found, [1.153, -3.72], atol=5e-3)
