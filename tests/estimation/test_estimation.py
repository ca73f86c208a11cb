import os
import signal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import ENERGIES, mixture, network, trees_equal

import numpyro_ebm as ebm
from numpyro_ebm.estimation import _run, _steps
from numpyro_ebm.estimation._batches import Rows

DATA = np.asarray(mixture().sample(jax.random.key(0), (100,)))


def estimator(learning_rate=1e-3):
    return ebm.Estimator(ebm.DenoisingScoreMatching(0.3), optax.adam(learning_rate))


def run(num_steps=20, energy=None, data=DATA, *, by=None, **kwargs):
    energy = ENERGIES["Tilted"]() if energy is None else energy
    kwargs = {"progress_bar": False, **kwargs}
    return (by or estimator()).run(jax.random.key(1), num_steps, energy, data, **kwargs)


def arrays(tree):
    return eqx.filter(tree, eqx.is_array)


@pytest.mark.parametrize("batch_size", [None, 32])
def test_a_resumed_run_is_bit_for_bit_an_uninterrupted_one(batch_size):
    by = estimator()
    whole = run(47, by=by, batch_size=batch_size)
    first = run(13, by=by, batch_size=batch_size)
    second = run(34, by=by, batch_size=batch_size, init_state=first.state)
    assert trees_equal(arrays(whole.state.trainable), arrays(second.state.trainable))
    np.testing.assert_array_equal(whole.losses, np.concatenate([first.losses, second.losses]))


