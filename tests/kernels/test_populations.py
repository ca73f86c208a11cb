"""Tempered SMC and annealed Langevin dynamics."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.stats import norm

import numpyro_ebm as ebm
from numpyro_ebm.chains import Annealing
from numpyro_ebm.kernels import as_sampler, run_chains

WEIGHTS = np.array([0.7, 0.3])
MODES = ebm.GaussianMixture(WEIGHTS, [[-4.0, 0.0], [4.0, 0.0]], [np.eye(2)] * 2)
REFERENCE = dist.Normal(0, 6).expand([2]).to_event(1)


def run(energy, sampler, num_chains=32, num_samples=200):
    return ebm.sample(
        jr.key(0),
        energy,
        sampler,
        num_chains=num_chains,
        num_samples=num_samples,
        progress_bar=False,
    )


def assert_statistics(draws, truths):
    """Means over populations, which are independent, within four standard errors."""
    for name, (statistic, truth) in truths.items():
        means = np.asarray(statistic(draws.values).mean(1))
        z = (means.mean(0) - truth) / (means.std(0, ddof=1) / np.sqrt(len(means)))
        assert np.abs(z).max() < 4, (name, z)


TRUTHS = {
    "weight": (lambda x: x[..., 0] < 0, 0.7),
    "mean": (lambda x: x, np.array([-1.6, 0.0])),
    "square": (lambda x: x**2, np.array([17.0, 1.0])),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "kernel",
    [
        ebm.MALA(),
        pytest.param(ebm.HMC(num_steps=4, trajectory_length=None), marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore:`sample`")  # Of a population whose last step was too long.
def test_tempered_smc(kernel):
    draws = run(MODES, ebm.TemperedSMC(kernel, REFERENCE))
    assert draws.values.shape == (32, 200, 2)
    assert draws.accept_prob.mean() > 0.4
    assert_statistics(draws, TRUTHS)


@pytest.mark.slow
def test_another_target_would_be_seen():
    draws = run(1.1 * MODES, ebm.TemperedSMC(ebm.MALA(), REFERENCE))
    with pytest.raises(AssertionError, match=r"weight|square"):
        assert_statistics(draws, TRUTHS)


EXACT = {
    "MALA": ebm.MALA(),
    "RandomWalkMetropolis": ebm.RandomWalkMetropolis(),
    "AutoMALA": ebm.AutoMALA(),
    "BarkerMH": ebm.BarkerMH(),
    "HMC": ebm.HMC(num_steps=3, trajectory_length=None),
    "NUTS": ebm.NUTS(),
    "GHMC": ebm.GHMC(),
    "GHMC, with a metric": ebm.GHMC(inverse_mass_matrix=np.full(3, 0.2)),
    "AdjustedMCLMC": ebm.AdjustedMCLMC(),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "MALA" else pytest.mark.slow) for name in EXACT],
)
def test_tempered_smc_knows_its_normaliser(name):
    r"""$E[\hat Z] = Z$, at the step to which a kernel is tuned."""
    target = ebm.energies.FunctionEnergy(lambda x: 0.5 * jnp.sum((x - 1) ** 2) / 0.25, (3,))
    reference = dist.Normal(0, 1).expand([3]).to_event(1)
    smc = ebm.TemperedSMC(EXACT[name], reference)
    keys = jr.split(jr.key(0), 200)
    runs = jax.jit(jax.vmap(lambda key: smc.draw(key, target, 100)))(keys)
    ratio = np.exp(np.asarray(runs.log_z, float) - 1.5 * np.log(2 * np.pi * 0.25))
    error = ratio.std() / np.sqrt(len(ratio))
    print(f"{name}: Z off by {ratio.mean() - 1:.4f} +- {error:.4f}", runs.accept_prob.mean())
    assert error < 0.02
    assert abs(ratio.mean() - 1) < 4 * error
    if name != "AutoMALA":
        target_accept_prob = smc.sampler.adaptation.target_tuning
        assert abs(runs.accept_prob.mean() - target_accept_prob) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MALA", "AutoMALA", "GHMC"])
def test_the_step_size_goes_where_a_kernel_is_tuned(name):
    """From a step that is far too short, at one temperature."""
    kernel, target = EXACT[name], ebm.Gaussian(np.zeros(3), np.eye(3))
    move = eqx.tree_at(lambda move: move.step_size, kernel.move, jnp.asarray(0.01))
    annealing = Annealing(as_sampler(kernel), target, target, 5)

    def advance(particles, _):
        return annealing.move_at(particles, jnp.ones(())), particles.step_size

    start = annealing.start(jr.key(0), 500)
    particles, steps = jax.jit(lambda start: jax.lax.scan(advance, start, length=60))(start)
    tuned = eqx.tree_at(lambda move: move.step_size, move, steps[-20:].mean())
    points = particles.chains.z
    *_, tuning = run_chains(jr.key(1), tuned, target, points, 40)
    print(f"{name}: step {steps[-1]:.3f}, tuning {tuning:.3f}")
    assert abs(tuning - kernel.adaptation.target_tuning) < 0.03


def smoothed(x, noise_scale):
    covariance = (0.1 + noise_scale**2) * jnp.eye(2)
    return ebm.GaussianMixture(WEIGHTS, [[-4.0, 0.0], [4.0, 0.0]], jnp.stack([covariance] * 2))(
        x
    )


CONDITIONAL = ebm.ConditionalEnergy(smoothed, (2,))
SCALES = np.geomspace(8, 0.1, 10)


@pytest.mark.slow
def test_annealed_mala_ends_in_the_law_of_the_last_scale():
    sampler = ebm.AnnealedLangevin(SCALES, kernel=ebm.MALA(step_size=0.3), num_steps=100)
    draws = run(CONDITIONAL, sampler)
    last = 0.1 + SCALES[-1] ** 2
    # The weights are those at which the modes parted, up to what the annealing costs.
    assert abs((draws.values[..., 0] < 0).mean() - 0.7) < 0.03
    assert_statistics(draws, {"square": (lambda x: x[..., 1] ** 2, last)})


@pytest.mark.slow
def test_annealed_unadjusted_langevin_is_biased_as_it_says():
    eta = 1.0
    sampler = ebm.AnnealedLangevin(SCALES, kernel=ebm.UnadjustedLangevin(step_size=eta))
    draws = run(CONDITIONAL, sampler, num_samples=500)
    last = 0.1 + SCALES[-1] ** 2
    # Each scale begins where the last one left it, and shrinks that by its own steps.
    variance = SCALES[0] ** 2
    for scale in SCALES:
        a, step = 1 / (0.1 + scale**2), eta * scale**2
        limit = 1 / (a * (1 - step * a / 2))
        variance = (1 - step * a) ** 200 * (variance - limit) + limit
    assert variance > 1.02 * last
    assert_statistics(draws, {"square": (lambda x: x[..., 1] ** 2, variance)})


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda: ebm.AnnealedLangevin([1.0, 2.0]), ValueError, "`noise_scales` must fall"),
        (
            lambda: ebm.AnnealedLangevin([2.0, 1.0], kernel=ebm.NUTS()),
            ValueError,
            "whose step goes with the square of the noise",
        ),
        (
            lambda: run(MODES, ebm.AnnealedLangevin([2.0, 1.0])),
            TypeError,
            "must be a `ConditionalEnergy",
        ),
        (
            lambda: ebm.TemperedSMC(ebm.MALA(), REFERENCE, target_ess=2.0),
            ValueError,
            "target_ess",
        ),
        (
            lambda: ebm.TemperedSMC(ebm.MALA(), lambda x: x @ x),
            ValueError,
            "must have an exact sampler",
        ),
        (
            lambda: ebm.TemperedSMC(ebm.ParallelTempering(ebm.MALA(), 2.0), REFERENCE),
            TypeError,
            "must move by itself",
        ),
        (
            lambda: ebm.TemperedSMC(ebm.UnadjustedMCLMC(), REFERENCE),
            ValueError,
            "`UnadjustedMCLMC` is biased",
        ),
    ],
)
def test_bad_input(run, error, message):
    with pytest.raises(error, match=message):
        run()


@pytest.mark.slow
def test_draws_of_the_reference_inside_of_a_wall_are_dropped():
    """A tenth of dead draws used to keep the effective size, and so the path, at zero."""
    normal = dist.Normal(0, 1).expand([2]).to_event(1)
    energy = ebm.Tilted(
        lambda x: jnp.where(x[0] > -1.2816, 0.5 * jnp.sum(x**2), jnp.inf), normal
    )
    smc = ebm.TemperedSMC(ebm.MALA(), normal)
    draws = run(energy, smc)
    assert (draws.values[..., 0] > -1.2816).all()
    assert draws.accept_prob.mean() > 0.4
    # A normal of half the variance, cut off at -1.2816.
    cut = -1.2816 * np.sqrt(2)
    mills = norm.pdf(cut) / norm.sf(cut)
    assert_statistics(draws, {"mean": (lambda x: x, np.array([mills / np.sqrt(2), 0.0]))})
    keys = jr.split(jr.key(1), 100)
    ratio = np.exp(jax.vmap(lambda key: smc.draw(key, energy, 100))(keys).log_z)
    error = ratio.std() / 10
    assert abs(ratio.mean() - 0.5 * norm.sf(cut)) < 4 * error < 0.02


@pytest.mark.filterwarnings("ignore:`sample`")
def test_a_population_that_never_leaves_its_reference_is_not_returned():
    far = ebm.Tilted(lambda x: jnp.where(x[0] > 50, 0.0, jnp.inf), REFERENCE)
    assert jnp.isnan(run(far, ebm.TemperedSMC(ebm.MALA(), REFERENCE), 2).values).all()
