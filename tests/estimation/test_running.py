"""What looks after a run of `Estimator`: averages, early stopping, iterators, checkpoints."""

import itertools
import subprocess
import sys
import textwrap
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import ENERGIES, mixture, network, trees_equal

import numpyro_ebm as ebm
from numpyro_ebm.estimation import _steps
from numpyro_ebm.estimation._watching import Checkpoint

DATA = np.asarray(mixture().sample(jax.random.key(0), (100,)))
KEY = jax.random.key(1)


def estimator(learning_rate=1e-2, **kwargs):
    return ebm.Estimator(ebm.SlicedScoreMatching(), optax.adam(learning_rate), **kwargs)


def run(num_steps=20, data=DATA, *, by=None, energy=None, **kwargs):
    energy = ENERGIES["Gaussian"]() if energy is None else energy
    settings = {"progress_bar": False, **kwargs}
    return (by or estimator()).run(KEY, num_steps, energy, data, **settings)


def arrays(tree):
    return eqx.filter(tree, eqx.is_array)


def batches(size=10):
    return (DATA[start : start + size] for start in itertools.cycle(range(0, 100, size)))


@pytest.mark.parametrize("decay", [0.3, 0.9])
def test_the_average_is_that_of_all_steps(decay):
    by = estimator(ema_decay=decay)
    state = by.init(KEY, ENERGIES["Gaussian"](), DATA)
    average = np.asarray(state.trainable.loc)
    for t in range(6):
        state, _ = by.update(state, DATA)
        weight = min(decay, t / (t + 1))
        average = weight * average + (1 - weight) * np.asarray(state.trainable.loc)
    result = run(6, by=by)
    np.testing.assert_allclose(result.energy.loc, average, rtol=1e-5)
    assert not np.allclose(result.energy.loc, state.trainable.loc, rtol=1e-3)


@pytest.mark.slow
def test_early_stopping_returns_to_the_best_on_held_out_points():
    """A network with room to learn ten points by heart."""
    energy = ebm.MLPEnergy(2, 64, key=jax.random.key(3))
    by = ebm.Estimator(ebm.ScoreMatching(), optax.adam(1e-2))
    stopping = ebm.EarlyStopping(fraction=0.5, every=20, patience=3)
    result = run(5000, DATA[:20], by=by, energy=energy, early_stopping=stopping)
    losses = result.validation_losses
    assert len(result.losses) < 5000
    assert len(losses) == len(result.losses) // 20
    assert np.argmin(losses) == len(losses) - 1 - 3
    assert result.state.step == 20 * len(losses)
    assert result.state.best.state.step == 20 * (np.argmin(losses) + 1)
    assert eqx.tree_equal(result.energy, result.state.best.state.trainable)
    assert eqx.tree_equal(result.energy, by.get_energy(result.state))
    stops = ebm.to_arviz(result)["training"]
    np.testing.assert_array_equal(stops["validation_loss"], losses)


def test_batches_of_an_iterator():
    by = estimator()
    result = run(35, batches(), by=by)
    state = by.init(KEY, ENERGIES["Gaussian"](), next(batches()))
    for expected, batch in zip(result.losses, batches(), strict=False):
        state, loss = by.update(state, batch)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert result.state.step == 35


def test_an_iterator_that_ends_ends_the_run():
    with pytest.warns(UserWarning, match="ended after 7 of 20 steps"):
        result = run(20, itertools.islice(batches(), 7))
    assert len(result.losses) == 7
    with pytest.raises(ValueError, match="an iterator without a batch"):
        run(20, iter([]))
    with pytest.raises(ValueError, match="are for arrays; an iterator gives"):
        run(20, batches(), batch_size=10)
    with pytest.raises(ValueError, match="needs `data` as an array"):
        run(20, batches(), early_stopping=ebm.EarlyStopping())


def test_a_callback_sees_and_stops_the_run():
    seen = []

    def callback(state, losses):
        seen.extend(losses)
        return state.step >= 10

    result = run(1000, callback=callback)
    np.testing.assert_array_equal(seen, result.losses)
    assert 10 <= len(seen) < 1000


def test_rows_of_weight_zero_may_be_anything():
    masked = np.concatenate([DATA, np.full((50, 2), np.nan)])
    mask = np.arange(150) < 100
    result = run(data=masked, weights=mask, by=estimator())
    np.testing.assert_allclose(result.energy.loc, run().energy.loc, atol=0.02)
    with pytest.raises(ValueError, match="finite, got 100 NaN"):
        run(data=masked)


