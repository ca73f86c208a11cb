from types import SimpleNamespace

import arviz_base
import jax
import jax.numpy as jnp
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from helpers import ENERGIES
from xarray import DataArray, Dataset, DataTree

import numpyro_ebm as ebm
from numpyro_ebm.plots import _axes as axes_of_plots

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


WELLS = ebm.energies.DoubleWell()
CLOUD = ebm.GaussianMixture([1.0, 2.0], [[-1.0, 0, 1], [1, 1, -1]], 0.3 * np.eye(3))


def contours_of(ax):
    """The levels of the filled contours, and where in its colours each of the bands is."""
    (filled,) = [artist for artist in ax.collections if hasattr(artist, "levels")]
    return filled.levels, filled.norm(filled.layers) / 255


def test_low_energies_have_colours_of_their_own():
    levels, places = contours_of(ebm.plot_energy(BOWL, bounds=((-6, 6), (-6, 6))))
    assert list(levels) == [0, 0.5, 1, 2, 4, 8, 16, 32, 64]
    # Evenly spread over the bands: on a scale of nats, four of them would be in one tenth.
    np.testing.assert_allclose(np.diff(np.ma.compressed(places)), 1 / 8, atol=0.01)


def test_a_flat_energy_has_contours_too():
    levels, _ = contours_of(ebm.plot_energy(lambda x: 0.1 * jnp.sin(x[0]) + 0 * x[1]))
    assert 4 < len(levels) < 12
    assert levels[-1] < 0.3


def test_colours_are_perceptually_uniform():
    colors = axes_of_plots.energy_map()(np.linspace(0, 1, 9))[:, :3]
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    lightness = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16
    steps = np.diff(lightness)
    assert steps.min() > 0.5 * steps.mean()
    assert lightness[0] > 10


def test_the_curve_of_an_energy_with_samples():
    ax = ebm.plot_energy(WELLS, np.zeros((3, 1)), bounds=(-1.5, 1.5))
    curve, rug = ax.lines
    x, y = curve.get_xydata().T
    np.testing.assert_allclose(y, x**4 - 2 * x**2 + 1, atol=1e-3)
    assert len(rug.get_xdata()) == 3
    scalar = ebm.plot_energy(lambda x: x**2, bounds=(-1, 2))
    assert scalar.get_xlim() == (-1, 2)
    assert scalar.get_xlabel() == "x"


def test_a_density_on_the_half_line_is_blank_beyond_and_has_mass_one():
    ax = ebm.plots.plot_density(dist.Gamma(3.0, 1.0), np.ones(10), bounds=(-1, 12))
    x, y = ax.lines[0].get_xydata().T
    assert not y[x < 0].any()
    np.testing.assert_allclose(y[x > 0], x[x > 0] ** 2 * np.exp(-x[x > 0]) / 2, atol=1e-5)
    assert sum(bar.get_height() * bar.get_width() for bar in ax.patches) == pytest.approx(1)


def test_a_density_is_normalised_by_what_is_known_or_else_in_the_box():
    known = ebm.Gaussian([0.0], [[1.0]])
    for energy, half in ((known, 1.0), (lambda x: 0.5 * x @ x, 2.0)):
        ax = ebm.plots.plot_density(energy, bounds=((0, 9),))
        assert ax.lines[0].get_ydata()[0] == pytest.approx(half / np.sqrt(2 * np.pi), rel=1e-3)


def test_a_corner_of_marginal_densities():
    samples = CLOUD.sample(jax.random.key(0), (50,))
    cells = ebm.plots.plot_density(CLOUD, samples, bounds=((-4, 4),) * 3)
    assert cells.shape == (3, 3)
    x, y = cells[1, 1].lines[0].get_xydata().T
    exact = [np.exp(-0.5 * (x - m) ** 2 / 0.3) / np.sqrt(2 * np.pi * 0.3) for m in (0, 1)]
    np.testing.assert_allclose(y, exact[0] / 3 + 2 * exact[1] / 3, atol=1e-3)
    assert [cells[2, i].get_xlabel() for i in range(3)] == ["x[0]", "x[1]", "x[2]"]
    assert not cells[0, 2].axison
    offsets = cells[2, 0].collections[-1].get_offsets()
    assert offsets.shape == (50, 2)


def test_a_corner_of_slices_goes_through_the_lowest_point_or_the_given_one():
    for at, lowest in ((None, [1, 1, -1]), ([-1.0, 0, 1], [-1, 0, 1])):
        cells = ebm.plot_energy(CLOUD, bounds=((-3, 3),) * 3, num_grid=61, at=at)
        for i in range(3):
            x, y = cells[i, i].lines[0].get_xydata().T
            assert x[y.argmin()] == pytest.approx(lowest[i], abs=0.06)
            assert y.min() < 0.02 or at is not None


