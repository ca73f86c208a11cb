from types import SimpleNamespace

import arviz_base
import jax
import jax.numpy as jnp
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import optax
import pytest
from helpers import ENERGIES
from xarray import DataArray, Dataset, DataTree

import numpyro_ebm as ebm

RNG = np.random.default_rng(0)
BOWL = ebm.Gaussian(jnp.zeros(2), jnp.eye(2))


@pytest.fixture(autouse=True)
def _rendered(tmp_path):
    """Every figure that a test leaves open is rendered."""
    mpl.use("Agg")
    yield
    for number in plt.get_fignums():
        plt.figure(number).savefig(tmp_path / f"{number}.png", dpi=40)
        assert (tmp_path / f"{number}.png").stat().st_size > 500
    plt.close("all")


def texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_energy_contours_with_samples():
    energy = ENERGIES["Gaussian"]()
    draws = energy.sample(jax.random.key(0), (4, 50))
    ax = ebm.plot_energy(energy, draws)
    assert ax.collections[-1].get_offsets().shape == (200, 2)
    assert ax.get_xlim()[0] < draws[..., 0].min()


def test_energy_into_given_axes_and_bounds():
    _, axes = plt.subplots(1, 2)
    given = ebm.plot_energy(lambda x: (x**2).sum(), bounds=((-1, 1), (-2, 2)), ax=axes[1])
    assert given is axes[1]
    assert given.get_ylim() == (-2, 2)


@pytest.mark.parametrize("contours", [True, False])
def test_scores_point_to_the_mean_and_stay_in_their_cells(contours):
    bounds = ((-3, 3), (-1.5, 1.5))
    ax = ebm.plot_scores(
        BOWL, np.zeros((3, 2)), bounds=bounds, num_arrows=10, contours=contours
    )
    (arrows,) = [artist for artist in ax.collections if hasattr(artist, "U")]
    assert arrows.N == 10 * 5
    at, by = np.stack([arrows.X, arrows.Y]), np.stack([arrows.U, arrows.V])
    np.testing.assert_allclose(by / np.linalg.norm(by, axis=0), -at / np.hypot(*at), atol=1e-5)
    lengths, norms = np.hypot(*by), np.hypot(*at)
    typical = np.quantile(norms, 0.25)
    np.testing.assert_allclose(lengths, 0.6 * norms / (norms + typical), rtol=1e-4)
    assert (ax.get_xlim(), ax.get_ylim()) == bounds
    if contours:
        assert len(ax.collections) == 3
    else:
        np.testing.assert_allclose(arrows.get_array(), norms, rtol=1e-4)


def test_no_arrow_where_the_score_is_not_finite():
    wall = ebm.energies.FunctionEnergy(lambda x: jnp.sqrt(-x[0]) + x[1], (2,))
    (arrows,) = ebm.plot_scores(wall, num_arrows=4, contours=False).collections
    assert np.sum(~np.broadcast_to(arrows.Umask, arrows.N)) == 8
    flat = ebm.plot_scores(lambda x: 0 * x.sum(), num_arrows=4, colorbar=False)
    assert not flat.collections[-1].U.any()


def test_images_with_unknown_pixels():
    images = np.random.default_rng(0).normal(size=(3, 8, 8))
    images[:, 4:] = np.nan
    figure = ebm.plots.plot_images({"half": images, "one": images[:1]})
    shown = [ax for ax in figure.axes if ax.images]
    assert len(figure.axes) == 6
    assert len(shown) == 4
    assert figure.axes[0].get_ylabel() == "half"


@pytest.mark.parametrize(
    ("event", "image_shape"),
    [((8, 6), None), ((48,), (8, 6)), ((8, 6, 3), None), ((48,), (8, 6, 1))],
)
def test_chain_of_images_is_a_film_strip(event, image_shape):
    if image_shape == (8, 6, 1):
        with pytest.raises(ValueError, match=r"points of shape \(8, 6, 1\)"):
            ebm.plots.plot_chain(RNG.uniform(size=(2, 30, *event)), image_shape=image_shape)
        return
    draws = RNG.uniform(size=(2, 30, *event))
    ax = ebm.plots.plot_chain(draws, 1, num=4, image_shape=image_shape)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "10", "19", "29"]
    assert len(ax.images) == 4
    last = np.asarray(ax.images[-1].get_array())
    np.testing.assert_allclose(last.ravel(), draws[1, -1].ravel())


