"""Held-out scores against closed forms."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest
from helpers import COVARIANCE, MEAN

import numpyro_ebm as ebm

TRUTH = ebm.Gaussian(MEAN, COVARIANCE)
SHIFTED = ebm.Gaussian(MEAN + 0.3, COVARIANCE)
DATA = TRUTH.sample(jr.key(0), (2000,))


def test_log_likelihood_is_the_mean_log_density():
    found = ebm.log_likelihood(TRUTH, DATA)
    values = dist.MultivariateNormal(MEAN, COVARIANCE).log_prob(DATA)
    np.testing.assert_allclose(found.values, values, rtol=1e-4)
    np.testing.assert_allclose(found.std_error, values.std(ddof=1) / np.sqrt(2000), rtol=1e-3)


def test_the_error_of_the_constant_is_in_it():
    constant = float(TRUTH.log_z)
    sure = ebm.log_likelihood(ebm.Normalized(lambda x: TRUTH(x), constant), DATA)
    unsure = ebm.log_likelihood(ebm.Normalized(lambda x: TRUTH(x), constant, 0.3), DATA)
    np.testing.assert_allclose(unsure.mean, sure.mean, rtol=1e-5)
    np.testing.assert_allclose(unsure.std_error**2 - sure.std_error**2, 0.09, rtol=1e-3)
    assert "log Z contributes 0.3" in repr(unsure)


def test_compare_puts_the_truth_first():
    energies = {"shifted": SHIFTED, "truth": TRUTH, "NumPyro": dist.Normal(0, 3).expand([2])}
    energies["NumPyro"] = energies["NumPyro"].to_event(1)
    table = ebm.compare(energies, DATA)
    assert table.names[0] == "truth"
    gap = float(table.difference[table.names.index("shifted")])
    error = float(table.difference_error[table.names.index("shifted")])
    # The expected gap is the Kullback-Leibler divergence.
    divergence = 0.5 * 0.09 * np.linalg.inv(COVARIANCE).sum()
    assert abs(gap + divergence) < 4 * error < divergence
    # Paired: much smaller than if the data were not the same.
    assert error < 0.5 * np.hypot(*np.asarray(table.std_error[:2]))
    assert "truth" in repr(table).splitlines()[1]


def test_two_constants_bring_two_errors():
    constant = float(TRUTH.log_z)
    energies = {
        name: ebm.Normalized(lambda x: TRUTH(x), constant + shift, error)
        for name, shift, error in (("a", 0.0, 0.3), ("b", 0.1, 0.4))
    }
    table = ebm.compare(energies, DATA)
    np.testing.assert_allclose(table.difference_error, [0, 0.5], rtol=1e-4, atol=1e-7)


def test_views_and_mixtures_pass_the_error_on():
    expert = ebm.Normalized(lambda x: TRUTH(x), float(TRUTH.log_z), 0.3)
    moved = ebm.Transformed(expert, ebm.energies.Standardize(np.zeros(2), np.ones(2)))
    mixture = ebm.Mixture([expert, SHIFTED], [1.0, 3.0])
    np.testing.assert_allclose(ebm.log_likelihood(moved, DATA).log_z_error, 0.3, rtol=1e-6)
    np.testing.assert_allclose(ebm.log_likelihood(mixture, DATA).log_z_error, 0.075, rtol=1e-5)


def test_hyvarinen_needs_no_constant():
    r"""Its expected gap is half the Fisher divergence."""
    energies = {"truth": lambda x: TRUTH(x) + 5.0, "shifted": lambda x: SHIFTED(x)}
    table = ebm.compare(energies, DATA, ebm.diagnostics.HyvarinenScore())
    precision = np.linalg.inv(COVARIANCE)
    fisher = 0.5 * np.sum((precision @ np.full(2, 0.3)) ** 2)
    assert table.names == ("truth", "shifted")
    assert abs(table.difference[1] + fisher) < 4 * table.difference_error[1] < 2 * fisher
    loss = ebm.ScoreMatching().at(jr.key(0), TRUTH, DATA[0])
    np.testing.assert_allclose(
        ebm.diagnostics.HyvarinenScore().at(TRUTH, DATA[0]), -loss, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: ebm.log_likelihood(lambda x: x @ x, DATA), "does not know its `log_z`"),
        (lambda: ebm.compare({"a": TRUTH, "b": jax.nn.silu}, DATA), "`b`|one point|b"),
        (lambda: ebm.compare({"a": lambda x: x @ x}, DATA), "energies\\['a'\\]"),
        (lambda: ebm.compare({}, DATA), "at least one"),
        (lambda: ebm.compare([TRUTH], DATA), "dict from names"),
        (lambda: ebm.compare({"a": TRUTH}, jnp.zeros((3, 5))), "shape"),
        (
            lambda: ebm.compare(
                {"a": ebm.IsingModel((2,), 0.1)},
                jnp.ones((3, 2)),
                ebm.diagnostics.HyvarinenScore(),
            ),
            "discrete",
        ),
    ],
)
def test_bad_input(run, message):
    with pytest.raises(ValueError, match=message):
        run()


def test_hyvarinens_score_is_refused_at_a_boundary():
    """It would rank the rate 0.1 above the true one of exponential data."""
    rates = {"true": dist.Exponential(1.0), "flat": dist.Exponential(0.1)}
    with pytest.raises(ValueError, match="`HyvarinenScore` is wrong"):
        ebm.compare(rates, np.ones(3), ebm.diagnostics.HyvarinenScore())
    assert ebm.compare(rates, np.ones(3)).names[0] == "true"


def test_data_off_the_support_has_no_likelihood():
    with pytest.raises(ValueError, match="points of the support"):
        ebm.log_likelihood(dist.Exponential(1.0), np.array([1.0, -1.0]))
