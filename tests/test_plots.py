import jax
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from helpers import ENERGIES

import numpyro_ebm as ebm


@pytest.fixture(autouse=True)
def _headless():
    mpl.use("Agg")
    yield
    plt.close("all")


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


def test_images_with_unknown_pixels():
    images = np.random.default_rng(0).normal(size=(3, 8, 8))
    images[:, 4:] = np.nan
    figure = ebm.plot_images({"half": images, "one": images[:1]})
    shown = [ax for ax in figure.axes if ax.images]
    assert len(figure.axes) == 6
    assert len(shown) == 4
    assert figure.axes[0].get_ylabel() == "half"


def test_bad_input():
    with pytest.raises(ValueError, match=r"`event_shape` is \(2,\)"):
        ebm.plot_energy(ebm.Gaussian(np.zeros(3), np.eye(3)))
