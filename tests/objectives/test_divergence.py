"""Contrastive divergence: where it converges to, rightly or wrongly, and its buffer."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import numpyro_ebm as ebm
from numpyro_ebm.objectives._chains import chain_divergence


class Gauss(ebm.AbstractEnergy):
    r"""$\tfrac12 a (x-\mu)^2$, of which one may be frozen."""

    precision: jax.Array
    mean: jax.Array
    event_shape: tuple[int, ...] = eqx.field(static=True, default=(1,))

    def __call__(self, x):
        return 0.5 * ebm.unfreeze(self.precision) * jnp.sum((x - ebm.unfreeze(self.mean)) ** 2)


def flat(points):
    return jnp.zeros(len(points))


def unit_data(size):
    """Quantiles of N(0, 1), scaled to a variance of one exactly."""
    grid = dist.Normal(0, 1).icdf((jnp.arange(size) + 0.5) / size)
    return (grid / grid.std())[:, None]


def langevin(step_size):
    return ebm.UnadjustedLangevin(step_size=step_size, adapt_step_size=False)


def learn_precision(objective, num_steps=400, size=2000, rate=0.1):
    optim = optax.sgd(optax.cosine_decay_schedule(rate, num_steps))
    estimator = ebm.Estimator(objective, optim, ema_decay=0.99)
    start = Gauss(jnp.ones(()), ebm.freeze(jnp.zeros(())))
    result = estimator.run(jr.key(0), num_steps, start, unit_data(size), progress_bar=False)
    return result


def persistent(size=2000):
    return ebm.Persistent(size, reinit=0.0, noise=dist.Normal(0, 1).expand([1]).to_event(1))


@pytest.mark.parametrize(
    ("kernel", "answer"),
    [
        (langevin(0.2), (1 - np.sqrt(1 - 0.4)) / 0.2),
        (ebm.MALA(step_size=0.5, adapt_step_size=False), 1.0),
        (ebm.MALA(step_size=0.01), 1.0),
    ],
    ids=["Langevin", "MALA", "MALA that adapts"],
)
def test_persistent_chains_find_the_precision_or_their_kernel_s(kernel, answer):
    r"""Langevin steps of 0.2 learn $(1-\sqrt{1-2\eta})/\eta = 1.127$ of unit variance."""
    result = learn_precision(ebm.ContrastiveDivergence(kernel, 10, persistent()))
    print(f"precision {float(result.energy.precision):.4f}, expected {answer:.4f}")
    np.testing.assert_allclose(result.energy.precision, answer, atol=0.02)
    wrong = 1.0 if answer > 1.1 else 1.127
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(result.energy.precision, wrong, atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start_variance", "num_steps", "answer"),
    [(4.0, 20, 1.3129), (0.25, 20, 0.8948), (4.0, 5, 3.157)],
)
def test_short_runs_learn_where_they_end(start_variance, num_steps, answer):
    """Not the data's precision of one: a generator, and labelled as such."""
    noise = dist.Normal(0, start_variance**0.5).expand([1]).to_event(1)
    objective = ebm.ContrastiveDivergence(langevin(0.05), num_steps, ebm.FromNoise(noise))
    generator = learn_precision(objective, 500, rate=0.3).energy
    assert isinstance(generator, ebm.objectives.ShortRunGenerator)
    np.testing.assert_allclose(generator.potential.precision, answer, rtol=0.03)
    draws = jax.jit(lambda: generator.sample(jr.key(1), (20_000,)))()
    np.testing.assert_allclose(draws.var(), 1.0, atol=0.06)
    with pytest.raises(TypeError):
        ebm.as_energy(generator)


@pytest.mark.parametrize("num_steps", [1, 5])
def test_the_gradient_of_cd_k_is_shrunk(num_steps):
    r"""On a mean: $1-(1-\eta)^k$ of the likelihood's. No gradient goes through the chain."""
    eta, data = 0.2, unit_data(200_000) + 1.0
    objective = ebm.ContrastiveDivergence(langevin(eta), num_steps, ebm.FromData())
    energy = Gauss(ebm.freeze(jnp.ones(())), jnp.zeros(()))
    trainable, state = objective.init(jr.key(0), energy, data)

    def loss(mean):
        moved = eqx.tree_at(lambda e: e.mean, trainable, mean)
        return objective.loss(jr.key(1), moved, state, data, None)[0]

    def through_the_chain(mean):
        noise = jr.normal(jr.key(2), (num_steps, *data.shape))
        ends = data
        for each in noise:
            ends = ends - eta * (ends - mean) + np.sqrt(2 * eta) * each
        return 0.5 * ((data - mean) ** 2 - (ends - mean) ** 2).mean()

    shrink = 1 - (1 - eta) ** num_steps
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(0.0), -shrink, atol=0.01)
    assert abs(jax.grad(through_the_chain)(0.0) + shrink) > 0.1


