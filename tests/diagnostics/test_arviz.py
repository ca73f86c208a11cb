import functools
import warnings

import arviz_base
import arviz_stats
import equinox as eqx
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
from numpyro_ebm.diagnostics._ladder import TEMPERING_DIMS
from numpyro_ebm.diagnostics._sites import energy_at

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


@functools.cache
def fitted(Kernel):
    return run(Kernel(model), Y)


COMMON = {"lp", "ebm_energy", "acceptance_rate", "diverging", "step_size", "n_grad"}
STATS = {
    "MALA": (ebm.MALA, COMMON),
    "HMC": (ebm.HMC, COMMON | {"energy", "n_steps"}),
    "NUTS": (ebm.NUTS, COMMON | {"energy", "n_steps", "tree_depth", "reached_max_treedepth"}),
}


@pytest.mark.parametrize(("Kernel", "stats"), STATS.values(), ids=STATS)
def test_a_model(Kernel, stats):
    mcmc = fitted(Kernel)
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
    energy = jax.vmap(ENERGY)(jnp.asarray(tree["posterior"]["x"].values.reshape(-1, 2)))
    np.testing.assert_allclose(
        tree["sample_stats"]["ebm_energy"], energy.reshape(4, 200, 3).sum(-1), rtol=1e-4
    )
    attrs = tree["posterior"].attrs
    assert attrs["kernel"] == Kernel.__name__
    assert (attrs["num_warmup"], attrs["thinning"], attrs["num_non_finite"]) == (100, 1, 0)
    table = arviz_stats.summary(tree, var_names=["norm"])
    assert {"r_hat", "ess_bulk", "ess_tail"} <= set(table.columns)


@pytest.mark.parametrize("Kernel", [ebm.MALA, ebm.NUTS])
def test_arviz_reads_our_runs_itself(Kernel):
    mcmc = fitted(Kernel)
    theirs, ours = arviz_base.from_numpyro(mcmc), ebm.to_arviz(mcmc)
    np.testing.assert_array_equal(theirs["posterior"]["x"], ours["posterior"]["x"])
    # ArviZ 0.8 keeps the sign of NumPyro's potential in `lp`, and ArviZ 1.3 writes
    # `reached_max_tree_depth`, which no one reads.
    shared = set(theirs["sample_stats"].data_vars) - {"lp", "reached_max_tree_depth"}
    own = {"lp", "reached_max_treedepth", "ebm_energy"}
    assert shared == set(ours["sample_stats"].data_vars) - own
    for name in shared:
        np.testing.assert_array_equal(theirs["sample_stats"][name], ours["sample_stats"][name])
    np.testing.assert_array_equal(
        np.abs(theirs["sample_stats"]["lp"]), np.abs(ours["sample_stats"]["lp"])
    )


def test_the_arviz_package_reads_our_runs_itself():
    arviz = pytest.importorskip("arviz", minversion="1.3")
    tree = arviz.from_numpyro(fitted(ebm.NUTS))
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
    tree = ebm.to_arviz(fitted(ebm.NUTS))
    tree.to_netcdf(tmp_path / "run.nc")
    with xr.open_datatree(tmp_path / "run.nc") as back:
        for group in ("posterior", "sample_stats", "observed_data"):
            xr.testing.assert_equal(back[group].to_dataset(), tree[group].to_dataset())


def draw(kernel, energy=None, **kwargs):
    settings = {"num_warmup": 100, "num_samples": 200, "num_chains": 4, "progress_bar": False}
    energy = ebm.energies.Banana() if energy is None else energy
    return ebm.sample(jax.random.key(0), energy, kernel, **(settings | kwargs))


DRAWN = {
    "MALA": (ebm.MALA(), COMMON),
    "NUTS": (ebm.NUTS(), COMMON | {"energy", "n_steps", "tree_depth"}),
    "ParallelTempering": (
        ebm.ParallelTempering(ebm.MALA(), [1.0, 4.0]),
        # It has one step size per temperature.
        COMMON - {"step_size"} | set(TEMPERING_DIMS),
    ),
}


