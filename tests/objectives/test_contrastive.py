"""Noise-contrastive estimation against its asymptotics, and its warnings."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from helpers import COVARIANCE, MEAN

import numpyro_ebm as ebm
from numpyro_ebm.objectives._contrastive import Contrasted, classifier_log_z
from numpyro_ebm.objectives._noise import fitted_noise

LOG_Z = 0.5 * np.log(2 * np.pi)


class Precision(ebm.AbstractEnergy):
    r"""$\tfrac12 e^{\lambda} x^2$."""

    log_precision: jax.Array
    event_shape: tuple[int, ...] = eqx.field(static=True, default=(1,))

    def __call__(self, x):
        return 0.5 * jnp.exp(self.log_precision) * jnp.sum(x**2)


def newton(objective, noise, data, draws):
    """Log-precision and `-log Z` from N(0, 1) data and a fixed sample of noise."""

    def loss(params):
        contrasted = Contrasted(Precision(params[0]), -params[1])
        of_data = jax.nn.softplus(-objective.logits(contrasted, noise, data)).mean()
        of_noise = jax.nn.softplus(objective.logits(contrasted, noise, draws)).mean()
        return of_data + objective.num_noise * of_noise

    def step(_, params):
        return params - jnp.linalg.solve(jax.hessian(loss)(params), jax.grad(loss)(params))

    return jax.lax.fori_loop(0, 12, step, jnp.array([0.0, -LOG_Z]))


#: Draws of noise a datum, its standard deviation, and n times the asymptotic variance of the
#: log-precision and of the constant [Gutmann and Hyvärinen 2012, Theorem 3].
ASYMPTOTICS = [
    (1, 2.0, 2.995, 1.815),
    pytest.param(1, 1.0, 4.0, 1.0, marks=pytest.mark.slow),
    pytest.param(10, 1.0, 2.2, 0.55, marks=pytest.mark.slow),
    pytest.param(10, 2.0, 2.122, 0.645, marks=pytest.mark.slow),
]


@pytest.mark.slow
@pytest.mark.parametrize(("num_noise", "scale", "of_shape", "of_constant"), ASYMPTOTICS)
def test_asymptotic_variances(num_noise, scale, of_shape, of_constant, x64):
    replicates, size = 400, 1000
    noise = dist.Normal(0.0, scale).expand([1]).to_event(1)
    objective = ebm.NoiseContrastiveEstimation(noise, num_noise)

    @jax.jit
    @jax.vmap
    def replicate(key):
        data_key, noise_key = jr.split(key)
        data = jr.normal(data_key, (size, 1))
        return newton(objective, noise, data, noise.sample(noise_key, (size * num_noise,)))

    found = replicate(jr.split(jr.key(0), replicates))
    ratios = size * found.var(0) / np.array([of_shape, of_constant])
    print(f"variances over theory: {ratios}")
    # Of 400 replicates a variance is known to 7 %.
    assert ((ratios > 0.75) & (ratios < 1.33)).all()


def run(objective, energy, data, num_steps=1500, rate=0.05, **kwargs):
    optim = optax.adam(optax.cosine_decay_schedule(rate, num_steps))
    settings = {"progress_bar": False, **kwargs}
    return ebm.Estimator(objective, optim).run(jr.key(1), num_steps, energy, data, **settings)


@pytest.mark.slow
def test_a_gaussian_and_its_constant():
    data = ebm.Gaussian(MEAN, COVARIANCE).sample(jr.key(0), (5000,))
    start = ebm.Gaussian(np.zeros(2), np.eye(2))
    result = run(ebm.NoiseContrastiveEstimation(), start, data, batch_size=1000)
    fitted = result.energy
    assert isinstance(fitted, ebm.Normalized)
    np.testing.assert_allclose(fitted.energy.loc, data.mean(0), atol=0.05)
    sample = np.cov(np.asarray(data).T)
    np.testing.assert_allclose(fitted.energy.precision_matrix, np.linalg.inv(sample), rtol=0.1)
    assert 0 < fitted.std_error < 0.05
    assert abs(fitted.log_z - fitted.energy.log_z) < 4 * fitted.std_error
    assert set(result.metrics) == {"accuracy", "log_z"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*The noise is told")
@pytest.mark.parametrize("power", [None, 0.0, 0.5, -0.5])
def test_the_standard_error_covers(power):
    """Of 500 replicates of 500 data, 92 to 97.5 % of the 95 % intervals hold the truth.

    With weights $w = e^{0.25 x^2 p}$ that depend on the data, of what they weigh up to N(0, 1);
    their fourth moment is finite, or the error would not be known.
    """
    noise = dist.Normal(0.0, 1.5).expand([1]).to_event(1)
    objective = ebm.NoiseContrastiveEstimation(noise)
    optim = optax.adam(optax.cosine_decay_schedule(0.03, 600))
    estimator = ebm.Estimator(objective, optim)
    scale = 1 / np.sqrt(1 + 0.5 * (power or 0.0))
    z, exact = [], []
    for key in jr.split(jr.key(0), 500):
        data = scale * jr.normal(key, (500, 1))
        weights = None if power is None else jnp.exp(0.25 * power * data[:, 0] ** 2)
        start = Precision(jnp.zeros(()))
        result = estimator.run(key, 600, start, data, weights=weights, progress_bar=False)
        own = classifier_log_z(
            objective,
            key,
            result.state.trainable,
            noise,
            data,
            None if weights is None else weights / weights.mean(),
        )
        z.append((own.estimate - LOG_Z) / own.std_error)
        learned = result.energy
        truth = LOG_Z - 0.5 * learned.energy.log_precision
        exact.append((learned.log_z - truth) / learned.std_error)
    for name, values in (("classifier", z), ("importance", exact)):
        covered = np.mean(np.abs(values) < 1.96)
        print(f"{name}: coverage {covered:.3f}, z of standard deviation {np.std(values):.3f}")
        assert 0.92 <= covered <= 0.975, name


def mixture_data(size):
    """Three modes, which a small network bends around but does not reach."""
    rng = np.random.default_rng(3)
    return (rng.integers(3, size=(size, 1)) - 1) * 3.0 + 0.3 * rng.normal(size=(size, 1))


@pytest.mark.slow
@pytest.mark.parametrize("size", [200, 2000])
def test_log_z_is_that_of_the_learned_energy(size):
    """The classifier's constant was returned, and lies up to 16 stated errors off."""
    network = ebm.MLPEnergy(1, 16, key=jr.key(2))
    objective = ebm.NoiseContrastiveEstimation(num_noise=2)
    fitted = run(objective, network, mixture_data(size), 400, 1e-2).energy
    truth = ebm.Quadrature(-15.0, 15.0).log_z(ebm.unfreeze(fitted.energy))
    print(f"log Z {fitted.log_z:.4f} +- {fitted.std_error:.4f}, truth {truth:.4f}")
    assert abs(fitted.log_z - truth) < 4 * fitted.std_error < 0.1


