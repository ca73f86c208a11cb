"""Point patterns, against the closed form of two points and importance sampling of more."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_means

import numpyro_ebm as ebm
from numpyro_ebm.energies import StraussProcess

#: The probability that two uniform points of the unit square are closer than 0.3.
CLOSE = np.pi * 0.3**2 - 8 * 0.3**3 / 3 + 0.3**4 / 2


def num_close(x, radius=0.3):
    gaps = np.linalg.norm(x[:, None] - x, axis=-1)
    return (gaps < radius).sum() / 2 - len(x) / 2


def draw(energy, num_chains=400, num_samples=200):
    return ebm.sample(
        jr.key(0),
        energy,
        ebm.BlockGibbs(),
        num_chains=num_chains,
        num_warmup=50,
        num_samples=num_samples,
        progress_bar=False,
    )


def test_the_energy_counts_pairs(x64):
    x = np.asarray(jr.uniform(jr.key(0), (12, 2)))
    energy = StraussProcess(12, 0.3, 0.3)
    np.testing.assert_allclose(energy(x), -np.log(0.3) * num_close(x), rtol=1e-12)
    assert num_close(x) > 0


@pytest.mark.parametrize("gamma", [0.1, 3.0])
def test_two_points(gamma):
    """Sees an error of 0.6 % in the probability of being close."""
    draws = draw(StraussProcess(2, gamma, 0.3)).values
    close = np.linalg.norm(draws[..., 0, :] - draws[..., 1, :], axis=-1) < 0.3
    share = gamma * CLOSE / (1 + (gamma - 1) * CLOSE)
    assert_means(close[..., None], [share])
    with pytest.raises(AssertionError):
        assert_means(close[..., None], [CLOSE])


def test_log_z_of_two_points():
    found = ebm.log_partition(
        jr.key(1),
        StraussProcess(2, 0.1, 0.3),
        ebm.AnnealedImportanceSampling(kernel=ebm.RandomWalkMetropolis(step_size=1.0)),
    )
    truth = np.log(1 - 0.9 * CLOSE)
    assert abs(found.estimate - truth) < 4 * found.std_error + 1e-3


@pytest.mark.slow
def test_five_points_in_a_box():
    """Pairs of five points in another box, by importance sampling from uniform points."""
    energy = StraussProcess(5, 0.4, 0.6, (-1.0, 0.0), (1.0, 1.0))
    draws = draw(energy)
    values = np.asarray(draws.values)
    assert (values >= [-1, 0]).all()
    assert (values <= [1, 1]).all()
    uniform = energy.reference.sample(jr.key(2), (400_000,))
    close = np.asarray(jax.vmap(energy.num_close)(uniform))
    weights = 0.4**close
    truth = weights @ close / weights.sum()
    found = np.asarray(jax.vmap(jax.vmap(energy.num_close))(jnp.asarray(values)))[..., None]
    assert_means(found, [truth])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StraussProcess(3, 0.0, 0.1), "`gamma` must be positive"),
        (lambda: StraussProcess(3, 0.5, -0.1), "`radius` must be positive"),
        (lambda: StraussProcess(0, 0.5, 0.1), "`num_points` must be positive"),
        (lambda: StraussProcess(3, 0.5, 0.1, (0.0,), (0.0,)), "`low` must lie below `high`"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
