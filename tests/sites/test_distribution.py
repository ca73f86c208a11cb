"""Every clause of NumPyro's `Distribution`, for a table of energies."""

import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import (
    COVARIANCE,
    ENERGIES,
    MEAN,
    assert_moments,
    count_traces,
    mixture,
    network,
)
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.batch_util import promote_batch_shape, vmap_over
from numpyro.infer import (
    MCMC,
    Predictive,
    init_to_feasible,
    init_to_mean,
    init_to_median,
    init_to_sample,
    init_to_uniform,
    init_to_value,
)
from numpyro.infer.inspect import get_dependencies, get_model_relations
from numpyro.infer.reparam import TransformReparam
from numpyro.infer.util import log_density

import numpyro_ebm as ebm

OF_UNITS = {"IsingModel", "PottsModel", "BernoulliRBM"}
CONTINUOUS = {name: make for name, make in ENERGIES.items() if name not in OF_UNITS}
each_energy = pytest.mark.parametrize("make", CONTINUOUS.values(), ids=CONTINUOUS)
X = jnp.array([0.3, -1.2])
NETWORK = ebm.MLPEnergy(2, 8, key=jax.random.key(0))


def batch_of_networks(*batch_shape):
    make = eqx.filter_vmap(lambda key: ebm.MLPEnergy(2, 4, key=key))
    for _ in batch_shape[1:]:
        make = eqx.filter_vmap(make)
    return make(jax.random.split(jax.random.key(0), batch_shape))


def batch_of_gaussians():
    return jax.vmap(lambda loc: ebm.Gaussian(loc, COVARIANCE))(jnp.arange(6.0).reshape(3, 2))


def site(*args, **kwargs):
    return lambda: ebm.EnergyDistribution(*args, num_steps=50, **kwargs)


SITES = {
    "plain": site(NETWORK),
    "scalar": site(lambda x: 0.5 * x**2, ()),
    "exact": site(ebm.Gaussian(MEAN, COVARIANCE)),
    "sum": site(mixture() + ebm.Gaussian(MEAN, COVARIANCE)),
    "tempered": site(mixture() / 2.0),
    "mixture": site(ebm.Mixture([mixture(), ebm.Normalized(NETWORK, 1.5)], [1.0, 3.0])),
    "tilted": site(ebm.Tilted(network(), dist.Normal(0, 1).expand([2]).to_event(1))),
    "conv": site(ebm.ConvEnergy((4, 4), (2,), key=jax.random.key(0))),
    "batched": site(batch_of_networks(3), batch_shape=(3,)),
    "batched twice": site(batch_of_networks(2, 3), batch_shape=(2, 3)),
    "batched exact": site(batch_of_gaussians(), batch_shape=(3,)),
    "positive": site(lambda x: jnp.sum(x - jnp.log(x)), (2,), support=constraints.positive),
    "mixed": site(
        lambda x: x[0] ** 2 + x[1], (2,), support=[constraints.real, constraints.positive]
    ),
}
each_site = pytest.mark.parametrize("make", SITES.values(), ids=SITES)


def point(site, *lead):
    """A point of the support, of shape `lead + batch_shape + event_shape`."""
    shape = lead + site.batch_shape + site.event_shape
    transform = biject_to(site.support)
    return transform(jax.random.normal(jax.random.key(1), transform.inverse_shape(shape)))


def one_by_one(site, value):
    """`log_prob` by a Python loop over batch elements."""
    energy = site.energy
    lead = value.shape[: value.ndim - site.event_dim]
    out = np.zeros(lead)
    for i in np.ndindex(*lead):
        which = i[len(lead) - len(site.batch_shape) :]
        one = jax.tree.map(lambda a, w=which: a[w] if eqx.is_array(a) else a, energy)
        out[i] = -one(value[i]) - (0.0 if one.log_z is None else one.log_z)
    return out


@each_energy
def test_log_prob_is_minus_the_energy_less_log_z(make):
    energy = make()
    site = ebm.EnergyDistribution(energy)
    log_z = 0.0 if energy.log_z is None else energy.log_z
    assert site.event_shape == (2,)
    assert site.is_normalized == (energy.log_z is not None)
    np.testing.assert_allclose(site.log_prob(X), -energy(X) - log_z, rtol=1e-6)
    assert site.log_prob(jnp.zeros((3, 4, 2))).shape == (3, 4)


