"""Short chains under contrastive divergence: what each kernel learns, and at which step."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import numpyro_ebm as ebm
from numpyro_ebm.kernels import step_adaptation
from numpyro_ebm.objectives._chains import run_from


class Precision(ebm.AbstractEnergy):
    r"""$\tfrac12 x^\top A x$ in two dimensions."""

    matrix: jax.Array
    event_shape: tuple[int, ...] = eqx.field(static=True, default=(2,))

    def __call__(self, x):
        return 0.5 * x @ self.matrix @ x


UNIT = Precision(jnp.eye(2))


def white_data(size):
    """Points whose mean is zero and whose covariance is the identity, exactly."""
    points = jr.normal(jr.key(7), (size, 2))
    points -= points.mean(0)
    return points @ jnp.linalg.inv(jnp.linalg.cholesky(points.T @ points / size)).T


def learn(kernel, num_replicates=32, num_train=400, num_points=64, rate=0.1):
    """What independent runs learn: entries of $A$ and step sizes, of the second half."""
    start = ebm.Persistent(2 * num_points, reinit=0.0)
    objective = ebm.ContrastiveDivergence(kernel, 5, start)
    data = white_data(num_points)

    def run(rng_key):
        init_key, run_key = jr.split(rng_key)

        def update(carry, i):
            energy, state = carry

            def loss(energy):
                return objective.loss(jr.fold_in(run_key, i), energy, state, data, None)

            slope, (state, metrics) = jax.grad(loss, has_aux=True)(energy)
            energy = jax.tree.map(lambda p, g: p - rate * g, energy, slope)
            a = energy.matrix
            entries = jnp.stack([a[0, 0], a[1, 1], 0.5 * (a[0, 1] + a[1, 0])])
            return (energy, state), (entries, metrics["step_size"])

        begun = objective.init(init_key, UNIT, data)
        return jax.lax.scan(update, begun, jnp.arange(num_train))[1]

    entries, steps = jax.jit(jax.vmap(run))(jr.split(jr.key(0), num_replicates))
    late = num_train // 2
    return np.asarray(entries[:, late:].mean(1), float), np.asarray(steps[:, late:], float)


def warmed_up(kernel):
    """The step size to which a warm-up comes on the same target."""
    draws = ebm.sample(
        jr.key(0),
        UNIT,
        kernel,
        num_chains=100,
        num_warmup=300,
        num_samples=1,
        progress_bar=False,
    )
    return float(draws.state.adapt_state.step_size)


def exactly_one(steps):
    return np.ones(len(steps))


def of_langevin(steps):
    return ((1 - np.sqrt(1 - 2 * steps)) / steps).mean(1)


#: What is learned of a unit variance, and the bias beyond that.
KERNELS = {
    "RandomWalkMetropolis": (ebm.RandomWalkMetropolis(), exactly_one, 0.0),
    "UnadjustedLangevin": (ebm.UnadjustedLangevin(step_size=0.1), of_langevin, 0.0),
    "MALA": (ebm.MALA(), exactly_one, 0.0),
    "AutoMALA": (ebm.AutoMALA(), exactly_one, 0.0),
    "BarkerMH": (ebm.BarkerMH(), exactly_one, 0.0),
    "HMC": (ebm.HMC(), exactly_one, 0.0),
    "NUTS": (ebm.NUTS(), exactly_one, 0.0),
    "GHMC": (ebm.GHMC(), exactly_one, 0.0),
    "UnadjustedMCLMC": (ebm.UnadjustedMCLMC(), exactly_one, 0.02),
    "AdjustedMCLMC": (ebm.AdjustedMCLMC(), exactly_one, 0.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_learns_the_precision_at_its_own_step(name):
    """To 1 % of the precision; the step is that of a warm-up, which tunes in the same way."""
    kernel, answer, bias = KERNELS[name]
    entries, steps = learn(kernel)
    diagonal = answer(steps)[:, None]
    errors = entries - np.concatenate([diagonal, diagonal, 0 * diagonal], 1)
    std_error = errors.std(0, ddof=1) / np.sqrt(len(errors))
    excess = np.maximum(np.abs(errors.mean(0)) - bias, 0) / std_error
    last, expected = steps[:, -1].mean(), warmed_up(kernel)
    print(
        f"{name}: errors {errors.mean(0)} +- {std_error}, step {last:.3f}, warm {expected:.3f}"
    )
    assert std_error.max() < 0.01
    assert excess.max() < 4
    assert 2 / 3 < last / expected < 3 / 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["UnadjustedMCLMC", "AutoMALA"])
def test_the_step_size_follows_what_a_kernel_is_tuned_by(name):
    """An acceptance that is one at any step, or that a search has chosen, steers nothing."""
    kernel = KERNELS[name][0]

    def update(step_size, i):
        move = kernel.move.with_step(step_size)
        run = run_from(jr.fold_in(jr.key(0), i), move, UNIT, white_data(256), 5)
        step_size = step_adaptation(kernel).follow(step_size, run.tuning)
        return step_size, (step_size, run.tuning)

    start = jnp.asarray(kernel.move.step_size)
    _, (steps, tunings) = jax.jit(lambda: jax.lax.scan(update, start, jnp.arange(400)))()
    print(f"step {steps[-1]:.3f}, tuning {tunings[-100:].mean():.3f}")
    assert abs(tunings[-100:].mean() - kernel.adaptation.target_tuning) < 0.02
    assert np.ptp(np.log(steps[-100:])) < 0.2
    assert steps[-1] < 2


def test_a_kernel_of_several_temperatures_is_refused():
    """Its replicas would all begin anew in each step, where one chain was."""
    with pytest.raises(TypeError, match="must move by itself, got ParallelTempering"):
        ebm.ContrastiveDivergence(ebm.ParallelTempering(ebm.MALA(), 4.0))
