"""Metrics in blocks of sites, against NumPyro's own kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import KERNELS, assert_moments, quick
from numpyro import infer
from numpyro.infer import MCMC

import numpyro_ebm as ebm

#: Of `x` (two coordinates), `y` and `z`, each correlated with all others.
COVARIANCE = np.array(
    [[4.0, 0.9, 1.2, 0.5], [0.9, 1.0, 0.4, 0.3], [1.2, 0.4, 2.0, 0.6], [0.5, 0.3, 0.6, 0.5]]
)
SITES = {"x": [0, 1], "y": [2], "z": [3]}
NORMAL = ebm.Gaussian(np.zeros(4), COVARIANCE)


def energy(point):
    return NORMAL(jnp.hstack([point["x"], point["y"], point["z"]]))


def model():
    real = dist.constraints.real
    shapes = {"y": (), "x": (2,), "z": ()}  # Not in the order of their names.
    point = {
        name: numpyro.sample(name, dist.ImproperUniform(real, (), shape))
        for name, shape in shapes.items()
    }
    numpyro.factor("joint", -energy(point))


def run(kernel, num_warmup=600, num_samples=10, num_chains=2, **kwargs):
    sizes = {"num_warmup": num_warmup, "num_samples": num_samples, "num_chains": num_chains}
    mcmc = MCMC(kernel, **sizes, chain_method="vectorized", progress_bar=False)
    mcmc.run(jax.random.key(0), **kwargs)
    return mcmc


def metric(mcmc):
    """The mean of the chains' metrics over all coordinates."""
    return whole(mcmc.last_state.adapt_state.inverse_mass_matrix)


def whole(found):
    """One matrix from the metrics of several chains; NumPyro has an array per block."""
    if not isinstance(found, dict):
        mean = np.asarray(found).mean(0)
        return np.diag(mean) if mean.ndim == 1 else mean
    matrix = np.zeros((4, 4))
    for names, block in found.items():
        inside = np.concatenate([SITES[name] for name in names])
        mean = np.asarray(block).mean(0)
        matrix[np.ix_(inside, inside)] = np.diag(mean) if mean.ndim == 1 else mean
    return matrix


BLOCKS = {
    "flag": True,
    "none": [],
    "two sites": [("x", "y")],
    "out of order": [("z", "x")],
    "each": [("x",), ("y",), ("z",)],
    "all": [("x", "y", "z")],
}


@pytest.mark.parametrize("dense_mass", quick(BLOCKS, ["out of order"]))
def test_what_adapts_is_what_adapts_in_numpyro(dense_mass):
    fixed = {"num_steps": 2, "trajectory_length": None, "step_size": 0.3}
    theirs, ours = (
        metric(run(Kernel(model, dense_mass=dense_mass, **fixed), 60, 1)) != 0
        for Kernel in (infer.HMC, ebm.HMC)
    )
    np.testing.assert_array_equal(ours, theirs)


LEARNS = {name: K for name, K in KERNELS.items() if "MCLMC" not in name}


@pytest.mark.parametrize("Kernel", quick(LEARNS, ["MALA"]))
def test_what_a_block_learns(Kernel):
    options = {"target_accept_prob": 0.8} if Kernel is ebm.UnadjustedLangevin else {}
    learnt = metric(run(Kernel(model, dense_mass=[("z", "x")], **options), 1000, 10, 8))
    kept = np.array([[1, 1, 0, 1], [1, 1, 0, 1], [0, 0, 1, 0], [1, 1, 0, 1]])
    assert ((learnt != 0) == (kept == 1)).all()
    np.testing.assert_allclose(learnt, kept * COVARIANCE, rtol=0.5, atol=0.1)


def test_a_given_block_has_the_order_of_its_names_as_in_numpyro():
    order = SITES["z"] + SITES["x"]
    blocks = {("z", "x"): COVARIANCE[np.ix_(order, order)], ("y",): np.array([2.0])}
    options = {"inverse_mass_matrix": blocks, "dense_mass": [("z", "x")]}
    move = ebm.NUTS(**options).move
    state = infer.NUTS(model, **options).init(jax.random.key(0), 0)
    theirs = jax.tree.map(lambda x: x[None], state.adapt_state.inverse_mass_matrix)
    np.testing.assert_allclose(move.metric(state.z), whole(theirs), rtol=1e-6)


def test_vectors_make_a_diagonal_and_other_sites_the_identity():
    point = {"x": jnp.zeros(2), "y": jnp.zeros(()), "z": jnp.zeros(())}
    move = ebm.MALA(inverse_mass_matrix={("z", "x"): [1.0, 2.0, 3.0]}).move
    np.testing.assert_array_equal(move.metric(point), [2, 3, 1, 1])
    assert (
        ebm.UnadjustedMCLMC(inverse_mass_matrix={("x",): np.ones(2)}).move.metric(point).ndim
        == 1
    )


