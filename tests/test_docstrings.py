"""The examples in docstrings run as they stand, with the names that they take for granted."""

from pathlib import Path
from types import SimpleNamespace

import blackjax
import equinox as eqx
import flowjax.distributions as fd
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib as mpl
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from helpers import code_blocks, mixture, network
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.infer import MCMC

import numpyro_ebm as ebm

ENERGY = mixture()
TASKS = ["anomaly", "denoise", "inpaint", "log_ratio", "point_estimates"]
TASKS += ["synthesize", "translate"]
QUIET = {"progress_bar": False}


def models():
    def line(x, y):
        slope = numpyro.sample("slope", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(slope * x, 1), obs=y)

    def parabola(x, y):
        line(x, y - numpyro.sample("bend", dist.Normal(0, 1)) * x**2)

    def model(y):
        line(1.0, y)

    return {
        "line": line,
        "parabola": parabola,
        "x": jnp.ones(3),
        "y": jnp.ones(3),
        "model": model,
    }


def examples():
    root = Path(ebm.__file__).parent
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        for i, example in enumerate(code_blocks(path.read_text())):
            yield pytest.param(name, example, id=f"{name}-{i}")


def given(name):
    """What an example in this file takes for granted."""
    data = ENERGY.sampler(jr.key(1), (300,))
    common = {
        **{"ebm": ebm, "eqx": eqx, "jax": jax, "jnp": jnp, "numpyro": numpyro, "dist": dist},
        **{"optax": optax, "MCMC": MCMC, "constraints": constraints},
        **{"energy": ENERGY, "key": jr.key(2), "data": data, "noise": 3 * data},
        **{"batch": data, "held_out": data, "gaussian": ebm.Gaussian(jnp.zeros(2), jnp.eye(2))},
        "density": ebm.Normalized(ENERGY, ENERGY.log_z),
        "model": lambda: numpyro.sample("x", dist.Normal(0, 1)),
    }
    return {**common, **SPECIAL.get(name, dict)()}


def draws():
    settings = {"num_chains": 8, "num_warmup": 200, "num_samples": 400, **QUIET}
    return {"draws": ebm.sample(jr.key(3), ENERGY, ebm.MALA(), **settings)}


def fitted():
    objective = ebm.ContrastiveDivergence(ebm.MALA(step_size=0.1), 2, ebm.Persistent(size=200))
    data = ENERGY.sampler(jr.key(1), (100,))
    run = ebm.Estimator(objective, optax.adam(1e-3)).run
    return {"result": run(jr.key(0), 3, ebm.MLPEnergy(2, 8, key=jr.key(4)), data, **QUIET)}


def replicated():
    posterior = {"loc": jr.normal(jr.key(5), (40, 2))}
    return {"replicates": ENERGY.sampler(jr.key(6), (40, 300)), "posterior": posterior}


def a_loop_of_blackjax():
    algorithm = blackjax.mala(lambda x: -ENERGY(x), 0.3)

    def step_all_chains(states, key):
        states, infos = jax.vmap(algorithm.step)(jr.split(key, 4), states)
        return states, (states, infos)

    states = jax.vmap(algorithm.init)(jnp.zeros((4, 2)))
    return {
        "step_all_chains": step_all_chains,
        "states": states,
        "keys": jr.split(jr.key(7), 50),
    }


def regression():
    return {"network": eqx.nn.MLP(2, "scalar", 8, 2, key=jr.key(8)), "x": jnp.array(0.5)}


def classes():
    network = eqx.nn.MLP(2, 10, 8, 1, key=jr.key(8))
    labels = jnp.arange(300) % 10
    probs = jnp.full((300, 10), 0.1)
    reference = dist.Normal(0, 1).expand([2]).to_event(1)
    return {"network": network, "labels": labels, "probs": probs, "reference": reference}


def codes():
    def network(codes):
        return jnp.sum(codes[..., 0])

    return {"network": network, "codes": jax.nn.one_hot(jnp.zeros((5, 20), int), 4)}