@pytest.mark.parametrize("batch_size", [None, 32])
def test_run_is_many_updates(batch_size):
    by = estimator()
    result = run(9, by=by, batch_size=batch_size)
    state = by.init(jax.random.key(1), ENERGIES["Tilted"](), DATA)
    for loss in result.losses:
        rows = Rows(jnp.asarray(DATA), None, batch_size)
        batch, _ = rows.batch(state, rows.order(state))
        state, expected = by.update(state, batch)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for a, b in zip(
        jax.tree.leaves(arrays(state.trainable)),
        jax.tree.leaves(arrays(result.state.trainable)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_every_epoch_sees_each_point_once_in_a_new_order():
    state = estimator().init(jax.random.key(1), ENERGIES["Tilted"](), DATA)
    epochs = []
    for epoch in range(2):
        rows = []
        for t in range(4):
            at = eqx.tree_at(lambda s: s.step, state, jnp.array(4 * epoch + t))
            source = Rows(jnp.arange(100), None, 25)
            rows.append(source.batch(at, source.order(at))[0])
        epochs.append(np.concatenate(rows))
    assert all(sorted(rows) == list(range(100)) for rows in epochs)
    assert not np.array_equal(*epochs)


def test_runs_share_one_compilation(monkeypatch):
    by, traces = estimator(), []
    step = _steps.step

    def counted(*args):
        traces.append(None)
        return step(*args)

    monkeypatch.setattr(_steps, "step", counted)
    run(30, by=by, batch_size=16)
    compiled = len(traces)
    energy = jax.tree.map(lambda x: 2 * x if eqx.is_array(x) else x, ENERGIES["Tilted"]())
    run(11, energy, by=by, batch_size=16)
    assert compiled > 0
    assert len(traces) == compiled


def test_training_lowers_the_loss():
    by = estimator(1e-2)
    result = run(500, by=by)
    state = by.init(jax.random.key(1), ENERGIES["Tilted"](), DATA)
    assert by.evaluate(result.state, DATA) < by.evaluate(state, DATA)
    assert result.losses.shape == (500,)
    assert result.metrics == {}
    assert trees_equal(arrays(by.get_energy(result.state)), arrays(result.energy))


def test_weights_choose_the_data():
    doubled = np.concatenate([DATA, DATA + 100.0])
    weights = np.concatenate([np.full(100, 2.0), np.zeros(100)])
    start = ENERGIES["Gaussian"]()
    by = ebm.Estimator(ebm.SlicedScoreMatching(), optax.adam(1e-2))
    weighted = run(200, start, doubled, weights=weights, by=by).energy
    plain = run(200, start, DATA, by=by).energy
    np.testing.assert_allclose(weighted.loc, plain.loc, atol=0.05)


def test_a_step_that_is_not_finite_is_undone_and_reported():
    by = ebm.Estimator(ebm.SlicedScoreMatching(), optax.sgd(10.0))
    with pytest.raises(
        ebm.estimation.NonFiniteError, match=r"Step \d+ is not finite in the loss"
    ) as info:
        run(1000, ENERGIES["Gaussian"](), by=by)
    result = info.value.result
    assert "precision_matrix" in str(info.value)
    assert len(result.losses) == result.state.step > 0
    assert np.isfinite(result.losses).all()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(arrays(result.energy)))


def test_an_energy_that_is_nan_from_the_start():
    with pytest.raises(ebm.estimation.NonFiniteError, match="Step 0 is not finite in the loss"):
        run(5, ENERGIES["Gaussian"]() + (lambda x: jnp.sqrt(-1 - jnp.sum(x**2))))


def test_an_interrupt_returns_the_run_so_far():
    def press(state, losses):
        if state.step > 5:
            os.kill(os.getpid(), signal.SIGINT)

    by, handler = estimator(), signal.getsignal(signal.SIGINT)
    with pytest.warns(UserWarning, match="Interrupted at step"):
        part = run(50, by=by, callback=press)
    assert signal.getsignal(signal.SIGINT) is handler
    assert 5 < len(part.losses) < 50
    rest = run(50 - len(part.losses), by=by, init_state=part.state)
    assert trees_equal(arrays(rest.state.trainable), arrays(run(50, by=by).state.trainable))


def test_the_state_survives_a_file(tmp_path):
    by = estimator()
    first = run(5, by=by)
    ebm.save(tmp_path / "state.ebm", first.state)
    like = by.init(jax.random.key(9), ENERGIES["Tilted"](), DATA)
    state = ebm.load(tmp_path / "state.ebm", like=like)
    a, b = (run(5, by=by, init_state=s).losses for s in (first.state, state))
    np.testing.assert_array_equal(a, b)


def test_progress_bar(capsys):
    run(5, progress_bar=True)
    assert "loss" in capsys.readouterr().err


def test_bare_networks_and_double_precision_data():
    energy = run(3, network(), DATA.astype(np.float64)).energy
    assert energy(jnp.ones(2)).dtype == jnp.float32


NAN = DATA.copy()
NAN[3, 1] = np.nan


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: run(data=NAN), ValueError, r"finite, got 1 NaN .* at index \(3, 1\)"),
        (lambda: run(data=DATA[:0]), ValueError, "at least one point"),
        (lambda: run(data=np.array(3.0)), ValueError, "at least one point"),
        (lambda: run(data=DATA[:, :1]), ValueError, r"points of shape \(2,\), got .*\(1,\)"),
        (lambda: run(data=DATA[None]), ValueError, "That looks like a batch"),
        (lambda: run(data=DATA.astype(object)), TypeError, "must be real numbers"),
        (lambda: run(data=DATA.astype(complex)), TypeError, "real and imaginary parts"),
        (lambda: run(data=np.array(["a"])), TypeError, "must be real numbers"),
        (lambda: run(batch_size=101), ValueError, "between 1 and the 100 points"),
        (lambda: run(batch_size=0), ValueError, "`batch_size` must be positive, got 0"),
        (lambda: run(0), ValueError, "`num_steps` must be positive, got 0"),
        (lambda: run(weights=np.ones(3)), ValueError, r"shape \(100,\), one weight per row"),
        (lambda: run(weights=-np.ones(100)), ValueError, "not negative"),
        (lambda: run(energy=network(3)), ValueError, r'got shape \(3,\).*out_size="scalar"'),
        (lambda: run(energy="net"), TypeError, "must be an energy"),
        (lambda: ebm.Estimator(optax.adam(1.0), 0.1), TypeError, "`objective` must be"),
        (
            lambda: ebm.Estimator(ebm.SlicedScoreMatching(), 0.1),
            TypeError,
            "`optim` must be an optax optimiser",
        ),
    ],
)
def test_bad_input_is_refused_before_any_compilation(call, error, message, monkeypatch):
    def compiled(*args):
        raise AssertionError("compiled before the input was checked")

    monkeypatch.setattr(_run, "fused_steps", compiled)
    with pytest.raises(error, match=message):
        call()
