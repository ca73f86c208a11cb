"""Sites and factors where NumPyro enumerates discrete sites, against sums over all states."""

import itertools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import COVARIANCE, MEAN, assert_means
from jax.scipy.special import logsumexp
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.contrib.funsor import config_enumerate, enum, infer_discrete, log_density, markov
from numpyro.distributions.transforms import AffineTransform
from numpyro.infer import MCMC, NUTS, Predictive
from numpyro.infer.util import _guess_max_plate_nesting, log_density as plain_log_density

import numpyro_ebm as ebm

LOCS = jnp.array([-1.0, 0.5, 2.0])
SCALES = jnp.array([0.7, 1.5, 1.0])


def trace_of(model, params):
    seeded = handlers.seed(handlers.substitute(model, params), 0)
    return handlers.trace(seeded).get_trace()


def enumerated(model, params):
    first = -1 - _guess_max_plate_nesting(trace_of(model, params))
    return log_density(enum(config_enumerate(model), first), (), {}, params)[0]


def summed(model, params):
    """The same by a sum over all states of all discrete sites of the plain model."""
    sites = trace_of(model, params).items()
    discrete = {
        name: site
        for name, site in sites
        if not site.get("is_observed", True) and site["fn"].has_enumerate_support
    }
    sizes = {name: jnp.size(site["value"]) for name, site in discrete.items()}
    levels = [
        range(len(site["fn"].enumerate_support(expand=False)))
        for name, site in discrete.items()
        for _ in range(sizes[name])
    ]
    states = jnp.array(list(itertools.product(*levels)))

    def one(state):
        parts = jnp.split(state, np.cumsum(list(sizes.values()))[:-1])
        values = {
            name: part.reshape(jnp.shape(site["value"]))
            for (name, site), part in zip(discrete.items(), parts, strict=True)
        }
        return plain_log_density(model, (), {}, {**params, **values})[0]

    return logsumexp(jax.jit(jax.vmap(one))(states))


def beside_an_enumerated_site():
    numpyro.sample("z", dist.Bernoulli(0.3))
    with numpyro.plate("n", 3):
        x = numpyro.sample("x", dist.Normal(0, 1))
        y = numpyro.sample("y", dist.Normal(0, 1))
        ebm.factor("f", lambda x, y: (x - y) ** 2, x, y)


def of_an_enumerated_site():
    x = numpyro.sample("x", dist.Normal(0, 1))
    z = numpyro.sample("z", dist.Categorical(jnp.array([0.2, 0.3, 0.5])))
    ebm.factor("f", lambda x, z: (x - z) ** 2, x, z)


def of_any_shape():
    # What takes points of any shape: only the sites tell how many axes theirs have.
    x = numpyro.sample("x", dist.Normal(0, 1).expand([2]).to_event(1))
    z = numpyro.sample("z", dist.Bernoulli(0.4))
    ebm.factor("f", lambda x, z: jnp.sum((x - jnp.sum(z)) ** 2), x, z)


def of_any_shape_and_a_parameter():
    x = numpyro.sample("x", dist.Normal(0, 1).expand([2]).to_event(1))
    z = numpyro.sample("z", dist.Bernoulli(0.4))
    locs = jnp.array([[0.0, 1.0], [3.0, 2.0]])
    ebm.factor("f", lambda x, m: jnp.sum((x - m) ** 2), x, locs[z], event_dim=1)


def mixture():
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("n", 4):
        z = numpyro.sample("z", dist.Categorical(weights))
        x = numpyro.sample("x", dist.Normal(LOCS[z], 1))
        ebm.factor("f", lambda x, loc, s: ((x - loc) / s) ** 4, x, LOCS[z], SCALES[z])


def two_enumerated_sites():
    w = numpyro.sample("w", dist.Bernoulli(0.3))
    with numpyro.plate("n", 3):
        z = numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))
        x = numpyro.sample("x", dist.Normal(0, 1).expand([2]).to_event(1))
        ebm.factor("f", lambda x, z, w: jnp.sum((x - z + w) ** 2), x, z, w)


