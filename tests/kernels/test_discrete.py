"""Gibbs kernels against the enumeration of all states."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC

import numpyro_ebm as ebm
from numpyro_ebm.energies import PottsModel

RBM = ebm.BernoulliRBM(
    np.array([[1.0, -0.5, 0.8], [0.3, 1.2, -1.0], [-0.7, 0.4, 0.9], [0.2, -1.1, 0.5]]),
    [0.1, -0.4, 0.2, 0.0],
    [0.3, -0.1, 0.2],
)
ENERGIES = {
    "torus of odd sides": ebm.IsingModel((3, 3), 0.4, 0.1),
    "torus of even sides": ebm.IsingModel((2, 4), 0.3),
    "free lattice": ebm.IsingModel((3, 3), 0.4, -0.2, periodic=False),
    "odd ring": ebm.IsingModel((5,), 0.6, 0.1),
    "strip of one row": ebm.IsingModel((1, 4), 0.5),
    "RBM": RBM,
    "three labels": PottsModel((4,), 3, 0.7, [0.2, -0.1, 0.0]),
    "RBM of labels": ebm.energies.CategoricalRBM(
        np.linspace(-1, 1, 24).reshape(3, 4, 2) ** 3, np.zeros((3, 4)), [0.3, -0.2]
    ),
    "four labels on a graph": PottsModel((3,), 4, -0.8, edges=[(0, 1), (0, 2)]),
}
KERNELS = {
    "BlockGibbs": (ebm.BlockGibbs(), 1),
    "GibbsWithGradients": (ebm.GibbsWithGradients(), 5),
}
each_kernel = pytest.mark.parametrize(("kernel", "thinning"), KERNELS.values(), ids=KERNELS)


def all_states(energy):
    levels, size = np.asarray(energy.levels), int(np.prod(energy.event_shape))
    digits = np.arange(len(levels) ** size)[:, None] // len(levels) ** np.arange(size)
    values = levels[digits % len(levels)]
    return jnp.asarray(values.reshape(-1, *energy.event_shape), float)


def total_variation(draws, energy):
    levels, size = np.asarray(energy.levels), int(np.prod(energy.event_shape))
    digits = np.searchsorted(levels, np.asarray(draws).reshape(-1, size))
    words = digits @ len(levels) ** np.arange(size)
    shares = np.bincount(words, minlength=len(levels) ** size) / len(words)
    truth = jax.nn.softmax(-jax.vmap(energy)(all_states(energy)))
    return 0.5 * np.abs(shares - truth).sum()


def run(energy, kernel, thinning, num_draws=700):
    return ebm.sample(
        jr.key(0),
        energy,
        kernel,
        num_chains=1000,
        num_warmup=100,
        num_samples=num_draws * thinning,
        thinning=thinning,
        progress_bar=False,
    )


def params():
    """All pairs; slow are the single flips of more than five spins."""
    for kernel, arguments in KERNELS.items():
        for name, energy in ENERGIES.items():
            is_slow = kernel == "GibbsWithGradients" and np.prod(energy.event_shape) > 5
            marks = pytest.mark.slow if is_slow else ()
            yield pytest.param(energy, *arguments, marks=marks, id=f"{kernel}-{name}")


@pytest.mark.slow
@pytest.mark.parametrize(("energy", "kernel", "thinning"), list(params()))
def test_total_variation_to_enumeration(energy, kernel, thinning):
    draws = run(energy, kernel, thinning)
    assert set(np.unique(draws.values)) == set(energy.levels)
    distance = total_variation(draws.values, energy)
    print(f"total variation {distance:.4f} of {draws.values.shape[:2]} draws")
    assert distance < 0.02


@pytest.mark.slow
def test_another_coupling_would_be_seen():
    energy = ENERGIES["torus of odd sides"]
    draws = run(ebm.IsingModel((3, 3), 0.42, 0.1), ebm.BlockGibbs(), 1)
    assert total_variation(draws.values, energy) > 0.02


@pytest.mark.slow
def test_two_colors_on_an_odd_torus_would_be_seen():
    class Checkerboard(ebm.AbstractEnergy):
        """Draws neighbours at once where the colors meet."""

        ising: ebm.IsingModel
        event_shape: tuple[int, ...] = (3, 3)
        levels = (-1.0, 1.0)

        def __call__(self, x):
            return self.ising(x)

        def gibbs_sweep(self, rng_key, x):
            colors = np.indices((3, 3)).sum(0) % 2
            for color, key in enumerate(jr.split(rng_key)):
                up = jr.bernoulli(key, jax.nn.sigmoid(2 * self.ising._field_at(x)))
                x = jnp.where(colors == color, 2.0 * up - 1, x)
            return x

    energy = ENERGIES["torus of odd sides"]
    draws = run(Checkerboard(energy), ebm.BlockGibbs(), 1)
    assert total_variation(draws.values, energy) > 0.02


@pytest.mark.slow
def test_gibbs_with_gradients_takes_sums_temperatures_and_distributions():
    energy = 0.5 * RBM + dist.Bernoulli(0.3).expand([4]).to_event(1)
    draws = run(energy, ebm.GibbsWithGradients(), 5)

    class Levels:
        levels, event_shape = (0.0, 1.0), (4,)

        def __call__(self, x):
            return energy(x)

    assert total_variation(draws.values, Levels()) < 0.02


def test_a_flip_that_the_gradient_foretells_exactly_is_accepted_by_its_balance(x64):
    r"""For a quadratic energy $-2x_i\partial_i E$ is the exact change of a flip."""
    energy = ebm.IsingModel((3, 3), 0.4, 0.1)
    x = all_states(energy)[77]
    move = ebm.GibbsWithGradients().move
    _, info = move.step(jr.key(3), move.init(jr.key(0), x, energy), energy)
    y = info.proposal.position

    def rates(x):
        flips = [x.reshape(-1).at[i].multiply(-1).reshape(3, 3) for i in range(9)]
        return jax.nn.softmax(0.5 * jnp.array([energy(x) - energy(flip) for flip in flips]))

    i = int(jnp.argmax((x != y).reshape(-1)))
    log_ratio = energy(x) - energy(y) + jnp.log(rates(y)[i]) - jnp.log(rates(x)[i])
    np.testing.assert_allclose(
        info.acceptance_rate, jnp.exp(jnp.minimum(0, log_ratio)), atol=1e-12
    )


class Steps(ebm.AbstractEnergy):
    """Four grey levels, of an energy whose gradient foretells something, but not all."""

    event_shape: tuple[int, ...] = (2,)
    levels = (0.0, 1.0, 2.0, 4.0)

    def __call__(self, x):
        return 0.3 * jnp.sum((x - 1.5) ** 2) + 0.4 * jnp.sin(x[0] * x[1])


def transition_matrix(energy):
    """Of Gibbs with gradients, from its proposals and acceptances one by one."""
    states = np.asarray(all_states(energy))
    levels = jnp.asarray(energy.levels)

    def proposal(x):
        change = 0.5 * (x[:, None] - levels) * jax.grad(energy)(x)[:, None]
        stays = x[:, None] == levels
        return jax.nn.softmax(jnp.where(stays, -jnp.inf, change).reshape(-1))

    index = {tuple(x): i for i, x in enumerate(states)}
    matrix = np.zeros((len(states), len(states)))
    for i, x in enumerate(states):
        for n, chance in enumerate(np.asarray(proposal(x)).reshape(-1)):
            unit, level = divmod(n, len(levels))
            if x[unit] != levels[level]:
                y = x.copy()
                y[unit] = levels[level]
                matrix[i, index[tuple(y)]] = chance
    return states, matrix


def test_detailed_balance_of_changes_among_four_levels(x64):
    r"""$\pi_x q_{xy}\alpha_{xy}$ is symmetric for the acceptance that the kernel reports."""
    energy, move = Steps(), ebm.GibbsWithGradients().move
    states, chances = transition_matrix(energy)
    log_p = -jax.vmap(energy)(states)

    @jax.jit
    def step(key, x):
        _, info = move.step(key, move.init(key, x, energy), energy)
        return info.proposal.position, info.acceptance_rate

    seen = set()
    for n in range(400):
        x = n % len(states)
        y, acceptance = step(jr.key(n), states[x])
        y = int(np.flatnonzero((states == np.asarray(y)).all(1))[0])
        log_ratio = log_p[y] - log_p[x] + np.log(chances[y, x]) - np.log(chances[x, y])
        np.testing.assert_allclose(acceptance, np.exp(min(0, log_ratio)), atol=1e-10)
        seen.add((x, y))
    assert len(seen) > 60


@pytest.mark.slow
def test_changes_among_four_levels():
    draws = run(Steps(), ebm.GibbsWithGradients(), 5)
    assert total_variation(draws.values, Steps()) < 0.02


@pytest.mark.slow
def test_kernels_cross_to_numpyro_distributions_of_labels():
    energy = PottsModel((3,), 3, 0.7) + dist.Categorical(jnp.array([0.2, 0.3, 0.5])).expand(
        [3]
    ).to_event(1)

    class Levels:
        levels, event_shape = (0.0, 1.0, 2.0), (3,)

        def __call__(self, x):
            return energy(x)

    draws = run(energy, ebm.GibbsWithGradients(), 5)
    assert total_variation(draws.values, Levels()) < 0.02


def test_block_gibbs_of_real_visible_units():
    rbm = ebm.energies.GaussianBernoulliRBM(
        np.array([[0.5, -1.0], [1.0, 0.3]]), [0.1, 0.2], [0.3, -0.1]
    )
    draws = run(rbm, ebm.BlockGibbs(), 1, 100).values
    for name, values in (("mean", draws), ("variance", (draws - rbm.mean) ** 2)):
        means = np.asarray(values.mean(1))
        z = (means.mean(0) - getattr(rbm, name)) / (means.std(0) / np.sqrt(len(means)))
        assert np.abs(z).max() < 4


@pytest.mark.slow
@each_kernel
def test_under_mcmc(kernel, thinning, capsys):
    for method in ("sequential", "vectorized"):
        mcmc = MCMC(
            type(kernel)(potential_fn=RBM),
            num_warmup=100,
            num_samples=3000,
            num_chains=2,
            chain_method=method,
            progress_bar=False,
        )
        mcmc.run(jr.key(0))
        assert abs(mcmc.get_samples().mean(0) - RBM.mean).max() < 0.1
    mcmc.print_summary()
    assert "n_eff" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda: ebm.BlockGibbs(lambda: None), ValueError, "not a `model`"),
        (
            lambda: ebm.sample(jr.key(0), 0.5 * RBM, ebm.BlockGibbs()),
            TypeError,
            "needs an energy that knows its blocks",
        ),
        (
            lambda: ebm.sample(jr.key(0), ebm.energies.Banana(), ebm.GibbsWithGradients()),
            TypeError,
            "needs an energy of units with the same few values",
        ),
    ],
)
def test_bad_input(run, error, message):
    with pytest.raises(error, match=message):
        run()