def test_a_corner_in_given_axes():
    _, given = plt.subplots(3, 3)
    assert (ebm.plot_energy(CLOUD, ax=given, num_grid=20) == given).all()


def test_without_samples_the_box_is_around_the_mean():
    far = ebm.Gaussian([10.0, 0.0], [[4.0, 0.0], [0.0, 1.0]])
    ax = ebm.plot_energy(far)
    np.testing.assert_allclose([ax.get_xlim(), ax.get_ylim()], [(4, 16), (-3, 3)], rtol=1e-5)
    assert ebm.plots.plot_density(dist.Gamma(3.0, 1.0)).get_xlim()[0] == 0


def test_colour_bars_stay_clear_of_their_neighbours():
    figure, axes = plt.subplots(1, 3)
    for ax in axes:
        ebm.plot_energy(BOWL, ax=ax)
    figure.canvas.draw()
    planes, bars = figure.axes[:3], figure.axes[3:]
    for bar, neighbour in zip(bars, planes[1:], strict=False):
        assert bar.get_tightbbox().x1 <= neighbour.get_tightbbox().x0
    heights = [bar.get_window_extent().height for bar in bars]
    assert heights[0] == pytest.approx(planes[0].get_window_extent().height, rel=0.1)


def test_the_style_ends_with_the_plot():
    before = mpl.rcParams.copy()
    ax = ebm.plots.plot_energies({"a": np.zeros((5, 2))}, BOWL)
    assert mpl.rcParams.copy() == before
    assert not ax.spines["top"].get_visible()
    with ebm.plots.style():
        assert mpl.rcParams["axes.prop_cycle"].by_key()["color"][1] == "tab:orange"


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
    cells = ebm.plots.plot_images({"half": images, "one": 2 * images[:1]})
    assert cells.shape == (2, 3)
    assert cells[0, 0].get_ylabel() == "half"
    shown = [cell.images[0] for cell in cells.flat if cell.images]
    assert len(shown) == 4
    # One scale, which NaN does not touch; the cells without an image are blank.
    known = images[:, :4]
    ends = min(known.min(), 2 * known[0].min()), max(known.max(), 2 * known[0].max())
    assert {image.get_clim() for image in shown} == {ends}
    assert [cell.axison for cell in cells.flat] == [True, True, True, True, False, False]
    # Stripes are seen through what is unknown, and only there.
    assert [len(cell.patches) for cell in cells.flat] == [1, 1, 1, 1, 0, 0]
    assert cells[0, 0].patches[0].get_hatch()
    drawn = shown[0].to_rgba(shown[0].get_array())
    np.testing.assert_array_equal(drawn[..., 3], np.isfinite(images[0]))


def test_images_in_given_axes_with_another_scale():
    _, given = plt.subplots(1, 2)
    images = np.zeros((2, 4, 4))
    cells = ebm.plots.plot_images({"a": images}, ax=given, vmin=-1, vmax=2, cmap="Blues")
    assert list(cells.flat) == list(given)
    assert given[1].images[0].get_clim() == (-1, 2)
    assert given[1].images[0].get_cmap().name == "Blues"


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
    left, right = ebm.plots.plot_modes(found)
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
    left, right = ebm.plots.plot_modes(report(1000, 16))
    assert left.get_xlabel() == "1000 chains, sorted"
    assert not right.texts
    assert len(left.figure.axes) == 3
    assert len(left.patches) == 32


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
    top, bottom = ebm.plots.plot_drift(drift())
    assert texts(top) == ["from buffer", "from data"]
    np.testing.assert_allclose(top.lines[0].get_xydata(), [[10, 1], [100, 2], [1000, 3]])
    band = top.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((0.8, 3.2))
    np.testing.assert_allclose(bottom.lines[0].get_ydata(), [1.3, 1.1, 1.0])
    np.testing.assert_allclose(bottom.lines[1].get_ydata(), 1.05)
    assert (top.get_xscale(), top.get_ylabel()) == ("log", "mean of energy")
    assert ebm.plots.plot_drift(drift(), "left")[0].get_ylabel() == "mean of left"


def run(losses, validation_losses=(), **metrics):
    metrics = {name: np.asarray(values) for name, values in metrics.items()}
    losses, held_out = np.asarray(losses, float), np.asarray(validation_losses, float)
    return ebm.estimation.EstimatorRunResult(None, losses, metrics, None, held_out)


