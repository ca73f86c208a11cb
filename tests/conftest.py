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