def test_a_stable_update_leaves_the_state_where_it_cannot_step():
    by = estimator()
    state = by.init(KEY, ENERGIES["Gaussian"](), DATA)
    same, loss = by.stable_update(state, np.full((10, 2), np.nan))
    assert np.isnan(loss)
    assert trees_equal(arrays(same), arrays(state))
    moved, loss = by.stable_update(state, DATA)
    expected, _ = by.update(state, DATA)
    assert np.isfinite(loss)
    assert trees_equal(arrays(moved), arrays(expected))


def test_accumulated_gradients_are_those_of_a_larger_batch():
    optim = optax.MultiSteps(optax.sgd(0.1), 4).gradient_transformation()
    energy, objective = ENERGIES["Gaussian"](), ebm.ScoreMatching()
    parts = [DATA[:25], DATA[25:50], DATA[50:75], DATA[75:]]
    small = run(4, iter(parts), by=ebm.Estimator(objective, optim), energy=energy).energy
    large = run(1, by=ebm.Estimator(objective, optax.sgd(0.1)), energy=energy).energy
    np.testing.assert_allclose(small.loc, large.loc, rtol=1e-5)


def test_a_checkpoint_goes_on_bit_for_bit(tmp_path):
    path, by = tmp_path / "fit.ebm", estimator()
    whole = run(50, by=by, batch_size=32)
    part = run(20, by=by, batch_size=32, checkpoint=path)
    rest = run(50, by=by, batch_size=32, checkpoint=path)
    np.testing.assert_array_equal(np.concatenate([part.losses, rest.losses]), whole.losses)
    assert trees_equal(arrays(rest.state), arrays(whole.state))
    assert len(run(50, by=by, batch_size=32, checkpoint=path).losses) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["fit.ebm"]


def test_a_checkpoint_of_an_iterator_skips_what_was_seen(tmp_path):
    path, by = tmp_path / "fit.ebm", estimator()
    whole = run(50, batches(), by=by)
    part = run(20, batches(), by=by, checkpoint=path)
    rest = run(50, batches(), by=by, checkpoint=path)
    np.testing.assert_array_equal(np.concatenate([part.losses, rest.losses]), whole.losses)


def test_batches_of_an_iterator_may_differ_in_size():
    """Of 35 batches the last of each pass is smaller, wherever a compiled call ends."""
    parts = [DATA[:40], DATA[40:80], DATA[80:]]
    by = estimator()
    result = run(35, itertools.cycle(parts), by=by)
    state = by.init(KEY, ENERGIES["Gaussian"](), parts[0])
    for expected, batch in zip(result.losses, itertools.cycle(parts), strict=False):
        state, loss = by.update(state, batch)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert result.state.step == 35


OTHERS = {
    "rng_key": lambda: {"key": jax.random.key(9)},
    "objective": lambda: {"objective": ebm.DenoisingScoreMatching(0.1)},
    "noise scale": lambda: {"objective": ebm.DenoisingScoreMatching(0.2)},
    "optim": lambda: {"optim": optax.adam(2e-2)},
    "schedule": lambda: {"optim": optax.adam(optax.cosine_decay_schedule(1e-2, 100))},
    "energy": lambda: {"energy": ENERGIES["Tilted"]()},
    "activation": lambda: {"energy": eqx.nn.MLP(2, "scalar", 8, 2, jnp.tanh, key=KEY)},
    "data": lambda: {"data": DATA + 0.01},
    "batch_size": lambda: {"batch_size": 10},
    "weights": lambda: {"weights": np.ones(100)},
    "early_stopping": lambda: {"early_stopping": ebm.EarlyStopping()},
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_checkpoint_of_another_run_is_refused(other, tmp_path):
    def fit(key=KEY, objective=None, optim=None, energy=None, data=DATA, **kwargs):
        by = ebm.Estimator(objective or first, optim or optax.adam(1e-2))
        path = tmp_path / "fit.ebm"
        energy = energy or network()
        return by.run(key, 2, energy, data, checkpoint=path, progress_bar=False, **kwargs)

    is_scale = other == "noise scale"
    first = ebm.DenoisingScoreMatching(0.1) if is_scale else ebm.SlicedScoreMatching()
    fit()
    name = {"noise scale": "objective", "schedule": "optim", "activation": "energy"}
    message = f"run with another .*`{name.get(other, other)}`.*ebm.load"
    with pytest.raises(ValueError, match=message):
        fit(**OTHERS[other]())
    fit()  # The arguments made anew are the same.


def test_a_state_in_a_checkpoint_goes_on_with_another_optimiser(tmp_path):
    path, settings = tmp_path / "fit.ebm", {"early_stopping": ebm.EarlyStopping(every=5)}
    fitted = run(20, checkpoint=path, **settings)
    state = ebm.load(path, like=run(1, **settings).state)
    assert trees_equal(arrays(state), arrays(fitted.state))
    slower = run(5, by=estimator(1e-3), init_state=state, **settings)
    assert slower.state.step == 25


def test_a_damaged_checkpoint_is_refused(tmp_path):
    path = tmp_path / "fit.ebm"
    state = run(checkpoint=path).state
    data, rng = path.read_bytes(), np.random.default_rng(0)
    for place in rng.integers(len(data), size=500):
        bad = bytearray(data)
        bad[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(bad))
        with pytest.raises(ValueError, match=r"`checkpoint`, .*cannot be read.*damaged"):
            Checkpoint(path, state, {}).load()
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"`checkpoint`, .*cannot be read"):
        run(checkpoint=path)


