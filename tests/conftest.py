import time
import zlib
from pathlib import Path

import jax
import numpyro
import pytest
import typechecker
from jaxtyping import install_import_hook

typechecker.install()
install_import_hook("numpyro_ebm", "typechecker.check")

# For `chain_method="parallel"`; must come before anything starts JAX's backend.
numpyro.set_host_device_count(2)


def pytest_addoption(parser):
    parser.addoption(
        "--third-by",
        metavar="HASH",
        help="run a third of the tests, which depends on this hexadecimal number",
    )
    parser.addoption(
        "--minutes", type=float, help="skip the tests that would begin after so many minutes"
    )


def pytest_collection_modifyitems(config, items):
    hexadecimal = config.getoption("--third-by")
    if hexadecimal:
        third = int(hexadecimal, 16) % 3
        chosen = [item for item in items if zlib.crc32(item.nodeid.encode()) % 3 == third]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen


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
