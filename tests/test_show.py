"""How objects print: kernels and methods as calls, results as text and as HTML tables."""

import pickle
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from helpers import KERNELS, OBJECTIVES, SPIN_KERNELS
from numpyro.infer.initialization import init_to_median
from xarray import Dataset

import numpyro_ebm as ebm
from numpyro_ebm._show import Printed

BOWL = ebm.Gaussian(jnp.zeros(2), jnp.eye(2))


def model():
    numpyro.sample("x", dist.Normal(0, 1))


CALLS = {
    "MALA()": ebm.MALA(),
    "MALA(step_size=0.3)": ebm.MALA(step_size=0.3, adapt_step_size=True),
    "HMC(num_steps=2, trajectory_length=None)": ebm.HMC(num_steps=2, trajectory_length=None),
    "NUTS(model=model, dense_mass=True)": ebm.NUTS(model, dense_mass=True),
    "MALA(potential_fn=Gaussian, step_size=0.2)": ebm.MALA(potential_fn=BOWL, step_size=0.2),
    "MALA(inverse_mass_matrix=[1., 2.])": ebm.MALA(inverse_mass_matrix=np.array([1.0, 2.0])),
    "NUTS(init_strategy=init_to_median(num_samples=5))": ebm.NUTS(
        init_strategy=init_to_median(num_samples=5)
    ),
    "ParallelTempering(kernel=MALA(step_size=0.2), temperatures=4.0, num_temperatures=3)": (
        ebm.ParallelTempering(ebm.MALA(step_size=0.2), 4.0, num_temperatures=3)
    ),
    "BlockGibbs()": ebm.BlockGibbs(),
    "SequentialMonteCarlo(kernel=MALA(), num_islands=4)": ebm.SequentialMonteCarlo(
        ebm.MALA(), num_islands=4
    ),
    "DenoisingScoreMatching(noise_scale=0.1)": ebm.DenoisingScoreMatching(0.1),
}


@pytest.mark.parametrize("call", CALLS)
def test_what_differs_from_the_defaults_is_printed(call):
    assert repr(CALLS[call]) == call


def test_an_estimator_names_its_optimiser():
    estimator = ebm.Estimator(ebm.ScoreMatching(), optax.adam(1e-3), ema_decay=0.99)
    assert repr(estimator) == (
        "Estimator(ScoreMatching(), chain(scale_by_adam, scale), ema_decay=0.99)"
    )


def test_a_run_prints_in_one_line_and_not_its_arrays():
    run = ebm.Estimator(ebm.ScoreMatching(), optax.sgd(1e-3)).run
    result = run(jr.key(0), 3, BOWL, np.zeros((5, 2)), progress_bar=False)
    assert repr(result).startswith("3 steps, loss -2 to -2.")
    assert repr(result).endswith(": Gaussian")


@pytest.mark.parametrize("Kernel", [*KERNELS.values(), *SPIN_KERNELS.values()])
def test_copies_print_alike(Kernel):
    kernel = Kernel()
    assert repr(pickle.loads(pickle.dumps(kernel))) == repr(kernel)
    assert getattr(ebm, repr(kernel).split("(")[0]) is type(kernel)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_print_on_one_line(name):
    text = repr(OBJECTIVES[name])
    assert text.startswith(type(OBJECTIVES[name]).__name__ + "(")
    assert "\n" not in text


def test_a_kernel_moved_to_another_energy_prints_that():
    assert repr(ebm.MALA(step_size=0.2).with_potential(BOWL)) == (
        "MALA(potential_fn=Gaussian, step_size=0.2)"
    )


def test_a_traced_number_prints():
    shown = []

    def loss(noise_scale):
        shown.append(repr(ebm.DenoisingScoreMatching(noise_scale)))
        return noise_scale

    jax.jit(loss)(0.5)
    assert shown[0].startswith("DenoisingScoreMatching(noise_scale=")


