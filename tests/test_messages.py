"""What a mistake of a first day says."""

import inspect

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import numpyro.optim
import optax
import pytest
from helpers import ENERGIES

import numpyro_ebm as ebm


@pytest.mark.parametrize("make", ENERGIES.values(), ids=ENERGIES)
def test_an_energy_refuses_a_batch(make):
    energy, batch = make(), jnp.ones((5, 2))
    shape = energy.event_shape
    if shape is None:
        return
    batch = jnp.ones((5, *shape))
    says = rf"takes one point of shape \({shape[0]},\), got \(5, {shape[0]}\): use `jax.vmap`"
    for call in (energy, jax.jit(lambda x: energy(x)), jax.grad(lambda x: energy(x).sum())):
        with pytest.raises(ValueError, match=says):
            call(batch)
    assert jax.vmap(energy)(batch).shape == (5,)


class Own(ebm.AbstractEnergy):
    event_shape = (2,)

    def __call__(self, z, scale=1.0):
        """What a user writes."""
        return scale * jnp.sum(z**2)


def test_an_own_energy_keeps_its_call():
    assert Own()(jnp.ones(2)) == 2.0
    assert Own()(z=jnp.ones(2), scale=3.0) == Own()(jnp.ones(2), 3.0) == 6.0
    assert list(inspect.signature(Own.__call__).parameters) == ["self", "z", "scale"]
    assert Own.__call__.__doc__ == "What a user writes."
    with pytest.raises(ValueError, match=r"Own takes one point of shape \(2,\), got \(5, 2\)"):
        Own()(np.ones((5, 2)))
    with pytest.raises(ValueError, match=r"of shape \(\), got \(3,\)"):
        ebm.as_energy(lambda x: jnp.sum(x), ())(jnp.ones(3))
    assert ebm.as_energy(lambda x: jnp.sum(x))(jnp.ones(3)) == 3.0


ENERGY = ebm.Gaussian([0.0], [[1.0]])
DATA = np.linspace(-1, 1, 20)[:, None]
CONDITIONAL = ebm.ConditionalEnergy(lambda y, x: (y - x) ** 2, ())
SMC = ebm.TemperedSMC(ebm.MALA(), dist.Normal(0, 2).expand([1]).to_event(1))
ESTIMATOR = ebm.Estimator(ebm.ScoreMatching(), optax.sgd(0.1))
VERBS = {
    "sample": lambda key: ebm.sample(key, ENERGY, ebm.MALA()),
    "sample a population": lambda key: ebm.sample(key, ENERGY, SMC),
    "sample_moments": lambda key: ebm.sample_moments(key, ENERGY, ebm.MALA()),
    "log_partition": lambda key: ebm.log_partition(key, ENERGY),
    "log_partition_ratio": lambda key: ebm.normalizers.log_partition_ratio(key, ENERGY, ENERGY),
    "normalize": lambda key: ebm.normalize(key, ENERGY),
    "predict": lambda key: ebm.tasks.predict(key, CONDITIONAL, DATA[:, 0]),
    "inpaint": lambda key: ebm.tasks.inpaint(key, ENERGY, DATA, np.array([False])),
    "denoise": lambda key: ebm.tasks.denoise(key, ENERGY, DATA, 0.1),
    "translate": lambda key: ebm.tasks.translate(key, ENERGY, DATA),
    "synthesize": lambda key: ebm.tasks.synthesize(key, ENERGY, 3),
    "sample_each": lambda key: ebm.sampling.sample_each(
        key, lambda y: ENERGY, DATA, ebm.MALA()
    ),
    "run": lambda key: ESTIMATOR.run(key, 2, ENERGY, DATA),
    "init": lambda key: ESTIMATOR.init(key, ENERGY, DATA),
    "an exact draw": lambda key: ENERGY.sample(key),
    "a site": lambda key: ebm.EnergyDistribution(ENERGY).draw(key),
    "ensemble": lambda key: ebm.posteriors.ensemble(key, ESTIMATOR, 2, lambda _: ENERGY, DATA),
    "sgmcmc": lambda key: ebm.posteriors.sgmcmc(
        key, ebm.ScoreMatching(), ENERGY, DATA, prior=dist.Normal(0, 1), step_size=0.1
    ),
    "drift_probe": lambda key: ebm.drift_probe(key, ENERGY, ebm.MALA(), {"a": DATA, "b": DATA}),
    "stein": lambda key: ebm.diagnostics.kernel_stein_discrepancy(key, ENERGY, DATA),
    "mmd": lambda key: ebm.diagnostics.maximum_mean_discrepancy(key, DATA, DATA),
    "classifier": lambda key: ebm.diagnostics.classifier_two_sample_test(key, DATA, DATA),
    "wasserstein": lambda key: ebm.diagnostics.sliced_wasserstein(key, DATA, DATA),
    "dequantize": lambda key: ebm.energies.dequantize(key, DATA),
    "two_moons": lambda key: ebm.datasets.two_moons(key, 10),
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_an_integer_is_not_a_key(verb):
    with pytest.raises(TypeError, match=r"got the integer 3: use `jax\.random\.key\(3\)`"):
        verb(3)
    with pytest.raises(TypeError, match=r"such as `jax\.random\.key\(0\)`, got 'seed'"):
        verb("seed")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: numpyro.optim.Adam(1e-3), r"`numpyro\.optim\.Adam`.*use `optax\.adam\(1e-3\)"),
        (lambda: numpyro.optim.SGD(1e-3), r"use `optax\.sgd\(1e-3\)"),
        (lambda: numpyro.optim.Minimize(), r"`numpyro\.optim\.Minimize`.*`optax\.adam"),
        (lambda: "adam", "got str"),
    ],
)
def test_an_optimiser_of_numpyro_is_refused_by_name(make, says):
    with pytest.raises(TypeError, match=says):
        ebm.Estimator(ebm.ScoreMatching(), make())