def nested_plates():
    with numpyro.plate("a", 2, dim=-2):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        ebm.factor("g", lambda z: 0.3 * z, z)
        with numpyro.plate("b", 3, dim=-1):
            x = numpyro.sample("x", dist.Normal(0, 1))
            w = numpyro.sample("w", dist.Bernoulli(0.6))
            ebm.factor("f", lambda x, z, w: (x - 2 * z + w) ** 2, x, z, w)


def plates_apart():
    with numpyro.plate("a", 2, dim=-3), numpyro.plate("b", 2, dim=-1):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        x = numpyro.sample("x", dist.Normal(0, 1).expand([2]).to_event(1))
        ebm.factor("f", lambda x, s: jnp.sum((x - s) ** 2), x, 2.0 * z - 1, event_dim=(1, 0))


def scaled_and_masked():
    with numpyro.plate("n", 3), handlers.scale(scale=2.5):
        z = numpyro.sample("z", dist.Bernoulli(0.3), obs=jnp.array([0, 1, 1]))
        u = numpyro.sample("u", dist.Bernoulli(0.5))
        x = numpyro.sample("x", dist.Normal(0, 1))
        with handlers.mask(mask=jnp.array([True, False, True])):
            ebm.factor("f", lambda x, z: (x - z) ** 2, x, z + u)


def fixed_site():
    with numpyro.plate("n", 3):
        z = numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))
        x = numpyro.sample("x", ebm.EnergyDistribution(lambda x: jnp.sum(x**4), (2,)))
        numpyro.sample("y", dist.Normal(x[..., 0] + LOCS[z], 1), obs=0.3)


def moved_site():
    base = ebm.EnergyDistribution(lambda x: jnp.sum(x**4), (2,))
    with numpyro.plate("n", 3):
        z = numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))
        move = AffineTransform(LOCS[z][..., None], SCALES[z][..., None])
        numpyro.sample("x", dist.TransformedDistribution(base, move))


def batched(make, z, parameters):
    for _ in jnp.shape(z):
        make = eqx.filter_vmap(make)
    return make(*(parameter[z] for parameter in parameters))


def gaussian(loc, scale):
    return ebm.Gaussian(loc * jnp.ones(2), scale * jnp.eye(2))


def site_of_a_value():
    z = numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))
    energy = batched(gaussian, z, (LOCS, SCALES))
    numpyro.sample("x", ebm.EnergyDistribution(energy, batch_shape=jnp.shape(z)))


def mixture_of_sites():
    with numpyro.plate("n", 4):
        z = numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))
        energy = batched(gaussian, z, (LOCS, SCALES))
        numpyro.sample("x", ebm.EnergyDistribution(energy, batch_shape=jnp.shape(z)))


def site_in_a_wider_plate():
    with numpyro.plate("a", 2, dim=-2):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        w = numpyro.sample("w", dist.Bernoulli(0.5))
        energy = batched(gaussian, z, (LOCS, SCALES))
        site = ebm.EnergyDistribution(energy, batch_shape=jnp.shape(z))
        with numpyro.plate("b", 3, dim=-1):
            x = numpyro.sample("x", site)
            numpyro.sample("y", dist.Normal(x[..., 0] + w, 1), obs=0.2)


def shape_alone():
    def opted_out(loc):
        return ebm.as_energy(Shifted(loc), (2,))

    z = numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))
    energy = batched(opted_out, z, (LOCS,))
    site = ebm.EnergyDistribution(energy, (2,), batch_shape=jnp.shape(z), constant_z=True)
    numpyro.sample("x", site)


class Shifted(eqx.Module):
    loc: jax.Array

    def __call__(self, x):
        return jnp.sum((x - self.loc) ** 4)


MODELS = {
    beside_an_enumerated_site: {"x": (3,), "y": (3,)},
    of_an_enumerated_site: {"x": ()},
    of_any_shape: {"x": (2,)},
    of_any_shape_and_a_parameter: {"x": (2,)},
    mixture: {"x": (4,)},
    two_enumerated_sites: {"x": (3, 2)},
    nested_plates: {"x": (2, 3)},
    plates_apart: {"x": (2, 1, 2, 2)},
    scaled_and_masked: {"x": (3,)},
    fixed_site: {"x": (3, 2)},
    moved_site: {"x": (3, 2)},
    site_of_a_value: {"x": (2,)},
    mixture_of_sites: {"x": (4, 2)},
    site_in_a_wider_plate: {"x": (2, 3, 2)},
    shape_alone: {"x": (2,)},
}