def test_chain_in_the_plane_is_a_path():
    values = jnp.asarray(RNG.normal(size=(3, 40, 2)))
    draws = ebm.sampling.Draws(values, jnp.ones(3), 40)
    ax = ebm.plots.plot_chain(draws, -1, num=5, energy=BOWL)
    np.testing.assert_allclose(ax.lines[0].get_xydata(), values[-1])
    marks = ax.collections[-1]
    assert list(marks.get_array()) == [0, 10, 20, 29, 39]
    assert len(ebm.plots.plot_chain(values, num=100).collections[-1].get_offsets()) == 40


def test_energies_share_bins_and_report_what_they_do_not_show():
    def energy(x):
        return jnp.where(x[0] < -100, jnp.inf, x[0])

    data = np.linspace(0, 10, 1000)[:, None]
    far = np.full((2, 50, 1), 5.0)
    far[0, :7], far[0, 7:10], far[1, :4] = 1e6, -200, np.nan
    draws = ebm.sampling.Draws(jnp.asarray(data[None, ::10]), jnp.ones(1), 100)
    samples = {"data": data, "draws": draws, "far": far}
    ax = ebm.plots.plot_energies(samples, energy, event_shape=(1,), bins=30)
    assert texts(ax) == [
        "data",
        "draws",
        "far (7 higher, 3 infinite, 4 NaN)",
    ]
    shares = [patch.get_data() for patch in ax.patches[::2]]
    assert all(np.array_equal(share.edges, shares[0].edges) for share in shares)
    areas = [(share.values * np.diff(share.edges)).sum() for share in shares]
    np.testing.assert_allclose(areas, [1, 1, 0.86])


def test_energies_look_at_the_first_sample_and_a_little_beyond():
    samples = {"data": RNG.normal(size=(200, 1)), "noise": np.linspace(0, 1e4, 50)[:, None]}
    ax = ebm.plots.plot_energies(samples, lambda x: x[0], event_shape=(1,))
    assert -4 < ax.get_xlim()[0] < -2
    assert 5 < ax.get_xlim()[1] < 20
    ax = ebm.plots.plot_energies(samples, lambda x: x[0], event_shape=(1,), bounds=(-1, 1))
    assert ax.get_xlim() == (-1, 1)


def report(num_chains, num_modes, reference=None):
    shares = RNG.dirichlet(np.ones(num_modes), size=num_chains)
    modes = {"mode": np.arange(num_modes)}
    table = Dataset({"occupancy": ("mode", shares.mean(0))}, modes)
    if reference is not None:
        table["reference"] = ("mode", reference)
    steps = RNG.dirichlet(np.ones(num_modes), size=num_modes)
    steps[0] = np.nan
    chains = Dataset(
        {"occupancy": (("chain", "mode"), shares)}, {**modes, "chain": np.arange(num_chains)}
    )
    transitions = DataArray(steps, {**modes, "next_mode": np.arange(num_modes)})
    return ebm.diagnostics.ModeReport(
        (), table, chains, transitions, np.zeros((num_chains, 1), int)
    )


def test_modes_of_each_chain_and_of_the_reference():
    found = report(4, 3, [0.5, 0.3, 0.2])
    found.transitions[1] = [0.0, 0.9999, 0.0001]
    left, right = ebm.plots.plot_modes(found).axes
    first = [
        patch.get_data() for patch in left.patches if patch.get_data().baseline is not None
    ]
    tops = np.stack([data.values for data in first[::3]])
    np.testing.assert_allclose(tops, found.chains["occupancy"].values.cumsum(1).T)
    ends = [data.values[0] for data in first[2::3]]
    np.testing.assert_allclose(ends, [0.5, 0.8, 1.0])
    ticks = [tick.get_text() for tick in left.get_xticklabels()]
    assert ticks == ["0", "1", "2", "3", "all", "reference"]
    numbers = [text.get_text() for text in right.texts]
    assert numbers[:6] == ["-", "-", "-", "0", "1.000", "<0.001"]
    assert len(numbers) == 9


def test_many_chains_are_sorted_and_many_modes_get_no_numbers():
    figure = ebm.plots.plot_modes(report(1000, 16))
    assert figure.axes[0].get_xlabel() == "1000 chains, sorted"
    assert not figure.axes[1].texts
    assert len(figure.axes) == 3
    assert len(figure.axes[0].patches) == 32


