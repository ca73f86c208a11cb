"""`sample` and `sample_moments`: shapes, resuming, memory, compilation, health."""

import os
import re
import signal
import subprocess
import sys
import threading

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import (
    COVARIANCE,
    KERNELS,
    MEAN,
    assert_moments,
    hash_seeds,
    network,
    quick,
    tempered,
    trees_equal,
)
from numpyro.infer import MCMC

import numpyro_ebm as ebm
from numpyro_ebm.kernels import run_chains

ENERGY = ebm.Gaussian(MEAN, covariance_matrix=COVARIANCE)
QUIET = {"progress_bar": False}
ALL = {**KERNELS, "ParallelTempering": tempered}
each_kernel = pytest.mark.parametrize(
    "Kernel", quick(ALL, ["MALA", "GHMC", "ParallelTempering"])
)


@pytest.mark.slow
@each_kernel
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(Kernel):
    kernel = Kernel()

    def run(num_samples, **kwargs):
        settings = {"num_chains": 3, "num_warmup": 25, "thinning": 2, **QUIET, **kwargs}
        return ebm.sample(jr.key(0), ENERGY, kernel, num_samples=num_samples, **settings)

    whole, first = run(40), run(20)
    rest = run(20, init_state=first.state)
    assert whole.values.shape == (3, 20, 2)
    for name in ("potential_energy", "accept_prob", "diverging", "n_grad"):
        parts = [first.stats[name], rest.stats[name]]
        assert jnp.array_equal(whole.stats[name], jnp.concatenate(parts, 1)), name
    assert jnp.array_equal(whole.values, jnp.concatenate([first.values, rest.values], 1))
    energies = jax.vmap(jax.vmap(ENERGY))(whole.values)
    np.testing.assert_allclose(whole.stats["potential_energy"], energies, rtol=1e-4, atol=1e-5)
    assert int(whole.state.i) == 25 + 40


@pytest.mark.slow
def test_chains_go_on_with_a_changed_energy():
    first = ebm.sample(jr.key(0), ENERGY, ebm.MALA(), num_chains=100, num_samples=10, **QUIET)
    shifted = ENERGY + ebm.as_energy(lambda x: 100.0 + 0 * x[0], (2,))
    draws = ebm.sample(
        jr.key(0), shifted, ebm.MALA(), num_samples=200, init_state=first.state, **QUIET
    )
    assert draws.accept_prob.mean() > 0.5
    energies = jax.vmap(jax.vmap(shifted))(draws.values)
    np.testing.assert_allclose(draws.stats["potential_energy"], energies, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("level", "offset"), [(1e5, 60.0), (4000.0, 4.0)])
def test_chains_see_a_change_that_is_small_beside_the_energy(level, offset):
    """They kept the old energies below a relative difference of 1e-3, and accepted nothing."""

    def energy(offset):
        return ENERGY + ebm.as_energy(lambda x: level + offset + 0 * x[0], (2,))

    settings = {"num_chains": 100, "num_warmup": 100, "num_samples": 50, **QUIET}
    first = ebm.sample(jr.key(0), energy(0.0), ebm.MALA(), **settings)
    settings.pop("num_chains")
    draws = ebm.sample(
        jr.key(0), energy(-offset), ebm.MALA(), init_state=first.state, **settings
    )
    assert draws.accept_prob.mean() > 0.4
    assert draws.ok


@pytest.mark.slow
def test_a_refreshed_state_goes_on_under_mcmc_with_new_data():
    """With what it cached under the old data, the chain freezes, as NumPyro's own does."""

    def model(data):
        loc = numpyro.sample("loc", dist.Normal(0, 10))
        numpyro.sample("x", dist.Normal(loc, 0.1), obs=data)

    kernel = ebm.MALA(model)
    mcmc = MCMC(kernel, num_warmup=300, num_samples=300, progress_bar=False)
    near, far = jnp.zeros(10), jnp.full(10, 0.05).at[0].set(2.0)
    mcmc.run(jr.key(0), near)
    state, moved = mcmc.last_state, []
    for start in (state, kernel.refresh(state, (far,), {})):
        mcmc.post_warmup_state = start
        mcmc.run(jr.key(1), far)
        moved.append(np.unique(mcmc.get_samples()["loc"]).size)
    assert moved[0] < 3
    assert moved[1] > 50


