import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from helpers import MEAN, network

import numpyro_ebm as ebm

PROPER = {
    "Gaussian": lambda: ebm.Gaussian(np.zeros(64), np.eye(64)),
    "off centre": lambda: ebm.Gaussian(np.full(2, 50.0), np.eye(2)),
    "nearly flat": lambda: ebm.Gaussian([0.0, 0.0], [[1.0, 0.0], [0.0, 400.0]]),
    "Cauchy": lambda: ebm.energies.StudentT(1.0, [0.0]),
    "heavy": lambda: ebm.energies.StudentT(0.5, np.zeros(3)),
    "DoubleWell": lambda: ebm.energies.DoubleWell(dim=3),
    "Banana": ebm.energies.Banana,
    "Funnel": ebm.energies.Funnel,
    "Ring": ebm.energies.Ring,
    "Laplace": lambda: ebm.as_energy(lambda x: jnp.sum(jnp.abs(x)), (3,)),
    "guided": lambda: ebm.Gaussian(MEAN, np.eye(2)) - 0.9 * ebm.Gaussian(MEAN, np.eye(2)),
    "product of Cauchys": lambda: ebm.as_energy(lambda x: jnp.sum(jnp.log1p(x**2)), (3,)),
    "product of Cauchys in 20": lambda: ebm.as_energy(
        lambda x: jnp.sum(jnp.log1p(x**2)), (20,)
    ),
    "far and wide": lambda: ebm.as_energy(dist.Normal(1e6, 1e5)),
    "Dirichlet": lambda: ebm.as_energy(dist.Dirichlet(jnp.array([0.5, 1.0, 4.0]))),
    "Gamma": lambda: ebm.as_energy(dist.Gamma(0.5, 2.0)),
    "pixels": lambda: ebm.Transformed(
        ebm.MLPEnergy(3, key=jax.random.key(0)), ebm.energies.Logit(17)
    ),
    "plain funnel": lambda: ebm.as_energy(
        lambda x: x[0] ** 2 / 18 + jnp.sum(0.5 * x[1:] ** 2 * jnp.exp(-x[0]) + 0.5 * x[0]), (4,)
    ),
    "narrowing flat": lambda: ebm.as_energy(
        lambda x: 0.5 * x[0] ** 2 * jnp.exp(jnp.sqrt(1 + x[1] ** 2)), (2,)
    ),
    "network": lambda: ebm.MLPEnergy(2, key=jax.random.key(0)),
    "image": lambda: ebm.ConvEnergy((8, 8), (4,), key=jax.random.key(0)),
}


def sines(seed):
    """Bounded, so that its normaliser is infinite; half of these passed."""
    net = eqx.nn.MLP(2, "scalar", 32, 2, jnp.sin, key=jax.random.key(seed))
    return ebm.as_energy(lambda x: 5 * net(x), (2,))


IMPROPER = {
    "flat": lambda: ebm.as_energy(lambda x: 0.5 * x[0] ** 2, (2,)),
    "tanh": lambda: ebm.as_energy(lambda x: jnp.tanh(network()(x)), (2,)),
    "linear": lambda: ebm.as_energy(lambda x: x @ jnp.array([1.0, -2.0]), (2,)),
    "negated": lambda: ebm.Gaussian(MEAN, np.eye(2)) - 1.1 * ebm.Gaussian(MEAN, np.eye(2)),
    "cancelled": lambda: ebm.Gaussian(MEAN, np.eye(2)) - ebm.Gaussian(MEAN, np.eye(2)),
    "1/r": lambda: ebm.as_energy(lambda x: jnp.log1p(jnp.abs(x[0])), (1,)),
    "flat on an interval's preimage": lambda: ebm.as_energy(lambda x: -x[0], (1,)),
    **{f"sine {seed}": (lambda seed=seed: sines(seed)) for seed in range(8)},
}


@pytest.mark.parametrize("make", PROPER.values(), ids=PROPER)
def test_proper(make):
    seen = ebm.normalizers.check_integrable(make())
    assert seen.ok, seen
    assert repr(seen).startswith("integrable in every direction seen")


@pytest.mark.parametrize("make", IMPROPER.values(), ids=IMPROPER)
def test_improper(make):
    seen = ebm.normalizers.check_integrable(make())
    assert not seen.ok, seen
    assert repr(seen).startswith("NOT integrable")


def test_a_limit_that_rounding_hides_is_no_pass():
    r"""$1/(1 + r^2)$ in the plane: the integral of $1/r$ diverges as a logarithm does."""
    seen = ebm.normalizers.check_integrable(lambda x: jnp.log1p(jnp.sum(x**2)), (2,))
    assert not seen.ok, seen


def test_an_energy_that_is_nan_far_out_cannot_be_told():
    seen = ebm.normalizers.check_integrable(lambda x: jnp.sqrt(9.0 - jnp.sum(x**2)), (2,))
    assert seen.ok is None
    assert "cannot tell whether it is integrable" in repr(seen)
    assert "is NaN" in repr(seen)


def test_the_way_out_is_found_and_named():
    """A single direction of 50, at an angle to all axes, along which the energy falls."""
    way = np.random.default_rng(1).normal(size=50)
    way /= np.linalg.norm(way)
    energy = ebm.Gaussian(np.zeros(50), np.eye(50)) - 1.05 * ebm.as_energy(
        lambda x: 0.5 * (x @ way) ** 2, (50,)
    )
    seen = ebm.normalizers.check_integrable(energy)
    assert not seen.ok
    assert abs(seen.direction @ way) > 0.999
    np.testing.assert_allclose(jnp.linalg.norm(seen.direction), 1, rtol=1e-5)
    eased = ebm.Gaussian(np.zeros(50), np.eye(50)) - 0.95 * ebm.as_energy(
        lambda x: 0.5 * (x @ way) ** 2, (50,)
    )
    assert ebm.normalizers.check_integrable(eased).ok


def test_chains_that_run_away_point_here():
    gaussian = ebm.Gaussian(MEAN, np.eye(2))
    site = ebm.EnergyDistribution(gaussian - 2 * gaussian, num_steps=200)
    with pytest.warns(
        UserWarning, match=r"ran away; `ebm.normalizers.check_integrable` calls the energy NOT"
    ):
        site.sample(jax.random.key(0), (3,))
    jax.jit(lambda key: site.sample(key))(jax.random.key(0))


def test_a_wide_proper_energy_raises_no_alarm():
    wide = ebm.energies.FunctionEnergy(ebm.Gaussian([2000.0, 0.0], 9 * np.eye(2)), (2,))
    draws = ebm.EnergyDistribution(wide, num_steps=1000).sample(jax.random.key(0), (3,))
    assert jnp.abs(draws[:, 0] - 2000).max() < 100


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ebm.normalizers.check_integrable(network()), "`event_shape` is needed"),
        (
            lambda: ebm.normalizers.check_integrable(network(), (2,), radius=-1.0),
            "`radius` must be positive",
        ),
        (lambda: ebm.normalizers.check_integrable(network(), (3,)), "cannot be evaluated"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