def params_of(model):
    shapes = MODELS[model]
    keys = jax.random.split(jax.random.key(1), len(shapes))
    pairs = zip(keys, shapes.items(), strict=True)
    params = {name: jax.random.normal(key, shape) for key, (name, shape) in pairs}
    return params | ({"weights": jnp.array([0.2, 0.3, 0.5])} if model is mixture else {})


@pytest.mark.parametrize("model", MODELS)
def test_it_is_the_sum_over_all_states(model):
    params = params_of(model)
    value = jax.jit(lambda params: enumerated(model, params))(params)
    np.testing.assert_allclose(value, summed(model, params), rtol=1e-5)


@pytest.mark.parametrize("model", [mixture, site_of_a_value])
def test_nothing_needs_jit(model):
    params = params_of(model)
    value = jax.jit(lambda params: enumerated(model, params))(params)
    np.testing.assert_allclose(enumerated(model, params), value, rtol=1e-5)


TRANSITIONS = jnp.array([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.3, 0.3, 0.4]])
SERIES = jnp.array([0.3, -1.0, 2.0])


def factor_of_a_state(t, x, z):
    ebm.factor(f"f{t}", lambda x, loc: (x - loc) ** 4, x, LOCS[z])


def site_of_a_state(t, x, z):
    energy = batched(lambda loc: ebm.Normalized(Shifted(loc), 0.0), z, (LOCS,))
    site = ebm.EnergyDistribution(energy, (), batch_shape=jnp.shape(z))
    numpyro.sample(f"f{t}", site, obs=x)


def in_a_loop(emit):
    z = 0
    for t in markov(range(len(SERIES))):
        z = numpyro.sample(f"z{t}", dist.Categorical(TRANSITIONS[z]))
        emit(t, SERIES[t], z)


def in_a_scan(emit):
    def body(z, x):
        z = numpyro.sample("z", dist.Categorical(TRANSITIONS[z]))
        emit("", x, z)
        return z, None

    scan(body, 0, SERIES)


@pytest.mark.parametrize(
    ("chain", "emit"),
    [
        (in_a_loop, factor_of_a_state),
        (in_a_loop, site_of_a_state),
        (in_a_scan, site_of_a_state),
    ],
)
def test_chains_of_states(chain, emit):
    model = enum(config_enumerate(lambda: chain(emit)), -1)
    forward = TRANSITIONS[0]
    for x in SERIES:
        weights = forward * jnp.exp(-((x - LOCS) ** 4))
        forward = weights @ TRANSITIONS
    value = log_density(model, (), {}, {})[0]
    np.testing.assert_allclose(value, jnp.log(weights.sum()), rtol=1e-5)


def closed_over_by_a_site():
    loc = LOCS[numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))]
    energy = ebm.Normalized(lambda x: 0.5 * jnp.sum((x - loc) ** 2), 1.5 * jnp.log(2 * jnp.pi))
    numpyro.sample("x", ebm.EnergyDistribution(energy, (3,)))


def of_scalars():
    loc = LOCS[numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))]
    numpyro.sample("x", ebm.EnergyDistribution(lambda x: (x - loc) ** 2, ()))


def leaf_of_a_site():
    z = numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))
    numpyro.sample("x", ebm.EnergyDistribution(ebm.energies.DoubleWell(b=SCALES[z], dim=3)))


def in_a_plate():
    with numpyro.plate("n", 3):
        loc = LOCS[numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))]
        numpyro.sample("x", ebm.EnergyDistribution(Shifted(loc), (3,)))


def constant_alone():
    z = numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))
    site = ebm.EnergyDistribution(ebm.Normalized(lambda x: jnp.sum(x**2), LOCS[z]), (2,))
    numpyro.sample("x", site)