@pytest.mark.slow
@pytest.mark.parametrize("num_samples", [30, 32])
def test_thinning_keeps_the_draws_that_numpyro_keeps(num_samples):
    sizes = {"num_warmup": 10, "num_samples": num_samples}

    def draw(thinning):
        settings = {"num_chains": 2, "thinning": thinning, **sizes, **QUIET}
        return ebm.sample(jr.key(0), ENERGY, ebm.MALA(), **settings).values

    def draw_under_mcmc(thinning):
        mcmc = MCMC(ebm.MALA(potential_fn=ENERGY), thinning=thinning, **sizes, **QUIET)
        mcmc.run(jr.key(0))
        return mcmc.get_samples(group_by_chain=True)

    whole, kept = (draw_under_mcmc(thinning)[0] for thinning in (1, 3))
    numbers = np.flatnonzero((whole[:, None] == kept[None]).all(-1).any(1))
    some, all_of_them = draw(3), draw(1)
    assert some.shape == (2, 10, 2)
    # A rejected step repeats a point, so NumPyro's draws may equal neighbours, too.
    assert set(range(num_samples % 3 + 2, num_samples, 3)) <= set(numbers)
    np.testing.assert_array_equal(some, all_of_them[:, num_samples % 3 + 2 :: 3])


@pytest.mark.slow
def test_ctrl_c_returns_the_draws_so_far_and_the_rest_follows():
    energy = ebm.as_energy(network(), (2,)) + ENERGY  # Without it, the chains would drift off.

    def run(**kwargs):
        return ebm.sample(jr.key(0), energy, ebm.MALA(), **kwargs, **QUIET)

    whole, handler = run(num_samples=300_000, num_warmup=100), signal.getsignal(signal.SIGINT)
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.warns(UserWarning, match=r"go on with `init_state=draws\.state`"):
        some = run(num_samples=300_000, num_warmup=100)
    done = some.values.shape[1]
    assert 0 < done < 300_000
    rest = run(num_samples=300_000 - done, init_state=some.state)
    assert jnp.array_equal(whole.values, jnp.concatenate([some.values, rest.values], 1))
    assert signal.getsignal(signal.SIGINT) is handler


def test_new_parameters_and_another_step_size_compile_nothing():
    traced = []

    class Energy(eqx.Module):
        network: eqx.nn.MLP

        def __call__(self, x):
            traced.append(None)
            return self.network(x) + x @ x

    def run(seed, step_size):
        net = eqx.nn.MLP(2, "scalar", 8, 2, jax.nn.silu, key=jr.key(seed))
        kernel = ebm.MALA(step_size=step_size)
        energy = ebm.as_energy(Energy(net), (2,))
        return ebm.sample(jr.key(seed), energy, kernel, num_samples=20, num_warmup=20, **QUIET)

    run(0, 0.1)
    before = len(traced)
    first, second = run(1, 0.2), run(2, 0.3)
    # One look at the shape of the energy in each call, and nothing more.
    assert len(traced) - before == 2
    assert not trees_equal(first.values, second.values)


def test_the_warm_up_is_pooled():
    """A short warm-up of many chains finds step and metric that one chain would not."""
    scales = np.array([10.0, 0.1])
    energy = ebm.Gaussian(np.zeros(2), np.diag(scales**2))
    for step_size in (1e-4, 1e2):
        draws = ebm.sample(
            jr.key(0),
            energy,
            ebm.HMC(step_size=step_size),
            num_chains=256,
            num_warmup=150,
            num_samples=50,
            init_params=scales * jr.normal(jr.key(1), (256, 2)),
            **QUIET,
        )
        adapted = draws.state.adapt_state
        assert adapted.step_size.shape == ()
        np.testing.assert_allclose(adapted.inverse_mass_matrix, scales**2, rtol=0.2)
        assert abs(draws.accept_prob.mean() - 0.8) < 0.1


TARGETS = {  # Acceptance on a Gaussian in 20 dimensions.
    "RandomWalkMetropolis": 0.234,
    "UnadjustedLangevin": 0.99,
    "MALA": 0.574,
    "BarkerMH": 0.4,
    "HMC": 0.8,
    "NUTS": 0.8,
    "GHMC": 0.9,
    "AdjustedMCLMC": 0.9,
}


