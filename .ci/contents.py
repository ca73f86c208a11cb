"""Check what the wheel and the sdist in dist/ contain, and their version."""

import subprocess
import tarfile
import zipfile
from pathlib import Path

#: Besides the package itself, what people need who have only the sdist.
ALSO = {
    *("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "README.md", "SECURITY.md"),
    *("Makefile", "pyproject.toml", "tests/conftest.py", "docs/index.md", ".ci/lowest.py"),
}


def package_files() -> set[str]:
    """The sources of the package, and the mark that they are typed."""
    files = Path("numpyro_ebm").rglob("*")
    return {p.as_posix() for p in files if p.suffix == ".py" or p.name == "py.typed"}


def check(wheel: Path, sdist: Path) -> None:
    """Raise unless the wheel holds the package alone, and the sdist all that it should."""
    version = wheel.name.split("-")[1]
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    metadata = {
        name for name in in_wheel if name.startswith(f"numpyro_ebm-{version}.dist-info/")
    }
    differs = (in_wheel - metadata) ^ package_files()
    assert not differs, f"The wheel should hold the package and nothing else: {differs}"
    with tarfile.open(sdist) as archive:
        in_sdist = {name.split("/", 1)[-1] for name in archive.getnames()}
    missing = (package_files() | ALSO) - in_sdist
    assert not missing, f"The sdist lacks {missing}."
    assert sdist.name == f"numpyro_ebm-{version}.tar.gz", sdist.name
    wrong = tags() - {f"v{version}"}
    assert not wrong, f"This commit has the tags {wrong}, and its version is {version}."


def tags() -> set[str]:
    """The version tags of the commit; none outside of git."""
    command = ["git", "tag", "--points-at", "HEAD", "v*"]
    return set(
        subprocess.run(command, check=False, capture_output=True, text=True).stdout.split()
    )


if __name__ == "__main__":
    (wheel,), (sdist,) = Path("dist").glob("*.whl"), Path("dist").glob("*.tar.gz")
    check(wheel, sdist)
    print(f"{wheel.name} and {sdist.name} are complete.")
