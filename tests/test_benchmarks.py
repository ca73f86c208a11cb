"""The benchmarks can be run; what they measure is not checked here."""

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
#: Those that need a library that is not installed with this one.
OF_PEERS = {"torchebm_steps", "ebmkit_moons"}


@pytest.mark.parametrize("name", sorted({p.stem for p in BENCHMARKS.glob("*.py")} - OF_PEERS))
def test_a_benchmark_imports(name, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(sys, "argv", [name])
    importlib.import_module(name)