@pytest.mark.parametrize("step_size", [1e-4, 1e2])
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "HMC" else pytest.mark.slow) for name in TARGETS],
)
def test_the_step_size_finds_its_target_from_anywhere(name, step_size):
    if name == "NUTS" and step_size < 1:
        pytest.skip("a minute of trees with a thousand leaves")
    kernel = ALL[name](step_size=step_size)
    energy = ebm.Gaussian(np.zeros(20), np.diag(np.geomspace(0.1, 10, 20)))
    draws = ebm.sample(
        jr.key(0), energy, kernel, num_chains=64, num_warmup=500, num_samples=100, **QUIET
    )
    assert abs(draws.accept_prob.mean() - TARGETS[name]) < (0.005 if "Unad" in name else 0.04)


@pytest.mark.slow
def test_automala_starts_from_the_median_of_what_it_chooses():
    for step_size in (1e-4, 1e2):
        kernel = ebm.AutoMALA(step_size=step_size)
        draws = ebm.sample(jr.key(0), ENERGY, kernel, num_chains=64, num_warmup=500, **QUIET)
        assert 0.05 < draws.state.adapt_state.step_size < 2
        assert draws.stats["n_grad"].mean() < 7


@pytest.mark.slow
def test_a_nan_acceptance_poisons_nothing():
    def energy(x):  # NaN outside of the half plane.
        return 0.5 * jnp.sum(x**2) - 0.5 * jnp.log(x[0])

    for kernel in (ebm.BarkerMH(), ebm.HMC()):
        draws = ebm.sample(jr.key(0), energy, kernel, init_params=jnp.ones((8, 2)), **QUIET)
        assert draws.ok
        assert (draws.values[..., 0] > 0).all()
        assert jnp.isfinite(draws.state.adapt_state.step_size)


def test_a_chain_that_ran_away_does_not_take_the_metric_with_it():
    def energy(x):
        return jnp.where(jnp.abs(x[0]) < 50, 0.5 * x @ x, -(x[0] ** 4))

    start = jr.normal(jr.key(1), (64, 2)).at[0, 0].set(60.0)
    kernel = ebm.UnadjustedLangevin(adapt_mass_matrix=True)
    with pytest.warns(UserWarning, match="stuck"):
        draws = ebm.sample(jr.key(0), energy, kernel, init_params=start, **QUIET)
    assert jnp.isfinite(draws.state.adapt_state.inverse_mass_matrix).all()


def test_stuck_chains_are_counted_and_warned_of():
    # Far out in a quartic tail MALA's proposals overshoot.
    start = jnp.ones((64, 2)).at[:3].set(30.0)
    kernel = ebm.MALA(step_size=0.1, adapt_step_size=False)
    with pytest.warns(UserWarning, match="3 stuck, 0 not finite"):
        draws = ebm.sample(
            jr.key(0), lambda x: jnp.sum(x**4), kernel, num_warmup=0, init_params=start, **QUIET
        )
    assert draws.stuck.nonzero()[0].tolist() == [0, 1, 2]
    assert not draws.ok


@pytest.mark.slow
def test_pytrees_images_and_float64():
    def energy(z):
        return 0.5 * z["a"] ** 2 + 0.5 * jnp.sum(z["b"] ** 2)

    start = {"a": np.zeros(4), "b": np.ones((4, 3, 2))}
    for name in ("MALA", "GHMC"):
        settings = {"init_params": start, "num_warmup": 5, "num_samples": 6, **QUIET}
        draws = ebm.sample(jr.key(0), energy, ALL[name](), **settings)
        assert draws.values["b"].shape == (4, 6, 3, 2)
        assert draws.finite.shape == (4,)
    image = ebm.ConvEnergy((8, 8, 1), key=jr.key(0))
    draws = ebm.sample(jr.key(0), image, ebm.MALA(), num_warmup=5, num_samples=6, **QUIET)
    assert draws.values.shape == (4, 6, 8, 8, 1)


@each_kernel
def test_float32_starts_under_x64(Kernel, x64):
    energy = ebm.Gaussian(MEAN, covariance_matrix=COVARIANCE)
    start = jnp.ones((2, 2), jnp.float32)
    draws = ebm.sample(
        jr.key(0), energy, Kernel(), init_params=start, num_warmup=5, num_samples=5, **QUIET
    )
    assert draws.values.dtype == jnp.float64


@pytest.mark.slow
def test_a_constrained_support_is_sampled_through_its_bijection():
    target = dist.Gamma(3.0, 2.0).expand([2]).to_event(1)
    draws = ebm.sample(jr.key(0), target, ebm.HMC(), num_chains=500, **QUIET)
    assert (draws.values > 0).all()
    assert_moments(draws.values, [1.5, 1.5], [0.75, 0.75])
    start = jnp.full((3, 2), 0.7)
    kernel = ebm.MALA(step_size=1e-12, adapt_step_size=False)
    draws = ebm.sample(
        jr.key(0), target, kernel, num_warmup=0, num_samples=1, init_params=start, **QUIET
    )
    np.testing.assert_allclose(draws.values[:, 0], start, rtol=1e-4)


