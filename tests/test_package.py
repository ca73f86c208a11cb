"""Laws of the package: its layers, its doors, its import, its docstrings."""

import ast
import inspect
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

import numpyro_ebm as ebm

ROOT = Path(ebm.__file__).parent
FILES = {path.relative_to(ROOT): path for path in ROOT.rglob("*.py")}

#: A room imports from lower floors, and from itself.
FLOORS = {
    "_trainable": -1,
    "_types": 0,
    "_show": 0,
    "_arviz": 0,
    "_advice": 0,
    "_checks": 1,
    "_rows": 2,
    "_radial": 2,
    "_driver": 2,
    "_files": 1,
    "_values": 1,
    "energies": 2,
    "_calculus": 3,
    "_guard": 3,
    "chains": 3,
    "datasets": 3,
    "saving": 3,
    "kernels": 4,
    "sampling": 5,
    "normalizers": 6,
    "objectives": 7,
    "sites": 7,
    "estimation": 8,
    "diagnostics": 9,
    "flows": 9,
    "posteriors": 9,
    "tasks": 9,
    "fitting": 10,
    "plots": 10,
    "__init__": 11,
}

DOORS = {
    "blackjax": "chains/_blackjax.py",
    "optax": "estimation/",
    "arviz_base": "diagnostics/_datatree.py",
    "arviz_stats": "_arviz.py",
    "arviz_plots": "plots/_arviz.py",
    "matplotlib": "plots/_axes.py",
    "sklearn": "datasets/_images.py",
    "mlxtend": "datasets/_images.py",
    "flowjax": "flows/_flowjax.py",
    "paramax": "flows/_flowjax.py",
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
            is_below = target == room or FLOORS[target] < FLOORS[room]
            assert is_below, f"{name} imports {target}"


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
        "late = {'blackjax', 'arviz_stats', 'arviz_plots', 'sklearn', 'mlxtend', 'flowjax'}\n"
        "late &= set(sys.modules)\n"
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
@pytest.mark.timing
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
    api = "".join(page.read_text() for page in (ROOT.parent / "docs/api").glob("*.md"))
    public = {k: v for k, v in vars(ebm).items() if not k.startswith("_") and is_ours(v)}
    assert len(public) > 20
    for name, value in public.items():
        assert inspect.getdoc(value), name
        assert name in api, f"{name} is on no page of docs/api"
        for attribute, member in vars(value).items() if inspect.isclass(value) else ():
            if inspect.isfunction(member) and is_ours(member) and attribute[0] != "_":
                signature = inspect.signature(member)
                assert signature.return_annotation is not signature.empty, attribute


def test_the_top_holds_what_people_write():
    public = [n for n, v in vars(ebm).items() if n[0] != "_" and not inspect.ismodule(v)]
    assert len(public) <= 90, len(public)
    with pytest.raises(
        AttributeError, match=r"`numpyro_ebm\.Ring` is `numpyro_ebm\.energies\.Ring`"
    ):
        _ = ebm.Ring
    assert not hasattr(ebm, "nothing")


def bodies():
    """The number of lines of each function without its docstring."""
    for path in FILES.values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                body = node.body[ast.get_docstring(node) is not None :]
                yield body[-1].end_lineno - body[0].lineno + 1 if body else 0


def test_files_and_functions_are_short():
    lengths = [len(path.read_text().splitlines()) for path in FILES.values()]
    print(f"files: median {statistics.median(lengths)}, at most {max(lengths)} lines")
    assert max(lengths) <= 300
    assert statistics.median(lengths) < 150
    deciles = statistics.quantiles(bodies(), n=10)
    print(f"function bodies: median {deciles[4]}, ninth decile {deciles[8]} lines")
    assert deciles[8] <= 15


def test_the_walks_of_the_architecture_are_short_and_lead_through_files():
    walks = (ROOT.parent / "docs" / "architecture.md").read_text().split("\n## From ")[1:]
    for walk in walks:
        files = re.findall(r"^\| `(\S+\.py)`", walk, re.MULTILINE)
        assert 3 < len(files) <= 7, files
        assert all((ROOT / name).exists() for name in files), files


def test_energies_are_not_asked_by_name_what_they_know():
    asked = [name for name, path in FILES.items() if "hasattr(energy" in path.read_text()]
    assert not asked, asked


def test_the_version_is_the_same_everywhere():
    files = {
        "CHANGELOG.md": f"## {ebm.__version__}",
        "CITATION.cff": f"version: {ebm.__version__}",
    }
    for name, line in files.items():
        assert f"\n{line}" in (ROOT.parent / name).read_text(), name
    # The version is a static one, so that clones without tags have it, too; a tag must agree.
    command = ["git", "-C", str(ROOT.parent), "tag", "--points-at", "HEAD", "v*"]
    tags = subprocess.run(command, check=False, capture_output=True, text=True).stdout.split()
    assert set(tags) <= {f"v{ebm.__version__}"}


def test_each_dependency_has_a_lowest_version():
    """`make lowest` tries them; without one it would try any."""
    command = [sys.executable, ".ci/lowest.py"]
    done = subprocess.run(command, cwd=ROOT.parent, check=True, capture_output=True, text=True)
    lines = done.stdout.split()
    assert {"numpyro", "jax", "equinox", "optax"} <= {line.split("==")[0] for line in lines}
