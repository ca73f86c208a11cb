"""Long work in short calls: lengths, bars, interrupts; and that the calls change no number."""

import signal

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest
from helpers import mixture

import numpyro_ebm as ebm
from numpyro_ebm import _driver
from numpyro_ebm._driver import Progress, drive

WIDE = dist.Normal(0, 3).expand([2]).to_event(1)


@pytest.fixture
def impatient(monkeypatch):
    """Bars are shown at once."""
    monkeypatch.setattr(_driver, "_PATIENCE", 0)


def test_a_bar_in_per_cent_goes_by_the_share_that_is_done(capsys, impatient):
    shares = iter([0.2, 0.1, 0.5, 1.0])

    def call(length):
        share = next(shares)
        return Progress(1, f"at {share}", share == 1.0, share)

    done = drive(call, 999, progress_bar=True, resume=None, label="work", in_percent=True)
    assert done == 4
    shown = capsys.readouterr().err
    assert "work" in shown
    assert "100/100" in shown


def test_a_labelled_bar_is_not_shown_for_quick_work(capsys):
    options = {"progress_bar": True, "resume": None}
    drive(lambda length: Progress(length, ""), 50, label="work", **options)
    assert capsys.readouterr().err == ""
    drive(lambda length: Progress(length, ""), 50, **options)
    assert "50/50" in capsys.readouterr().err


def test_an_interrupt_abandons_work_that_cannot_be_resumed():
    calls = []

    def call(length):
        calls.append(length)
        signal.raise_signal(signal.SIGINT)
        return Progress(length, "")

    with pytest.raises(KeyboardInterrupt):
        drive(call, 1000, progress_bar=False, resume=None)
    assert len(calls) == 1


METHODS = {
    "SequentialMonteCarlo": (
        ebm.SequentialMonteCarlo(num_islands=4, num_particles=64),
        ["pilot", "islands"],
    ),
    "ThermodynamicIntegration": (
        ebm.ThermodynamicIntegration(num_islands=4, num_particles=64),
        ["pilot", "islands"],
    ),
    "AnnealedImportanceSampling": (
        ebm.AnnealedImportanceSampling(num_temperatures=40, num_particles=64),
        ["pilot", "forward path", "reverse path"],
    ),
    "NestedSampling": (ebm.NestedSampling(num_live=100), ["nested sampling"]),
    "BridgeSampling": (
        ebm.BridgeSampling(ebm.MALA(), num_chains=8, num_warmup=30, num_samples=30),
        ["accepted"],
    ),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`log_partition`")
@pytest.mark.parametrize("name", METHODS)
def test_methods_show_their_progress(name, capsys, impatient):
    method, labels = METHODS[name]
    energy = ebm.Tilted(mixture(), WIDE)
    ebm.log_partition(jr.key(0), energy, method, progress_bar=False)
    assert capsys.readouterr().err == ""
    ebm.log_partition(jr.key(0), energy, method)
    shown = capsys.readouterr().err
    assert all(label in shown for label in labels), shown


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["SequentialMonteCarlo", "ThermodynamicIntegration", "AnnealedImportanceSampling"]
)
def test_the_lengths_of_calls_change_no_estimate(name, monkeypatch, x64):
    """Sixteen steps per call, one, and everything in one call, as under a trace."""
    (method, _), energy = METHODS[name], ebm.Tilted(mixture(), WIDE)
    first = method.estimate(jr.key(0), energy)
    monkeypatch.setattr(_driver, "_FIRST_CALL", 1)
    monkeypatch.setattr(_driver, "_MOST_GROWTH", 1)
    again = method.estimate(jr.key(0), energy)
    np.testing.assert_allclose(again.estimate, first.estimate, rtol=1e-10)
    np.testing.assert_allclose(again.std_error, first.std_error, rtol=1e-8)
    if name != "AnnealedImportanceSampling":  # NumPy judges its weights.
        traced = jax.jit(lambda key: method.estimate(key, energy).estimate)(jr.key(0))
        np.testing.assert_allclose(traced, first.estimate, rtol=1e-6)


POPULATIONS = {
    "TemperedSMC": (lambda: (ebm.TemperedSMC(ebm.MALA(), WIDE), mixture())),
    "AnnealedLangevin": lambda: (
        ebm.AnnealedLangevin([3.0, 1.0, 0.3], num_steps=5),
        ebm.ConditionalEnergy(lambda x, s: 0.5 * x @ x / (1 + s**2), event_shape=(2,)),
    ),
}


@pytest.mark.parametrize("name", POPULATIONS)
def test_populations_show_their_progress_and_draw_what_they_drew_in_one_call(
    name, capsys, impatient, monkeypatch
):
    monkeypatch.setattr(_driver, "_FIRST_CALL", 2)
    population, energy = POPULATIONS[name]()
    draws = ebm.sample(jr.key(0), energy, population, num_chains=2, num_samples=30)
    assert name in capsys.readouterr().err
    keys = jr.split(jr.key(0), 2)
    at_once = jax.jit(jax.vmap(lambda key: population.draw(key, energy, 30)))(keys)
    np.testing.assert_allclose(draws.values, at_once.values, rtol=1e-3, atol=1e-3)
    assert draws.num_steps == at_once.num_steps.max()
    assert jnp.isfinite(draws.values).all()