@pytest.mark.parametrize(("kernel", "names"), DRAWN.values(), ids=DRAWN)
def test_draws_of_sample(kernel, names, tmp_path):
    draws = draw(kernel, thinning=2)
    tree = ebm.to_arviz(draws, superchains=2, attrs={"sampling_time": 2.5})
    np.testing.assert_array_equal(tree["posterior"]["x"], draws.values)
    stats = tree["sample_stats"]
    np.testing.assert_array_equal(stats["lp"], -draws.stats["potential_energy"])
    np.testing.assert_allclose(
        stats["ebm_energy"], jax.vmap(jax.vmap(ebm.energies.Banana()))(draws.values), rtol=1e-4
    )
    assert set(stats.data_vars) == names
    assert stats["diverging"].dtype == bool
    attrs = tree["posterior"].attrs
    assert (
        attrs["kernel"],
        attrs["num_warmup"],
        attrs["thinning"],
        attrs["sampling_time"],
    ) == (
        type(kernel).__name__,
        100,
        2,
        2.5,
    )
    assert list(tree["posterior"]["superchain"].values) == [0, 0, 1, 1]
    summary = arviz_stats.summary(tree, kind="diagnostics")
    assert list(summary.index) == ["x[0]", "x[1]"]
    tree.to_netcdf(tmp_path / "draws.nc")
    with xr.open_datatree(tmp_path / "draws.nc") as back:
        assert back["posterior"].attrs["kernel"] == attrs["kernel"]
        for group in ("posterior", "sample_stats"):
            xr.testing.assert_identical(
                back[group].to_dataset().drop_attrs(), tree[group].to_dataset().drop_attrs()
            )


@pytest.mark.parametrize("kernel", [ebm.MALA(), ebm.UnadjustedLangevin()])
def test_a_tree_knows_whether_its_kernel_is_exact(kernel, tmp_path):
    tree = ebm.to_arviz(draw(kernel, num_samples=5))
    tree.to_netcdf(tmp_path / "draws.nc")
    with xr.open_datatree(tmp_path / "draws.nc") as back:
        assert back["posterior"].attrs["is_exact"] == kernel.move.is_exact


def test_independent_draws_have_no_chains():
    exact = ebm.EnergyDistribution(ebm.energies.Banana()).draw(jax.random.key(0), (5,))
    with pytest.raises(ValueError, match="no chains to diagnose"):
        ebm.to_arviz(exact)


def test_the_hamiltonian_is_that_of_the_chain():
    draws = draw(ebm.HMC(num_steps=4, trajectory_length=None), num_samples=2000)
    tree = ebm.to_arviz(draws)
    stats = tree["sample_stats"]
    assert set(stats.data_vars) == COMMON | {"energy", "n_steps"}
    kinetic = stats["energy"] - stats["ebm_energy"]
    # At the end of an accepted trajectory and at the start of a rejected one, together, the
    # momentum keeps its distribution: half a chi-squared of two degrees.
    assert abs(float(kinetic.mean()) - 1) < 0.1
    assert float(kinetic.min()) >= -1e-4
    chains = ebm.mixing_report(tree).chains
    theirs = arviz_stats.bfmi(tree)
    np.testing.assert_allclose(chains["bfmi"], np.asarray(theirs["energy"]).ravel(), rtol=1e-4)
    accepted = draws.stats["accept_prob"].mean(1)
    np.testing.assert_allclose(chains["acceptance_rate"], accepted, rtol=1e-5)
    np.testing.assert_allclose(chains["moved"], accepted, atol=0.05)
    assert not chains["is_stuck"].any()
    no_momentum = ebm.to_arviz(draw(ebm.MALA()))
    assert "energy" not in no_momentum["sample_stats"]
    assert "bfmi" not in ebm.mixing_report(no_momentum).chains


def test_a_constrained_support_has_a_jacobian_in_lp_and_no_energy():
    energy = ebm.as_energy(dist.Gamma(3.0, 2.0).expand([2]).to_event(1))
    tree = ebm.to_arviz(draw(ebm.MALA(), energy))
    assert "ebm_energy" not in tree["sample_stats"]
    x = tree["posterior"]["x"].values
    expected = -jax.vmap(jax.vmap(energy))(jnp.asarray(x)) + np.log(x).sum(-1)
    np.testing.assert_allclose(tree["sample_stats"]["lp"], expected, rtol=1e-3, atol=1e-3)


