"""Draws the rooms of the package, and which imports which, as `house.png`."""

import ast
from pathlib import Path

import matplotlib.pyplot as plt

HERE = Path(__file__).parent
ROOT = HERE.parents[1] / "numpyro_ebm"
ROOMS = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))
KNOWN = {
    "energies": "what is modelled",
    "chains": "the engine",
    "kernels": "how one moves",
    "sampling": "draws",
    "normalizers": "how one integrates",
    "objectives": "how one learns",
    "sites": "energies in models",
    "estimation": "what drives that",
    "diagnostics": "how one checks",
    "posteriors": "their parameters",
    "tasks": "what people do",
    "flows": "densities as partners",
    "plots": "how one looks",
}


def imported(room: str) -> set[str]:
    """The other rooms that the files of a room import."""
    nodes = (
        node
        for path in (ROOT / room).glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
    )
    names = {
        (node.module or "").split(".")[0]
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.level == 2
    }
    return names & set(ROOMS) - {room}


def direct(room: str) -> set[str]:
    """Those that it does not reach through another one."""
    rooms = imported(room)
    return {
        other
        for other in rooms
        if not any(other in imported(one) for one in rooms)
    }


def floor(room: str) -> int:
    return 1 + max(map(floor, imported(room)), default=-1)


def main() -> None:
    floors = {room: floor(room) for room in ROOMS}
    places = {}
    for level in range(max(floors.values()) + 1):
        here = [room for room in ROOMS if floors[room] == level]
        for i, room in enumerate(here):
            places[room] = (3 * (i - (len(here) - 1) / 2), level)
    figure, axes = plt.subplots(figsize=(7, 8))
    for room, (x, y) in places.items():
        for other in direct(room):
            x2, y2 = places[other]
            bend = (
                "arc3,rad=0.25" if x == x2 and y - y2 > 1 else "arc3,rad=0.05"
            )
            arrow = {
                "arrowstyle": "->",
                "color": "0.6",
                "connectionstyle": bend,
                "shrinkA": 22,
                "shrinkB": 22,
            }
            axes.annotate("", (x2, y2), (x, y), arrowprops=arrow)
    for room, (x, y) in places.items():
        box = {
            "boxstyle": "round,pad=0.5",
            "facecolor": "white",
            "edgecolor": "tab:blue",
        }
        axes.text(
            x,
            y,
            f"{room}\n{KNOWN[room]}",
            ha="center",
            va="center",
            bbox=box,
            fontsize=9,
        )
    axes.set(xlim=(-4, 4), ylim=(-0.6, max(floors.values()) + 0.6))
    axes.axis("off")
    figure.savefig(HERE / "house.png", dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    main()
