import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import COVARIANCE, MEAN, assert_uniform
from scipy.stats import ks_2samp

import numpyro_ebm as ebm

NORMAL = ebm.Gaussian(np.zeros(2), np.eye(2))
OTHER = ebm.Gaussian(MEAN, COVARIANCE)


def nodes():
    """Points and weights that are exact for quadratic functions of N(0, I)."""
    points, weights = np.polynomial.hermite_e.hermegauss(3)
    grid = np.stack(np.meshgrid(points, points), -1).reshape(-1, 2)
    return grid, np.outer(weights, weights).ravel()


def test_fisher_divergence_in_closed_form(x64):
    """Half of |P mu|^2 + tr (P - I)^2 between N(0, I) and N(mu, P^-1)."""
    points, weights = nodes()
    normal, other = ebm.Gaussian(np.zeros(2), np.eye(2)), ebm.Gaussian(MEAN, COVARIANCE)
    ours = ebm.diagnostics.fisher_divergence(normal, points, other, weights=weights)
    precision = np.linalg.inv(COVARIANCE)
    gap = precision - np.eye(2)
    truth = 0.5 * (np.sum((precision @ MEAN) ** 2) + np.trace(gap @ gap))
    np.testing.assert_allclose(ours, truth, rtol=1e-10)
    # The order matters: this is the divergence over draws of the first.
    assert (
        abs(
            ebm.diagnostics.fisher_divergence(OTHER, OTHER.sample(jr.key(0), (500,)), NORMAL)
            - truth
        )
        > 1
    )


def test_fisher_divergence_of_draws():
    draws = NORMAL.sample(jr.key(0), (4, 500))
    shifted = ebm.Gaussian([0.3, 0.4], np.eye(2))
    ours = ebm.diagnostics.fisher_divergence(NORMAL, draws, shifted)
    np.testing.assert_allclose(ours, 0.125, rtol=1e-5)
    assert (
        ebm.diagnostics.fisher_divergence(NORMAL, draws, lambda x: 0.5 * jnp.sum(x**2)) < 1e-10
    )


def test_fisher_divergence_compiles_and_differentiates():
    points, weights = nodes()

    @jax.jit
    def divergence(loc, points):
        return ebm.diagnostics.fisher_divergence(
            NORMAL, points, ebm.Gaussian(loc, jnp.eye(2)), weights=weights
        )

    slope = jax.grad(divergence)(jnp.array([0.3, 0.4]), points)
    np.testing.assert_allclose(slope, [0.3, 0.4], rtol=1e-5)


