"""`ebm.fit`: whether it is normalised, better than a Gaussian, and says so if it is not."""

import importlib.util
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from numpyro.distributions import constraints

import numpyro_ebm as ebm
from numpyro_ebm.fitting import Fit

KEY = jr.key(0)
QUIET = {"progress_bar": False}
PATH = Path(__file__).parents[1] / "benchmarks" / "recipes.py"
NORMAL = np.random.default_rng(0).normal(size=(200, 3))


@pytest.fixture(scope="module")
def pinwheel():
    """A fit to the pinwheel in other units, and rows that it never saw."""
    points = ebm.datasets.pinwheel(KEY, 2500) @ np.array([[1e3, 0.0], [900.0, 1e-1]])
    held_out = points[2000:]
    return ebm.fit(
        KEY, points[:2000], held_out, width_size=32, num_steps=600, **QUIET
    ), held_out


def test_the_energy_is_normalised(pinwheel):
    fit, held_out = pinwheel
    x = held_out.mean(0) + 7 * held_out.std(0) * jnp.array([[-1.0, -1.0], [1.0, 1.0]])
    # Two correlated columns: a fine grid.
    log_z = ebm.log_partition(KEY, fit.energy.energy, ebm.Quadrature(*x, 1501))
    np.testing.assert_allclose(fit.energy.log_z, log_z.estimate, atol=1e-2)


def test_the_network_is_bounded(pinwheel):
    fit, _ = pinwheel
    tilted = fit.result.energy.energy
    for x in 1e4 * jnp.array([[1.0, 1.0], [-1.0, 0.5], [0.0, -1.0]]):
        assert abs(tilted.energy(x)) <= 30


def test_held_out_rows_are_likelier_than_to_a_gaussian(pinwheel):
    fit, held_out = pinwheel
    expected = ebm.log_likelihood(fit.energy, held_out)
    np.testing.assert_allclose(fit.comparison.mean[0], expected.mean, rtol=1e-5)
    gain, error = fit.gain
    print(f"{gain:.3f} +- {error:.2g}")
    assert gain > 0.3 > 4 * error
    assert fit.ok
    assert fit.comparison.names[0] == "network"


def test_the_report_says_how_good_it_is_and_what_to_do(pinwheel, tmp_path):
    fit, _ = pinwheel
    text = repr(fit)
    for part in ("2000 rows", "500 rows held out", "Gaussian", "log Z =", "accuracy", "\nok\n"):
        assert part in text
    assert fit._repr_html_().count("<table>") == 1
    assert "ebm.save(path, fit.energy)" in text
    ebm.save(tmp_path / "pinwheel.ebm", fit.energy)
    loaded = ebm.load(tmp_path / "pinwheel.ebm")
    x = jnp.array([1e3, 1.0])
    np.testing.assert_array_equal(loaded(x), fit.energy(x))


def judged(pinwheel, energy, held_out):
    fit, _ = pinwheel
    gaussian = ebm.Gaussian(NORMAL.mean(0), np.cov(NORMAL.T, bias=True))
    comparison = ebm.compare({"network": energy, "Gaussian": gaussian}, held_out)
    return Fit(energy, comparison, fit.result, 200)


def test_it_says_if_it_is_worse_than_a_gaussian(pinwheel):
    shifted = ebm.Normalized(
        ebm.Gaussian(NORMAL.mean(0) + 1, np.eye(3)), 1.5 * np.log(2 * np.pi)
    )
    fit = judged(pinwheel, shifted, NORMAL)
    assert not fit.ok
    assert fit.gain[0] < -1
    assert "less likely than to a Gaussian: -1." in repr(fit)
    assert "use `ebm.Gaussian`" in repr(fit)
    assert "ebm.save" not in repr(fit)


def test_it_says_if_the_network_is_no_better_than_its_reference(pinwheel):
    fit, _ = pinwheel
    assert "no better than the Student-t density" not in repr(fit)
    # The loss of a coin that knows of six points that five are noise.
    chance = np.log(6) + 5 * np.log(6 / 5)
    for loss, is_better in ((chance - 1e-3, True), (chance + 1e-3, False)):
        result = fit.result._replace(validation_losses=np.array([loss]))
        text = repr(Fit(fit.energy, fit.comparison, result, fit.num_rows))
        assert ("no better than the Student-t density" not in text) == is_better


