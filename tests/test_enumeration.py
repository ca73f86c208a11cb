"""Sites and factors where NumPyro enumerates discrete sites, against sums over all states."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import COVARIANCE, MEAN
from jax.scipy.special import logsumexp
from numpyro import handlers
from numpyro.contrib.funsor import config_enumerate, enum, infer_discrete, log_density
from numpyro.distributions.transforms import AffineTransform
from numpyro.infer import Predictive
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
        if site["type"] == "sample" and site["fn"].has_enumerate_support
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
        ebm.factor("f", lambda x, s: jnp.sum((x - s) ** 2), x, 2.0 * z - 1)


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


@pytest.mark.parametrize(
    ("model", "shapes"), MODELS.items(), ids=lambda m: getattr(m, "__name__", "")
)
def test_it_is_the_sum_over_all_states(model, shapes):
    keys = jax.random.split(jax.random.key(1), len(shapes))
    params = {
        name: jax.random.normal(key, shape)
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    if model is mixture:
        params["weights"] = jnp.array([0.2, 0.3, 0.5])
    expected = summed(model, params)
    np.testing.assert_allclose(enumerated(model, params), expected, rtol=1e-5)
    jitted = jax.jit(lambda params: enumerated(model, params))
    np.testing.assert_allclose(jitted(params), expected, rtol=1e-5)
