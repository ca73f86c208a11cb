"""The code in the README and the documentation runs, in order, as it stands."""

import ast
import os
import re
from pathlib import Path

import matplotlib as mpl
import pictures
import pytest

import numpyro_ebm as ebm

ROOT = Path(__file__).parents[1]
PAGES = {str(page.relative_to(ROOT)): page for page in pictures.PAGES}
WITH_CODE = [name for name, page in PAGES.items() if "```python" in page.read_text()]


#: Pages that learn for half a minute or longer.
LONG = {
    "docs/bayesian.md",
    "docs/choose-estimator.md",
    "docs/conditional.md",
    "docs/diagnostics.md",
    "docs/doubly-intractable.md",
    "docs/evidence.md",
    "docs/flows.md",
    "docs/getting-started.md",
    "docs/how-to/anomalies.md",
    "docs/how-to/classes.md",
    "docs/how-to/denoising.md",
    "docs/how-to/density.md",
    "docs/how-to/images.md",
    "docs/how-to/inpainting.md",
    "docs/how-to/rbm.md",
    "docs/how-to/regression.md",
    "docs/many-modes.md",
    "docs/sampling.md",
    "docs/tasks.md",
    "docs/variational.md",
}


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=pytest.mark.slow if p in LONG else ()) for p in WITH_CODE],
)
def test_code_runs_and_draws_the_pictures(page, monkeypatch, tmp_path, capsys):
    mpl.use("Agg")
    monkeypatch.chdir(tmp_path)
    # NumPyro may change it when a page asks for several devices.
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    for picture, figure in pictures.run(PAGES[page]):
        figure.canvas.draw()
        assert (PAGES[page].parent / picture).exists(), picture
    if page in KEPT:
        KEPT[page](capsys.readouterr().out)


def keeps_denoising(printed):
    """The energy comes first on both data sets, by half of what the table says at least."""
    rows = re.findall(r"^(\w+) ([\d.]+)$", printed, re.MULTILINE)
    assert len(rows) == 14
    for part, margin in ((rows[:7], 0.3), (rows[7:], 0.9)):
        values = {name: float(value) for name, value in part}
        energy = values.pop("energy")
        assert energy > max(values.values()) + margin, part
        assert values["gaussian"] > values["non_local_means"] > values["noisy"] + 1


#: What pages must print.
KEPT = {"docs/how-to/denoising.md": keeps_denoising}


@pytest.mark.parametrize("page", WITH_CODE)
def test_code_is_narrow(page):
    for code, _ in pictures.blocks(PAGES[page].read_text()):
        for line in code.splitlines():
            assert len(line) <= 78, line


def test_code_in_docstrings_is_narrow():
    for module in (ROOT / "numpyro_ebm").rglob("*.py"):
        for code, _ in pictures.blocks(module.read_text()):
            assert max(map(len, code.splitlines())) <= 78, module


#: The most lines of code that a job may take, without imports and blank lines.
JOBS = {
    "density": 8,
    "compare": 10,
    "regression": 12,
    "intervals": 15,
    "chains": 8,
    "failing": 10,
    "logic": 15,
    "rbm": 12,
    "inpainting": 12,
    "anomalies": 10,
    "ising": 15,
    "svi": 20,
    "saving": 15,
    "kernel": 25,
}


@pytest.mark.parametrize("job", JOBS)
def test_a_job_takes_few_lines(job):
    text = PAGES[f"docs/how-to/{job}.md"].read_text()
    code = "".join(code for code, _ in pictures.blocks(text))
    imports = ("import ", "from ")
    lines = [line for line in code.splitlines() if line and not line.startswith(imports)]
    assert len(lines) <= JOBS[job]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    # The gallery is made from the examples; `make docs` checks links to it.
    elsewhere = re.compile(r"\w+://|gallery/")
    for link in re.findall(r"\]\(([^)#]+?)\)", (ROOT / page).read_text()):
        if not elsewhere.match(link):
            assert (ROOT / page).parent.joinpath(link).exists(), link


def test_the_api_lists_what_there_is():
    api = "".join(page.read_text() for page in (ROOT / "docs/api").glob("*.md"))
    for name in re.findall(r"^::: (\S+)", api, re.MULTILINE):
        parts = name.split(".")
        assert parts[0] == "numpyro_ebm"
        thing = ebm
        for part in parts[1:]:
            thing = getattr(thing, part)


def test_what_is_cited_is_listed():
    """Citations look like [Neal 2001], or [Wang et al. 2020; Neal 2001]."""
    listed = PAGES["docs/references.md"].read_text()
    sources = [*(ROOT / "numpyro_ebm").rglob("*.py"), *PAGES.values()]
    text = re.sub(r"\s+", " ", " ".join(source.read_text() for source in sources))
    cited = set(re.findall(r"(?:\[|; )([A-Z][^][;()]*? (?:19|20)\d\d)(?=[];])", text))
    assert len(cited) > 50
    assert not [name for name in sorted(cited) if f"| {name} |" not in listed]


def sentences(tree):
    """The literal parts of what a module warns about: what it warns, yields or remarks."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn":
            yield fragments(node.args[0])
        if isinstance(node, ast.FunctionDef) and node.name == "remark":
            returns = [n.value for n in ast.walk(node) if isinstance(n, ast.Return)]
            yield from filter(None, map(fragments, returns))


def fragments(node):
    constants = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
    return [text.strip(" `.,:;") for text in constants if len(str(text)) > 12]


def test_warnings_have_their_troubleshooting():
    page = PAGES["docs/troubleshooting.md"].read_text().replace("`", "")
    failures = ast.parse((ROOT / "numpyro_ebm/diagnostics/_failures.py").read_text())
    texts = [fragments(n) for n in ast.walk(failures) if isinstance(n, ast.Yield)]
    for module in (ROOT / "numpyro_ebm").rglob("*.py"):
        texts += sentences(ast.parse(module.read_text()))
    texts = [parts for parts in texts if parts]
    assert len(texts) > 20
    for parts in texts:
        assert any(words in page for part in parts for words in chunks(part)), parts


def chunks(text):
    """All runs of four words of a sentence."""
    words = text.replace("`", "").split()
    return [" ".join(words[i : i + 4]) for i in range(max(1, len(words) - 3))]
