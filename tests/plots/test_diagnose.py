"""One call for the impatient."""

import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from helpers import COVARIANCE, MEAN
from numpyro.infer import MCMC

import numpyro_ebm as ebm

mpl.use("Agg")
ENERGY = ebm.Gaussian(MEAN, COVARIANCE)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def labels(figure):
    return [ax.get_title() + ax.get_ylabel() for ax in figure.axes]


@pytest.mark.slow
def test_draws(tmp_path):
    draws = ebm.sample(jr.key(0), ENERGY, ebm.NUTS(), num_chains=20, progress_bar=False)
    diagnosis = ebm.diagnose(draws)
    assert diagnosis.ok, diagnosis
    assert repr(diagnosis).endswith("ok")
    diagnosis.figure.savefig(tmp_path / "draws.png")
    text = " ".join(labels(diagnosis.figure))
    assert all(name in text for name in ("lp", "x[0]", "x[1]"))
    # A trace of sixteen chains, and ranks beside it, of each summary.
    assert len(diagnosis.figure.axes) == 6
    assert len(diagnosis.figure.axes[0].lines) == 16


@pytest.mark.slow
def test_a_model_that_mixes_badly():
    def model():
        numpyro.sample("x", dist.Normal(0, 1))

    mcmc = MCMC(
        ebm.MALA(model, step_size=1e-4, adapt_step_size=False, adapt_mass_matrix=False),
        num_warmup=10,
        num_samples=200,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jr.key(0))
    diagnosis = ebm.diagnose(mcmc, min_ess=100)
    assert not diagnosis.ok
    assert "R-hat" in repr(diagnosis)


@pytest.mark.slow
def test_the_bias_of_a_step_is_named_though_chains_agree():
    """Of N(0, I), a step of 0.22 draws a variance of 1 / (1 - 0.11) = 1.12."""
    energy = ebm.Gaussian(np.zeros(2), np.eye(2))
    kernel = ebm.UnadjustedLangevin(step_size=0.22, adapt_step_size=False)
    settings = {"num_chains": 50, "num_warmup": 100, "num_samples": 400, "progress_bar": False}
    draws = ebm.sample(jr.key(0), energy, kernel, **settings)
    assert abs(float(draws.values.var()) - 1.124) < 0.05
    diagnosis = ebm.diagnose(draws)
    assert diagnosis.ok, diagnosis
    verdict, note = repr(diagnosis).splitlines()[-2:]
    assert verdict == "ok"
    assert note.startswith("`UnadjustedLangevin` is unadjusted: its step size biases the draws")
    assert "ebm.diagnostics.kernel_stein_discrepancy" in note
    assert not ebm.diagnostics.kernel_stein_discrepancy(
        jr.key(1), energy, draws, thinning=10
    ).ok
    exact = ebm.sample(jr.key(0), energy, ebm.MALA(), **settings)
    assert "unadjusted" not in repr(ebm.diagnose(exact))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("Kernel", "step_size"), [(ebm.UnadjustedLangevin, 0.5), (ebm.UnadjustedMCLMC, 20.0)]
)
def test_unadjusted_kernels_have_no_acceptance(Kernel, step_size):
    energy = ebm.as_energy(lambda x: 0.5 * jnp.sum(x**2), (3000,))
    kernel = Kernel(step_size=step_size, adapt_step_size=False)
    settings = {"num_warmup": 20, "num_samples": 60, "progress_bar": False}
    draws = ebm.sample(jr.key(0), energy, kernel, **settings)
    assert "accepted" not in repr(draws)
    assert "unadjusted, 0 stuck" in repr(draws)
    # MALA would accept nothing here, which is no reason to call these chains stuck.
    report = ebm.mixing_report(draws, min_ess=1)
    assert not report.chains["is_stuck"].any()
    assert "acceptance_rate" not in report.chains
    mcmc = MCMC(kernel.with_potential(energy), num_chains=1, **settings)
    mcmc.run(jr.key(0))
    assert "acc. prob" not in mcmc.sampler.get_diagnostics_str(mcmc.last_state)
    assert "is unadjusted" in repr(ebm.mixing_report(mcmc, min_ess=1))


def test_the_end_of_unadjusted_chains():
    energy = ebm.as_energy(lambda x: 0.5 * jnp.sum(x**2), (3000,))
    kernel = ebm.UnadjustedLangevin(step_size=0.5, adapt_step_size=False)
    one = ebm.sample(
        jr.key(0), energy, kernel, num_warmup=20, num_samples=1, progress_bar=False
    )
    assert one.ok, one
    site = ebm.EnergyDistribution(energy, (3000,), sampler=kernel, num_steps=20)
    drawn = site.draw(jr.key(0), (3,))
    assert drawn.ok, drawn
    assert "unadjusted" in repr(drawn)


def test_a_fit():
    data = ENERGY.sample(jr.key(1), (500,))
    start = ebm.Gaussian(np.zeros(2), np.eye(2))

    def fit(num_steps):
        estimator = ebm.Estimator(ebm.ScoreMatching(), optax.adam(2e-2))
        return estimator.run(
            jr.key(0), num_steps, start, data, batch_size=100, progress_bar=False
        )

    done = ebm.diagnose(fit(2000))
    assert done.ok, done
    short = ebm.diagnose(fit(100))
    assert "The loss still falls" in repr(short)
    assert short.figure.axes


def test_what_a_training_report_sees():
    noise = np.random.default_rng(0).normal(size=400)

    def result(losses, **metrics):
        return ebm.estimation.EstimatorRunResult(None, np.asarray(losses), metrics, None)

    decay = 10 * np.exp(-np.arange(400) / 20)
    assert ebm.training_report(result(decay + noise)).ok
    rising = ebm.training_report(result(decay + noise + 0.02 * np.arange(400)))
    assert "The loss still rises" in rising.failures[0]
    (failure,) = ebm.training_report(
        result(np.where(np.arange(400) == 7, np.nan, decay))
    ).failures
    assert "not finite at 1 steps" in failure
    stuck = ebm.training_report(result(decay + noise, accept_prob=np.full(400, 0.01)))
    assert "accept 0.01" in stuck.failures[0]
    alarms = [
        not ebm.training_report(result(np.random.default_rng(s).normal(size=400))).ok
        for s in range(200)
    ]
    assert sum(alarms) <= 8


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda: ebm.training_report(jnp.zeros(3)), TypeError, "`Estimator.run`"),
        (
            lambda: ebm.training_report(
                ebm.estimation.EstimatorRunResult(None, np.zeros(5), {}, None)
            ),
            ValueError,
            "at least 80 steps",
        ),
        (lambda: ebm.diagnose(jax.nn.relu), TypeError, "`source`"),
    ],
)
def test_bad_input(run, error, message):
    with pytest.raises(error, match=message):
        run()
