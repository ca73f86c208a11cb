"""HMC and its kin: closed-form acceptance, reversibility, resonance."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import COVARIANCE, assert_moments

import numpyro_ebm as ebm
from numpyro_ebm.chains import blackjax, report
from numpyro_ebm.kernels import Adaptation, AdjustedMCLMCMove, GHMCMove, HMCMove, run_chains
from numpyro_ebm.kernels._hamiltonian import jittered

METRICS = {"diagonal": np.array([2.0, 0.3]), "dense": COVARIANCE}


@eqx.filter_jit
def leapfrog(x, p, energy, step, num_steps, metric):
    """Written out, as a second opinion: the end, its momentum turned around."""
    matrix = jnp.diag(metric) if metric.ndim == 1 else metric

    def advance(_, state):
        x, p = state
        p = p + 0.5 * step * ebm.score(energy, x)
        x = x + step * matrix @ p
        return x, p + 0.5 * step * ebm.score(energy, x)

    x, p = jax.lax.fori_loop(0, num_steps, advance, (x, p))
    return x, -p


def hamiltonian(x, p, energy, metric):
    matrix = jnp.diag(metric) if metric.ndim == 1 else metric
    return energy(x) + 0.5 * p @ matrix @ p


def check_reversible(moved, start, proposal, acceptance, energy, metric):
    """`moved` twice is where we were, and the acceptance is that of the energy's change."""
    (x, p), (y, q) = start, proposal
    for ours, theirs in zip(moved(x, p), (y, q), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-10)
    for ours, theirs in zip(moved(y, q), (x, p), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-10)
    change = hamiltonian(y, q, energy, metric) - hamiltonian(x, p, energy, metric)
    np.testing.assert_allclose(acceptance, jnp.exp(jnp.minimum(0, -change)), atol=1e-10)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
@pytest.mark.parametrize("num_steps", [None, 7])
def test_hmc_is_reversible(metric, num_steps, x64):
    energy, metric = ebm.energies.Banana(), jnp.asarray(metric)
    move = HMCMove(0.2, metric, 1.5, num_steps)
    transition = jax.jit(lambda key, state: move.step(key, state, energy))
    for seed in range(20):
        key, start_key = jr.split(jr.key(seed))
        x = jr.normal(start_key, (2,))
        _, info = transition(key, move.init(key, x, energy))
        step, n = map(jnp.asarray, (0.2, 7))
        if num_steps is None:
            step, n = jittered(jr.split(key)[1], 0.2, 1.5)
        assert info.num_integration_steps == n
        moved = partial(leapfrog, energy=energy, step=step, num_steps=n, metric=metric)
        proposal = info.proposal.position, info.proposal.momentum
        arguments = (x, info.momentum), proposal, info.acceptance_rate, energy, metric
        check_reversible(moved, *arguments)
    with pytest.raises(AssertionError):  # A momentum that was not turned around.
        check_reversible(lambda x, p: moved(x, -p), *arguments)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_ghmc_is_reversible_and_refreshes_a_part_of_its_momentum(metric, x64):
    energy, metric = ebm.energies.Banana(), jnp.asarray(metric)
    move, step = GHMCMove(0.3, metric, trajectory_length=2.0), 0.3
    transition = jax.jit(lambda key, state: move.step(key, state, energy))
    kept = np.exp(-0.3 / 2.0)
    fresh, accepted = [], []
    for seed in range(40):
        key, start_key = jr.split(jr.key(seed))
        state = move.init(key, jr.normal(start_key, (2,)), energy)
        new, info = transition(key, state)
        fresh.append((info.momentum - kept * state.momentum) / np.sqrt(1 - kept**2))
        proposal = info.proposal.position, info.proposal.momentum
        check_reversible(
            partial(leapfrog, energy=energy, step=step, num_steps=1, metric=metric),
            (state.position, info.momentum),
            proposal,
            info.acceptance_rate,
            energy,
            metric,
        )
        # A rejection turns the momentum around.
        end = proposal[1] if info.is_accepted else info.momentum
        np.testing.assert_allclose(new.momentum, -end)
        assert abs(new.slice) <= 1
        accepted.append(bool(info.is_accepted))
    assert set(accepted) == {True, False}
    inverse_mass = np.diag(metric) if metric.ndim == 1 else metric
    white = np.stack(fresh) @ np.linalg.cholesky(inverse_mass)
    assert abs((white**2).mean() - 1) < 4 * np.sqrt(2 / white.size)