def test_it_says_if_its_normaliser_is_unknown(pinwheel):
    unsure = ebm.energies.LogZ(0.0, checks={"a heavy tail": True})
    fit = judged(pinwheel, ebm.Normalized(ebm.Gaussian(np.zeros(3), np.eye(3)), unsure), NORMAL)
    assert "log Z, and so every log-likelihood, is unknown: a heavy tail" in repr(fit)
    assert not fit.ok


@pytest.mark.slow
def test_bounded_data_stay_inside_of_their_support():
    data = np.random.default_rng(1).gamma(1.5, size=(1500, 1))
    fit = ebm.fit(
        KEY, data, support=constraints.positive, width_size=16, num_steps=300, **QUIET
    )
    log_z = ebm.log_partition(KEY, fit.energy.energy, ebm.Quadrature([1e-6], [30.0], 4001))
    np.testing.assert_allclose(fit.energy.log_z, log_z.estimate, atol=0.02)
    assert fit.gain[0] > 0.1
    draws = fit.energy.support(jnp.array([[-1.0], [1.0]]))
    np.testing.assert_array_equal(np.ravel(draws), [False, True])


def mixed(column):
    return np.column_stack([NORMAL, column])


@pytest.mark.parametrize(
    ("data", "kwargs", "error", "message"),
    [
        ((NORMAL, NORMAL), {}, TypeError, "must be an array"),
        (NORMAL[:, 0], {}, ValueError, "one point per row"),
        (NORMAL[:40], {}, ValueError, "at least 50 rows to learn from, for 3 columns, got 32"),
        (mixed(NORMAL[:, 0] > 0), {}, ValueError, "column 3 has one value in 5.% of the rows"),
        (mixed(np.ones(200)), {}, ValueError, "column 3 has one value in 100% of the rows"),
        (mixed(NORMAL.sum(1)), {}, ValueError, "must not have a column that is a combination"),
        (
            NORMAL,
            {"held_out": NORMAL[:, :2]},
            ValueError,
            "as many columns as `data`, 3, got 2",
        ),
        (NORMAL, {"support": constraints.positive}, ValueError, "must lie inside of `support`"),
        (NORMAL, {"num_steps": 10}, ValueError, "`num_steps` must be at least 100, got 10"),
    ],
)
def test_what_has_no_density_is_refused(data, kwargs, error, message):
    with pytest.raises(error, match=message):
        ebm.fit(KEY, data, **kwargs, **QUIET)


def test_a_key_is_needed():
    with pytest.raises(TypeError, match="`rng_key` must be a random key"):
        ebm.fit(0, NORMAL)


def test_the_optimiser_is_what_it_says():
    energy = ebm.Gaussian(np.zeros(3), np.eye(3))
    optims = (
        ebm.estimation.decaying_adam(20, 1e-2),
        optax.adam(optax.cosine_decay_schedule(1e-2, 20), b2=0.99),
    )
    runs = [
        ebm.Estimator(ebm.ScoreMatching(), optim).run(KEY, 5, energy, NORMAL, **QUIET).energy
        for optim in optims
    ]
    for a, b in zip(*map(jax.tree.leaves, runs), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not eqx.tree_equal(runs[0], energy)


@pytest.fixture(scope="module")
def recipes():
    spec = importlib.util.spec_from_file_location("recipes", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("name", ["breast_cancer", "diabetes"])
def test_on_tables_it_comes_before_a_gaussian_a_mixture_and_kernels(recipes, name):
    case = recipes.Case(name)
    found = {}
    for row in ("fit", "Gaussian", "mixture of 10", "kernel density"):
        density, problems = recipes.ROWS[row](case)
        found[row] = case.judge(density)[0]
        assert not problems
    print(found)
    assert max(found, key=found.get) == "fit"


@pytest.mark.slow
def test_it_finds_the_three_rings(recipes):
    case = recipes.Case("three_rings")
    divergence, _ = case.judge(recipes.ROWS["fit"](case)[0])
    print(
        f"KL {divergence:.4f}; of a Gaussian {case.judge(recipes.by_gaussian(case)[0])[0]:.3f}"
    )
    assert divergence < 0.2