def test_a_batch_of_energies_and_their_repetitions_are_summed():
    def energy(scale, x):
        return jnp.sum(x**2) / scale

    scales = jnp.array([1.0, 2.0, 3.0])
    batch = eqx.filter_vmap(lambda s: eqx.Partial(energy, s))(scales)
    site = ebm.EnergyDistribution(batch, (2,), batch_shape=(3,)).expand([4, 3]).to_event(1)
    x = jax.random.normal(jax.random.key(0), (4, 3, 2))
    found = energy_at({"fn": site, "value": x})
    np.testing.assert_allclose(found, ((x**2).sum(-1) / scales).sum(), rtol=1e-5)
    assert energy_at({"fn": site, "value": x, "is_observed": True}) is None
    assert energy_at({"fn": dist.Normal(0, 1), "value": x}) is None


def test_arrays_of_any_shape_and_a_tree_that_is_one():
    x = np.zeros((3, 5, 2))
    tree = ebm.to_arviz({"a": x, "b": (x[..., 0], jnp.zeros((3, 5), jnp.bfloat16))})
    assert {k: v.shape for k, v in tree["posterior"].data_vars.items()} == {
        "a": (3, 5, 2),
        "b.0": (3, 5),
        "b.1": (3, 5),
    }
    assert ebm.to_arviz(x)["posterior"]["x"].dims == ("chain", "draw", "x_dim_0")
    again = ebm.to_arviz(tree, superchains=["u", "v", "w"])
    assert list(again["posterior"]["superchain"].values) == ["u", "v", "w"]
    assert "superchain" not in tree["posterior"].coords
    x[1, 2, 0], x[2, 3, 1] = np.nan, np.inf
    assert ebm.to_arviz(x)["posterior"].attrs["num_non_finite"] == 2


ARRAY = np.zeros((4, 10))
BAD = {
    "text": (TypeError, "arrays of real numbers", lambda: ebm.to_arviz("draws")),
    "function": (TypeError, "arrays of real numbers", lambda: ebm.to_arviz(len)),
    "complex": (TypeError, "dtype complex", lambda: ebm.to_arviz(ARRAY + 1j)),
    "nothing": (ValueError, "got shapes {}", lambda: ebm.to_arviz({})),
    "one chain": (ValueError, r"`x\[None\]`", lambda: ebm.to_arviz(np.zeros(10))),
    "no draws": (ValueError, "`source`", lambda: ebm.to_arviz(np.zeros((4, 0)))),
    "other sizes": (
        ValueError,
        "same numbers of chains",
        lambda: ebm.to_arviz({"a": ARRAY, "b": ARRAY[:2]}),
    ),
    "3 superchains of 4": (ValueError, "divide", lambda: ebm.to_arviz(ARRAY, superchains=3)),
    "1 superchain": (ValueError, "2 or more", lambda: ebm.to_arviz(ARRAY, superchains=1)),
    "labels": (ValueError, "equally often", lambda: ebm.to_arviz(ARRAY, superchains=[0, 0, 1])),
    "sizes": (
        ValueError,
        "equally often",
        lambda: ebm.to_arviz(ARRAY, superchains=[0, 0, 0, 1]),
    ),
    "dims": (
        ValueError,
        "has its own",
        lambda: ebm.to_arviz(ebm.to_arviz(ARRAY), dims={"x": ["y"]}),
    ),
}


@pytest.mark.parametrize(("error", "match", "call"), BAD.values(), ids=BAD)
def test_bad_input(error, match, call):
    with pytest.raises(error, match=match):
        call()


def test_arviz_plots_draws_our_runs():
    import matplotlib as mpl

    mpl.use("Agg")
    arviz_plots = pytest.importorskip("arviz_plots")
    tree = ebm.to_arviz(draw(ebm.NUTS()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of matplotlib, about ArviZ.
        arviz_plots.plot_trace(tree, backend="matplotlib")
        arviz_plots.plot_energy(tree, backend="matplotlib")
        arviz_plots.plot_forest(tree, backend="matplotlib")
    mpl.pyplot.close("all")