def test_adjusted_mclmc_is_reversible(x64):
    energy, metric = ebm.energies.Banana(), jnp.asarray(METRICS["diagonal"])
    move = AdjustedMCLMCMove(0.3, metric, trajectory_length=1.5)
    integrators = blackjax().mcmc.integrators
    one_step = integrators.isokinetic_mclachlan(lambda x: -energy(x), metric)

    @jax.jit
    def trajectory(x, u, step, n):
        value, gradient = jax.value_and_grad(lambda x: -energy(x))(x)

        def advance(_, carry):
            state, change = one_step(carry[0], step)
            return state, carry[1] + change

        state = integrators.IntegratorState(x, u, value, gradient)
        state, kinetic = jax.lax.fori_loop(0, n, advance, (state, jnp.zeros(())))
        return state.position, state.momentum, kinetic - state.logdensity + value

    transition = jax.jit(lambda key, state: move.step(key, state, energy))
    for seed in range(20):
        key, start_key = jr.split(jr.key(seed))
        x = jr.normal(start_key, (2,))
        _, info = transition(key, move.init(key, x, energy))
        step, n = jittered(jr.split(key)[1], 0.3, 1.5)
        y, v, change = trajectory(x, info.momentum, step, n)
        np.testing.assert_allclose(y, info.proposal.position, atol=1e-10)
        back, w, change_back = trajectory(y, -v, step, n)
        np.testing.assert_allclose(back, x, atol=1e-10)
        np.testing.assert_allclose(w, -info.momentum, atol=1e-10)
        np.testing.assert_allclose(change_back, -change, atol=1e-10)
        truth = jnp.exp(jnp.minimum(0, -change))
        np.testing.assert_allclose(info.acceptance_rate, truth, atol=1e-10)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 5])
def test_the_acceptance_of_hmc_is_the_closed_form(num_steps, x64):
    r"""$\Delta H = \frac{\epsilon^2\omega^4}{8}(q'^2 - q^2)$: a conserved shadow energy."""
    omega, step = 1.3, 0.9
    energy = ebm.as_energy(lambda x: 0.5 * (omega * x) ** 2, ())
    move = HMCMove(step, None, None, num_steps)
    transition = jax.jit(lambda key, state: move.step(key, state, energy))
    mutants = []
    for seed in range(20):
        q = 2 * jr.normal(jr.key(seed))
        _, info = transition(jr.key(seed), move.init(jr.key(0), q, energy))
        change = step**2 * omega**4 / 8 * (info.proposal.position**2 - q**2)
        truth, mutant = (jnp.exp(jnp.minimum(0, -factor * change)) for factor in (1, 2))
        np.testing.assert_allclose(info.acceptance_rate, truth, atol=1e-10)
        mutants.append(abs(info.acceptance_rate - mutant))
    assert max(mutants) > 1e-3  # A forgotten half would be seen.


@pytest.mark.parametrize(
    ("num_steps", "truth"), [(1, 0.8742), (2, 0.9200), (3, 0.9237), (5, 0.99538)]
)
@pytest.mark.filterwarnings("ignore:`sample`")  # A fixed length that resonates is stuck.
def test_the_mean_acceptance_of_hmc(num_steps, truth):
    r"""$E[\alpha] = 1 - \frac2\pi\arctan\sqrt{\mu/2}$ [Calvo et al. 2021]."""
    omega, step = 1.3, 0.9
    cos = 1 - (step * omega) ** 2 / 2
    turn = np.cos(num_steps * np.arccos(cos)) ** 2
    mu = (step * omega) ** 2 / 8 * (turn - 1 + (1 - turn) / (1 - (step * omega) ** 2 / 4))
    np.testing.assert_allclose(1 - 2 / np.pi * np.arctan(np.sqrt(mu / 2)), truth, atol=1e-4)
    draws = ebm.sample(
        jr.key(0),
        lambda x: 0.5 * (omega * x) ** 2,
        ebm.HMC(
            step_size=step,
            num_steps=num_steps,
            trajectory_length=None,
            adapt_step_size=False,
            adapt_mass_matrix=False,
        ),
        num_warmup=0,
        num_samples=200,
        init_params=jr.normal(jr.key(1), (2000,)) / omega,
        progress_bar=False,
    )
    means = draws.stats["accept_prob"].mean(1)
    assert abs(means.mean() - truth) < 4 * means.std() / np.sqrt(len(means)) + 1e-4


def resonance(kernel):
    """Chains from far in on a Gaussian, after 60 trajectories of a whole period each."""
    draws = ebm.sample(
        jr.key(0),
        lambda x: 0.5 * x**2,
        kernel,
        num_warmup=0,
        num_samples=60,
        init_params=0.1 * jr.normal(jr.key(1), (2000,)),
        progress_bar=False,
    )
    return float(draws.accept_prob.mean()), float(draws.values[:, -1].var())


def test_the_default_does_not_resonate():
    # 63 steps of 0.1 are a whole period.
    fixed = {"step_size": 0.1, "adapt_step_size": False, "adapt_mass_matrix": False}
    accepted, variance = resonance(ebm.HMC(num_steps=63, trajectory_length=None, **fixed))
    assert accepted > 0.99
    assert variance < 0.2  # It has hardly moved.
    accepted, variance = resonance(ebm.HMC(trajectory_length=2 * np.pi, **fixed))
    assert accepted > 0.99
    assert abs(variance - 1) < 4 * np.sqrt(2 / 2000)


