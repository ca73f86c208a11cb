"""The only place that imports BlackJAX's samplers."""

from types import ModuleType

import jax


def blackjax() -> ModuleType:
    """BlackJAX, imported at its first use.

    Importing BlackJAX 1.7 starts JAX's backend, after which `numpyro.set_host_device_count`
    and `numpyro.set_platform` silently do nothing. It also computes a default argument: under a
    trace this would be a tracer, leaked for good.
    """
    with jax.ensure_compile_time_eval():
        import blackjax

    return blackjax
