"""The check of a surrogate: it corrects, it condemns, and it says when it cannot judge."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from intractable import LATTICE, lattice, lattice_data

import numpyro_ebm as ebm

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def surrogate():
    return ebm.surrogate_log_z(
        KEY, lattice, (-0.2, 1.0), data=lattice_data(), num_points=16, num_samples=300
    )


def draws_under(surrogate, size=2000):
    """Draws from the posterior as the surrogate sees it, by a fine grid."""
    couplings = jnp.linspace(0.1, 0.65, 4001)
    log_z = jax.jit(jax.vmap(surrogate.log_z))(couplings)
    log_p = 202 * couplings - 20 * log_z - 0.5 * couplings**2
    cdf = jnp.cumsum(jax.nn.softmax(log_p))
    return jnp.interp((jnp.arange(size) + 0.5) / size, cdf, couplings)


def tilted(surrogate, slope):
    """A surrogate whose log Z is wrong by a linear function."""
    process = surrogate.process
    process = dataclasses.replace(process, slope=process.slope + slope * process.scale[0])
    return eqx.tree_at(lambda s: s.process, surrogate, process)


def test_a_good_surrogate_passes(surrogate):
    check = ebm.check_surrogate(KEY, draws_under(surrogate), surrogate)
    assert check.ok
    assert abs(check.shift["theta"]) < 0.1
    assert check.method == "Enumeration"
    assert "ok" in repr(check)


@pytest.mark.parametrize("method", [None, "chains"])
def test_a_surrogate_that_is_slightly_wrong_is_corrected(surrogate, method, monkeypatch):
    wrong = tilted(surrogate, -0.9)
    if method == "chains":
        monkeypatch.setattr("numpyro_ebm.posteriors._check._exact_method", lambda *_: None)
    draws = draws_under(wrong)
    assert abs(draws.mean() - LATTICE[0]) > 0.5 * LATTICE[1]
    check = ebm.check_surrogate(KEY, draws, wrong)
    assert check.ok, check
    mean = check.weights @ np.asarray(draws)[check.indices]
    assert abs(mean - LATTICE[0]) < 0.15 * LATTICE[1]


def test_a_surrogate_that_is_wrong_is_condemned(surrogate):
    wrong = tilted(surrogate, 8.0)
    with pytest.warns(UserWarning, match="they cannot correct the surrogate; fit another"):
        check = ebm.check_surrogate(KEY, draws_under(wrong), wrong)
    assert not check.ok
    assert check.pareto_k > 0.7 or check.outside > 0.05


def test_draws_outside_of_the_region_are_seen(surrogate):
    with pytest.warns(UserWarning, match="lie outside of the region"):
        check = ebm.check_surrogate(KEY, jnp.linspace(0.3, 1.5, 100), surrogate)
    assert check.outside > 0.5


def test_too_few_fresh_draws_cannot_judge(surrogate, monkeypatch):
    monkeypatch.setattr("numpyro_ebm.posteriors._check._exact_method", lambda *_: None)
    with pytest.warns(UserWarning, match="so the weights are mostly noise"):
        ebm.check_surrogate(KEY, draws_under(surrogate), surrogate, num_data=100_000)


def test_draws_must_be_those_of_the_family(surrogate):
    several = {"K": jnp.ones(50), "other": jnp.ones(50)}
    with pytest.raises(ValueError, match="`posterior` has several sites"):
        ebm.check_surrogate(KEY, several, surrogate)
    without = dataclasses.replace(surrogate, num_data=0)
    with pytest.raises(ValueError, match="`num_data`, the number of data that share"):
        ebm.check_surrogate(KEY, jnp.ones(50), without)
    named = ebm.surrogate_log_z(
        KEY, lambda t: lattice(t["K"]), ({"K": 0.2}, {"K": 0.5}), num_samples=50, num_points=8
    )
    with pytest.raises(ValueError, match="`posterior` has no `K` among"):
        ebm.check_surrogate(KEY, {"k": jnp.ones(50)}, named, num_data=1)