def test_a_whole_matrix_begins_a_diagonal_warm_up():
    """It was spread over all rows of the learnt matrix."""
    mcmc = run(
        ebm.HMC(model, inverse_mass_matrix=COVARIANCE, num_steps=3, trajectory_length=None),
        60,
        1,
    )
    assert mcmc.last_state.adapt_state.inverse_mass_matrix.shape == (2, 4)


@pytest.mark.slow
@pytest.mark.parametrize("dense_mass", [[("x", "y")], [("z", "x"), ("y",)]])
def test_moments(dense_mass):
    draws = run(ebm.NUTS(model, dense_mass=dense_mass), 500, 800, 100).get_samples(True)
    scalars = draws["y"][..., None], draws["z"][..., None]
    flat = jnp.concatenate([draws["x"], *scalars], -1)
    assert_moments(flat, np.zeros(4), np.diag(COVARIANCE))


def test_many_chains_on_an_energy_of_named_points():
    start = {"x": jnp.ones((50, 2)), "y": jnp.ones(50), "z": jnp.ones(50)}
    kernel = ebm.MALA(dense_mass=[("x", "y")], inverse_mass_matrix={("y",): [2.0]})
    sizes = {"num_warmup": 400, "num_samples": 400, "progress_bar": False}
    draws = ebm.sample(jax.random.key(0), energy, kernel, init_params=start, **sizes)
    learnt = draws.state.adapt_state.inverse_mass_matrix
    kept = np.array([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1]])
    np.testing.assert_allclose(learnt, kept * COVARIANCE, rtol=0.2, atol=0.1)
    assert ((learnt != 0) == (kept == 1)).all()


ARRAY = {"potential_fn": NORMAL}
BAD = {
    "unknown site": (
        lambda: run(ebm.NUTS(model, dense_mass=[("x", "w")])),
        ValueError,
        r"`dense_mass` must name sites that are sampled here, \['x', 'y', 'z'\], got \['w'\]",
    ),
    "unknown site of a matrix": (
        lambda: run(ebm.MALA(model, inverse_mass_matrix={("w",): [1.0]})),
        ValueError,
        "`inverse_mass_matrix` must name sites that are sampled here",
    ),
    "points without names": (
        lambda: run(ebm.NUTS(**ARRAY, dense_mass=[("x",)])),
        ValueError,
        "the points here have none",
    ),
    "twice": (
        lambda: ebm.NUTS(dense_mass=[("x", "y"), ("y",)]),
        ValueError,
        r"`dense_mass` must hold each site once, got \['y'\] twice",
    ),
    "matrix twice": (
        lambda: ebm.NUTS(inverse_mass_matrix={("x",): [1.0], ("x", "y"): np.eye(2)}),
        ValueError,
        r"`inverse_mass_matrix` must hold each site once",
    ),
    "a string": (
        lambda: ebm.GHMC(dense_mass=["xyz"]),
        TypeError,
        r'or `\("z",\)`, got \'xyz\'',
    ),
    "a key without tuple": (
        lambda: ebm.MALA(inverse_mass_matrix={"x": np.eye(2)}),
        TypeError,
        "A block of `inverse_mass_matrix` must be a tuple",
    ),
    "empty": (lambda: ebm.HMC(dense_mass=[()]), TypeError, "must be a tuple of site names"),
    "neither": (lambda: ebm.HMC(dense_mass="x"), TypeError, "`dense_mass` must be True, False"),
    "size": (
        lambda: run(ebm.NUTS(model, inverse_mass_matrix={("x",): np.eye(3)})),
        ValueError,
        "must have 2 rows, one per coordinate",
    ),
    "indefinite": (
        lambda: ebm.HMC(inverse_mass_matrix={("x",): -np.eye(2)}),
        ValueError,
        "must be positive definite",
    ),
    "microcanonical": (
        lambda: ebm.AdjustedMCLMC(inverse_mass_matrix={("x",): np.eye(2)}),
        ValueError,
        "must be a vector, the diagonal",
    ),
    "no metric": (
        lambda: ebm.HMC(dense_mass=[("x",)], adapt_mass_matrix=False),
        ValueError,
        "has no metric to use",
    ),
}


@pytest.mark.parametrize(("make", "error", "message"), BAD.values(), ids=BAD)
def test_bad_blocks(make, error, message):
    with pytest.raises(error, match=message):
        make()
