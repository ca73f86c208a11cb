import itertools
import os
import time
import zlib
from pathlib import Path

import jax
import numpyro
import pytest
import typechecker
from jaxtyping import install_import_hook

# The slow tests run the library as it is.
if os.environ.get("ANNOTATIONS") != "unchecked":
    typechecker.install()
    install_import_hook("numpyro_ebm", "typechecker.check")

# For `chain_method="parallel"`; must come before anything starts JAX's backend.
numpyro.set_host_device_count(2)


def pytest_addoption(parser):
    parser.addoption(
        "--third-by",
        metavar="HASH",
        help="run a third of the cases of each test, and of the slow tests; this hexadecimal "
        "number decides which",
    )
    parser.addoption(
        "--minutes", type=float, help="skip the tests that would begin after so many minutes"
    )


def pytest_collection_modifyitems(config, items):
    hexadecimal = config.getoption("--third-by")
    if hexadecimal:
        third = int(hexadecimal, 16) % 3
        cases = itertools.groupby(items, lambda item: item.nodeid.split("[")[0])
        chosen = {item for _, group in cases for item in a_third(list(group), third)}
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = [item for item in items if item in chosen]
        if config.getoption("--minutes"):
            # Time may run out; vary which tests come last.
            items.sort(key=lambda item: zlib.crc32(f"{hexadecimal} {item.nodeid}".encode()))


def a_third(cases, third):
    """A third of the cases of one test; at least one if it is quick."""
    slow = [case for case in cases if case.get_closest_marker("slow")]
    quick = [case for case in cases if case not in slow]
    chance = (case for case in slow if zlib.crc32(case.nodeid.encode()) % 3 == third)
    return [*chance, *quick[third % max(len(quick), 1) :: 3]]


BEGIN = time.monotonic()


def pytest_runtest_setup(item):
    minutes = item.config.getoption("--minutes")
    if minutes is not None and time.monotonic() - BEGIN > 60 * minutes:
        pytest.skip(f"{minutes:g} minutes are over")


@pytest.fixture
def x64():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled():
    yield
    # A thousand tests compile several gigabytes.
    jax.clear_caches()


@pytest.fixture(autouse=True)
def _leave_room_for_programs():
    yield
    # Linux gives a process 65530 maps; XLA crashes where it gets no more.
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_text().count("\n") > 30_000:
        jax.clear_caches()