def test_a_buffer_writes_back_to_the_slots_it_drew_from():
    start = ebm.Persistent(100, reinit=0.0)
    data = jr.normal(jr.key(0), (30, 2))
    buffer = start.init(jr.key(1), ebm.as_energy(lambda x: jnp.sum(x**2), (2,)), data)
    starts, buffer = start.begin(jr.key(2), buffer, data, flat)
    assert len(set(starts.slots.tolist())) == 30
    np.testing.assert_array_equal(starts.points, buffer.points[starts.slots])
    is_stuck = jnp.arange(30) < 2
    after = start.end(buffer, starts, starts.points + 1000.0, is_stuck, 7)
    assert set(np.flatnonzero(after.is_stuck)) == set(starts.slots[:2].tolist())
    moved = np.flatnonzero((after.points > 500).all(1))
    assert set(moved) == set(starts.slots.tolist())
    assert after.ages.sum() == 7 * 30
    untouched = np.setdiff1d(np.arange(100), starts.slots)
    np.testing.assert_array_equal(after.points[untouched], buffer.points[untouched])


@pytest.mark.slow
def test_no_chain_is_lost():
    """In 200 steps; of a buffer that writes first in, first out, most are copies by then."""
    start, size, batch = ebm.Persistent(1000, reinit=0.0), 1000, jnp.zeros((100, 1))
    names = jnp.arange(size, dtype=float)[:, None]
    buffer = start.init(jr.key(0), ebm.as_energy(lambda x: jnp.sum(x**2), (1,)), batch + 1)
    buffer, fifo = buffer._replace(points=names), names
    for i in range(200):
        starts, buffer = start.begin(jr.fold_in(jr.key(1), i), buffer, batch, flat)
        fifo = fifo.at[(100 * i + jnp.arange(100)) % size].set(fifo[starts.slots])
        buffer = start.end(buffer, starts, starts.points, jnp.zeros(100, bool), 1)
    assert len(set(buffer.points[:, 0].tolist())) == size
    assert len(set(fifo[:, 0].tolist())) < 0.5 * size


def test_a_share_of_the_chains_begins_anew():
    start = ebm.Persistent(10_000, reinit=0.05)
    data = jr.normal(jr.key(0), (10_000, 1))
    buffer = start.init(jr.key(1), ebm.as_energy(lambda x: jnp.sum(x**2), (1,)), data)
    buffer = buffer._replace(points=buffer.points + 1000.0, ages=buffer.ages + 5)
    starts, buffer = start.begin(jr.key(2), buffer, data, flat)
    fresh = (starts.points < 500)[:, 0]
    np.testing.assert_allclose(fresh.mean(), 0.05, atol=0.01)
    assert (buffer.ages[starts.slots][fresh] == 0).all()
    with pytest.raises(ValueError, match="at least the 10000 points of a batch, got 5"):
        ebm.Persistent(5).begin(jr.key(0), buffer, data, flat)


SPIN_KERNELS = [ebm.GibbsWithGradients(), ebm.BlockGibbs()]


@pytest.mark.slow
@pytest.mark.parametrize("kernel", SPIN_KERNELS, ids=lambda kernel: type(kernel).__name__)
def test_spins(kernel):
    truth = ebm.IsingModel((3, 3), 0.3, periodic=False)
    data = truth.sample(jr.key(0), (5000,))
    objective = ebm.ContrastiveDivergence(kernel, 10, ebm.Persistent(2000))
    optim = optax.sgd(optax.cosine_decay_schedule(0.02, 300))
    start = ebm.IsingModel((3, 3), 0.0, periodic=False)
    fitted = ebm.Estimator(objective, optim).run(
        jr.key(1), 300, start, data, batch_size=1000, progress_bar=False
    )
    exact = ebm.Estimator(ebm.MaximumLikelihood(ebm.Enumeration()), optax.sgd(0.02)).run(
        jr.key(1), 200, start, data, progress_bar=False
    )
    expected = exact.energy.energy.coupling
    np.testing.assert_allclose(fitted.energy.coupling, expected, atol=0.02)
    np.testing.assert_allclose(expected, 0.3, atol=0.03)


@pytest.mark.slow
def test_its_metrics_and_its_health():
    objective = ebm.ContrastiveDivergence(ebm.MALA(step_size=0.5), 3, persistent(500))
    result = learn_precision(objective, 50, 500)
    names = {"energy_gap", "accept_prob", "step_size", "movement", "duplicates", "age"}
    names |= {"stuck", "diverging"}
    assert set(result.metrics) == names
    assert all(len(values) == 50 for values in result.metrics.values())
    assert result.metrics["age"][-1] == 150
    np.testing.assert_allclose(result.losses, -result.metrics["energy_gap"], atol=1e-5)
    stuck = ebm.ContrastiveDivergence(
        ebm.MALA(step_size=1e4, adapt_step_size=False), 1, ebm.FromData()
    )
    with pytest.warns(UserWarning, match="hardly move"):
        learn_precision(stuck, 20, 100)


def test_a_step_size_that_runs_away_is_noticed():
    """A flat energy accepts every step, however large."""
    kernel = ebm.MALA(step_size=0.01)
    objective = ebm.ContrastiveDivergence(kernel, 1, ebm.Persistent(100, reinit=0.0))
    flat = Gauss(jnp.zeros(()), jnp.zeros(()))
    estimator = ebm.Estimator(objective, optax.sgd(0.0))
    with pytest.warns(UserWarning, match="step size went from 0.01 to .* has not settled"):
        estimator.run(jr.key(0), 250, flat, unit_data(100), progress_bar=False)


