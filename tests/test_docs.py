"""The code in the README and the documentation runs, in order, as it stands."""

import re
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
from helpers import code_blocks

import numpyro_ebm as ebm

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    "docs/index.md",
    "docs/digits.md",
    "docs/choose-estimator.md",
    "docs/sampling.md",
    "docs/normalizers.md",
    "docs/diagnostics.md",
    "docs/compose.md",
    "docs/bayesian.md",
    "docs/extending.md",
]


@pytest.mark.parametrize("page", PAGES)
# NumPyro's own advice for progress bars on a terminal that pytest is not.
def test_code_blocks(page, monkeypatch, tmp_path):
    mpl.use("Agg")
    monkeypatch.chdir(tmp_path)
    blocks = code_blocks((ROOT / page).read_text())
    assert blocks
    namespace = {}
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)
    plt.close("all")


@pytest.mark.parametrize("page", ["README.md", *map(str, Path("docs").glob("*.md"))])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    for link in re.findall(r"\]\(([^)#]+?)\)", text):
        if "://" not in link and not link.startswith("numpyro_ebm"):
            assert (ROOT / page).parent.joinpath(link).exists(), link


def test_the_api_lists_what_there_is():
    for name in re.findall(r"^::: (\S+)", (ROOT / "docs/api.md").read_text(), re.MULTILINE):
        parts = name.split(".")
        assert parts[0] == "numpyro_ebm"
        thing = ebm
        for part in parts[1:]:
            thing = getattr(thing, part)