@each_energy
def test_a_pytree_through_jit_grad_and_vmap(make):
    site = ebm.EnergyDistribution(make(), constant_z=True)
    jitted = jax.jit(lambda d, x: d.log_prob(x))(site, X)
    np.testing.assert_allclose(jitted, site.log_prob(X), rtol=1e-5)
    gradient = eqx.filter_grad(lambda d: d.log_prob(X))(site)
    assert isinstance(gradient, ebm.EnergyDistribution)
    doubled = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), site)
    both = jax.vmap(lambda d: d.log_prob(X))(doubled)
    np.testing.assert_allclose(both, jnp.full(2, site.log_prob(X)), rtol=1e-5)


@each_site
def test_shapes(make):
    site = make()
    key = jax.random.PRNGKey(0)
    for lead in [(), (2,), (2, 3)]:
        value = point(site, *lead)
        assert value.shape == site.shape(lead)
        log_prob = site.log_prob(value)
        assert log_prob.shape == lead + site.batch_shape
        np.testing.assert_allclose(log_prob, one_by_one(site, value), rtol=1e-4, atol=1e-5)
        draw = jax.eval_shape(lambda key, lead=lead: site.sample(key, lead), key)
        assert draw.shape == site.shape(lead)
    one_point = point(site)[(0,) * len(site.batch_shape)]
    assert site.log_prob(one_point).shape == site.batch_shape


@each_site
def test_draws_lie_in_the_support(make):
    site = make()
    draws = site.draw(jax.random.key(0), 4)
    assert draws.values.shape == site.shape((4,))
    assert draws.accept_prob.shape == (4, *site.batch_shape)
    assert draws.ok
    assert site.support(draws.values).all()
    np.testing.assert_array_equal(site.sample(jax.random.key(0), (4,)), draws.values)
    # Batch elements and draws are independent of each other.
    assert np.unique(draws.values).size == draws.values.size


@each_site
def test_expand_independent_and_mask(make):
    site = make()
    value = point(site, 2)
    truth = site.log_prob(value)
    wide = site.expand((2, *site.batch_shape))
    assert wide.batch_shape == (2, *site.batch_shape)
    np.testing.assert_allclose(wide.log_prob(value), truth, rtol=1e-6)
    assert jax.eval_shape(wide.sample, jax.random.key(0)).shape == wide.shape()
    event = wide.to_event(len(wide.batch_shape))
    assert event.event_shape == wide.batch_shape + wide.event_shape
    np.testing.assert_allclose(event.log_prob(value), truth.sum(), rtol=1e-5)
    mask = np.arange(truth.size).reshape(truth.shape) % 2 == 0
    masked = wide.mask(mask)
    np.testing.assert_allclose(masked.log_prob(value), np.where(mask, truth, 0), rtol=1e-6)
    assert (wide.mask(False).log_prob(value) == 0).all()


@each_site
def test_pytree(make):
    site = make()
    value = point(site)
    truth = site.log_prob(value)
    leaves, treedef = jax.tree.flatten(site)
    assert hash(treedef) == hash(jax.tree.structure(site))
    again = treedef.unflatten(leaves)
    assert again.shape() == site.shape()
    returned = jax.jit(lambda d: d)(site)
    carried = jax.lax.scan(lambda d, _: (d, d.log_prob(value)), site, length=2)[1]
    chosen = jax.lax.cond(True, lambda d: d, lambda d: d, site)
    for other in (again, returned, chosen):
        np.testing.assert_allclose(other.log_prob(value), truth, rtol=1e-6)
    np.testing.assert_allclose(carried, jnp.stack([truth, truth]), rtol=1e-6)
    assert "EnergyDistribution" in repr(site)


