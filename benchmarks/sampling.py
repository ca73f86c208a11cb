"""Run times of `sample`, relative to hand-written batched JAX loops that keep the same draws.

Both run in one process, interleaved. A row is the median ratio of neighbouring runs; below 1,
the library is faster. Compilation is not counted. Run with `make bench`.
"""

import jax
import jax.numpy as jnp
import jax.random as jr
from overhead import ENERGY, KEY, PARAMS, compare, network_energy

import numpyro_ebm as ebm


def batched(params):
    return jax.vmap(jax.value_and_grad(lambda x: network_energy(params, x)))


def langevin(params, start, num_steps, step_size):
    value_and_grad = batched(params)

    def step(carry, key):
        x, gradient = carry
        noise = jr.normal(key, x.shape)
        x = x - step_size * gradient + jnp.sqrt(2 * step_size) * noise
        energy, gradient = value_and_grad(x)
        return (x, gradient), (x, energy)

    carry = start, value_and_grad(start)[1]
    return jax.lax.scan(step, carry, jr.split(KEY, num_steps))[1]


def mala(params, start, num_steps, step_size):
    value_and_grad = batched(params)

    def step(carry, key):
        x, energy, gradient = carry
        noise_key, accept_key = jr.split(key)
        y = x - step_size * gradient + jnp.sqrt(2 * step_size) * jr.normal(noise_key, x.shape)
        energy_y, gradient_y = value_and_grad(y)
        forth = jnp.sum((y - x + step_size * gradient) ** 2, -1)
        back = jnp.sum((x - y + step_size * gradient_y) ** 2, -1)
        log_ratio = energy - energy_y + (forth - back) / (4 * step_size)
        accept = jnp.log(jr.uniform(accept_key, energy.shape)) < log_ratio
        x = jnp.where(accept[:, None], y, x)
        energy = jnp.where(accept, energy_y, energy)
        gradient = jnp.where(accept[:, None], gradient_y, gradient)
        return (x, energy, gradient), (x, energy, jnp.exp(jnp.minimum(0, log_ratio)))

    carry = (start, *value_and_grad(start))
    return jax.lax.scan(step, carry, jr.split(KEY, num_steps))[1]


def hmc(params, start, num_steps, step_size, num_leapfrog=10):
    value_and_grad = batched(params)

    def step(carry, key):
        x, energy, gradient = carry
        momentum_key, accept_key = jr.split(key)
        momentum = jr.normal(momentum_key, x.shape)

        def leapfrog(_, state):
            y, p, _, gradient = state
            p = p - 0.5 * step_size * gradient
            y = y + step_size * p
            energy, gradient = value_and_grad(y)
            return y, p - 0.5 * step_size * gradient, energy, gradient

        state = (x, momentum, energy, gradient)
        y, p, energy_y, gradient_y = jax.lax.fori_loop(0, num_leapfrog, leapfrog, state)
        kinetic = 0.5 * (jnp.sum(momentum**2, -1) - jnp.sum(p**2, -1))
        log_ratio = energy - energy_y + kinetic
        accept = jnp.log(jr.uniform(accept_key, energy.shape)) < log_ratio
        x = jnp.where(accept[:, None], y, x)
        energy = jnp.where(accept, energy_y, energy)
        gradient = jnp.where(accept[:, None], gradient_y, gradient)
        return (x, energy, gradient), (x, energy, jnp.exp(jnp.minimum(0, log_ratio)))

    carry = (start, *value_and_grad(start))
    return jax.lax.scan(step, carry, jr.split(KEY, num_steps))[1]


LOOPS = {
    "ULA": (ebm.UnadjustedLangevin(step_size=0.05, adapt_step_size=False), langevin, 0.05),
    "MALA": (ebm.MALA(step_size=0.05, adapt_step_size=False), mala, 0.05),
    "HMC": (
        ebm.HMC(
            step_size=0.3,
            num_steps=10,
            trajectory_length=None,
            adapt_step_size=False,
            adapt_mass_matrix=False,
        ),
        hmc,
        0.3,
    ),
}


def against_loop(name, num_chains, num_steps, progress_bar=False):
    kernel, loop, step_size = LOOPS[name]
    start = jr.normal(KEY, (num_chains, 2))
    theirs = jax.jit(loop, static_argnums=2)

    def ours():
        return ebm.sample(
            KEY,
            ENERGY,
            kernel,
            num_warmup=0,
            num_samples=num_steps,
            init_params=start,
            progress_bar=progress_bar,
        ).values

    return ours, lambda: theirs(PARAMS, start, num_steps, step_size)


if __name__ == "__main__":
    print(f"{'':<44}{'ratio':>6}  quartiles     hand-written")
    for name, scale in (("ULA", 10), ("MALA", 10), ("HMC", 1)):
        for num_chains, num_steps in ((1, 5000), (100, 300), (1000, 50), (10_000, 5)):
            title = f"{name}, {num_chains} chains x {scale * num_steps}"
            compare(title, *against_loop(name, num_chains, scale * num_steps))
