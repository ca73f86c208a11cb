"""`jump_report` on chains whose jumps are known."""

import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest
import xarray as xr

import numpyro_ebm as ebm
from numpyro_ebm.diagnostics import jump_report


def run(modes, accepted, jumps=None):
    """Chains at the numbers of their modes; a jump is tried at every draw."""
    modes, accepted = np.asarray(modes), np.asarray(accepted)
    tried = np.cumsum(np.ones_like(accepted), 1) if jumps is None else jumps
    variables = {"jumps": tried, "jumps_accepted": np.cumsum(accepted, 1)}
    stats = {name: (("chain", "draw"), x) for name, x in variables.items()}
    posterior = xr.Dataset({"x": (("chain", "draw"), modes.astype(float))})
    groups = {"posterior": posterior, "sample_stats": xr.Dataset(stats)}
    return xr.DataTree.from_dict(groups)


def label(x):
    return x.astype(int)


def test_it_counts_jumps_between_modes_and_other_hops():
    modes = np.tile([0, 1, 1, 2, 0, 1], (2, 20))
    accepted = np.tile([0, 1, 0, 0, 1, 1], (2, 20))
    report = jump_report(run(modes, accepted), label)
    assert report.ok
    expected = [[0, 80, 0], [0, 0, 0], [40, 0, 0]]
    np.testing.assert_array_equal(report.connections, expected)
    np.testing.assert_array_equal(report.table["arrivals"], [40, 80, 0])
    np.testing.assert_array_equal(report.table["departures"], [80, 0, 40])
    # From 1 to 2, and from the end of a round to its begin.
    np.testing.assert_array_equal(report.table["hops"], [38, 0, 40])
    assert report.connected == pytest.approx(2 / 3)
    assert report.accept_prob == pytest.approx(60 * 2 / 238, abs=0.01)
    assert report.per_transition == 1
    assert "Jumps connect 2 of 3 pairs of modes" in repr(report)


def test_a_mode_that_no_jump_reaches_is_named():
    modes = np.concatenate([np.tile([0, 1], (3, 50)), np.full((1, 100), 2)])
    report = jump_report(run(modes, np.ones((4, 100), int)), label)
    assert report.failures == ("No jump connects mode 2 with the others.",)
    assert "What to do next: fit the flow to draws of these modes too" in repr(report)


def test_a_chain_that_never_jumps_and_too_few_jumps():
    accepted = np.ones((4, 100), int)
    accepted[2] = 0
    (failure,) = jump_report(run(np.zeros((4, 100)), accepted), label).failures
    assert failure == "Chain 2 of 4 made no jump, where the mean is 74."
    report = jump_report(run(np.zeros((4, 100)), 0 * accepted), label)
    assert report.failures == ("Only 0 of 396 jumps were accepted, fewer than 20.",)
    assert np.isnan(report.connected)
    assert "there is nothing to connect" in repr(report)


def test_another_kernel_is_refused():
    draws = ebm.sample(
        jr.key(0), dist.Normal(0, 1), ebm.MALA(), num_samples=60, progress_bar=False
    )
    with pytest.raises(ValueError, match=r"`source` must be a run of `ebm\.flows\.FlowJump`"):
        jump_report(draws)