def support_of_a_site():
    z = numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))
    support = dist.constraints.interval(-SCALES[z], SCALES[z])
    numpyro.sample("x", ebm.EnergyDistribution(lambda x: jnp.sum(x**2), (3,), support=support))


def beside_a_batch():
    z = numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))
    scale = SCALES[z]

    def make(loc):
        return ebm.as_energy(Scaled(lambda x: jnp.sum(scale * x**4), loc), (3,))

    site = ebm.EnergyDistribution(batched(make, z, (LOCS,)), (3,), batch_shape=jnp.shape(z))
    numpyro.sample("x", site)


class Scaled(eqx.Module):
    fn: Callable
    loc: jax.Array

    def __call__(self, x):
        return self.fn(x - self.loc)


@pytest.mark.parametrize(
    "model",
    [
        closed_over_by_a_site,
        of_scalars,
        leaf_of_a_site,
        in_a_plate,
        constant_alone,
        support_of_a_site,
        beside_a_batch,
    ],
)
def test_one_energy_for_all_values_is_refused(model):
    with pytest.raises(ValueError, match=r"enumerated site \(`z`\).*batch_shape=jnp.shape\(z"):
        jax.eval_shape(lambda x: enumerated(model, {"x": x}), jnp.zeros(3))


def test_arrays_that_do_not_depend_on_the_site_are_let_pass():
    fixed = ebm.Gaussian(MEAN, COVARIANCE)

    def model(**kwargs):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        x = numpyro.sample("x", ebm.EnergyDistribution(fixed, **kwargs))
        numpyro.sample("y", dist.Normal(x[0] + z, 1), obs=0.3)

    def stated():
        model(batch_shape=())

    params = {"x": jnp.array([0.3, -1.0])}
    with pytest.raises(ValueError, match=r"If it does not, say so: `batch_shape=\(\)`"):
        enumerated(model, params)
    expected = summed(stated, params)
    np.testing.assert_allclose(enumerated(stated, params), expected, rtol=1e-5)
    # Under `jit` it is known: what depends on the site is traced, and this is not.
    jitted = jax.jit(lambda params: enumerated(model, params))
    np.testing.assert_allclose(jitted(params), expected, rtol=1e-5)


def factor_that_closes_over_a_value():
    x = numpyro.sample("x", dist.Normal(0, 1).expand([3]).to_event(1))
    loc = LOCS[numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))]
    ebm.factor("f", lambda x: jnp.sum((x - loc) ** 2), x)


def factor_that_fits_twice():
    x = numpyro.sample("x", dist.Normal(0, 1).expand([3]).to_event(1))
    loc = LOCS[numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))]
    ebm.factor("f", lambda x, m: jnp.sum((x - m) ** 2), x, loc)


def factor_of_scalars():
    with numpyro.plate("n", 3):
        x = numpyro.sample("x", dist.Normal(0, 1))
        loc = LOCS[numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))]
        ebm.factor("f", lambda x: (x - loc) ** 2, x)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (factor_that_closes_over_a_value, r"site \(`z`\).*Pass what depends on one as a value"),
        (factor_that_fits_twice, r"\(3,\), \(3,\).* or .*\(3,\), \(\).*Say by `event_dim`"),
        (factor_of_scalars, "enumerated site must be one of the `values`"),
    ],
)
def test_a_factor_that_may_be_read_in_two_ways_is_refused(model, match):
    with pytest.raises(ValueError, match=match):
        enumerated(model, {"x": jnp.zeros(3)})


def test_values_of_a_site_are_not_weighed_without_their_normaliser():
    def model():
        z = numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))
        energy = batched(Shifted, z, (LOCS,))
        numpyro.sample("x", ebm.EnergyDistribution(energy, (2,), batch_shape=jnp.shape(z)))

    with pytest.raises(ebm.UnnormalizedError, match=r"an energy per value of `z`"):
        enumerated(model, {"x": jnp.zeros(2)})
    with pytest.raises(ebm.UnnormalizedError, match=r"\(site `x`: `z`\)"):
        ebm.sites.check_normalization(model)
    with pytest.raises(ebm.UnnormalizedError, match=r"\(site `x`: `z`\)"):
        ebm.sites.check_normalization(config_enumerate(leaf_of_a_site_without_constant))