@pytest.mark.slow
def test_moments_are_those_of_the_draws():
    settings = {"num_chains": 50, "num_warmup": 100, "num_samples": 201, **QUIET}
    draws = ebm.sample(jr.key(0), ENERGY, ebm.MALA(), **settings)
    moments = ebm.sample_moments(
        jr.key(0), ENERGY, ebm.MALA(), lambda x: {"x": x, "norm": jnp.sum(x**2)}, **settings
    )
    values = {"x": draws.values, "norm": (draws.values**2).sum(-1)}
    for name, x in values.items():
        x = np.asarray(x, float)
        np.testing.assert_allclose(moments.mean[name], x.mean((0, 1)), rtol=1e-4)
        np.testing.assert_allclose(moments.variance[name], x.var((0, 1)), rtol=1e-4)
        chains = x.mean(1)
        error = chains.std(0, ddof=1) / np.sqrt(50)
        np.testing.assert_allclose(moments.std_error[name], error, rtol=1e-3)
        halves = np.concatenate([x[:, :100], x[:, 100:200]])
        between, within = halves.mean(1).var(0, ddof=1), halves.var(1, ddof=1).mean(0)
        rhat = np.sqrt(99 / 100 + between / within)
        np.testing.assert_allclose(moments.rhat[name], rhat, rtol=3e-3)
    assert moments.accept_prob.shape == (50,)


def test_moments_see_chains_in_different_places():
    modes = ebm.GaussianMixture([0.5, 0.5], [[-9.0, 0.0], [9.0, 0.0]], [np.eye(2)] * 2)
    start = jnp.array([[-9.0, 0.0], [9.0, 0.0]] * 4)
    moments = ebm.sample_moments(jr.key(0), modes, ebm.MALA(), init_params=start, **QUIET)
    assert moments.rhat[0] > 3
    assert moments.rhat[1] < 1.1


@pytest.mark.slow
def test_short_chains_for_training():
    move = ebm.MALA(step_size=0.3).move
    start = 3 * jr.normal(jr.key(1), (20_000, 2))

    @eqx.filter_jit
    def negatives(energy, positions, key):
        return run_chains(key, move, energy, positions, 200)

    ends, state, _ = negatives(ENERGY, start, jr.key(0))
    assert_moments(ends[:, None], MEAN, np.diag(COVARIANCE), ess_variance=15_000)
    assert state.accept_prob.shape == (20_000,)
    # A gradient of the negatives' energy is that of the energy at fixed points.

    def loss(energy):
        ends, *_ = run_chains(jr.key(0), move, energy, start[:5], 10)
        return jnp.mean(jax.vmap(energy)(ends))

    fixed, *_ = run_chains(jr.key(0), move, ENERGY, start[:5], 10)
    truth = eqx.filter_grad(lambda energy: jnp.mean(jax.vmap(energy)(fixed)))(ENERGY)
    ours = eqx.filter_grad(loss)(ENERGY)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, truth)


@pytest.mark.slow
def test_a_stale_cache_would_freeze_the_chains():
    r"""An offset that drifts by 3 an update: chains that keep their energies accept nothing."""
    move = ebm.MALA(step_size=0.5).move
    positions = jr.normal(jr.key(1), (500, 2))
    stale = jax.vmap(lambda x: move.init(jr.key(0), x, lambda x: 0.5 * x @ x))(positions)
    for update in range(1, 4):

        def energy(x, update=update):
            return 0.5 * x @ x + 3.0 * update

        stale, info = move.step_all(jr.split(jr.key(update), 500), stale, energy)
        positions, fresh, _ = run_chains(jr.key(update), move, energy, positions, 1)
    assert info.acceptance_rate.mean() < 0.1
    assert fresh.accept_prob.mean() > 0.5


def test_the_progress_bar_shows_acceptance_and_step(capsys):
    ebm.sample(jr.key(0), ENERGY, ebm.MALA(), num_samples=100)
    shown = capsys.readouterr().err
    assert "accepted 0." in shown
    assert "1100/1100" in shown


