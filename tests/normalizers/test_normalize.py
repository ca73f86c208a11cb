"""Normalised energies, and what they are good for."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from helpers import COVARIANCE, MEAN, network

import numpyro_ebm as ebm
from numpyro_ebm.normalizers._verbs import default_method


def tilted(dim):
    return ebm.Tilted(lambda x: jnp.sum(jnp.sin(x)), dist.Normal(0, 1).expand([dim]).to_event())


#: What an energy knows, and what is done about it.
CHOICES = {
    "its constant": (lambda: ebm.Gaussian(MEAN, COVARIANCE), "Analytic"),
    "an estimate": (lambda: ebm.Normalized(network(), 1.5, 0.1), "given"),
    "few spins": (lambda: 2 * ebm.IsingModel((3, 3), 0.2), "Enumeration"),
    "two dimensions": (lambda: tilted(2), "Quadrature"),
    "a scalar": (lambda: ebm.as_energy(lambda x: 0.5 * x**2, ()), "Quadrature"),
    "a reference": (lambda: tilted(5), "SequentialMonteCarlo"),
    "a network": (lambda: ebm.MLPEnergy((8, 8), key=jr.key(0)), "SequentialMonteCarlo"),
    "a positive support": (
        lambda: ebm.Tilted(lambda x: x, dist.Gamma(3.0)),
        "Quadrature",
    ),
    "many spins": (lambda: 2 * ebm.IsingModel((5, 5), 0.2), "SequentialMonteCarlo"),
    "a term that is a density": (
        lambda: (
            ebm.as_energy(lambda x: jnp.sum(jnp.cos(x)), (5,))
            + dist.Normal(0, 1).expand([5]).to_event(1)
        ),
        "SequentialMonteCarlo",
    ),
}


@pytest.mark.parametrize(("make", "name"), CHOICES.values(), ids=CHOICES)
def test_the_default_method(make, name):
    energy = make()
    method, energy = default_method(energy)
    if name == "given":
        assert method.estimate(jr.key(0), energy).method == "given"
    else:
        assert type(method).__name__ == name


@pytest.mark.slow
def test_quadrature_finds_its_box(x64):
    """Of densities far off, narrow or wide, and with a tail."""
    targets = {
        "far off": ebm.Gaussian(np.array([40.0, -25.0]), COVARIANCE),
        "narrow": ebm.Gaussian(MEAN, 1e-3 * COVARIANCE),
        "wide": ebm.Gaussian(MEAN, 1e4 * COVARIANCE),
        "banana": ebm.energies.Banana(),
        "Student": ebm.energies.StudentT(5.0, np.zeros(1)),
    }
    for name, energy in targets.items():
        log_z = ebm.log_partition(jr.key(0), energy, ebm.Quadrature.around(energy))
        assert abs(log_z.estimate - energy.log_z) < 1e-5, name
        assert abs(log_z.estimate - energy.log_z) < 10 * log_z.std_error + 1e-6, name


def test_log_partition_by_quadrature_is_differentiable(x64):
    box = ebm.Quadrature([-9.0], [9.0])

    def log_z(precision):
        def energy(x):
            return 0.5 * precision * x[0] ** 2

        return ebm.log_partition(jr.key(0), energy, box, event_shape=(1,)).estimate

    np.testing.assert_allclose(jax.grad(log_z)(2.0), -0.25, rtol=1e-6)


def test_a_normalised_energy_is_a_density():
    gaussian = ebm.Gaussian(MEAN, COVARIANCE)
    energy = ebm.as_energy(lambda x: gaussian(x) + 3.0, (2,))
    density = ebm.normalize(jr.key(0), energy)
    assert density.partition.method == "Quadrature"
    site = ebm.EnergyDistribution(density)
    truth = dist.MultivariateNormal(MEAN, COVARIANCE)
    x = np.array([0.3, -1.0])
    np.testing.assert_allclose(site.log_prob(x), truth.log_prob(x), atol=1e-4)


def test_mixtures_of_normalised_energies_have_true_proportions():
    wide = ebm.normalize(jr.key(0), lambda x: 0.5 * x**2, event_shape=())
    narrow = ebm.normalize(jr.key(0), lambda x: 50 * (x - 6) ** 2, event_shape=())
    mixture = ebm.Mixture([wide, narrow], [0.5, 0.5])
    x = jnp.linspace(-9, 9, 20_001)
    density = jnp.exp(-jax.vmap(mixture)(x))
    assert abs(jnp.trapezoid(density[x > 3], x[x > 3]) - 0.5) < 2e-3
    assert abs(ebm.log_partition(jr.key(0), mixture).estimate) < 1e-6


@pytest.mark.slow
def test_the_constant_and_its_error_are_saved(tmp_path):
    density = ebm.normalize(jr.key(0), tilted(5), ebm.SequentialMonteCarlo(num_particles=50))
    ebm.save(tmp_path / "energy.ebm", ebm.Normalized(network(), density.partition))
    loaded = ebm.load(
        tmp_path / "energy.ebm", like=ebm.Normalized(network(), density.partition)
    )
    assert repr(loaded.partition) == repr(density.partition)
    assert loaded.partition.interval() == density.partition.interval()


def test_an_interval_is_students():
    log_z = ebm.energies.LogZ(1.0, 0.1, df=7)
    low, high = log_z.interval()
    np.testing.assert_allclose((low, high), (1 - 0.23646, 1 + 0.23646), atol=1e-5)
    np.testing.assert_allclose(
        ebm.energies.LogZ(1.0, 0.1).interval(), (0.804, 1.196), atol=1e-3
    )
    with pytest.raises(ValueError, match="`prob`"):
        log_z.interval(1.5)


def test_what_it_prints():
    log_z = ebm.energies.LogZ(1.25, 0.1, lower=1.0, upper=1.5, ess=300, method="Some")
    assert repr(log_z) == "log Z = 1.25 +- 0.1, bounds 1 <= log Z <~ 1.5, ESS 300 (Some)"


# Trained energies, of which nobody knows the constant.


def fitted(energy, data, reference, num_steps):
    objective = ebm.NoiseContrastiveEstimation(reference)
    schedule = optax.cosine_decay_schedule(1e-3, num_steps)
    estimator = ebm.Estimator(objective, optax.adam(schedule))
    result = estimator.run(
        jr.key(0), num_steps, energy, data, batch_size=256, progress_bar=False
    )
    return result.energy


def assert_agree(estimates):
    """Each two within three of their pooled standard errors."""
    for name, a in estimates.items():
        print(name, a)
        assert a.ok, a
        for other, b in estimates.items():
            gap = abs(float(a.estimate - b.estimate))
            assert gap < 3 * np.hypot(float(a.std_error), float(b.std_error)) + 1e-4, (
                name,
                other,
                a,
                b,
            )


def assert_bounded(bounds, other):
    """Up to the errors of bounds, which are means of log weights, and of the estimate."""
    margin = 3 * np.hypot(float(bounds.std_error), float(other.std_error))
    print(f"gap between the bounds {float(bounds.upper - bounds.lower):.3f}")
    assert bounds.lower - margin < other.estimate < bounds.upper + margin


@pytest.mark.slow
def test_methods_agree_on_a_trained_network():
    data = ebm.datasets.two_moons(jr.key(1), 4096)
    reference = dist.Normal(jnp.array([0.5, 0.25]), 1.0).to_event(1)
    net = eqx.nn.MLP(2, "scalar", 64, 2, jax.nn.silu, key=jr.key(2))
    learned = fitted(ebm.Tilted(net, reference), data, reference, 2000)
    energy = learned.energy
    methods = {
        "quadrature": ebm.Quadrature.around(energy),
        "importance": ebm.ImportanceSampling(num_samples=50_000),
        "annealed": ebm.AnnealedImportanceSampling(),
        "sequential": ebm.SequentialMonteCarlo(),
        "thermodynamic": ebm.ThermodynamicIntegration(),
        "nested": ebm.NestedSampling(),
    }
    estimates = {name: ebm.log_partition(jr.key(3), energy, m) for name, m in methods.items()}
    # What noise contrast learned carries the error of an optimiser that stopped, too.
    assert abs(learned.log_z - estimates["quadrature"].estimate) < 0.03
    assert_bounded(estimates["annealed"], estimates["quadrature"])
    assert_agree(estimates)


@pytest.mark.slow
def test_methods_agree_on_trained_digits():
    """In 64 dimensions; the gap between the bounds is printed."""
    train, _ = ebm.datasets.digits()
    noisy = train + 0.2 * np.asarray(jr.normal(jr.key(1), train.shape))
    mu, covariance = noisy.mean(0), np.cov(noisy.T)
    reference = ebm.Gaussian(mu, 1.1 * covariance)
    net = eqx.nn.MLP(64, "scalar", 128, 2, jax.nn.silu, key=jr.key(2))
    noise = dist.MultivariateNormal(mu, covariance_matrix=1.1 * covariance)
    energy = fitted(ebm.Tilted(net, reference), noisy, noise, 2000).energy
    annealed = ebm.AnnealedImportanceSampling(num_temperatures=1000)
    estimates = {
        "annealed": ebm.log_partition(jr.key(3), energy, annealed),
        "sequential": ebm.log_partition(jr.key(4), energy),
        "thermodynamic": ebm.log_partition(jr.key(5), energy, ebm.ThermodynamicIntegration()),
    }
    assert_bounded(estimates["annealed"], estimates["sequential"])
    assert_agree(estimates)


FAR = {
    "a log-sum": lambda x, y: -jax.nn.logsumexp(jnp.stack([x, y])),
    "a sum that underflows in between": lambda x, y: -jnp.log(jnp.exp(x) + jnp.exp(y)),
}


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("combine", FAR.values(), ids=FAR)
def test_a_mode_far_from_the_first_grid_is_found(combine, dim):
    """Half of the mass lies at 30; without it, log Z would be less by log 2."""

    def energy(x):
        return combine(-0.5 * jnp.sum(x**2), -0.5 * jnp.sum((x - 30) ** 2))

    log_z = ebm.log_partition(jr.key(0), energy, event_shape=(dim,))
    truth = 0.5 * dim * np.log(2 * np.pi) + np.log(2)
    assert abs(log_z.estimate - truth) < 1e-4
    assert any("a search from" in check for check in log_z.checks)


MISSED = {
    "outside of the box": (1.0, ebm.Quadrature([-8.0], [8.0])),
    # Nodes at multiples of 1/8.
    "between the nodes": (0.01, ebm.Quadrature([-8.0], [40.0], 193)),
}


@pytest.mark.parametrize(("where", "width_and_box"), MISSED.items(), ids=MISSED)
def test_a_mode_that_quadrature_misses_is_named(where, width_and_box):
    """Both grids agree to seven digits on what is left."""
    width, box = width_and_box

    def energy(x):
        far = -0.5 * jnp.sum(((x - 30.0625) / width) ** 2) - jnp.log(width)
        return -jax.nn.logsumexp(jnp.stack([-0.5 * jnp.sum(x**2), far]))

    with pytest.warns(UserWarning, match=f"a search from 256 points.*{where}"):
        log_z = ebm.log_partition(jr.key(0), energy, box, event_shape=(1,))
    assert not log_z.ok