@each_site
def test_a_batch_made_by_vmap(make):
    site = make()
    value = point(site)
    stacked = jax.vmap(lambda _: site)(jnp.arange(5))
    axes = vmap_over(stacked, _arrays=0)
    log_prob = jax.vmap(lambda d: d.log_prob(value), in_axes=(axes,))(stacked)
    expected = np.broadcast_to(site.log_prob(value), (5, *site.batch_shape))
    np.testing.assert_allclose(log_prob, expected, rtol=1e-6)
    promoted = promote_batch_shape(stacked)
    assert promoted.batch_shape == (5, *site.batch_shape)
    np.testing.assert_allclose(promoted.log_prob(value), expected, rtol=1e-6)


@each_site
def test_gradients_in_the_point(make, x64):
    site = make()
    value = point(site).astype(float)
    gradient = jax.jit(jax.grad(lambda x: site.log_prob(x).sum()))(value)
    step = jax.random.normal(jax.random.key(3), value.shape)
    high, low = (site.log_prob(value + s * step).sum() for s in (1e-6, -1e-6))
    np.testing.assert_allclose(jnp.vdot(gradient, step), (high - low) / 2e-6, rtol=1e-4)


@each_site
def test_what_an_energy_does_not_know(make):
    site = make()
    assert not site.has_rsample
    for ask in (
        lambda: site.rsample(jax.random.key(0)),
        lambda: site.entropy(),
        lambda: site.cdf(point(site)),
        lambda: site.icdf(0.5),
        lambda: type(site).infer_shapes(),
        lambda: site.enumerate_support(),
    ):
        with pytest.raises(NotImplementedError):
            ask()
    if site.batch_shape == () and site.energy.mean is None:
        with pytest.raises(NotImplementedError):
            _ = site.mean
    assert not site.has_enumerate_support
    assert site.get_args() == {}
    site.validate_args()


@pytest.mark.parametrize("name", ["exact", "tempered", "batched exact"])
def test_pickling(name):
    site = SITES[name]()
    again = pickle.loads(pickle.dumps(site))
    value = point(site, 2)
    np.testing.assert_array_equal(again.log_prob(value), site.log_prob(value))
    assert again.shape() == site.shape()


def test_moments_where_the_energy_knows_them():
    for name in ("mean", "variance"):
        assert getattr(SITES["batched exact"](), name).shape == (3, 2)
        np.testing.assert_allclose(
            getattr(SITES["exact"](), name), getattr(ebm.Gaussian(MEAN, COVARIANCE), name)
        )
    truncated = ebm.EnergyDistribution(
        ebm.Gaussian(MEAN, COVARIANCE), support=constraints.positive
    )
    assert not truncated.is_normalized
    with pytest.raises(NotImplementedError, match="does not know its mean"):
        _ = truncated.mean


def test_equal_structure_shares_one_compilation():
    traces = []

    @jax.jit
    def evaluate(site):
        traces.append(None)
        return site.log_prob(X)

    for seed in range(3):
        net = ebm.as_energy(ENERGIES["Tilted"]())
        evaluate(ebm.EnergyDistribution(jax.tree.map(lambda x: x, net)))
        evaluate(ebm.EnergyDistribution(ebm.Gaussian(MEAN + seed, COVARIANCE)))
    assert len(traces) == 2


@pytest.mark.parametrize("validate", [True, False])
def test_validation(validate):
    site = ebm.EnergyDistribution(
        lambda x: jnp.sum(x), (2,), support=constraints.positive, validate_args=validate
    )
    outside = jnp.array([1.0, -1.0])
    if not validate:
        assert site.log_prob(outside) == 0
        return
    with pytest.warns(UserWarning, match="Out-of-support"):
        assert site.log_prob(outside) == -jnp.inf
    assert jax.jit(site.log_prob)(outside) == -jnp.inf
    assert site.expand([3]).log_prob(jnp.ones(2)).shape == (3,)


GAMMA, BETA = dist.Gamma(3.0, 2.0), dist.Beta(2.0, 3.0)
DIRICHLET = dist.Dirichlet(jnp.array([2.0, 3.0, 4.0]))
TRUNCATED = dist.TruncatedNormal(0.0, 1.0, low=-1.0, high=2.0)


def von_mises(x):
    return -2 * jnp.cos(x - 0.5)


def moments_on_the_circle():
    x = np.linspace(-np.pi, np.pi, 100_001)
    weights = np.exp(-von_mises(x))
    mean = weights @ x / weights.sum()
    return mean, weights @ (x - mean) ** 2 / weights.sum()


