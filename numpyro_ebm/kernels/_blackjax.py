"""The only door to BlackJAX's samplers."""

from types import ModuleType


def blackjax() -> ModuleType:
    """BlackJAX, imported at its first use.

    Importing BlackJAX 1.7 starts JAX's backend, after which `numpyro.set_host_device_count`
    and `numpyro.set_platform` silently do nothing.
    """
    import blackjax

    return blackjax
