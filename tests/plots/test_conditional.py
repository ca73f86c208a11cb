"""`plot_conditional`: density, median and interval where they should be."""

import jax.numpy as jnp
import jax.random as jr
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.stats import norm

import numpyro_ebm as ebm
from numpyro_ebm.plots import plot_conditional

mpl.use("Agg")
ENERGY = ebm.ConditionalEnergy(lambda y, x: 0.5 * ((y - x) / 0.5) ** 2 + 4 * x, ())
X = jnp.linspace(-1, 1, 50)
DATA = (X + 0.5 * jr.normal(jr.key(0), (50,)), X)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_the_bands_are_quantiles_and_the_image_is_the_density():
    ax = plot_conditional(ENERGY, DATA, bounds=((-1, 1), (-3, 3)), prob=0.8, num_grid=101)
    median, low, high = (line.get_xydata() for line in ax.lines)
    np.testing.assert_allclose(median[:, 1], median[:, 0], atol=5e-3)
    np.testing.assert_allclose(low[:, 1], low[:, 0] + 0.5 * norm.ppf(0.1), atol=5e-3)
    np.testing.assert_allclose(high[:, 1], high[:, 0] + 0.5 * norm.ppf(0.9), atol=5e-3)
    mesh, dots = ax.collections
    x, y = np.linspace(-1, 1, 101), np.linspace(-3, 3, 101)[:, None]
    image = np.asarray(mesh.get_array()).reshape(101, 101)
    np.testing.assert_allclose(image, norm.pdf(y, x, 0.5), atol=5e-3)
    np.testing.assert_allclose(dots.get_offsets(), np.stack([X, DATA[0]], 1), rtol=1e-6)
    assert len(ax.figure.axes) == 2


def test_it_draws_where_it_is_told():
    _, (left, right) = plt.subplots(1, 2)
    vector = ebm.ConditionalEnergy(lambda y, x: ENERGY(y[0], x[0]), (1,))
    data = (DATA[0][:, None], DATA[1][:, None])
    assert plot_conditional(vector, data, ax=left, colorbar=False) is left
    assert plot_conditional(ENERGY, bounds=((-1, 1), (-2, 2)), ax=right) is right
    np.testing.assert_allclose(left.get_xlim(), [-1, 1])
    assert [text.get_text() for text in right.get_legend().get_texts()] == [
        "median",
        "central 90%",
    ]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot_conditional(ENERGY), "`bounds` or `data` is needed"),
        (lambda: plot_conditional(ENERGY, DATA[0]), r"must be a pair `\(y, x\)`"),
        (lambda: plot_conditional(ENERGY, (np.ones((5, 2)), np.ones(5))), "one number each"),
        (lambda: plot_conditional(ebm.energies.Ring(), DATA), "must be a `ConditionalEnergy"),
        (lambda: plot_conditional(ENERGY, DATA, prob=1.5), "`prob` must lie between"),
        (lambda: plot_conditional(ENERGY, DATA, num_grid=1), "`num_grid` must be at least 2"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