class Cells(HTMLParser):
    """The cells of all tables, row by row; raises if tags are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.open, self.texts = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        else:
            self.texts.append(data)


class Report(Printed):
    def _parts(self):
        return ["a <b> & c", "", [["name", "value"], ["<script>", "1"], ["x", "10"]], "end"]


def test_text_and_html_have_the_same_cells_and_html_is_escaped():
    assert repr(Report()).splitlines() == [
        "a <b> & c",
        "",
        "name      value",
        "<script>      1",
        "x            10",
        "end",
    ]
    html = Report()._repr_html_()
    assert "<script>" not in html
    cells = Cells(html)
    assert cells.rows == [["name", "value"], ["<script>", "1"], ["x", "10"]]
    assert cells.texts == ["a <b> & c", "end"]


def draws():
    values = jr.normal(jr.key(0), (4, 200, 2))
    stats = {"potential_energy": (values**2).sum(-1) / 2}
    return ebm.sampling.Draws(values, jnp.full(4, 0.57), 200, stats)


def drift():
    each = ("statistic", "start", "length")
    columns = {
        "mean": (each, np.ones((1, 2, 3))),
        "nested_r_hat": (each[::2], [[1.3, 1.1, 1.0]]),
    }
    names = {"statistic": ["energy"], "start": ["buffer", "data"], "length": [1, 10, 100]}
    return ebm.diagnostics.DriftProbe(("it drifts",), Dataset(columns, names))


RESULTS = {
    "mixing": (
        lambda: ebm.mixing_report({"x": np.asarray(draws().values)}),
        "Mixing of 4 chains",
    ),
    "modes": (lambda: ebm.mode_report(draws(), lambda x: (x[0] > 0).astype(int)), "hops"),
    "drift": (drift, "- it drifts"),
    "training": (
        lambda: ebm.training_report(
            ebm.estimation.EstimatorRunResult(None, np.linspace(2, 1, 100), {}, None)
        ),
        "Training of 100 steps",
    ),
    "comparison": (lambda: ebm.compare({"<bowl>": BOWL}, np.zeros((9, 2))), None),
}


@pytest.mark.parametrize("name", RESULTS)
def test_reports_are_tables_in_a_notebook(name):
    make, sentence = RESULTS[name]
    report = make()
    cells = Cells(report._repr_html_())
    assert len(cells.rows) > 1
    assert sentence is None or any(sentence in text for text in cells.texts)
    # Each cell is in the text, too.
    words = repr(report)
    assert all(cell in words for row in cells.rows for cell in row)


def test_draws_are_a_row():
    assert repr(draws()) == "4 chains of 200 draws: 0.57 accepted, 0 stuck, 0 not finite"
    rows = Cells(draws()._repr_html_()).rows
    assert rows == [
        ["draws", "accepted", "stuck", "not finite"],
        ["4 chains of 200 draws", "0.57", "0", "0"],
    ]
    exact = ebm.EnergyDistribution(BOWL).draw(jr.key(0), (5,))
    assert Cells(exact._repr_html_()).rows == [["draws"], ["5 exact draws"]]


def test_a_log_z_is_a_row_and_says_why_it_has_no_interval():
    log_z = ebm.energies.LogZ(1.25, 0.1, 1.0, 1.5, ess=300, method="Some")
    rows = Cells(log_z._repr_html_()).rows
    assert rows == [
        ["log Z", "bounds", "ESS", "method"],
        ["1.25 +- 0.1", "1 <= log Z <~ 1.5", "300", "Some"],
    ]
    bad = ebm.energies.LogZ(1.25, jnp.inf, checks={"ESS < 50": True}, method="Some")
    assert "no interval: ESS < 50" in Cells(bad._repr_html_()).texts
    first, second, third = repr(bad).splitlines()
    assert (first, second) == ("log Z = 1.25 (Some)", "  no interval: ESS < 50")
    assert third.startswith("  What to do next")