#: An energy, its event shape and support, mean and variance.
SUPPORTS = {
    "positive": (
        lambda x: -GAMMA.log_prob(x),
        (),
        constraints.positive,
        GAMMA.mean,
        GAMMA.variance,
    ),
    "unit_interval": (
        lambda x: -BETA.log_prob(x),
        (),
        constraints.unit_interval,
        BETA.mean,
        BETA.variance,
    ),
    "interval": (
        lambda x: 0.5 * x**2,
        (),
        constraints.interval(-1.0, 2.0),
        TRUNCATED.mean,
        TRUNCATED.variance,
    ),
    "simplex": (
        lambda x: -jnp.sum((DIRICHLET.concentration - 1) * jnp.log(x)),
        (3,),
        constraints.simplex,
        DIRICHLET.mean,
        DIRICHLET.variance,
    ),
    # The lesser and the greater of two normals.
    "ordered": (
        lambda x: 0.5 * jnp.sum(x**2),
        (2,),
        constraints.ordered_vector,
        np.array([-1, 1]) / np.sqrt(np.pi),
        np.full(2, 1 - 1 / np.pi),
    ),
    "circular": (von_mises, (), constraints.circular, *moments_on_the_circle()),
    "mixed": (
        lambda x: 0.5 * x[0] ** 2 - GAMMA.log_prob(x[1]),
        (2,),
        [constraints.real, constraints.positive],
        [0.0, GAMMA.mean],
        [1.0, GAMMA.variance],
    ),
}
#: Those that show nothing that the rest doesn't.
SLOW = {"interval", "ordered", "circular"}
each_support = pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in SUPPORTS],
)


def assert_support_moments(draws, name, **kwargs):
    mean, variance = map(np.atleast_1d, SUPPORTS[name][3:])
    assert_moments(draws.reshape(400, -1, len(mean)), mean, variance, **kwargs)