def drift():
    each = ("statistic", "start", "length")
    means = np.array([[[1.0, 2.0, 3.0], [2.0, 2.5, 3.0]], np.zeros((2, 3))])
    columns = {
        "mean": (each, means),
        "std_error": (each, np.full((2, 2, 3), 0.1)),
        "nested_r_hat": (each[::2], [[1.3, 1.1, 1.0]] * 2),
        "nested_r_hat_limit": (each[::2], np.full((2, 3), 1.05)),
    }
    names = {"statistic": ["energy", "left"], "start": ["buffer", "data"]}
    return ebm.diagnostics.DriftProbe(
        (), Dataset(columns, {**names, "length": [10, 100, 1000]})
    )


def test_drift_from_each_start():
    top, bottom = ebm.plots.plot_drift(drift()).axes
    assert texts(top) == ["from buffer", "from data"]
    np.testing.assert_allclose(top.lines[0].get_xydata(), [[10, 1], [100, 2], [1000, 3]])
    band = top.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((0.8, 3.2))
    np.testing.assert_allclose(bottom.lines[0].get_ydata(), [1.3, 1.1, 1.0])
    np.testing.assert_allclose(bottom.lines[1].get_ydata(), 1.05)
    assert (top.get_xscale(), top.get_ylabel()) == ("log", "mean of energy")
    assert ebm.plots.plot_drift(drift(), "left").axes[0].get_ylabel() == "mean of left"


def run(losses, validation_losses=(), **metrics):
    metrics = {name: np.asarray(values) for name, values in metrics.items()}
    losses, held_out = np.asarray(losses, float), np.asarray(validation_losses, float)
    return ebm.estimation.EstimatorRunResult(None, losses, metrics, None, held_out)


def test_training_with_its_health():
    gap = RNG.normal(size=100)
    losses = np.linspace(2, 1, 100)
    losses[40:42] = np.nan
    result = run(losses, [1.5, 1.0, 1.2], energy_gap=gap, accept_prob=np.full(100, 0.6))
    figure = ebm.plots.plot_training(result, smoothing=5, validation_every=33)
    loss, middle, acceptance = figure.axes
    assert texts(loss) == ["mean of 5 steps", "held out", "2 steps not finite"]
    raw, mean, held_out, best, bad = loss.lines
    np.testing.assert_allclose(raw.get_ydata(), losses)
    assert mean.get_ydata()[10] == pytest.approx(losses[8:13].mean())
    assert mean.get_ydata()[0] == pytest.approx(losses[:3].mean())
    assert np.isfinite(mean.get_ydata()).all()
    assert list(held_out.get_xdata()) == [32, 65, 98]
    assert best.get_xdata() == [65]
    assert list(bad.get_xdata()) == [40, 41]
    top = middle.collections[0].get_paths()[0].vertices[:, 1].max()
    spreads = [gap[max(i - 2, 0) : i + 3] for i in range(100)]
    assert top == pytest.approx(max(x.mean() + x.std() for x in spreads))
    assert acceptance.get_ylim() == (0, 1)
    assert acceptance.get_ylabel() == "acceptance"


def test_training_of_a_data_tree_and_of_chosen_metrics():
    result = run(np.geomspace(1e4, 1, 60), a=np.ones(60), b=np.zeros(60), c=np.ones(60))
    figure = ebm.plots.plot_training(ebm.to_arviz(result))
    assert [ax.get_ylabel() for ax in figure.axes] == ["loss", "a", "b", "c"]
    assert figure.axes[0].get_yscale() == "log"
    assert len(ebm.plots.plot_training(result, ["b"]).axes) == 2
    assert len(ebm.plots.plot_training(result, []).axes) == 1
    assert ebm.plots.plot_training(run([1.0])).axes[0].lines


def test_training_that_ended_at_a_step_undone():
    error = ebm.estimation.NonFiniteError("Step 30 is not finite.", run(np.ones(30)))
    (ax,) = ebm.plots.plot_training(error).axes
    assert texts(ax) == ["each step", "step undone"]
    assert ax.lines[-1].get_xdata()[0] == 30


