import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import COVARIANCE, MEAN, assert_moments
from numpyro import handlers
from numpyro.infer import HMC, MCMC, DiscreteHMCGibbs, Predictive
from numpyro.infer.inspect import get_model_relations
from numpyro.infer.util import log_density

import numpyro_ebm as ebm

GAUSSIAN = ebm.Gaussian(MEAN, COVARIANCE)


def factor_of(model, params=None, **kwargs):
    """The log-density of the site `f`, and its shape."""
    seeded = handlers.seed(model, 0)
    trace = handlers.trace(handlers.substitute(seeded, params or {})).get_trace(**kwargs)
    return trace["f"]["fn"].log_prob(trace["f"]["value"])


def coupling(x, y):
    return jnp.sum((x - y) ** 4)


def test_it_is_numpyros_factor():
    def ours():
        x = numpyro.sample("x", dist.Normal(0, 1).expand([3]).to_event(1))
        ebm.factor("f", coupling, x, 0.5)

    def theirs():
        x = numpyro.sample("x", dist.Normal(0, 1).expand([3]).to_event(1))
        numpyro.factor("f", -coupling(x, 0.5))

    x = jnp.array([0.1, 0.2, -0.4])
    densities = [log_density(model, (), {}, {"x": x})[0] for model in (ours, theirs)]
    np.testing.assert_allclose(*densities, rtol=1e-6)
    assert get_model_relations(ours)["sample_dist"]["f"] == "EnergyFactor"


def test_the_constant_counts_where_it_is_known():
    value = factor_of(lambda: ebm.factor("f", GAUSSIAN, jnp.zeros(2)))
    np.testing.assert_allclose(value, -GAUSSIAN(jnp.zeros(2)) - GAUSSIAN.log_z, rtol=1e-6)


X = np.arange(12.0).reshape(2, 3, 2)
Y = np.ones((2, 3, 2))


@pytest.mark.parametrize(
    ("x", "y"),
    [(X, Y), (X, Y[:1, :1]), (X[:1], Y[:, :1])],
    ids=["own", "shared", "shared one by one"],
)
def test_in_plates_the_leading_axes_are_theirs(x, y):
    def model():
        with numpyro.plate("a", 2, dim=-2), numpyro.plate("b", 3):
            ebm.factor("f", coupling, x, y)

    np.testing.assert_allclose(factor_of(model), -np.sum((x - y) ** 4, -1), rtol=1e-6)


def test_an_energy_that_knows_its_shape_takes_the_last_axes():
    def model():
        with numpyro.plate("n", 3):
            ebm.factor("f", GAUSSIAN, X[0])
        ebm.factor("shared", GAUSSIAN, jnp.zeros(2))

    truth = [-GAUSSIAN(x) - GAUSSIAN.log_z for x in X[0]]
    np.testing.assert_allclose(factor_of(model), truth, rtol=1e-6)


def test_a_plate_with_a_hole():
    def model():
        with numpyro.plate("a", 2, dim=-2):
            ebm.factor("f", lambda x: jnp.sum(x), jnp.ones((2, 1, 5)))

    assert factor_of(model).shape == (2, 1)


def test_subsampling_scales_and_masks_mask():
    def model():
        with numpyro.plate("n", 10, subsample_size=5):
            ebm.factor("f", lambda x: x, jnp.arange(5.0))

    def density(model):
        return log_density(handlers.seed(model, 0), (), {}, {})[0]

    assert density(model) == -2 * 10
    assert density(handlers.scale(model, scale=3.0)) == -3 * 2 * 10
    assert density(handlers.mask(model, mask=jnp.arange(5) < 2)) == -2 * 1


def test_a_mask_spares_the_work():
    calls = []

    def model():
        x = numpyro.sample("x", dist.Normal(0, 1))
        ebm.factor("f", lambda x: calls.append(None) or x, x)

    handlers.seed(handlers.mask(model, mask=False), 0)()
    Predictive(model, {"x": jnp.zeros(3)})(jax.random.key(0))
    assert not calls
    handlers.seed(model, 0)()
    assert calls


