import arviz_base
import arviz_stats
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr
from helpers import COVARIANCE, MEAN
from numpyro.infer import MCMC, NUTS as NumPyroNUTS

import numpyro_ebm as ebm

ENERGY = ebm.Gaussian(MEAN, covariance_matrix=COVARIANCE)
Y = jnp.zeros((3, 2))


def model(y):
    with numpyro.plate("image", 3):
        x = numpyro.sample("x", ebm.EnergyDistribution(lambda x: ENERGY(x), (2,)))
        numpyro.sample("y", dist.Normal(x, 0.5).to_event(1), obs=y)
    numpyro.deterministic("norm", jnp.linalg.norm(x))
    numpyro.factor("nothing", 0.0)


def run(kernel, *args, **kwargs):
    mcmc = MCMC(
        kernel,
        num_warmup=100,
        num_samples=200,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(0), *args, **kwargs)
    return mcmc


COMMON = {"lp", "acceptance_rate", "diverging", "step_size", "n_grad"}
STATS = {
    "MALA": (ebm.MALA, COMMON),
    "NUTS": (ebm.NUTS, COMMON | {"energy", "n_steps", "tree_depth", "reached_max_treedepth"}),
}


@pytest.mark.parametrize(("Kernel", "stats"), STATS.values(), ids=STATS)
def test_a_model(Kernel, stats):
    mcmc = run(Kernel(model), Y)
    tree = ebm.to_arviz(mcmc)
    assert set(tree.children) == {"posterior", "sample_stats", "observed_data"}
    assert tree["posterior"]["x"].dims == ("chain", "draw", "image", "x_dim_0")
    assert tree["posterior"]["x"].shape == (4, 200, 3, 2)
    assert set(tree["posterior"].data_vars) == {"x", "norm"}
    assert set(tree["observed_data"].data_vars) == {"y"}
    assert set(tree["sample_stats"].data_vars) == stats
    fields = mcmc.get_extra_fields(group_by_chain=True)
    np.testing.assert_array_equal(tree["sample_stats"]["lp"], -fields["potential_energy"])
    np.testing.assert_array_equal(
        tree["posterior"]["x"], mcmc.get_samples(group_by_chain=True)["x"]
    )
    assert tree["posterior"].attrs["kernel"] == Kernel.__name__
    table = arviz_stats.summary(tree, var_names=["norm"])
    assert {"r_hat", "ess_bulk", "ess_tail"} <= set(table.columns)


@pytest.mark.parametrize("Kernel", [ebm.MALA, ebm.NUTS])
def test_arviz_reads_our_runs_itself(Kernel):
    mcmc = run(Kernel(model), Y)
    theirs, ours = arviz_base.from_numpyro(mcmc), ebm.to_arviz(mcmc)
    np.testing.assert_array_equal(theirs["posterior"]["x"], ours["posterior"]["x"])
    # ArviZ 0.8 keeps the sign of NumPyro's potential in `lp`, and ArviZ 1.3 writes
    # `reached_max_tree_depth`, which no one reads.
    shared = set(theirs["sample_stats"].data_vars) - {"lp", "reached_max_tree_depth"}
    assert shared == set(ours["sample_stats"].data_vars) - {"lp", "reached_max_treedepth"}
    for name in shared:
        np.testing.assert_array_equal(theirs["sample_stats"][name], ours["sample_stats"][name])
    np.testing.assert_array_equal(
        np.abs(theirs["sample_stats"]["lp"]), np.abs(ours["sample_stats"]["lp"])
    )


def test_the_arviz_package_reads_our_runs_itself():
    arviz = pytest.importorskip("arviz", minversion="1.3")
    tree = arviz.from_numpyro(run(ebm.NUTS(model), Y))
    assert "acceptance_rate" in tree["sample_stats"]


def test_chains_and_draws_are_not_swapped():
    mcmc = run(ebm.MALA(potential_fn=ENERGY, step_size=1e-6, adapt_step_size=False))
    x = ebm.to_arviz(mcmc)["posterior"]["x"]
    assert x.dims[:2] == ("chain", "draw")
    # Chains that hardly move stay where they started: they differ, their draws don't.
    assert x.var("draw").max() < 1e-2 < x.mean("draw").var("chain").min()


def test_potentials_and_pytrees_are_named_by_path():
    mcmc = run(
        ebm.MALA(potential_fn=lambda z: z["a"][0] ** 2 + z["a"][1] ** 2),
        init_params={"a": (jnp.ones(4), jnp.ones(4))},
    )
    tree = ebm.to_arviz(mcmc)
    assert set(tree["posterior"].data_vars) == {"a.0", "a.1"}
    assert "observed_data" not in tree.children


def test_numpyros_own_kernels_names_and_thinning():
    mcmc = run(NumPyroNUTS(model), Y)
    tree = ebm.to_arviz(mcmc, dims={"x": ["digit", "pixel"]}, coords={"pixel": ["a", "b"]})
    assert tree["posterior"]["x"].dims == ("chain", "draw", "digit", "pixel")
    assert list(tree["posterior"]["pixel"].values) == ["a", "b"]
    assert "diverging" in tree["sample_stats"]


def test_a_file_round_trip(tmp_path):
    tree = ebm.to_arviz(run(ebm.NUTS(model), Y))
    tree.to_netcdf(tmp_path / "run.nc")
    with xr.open_datatree(tmp_path / "run.nc") as back:
        for group in ("posterior", "sample_stats", "observed_data"):
            xr.testing.assert_equal(back[group].to_dataset(), tree[group].to_dataset())


def test_draws_of_sample():
    draws = ebm.sample(
        jax.random.key(0),
        ebm.Banana(),
        ebm.NUTS(),
        num_warmup=100,
        num_samples=200,
        progress_bar=False,
    )
    tree = ebm.to_arviz(draws)
    np.testing.assert_array_equal(tree["posterior"]["x"], draws.values)
    stats = tree["sample_stats"]
    np.testing.assert_array_equal(stats["lp"], -draws.stats["potential_energy"])
    assert {"acceptance_rate", "diverging", "n_grad"} <= set(stats)
    assert stats["diverging"].dtype == bool
    summary = arviz_stats.summary(tree, kind="diagnostics")
    assert list(summary.index) == ["x[0]", "x[1]"]
    exact = ebm.EnergyDistribution(ebm.Banana()).draw(jax.random.key(0), (5,))
    with pytest.raises(ValueError, match="no chain to diagnose"):
        ebm.to_arviz(exact)