def test_a_long_training_keeps_its_spikes_in_few_points():
    losses = RNG.normal(size=50_000)
    losses[12_345] = 1e6
    (ax,) = ebm.plots.plot_training(run(losses)).axes
    assert len(ax.lines[0].get_xdata()) <= 4002
    assert ax.lines[0].get_ydata().max() == 1e6
    assert ax.get_ylim()[1] < 10


def test_ages_and_health_of_a_real_run():
    start = ebm.Persistent(50, reinit=0.3)
    objective = ebm.ContrastiveDivergence(ebm.MALA(step_size=0.1), 3, start)
    data = RNG.normal(size=(40, 2))
    result = ebm.Estimator(objective, optax.sgd(1e-3)).run(
        jax.random.key(0), 20, BOWL, data, batch_size=10, progress_bar=False
    )
    ax = ebm.plots.plot_buffer_ages(result)
    ages = np.asarray(result.state.objective_state.starts.ages)
    assert sum(patch.get_height() for patch in ax.patches) == 50
    # Bins are of 3 transitions each, and none is split.
    assert ax.patches[0].get_x() == -1.5
    assert ax.patches[0].get_width() == pytest.approx(3)
    assert ax.patches[0].get_height() == (ages == 0).sum()
    assert texts(ax)[1].startswith(("50 chains", "median"))
    figure = ebm.plots.plot_training(result)
    assert len(figure.axes) == 1 + len(result.metrics)


@pytest.mark.parametrize("ages", [np.zeros(5, int), [7], np.arange(0, 40_000, 10)])
def test_no_chain_is_left_out_of_the_ages(ages):
    ax = ebm.plots.plot_buffer_ages(ages, bins=20)
    assert sum(patch.get_height() for patch in ax.patches) == len(ages)
    assert len(ax.patches) <= 22


def tree(num_chains=1000, num_draws=60, event=(9, 9)):
    posterior = {
        "mu": RNG.normal(size=(num_chains, num_draws)),
        "x": RNG.normal(size=(num_chains, num_draws, *event)),
    }
    stats = {"diverging": RNG.uniform(size=(num_chains, num_draws)) < 0.01}
    groups = {"posterior": posterior, "sample_stats": stats}
    return arviz_base.from_dict(groups, check_conventions=False)


def panels(collection):
    figure = plt.figure(plt.get_fignums()[-1])
    return [ax for ax in figure.axes if ax.lines or ax.collections]


@pytest.mark.parametrize(
    "plot", [ebm.plots.plot_trace, ebm.plots.plot_rank, ebm.plots.plot_ess]
)
def test_arviz_draws_a_thousand_chains_of_images(plot, tmp_path):
    collection = plot(tree())
    # `mu`, and four pixels of the image.
    assert len(panels(collection)) == 5
    collection.savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").exists()


def test_arviz_traces_some_draws_of_some_chains():
    data = tree(100, 60)
    (ax,) = panels(ebm.plots.plot_trace(data, "mu", max_chains=4, max_draws=25))
    lines = [line for line in ax.lines if len(line.get_xdata()) == 20]
    assert len(lines) == 4
    np.testing.assert_allclose(lines[0].get_xdata(), np.arange(0, 60, 3))
    np.testing.assert_allclose(lines[0].get_ydata(), data["posterior"]["mu"][12, ::3])


def test_arviz_ess_is_of_all_chains():
    (ax,) = panels(ebm.plots.plot_ess(tree(50, 40), ["mu"]))
    points = [*(c.get_offsets()[:, 1] for c in ax.collections)]
    points += [line.get_ydata() for line in ax.lines if len(line.get_ydata()) == 20]
    assert np.mean(points[0]) == pytest.approx(2000, rel=0.2)


def test_arviz_of_draws():
    draws = ebm.sample(
        jax.random.key(0), BOWL, ebm.MALA(), num_warmup=20, num_samples=30, progress_bar=False
    )
    for plot in (ebm.plots.plot_trace, ebm.plots.plot_rank, ebm.plots.plot_ess):
        assert len(panels(plot(draws))) == 2