@pytest.mark.parametrize("name", ["diverging", "accept_prob", "step_size"])
def test_what_is_wrong_with_chains_is_said_and_nothing_else(name):
    objective = ebm.ContrastiveDivergence()
    fine = {"diverging": 0.0, "accept_prob": 0.6, "step_size": 0.1}
    metrics = {key: np.full(300, value) for key, value in fine.items()}
    metrics["step_size"][:100] = 1e-4  # It has found its place since.
    assert objective.remark(metrics) is None
    wrong = {"diverging": 0.02, "accept_prob": np.nan, "step_size": np.geomspace(1, 1e3, 300)}
    said = objective.remark(metrics | {name: np.full(300, wrong[name])})
    assert {"diverging": "2.0% of the", "accept_prob": "nan", "step_size": "1e+03"}[
        name
    ] in said


@pytest.mark.slow
def test_the_penalty_holds_energies_together():
    """Without it, a constant added to the energy would go wherever it likes."""

    def loss(penalty):
        objective = ebm.ContrastiveDivergence(
            langevin(0.1), 1, ebm.FromData(), energy_penalty=penalty
        )
        energy = Gauss(jnp.ones(()), jnp.zeros(())) + (lambda x: jnp.array(10.0))
        trainable, state = objective.init(jr.key(0), energy, unit_data(100))
        return objective.loss(jr.key(1), trainable, state, unit_data(100), None)[0]

    assert 20 < loss(0.1) - loss(0.0) < 30


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ebm.ContrastiveDivergence("MALA"), TypeError, "`kernel` must be a kernel"),
        (lambda: ebm.ContrastiveDivergence(start="data"), TypeError, "`start` must be"),
        (
            lambda: ebm.ContrastiveDivergence(start=ebm.Persistent()).init(
                jr.key(0), ebm.ConditionalEnergy(lambda y, x: y, ()), (jnp.ones(3), jnp.ones(3))
            ),
            ValueError,
            "a condition of their own each",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_chain_on_a_wall_does_not_count_and_begins_anew():
    """Beyond 3 the energy is so steep that no step of this size is accepted."""

    def wall(x):
        return 0.5 * jnp.sum(x**2) + 1e4 * jnp.sum(jax.nn.relu(jnp.abs(x) - 3) ** 2)

    energy, data = ebm.as_energy(wall, (1,)), unit_data(100)
    start = ebm.Persistent(100, reinit=0.0)
    objective = ebm.ContrastiveDivergence(ebm.MALA(step_size=0.5), 10, start)
    trainable, state = objective.init(jr.key(0), energy, data)
    points = state.starts.points.at[:20].set(10.0)
    state = state._replace(starts=state.starts._replace(points=points))
    loss, (state, metrics) = objective.loss(jr.key(1), trainable, state, data, None)
    np.testing.assert_allclose(metrics["stuck"], 0.2)
    assert abs(loss) < 1.0
    assert set(np.flatnonzero(state.starts.is_stuck)) == set(range(20))
    _, (state, metrics) = objective.loss(jr.key(2), trainable, state, data, None)
    assert metrics["stuck"] < 0.02
    assert np.abs(state.starts.points).max() < 5


@pytest.mark.slow
def test_the_divergence_that_is_left_out_and_its_gradient():
    r"""After a Langevin step from N(0, 1) in three dimensions, and its derivative in $a$.

    $v = (1-\eta a)^2 + 2\eta$ is the variance there: $\mathrm{KL} = 3(av - \log v)/2$ up to a
    constant, whose outer $a$ stays fixed.
    """
    eta, a = 0.2, 1.5
    move = langevin(eta).move

    def divergence(a, key):
        data_key, chain_key = jr.split(key)
        energy = Gauss(a, jnp.zeros(()))
        return chain_divergence(chain_key, move, energy, jr.normal(data_key, (500, 3)))

    slope = -3 * eta * (1 - eta * a)
    expected = a * slope - slope / ((1 - eta * a) ** 2 + 2 * eta)
    keys = jr.split(jr.key(0), 144)
    found = jax.jit(lambda: jax.lax.map(lambda key: jax.grad(divergence)(a, key), keys))()
    error = found.std() / 12
    print(f"gradient {found.mean():.4f} +- {error:.4f}, expected {expected:.4f}")
    assert abs(found.mean() - expected) < 4 * error
    assert error < 0.03
    objective = ebm.ContrastiveDivergence(langevin(eta), 1, ebm.FromData(), kl_weight=1.0)
    assert np.isfinite(learn_precision(objective, 20, 200, rate=0.01).losses).all()
    with pytest.raises(ValueError, match="`kl_weight` is for energies of real points"):
        ebm.ContrastiveDivergence(ebm.GibbsWithGradients(), kl_weight=1.0).init(
            jr.key(0), ebm.IsingModel((2, 2), 0.1), jnp.ones((3, 2, 2))
        )