def test_the_energy_of_a_rejected_proposal_is_that_of_the_start(x64):
    energy = ebm.as_energy(lambda x: 0.5 * x @ x, (2,))
    for move in (HMCMove(1.7, None, None, 3), GHMCMove(1.7)):
        seen = set()
        transition = jax.jit(lambda key, state, move=move: move.step(key, state, energy))
        for seed in range(30):
            state = move.init(jr.key(seed), jnp.ones(2), energy)
            new, info = transition(jr.key(seed + 100), state)
            momentum = info.proposal.momentum if info.is_accepted else info.momentum
            truth = energy(new.position) + 0.5 * momentum @ momentum
            np.testing.assert_allclose(info.energy, truth, rtol=1e-12)
            seen.add(bool(info.is_accepted))
        assert seen == {True, False}


def test_an_infinite_energy_leaves_the_slice_of_ghmc_finite():
    def energy(x):
        return jnp.where(x > 0, 0.5 * x**2, jnp.inf)

    draws = ebm.sample(
        jr.key(0),
        energy,
        ebm.GHMC(step_size=1.0, adapt_step_size=False, adapt_mass_matrix=False),
        num_warmup=100,
        num_samples=1000,
        init_params=jnp.ones(500),
        progress_bar=False,
    )
    assert jnp.isfinite(draws.state.move_state.slice).all()
    assert_moments(draws.values[..., None], [np.sqrt(2 / np.pi)], [1 - 2 / np.pi])


@pytest.mark.parametrize("kernel", [ebm.HMC, ebm.NUTS])
@pytest.mark.parametrize("step_size", [1e-4, 100.0])
def test_a_heuristic_finds_where_the_step_size_starts(kernel, step_size):
    r"""On $\tfrac12 x^2$ in 3 dimensions a leapfrog of 2 is unstable, of 1/2 accepted."""
    settings = {"step_size": step_size, "find_heuristic_step_size": True}
    gaussian = ebm.Gaussian(np.zeros(3), np.eye(3))
    found = kernel(potential_fn=gaussian, **settings).init(jr.key(0), 10).adapt_state.step_size
    assert 0.5 < found < 4
    quiet = {"num_warmup": 1, "num_samples": 1, "progress_bar": False}
    state = ebm.sample(jr.key(0), gaussian, kernel(**settings), **quiet).state
    # One update of dual averaging moves it by a bounded factor.
    assert 0.05 < state.adapt_state.step_size < 40
    fixed = kernel(potential_fn=gaussian, adapt_step_size=False, **settings)
    assert fixed.init(jr.key(0), 10).adapt_state.step_size == np.float32(step_size)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("regularize", [False, True])
def test_the_metric_is_the_covariance_of_its_window(dense, regularize):
    """Stan's shrinks it: n / (n + 5) of it, and 0.001 times the rest, of the scales found."""
    adaptation = Adaptation(False, True, dense, 0.8, regularize)
    move = ebm.NUTS().move
    points = np.random.default_rng(0).normal(size=(150, 3)) * [1, 2, 3]
    reports = jax.vmap(report)(jnp.ones(1))
    state = adaptation.init(move, jnp.zeros(3), 150)
    update, window = eqx.filter_jit(adaptation.update), []
    for i, (is_slow, is_end) in enumerate(np.asarray(state.schedule)):
        state = update(jnp.asarray(i), state, jnp.asarray(points[None, i]), reports)
        if is_slow:
            window.append(points[i])
        if is_end:
            n, covariance = len(window), np.cov(np.array(window).T)
            window = []
    if regularize:
        # The metric before that window was one.
        scales = np.diag(np.maximum(np.diag(covariance), 1))
        covariance = n / (n + 5) * covariance + 1e-3 * 5 / (n + 5) * scales
    expected = covariance if dense else np.diag(covariance)
    np.testing.assert_allclose(state.inverse_mass_matrix, expected, rtol=1e-4, atol=1e-5)


def test_what_of_numpyro_is_refused():
    with pytest.raises(NotImplementedError, match="forward_mode_differentiation"):
        ebm.NUTS(forward_mode_differentiation=True)
    assert ebm.NUTS(trajectory_length=8.0).move.max_tree_depth == 10


@pytest.mark.parametrize("metric", [np.full(2, 10.0), np.diag([0.1, 10.0])])
def test_a_momentum_that_persists_begins_with_the_masses_of_the_metric(metric):
    """Short chains from the target stay there: with unit masses, variances grew by 55 %."""
    kernel = ebm.GHMC(step_size=0.3, inverse_mass_matrix=metric)
    start = jr.normal(jr.key(0), (20_000, 2))

    def energy(x):
        return 0.5 * x @ x

    ends, *_ = jax.jit(lambda x: run_chains(jr.key(1), kernel.move, energy, x, 3))(start)
    # Less what chance gave the start: chains are in pairs with where they came from.
    gained = np.asarray(ends**2 - start**2)
    z = gained.mean(0) / (gained.std(0) / np.sqrt(len(gained)))
    print("variances gained", gained.mean(0), "z", z)
    assert np.abs(z).max() < 4