CUBE = np.zeros((2, 3, 4, 5, 6))
BAD = {
    "no plane": (lambda: ebm.plot_energy(ebm.Gaussian(np.zeros(3), np.eye(3))), r"is \(2,\)"),
    "score: no plane": (lambda: ebm.plot_scores(ENERGIES["Ring"](), CUBE), "`samples`"),
    "bounds": (lambda: ebm.plot_energy(BOWL, bounds=((1, 0), (0, 1))), "`bounds`"),
    "bounds of scores": (lambda: ebm.plot_scores(BOWL, bounds=(0, 1)), "`bounds`"),
    "NaN": (lambda: ebm.plot_energy(BOWL, np.full((3, 2), np.nan)), "`samples`"),
    "num_grid": (lambda: ebm.plot_energy(BOWL, num_grid=0), "`num_grid`"),
    "num_arrows": (lambda: ebm.plot_scores(BOWL, num_arrows=0), "`num_arrows`"),
    "no rows": (lambda: ebm.plots.plot_images({}), "`rows`"),
    "flat rows": (lambda: ebm.plots.plot_images({"a": np.zeros((3, 64))}), "`rows` .* 'a'"),
    "one chain": (lambda: ebm.plots.plot_chain(np.zeros((5, 2))), "`draws`"),
    "no image": (lambda: ebm.plots.plot_chain(np.zeros((2, 5, 64))), "image_shape"),
    "image_shape": (
        lambda: ebm.plots.plot_chain(np.zeros((2, 5, 64)), image_shape=(7, 8)),
        "64",
    ),
    "chain": (lambda: ebm.plots.plot_chain(np.zeros((2, 5, 2)), 2), "`chain` .* got 2"),
    "num": (lambda: ebm.plots.plot_chain(np.zeros((2, 5, 2)), num=0), "`num`"),
    "no samples": (lambda: ebm.plots.plot_energies({}, BOWL), "`samples`"),
    "samples": (lambda: ebm.plots.plot_energies({"a": np.zeros(3)}, BOWL), r"`samples\['a'\]`"),
    "unknown shape": (lambda: ebm.plots.plot_energies({"a": CUBE}, jnp.sum), "`event_shape`"),
    "bins": (lambda: ebm.plots.plot_energies({"a": np.zeros((1, 2))}, BOWL, bins=0), "`bins`"),
    "energy bounds": (
        lambda: ebm.plots.plot_energies({"a": np.zeros((1, 2))}, BOWL, bounds=(1, 0)),
        "`bounds`",
    ),
    "all NaN": (lambda: ebm.plots.plot_energies({"a": np.full((1, 2), np.nan)}, BOWL), "NaN"),
    "drift": (lambda: ebm.plots.plot_drift(drift(), "no"), "`statistic`"),
    "no step": (lambda: ebm.plots.plot_training(run([])), "`result`"),
    "metrics": (lambda: ebm.plots.plot_training(run([1.0]), ["no"]), "`metrics`"),
    "smoothing": (lambda: ebm.plots.plot_training(run([1.0]), smoothing=0), "`smoothing`"),
    "every": (
        lambda: ebm.plots.plot_training(run([1.0], [1.0]), validation_every=0),
        "`validation_every`",
    ),
    "no buffer": (
        lambda: ebm.plots.plot_buffer_ages(
            run([1.0])._replace(state=SimpleNamespace(objective_state=None))
        ),
        "Persistent",
    ),
    "ages": (lambda: ebm.plots.plot_buffer_ages([0.5]), "`ages` .* float"),
    "negative ages": (lambda: ebm.plots.plot_buffer_ages([-1]), "`ages`"),
    "no posterior": (lambda: ebm.plots.plot_rank(DataTree()), "`source`"),
    "var_names": (lambda: ebm.plots.plot_trace(tree(2, 5, ()), ["nu"]), "`var_names` .*'nu'"),
    "max_chains": (lambda: ebm.plots.plot_trace(tree(2, 5, ()), max_chains=0), "`max_chains`"),
    "max_plots": (lambda: ebm.plots.plot_ess(tree(2, 5, ()), max_plots=0), "`max_plots`"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    plot, match = BAD[name]
    with pytest.raises(ValueError, match=match):
        plot()


@pytest.mark.parametrize(
    ("plot", "match"),
    [
        (lambda: ebm.plots.plot_modes(3), "`report` .* got int"),
        (lambda: ebm.plots.plot_drift(report(2, 2)), "`report` .* got ModeReport"),
        (lambda: ebm.plots.plot_training([1.0]), "`result` .* got list"),
        (lambda: ebm.plots.plot_chain({"x": CUBE}), "`draws` .* got dict"),
    ],
)
def test_bad_type(plot, match):
    with pytest.raises(TypeError, match=match):
        plot()