def test_statistics_keep_their_types():
    draws = ebm.sample(jr.key(0), ENERGY, ebm.NUTS(), num_samples=20, **QUIET)
    stats = draws.stats
    assert stats["diverging"].dtype == bool
    assert draws.values[stats["diverging"]].shape == (0, 2)
    assert jnp.issubdtype(stats["n_grad"].dtype, jnp.integer)
    assert stats["energy"].dtype == stats["accept_prob"].dtype == draws.values.dtype
    tree = ebm.to_arviz(draws)["sample_stats"]
    assert tree["diverging"].dtype == bool
    assert tree["n_grad"].dtype == tree["n_steps"].dtype == stats["n_grad"].dtype


@pytest.mark.slow
def test_kernels_under_mcmc_and_sample_agree():
    draws = ebm.sample(jr.key(0), ENERGY, ebm.HMC(), num_chains=64, num_samples=300, **QUIET)
    mcmc = MCMC(
        ebm.HMC(potential_fn=ENERGY),
        num_warmup=300,
        num_samples=300,
        num_chains=64,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jr.key(1))
    other = mcmc.get_samples(group_by_chain=True)
    for statistic in (lambda x: x, lambda x: (x - MEAN) ** 2):
        ours, theirs = (np.asarray(statistic(x).mean(1)) for x in (draws.values, other))
        error = np.sqrt((ours.var(0) + theirs.var(0)) / 64)
        assert (np.abs(ours.mean(0) - theirs.mean(0)) < 4 * error).all()


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"kernel": ebm.MALA}, TypeError, "`kernel` must be a kernel of this library"),
        ({"kernel": ebm.MALA(potential_fn=ENERGY)}, ValueError, "neither `model` nor"),
        ({"energy": lambda x: x @ x}, ValueError, "`event_shape` or `init_params` is needed"),
        ({"num_samples": 0}, ValueError, "`num_samples` must be positive"),
        ({"thinning": 0}, ValueError, "`thinning` must be positive"),
        ({"thinning": 1001}, ValueError, "`thinning` must be at most `num_samples`, 1000"),
        ({"init_params": jnp.ones((4, 3))}, ValueError, "shape"),
        ({"init_params": 1.0}, ValueError, "stacked along a leading chain axis"),
        ({"init_params": jnp.ones((3, 2)), "num_chains": 4}, ValueError, "`num_chains` is 4"),
        (
            {"energy": lambda x: jnp.log(x).sum(), "init_params": -jnp.ones((4, 2))},
            ValueError,
            "not finite where 4 of 4 chains start",
        ),
    ],
)
def test_bad_input(kwargs, error, message):
    arguments = {"energy": ENERGY, "kernel": ebm.MALA(), **kwargs}
    with pytest.raises(error, match=message):
        ebm.sample(jr.key(0), **arguments, **QUIET)


SHARDED = """
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp, numpyro_ebm as ebm
from jax.sharding import NamedSharding, PartitionSpec as P
assert jax.device_count() == 8
chains = NamedSharding(jax.make_mesh((8,), ("chain",)), P("chain"))
energy = ebm.energies.Banana()
for kernel in (ebm.MALA(adapt_step_size=False), ebm.UnadjustedLangevin(adapt_step_size=False)):
    runs = [ebm.sample(jax.random.key(0), energy, kernel, num_chains=16, num_warmup=0,
                       num_samples=10, progress_bar=False, sharding=s) for s in (None, chains)]
    np.testing.assert_allclose(runs[0].values, runs[1].values, rtol=1e-10, atol=1e-10)
    assert len(runs[1].values.sharding.device_set) == 8, runs[1].values.sharding
draws = ebm.sample(jax.random.key(0), energy, ebm.HMC(), num_chains=400, sharding=chains,
                   num_warmup=300, num_samples=500, progress_bar=False)
mean = np.asarray(draws.values.mean(1))
z = (mean.mean(0) - energy.mean) / (mean.std(0) / 20)
assert np.abs(z).max() < 4, z
assert abs(draws.accept_prob.mean() - 0.8) < 0.1
moments = ebm.sample_moments(jax.random.key(0), energy, ebm.HMC(), num_chains=400,
                             num_warmup=300, num_samples=500, progress_bar=False,
                             sharding=chains)
np.testing.assert_allclose(moments.mean, mean.mean(0), rtol=1e-6, atol=1e-8)
"""

