"""Laws of the package: its layers, its doors, its import, its docstrings."""

import ast
import inspect
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

import numpyro_ebm as ebm

ROOT = Path(ebm.__file__).parent
FILES = {path.relative_to(ROOT): path for path in ROOT.rglob("*.py")}

LEVELS = {
    "_types": 0,
    "_arviz": 0,
    "_checks": 0,
    "_enumeration": 0,
    "_files": 0,
    "_driver": 0,
    "_trainable": 0,
    "_values": 0,
    "datasets": 1,
    "energies": 1,
    "chains": 1,
    "_calculus": 1,
    "_integrable": 1,
    "_normalization": 1,
    "kernels": 1,
    "_factor": 2,
    "sampling": 2,
    "distribution": 2,
    "normalizers": 2,
    "objectives": 2,
    "saving": 2,
    "comparison": 2,
    "estimation": 3,
    "diagnostics": 3,
    "plots": 4,
    "diagnosis": 4,
    "__init__": 5,
}

DOORS = {
    "blackjax": "chains/_blackjax.py",
    "optax": "estimation/",
    "arviz_base": "diagnostics/arviz.py",
    "arviz_stats": "_arviz.py",
    "arviz_plots": "plots/arviz.py",
    "matplotlib": "plots/_axes.py",
    "sklearn": "datasets.py",
}


def imports(path):
    """`(level, module)` of each import in the file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from ((node.level, name) for name in names)
        elif isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)


@pytest.mark.parametrize("name", FILES, ids=str)
def test_imports_point_down(name):
    room = name.parts[0].removesuffix(".py")
    for level, module in imports(FILES[name]):
        if level == len(name.parts):
            target = module.split(".")[0]
            assert LEVELS[target] <= LEVELS[room], f"{name} imports {target}"


@pytest.mark.parametrize("name", FILES, ids=str)
def test_each_dependency_has_one_door(name):
    for level, module in imports(FILES[name]):
        package = module.split(".")[0]
        if level == 0 and package in DOORS:
            assert name.as_posix().startswith(DOORS[package]), module


def run(code):
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True)


def test_import_starts_no_backend_and_warns_of_nothing():
    done = run(
        "import numpyro_ebm, sys, numpyro\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge._backends\n"
        "late = {'blackjax', 'arviz_stats', 'arviz_plots', 'sklearn'} & set(sys.modules)\n"
        "assert not late, late\n"
        "numpyro.set_host_device_count(2)\n"
        "import jax\n"
        "assert jax.local_device_count() == 2\n"
    )
    assert done.stdout == done.stderr == ""


def test_a_first_import_of_blackjax_under_a_trace_leaks_nothing():
    run(
        "import jax, numpyro_ebm as ebm\n"
        "site = ebm.EnergyDistribution(lambda x: x**2, (), num_steps=4)\n"
        "with jax.checking_leaks():\n"
        "    jax.jit(site.sample)(jax.random.key(0))\n"
    )


@pytest.mark.slow
def test_import_is_hardly_slower_than_what_it_needs():
    needs = "import numpyro, equinox, optax, jaxtyping, arviz_base"
    seconds = {"import numpyro_ebm": [], needs: []}
    for _ in range(10):
        for code, times in seconds.items():
            start = time.perf_counter()
            run(code)
            times.append(time.perf_counter() - start)
    ours, theirs = (statistics.median(times) for times in seconds.values())
    print(f"import: {ours:.2f} s, what it needs: {theirs:.2f} s, ratio {ours / theirs:.3f}")
    assert ours <= 1.2 * theirs


def is_ours(value):
    return getattr(value, "__module__", "").startswith("numpyro_ebm")


def test_public_names_are_documented():
    api = (ROOT.parent / "docs" / "api.md").read_text()
    public = {k: v for k, v in vars(ebm).items() if not k.startswith("_") and is_ours(v)}
    assert len(public) > 20
    for name, value in public.items():
        assert inspect.getdoc(value), name
        assert name in api, f"{name} is not in docs/api.md"
        for attribute, member in vars(value).items() if inspect.isclass(value) else ():
            if inspect.isfunction(member) and is_ours(member) and attribute[0] != "_":
                signature = inspect.signature(member)
                assert signature.return_annotation is not signature.empty, attribute


def test_the_version_is_that_of_the_changelog():
    changelog = (ROOT.parent / "CHANGELOG.md").read_text()
    assert f"## {ebm.__version__}" in changelog