def test_the_names_in_optax_exist():
    for name, theirs in ebm.estimation._inputs._OPTAX.items():
        assert hasattr(numpyro.optim, name)
        assert hasattr(optax, theirs)


def test_the_size_of_islands_prints_as_such():
    smc = ebm.SequentialMonteCarlo(reference=dist.Normal(0, 2).expand([1]).to_event(1))
    energy = ebm.as_energy(lambda x: 0.5 * jnp.sum(x**2), (1,))
    text = repr(ebm.log_partition(jr.key(0), energy, smc))
    assert " of 8 islands (SequentialMonteCarlo)" in text
    proposal = ebm.ImportanceSampling(dist.Normal(0, 2).expand([1]).to_event(1), 5000)
    assert " of 5000 draws (" in repr(ebm.log_partition(jr.key(0), energy, proposal))


def test_reports_say_what_to_do_next():
    stuck = np.random.default_rng(0).normal(size=(4, 100, 1)) + 5 * np.arange(4)[:, None, None]
    for report, step in (
        (ebm.mixing_report(stuck), "What to do next: label the modes in `ebm.mode_report`|run"),
        (ebm.mode_report(stuck, lambda x: x[0] > 7), "or sample with `ebm.ParallelTempering"),
    ):
        assert not report.ok
        lines = repr(report).splitlines()
        found = [line for line in lines if line.startswith("What to do next: ")]
        assert len(found) == 1
        assert any(part in found[0] for part in step.split("|"))
    failed = ebm.energies.LogZ(0.0, checks={"the grid is too coarse": True})
    assert repr(failed).endswith("\n  What to do next: give more `num_points`.")
    assert "next" not in repr(ebm.energies.LogZ(0.0, 0.1))


def test_a_fit_that_has_not_settled_says_what_to_do_next():
    result = ESTIMATOR.run(jr.key(0), 80, ENERGY, DATA, progress_bar=False)
    result = result._replace(losses=np.linspace(3.0, 0.0, 80), metrics={})
    report = ebm.training_report(result)
    assert repr(report).endswith("next: continue with `run(..., init_state=result.state)`.")
    good = ebm.training_report(result._replace(losses=np.zeros(80)))
    assert repr(good).endswith("ok")
