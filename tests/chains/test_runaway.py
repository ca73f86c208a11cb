"""What overflows is rejected, and said to have diverged."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from blackjax.mcmc.metrics import default_metric
from helpers import KERNELS, quick
from numpyro.infer import MCMC

import numpyro_ebm as ebm
from numpyro_ebm.chains._move import settle
from numpyro_ebm.kernels import run_chains
from numpyro_ebm.kernels._hamiltonian import euclidean

DENSE = np.full((3, 3), 0.99) + 0.01 * np.eye(3)
FIXED = {"adapt_step_size": False, "adapt_mass_matrix": False}
each_kernel = pytest.mark.parametrize("Kernel", quick(KERNELS, ["MALA", "HMC", "BarkerMH"]))


def test_no_momentum_has_a_kinetic_energy_of_minus_infinity():
    """A product of a large momentum with a dense metric overflows with both signs."""
    exact, safe = default_metric(jnp.asarray(DENSE)), euclidean(jnp.asarray(DENSE))
    assert exact.kinetic_energy(MOMENTUM) == -jnp.inf
    assert jnp.isnan(safe.kinetic_energy(MOMENTUM))
    velocity = jax.grad(safe.kinetic_energy)(jnp.arange(3.0))
    np.testing.assert_allclose(velocity, DENSE @ jnp.arange(3.0), rtol=1e-6)


#: A momentum whose kinetic energy, in the metric `DENSE`, overflows to minus infinity.
MOMENTUM = 2.28e19 * jnp.array([1.0, -0.85, -0.85])


def precipice(x):
    """Half a step of one hurls every chain off it with that momentum."""
    return jnp.where(jnp.abs(x).max() < 1, -2 * MOMENTUM @ x, 1e30)


@pytest.mark.parametrize(
    "kernel",
    [
        ebm.HMC(num_steps=1, trajectory_length=None, step_size=1.0, inverse_mass_matrix=DENSE),
        ebm.NUTS(step_size=1.0, inverse_mass_matrix=DENSE),
        ebm.GHMC(step_size=1.0, inverse_mass_matrix=DENSE),
        ebm.MALA(step_size=0.5, inverse_mass_matrix=DENSE),
        ebm.AutoMALA(step_size=0.5, inverse_mass_matrix=DENSE),
    ],
    ids=lambda kernel: type(kernel).__name__,
)
def test_a_trajectory_that_runs_away_is_not_accepted(kernel):
    ends, state, _ = run_chains(jr.key(0), kernel.move, precipice, jnp.zeros((20, 3)), 1)
    assert (ends == 0).all()
    assert (state.num_diverging == 1).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`sample`")
def test_a_dense_metric_of_many_chains():
    """One of 400 chains ended at 5e8 in two runs of three."""
    for seed in range(3):
        kernel, energy = ebm.HMC(dense_mass=True), ebm.energies.DoubleWell(dim=3)
        sizes = {"num_chains": 400, "num_warmup": 300, "num_samples": 300}
        draws = ebm.sample(jr.key(seed), energy, kernel, **sizes, progress_bar=False)
        assert jnp.abs(draws.values).max() < 10


def cliff(x):
    """A normal whose energy drops to minus infinity, or is bounded wherever one is lost."""
    return jnp.where(x[0] > 1.5, -jnp.inf, jnp.where(jnp.isfinite(x).all(), 0.5 * x @ x, 0.0))


@each_kernel
def test_a_pit_without_a_bottom_is_not_entered(Kernel):
    """Whatever the kernel: the chain stays, as `run_chains` and `MCMC` move it."""
    kernel = Kernel(step_size=0.5, **FIXED)
    ends, state, _ = run_chains(jr.key(0), kernel.move, cliff, jnp.zeros((100, 2)), 50)
    assert (ends[:, 0] <= 1.5).all()
    assert jnp.isfinite(state.move_state.logdensity).all()
    assert ends.std() > 0.3
    run = MCMC(
        Kernel(potential_fn=cliff, step_size=0.5, **FIXED),
        num_warmup=0,
        num_samples=50,
        num_chains=20,
        chain_method="vectorized",
        progress_bar=False,
    )
    run.run(jr.key(0), init_params=jnp.zeros((20, 2)))
    assert (run.get_samples()[:, 0] <= 1.5).all()
    if Kernel is not ebm.RandomWalkMetropolis:
        assert run.get_extra_fields()["diverging"].any()


def test_the_engine_keeps_no_state_of_an_infinite_energy():
    move = ebm.MALA().move
    old = move.init(jr.key(0), jnp.zeros(2), lambda x: 0.5 * x @ x)
    new = old._replace(position=jnp.ones(2), logdensity=jnp.array(jnp.inf))
    report = ebm.chains.report(1.0)
    state, settled = settle(old, new, report)
    assert (state.position == 0).all()
    assert settled.diverging
    assert settled.accept_prob == settled.tuning == 0
    kept, same = settle(old, new._replace(logdensity=jnp.array(-1.0)), report)
    assert (kept.position == 1).all()
    assert not same.diverging
    assert same.accept_prob == 1


def test_barker_on_a_steep_slope():
    """Its proposal's density took the exponential of 100 and accepted nothing."""
    draws = ebm.sample(
        jr.key(0),
        lambda x: 1e3 * jnp.sum(jnp.abs(x)),
        ebm.BarkerMH(step_size=1.0, inverse_mass_matrix=[1.0], **FIXED),
        num_warmup=0,
        num_samples=60,
        init_params=jnp.full((50, 1), 20.0),
        progress_bar=False,
    )
    assert jnp.abs(draws.values[:, -1]).max() < 1
