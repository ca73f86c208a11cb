"""What docs/extending.md adds from outside works, in the lines that CONTRIBUTING states."""

import ast
import re
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from helpers import assert_means, code_blocks
from numpyro.infer import MCMC

import numpyro_ebm as ebm

ROOT = Path(__file__).parents[1]
QUIET = {"progress_bar": False}
#: The classes that make an energy, an objective, a kernel and a normaliser.
ADDED = {
    "energy": ["Shell"],
    "objective": ["EnergyDiscrepancy"],
    "kernel": ["MultinomialMove", "MultinomialHMC"],
    "normaliser": ["Laplace"],
}


def definitions():
    """The imports and the classes of the page, without what it does with them."""
    blocks = code_blocks((ROOT / "docs/extending.md").read_text())
    return [node for block in blocks for node in ast.parse(block).body if is_definition(node)]


def is_definition(node):
    return isinstance(node, ast.Import | ast.ImportFrom | ast.ClassDef)


def num_lines(node):
    """Its lines without the docstring and blank ones."""
    has_docstring = ast.get_docstring(node) is not None
    body = node.body[has_docstring:]
    return 1 + len(ast.unparse(ast.Module(body, [])).replace("\n\n", "\n").split("\n"))


class Line(eqx.Module):
    slope: jax.Array

    def __call__(self, y, x):
        return 0.5 * jnp.sum((y - self.slope * x) ** 2)


@pytest.fixture(scope="module")
def added():
    namespace = {}
    for node in definitions():
        exec(compile(ast.Module([node], []), "extending.md", "exec"), namespace)
    return namespace


@pytest.mark.parametrize("kind", ADDED)
def test_the_lines_it_takes(kind):
    classes = {node.name: node for node in definitions() if isinstance(node, ast.ClassDef)}
    lines = sum(num_lines(classes[name]) for name in ADDED[kind])
    stated = re.search(rf"{kind} \((\d+) lines\)", (ROOT / "CONTRIBUTING.md").read_text())
    assert lines <= int(stated[1])


def test_an_energy_takes_part_in_everything(added):
    shell = added["Shell"](jnp.array(2.0), 0.5)
    both = shell + ebm.Gaussian(jnp.zeros(2), jnp.eye(2))
    grid = ebm.log_partition(jr.key(0), both, ebm.Quadrature([-6.0] * 2, [6.0] * 2, 201))
    drawn = ebm.log_partition(jr.key(0), both, ebm.ImportanceSampling())
    assert abs(drawn.estimate - grid.estimate) < 4 * drawn.std_error
    trained = ebm.Estimator(ebm.ScoreMatching(), optax.adam(0.05)).run(
        jr.key(1), 50, shell, jnp.array([[0.0, 1.5], [1.5, 0.0]]), **QUIET
    )
    assert trained.energy.radius < 1.9


def test_a_kernel_is_right_under_sample_and_mcmc(added):
    Kernel = added["MultinomialHMC"]
    gamma = dist.Gamma(3.0, 2.0).expand([2]).to_event(1)
    settings = {"num_warmup": 200, "num_samples": 200, "num_chains": 64, **QUIET}
    draws = ebm.sample(jr.key(0), gamma, Kernel(), **settings)
    assert_means(draws.values, [1.5, 1.5])

    def model(y):
        scale = numpyro.sample("scale", dist.Gamma(3.0, 2.0))
        numpyro.sample("y", dist.Exponential(scale), obs=y)

    mcmc = MCMC(Kernel(model), chain_method="vectorized", **settings)
    mcmc.run(jr.key(1), 0.5)
    assert_means(mcmc.get_samples(group_by_chain=True)["scale"][..., None], [4 / 2.5])
    assert ebm.mixing_report(mcmc).ok


def test_an_objective_learns_with_weights_and_conditions(added):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 1))
    y = 0.5 * x + rng.normal(size=x.shape)
    energy = ebm.ConditionalEnergy(Line(jnp.array(0.0)), (1,))
    weights = rng.uniform(size=len(x)) < 0.5
    y = np.where(weights[:, None], y, 100.0)
    result = ebm.Estimator(added["EnergyDiscrepancy"](), optax.adam(0.02)).run(
        jr.key(0), 400, energy, (y, x), weights=weights.astype(float), **QUIET
    )
    assert abs(result.energy.fn.slope - 0.5) < 0.1