@pytest.mark.slow
@each_support
def test_supports_are_sampled_with_their_jacobian(name):
    energy, shape, support, *_ = SUPPORTS[name]
    site = ebm.EnergyDistribution(energy, shape, support=support, num_steps=150)
    assert_support_moments(site.draw(jax.random.key(0), 40_000).values, name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Continuous inference poorly handles circular")
@pytest.mark.parametrize("name", SUPPORTS)
def test_supports_under_a_kernel(name):
    energy, shape, support, *_ = SUPPORTS[name]
    site = ebm.EnergyDistribution(energy, shape, support=support)
    mcmc = MCMC(
        ebm.NUTS(lambda: numpyro.sample("x", site)),
        num_warmup=200,
        num_samples=600,
        num_chains=400,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(1))
    draws = mcmc.get_samples(group_by_chain=True)["x"]
    assert site.support(draws).all()
    assert_support_moments(draws, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["positive", "unit_interval", "simplex"])
def test_a_missing_jacobian_would_be_seen(name):
    """The mutant moves in unconstrained space by the energy alone."""
    energy, shape, support, *_ = SUPPORTS[name]
    transform = biject_to(support)
    inner = transform.inverse_shape(shape)
    mutant = ebm.EnergyDistribution(lambda z: energy(transform(z)), inner, num_steps=150)
    draws = transform(mutant.draw(jax.random.key(0), 8_000).values)
    with pytest.raises(AssertionError, match="mean: z = "):
        assert_support_moments(draws, name, ess_variance=400)


def test_the_support_of_an_energy_is_its_default():
    gamma = dist.Gamma(3.0, 2.0).expand([2]).to_event(1)
    for energy in (
        ebm.as_energy(gamma),
        2 * ebm.as_energy(gamma),
        ebm.as_energy(gamma) + network(),
        ebm.Tilted(network(), gamma),
        ebm.Normalized(ebm.Tilted(network(), gamma), 0.3),
        ebm.Mixture([gamma, gamma], [0.3, 0.7]),
        ebm.MLPEnergy(2, 4, reference=gamma, key=jax.random.key(0)),
    ):
        assert ebm.EnergyDistribution(energy, (2,)).support == gamma.support
    real = ebm.Mixture([gamma, ebm.Gaussian(MEAN, COVARIANCE)], [0.3, 0.7])
    assert ebm.EnergyDistribution(real).support == constraints.real_vector
    beta = dist.Beta(2.0, 3.0).expand([2]).to_event(1)
    within = ebm.EnergyDistribution(ebm.as_energy(gamma) + beta).support
    assert within == constraints.independent(constraints.interval(0.0, 1.0), 1)
    apart = ebm.as_energy(gamma) + dist.Dirichlet(jnp.ones(2))
    with pytest.raises(ValueError, match="different supports"):
        ebm.EnergyDistribution(apart)
    assert ebm.EnergyDistribution(apart, support=constraints.simplex).event_dim == 1


def test_bounds_of_a_batch_broadcast():
    low = jnp.array([0.0, 1.0, 2.0])
    energies = jax.vmap(lambda a: ebm.as_energy(dist.Uniform(a, a + 1.0)))(low)
    site = ebm.EnergyDistribution(energies, batch_shape=(3,))
    draws = site.sample(jax.random.key(0), (100,))
    assert ((draws > low) & (draws < low + 1)).all()
    assert np.isfinite(site.log_prob(draws)).all()
    with pytest.warns(UserWarning, match="Out-of-support"):
        assert site.log_prob(jnp.full(3, 0.5)).tolist() == [0.0, -np.inf, -np.inf]


def test_exact_samples_where_the_energy_has_them():
    site = ebm.EnergyDistribution(ENERGIES["Gaussian"](), sampler=None)
    draws = site.draw(jax.random.key(0), (400, 100))
    assert_moments(draws.values, MEAN, np.diag(COVARIANCE))
    assert draws.num_steps == 0
    assert repr(draws) == "40000 exact draws"
    gamma = ebm.EnergyDistribution(
        dist.Gamma(3.0, 2.0), support=constraints.positive, sampler=None
    )
    assert (gamma.sample(jax.random.key(0), (100,)) > 0).all()


@pytest.mark.slow
def test_chain_samples_elsewhere():
    gaussian = ENERGIES["Gaussian"]()
    site = ebm.EnergyDistribution(lambda x: gaussian(x), (2,), num_steps=200)
    draws = site.draw(jax.random.key(0), (200, 200))
    assert_moments(draws.values, MEAN, np.diag(COVARIANCE))
    assert abs(draws.accept_prob.mean() - 0.574) < 0.05
    assert "40000 draws, each the end of 200 steps: 0.5" in repr(draws)
    under_jit = jax.jit(lambda key: site.sample(key, (200, 200)))(jax.random.key(0))
    np.testing.assert_allclose(under_jit, draws.values, rtol=1e-4, atol=1e-4)


def test_a_second_draw_compiles_nothing():
    gaussian = ENERGIES["Gaussian"]()
    energy, traces = count_traces(lambda x: gaussian(x))
    for seed in range(3):
        site = ebm.EnergyDistribution(energy, (2,), num_steps=20)
        before = len(traces)
        site.sample(jax.random.key(seed), (3,))
        assert (len(traces) > before) == (seed == 0)


def test_batches_are_drawn_each_from_its_own_energy():
    gaussians = batch_of_gaussians()
    site = ebm.EnergyDistribution(
        jax.vmap(lambda g: ebm.as_energy(ebm.freeze(g)))(gaussians),
        (2,),
        batch_shape=(3,),
        num_steps=200,
    )
    draws = site.draw(jax.random.key(0), 10_000).values
    for i in range(3):
        blocks = draws[:, i].reshape(400, -1, 2)
        assert_moments(blocks, gaussians.loc[i], np.diag(COVARIANCE), ess_variance=7_000)


@pytest.mark.slow
def test_unhealthy_chains_are_reported_where_they_were_asked_for():
    falling = ebm.EnergyDistribution(lambda x: -0.5 * jnp.sum(x**2), (2,))
    with pytest.warns(
        UserWarning, match="ran away; `ebm.normalizers.check_integrable`"
    ) as caught:
        falling.sample(jax.random.key(0), (3,))
    assert caught[0].filename == __file__
    batch = eqx.filter_vmap(lambda w: w * ebm.Gaussian(MEAN, COVARIANCE))(
        jnp.array([1.0, -1.0])
    )
    with pytest.warns(UserWarning, match="NOT integrable"):
        ebm.EnergyDistribution(batch, (2,), batch_shape=(2,)).sample(jax.random.key(0), (3,))
    with handlers.seed(rng_seed=0), pytest.warns(UserWarning, match="ran away") as caught:
        numpyro.sample("x", falling)
    assert caught[0].filename == __file__
    stuck = ebm.EnergyDistribution(
        lambda x: 0.5 * jnp.sum(x**2),
        (2,),
        sampler=ebm.MALA(step_size=1e6, adapt_step_size=False),
        num_steps=100,
    )
    draws = stuck.draw(jax.random.key(0), 5)
    assert not draws.ok
    assert draws.stuck.all()
    with pytest.warns(UserWarning, match="5 stuck, 0 not finite"):
        stuck.sample(jax.random.key(0), (5,))
    jax.jit(lambda key: stuck.sample(key))(jax.random.key(0))  # Nobody to warn.


def test_no_gradient_flows_through_sample():
    assert not ebm.EnergyDistribution(network(), (2,)).has_rsample


def hierarchy(y=None):
    """A plate of latents from an energy, seen with noise of unknown scale."""
    scale = numpyro.sample("scale", dist.LogNormal(0, 1))
    with numpyro.plate("n", 5):
        x = numpyro.sample("x", ebm.EnergyDistribution(NETWORK, num_steps=20))
        numpyro.sample("y", dist.Normal(x, scale).to_event(1), obs=y)


Y = jnp.ones((5, 2))
LATENTS = {"scale": jnp.array(0.7), "x": jnp.full((5, 2), 0.3)}


def joint(site_log_prob=0.0, scale=1.0):
    likelihood = dist.Normal(LATENTS["x"], LATENTS["scale"]).log_prob(Y).sum()
    prior = scale * site_log_prob * 5
    return prior + likelihood * scale + dist.LogNormal(0, 1).log_prob(LATENTS["scale"])


PRIOR = ebm.EnergyDistribution(NETWORK).log_prob(jnp.full(2, 0.3))


@pytest.mark.slow
def test_log_density_and_handlers():
    def density(model, params=LATENTS):
        return log_density(model, (Y,), {}, params)[0]

    np.testing.assert_allclose(density(hierarchy), joint(PRIOR), rtol=1e-5)
    # condition, substitute, do, block, seed and trace
    sites = handlers.trace(handlers.seed(hierarchy, 0)).get_trace()
    assert sites["x"]["value"].shape == (5, 2)
    fixed = handlers.condition(hierarchy, {"x": LATENTS["x"]})
    np.testing.assert_allclose(density(fixed, {"scale": 0.7}), joint(PRIOR), rtol=1e-5)
    sites = handlers.trace(handlers.seed(fixed, 0)).get_trace()
    assert sites["x"]["is_observed"]
    cut = handlers.do(hierarchy, {"x": LATENTS["x"]})
    np.testing.assert_allclose(
        density(handlers.block(handlers.seed(cut, 0), hide=["x"]), {"scale": 0.7}),
        joint(0.0),
        rtol=1e-5,
    )
    swapped = handlers.substitute(handlers.seed(hierarchy, 0), {"x": LATENTS["x"]})
    assert (handlers.trace(swapped).get_trace()["x"]["value"] == LATENTS["x"]).all()
    # mask and scale
    np.testing.assert_allclose(density(handlers.mask(hierarchy, mask=False)), 0.0)
    np.testing.assert_allclose(
        density(handlers.scale(hierarchy, scale=3.0)), 3 * joint(PRIOR), rtol=1e-5
    )


def test_subsampling_plates_scale_the_site():
    def model(y):
        with numpyro.plate("n", 10, subsample_size=5):
            x = numpyro.sample("x", ebm.EnergyDistribution(NETWORK))
            numpyro.sample("y", dist.Normal(x, 0.7).to_event(1), obs=y)

    density, sites = log_density(handlers.seed(model, 0), (Y,), {}, {"x": LATENTS["x"]})
    likelihood = dist.Normal(LATENTS["x"], 0.7).log_prob(Y).sum()
    np.testing.assert_allclose(density, 2 * (5 * PRIOR + likelihood), rtol=1e-5)
    assert sites["x"]["fn"].batch_shape == (5,)


def test_a_mask_of_observations_imputes_the_rest():
    def model(seen):
        with numpyro.plate("n", 4):
            numpyro.sample(
                "x",
                ebm.EnergyDistribution(NETWORK),
                obs=jnp.zeros((4, 2)),
                obs_mask=seen,
            )

    seen = jnp.array([True, False, True, False])
    sites = handlers.trace(handlers.seed(model, 0)).get_trace(seen)
    assert (sites["x"]["value"][::2] == 0).all()
    assert (sites["x"]["value"][1::2] != 0).all()


def test_predictive_in_parallel_and_one_by_one():
    posterior = {name: jnp.stack([x, x + 0.1]) for name, x in LATENTS.items()}
    draws = [
        Predictive(hierarchy, posterior, parallel=parallel)(jax.random.key(0))
        for parallel in (True, False)
    ]
    assert draws[0]["y"].shape == (2, 5, 2)
    np.testing.assert_allclose(draws[0]["y"], draws[1]["y"], rtol=1e-5)
    prior = Predictive(hierarchy, num_samples=3)(jax.random.key(0))
    assert prior["x"].shape == (3, 5, 2)


def test_inspection():
    relations = get_model_relations(hierarchy, (Y,))
    assert relations["sample_dist"]["x"] == "EnergyDistribution"
    assert relations["sample_sample"]["x"] == []
    assert set(relations["sample_sample"]["y"]) == {"scale", "x"}
    assert relations["plate_sample"] == {"n": ["x", "y"]}
    assert set(get_dependencies(hierarchy, (Y,))["posterior_dependencies"]["x"]) == {
        "x",
        "y",
    }
    graph = numpyro.render_model(hierarchy, (Y,), render_distributions=True)
    assert "x ~ EnergyDistribution" in graph.source


def test_reparametrised_by_a_transform():
    base = ebm.EnergyDistribution(ebm.Gaussian(MEAN, COVARIANCE))
    moved = dist.TransformedDistribution(base, dist.transforms.AffineTransform(1.0, 2.0))

    def model():
        return numpyro.sample("x", moved)

    with handlers.reparam(config={"x": TransformReparam()}):
        sites = handlers.trace(handlers.seed(model, 0)).get_trace()
    np.testing.assert_allclose(sites["x"]["value"], 1 + 2 * sites["x_base"]["value"], rtol=1e-6)
    np.testing.assert_allclose(
        moved.log_prob(1 + 2 * X), base.log_prob(X) - 2 * jnp.log(2.0), rtol=1e-5
    )


@pytest.mark.parametrize("with_closure", [False, True])
def test_sites_in_a_scan(with_closure):
    """A chain of latents: the energy couples each one to a fixed prior only."""
    energy = (lambda x: NETWORK(x)) if with_closure else NETWORK

    def model(ys):
        def step(previous, y):
            x = numpyro.sample("x", ebm.EnergyDistribution(energy, (2,), num_steps=5))
            numpyro.sample("y", dist.Normal(previous + x, 1.0).to_event(1), obs=y)
            return x, None

        scan(step, jnp.zeros(2), ys)

    x = jnp.arange(6.0).reshape(3, 2) / 10
    ys = jnp.ones((3, 2))
    density, sites = log_density(handlers.seed(model, 0), (ys,), {}, {"x": x})
    previous = jnp.concatenate([jnp.zeros((1, 2)), x[:-1]])
    truth = (
        jax.vmap(lambda x: -NETWORK(x))(x).sum() + dist.Normal(previous + x).log_prob(ys).sum()
    )
    np.testing.assert_allclose(density, truth, rtol=1e-5)
    assert sites["x"]["fn"].batch_shape == (3,)


def test_effects_under_jit_vmap_and_scan_leak_nothing():
    def density(x, scale):
        return log_density(hierarchy, (Y,), {}, {"x": x, "scale": scale})[0]

    scales = jnp.array([0.7, 0.9])
    truth = jnp.stack([density(LATENTS["x"], scale) for scale in scales])
    with jax.checking_leaks():
        jitted = jax.jit(jax.vmap(density, (None, 0)))(LATENTS["x"], scales)
        scanned = jax.lax.scan(lambda c, s: (c, density(LATENTS["x"], s)), 0, scales)[1]
        gradient = jax.jit(jax.grad(density))(LATENTS["x"], 0.7)
        draws = jax.jit(jax.vmap(lambda key: handlers.seed(hierarchy, key)(Y) or 0))(
            jax.random.split(jax.random.key(0), 2)
        )
    np.testing.assert_allclose(jitted, truth, rtol=1e-5)
    np.testing.assert_allclose(scanned, truth, rtol=1e-5)
    assert np.isfinite(gradient).all()
    assert draws.shape == (2,)


STRATEGIES = [
    init_to_uniform,
    init_to_median,
    init_to_sample,
    init_to_mean,
    init_to_feasible,
    init_to_value(values={"x": X}),
]


@pytest.mark.parametrize("sampler", [None, ebm.MALA()], ids=["none", "mala"])
def test_initialisation(sampler):
    energy = ebm.as_energy(ENERGIES["Tilted"]())
    site = ebm.EnergyDistribution(energy, sampler=sampler, num_steps=20)
    for strategy in STRATEGIES:
        kernel = ebm.MALA(lambda: numpyro.sample("x", site), init_strategy=strategy)
        state = kernel.init(jax.random.key(0), 0, model_args=(), model_kwargs={})
        assert np.isfinite(state.z["x"]).all()
        if strategy is STRATEGIES[-1]:
            np.testing.assert_allclose(state.z["x"], X)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ebm.EnergyDistribution(network()), ValueError, "`event_shape`, the shape of"),
        (
            lambda: ebm.EnergyDistribution(network(), (3,)),
            ValueError,
            r"cannot be evaluated on one point of shape \(3,\)",
        ),
        (
            lambda: ebm.EnergyDistribution(ENERGIES["Gaussian"](), (10, 2)),
            ValueError,
            r"lives on points of shape \(2,\)",
        ),
        (lambda: ebm.EnergyDistribution(network(1), (2,)), ValueError, "must be a scalar"),
        (lambda: ebm.EnergyDistribution("net", (2,)), TypeError, "must be an energy"),
        (
            lambda: ebm.EnergyDistribution(network(), (2,), sampler=None).sample(
                jax.random.key(0)
            ),
            NotImplementedError,
            "sampler=ebm.NUTS",
        ),
        (
            lambda: ebm.EnergyDistribution(network(), (2,), batch_shape=(3,)),
            ValueError,
            r"`batch_shape` is \(3,\), but `.fn.layers\[0\].weight` of the energy has shape",
        ),
        (
            lambda: ebm.EnergyDistribution(network(), (2,), support=[constraints.real] * 3),
            ValueError,
            "lists 3 constraints, one per coordinate",
        ),
        (
            lambda: ebm.EnergyDistribution(network(), (2,), support=constraints.sphere).sample(
                jax.random.key(0)
            ),
            NotImplementedError,
            "no bijection from unconstrained space",
        ),
        (
            lambda: ebm.EnergyDistribution(lambda x: x, (), support=constraints.simplex),
            ValueError,
            "does not fit points of shape",
        ),
        (
            lambda: ebm.EnergyDistribution(network(), (2,)).log_prob(jnp.zeros(3)),
            ValueError,
            r"must end with the event shape \(2,\), got shape \(3,\)",
        ),
        (
            lambda: ebm.EnergyDistribution(network(), (2,)).log_prob(0.0),
            ValueError,
            r"must end with the event shape \(2,\), got shape \(\)",
        ),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_site_is_an_energy_again():
    site = ebm.EnergyDistribution(network(), (2,))
    energy = ebm.as_energy(site)
    assert energy.log_z is None
    np.testing.assert_allclose(energy(X), network()(X), rtol=1e-6)
    normalized = ebm.as_energy(
        ebm.EnergyDistribution(ebm.Gaussian(MEAN, COVARIANCE)).expand([])
    )
    assert normalized.log_z == 0