def test_early_stopping_goes_on_from_a_checkpoint(tmp_path):
    """Memory of the best state and patience; they were lost, and step 60 became 160."""
    path, start = tmp_path / "fit.ebm", network()
    by = ebm.Estimator(ebm.ScoreMatching(), optax.adam(1e-2))
    stopping = ebm.EarlyStopping(fraction=0.5, every=20, patience=3)

    def fit(num_steps=1000, **kwargs):
        return run(num_steps, DATA[:20], by=by, energy=start, early_stopping=stopping, **kwargs)

    whole = fit()
    assert 60 < whole.state.step < 1000
    for num_steps in (30, 50, int(whole.state.step) - 10, 1000):
        part = fit(num_steps, checkpoint=path)
    assert trees_equal(arrays(part.state), arrays(whole.state))
    # Started once more, a run that has ended stays as it is.
    again = fit(checkpoint=path)
    assert len(again.losses) == 0
    assert trees_equal(arrays(again.energy), arrays(whole.energy))
    # The same holds without a file.
    first = fit(50)
    rest = fit(init_state=first.state)
    assert trees_equal(arrays(rest.state), arrays(whole.state))


def test_another_key_holds_out_the_same_rows():
    """Of 20 rows held out, 15 had been trained on before `init_state`."""
    by, stopping = estimator(), ebm.EarlyStopping(fraction=0.2, every=5)
    first = run(20, by=by, early_stopping=stopping)
    settings = {"early_stopping": stopping, "init_state": first.state, "progress_bar": False}
    ends = [
        by.run(key, 20, ENERGIES["Gaussian"](), DATA, **settings).validation_losses
        for key in (KEY, jax.random.key(7))
    ]
    np.testing.assert_array_equal(*ends)


def test_weights_of_an_update_are_those_of_a_run():
    """Half of the rows masked: `update` took a step of half the length [sgd, scale 1]."""
    masked = np.concatenate([DATA, np.full((100, 2), np.nan)])
    mask = np.arange(200) < 100
    by = ebm.Estimator(ebm.ScoreMatching(), optax.sgd(0.1))
    energy = ENERGIES["Gaussian"]()
    state = by.init(KEY, energy, DATA)
    ours, loss = by.update(state, masked, mask)
    theirs = run(1, masked, by=by, energy=energy, weights=mask)
    np.testing.assert_allclose(loss, theirs.losses[0], rtol=1e-6)
    np.testing.assert_allclose(ours.trainable.loc, theirs.energy.loc, rtol=1e-6)
    traced, _ = jax.jit(by.update)(state, masked, mask)
    np.testing.assert_allclose(traced.trainable.loc, ours.trainable.loc, rtol=1e-5)


@pytest.mark.slow
def test_equal_estimators_share_one_compilation(monkeypatch):
    traces = []
    step = _steps.step
    monkeypatch.setattr(_steps, "step", lambda *args: traces.append(None) or step(*args))

    def fit(scale=0.1, learning_rate=1e-3):
        kernel = ebm.MALA(step_size=scale)
        objective = ebm.ContrastiveDivergence(kernel, 2, ebm.FromData())
        return run(3, by=ebm.Estimator(objective, optax.adam(learning_rate)))

    first = fit()
    num_traces = len(traces)
    assert num_traces > 0
    np.testing.assert_array_equal(first.losses, fit().losses)
    assert len(traces) == num_traces
    assert not np.array_equal(fit(learning_rate=0.1).losses, first.losses)
    assert not np.array_equal(fit(scale=0.5).losses, first.losses)
    assert len(traces) > num_traces


def test_a_network_comes_back_as_one():
    net = eqx.nn.MLP(2, "scalar", 8, 1, jax.nn.silu, key=KEY)
    by = estimator()
    result = run(3, by=by, energy=net)
    assert isinstance(result.energy, eqx.nn.MLP)
    assert isinstance(by.get_energy(result.state), eqx.nn.MLP)
    assert isinstance(run(3, energy=ebm.as_energy(net)).energy, ebm.energies.FunctionEnergy)


