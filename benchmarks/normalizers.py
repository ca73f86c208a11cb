"""Run times of log Z estimates, relative to hand-written JAX loops that do the same work.

Both run in one process, interleaved. A row is the median ratio of neighbouring runs; below 1,
the library is faster. Compilation is not counted.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpyro.distributions as dist
from overhead import compare

import numpyro_ebm as ebm
from numpyro_ebm.chains import keeping_ess
from numpyro_ebm.normalizers import _importance as importance, _sequential as sequential
from numpyro_ebm.normalizers._reference import annealing
from numpyro_ebm.normalizers._schedule import follow, pilot, respaced

DIM, SCALE = 16, 2.0
NETWORK = eqx.nn.MLP(DIM, "scalar", 128, 2, jax.nn.silu, key=jr.key(0))
REFERENCE = dist.Normal(0, SCALE).expand([DIM]).to_event(1)
ENERGY = ebm.Tilted(NETWORK, REFERENCE)
STEP = 0.3
KERNEL = ebm.HMC(num_steps=2, trajectory_length=None, step_size=STEP, adapt_step_size=False)


def reference(x):
    return 0.5 * jnp.sum((x / SCALE) ** 2)


def target(network, x):
    return network(x) + reference(x)


def trajectory(network, key, carry, beta):
    """Two leapfrog steps at `beta`, carrying along the energy and gradient of the target."""
    x, value, slope = carry
    momentum_key, accept_key = jr.split(key)
    value_and_grad = jax.vmap(jax.value_and_grad(lambda x: target(network, x)))

    def mixed(x, value, slope):
        base = 0.5 * jnp.sum((x / SCALE) ** 2, -1)
        force = beta * slope + (1 - beta) * x / SCALE**2
        return beta * value + (1 - beta) * base, force

    momentum = jr.normal(momentum_key, x.shape)
    before, force = mixed(x, value, slope)
    before += 0.5 * jnp.sum(momentum**2, -1)
    y, p = x, momentum - 0.5 * STEP * force
    for last in (False, True):
        y = y + STEP * p
        new_value, new_slope = value_and_grad(y)
        after, force = mixed(y, new_value, new_slope)
        p = p - (0.5 if last else 1.0) * STEP * force
    after += 0.5 * jnp.sum(p**2, -1)
    accept = jr.uniform(accept_key, before.shape) < jnp.exp(before - after)
    new = y, new_value, new_slope
    return jax.tree.map(
        lambda a, b: jnp.where(accept.reshape((-1,) + (1,) * (a.ndim - 1)), a, b), new, carry
    )


def log_ratio(carry):
    x, value, _ = carry
    return 0.5 * jnp.sum((x / SCALE) ** 2, -1) - value


def start(network, key, num):
    x = SCALE * jr.normal(key, (num, DIM))
    return (x, *jax.vmap(jax.value_and_grad(lambda x: target(network, x)))(x))


@eqx.filter_jit
def annealed_by_hand(network, key, betas, num):
    start_key, run_key = jr.split(key)

    def level(carry, at):
        log_weights, particles = carry
        delta, beta, i = at
        log_weights += delta * log_ratio(particles)
        return (log_weights, trajectory(network, jr.fold_in(run_key, i), particles, beta)), None

    rungs = jnp.diff(betas), betas[1:], jnp.arange(len(betas) - 1)
    first = jnp.zeros(num), start(network, start_key, num)
    return jax.lax.scan(level, first, rungs)[0]


def annealed(path, key, schedule, num):
    start = importance._start(key, path, num)
    return importance.rise(path, start, schedule, progress_bar=False)


@eqx.filter_jit
def islands_by_hand(network, key, betas, num_islands, num):
    def one(key):
        start_key, run_key = jr.split(key)

        def level(carry, at):
            log_z, particles = carry
            delta, beta, i = at
            move_key, resample_key = jr.split(jr.fold_in(run_key, i))
            log_weights = delta * log_ratio(particles)
            log_sum = jax.nn.logsumexp(log_weights)
            points = (jr.uniform(resample_key) + jnp.arange(num)) / num
            source = jnp.searchsorted(jnp.cumsum(jnp.exp(log_weights - log_sum)), points)
            particles = jax.tree.map(lambda x: x[jnp.minimum(source, num - 1)], particles)
            for step in range(2):
                step_key = jr.fold_in(move_key, step)
                particles = trajectory(network, step_key, particles, beta)
            return (log_z + log_sum - jnp.log(num), particles), None

        rungs = jnp.diff(betas), betas[1:], jnp.arange(len(betas) - 1)
        first = jnp.zeros(()), start(network, start_key, num)
        return jax.lax.scan(level, first, rungs)[0]

    return jax.vmap(one)(jr.split(key, num_islands))


def islands(path, key, schedule, num_islands, num):
    (run_keys, _), start = sequential._start(key, path, num_islands, num)
    return follow(run_keys, path, schedule, (start, None))[0]


@eqx.filter_jit
def importance_by_hand(network, key, num):
    x = SCALE * jr.normal(key, (num, DIM))
    return jax.nn.logsumexp(-jax.vmap(network)(x)) - jnp.log(num)


if __name__ == "__main__":
    key, num = jr.key(1), 500
    one_step = annealing(ENERGY, KERNEL, None, 1)
    schedule = respaced(pilot(key, one_step, keeping_ess(0.9)), 200)
    compare(
        "annealed importance, 200 x 500, forward",
        lambda: annealed(one_step, key, schedule, num),
        lambda: annealed_by_hand(NETWORK, key, schedule.betas, num),
    )
    two_steps = annealing(ENERGY, KERNEL, None, 2)
    compare(
        "sequential Monte Carlo, 8 x 128, 200 levels",
        lambda: islands(two_steps, key, schedule, 8, 128),
        lambda: islands_by_hand(NETWORK, key, schedule.betas, 8, 128),
    )
    compare(
        "importance sampling, 20,000 draws",
        lambda: importance._weigh(key, ENERGY, ebm.as_energy(REFERENCE), 20_000),
        lambda: importance_by_hand(NETWORK, key, 20_000),
    )