def leaf_of_a_site_without_constant():
    z = numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))
    numpyro.sample("x", ebm.EnergyDistribution(Shifted(LOCS[z]), (2,)))


def in_plates(factor, **kwargs):
    with numpyro.plate("a", 2, dim=-3), numpyro.plate("b", 6, subsample_size=3, dim=-1):
        x = numpyro.sample("x", dist.Normal(0, 1).expand([2]).to_event(1))
        factor(lambda x: jnp.sum(x**4), x)


def under_a_mask(factor):
    with numpyro.plate("a", 3), handlers.mask(mask=jnp.array([True, False, True])):
        x = numpyro.sample("x", dist.Normal(0, 1).expand([2]).to_event(1))
        with handlers.scale(scale=3.0):
            factor(lambda x: jnp.sum(x**4), x)


def our_factor(energy, x):
    ebm.factor("f", energy, x)


def numpyros_factor(energy, x):
    numpyro.factor("f", -jnp.vectorize(energy, signature="(n)->()")(x))


def our_site(energy, x):
    numpyro.sample("f", ebm.EnergyDistribution(energy, (2,)), obs=x)


@pytest.mark.parametrize(
    ("model", "shape"), [(in_plates, (2, 1, 3, 2)), (under_a_mask, (3, 2))]
)
@pytest.mark.parametrize("ours", [our_factor, our_site])
def test_it_counts_as_numpyros_factor_does(model, shape, ours):
    x = jax.random.normal(jax.random.key(2), shape)
    densities = [
        plain_log_density(handlers.seed(model, 0), (factor,), {}, {"x": x})[0]
        for factor in (ours, numpyros_factor)
    ]
    np.testing.assert_allclose(*densities, rtol=1e-6)

    def beside(factor):
        numpyro.sample("z", dist.Bernoulli(0.3))
        model(factor)

    first = -len(shape)
    seeded = handlers.seed(enum(config_enumerate(beside), first), 0)
    np.testing.assert_allclose(
        log_density(seeded, (ours,), {}, {"x": x})[0], densities[1], rtol=1e-5
    )


def observed_mixture():
    with numpyro.plate("n", 3):
        z = numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3), infer=PARALLEL)
        x = numpyro.sample("x", dist.Normal(0, 1))
        ebm.factor("f", lambda x, loc: 20 * (x - loc) ** 2, x, LOCS[z])


PARALLEL = {"enumerate": "parallel"}


def test_discrete_sites_can_be_inferred():
    x = jnp.array([2.0, -1.0, 0.5])
    conditioned = handlers.condition(observed_mixture, {"x": x})
    inferred = infer_discrete(
        conditioned, first_available_dim=-2, temperature=0, rng_key=jax.random.key(0)
    )
    trace = handlers.trace(handlers.seed(inferred, 0)).get_trace()
    np.testing.assert_array_equal(trace["z"]["value"], [2, 0, 1])
    predictive = Predictive(
        observed_mixture, {"x": jnp.stack([x, x[::-1]])}, infer_discrete=True
    )
    draws = predictive(jax.random.key(1))["z"]
    np.testing.assert_array_equal(draws, [[2, 0, 1], [1, 0, 2]])


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [NUTS, ebm.NUTS])
def test_kernels_sum_over_the_values(kernel):
    def model():
        z = numpyro.sample("z", dist.Bernoulli(0.3), infer=PARALLEL)
        with numpyro.plate("n", 3):
            x = numpyro.sample("x", dist.Normal(0, 1))
            ebm.factor("f", lambda x, z: 0.5 * (x - 2 * z) ** 2, x, z)

    mcmc = MCMC(
        kernel(model),
        num_warmup=200,
        num_samples=100,
        num_chains=40,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(0))
    # Given z, the factor of x is e^{-z^2} N(x; z, 1/2): three of them weigh z = 1 by e^-3.
    weight = 0.3 * np.exp(-3) / (0.3 * np.exp(-3) + 0.7)
    draws = mcmc.get_samples(group_by_chain=True)["x"]
    assert_means(draws, weight)