def test_energy_pit_is_a_rank():
    energy = ebm.as_energy(lambda x: x, ())
    pit = ebm.diagnostics.energy_pit(energy, [0.0, 2.0, 2.5, 9.0], [1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(pit.values, [0, 0.375, 0.5, 1])
    np.testing.assert_allclose(pit.statistic, 0.25)


def test_energy_pit_is_uniform_for_the_right_model():
    data, draws = OTHER.sample(jr.key(0), (200,)), OTHER.sample(jr.key(1), (4, 5000))
    pit = ebm.diagnostics.energy_pit(OTHER, data, draws)
    assert pit.ok
    assert_uniform(np.floor(np.asarray(pit.values) * 20), 19)
    assert repr(pit).startswith("no difference seen: ")


@pytest.mark.parametrize(
    ("change", "mean"),
    [
        (lambda x: x + 1.0, (0.6, 1.0)),
        (lambda x: MEAN + 1.5 * (x - MEAN), (0.6, 1.0)),
        (lambda x: MEAN + 0.7 * (x - MEAN), (0.0, 0.4)),
    ],
    ids=["shifted", "wide", "narrow"],
)
def test_energy_pit_of_other_data(change, mean):
    data, draws = OTHER.sample(jr.key(0), (200,)), OTHER.sample(jr.key(1), (5000,))
    pit = ebm.diagnostics.energy_pit(OTHER, change(data), draws)
    assert not pit.ok
    assert mean[0] < pit.values.mean() < mean[1]
    assert repr(pit).startswith("data and draws DIFFER in energy: ")
    with pytest.raises(AssertionError):
        assert_uniform(np.floor(np.asarray(pit.values) * 19.999), 19)


def test_energy_pit_has_the_p_value_of_two_samples():
    energy = ebm.as_energy(lambda x: x, ())
    for shift in (0.0, 0.1, 0.3):
        x, y = jr.normal(jr.key(0), (300,)), shift + jr.normal(jr.key(1), (200,))
        truth = ks_2samp(np.asarray(x), np.asarray(y))
        pit = ebm.diagnostics.energy_pit(energy, x, y)
        np.testing.assert_allclose(pit.statistic, truth.statistic, rtol=1e-6)
        np.testing.assert_allclose(pit.p_value, truth.pvalue, rtol=0.1, atol=0.01)


def test_energy_pit_of_few_levels_is_conservative():
    """Spins have few energies: ranks among ties alone would never be uniform."""
    spins = ebm.IsingModel((2,), 0.3, 0.2, periodic=False)
    data, draws = spins.sample(jr.key(0), (1000,)), spins.sample(jr.key(1), (1000,))
    assert ebm.diagnostics.energy_pit(spins, data, draws).ok


def test_energy_pit_level():
    data, draws = NORMAL.sample(jr.key(0), (2, 100, 150))
    p = [
        ebm.diagnostics.energy_pit(NORMAL, *both).p_value
        for both in zip(data, draws, strict=True)
    ]
    # More than 11 of 100 have probability 0.004.
    assert np.sum(np.array(p) <= 0.05) <= 11
    assert 0.3 < np.mean(np.array(p) <= 0.5) < 0.7


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_any_event_shape(x64, shape):
    points = jr.normal(jr.key(0), (2, 30, *shape))

    def energy(x):
        return 0.5 * jnp.sum(x**2)

    assert ebm.diagnostics.fisher_divergence(energy, points, energy, event_shape=shape) == 0
    assert ebm.diagnostics.energy_pit(energy, points[0], points, event_shape=shape).ok


SAMPLE = np.ones((5, 2))
BAD = {
    "fisher shape": (
        lambda: ebm.diagnostics.fisher_divergence(NORMAL, np.ones((5, 3)), NORMAL),
        "`draws` must be of shape",
    ),
    "fisher other": (
        lambda: ebm.diagnostics.fisher_divergence(NORMAL, SAMPLE, ebm.Gaussian([0.0], [[1.0]])),
        "`other_energy` lives on points of shape",
    ),
    "fisher weights": (
        lambda: ebm.diagnostics.fisher_divergence(NORMAL, SAMPLE, NORMAL, weights=np.ones(4)),
        "`weights` must hold one weight per draw",
    ),
    "pit data": (
        lambda: ebm.diagnostics.energy_pit(NORMAL, np.ones((5, 3)), SAMPLE),
        "`data` must be of shape",
    ),
    "pit draws": (
        lambda: ebm.diagnostics.energy_pit(NORMAL, SAMPLE, np.ones(2)),
        "`draws` must be of shape",
    ),
    "pit nan": (
        lambda: ebm.diagnostics.energy_pit(NORMAL, SAMPLE * np.nan, SAMPLE),
        "`data` must be finite",
    ),
    "pit energy": (
        lambda: ebm.diagnostics.energy_pit(
            lambda x: jnp.log(x[0] - 1.5), SAMPLE, SAMPLE + 1, event_shape=(2,)
        ),
        "energy is NaN at 5 of `data`",
    ),
    "pit one": (
        lambda: ebm.diagnostics.energy_pit(NORMAL, SAMPLE, np.ones((1, 2))),
        "`draws` must hold at least two",
    ),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