def pairs():
    x = jnp.linspace(-1, 1, 20)
    conditional = ebm.ConditionalEnergy(lambda y, x: (y - x) ** 2, event_shape=())
    return {"conditional": conditional, "y": x + 0.1, "x": x}


def energies():
    data, energy = jr.normal(jr.key(1), (30, 2)), ebm.MLPEnergy(2, 8, key=jr.key(4))
    settings = {"prior": dist.Normal(0, 1), "step_size": 1e-5, "num_chains": 2, **QUIET}
    sgmcmc = ebm.posteriors.sgmcmc
    draws = sgmcmc(jr.key(0), ebm.ScoreMatching(), energy, data, num_samples=50, **settings)
    places = {"left": -jnp.ones(2), "right": jnp.ones(2), "held_out": data}
    return {"draws": draws, "box": ebm.Quadrature([-9.0] * 2, [9.0] * 2), **places}


def at_a_minimum():
    data = ENERGY.sampler(jr.key(1), (300,))
    return {"energy": ebm.Gaussian(data.mean(0), np.cov(data.T, bias=True)), "data": data}


def locations(x):
    theta = numpyro.sample("theta", dist.Normal(0, 1).expand([2]).to_event())
    ebm.loss_factor("x", ebm.ScoreMatching(), ebm.Gaussian(theta, jnp.eye(2)), x)


def precisions():
    def family(theta):
        return ebm.as_energy(lambda x: 0.5 * jnp.exp(theta) * x**2, ())

    def model(x, energy=family):
        theta = numpyro.sample("theta", dist.Normal(0, 1))
        with numpyro.plate("data", len(x)):
            numpyro.sample("x", ebm.EnergyDistribution(energy(theta)), obs=x)

    x = jr.normal(jr.key(10), (20,))
    settings = {"num_points": 8, "num_samples": 100, "data": x, **QUIET}
    surrogate = ebm.surrogate_log_z(jr.key(11), family, (-2.0, 2.0), **settings)
    mcmc = MCMC(ebm.NUTS(model), num_warmup=100, num_samples=100, **QUIET)
    mcmc.run(jr.key(12), x, surrogate)
    spins = jr.rademacher(jr.key(13), (1, 8, 8), float)
    names = {"surrogate": surrogate, "mcmc": mcmc, "held_out": x, "spins": spins}
    return {"family": family, "model": model, "x": x, "theta": jnp.zeros(()), **names}


def a_flow():
    return {"flow": fd.MultivariateNormal(jnp.zeros(2), 4 * jnp.eye(2))}


def images():
    """Flat images of 8 x 8 pixels, and energies of them."""
    energy = ebm.Gaussian(jnp.zeros(64), jnp.eye(64))
    some = energy.sample(jr.key(1), (3,))
    classes = ebm.ConditionalEnergy(lambda x, k: jnp.sum((x - k.sum()) ** 2), (64,))
    energies = dict.fromkeys(("energy", "density", "energy_of_eights", "prior"), energy)
    points = dict.fromkeys(("images", "noisy", "new", "threes", "observations", "clean"), some)
    data = energy.sample(jr.key(2), (100,))
    return {
        **{"np": np, **energies, **points, "data": data, "held_out": data, "classes": classes},
        "background": ebm.Gaussian(jnp.zeros(64), 2 * jnp.eye(64)),
        "start": ebm.Gaussian(jnp.zeros(64), 2 * jnp.eye(64)),
        "restored": SimpleNamespace(mean=some),
    }


