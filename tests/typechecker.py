"""Annotations, checked while the tests run: every call that succeeds must keep to its own."""

import inspect

import equinox as eqx
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeCallHintViolation

_CHECKED = beartype(conf=BeartypeConf(is_pep484_tower=True))  # An `int` is a `float`.
_pending: list[Exception] = []


def check(function):
    """What jaxtyping's import hook calls on the signature of every function, twice.

    Of its two checks, before a call and after, only the second counts: before, the library's
    own errors shall speak. Those of a module's constructor wait until the module was checked.
    """
    if not any(name.startswith("ret") for name in inspect.signature(function).parameters):
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
    """Check modules once they are made."""
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