TWO_PROCESSES = """
import sys, jax, numpy as np
jax.config.update("jax_enable_x64", True)
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
import jax.numpy as jnp, numpyro_ebm as ebm
import numpyro.distributions as dist
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import NamedSharding, PartitionSpec as P
assert jax.device_count() == 2 and jax.local_device_count() == 1
chains = NamedSharding(jax.make_mesh((2,), ("chain",)), P("chain"))
kernel = ebm.MALA(step_size=0.1, adapt_step_size=False)
draws = ebm.sample(jax.random.key(0), ebm.energies.Banana(), kernel, num_chains=4, num_warmup=0,
                   num_samples=10, progress_bar=False, sharding=chains)
values = process_allgather(draws.values, tiled=True)
alone = ebm.sample(jax.random.key(0), ebm.energies.Banana(), kernel, num_chains=4, num_warmup=0,
                   num_samples=10, progress_bar=False)
np.testing.assert_allclose(values, alone.values, rtol=1e-10)
banana = ebm.energies.Banana()
adapted = ebm.sample(jax.random.key(0), banana, ebm.MALA(), num_chains=4, num_warmup=50,
                     num_samples=10, progress_bar=False, sharding=chains)
normal = dist.Normal(jnp.array([1.0, 2.0]), jnp.array([2.0, 3.0])).to_event(1)
network = ebm.MLPEnergy(2, 8, reference=normal, key=jax.random.key(0))
same = [ebm.sample(jax.random.key(0), network, kernel, num_chains=4, num_warmup=0,
                   num_samples=10, progress_bar=False, sharding=layout).values
        for layout in (chains, None)]
values = process_allgather(same[0], tiled=True)
np.testing.assert_allclose(values, same[1], rtol=1e-10)
print("step size", float(adapted.state.adapt_state.step_size), "done")
"""


def python(code, *args, devices=1, **more):
    env = {
        **os.environ,
        **more,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    env["JAX_CPU_COLLECTIVES_IMPLEMENTATION"] = "gloo"
    command = [sys.executable, "-c", code, *args]
    return subprocess.Popen(command, env=env, stdout=-1, stderr=-1, text=True)


@pytest.mark.slow
def test_chains_on_eight_devices_are_those_on_one():
    process = python(SHARDED, devices=8)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]


@pytest.mark.slow
def test_chains_in_two_processes_are_those_in_one():
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    both = [
        python(TWO_PROCESSES, address, str(i), PYTHONHASHSEED=str(seed))
        for i, seed in enumerate(hash_seeds())
    ]
    said = []
    for process in both:
        out, err = process.communicate(timeout=300)
        assert "done" in out, err[-3000:]
        said.append(re.search(r"step size .*", out).group())
    assert said[0] == said[1]


def two_modes(y, x):
    """Narrow modes at -2 and 2 in each coordinate; the upper one has the share sigmoid(2x)."""
    heights = jnp.stack([jax.nn.log_sigmoid(-2 * x), jax.nn.log_sigmoid(2 * x)])
    far = jnp.stack([jnp.sum((y + 2) ** 2), jnp.sum((y - 2) ** 2)])
    return -jax.nn.logsumexp(heights - 0.5 * far / 0.25**2)


@pytest.mark.parametrize("shape", [(), (2,)])
@pytest.mark.parametrize("is_normalized", [False, True])
def test_chains_at_one_condition_start_in_the_proportions_of_its_modes(shape, is_normalized):
    """From uniform starts the shares were .46 and .56, whatever the condition."""
    conditional = ebm.ConditionalEnergy(two_modes, shape)
    if is_normalized:
        conditional = ebm.energies.NormalizedConditional(conditional, 0.0)
    for x in (-1.0, 1.0):
        draws = ebm.sample(
            jr.key(0), conditional.given(jnp.array(x)), ebm.HMC(), num_chains=400,
            num_warmup=50, num_samples=20, progress_bar=False,
        )  # fmt: skip
        share = (draws.values.reshape(400, 20, -1)[..., 0] > 0).mean()
        truth = jax.nn.sigmoid(2 * x)
        # A few hundred of the proposals count, so the starts add an error of their own.
        assert abs(share - truth) < 4 * np.sqrt(truth * (1 - truth) * (1 / 400 + 1 / 200))
    site = ebm.EnergyDistribution(conditional.given(jnp.array(1.0)), sampler=ebm.HMC())
    draws = site.draw(jr.key(1), 400).values.reshape(400, -1)[:, 0]
    assert abs((draws > 0).mean() - truth) < 4 * np.sqrt(truth * (1 - truth) * 3 / 400)