PROGRAM = """
    import sys, jax, numpy as np, optax, numpyro_ebm as ebm
    from numpyro_ebm.estimation import _watching
    _watching._SECONDS_A_CHECKPOINT = 0.0
    energy, data = ebm.Gaussian(np.zeros(2), np.eye(2)), np.linspace(-1, 1, 200).reshape(100, 2)
    estimator = ebm.Estimator(ebm.SlicedScoreMatching(), optax.adam(1e-3))
    settings = {"progress_bar": False, "batch_size": 20}
    result = estimator.run(
        jax.random.key(1), int(sys.argv[2]), energy, data, checkpoint=sys.argv[1], **settings
    )
    print(float(result.losses[-1]), *np.asarray(result.energy.loc))
"""


@pytest.mark.slow
def test_a_run_survives_sigkill(tmp_path):
    def command(path, num_steps):
        return [sys.executable, "-c", textwrap.dedent(PROGRAM), str(path), str(num_steps)]

    path = tmp_path / "killed.ebm"
    victim = subprocess.Popen(command(path, 10_000_000))
    while not path.exists():
        time.sleep(0.05)
        assert victim.poll() is None
    time.sleep(1.0)
    victim.kill()
    victim.wait()
    like = ebm.Estimator(ebm.SlicedScoreMatching(), optax.adam(1e-3)).init(
        KEY, ebm.Gaussian(np.zeros(2), np.eye(2)), DATA
    )
    done = int(ebm.load(path, like=like).step)
    assert done > 0
    ends = [
        subprocess.run(command(file, done + 500), capture_output=True, text=True, check=True)
        for file in (path, tmp_path / "whole.ebm")
    ]
    assert ends[0].stdout == ends[1].stdout != ""


SHARDED = """
    import jax, numpy as np, optax, numpyro, numpyro_ebm as ebm
    numpyro.set_host_device_count(2)
    from jax.sharding import NamedSharding, PartitionSpec
    energy, data = ebm.Gaussian(np.zeros(2), np.eye(2)), np.linspace(-1, 2, 200).reshape(100, 2)
    mesh = jax.make_mesh((2,), ("batch",))
    sharding = NamedSharding(mesh, PartitionSpec("batch"))
    for batch_size in (None, 20):
        losses = [
            ebm.Estimator(ebm.ScoreMatching(), optax.sgd(1e-2)).run(
                jax.random.key(1), 50, energy, data,
                batch_size=batch_size, sharding=layout, progress_bar=False,
            ).losses
            for layout in (None, sharding)
        ]
        np.testing.assert_allclose(*losses, rtol=1e-4)
    print(len(jax.devices()))
"""


@pytest.mark.slow
def test_batches_over_two_devices():
    command = [sys.executable, "-c", textwrap.dedent(SHARDED)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2"


def test_a_fit_as_a_training_group():
    objective = ebm.ContrastiveDivergence(ebm.MALA(step_size=0.5), 2, ebm.FromData())
    result = run(12, by=ebm.Estimator(objective, optax.sgd(1e-3)))
    training = ebm.to_arviz(result)["training"]
    assert set(training.data_vars) == {"loss", *result.metrics}
    assert dict(training.sizes) == {"step": 12}
    np.testing.assert_array_equal(training["energy_gap"], result.metrics["energy_gap"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: estimator(ema_decay=1.0), "`ema_decay` must lie between 0 and 1"),
        (lambda: ebm.EarlyStopping(fraction=0.0), "`fraction` must lie between"),
        (lambda: ebm.EarlyStopping(every=0), "`every` must be positive"),
        (lambda: ebm.EarlyStopping(patience=0), "`patience` must be positive"),
        (lambda: run(data=DATA[:1], early_stopping=ebm.EarlyStopping()), "hold out all of"),
        (lambda: run(data=(DATA, DATA)), r"`energy` must be a `ConditionalEnergy"),
        (lambda: run(data=(DATA, DATA[:3])), "must have the same number of rows"),
        (lambda: run(data=(DATA, DATA, DATA)), "got a tuple of 3"),
        (lambda: run(energy=ebm.freeze(ENERGIES["Gaussian"]())), "has nothing to train"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_the_average_is_in_use_for_evaluation():
    by = estimator(ema_decay=0.9)
    state = run(30, by=by).state
    plain = eqx.tree_at(lambda s: s.trainable, state, by.get_energy(state))
    assert by.evaluate(state, DATA) == estimator().evaluate(
        eqx.tree_at(lambda s: s.average, plain, None), DATA
    )
    assert jnp.isfinite(by.evaluate(state, DATA))
