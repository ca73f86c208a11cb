"""What MkDocs builds beside the pages in this folder.

The gallery is made from `examples/`, one page and one notebook per script.
The changelog is the one of the repository.
"""

from pathlib import Path

import jupytext
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from numpyro_ebm import __version__

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    config["site_name"] = f"{config['site_name']} {__version__}"
    (part,) = (part for part in config["nav"] if "Gallery" in part)
    part["Gallery"] += [f"gallery/{example.stem}.md" for example in EXAMPLES]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    def add(uri: str, content: str) -> None:
        files.append(File.generated(config, uri, content=content))

    cards = []
    for example in EXAMPLES:
        notebook = jupytext.read(example)
        name = example.stem
        title, rest = _split(jupytext.writes(notebook, "md"))
        add(f"gallery/{name}.md", f"# {title}\n\n{_head(name)}\n\n{rest}")
        add(f"gallery/{name}.ipynb", jupytext.writes(notebook, "ipynb"))
        add(f"gallery/{name}.py", example.read_text())
        picture = f"[{_picture(name, title)}]({name}.md)"
        cards += ["<figure markdown>", picture, title, "</figure>"]
    cards = ['<div class="gallery" markdown>', *cards, "</div>"]
    add("gallery/index.md", "\n".join(["# Gallery", "", *cards, ""]))
    add("changelog.md", (ROOT / "CHANGELOG.md").read_text())
    return files


def _split(text: str) -> tuple[str, str]:
    """The title of a page, and what follows it."""
    _, _, body = text.partition("\n# ")
    title, _, rest = body.partition("\n")
    return title, rest.strip()


def _head(name: str) -> str:
    notebook = f"[Notebook]({name}.ipynb){{ download }}"
    script = f"[Script]({name}.py){{ download }}"
    picture = _picture(name, "What this example draws")
    return f"{picture}\n\n{notebook} · {script}"


def _picture(name: str, title: str) -> str:
    """Each script draws one picture, which is named after it."""
    return f"![{title}](../images/{name.partition('_')[2]}.png)"
