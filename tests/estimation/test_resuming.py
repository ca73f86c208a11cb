"""Runs that are killed, and go on in a new process with another seed of Python's hashes."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest
from helpers import hash_seeds

FITS = """
    import os, signal, sys
    import equinox as eqx, jax, jax.numpy as jnp, numpy as np, optax
    import numpyro.distributions as dist
    import numpyro_ebm as ebm
    from numpyro_ebm.estimation import _watching

    _watching._SECONDS_A_CHECKPOINT = 0.0
    DATA = np.random.default_rng(0).normal(size=(60, 2))
    NORMAL = dist.Normal(jnp.array([1.0, 1.0]), jnp.array([2.0, 2.0])).to_event(1)
    KEY = jax.random.key(0)

    def network():
        return ebm.MLPEnergy(2, 8, reference=NORMAL, key=KEY)

    def estimator(objective, **kwargs):
        return ebm.Estimator(objective, optax.adam(1e-2), **kwargs)

    PERSISTENT = ebm.ContrastiveDivergence(ebm.MALA(step_size=0.3), 2, ebm.Persistent(64))
    STOPPING = {"early_stopping": ebm.EarlyStopping(0.3, every=10, patience=2)}
    FLOW = ebm.objectives.FlowContrastiveEstimation(NORMAL)
    CASES = {
        "plain": (estimator(ebm.ScoreMatching()), ebm.Gaussian(np.ones(2), np.eye(2)), {}),
        "network": (estimator(ebm.SlicedScoreMatching()), network(), {"batch_size": 16}),
        "nce": (estimator(ebm.NoiseContrastiveEstimation(NORMAL)), network(), {}),
        "fce": (estimator(FLOW, ema_decay=0.9), network(), {"batch_size": 16, **STOPPING}),
        "stopping": (estimator(ebm.ScoreMatching()), network(), STOPPING),
        "average": (estimator(ebm.ScoreMatching(), ema_decay=0.9), network(), {}),
        "persistent": (estimator(PERSISTENT), network(), {}),
    }

    class Crash(BaseException):
        pass

    def fit(name, **kwargs):
        by, energy, settings = CASES[name]
        settings = {"progress_bar": False, **settings, **kwargs}
        return by.run(jax.random.key(1), 60, energy, DATA, **settings)

    def numbers(tree):
        return [np.asarray(x) for x in jax.tree.leaves(eqx.filter(tree, eqx.is_array))]

    def crash(state, losses):
        if state.step > 20:
            if name == "persistent":
                os.kill(os.getpid(), signal.SIGKILL)
            raise Crash

    for name in CASES:
        path = f"{sys.argv[1]}/{name}.ebm"
        if sys.argv[2] == "crash":
            try:
                fit(name, checkpoint=path, callback=crash)
            except Crash:
                continue
            raise AssertionError(name)
        whole, rest = fit(name), fit(name, checkpoint=path)
        assert 0 < len(rest.losses) < len(whole.losses), name
        np.testing.assert_array_equal(rest.losses, whole.losses[-len(rest.losses) :], name)
        ends = [numbers((result.energy, result.state)) for result in (rest, whole)]
        for a, b in zip(*ends, strict=True):
            np.testing.assert_array_equal(a, b, name)
    print("done")
"""

CHAINS = """
    import sys
    import jax, jax.numpy as jnp, numpy as np
    import numpyro.distributions as dist
    import numpyro_ebm as ebm

    NORMAL = dist.Normal(jnp.array([1.0, 1.0]), jnp.array([2.0, 2.0])).to_event(1)
    energy = ebm.MLPEnergy(2, 8, reference=NORMAL, key=jax.random.key(0))

    def draw(num_samples, **kwargs):
        settings = {"num_warmup": 60, "progress_bar": False, **kwargs}
        return ebm.sample(
            jax.random.key(1), energy, ebm.MALA(), num_samples=num_samples, **settings
        )

    energies, chains = f"{sys.argv[1]}/energy.ebm", f"{sys.argv[1]}/chains.ebm"
    x = jnp.array([0.5, -1.0])
    if sys.argv[2] == "crash":
        ebm.save(energies, energy)
        ebm.save(chains, draw(10).state)
    else:
        whole = draw(30)
        rest = draw(20, init_state=ebm.load(chains, like=draw(1).state))
        np.testing.assert_array_equal(rest.values, whole.values[:, 10:])
        for again in (ebm.load(energies), ebm.load(energies, like=energy)):
            assert again(x) == energy(x)
    print("done")
"""


def python(code, *args, seed):
    env = {**os.environ, "PYTHONHASHSEED": str(seed)}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def seeds():
    return hash_seeds()


@pytest.mark.slow
def test_fits_go_on_bit_for_bit_in_a_new_process(seeds, tmp_path):
    victim = python(FITS, tmp_path, "crash", seed=seeds[0])
    assert victim.returncode == -signal.SIGKILL, victim.stderr[-3000:]
    heir = python(FITS, tmp_path, "go on", seed=seeds[1])
    assert heir.stdout == "done\n", heir.stderr[-3000:]


@pytest.mark.slow
def test_chains_and_energies_go_on_bit_for_bit_in_a_new_process(seeds, tmp_path):
    for job, seed in zip(("crash", "go on"), seeds, strict=True):
        done = python(CHAINS, tmp_path, job, seed=seed)
        assert done.stdout == "done\n", done.stderr[-3000:]