def test_a_coupled_posterior(x64):
    """Two normals and exp(-k (x-y)^2/2): the precision is [[1+k, -k], [-k, 1+k]]."""
    k = 3.0

    def model():
        x = numpyro.sample("x", dist.Normal(0, 1))
        y = numpyro.sample("y", dist.Normal(0, 1))
        ebm.factor("f", lambda x, y: 0.5 * k * (x - y) ** 2, x, y)

    covariance = np.linalg.inv([[1 + k, -k], [-k, 1 + k]])
    posterior = ebm.ModelEnergy(model)
    z = {"x": jnp.array(0.3), "y": jnp.array(-1.0)}
    hessian = jax.hessian(posterior)(z)
    for i, a in enumerate("xy"):
        for j, b in enumerate("xy"):
            np.testing.assert_allclose(hessian[a][b], np.linalg.inv(covariance)[i, j])
    mcmc = MCMC(
        ebm.MALA(model),
        num_warmup=200,
        num_samples=500,
        num_chains=400,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(0))
    draws = mcmc.get_samples(group_by_chain=True)
    pair = np.stack([draws["x"], draws["y"]], -1)
    assert_moments(pair, np.zeros(2), np.diag(covariance))


def test_observed_spins_are_the_likelihood_of_their_coupling(x64):
    """The posterior of K by quadrature, against the energy that counts its constant."""
    spins = jnp.array([1.0, 1.0, -1.0, 1.0, 1.0, 1.0])

    def model():
        coupling = numpyro.sample("K", dist.Normal(0, 1))
        ebm.factor("f", ebm.IsingModel((6,), coupling), spins)

    ebm.sites.check_normalization(model)
    total = float(spins @ jnp.roll(spins, 1))
    grid = jnp.linspace(-5, 5, 2001)
    log_z = jnp.log((2 * jnp.cosh(grid)) ** 6 + (2 * jnp.sinh(grid)) ** 6)
    exact = jax.nn.softmax(-0.5 * grid**2 + grid * total - log_z)
    ours = jax.nn.softmax(jax.vmap(lambda K: log_density(model, (), {}, {"K": K})[0])(grid))
    np.testing.assert_allclose(ours, exact, atol=1e-12)


@pytest.mark.slow
def test_latent_spins_by_numpyros_gibbs():
    """What the message for discrete energies recommends, against an enumeration."""
    ising = ebm.IsingModel((2, 2), 0.5, 0.3, periodic=False)

    def model():
        with numpyro.plate("row", 2, dim=-2), numpyro.plate("column", 2):
            up = numpyro.sample("up", dist.Bernoulli(0.5))
        numpyro.sample("x", dist.Normal(0, 1))
        ebm.factor("f", ising, 2.0 * up - 1)

    mcmc = MCMC(
        DiscreteHMCGibbs(HMC(model, trajectory_length=1.5)),
        num_warmup=100,
        num_samples=40_000,
        progress_bar=False,
    )
    mcmc.run(jax.random.key(0))
    draws = 2.0 * mcmc.get_samples()["up"].reshape(1, -1, 4) - 1
    mean = ising.mean.ravel()
    assert_moments(draws, mean, 1 - mean**2, num_blocks=100, ess_variance=2_000)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ebm.factor("f", coupling), ValueError, r"`factor\(name, energy, x\)`"),
        (lambda: ebm.factor("f", "energy", 1.0), TypeError, "must be an energy"),
        (lambda: ebm.factor("f", "energy", 1.0, 2.0), TypeError, "a callable of 2 points"),
        (
            lambda: ebm.factor("f", GAUSSIAN, jnp.zeros(3)),
            ValueError,
            r"`values\[0\]` must end with the event shape \(2,\), got shape \(3,\)",
        ),
        (
            lambda: ebm.factor("f", coupling, jnp.zeros(5), jnp.zeros(4)),
            ValueError,
            r"`values\[1\]` has shape \(4,\), but must begin with \(5,\)",
        ),
        (
            lambda: ebm.factor("f", lambda x: x, jnp.zeros((5, 2))),
            ValueError,
            "must be a scalar",
        ),
    ],
)
def test_bad_input(make, error, message):
    def model():
        with numpyro.plate("n", 5):
            make()

    with pytest.raises(error, match=message):
        handlers.seed(model, 0)()