SPECIAL = {
    **{f"tasks/_{name}.py": images for name in TASKS},
    "sampling/_each.py": images,
    **dict.fromkeys(("flows/_jump.py", "flows/_learned.py"), a_flow),
    **dict.fromkeys(("flows/_transport.py", "diagnostics/_jumps.py"), a_flow),
    "objectives/_alpha.py": a_flow,
    "objectives/_flow_contrast.py": a_flow,
    "objectives/_kullback_leibler.py": a_flow,
    "diagnostics/_classes.py": classes,
    "energies/_classes.py": classes,
    "energies/_one_hot.py": codes,
    "posteriors/_check.py": precisions,
    "posteriors/_exchange_report.py": precisions,
    "posteriors/_normalized_by.py": precisions,
    "posteriors/_predictive.py": precisions,
    "posteriors/_surrogate.py": precisions,
    "posteriors/_weights.py": energies,
    "_trainable.py": lambda: {"energy": network()},
    "diagnostics/_blackjax.py": a_loop_of_blackjax,
    "diagnostics/_datatree.py": draws,
    "diagnostics/_drift.py": fitted,
    "diagnostics/_mixing.py": draws,
    "diagnostics/_modes.py": draws,
    "diagnostics/_predictive.py": replicated,
    "diagnostics/_stein.py": draws,
    "energies/_model.py": models,
    "normalizers/_models.py": models,
    "normalizers/_nested.py": models,
    "energies/_clamped.py": lambda: {"x": jnp.array([0.5, jnp.nan])},
    "energies/_conditional.py": regression,
    "kernels/_gibbs.py": lambda: {
        "rbm": ebm.BernoulliRBM(np.ones((4, 3)) / 9, [0.0] * 4, [0.0] * 3)
    },
    "kernels/_populations.py": lambda: {"fn": lambda x, s: 0.5 * jnp.sum(x**2) / (1 + s**2)},
    "normalizers/_integrability.py": lambda: {
        "a": ebm.Gaussian(jnp.zeros(2), jnp.eye(2)),
        "b": ebm.Gaussian(jnp.ones(2), jnp.eye(2)),
    },
    "objectives/_denoising.py": lambda: {"fn": lambda x, s: jnp.sum(x**2) / s},
    "plots/_diagnosis.py": draws,
    "plots/_energies.py": draws,
    "plots/_conditional.py": pairs,
    **dict.fromkeys(("tasks/_predict.py", "tasks/_prediction.py"), pairs),
    "posteriors/_laplace.py": at_a_minimum,
    "posteriors/_calibration.py": lambda: {
        "make": lambda loc: ebm.Gaussian(loc, jnp.eye(2)),
        "objective": ebm.ScoreMatching(),
        "calibration": ebm.calibrate_weight(
            jr.key(9), locations, ENERGY.sampler(jr.key(1), (50,))
        ),
    },
    "sites/_distribution.py": lambda: {"locs": jnp.zeros((2, 2))},
}
#: Arguments of the models that some examples define.
ARGUMENTS = {
    "tasks/_denoise.py": (jnp.ones((2, 64)),),
    "energies/_counts.py": (jnp.ones(3), jnp.ones(3, int)),
    "sites/_distribution.py": (jnp.zeros(2),),
    "energies/_potts.py": (jnp.ones((3, 3)),),
    "posteriors/_exchange.py": (jnp.ones(5),),
    "posteriors/_losses.py": (jnp.ones(5),),
    "posteriors/_normalized_by.py": (jnp.ones(5),),
    "posteriors/_surrogate.py": (jnp.ones(5),),
    "posteriors/_calibration.py": (jnp.ones((5, 2)),),
    "normalizers/_surrogate.py": (jnp.ones(5),),
    "sites/_module.py": (jnp.ones((5, 1)), jnp.ones(5)),
}


@pytest.mark.filterwarnings("ignore:There are not enough devices")
@pytest.mark.parametrize(("name", "example"), list(examples()))
def test_an_example_runs(name, example, monkeypatch, tmp_path):
    mpl.use("Agg")
    monkeypatch.chdir(tmp_path)
    if name == "saving.py":
        ebm.save("moons.ebm", ENERGY)
    namespace = given(name)
    with handlers.seed(rng_seed=0):
        exec(compile(example, name, "exec"), namespace)
        if "def model" in example:
            namespace["model"](*ARGUMENTS.get(name, ()))
