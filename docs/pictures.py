"""Runs the pages of the documentation, and draws their pictures.

`python docs/pictures.py docs/diagnostics.md` executes the code of the page
from top to bottom. Figures that a block leaves open become the pictures below
it, up to the next block. Pictures of examples and of the house are made by
their own scripts.
"""

import os
import re
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = ROOT.glob("examples/[0-9]*.py")
OTHERS = {"house", *(script.stem.partition("_")[2] for script in EXAMPLES)}


def blocks(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each block of Python, and the pictures that it makes."""
    parts = re.split(
        r"^ *```python\n(.*?)```", text, flags=re.DOTALL | re.MULTILINE
    )
    for code, below in zip(parts[1::2], parts[2::2], strict=True):
        pictures = re.findall(r"!\[[^\]]*\]\(([^)]+\.png)\)", below)
        yield (
            textwrap.dedent(code),
            [p for p in pictures if Path(p).stem not in OTHERS],
        )


def run(page: Path) -> Iterator[tuple[str, "mpl.figure.Figure"]]:
    """Execute a page, and pair each of its pictures with a figure."""
    namespace: dict[str, object] = {}
    plt.close("all")
    for code, pictures in blocks(page.read_text()):
        exec(compile(code, page, "exec"), namespace)
        figures = [plt.figure(number) for number in plt.get_fignums()]
        yield from zip(pictures, figures, strict=True)
        plt.close("all")


def main() -> None:
    mpl.use("Agg")
    pages = [Path(name).resolve() for name in sys.argv[1:]] or PAGES
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for page in pages:
            for picture, figure in run(page):
                figure.savefig(
                    page.parent / picture, dpi=110, bbox_inches="tight"
                )
                print(page.parent / picture)


if __name__ == "__main__":
    main()
