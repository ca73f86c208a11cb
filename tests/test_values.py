"""What is equal by value, and what has the same fingerprint."""

import functools
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import numpyro_ebm as ebm
from numpyro_ebm._values import ByValue, fingerprint


def closure(*values):
    return lambda x: (x, values)


def a_cycle_through_the_first():
    def first():
        return second

    def second():
        return first

    return first


def a_cycle_of_the_second():
    def first():
        return second

    def second():
        return second

    return first


#: Made anew, each is equal to itself and to no other.
VALUES = {
    "adam": lambda: optax.adam(1e-3),
    "another rate": lambda: optax.adam(1e-2),
    "schedule": lambda: optax.adam(optax.cosine_decay_schedule(1e-3, 100)),
    "chain": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
    "MALA": lambda: ebm.MALA(step_size=0.1),
    "another step": lambda: ebm.MALA(step_size=0.2),
    "AutoMALA": lambda: ebm.AutoMALA(step_size=0.1),
    "objective": lambda: ebm.ContrastiveDivergence(ebm.MALA(step_size=0.1), 2),
    "another objective": lambda: ebm.ContrastiveDivergence(ebm.MALA(step_size=0.1), 3),
    "array": lambda: closure(jnp.ones(3)),
    "another array": lambda: closure(jnp.ones(3).at[2].set(0)),
    "integer": lambda: closure(1),
    "float": lambda: closure(1.0),
    "boolean": lambda: closure(True),
    "partial": lambda: functools.partial(max, 1),
    "another partial": lambda: functools.partial(max, 2),
    "cycle": a_cycle_through_the_first,
    "another cycle": a_cycle_of_the_second,
}


@pytest.mark.parametrize("digest", [ByValue, fingerprint])
def test_equal_values_and_no_others(digest):
    first, second = ([digest(make()) for make in VALUES.values()] for _ in range(2))
    equal = np.array([[a == b for b in second] for a in first])
    np.testing.assert_array_equal(equal, np.eye(len(VALUES), dtype=bool))
    for a, b in zip(first, second, strict=True):
        assert hash(a) == hash(b)


CHANGEABLE = {
    "list": lambda: closure([1]),
    "numpy": lambda: closure(np.ones(2)),
    "path": lambda: closure(Path("data")),
    "distribution": lambda: closure(dist.Normal(0, 1)),
    "accumulated": lambda: optax.MultiSteps(optax.sgd(0.1), 4).gradient_transformation(),
}


@pytest.mark.parametrize("make", CHANGEABLE.values(), ids=CHANGEABLE)
def test_what_may_change_equals_itself_alone_and_has_a_fingerprint(make):
    one = make()
    assert ByValue(one) == ByValue(one)
    assert ByValue(one) != ByValue(make())
    assert fingerprint(one) == fingerprint(make())


def test_fingerprints_see_into_objects():
    steps = [optax.MultiSteps(optax.sgd(rate), 4).gradient_transformation() for rate in (1, 2)]
    assert fingerprint(steps[0]) != fingerprint(steps[1])
    noise = [ebm.NoiseContrastiveEstimation(dist.Normal(0.0, scale)) for scale in (1, 2)]
    assert fingerprint(noise[0]) != fingerprint(noise[1])
    networks = [eqx.nn.Lambda(fn) for fn in (jnp.tanh, jnp.sin)]
    assert fingerprint(networks[0]) != fingerprint(networks[1])
