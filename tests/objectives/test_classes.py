"""Labels: softmax regression, and a classifier that is an energy of its inputs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.infer import MCMC
from sklearn.svm import SVC

import numpyro_ebm as ebm
from numpyro_ebm.energies import ClassEnergy
from numpyro_ebm.objectives import ForwardKL, JointLikelihood

X = jr.normal(jr.key(0), (300, 4))
Y = jr.categorical(jr.key(1), 2 * X @ jr.normal(jr.key(2), (4, 3))).astype(float)
LINEAR = eqx.nn.Linear(4, 3, key=jr.key(3))
NORMAL = dist.Normal(0, 2).expand([4]).to_event(1)


class Softmax(eqx.Module):
    network: eqx.nn.Linear

    def __call__(self, y, x):
        return -self.network(x)[y.astype(int)]


CONDITIONAL = ebm.ConditionalEnergy(Softmax(LINEAR), (), levels=range(3))


def fit(objective, energy, data, num_steps):
    estimator = ebm.Estimator(objective, optax.adam(1e-2))
    return estimator.run(jr.key(4), num_steps, energy, data, progress_bar=False)


def by_optax(network, num_steps):
    optim = optax.adam(1e-2)

    def loss(network):
        logits = jax.vmap(network)(X)
        return optax.softmax_cross_entropy_with_integer_labels(logits, Y.astype(int)).mean()

    def step(carry, _):
        network, state = carry
        value, grads = jax.value_and_grad(loss)(network)
        updates, state = optim.update(grads, state)
        return (optax.apply_updates(network, updates), state), value

    start = network, optim.init(network)
    (network, _), losses = jax.lax.scan(step, start, length=num_steps)
    return network, losses


@pytest.mark.parametrize(
    ("objective", "energy"),
    [
        (ForwardKL(), ClassEnergy(LINEAR, 3, (4,))),
        (ebm.MaximumLikelihood(ebm.Enumeration()), CONDITIONAL),
        (ebm.MaximumLikelihood(ebm.Enumeration()), ClassEnergy(LINEAR, 3, (4,))),
        # Given its condition, one label is all of the point.
        (ebm.PseudoLikelihood(), CONDITIONAL),
    ],
    ids=["ForwardKL", "Enumeration", "of classes", "PseudoLikelihood"],
)
def test_exact_maximum_likelihood_of_labels_is_softmax_regression(objective, energy):
    result = fit(objective, energy, (Y, X), 100)
    network, losses = by_optax(LINEAR, 100)
    np.testing.assert_allclose(result.losses, losses, atol=1e-6)
    assert losses[-1] < losses[0] - 0.3
    found = jax.tree.leaves(eqx.filter(result.energy, eqx.is_inexact_array))
    for expected in (network.weight, network.bias):
        assert any(
            x.shape == expected.shape and np.allclose(x, expected, atol=1e-5) for x in found
        )


def test_probabilities_and_scores():
    energy = ClassEnergy(LINEAR, 3, (4,))
    log_probs = jax.nn.log_softmax(jax.vmap(LINEAR)(X))
    np.testing.assert_allclose(jax.vmap(energy.probs)(X), jnp.exp(log_probs), atol=1e-6)
    score = ebm.log_likelihood(energy, (Y, X))
    of_labels = jnp.take_along_axis(log_probs, Y.astype(int)[:, None], 1)[:, 0]
    np.testing.assert_allclose(score.values, of_labels, atol=1e-5)
    normalised = ebm.normalize(jr.key(0), CONDITIONAL, conditions=X)
    of_pairs = ebm.log_likelihood(normalised, (Y, X)).values
    np.testing.assert_allclose(of_pairs, of_labels, atol=1e-5)
    prediction = ebm.tasks.predict(jr.key(0), energy, X)
    np.testing.assert_allclose(prediction.weights, jnp.exp(log_probs), atol=1e-6)


def test_quantiles_and_draws_of_labels_are_labels():
    prediction = ebm.tasks.predict(jr.key(0), CONDITIONAL, X[:5])
    below = jnp.cumsum(prediction.weights, 1)
    for prob in (0.1, 0.5, 0.9):
        expected = (below < prob).sum(1)
        np.testing.assert_array_equal(prediction.quantile(prob), expected)
    draws = prediction.sample(jr.key(1), (4000,))
    shares = jnp.stack([(draws == y).mean(0) for y in range(3)], 1)
    np.testing.assert_allclose(shares, prediction.weights, atol=0.03)


def test_of_one_class_of_inputs():
    energy = ClassEnergy(LINEAR, 3, (4,), NORMAL)
    x = X[0]
    each = jnp.stack([energy.of_class(y)(x) for y in range(3)])
    np.testing.assert_allclose(-jax.nn.logsumexp(-each), energy.marginal(x), rtol=1e-6)
    np.testing.assert_allclose(jax.nn.softmax(-each), energy.probs(x), rtol=1e-5)
    assert energy.marginal.reference is not None
    assert not ebm.energies.is_discrete(energy.marginal)
    assert energy(jnp.array(3.0), x) == energy(jnp.array(0.5), x) == jnp.inf


class Bumps(eqx.Module):
    """Logits of two classes in the plane, none of which is a density by itself."""

    centres: jax.Array

    def __call__(self, x):
        return jnp.sin(self.centres @ x) + self.centres[:, 0]


BUMPS = ClassEnergy(
    Bumps(jnp.array([[1.0, 0.5], [-0.7, 0.4]])),
    2,
    (2,),
    dist.Normal(0, 1).expand([2]).to_event(1),
)
BOX = ebm.Quadrature([-6.0, -6.0], [6.0, 6.0], num_points=101)


def test_with_an_exact_marginal_it_is_the_likelihood_of_pairs(x64):
    energy = jax.tree.map(lambda x: jnp.asarray(x, float) if eqx.is_array(x) else x, BUMPS)
    x = jr.normal(jr.key(0), (50, 2))
    y = jr.bernoulli(jr.key(1), shape=(50,)).astype(float)
    batch = ebm.objectives.Batch(y, x)
    objective = JointLikelihood(ebm.MaximumLikelihood(BOX))
    trainable, state = objective.init(jr.key(2), energy, batch)

    def loss(trainable):
        return objective.loss(jr.key(3), trainable, state, batch, None)[0]

    def of_pairs(energy):
        nodes, log_weights = BOX.nodes()
        each = jnp.stack([-jax.vmap(energy.of_class(k))(nodes) + log_weights for k in range(2)])
        log_z = jax.nn.logsumexp(each)
        joint = jax.vmap(lambda y, x: energy.of_class(y)(x))(y, x)
        return joint.mean() + log_z

    np.testing.assert_allclose(loss(trainable), of_pairs(energy), rtol=1e-10)
    found = eqx.filter_grad(loss)(trainable)
    expected = eqx.filter_grad(of_pairs)(energy).logits.network.centres
    found = [x for x in jax.tree.leaves(found) if x.shape == expected.shape]
    assert any(np.allclose(x, expected, atol=1e-9) for x in found)


@pytest.mark.parametrize(
    "of_inputs",
    [
        ebm.ContrastiveDivergence(),
        ebm.DenoisingScoreMatching(0.1),
        ebm.NoiseContrastiveEstimation(),
        ebm.ScoreMatching(),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_any_objective_of_the_inputs(of_inputs):
    energy = ClassEnergy(eqx.nn.MLP(4, 3, 16, 1, key=jr.key(5)), 3, (4,), NORMAL)
    result = fit(JointLikelihood(of_inputs, 0.1), energy, (Y, X), 60)
    assert isinstance(result.energy, ClassEnergy)
    assert result.metrics["cross_entropy"][-1] < result.metrics["cross_entropy"][0] - 0.2
    assert result.metrics["accuracy"][-1] > 0.6
    assert jnp.isfinite(result.losses).all()


def test_an_inferred_classifier_is_numpyros():
    """The posterior of the weights, with labels as sites, is that of `Categorical`."""

    def weights():
        return numpyro.sample("w", dist.Normal(0, 3).expand([3, 4]).to_event(2))

    def sites():
        w = weights()
        energies = eqx.filter_vmap(lambda x: ClassEnergy(_Times(w), 3, (4,)).given(x))(X[:20])
        numpyro.sample("y", ebm.EnergyDistribution(energies, batch_shape=(20,)), obs=Y[:20])

    def numpyros():
        numpyro.sample(
            "y", dist.Categorical(logits=X[:20] @ weights().T), obs=Y[:20].astype(int)
        )

    w = jr.normal(jr.key(0), (3, 4))
    found, expected = (
        numpyro.infer.util.log_density(model, (), {}, {"w": w})[0]
        for model in (sites, numpyros)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    mcmc = MCMC(ebm.NUTS(sites), num_warmup=10, num_samples=10, progress_bar=False)
    mcmc.run(jr.key(1))
    assert jnp.isfinite(mcmc.get_samples()["w"]).all()


class _Times(eqx.Module):
    w: jax.Array

    def __call__(self, x):
        return self.w @ x


@pytest.mark.slow
def test_one_network_classifies_digits_and_draws_them():
    """Accuracy, calibration, and draws of a class as a classifier of its own sees them."""
    train, test = ebm.datasets.digits()
    labels, test_labels = ebm.datasets.digit_labels()
    noise = 0.3
    reference = ebm.Gaussian(train.mean(0), np.cov(train.T) + noise**2 * np.eye(64))
    network = eqx.nn.MLP(64, 10, 256, 2, jax.nn.silu, key=jr.key(1))
    start = ClassEnergy(network, 10, (64,), reference)

    def fitted(objective, num_steps):
        optim = optax.adamw(optax.cosine_decay_schedule(2e-3, num_steps), weight_decay=0.1)
        estimator = ebm.Estimator(objective, optim, ema_decay=0.999)
        data, settings = (labels, train), {"batch_size": 256, "progress_bar": False}
        return estimator.run(jr.key(2), num_steps, start, data, **settings).energy

    def judged(energy):
        probs = jax.vmap(energy.probs)(test)
        accuracy = (probs.argmax(1) == test_labels).mean()
        return accuracy, ebm.diagnostics.expected_calibration_error(probs, test_labels)

    joint = fitted(JointLikelihood(ebm.DenoisingScoreMatching(noise)), 3000)
    accuracy, error = judged(joint)
    print(f"softmax {judged(fitted(ForwardKL(), 2000))}, joint {accuracy, error}")
    assert accuracy >= 0.97
    assert error <= 0.02
    judge = SVC(C=10, gamma=0.32).fit(train, labels)
    for num_warmup, least in ((300, 0.9), (3000, 0.85)):
        hits = []
        for y in range(0, 10, 3):
            of_class = joint.of_class(y)
            sizes = {"num_chains": 50, "num_warmup": num_warmup, "num_samples": 1}
            draws = ebm.sample(jr.key(y), of_class, ebm.MALA(), progress_bar=False, **sizes)
            clean = ebm.tasks.tweedie(of_class, draws.values[:, -1], noise).mean
            hits.append((judge.predict(clean) == y).mean())
        print(f"recognised after {num_warmup} steps: {hits}")
        assert np.mean(hits) >= least


def test_calibration():
    error = ebm.diagnostics.expected_calibration_error
    probs = jnp.stack([jnp.full(1000, 0.7), jnp.full(1000, 0.3)], 1)
    labels = jnp.arange(1000) % 10 >= 7
    np.testing.assert_allclose(error(probs, labels), 0, atol=1e-5)
    np.testing.assert_allclose(error(probs, ~labels), 0.4, atol=1e-5)
    p = jr.uniform(jr.key(0), (100_000,))
    y = jr.bernoulli(jr.key(1), p)
    assert error(jnp.stack([1 - p, p], 1), y) < 0.01
    with pytest.raises(ValueError, match="sum to one"):
        error(2 * probs, labels)
    with pytest.raises(ValueError, match="shape"):
        error(probs, labels[1:])


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda: ClassEnergy(LINEAR, 4, (4,)), ValueError, "`num_classes` logits"),
        (lambda: ClassEnergy(1.0, 4, (4,)), TypeError, "callable from one input"),
        (lambda: ClassEnergy(LINEAR, 3, (4,), dist.Normal(0, 1)), ValueError, "`reference`"),
        (
            lambda: fit(ForwardKL(), ClassEnergy(LINEAR, 3, (4,)), (Y + 1, X), 1),
            ValueError,
            "0, 1",
        ),
        (
            lambda: fit(JointLikelihood(ebm.ScoreMatching()), CONDITIONAL, (Y, X), 1),
            TypeError,
            "ClassEnergy",
        ),
        (
            lambda: fit(
                JointLikelihood(ebm.ContrastiveDivergence(start=ebm.FromNoise())),
                ClassEnergy(LINEAR, 3, (4,), NORMAL),
                (Y, X),
                1,
            ),
            ValueError,
            "generator",
        ),
        (
            lambda: ebm.normalize(jr.key(0), ClassEnergy(LINEAR, 3, (4,)), conditions=X),
            TypeError,
            "normalised at each condition",
        ),
        (lambda: JointLikelihood(3.0), TypeError, "must be an objective"),
        (lambda: fit(ebm.ScoreMatching(), CONDITIONAL, (Y, X), 1), ValueError, "integers"),
        (
            lambda: fit(ebm.ContrastiveDivergence(), CONDITIONAL, (Y, X), 1),
            TypeError,
            "real points",
        ),
        (
            lambda: ebm.ConditionalEnergy(Softmax(LINEAR), (), levels=[1]),
            ValueError,
            "`levels`",
        ),
    ],
)
def test_bad_input(run, error, message):
    with pytest.raises(error, match=message):
        run()
