"""Print the lowest version that pyproject.toml allows of each dependency, for pip's `-c`."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement


def lowest(requirement: Requirement) -> str:
    """`name==version`; raises if the requirement has no lower bound."""
    bounds = [s.version for s in requirement.specifier if s.operator in (">=", "==")]
    if len(bounds) != 1:
        raise ValueError(f"{requirement} must have one lower bound, `>=`.")
    return f"{requirement.name}=={bounds[0]}"


def applies(requirement: Requirement) -> bool:
    """Whether this Python needs it."""
    return requirement.marker is None or requirement.marker.evaluate()


if __name__ == "__main__":
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    dependencies = map(Requirement, project["dependencies"])
    print(*map(lowest, filter(applies, dependencies)), sep="\n")
