"""Long chains on frozen energies."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import numpyro_ebm as ebm

KERNEL = ebm.MALA(step_size=0.3)
TARGET = ebm.Gaussian(np.zeros(2), np.eye(2))
MODES = ebm.GaussianMixture([0.5, 0.5], [[-4.0, 0.0], [4.0, 0.0]], [np.eye(2)] * 2)
RNG = np.random.default_rng(0)
DATA, NOISE = RNG.normal(size=(500, 2)), 3 * RNG.normal(size=(300, 2))


def probe(energy, starts, *, seed=1, num_steps=20, kernel=KERNEL, **kwargs):
    return ebm.drift_probe(
        jr.key(seed), energy, kernel, starts, num_steps=num_steps, progress_bar=False, **kwargs
    )


def test_chains_that_come_to_one_place():
    report = probe(TARGET, {"data": DATA, "noise": NOISE}, num_steps=50)
    assert report.ok, report
    assert repr(report).endswith("ok")
    table = report.table.sel(statistic="energy")
    assert list(table["length"]) == [50, 500, 5000]
    # At the end the mean energy is d/2 = 1, from every start.
    last = table.isel(length=-1)
    assert (np.abs(last["mean"] - 1) < 4 * last["std_error"]).all()
    assert table["mean"].shape == (2, 3)


@pytest.mark.slow
def test_false_alarms_are_rare():
    """Of 200 good probes at most eight; one in a hundred is meant, for each of two checks."""
    starts = {"data": DATA, "noise": NOISE}
    failed = [not probe(TARGET, starts, seed=s, num_steps=50).ok for s in range(200)]
    assert sum(failed) <= 8


def test_starts_in_different_modes_disagree_about_the_mode():
    starts = {"left": DATA - np.array([4, 0]), "right": DATA + np.array([4, 0])}
    assert probe(MODES, starts).ok  # The energy knows nothing of it.
    report = probe(MODES, starts, statistics={"is left": lambda x: x[0] < 0})
    (failure,) = report.failures
    assert "starts still disagree about is left" in failure


def test_an_energy_whose_long_chains_drift_away():
    """Data in a well so shallow and wide that short chains stay; long ones leave it."""
    flat = ebm.as_energy(lambda x: 5e-4 * jnp.sum(x**2), (2,))
    kernel = ebm.MALA(step_size=0.01, adapt_step_size=False)
    report = probe(flat, {"data": DATA, "noise": NOISE}, kernel=kernel)
    assert any(
        "from data the mean of energy drifts by" in failure for failure in report.failures
    ), report


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: probe(TARGET, {"data": DATA}), "`starts` must hold at least two"),
        (lambda: probe(TARGET, {"a": DATA, "b": np.zeros((3, 5))}), "shape"),
        (lambda: probe(TARGET, {"a": DATA, "b": np.full((3, 2), np.nan)}), "starts\\['b'\\]"),
        (lambda: probe(TARGET, {"a": DATA, "b": NOISE}, num_steps=0), "`num_steps`"),
    ],
)
def test_bad_input(run, message):
    with pytest.raises(ValueError, match=message):
        run()