@pytest.mark.slow
def test_log_z_of_networks_covers():
    """Of 200 fits of a small network, early stopping included; 7 of 17 had covered."""
    objective = ebm.NoiseContrastiveEstimation(num_noise=2)
    optim = optax.adam(optax.cosine_decay_schedule(1e-2, 300))
    estimator = ebm.Estimator(objective, optim)
    stopping = ebm.EarlyStopping(every=50, patience=2)
    judge = eqx.filter_jit(lambda e: ebm.Quadrature(-15.0, 15.0).log_z(ebm.unfreeze(e)))
    data, z, warned = mixture_data(300), [], 0
    for seed in range(200):
        network = ebm.MLPEnergy(1, 16, key=jr.key(seed))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fitted = estimator.run(
                jr.key(seed), 300, network, data, early_stopping=stopping, progress_bar=False
            ).energy
        warned += len(caught)
        z.append((fitted.log_z - judge(fitted.energy)) / fitted.std_error)
    covered = np.mean(np.abs(z) < 1.96)
    print(f"coverage {covered:.3f}, warned {warned}")
    assert covered >= 0.92


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*The noise is told")
def test_two_constants_that_disagree_are_reported():
    r"""$\tfrac12 e^\lambda x^2$ cannot be N(3, 0.25): 1.45 classifies best, log Z is 2.0."""
    data = 3 + 0.5 * np.random.default_rng(0).normal(size=(1000, 1))
    noise = dist.Normal(3.0, 2.0).expand([1]).to_event(1)
    objective = ebm.NoiseContrastiveEstimation(noise)
    with pytest.warns(
        UserWarning, match="misfits the data, has not settled, or has memorised them"
    ):
        result = run(objective, Precision(jnp.zeros(())), data, 400, 3e-2)
    log_z, truth = result.energy.log_z, LOG_Z - 0.5 * result.energy.energy.log_precision
    assert abs(log_z - truth) < 4 * result.energy.std_error < 0.5
    assert result.metrics["log_z"][-1] < truth - 0.3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scale", "message"), [(200.0, "little was learned"), (1.0, "learned little beyond it")]
)
def test_noise_that_teaches_nothing_is_reported(scale, message):
    noise = dist.Normal(0.0, scale).expand([1]).to_event(1)
    data = dist.Normal(0, 1).icdf((jnp.arange(500) + 0.5) / 500)[:, None]
    with pytest.warns(UserWarning, match=message):
        run(ebm.NoiseContrastiveEstimation(noise), Precision(jnp.zeros(())), data, 50)


