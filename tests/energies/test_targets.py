import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from helpers import COVARIANCE, MEAN, assert_moments, quadrature
from scipy import integrate, special

import numpyro_ebm as ebm


@pytest.mark.parametrize(("a", "b"), [(1.0, 2.0), (0.3, 4.0), (2.0, 0.5), (0.1, 6.0)])
def test_double_well_by_its_bessel_functions(a, b, x64):
    u = b**2 / (8 * a)
    log_z = np.log(
        0.5 * np.pi * np.sqrt(b / (2 * a)) * (special.iv(-0.25, u) + special.iv(0.25, u))
    )
    energy = ebm.energies.DoubleWell(a, b, dim=3)
    np.testing.assert_allclose(energy.log_z, 3 * (log_z + u), atol=1e-10)
    # The variance is the derivative of log Z in b, here by closed form of neither.
    step = 1e-5
    up, down = (ebm.energies.DoubleWell(a, b + h).log_z for h in (step, -step))
    np.testing.assert_allclose(energy.variance, (up - down) / (2 * step), rtol=1e-7)


def test_double_well_with_one_well(x64):
    log_z, mean, variance = quadrature(ebm.energies.DoubleWell(1.0, -1.0), 6, 2001)
    energy = ebm.energies.DoubleWell(1.0, -1.0)
    np.testing.assert_allclose(energy.log_z, log_z, atol=1e-12)
    np.testing.assert_allclose(energy.variance, variance, atol=1e-12)
    np.testing.assert_allclose(energy.mean, mean, atol=1e-12)


@pytest.mark.parametrize(("radius", "width"), [(2.0, 0.5), (1.0, 2.0), (5.0, 0.1)])
def test_ring_by_radial_quadrature(radius, width, x64):
    energy = ebm.energies.Ring(radius, width)

    def moment(k):
        def shell(r):
            return 2 * np.pi * r ** (k + 1) * np.exp(-0.5 * ((r - radius) / width) ** 2)

        return integrate.quad(shell, 0, radius + 14 * width, points=[radius], epsabs=1e-13)[0]

    np.testing.assert_allclose(energy.log_z, np.log(moment(0)), atol=1e-9)
    np.testing.assert_allclose(energy.variance, moment(2) / moment(0) / 2, rtol=1e-9)


def test_ring_is_smooth_at_its_centre():
    assert jnp.isfinite(ebm.score(ebm.energies.Ring(), jnp.zeros(2))).all()


def test_banana_by_quadrature(x64):
    energy = ebm.energies.Banana(1.0, 0.5, 0.5)
    log_z, mean, variance = quadrature(energy, 24, 1201)
    np.testing.assert_allclose(energy.log_z, log_z, atol=1e-8)
    np.testing.assert_allclose(energy.mean, mean, atol=1e-8)
    np.testing.assert_allclose(energy.variance, variance, atol=1e-8)


def test_funnel_is_its_hierarchy(x64):
    energy, point = ebm.energies.Funnel(3.0, dim=4), jnp.array([1.5, 0.3, -2.0, 0.7])
    v, x = dist.Normal(0, 3.0), dist.Normal(0, jnp.exp(0.5 * 1.5)).expand([3]).to_event(1)
    truth = v.log_prob(point[0]) + x.log_prob(point[1:])
    np.testing.assert_allclose(-energy(point) - energy.log_z, truth, rtol=1e-12)
    assert jnp.isfinite(energy(jnp.array([-3000.0, 0.0, 0.0, 0.0])))


def test_student_t_is_numpyros(x64):
    root = np.linalg.cholesky(COVARIANCE)
    energy, point = ebm.energies.StudentT(5.0, MEAN, root), jnp.array([0.3, 1.2])
    truth = dist.MultivariateStudentT(5.0, MEAN, root)
    np.testing.assert_allclose(-energy(point) - energy.log_z, truth.log_prob(point), rtol=1e-12)
    np.testing.assert_allclose(energy.variance, truth.variance, rtol=1e-12)
    assert jnp.isinf(ebm.energies.StudentT(2.0, MEAN).variance).all()
    assert jnp.isnan(ebm.energies.StudentT(1.0, MEAN).mean).all()


def test_student_t_by_quadrature(x64):
    # x = sinh t turns its power tail into an exponential one.
    t = jnp.linspace(-60, 60, 4001)
    energy = ebm.energies.StudentT(1.5, [0.5], [[2.0]])
    log_density = -jax.vmap(energy)(jnp.sinh(t)[:, None]) + jnp.log(jnp.cosh(t))
    log_z = jax.nn.logsumexp(log_density) + jnp.log(t[1] - t[0])
    np.testing.assert_allclose(energy.log_z, log_z, atol=1e-8)


SAMPLED = {
    "Ring": lambda: ebm.energies.Ring(),
    "wide Ring": lambda: ebm.energies.Ring(0.5, 2.0),
    "Banana": lambda: ebm.energies.Banana(),
    "Funnel": lambda: ebm.energies.Funnel(1.0, dim=3),
    "StudentT": lambda: ebm.energies.StudentT(9.0, MEAN, np.linalg.cholesky(COVARIANCE)),
}


@pytest.mark.parametrize("make", SAMPLED.values(), ids=SAMPLED)
def test_exact_samples_have_the_moments(make):
    energy = make()
    draws = energy.sample(jax.random.key(0), (400, 200))
    assert draws.shape == (400, 200, *energy.event_shape)
    assert_moments(draws, energy.mean, energy.variance)
    assert energy.sample(jax.random.key(0)).shape == energy.event_shape


def test_a_ring_without_its_rejection_would_be_seen():
    radius_key, angle_key = jax.random.split(jax.random.key(0))
    radius = 2 + 0.5 * jax.random.normal(radius_key, (400, 200))
    angle = jax.random.uniform(angle_key, (400, 200), maxval=2 * jnp.pi)
    mutant = radius[..., None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
    with pytest.raises(AssertionError, match="variance: z"):
        assert_moments(mutant, ebm.energies.Ring().mean, ebm.energies.Ring().variance)


def test_parameters_train_and_do_not_recompile():
    gradient = jax.grad(lambda a: ebm.energies.DoubleWell(a).log_z)(1.0)
    np.testing.assert_allclose(gradient, -1.1, atol=0.5)
    log_zs = jax.vmap(lambda r: ebm.energies.Ring(r).log_z)(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(log_zs[1], ebm.energies.Ring().log_z, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ebm.energies.DoubleWell(a=-1.0), "`a` must be positive, got -1"),
        (lambda: ebm.energies.Ring(width=0.0), "`width` must be positive"),
        (lambda: ebm.energies.Banana(c=-1.0), "`c` must be positive"),
        (lambda: ebm.energies.Funnel(dim=1), "`dim` must be at least 2, got 1"),
        (lambda: ebm.energies.StudentT(0.0, MEAN), "`df` must be positive"),
        (lambda: ebm.energies.StudentT(1.0, 0.0), "`loc` must be a vector"),
        (
            lambda: ebm.energies.StudentT(1.0, MEAN, np.eye(3)),
            r"must have shape \(2, 2\), got \(3, 3\)",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
