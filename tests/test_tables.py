"""Data as pandas' tables and xarray's arrays, wherever plain arrays are taken."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pandas as pd
import pytest
import xarray as xr
from numpyro.infer import MCMC

import numpyro_ebm as ebm

ROWS = np.asarray(jr.normal(jr.key(0), (60, 2)), np.float64)
WEIGHTS = np.arange(60) % 3
NORMAL = ebm.Gaussian(np.zeros(2), np.diag([1.0, 4.0]))
WIDE = ebm.Gaussian(np.zeros(2), 9 * np.eye(2))
KINDS = {
    "table": (lambda x: pd.DataFrame(x, columns=["a", "b"]), pd.Series),
    "nullable table": (lambda x: pd.DataFrame(x).convert_dtypes(), pd.Series),
    "xarray": (lambda x: xr.DataArray(x, dims=["row", "column"]), lambda w: xr.DataArray(w)),
}


def learn(data, weights=None):
    estimator = ebm.Estimator(ebm.ScoreMatching(), optax.adam(0.1))
    energy = ebm.unfreeze(WIDE)
    run = estimator.run(jr.key(0), 3, energy, data, weights=weights, progress_bar=False)
    return run.losses


class Shifted(eqx.Module):
    slope: jax.Array

    def __call__(self, y, x):
        return jnp.sum((y - self.slope * x) ** 2)


def learn_conditional(y, x):
    energy = ebm.ConditionalEnergy(Shifted(jnp.ones(2)), (2,))
    estimator = ebm.Estimator(ebm.ScoreMatching(), optax.adam(0.1))
    return estimator.run(jr.key(0), 3, energy, (y, x), progress_bar=False).losses


def posterior(data):
    def model(data):
        scale = numpyro.sample("scale", dist.LogNormal(0, 1))
        with numpyro.plate("rows", 60):
            numpyro.sample("x", ebm.EnergyDistribution(NORMAL), obs=data)
        numpyro.factor("scale_of_data", -scale)

    run = MCMC(ebm.MALA(model), num_warmup=5, num_samples=5, progress_bar=False)
    run.run(jr.key(0), data)
    return run.get_samples()["scale"]


VERBS = {
    "fit": lambda x, w: learn(x),
    "weighted fit": lambda x, w: learn(x, w),
    "conditional fit": lambda x, w: learn_conditional(x, x),
    "standardize": lambda x, w: ebm.energies.Standardize.fit(x).scale,
    "log-likelihood": lambda x, w: ebm.log_likelihood(NORMAL, x).values,
    "compare": lambda x, w: ebm.compare({"normal": NORMAL, "wide": WIDE}, x).values,
    "goodness of fit": lambda x, w: (
        ebm.diagnostics.energy_pit(NORMAL, x, NORMAL.sampler(jr.key(1), (50,))).values
    ),
    "log-density": lambda x, w: ebm.EnergyDistribution(NORMAL).log_prob(x),
    "starts": lambda x, w: (
        ebm.sample(
            jr.key(0),
            NORMAL,
            ebm.MALA(),
            num_warmup=5,
            num_samples=5,
            init_params=x,
            progress_bar=False,
        ).values
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", VERBS)
def test_tables_are_arrays(verb, kind):
    table, series = KINDS[kind]
    want = VERBS[verb](ROWS, WEIGHTS)
    np.testing.assert_array_equal(VERBS[verb](table(ROWS), series(WEIGHTS)), want)


@pytest.mark.parametrize("kind", KINDS)
def test_an_observed_table(kind):
    np.testing.assert_array_equal(posterior(KINDS[kind][0](ROWS)), posterior(ROWS))


def test_columns_of_different_numbers():
    """Together they are an object array."""
    table = pd.DataFrame({"flag": [True, False], "count": [1, 2], "size": [0.5, 1.5]})
    assert np.asarray(table).dtype == object
    fitted = ebm.energies.Standardize.fit(table)
    np.testing.assert_allclose(fitted.loc, [0.5, 1.5, 1.0])


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (["Oslo", "Rome"], r"`data\['city'\]` must be real numbers, got dtype"),
        ([[1.0], [2.0, 3.0]], r"`data\['city'\]` must be real numbers, got dtype object"),
        (pd.to_datetime(["2024-01-01", "2024-01-02"]), r"`data\['city'\]` .* dtype datetime64"),
        (pd.Categorical(["a", "b"]), r"`data\['city'\]` must be real numbers"),
    ],
    ids=["text", "lists", "dates", "categories"],
)
def test_a_column_without_numbers_is_named(column, message):
    table = pd.DataFrame({"size": [0.5, 1.5], "city": column})
    for verb in (ebm.energies.Standardize.fit, lambda x: ebm.log_likelihood(NORMAL, x), learn):
        with pytest.raises(TypeError, match=message):
            verb(table)


def test_missing_numbers_are_found_but_where_they_do_not_count():
    table = pd.DataFrame({"a": [1.0, None, 2.0], "b": [1, 2, 3]}).convert_dtypes()
    with pytest.raises((ValueError, TypeError), match=r"must be finite|must be real"):
        learn(table)
    gaps = pd.DataFrame({"a": [1.0, np.nan, 2.0, -1.0], "b": [True, True, False, True]})
    assert np.isfinite(learn(gaps, weights=pd.Series([1, 0, 1, 1]))).all()