def test_training_with_its_health():
    gap = RNG.normal(size=100)
    losses = np.linspace(2, 1, 100)
    losses[40:42] = np.nan
    result = run(losses, [1.5, 1.0, 1.2], energy_gap=gap, accept_prob=np.full(100, 0.6))
    panels = ebm.plots.plot_training(result, smoothing=5, validation_every=33)
    loss, middle, acceptance = panels
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
    panels = ebm.plots.plot_training(ebm.to_arviz(result))
    assert [ax.get_ylabel() for ax in panels] == ["loss", "a", "b", "c"]
    assert panels[0].get_yscale() == "log"
    assert len(ebm.plots.plot_training(result, ["b"])) == 2
    assert len(ebm.plots.plot_training(result, [])) == 1
    assert ebm.plots.plot_training(run([1.0]))[0].lines


def test_training_that_ended_at_a_step_undone():
    error = ebm.estimation.NonFiniteError("Step 30 is not finite.", run(np.ones(30)))
    (ax,) = ebm.plots.plot_training(error)
    assert texts(ax) == ["each step", "step undone"]
    assert ax.lines[-1].get_xdata()[0] == 30


def test_a_long_training_keeps_its_spikes_in_few_points():
    losses = RNG.normal(size=50_000)
    losses[12_345] = 1e6
    (ax,) = ebm.plots.plot_training(run(losses))
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
    assert len(ebm.plots.plot_training(result)) == 1 + len(result.metrics)


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
    "no plane": (lambda: ebm.plot_scores(ebm.Gaussian(np.zeros(3), np.eye(3))), r"\(2,\)"),
    "too many": (lambda: ebm.plot_energy(ebm.Gaussian(np.zeros(7), np.eye(7))), "one to six"),
    "discrete": (lambda: ebm.plot_energy(ebm.IsingModel((2, 2), 0.3)), "real points"),
    "wrong number of bounds": (
        lambda: ebm.plot_energy(BOWL, bounds=((0, 1),) * 3),
        "for each of 2",
    ),
    "no mass": (
        lambda: ebm.plots.plot_density(lambda x: jnp.inf * x[0] ** 2, bounds=((1, 2),)),
        "mass",
    ),
    "finite nowhere": (lambda: ebm.plot_energy(lambda x: jnp.inf + x.sum()), "finite nowhere"),
    "at": (lambda: ebm.plot_energy(ebm.Gaussian(np.zeros(3), np.eye(3)), at=[0.0]), "`at`"),
    "axes": (
        lambda: ebm.plots.plot_modes(report(2, 2), ax=plt.subplots(1, 3)[1]),
        "`ax` .* 1 x 2",
    ),
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


def tempered(num_temperatures=5):
    reference = dist.Normal(0.0, 3.0).expand([2]).to_event(1)
    kernel = ebm.ParallelTempering(
        ebm.HMC(num_steps=2, trajectory_length=None),
        reference=reference,
        num_temperatures=num_temperatures,
    )
    settings = {"num_warmup": 100, "num_samples": 300, "progress_bar": False}
    return ebm.sample(jax.random.key(0), BOWL, kernel, num_chains=2, **settings)


def test_the_index_process_shows_who_is_where():
    draws = tempered()
    ax = ebm.plots.plot_index_process(draws, 1, num_transitions=50)
    assert [label.get_text() for label in ax.get_yticklabels()][-1] == "0"
    grey, rising = ax.lines[::2], ax.lines[1::2]
    assert len(grey) == len(rising) == 5
    rungs = np.stack([line.get_ydata() for line in grey], 1)
    replicas = np.asarray(draws.stats["replica"][1, -50:])
    for t in range(50):
        np.testing.assert_array_equal(replicas[t][rungs[t]], np.arange(5))
    # Coloured lines end at the target as often as the run counts restarts.
    arrivals = 0
    for line in ebm.plots.plot_index_process(draws, 1, num_transitions=300).lines[1::2]:
        y = line.get_ydata()
        arrivals += ((y[1:] == 0) & (y[:-1] > 0)).sum()
    restarts = np.asarray(draws.stats["restarts"][1])
    assert abs(arrivals - (restarts[-1] - restarts[0])) <= 5
    with pytest.raises(ValueError, match="`chain` must be one of 2 chains, got 2"):
        ebm.plots.plot_index_process(draws, 2)


def test_the_barrier_rises_from_the_reference():
    draws = tempered()
    _, given = plt.subplots()
    ax = ebm.plots.plot_barrier(draws, ax=given)
    assert ax is given
    (line,) = ax.lines
    beta, barrier = line.get_data()
    report = ebm.tempering_report(draws)
    assert (beta[0], beta[-1], barrier[-1]) == (1, 0, 0)
    assert barrier[0] == pytest.approx(report.barrier)
    assert ax.get_xscale() == "linear"