@pytest.mark.slow
def test_the_default_noise_is_a_wider_gaussian(x64):
    rng = np.random.default_rng(0)
    data = rng.multivariate_normal(MEAN, COVARIANCE, 4000)
    _, noise = ebm.NoiseContrastiveEstimation().init(
        jr.key(0), ebm.Gaussian(MEAN, COVARIANCE), jnp.asarray(data)
    )
    draws = noise.sample(jr.key(1), (200_000,))
    widening = (1 + 0.5 / np.sqrt(2)) ** 2
    np.testing.assert_allclose(np.cov(draws.T), widening * np.cov(data.T), rtol=0.02)
    expected = dist.MultivariateNormal(data.mean(0), scale_tril=noise.scale_tril)
    np.testing.assert_allclose(noise.log_prob(draws[:5]), expected.log_prob(draws[:5]))


def test_noise_of_images_and_of_spins():
    images = np.random.default_rng(0).normal(size=(30, 4, 5))
    noise = fitted_noise(ebm.as_energy(lambda x: jnp.sum(x**2), (4, 5)), images)
    assert noise.sample(jr.key(0), (3, 2)).shape == (3, 2, 4, 5)
    assert np.isfinite(noise.log_prob(images)).all()
    spins = np.where(np.random.default_rng(1).random((500, 3)) < [0.2, 0.5, 1.0], 1.0, -1.0)
    noise = fitted_noise(ebm.IsingModel((3,), 0.1), spins)
    np.testing.assert_allclose(noise.probs[:, 1], np.clip((spins > 0).mean(0), 0.01, 0.99))
    states = ebm.Enumeration().states(ebm.IsingModel((3,), 0.1))
    np.testing.assert_allclose(jnp.exp(noise.log_prob(states)).sum(), 1.0, rtol=1e-5)


@pytest.mark.slow
def test_an_ising_model_and_its_constant():
    truth = ebm.IsingModel((3, 3), 0.3, 0.1, periodic=False)
    data = truth.sample(jr.key(0), (20_000,))
    start = ebm.IsingModel((3, 3), 0.0, 0.0, periodic=False)
    fitted = run(ebm.NoiseContrastiveEstimation(), start, data, 600, batch_size=2000).energy
    np.testing.assert_allclose(fitted.energy.coupling, 0.3, atol=0.03)
    assert abs(fitted.log_z - fitted.energy.log_z) < 5 * fitted.std_error


@pytest.mark.parametrize(
    ("noise", "error", "message"),
    [
        (dist.Normal(0.0, jnp.ones(2)), ValueError, r"`noise.to_event\(\)`|`to_event`"),
        (dist.Normal(0.0, 1.0), ValueError, r"one point of shape \(2,\)"),
        (np.ones(2), TypeError, "FlowJAX's distributions"),
    ],
)
def test_bad_noise(noise, error, message):
    objective = ebm.NoiseContrastiveEstimation(noise)
    with pytest.raises(error, match=message):
        objective.init(jr.key(0), ebm.Gaussian(MEAN, COVARIANCE), jnp.ones((3, 2)))
