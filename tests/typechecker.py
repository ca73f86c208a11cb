"""Checks annotations while the tests run: every call that succeeds must keep to its own."""

import inspect
import re

import equinox as eqx
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeCallHintViolation

_CHECKED = beartype(conf=BeartypeConf(is_pep484_tower=True))  # An `int` is a `float`.
_pending: list[Exception] = []


def check(function):
    """Called twice by jaxtyping's import hook, with stand-ins for each function.

    The stand-in that checks arguments before a call checks nothing, because the library's own
    errors come first; the one that checks arguments and result after a call, which takes the
    result as `ret0`, does. Violations in the constructor of a module are raised once its
    `__check_init__` has passed.
    """
    if not any(
        re.fullmatch(r"ret\d+", name) for name in inspect.signature(function).parameters
    ):
        return function
    checked = _CHECKED(function)
    return _deferred(checked) if function.__name__ == "__init__" else checked


def _deferred(function):
    def check(self, *args, **kwargs):
        try:
            function(self, *args, **kwargs)
        except BeartypeCallHintViolation as violation:
            if not isinstance(self, eqx.Module):
                raise
            _pending.append(violation)

    return check


def install():
    """Raise what the constructors of modules violate, once the modules are made."""
    make = type(eqx.Module).__call__

    def __call__(cls, *args, **kwargs):
        try:
            module = make(cls, *args, **kwargs)
            violations = list(_pending)
        finally:
            _pending.clear()
        if violations:
            raise violations[0]
        return module

    type(eqx.Module).__call__ = __call__
