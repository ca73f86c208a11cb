"""The guard: every trap is refused by both watchmen, and nothing else is."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from helpers import network
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.contrib.module import eqx_module, random_eqx_module
from numpyro.distributions import constraints
from numpyro.distributions.transforms import AffineTransform
from numpyro.infer import HMC, MCMC, NUTS, SA, SVI, Predictive, Trace_ELBO, init_to_uniform
from numpyro.infer.autoguide import AutoNormal
from numpyro.infer.util import initialize_model, log_likelihood

import numpyro_ebm as ebm

QUIET = {"progress_bar": False}
LOG_2_PI = jnp.log(2 * jnp.pi)
X = np.array([0.5, -1.0, 2.0, 0.3])


class Quadratic(eqx.Module):
    precision: jax.Array

    def __call__(self, x):
        return 0.5 * self.precision * x**2


class Unnormalized(ebm.AbstractEnergy):
    r"""$\tfrac12 x^\top\Lambda x$ in the plane, without a `log_z`."""

    precision: jax.Array
    event_shape: tuple = eqx.field(static=True, default=(2,))

    def __call__(self, x):
        return 0.5 * self.precision * jnp.sum(x**2)


def theta():
    return numpyro.sample("theta", dist.Gamma(2.0, 1.0))


def observe(energy, event_shape=(), **kwargs):
    with numpyro.plate("n", 4):
        numpyro.sample("x", ebm.EnergyDistribution(energy, event_shape, **kwargs), obs=X)


def latent(energy, event_shape=(2,), **kwargs):
    x = numpyro.sample("x", ebm.EnergyDistribution(energy, event_shape, **kwargs))
    numpyro.sample("y", dist.Normal(jnp.sum(x), 1), obs=0.5)


def leaf():
    observe(Quadratic(theta()))


def closure():
    precision = theta()
    observe(lambda x: 0.5 * precision * x**2)


def under_jit():
    precision = theta()
    numpyro.sample("x", ebm.EnergyDistribution(jax.jit(lambda x: precision * x**2), ()))


def under_vmap():
    precision = theta()
    site = ebm.EnergyDistribution(Quadratic(precision), ())
    numpyro.factor("x", jax.vmap(site.log_prob)(X).sum())


def temperature():
    latent(Unnormalized(jnp.array(1.0)) / theta())


def condition():
    z = numpyro.sample("z", dist.Normal(0, 1))
    conditional = ebm.ConditionalEnergy(lambda y, x: jnp.sum((y - x) ** 4) * x, (2,))
    latent(conditional.given(z))


def clamped():
    z = numpyro.sample("z", dist.Normal(0, 1))
    latent(ebm.clamp(lambda x: jnp.sum(x**2), [True, False, False], jnp.full(3, z)))


def tilt():
    scale = theta()
    reference = dist.Normal(0, scale).expand([2]).to_event(1)
    latent(ebm.Tilted(network(), reference))


def stale_constant():
    observe(ebm.Normalized(Quadratic(theta()), 0.5 * LOG_2_PI))


def stale_constant_of_a_closure():
    precision = theta()
    observe(ebm.Normalized(lambda x: 0.5 * precision * x**2, 0.5 * LOG_2_PI))


def stale_expert():
    wide = ebm.Normalized(Quadratic(theta()), 0.5 * LOG_2_PI)
    narrow = ebm.Normalized(Quadratic(jnp.array(9.0)), 0.5 * (LOG_2_PI - jnp.log(9.0)))
    observe(ebm.Mixture([wide, narrow], [0.5, 0.5]))


def truncated():
    # The Gaussian's own constant is not that of its positive half.
    gaussian = ebm.Gaussian([0.0], precision_matrix=theta()[None, None])
    latent(gaussian, (1,), support=constraints.positive)


def bounds():
    support = constraints.interval(0.0, theta())
    latent(lambda x: jnp.sum(x**2), support=support)


def batched():
    energies = jax.vmap(Quadratic)(jnp.arange(1.0, 5.0) * theta())
    numpyro.sample("x", ebm.EnergyDistribution(energies, (), batch_shape=(4,)), obs=X)


def inside_a_scan():
    precision = theta()

    def body(carry, _):
        x = numpyro.sample("x", ebm.EnergyDistribution(Quadratic(precision), ()))
        return carry + x, None

    scan(body, 0.0, None, length=3)


def random_weights():
    net = random_eqx_module("net", network(), dist.Normal(0, 1))
    latent(net)


def learned_weights():
    latent(eqx_module("net", network()))


def lifted():
    def model():
        observe(Quadratic(numpyro.param("theta", 1.0, constraint=constraints.positive)))

    handlers.lift(model, prior={"theta": dist.Gamma(2.0, 1.0)})()


def factor_by_a_closure():
    precision = theta()
    x = numpyro.sample("x", dist.Normal(0, 1))
    ebm.factor("f", lambda x: 0.5 * precision * x**2, x)


def factor_of_two():
    precision = theta()
    with numpyro.plate("n", 4):
        x = numpyro.sample("x", dist.Normal(0, 1))
        ebm.factor("f", lambda x, y: precision * (x - y) ** 2, x, X)


def factor_with_a_stale_constant():
    ebm.factor("f", ebm.Normalized(Quadratic(theta()), 0.5 * LOG_2_PI), 1.0)


TRAPS = [
    leaf,
    closure,
    under_jit,
    temperature,
    condition,
    clamped,
    tilt,
    stale_constant,
    stale_constant_of_a_closure,
    stale_expert,
    truncated,
    bounds,
    batched,
    inside_a_scan,
    random_weights,
    learned_weights,
    lifted,
    factor_by_a_closure,
    factor_of_two,
    factor_with_a_stale_constant,
]


def fixed():
    latent(Unnormalized(jnp.array(2.0)))


def fixed_beside_latents():
    x = numpyro.sample("x", ebm.EnergyDistribution(network(), (2,)))
    numpyro.sample("y", dist.Normal(jnp.sum(x), theta()), obs=0.5)


def known_constant():
    precision = theta()
    observe(Known(precision))
    ebm.factor("f", Known(precision), 1.0)


class Known(ebm.AbstractEnergy):
    precision: jax.Array
    event_shape: tuple = eqx.field(static=True, default=())

    @property
    def log_z(self):
        return 0.5 * (LOG_2_PI - jnp.log(self.precision))

    def __call__(self, x):
        return 0.5 * self.precision * x**2


def given_constant():
    precision = theta()
    log_z = 0.5 * (LOG_2_PI - jnp.log(precision))
    observe(ebm.Normalized(lambda x: 0.5 * precision * x**2, log_z))


def mixture_of_known():
    precision = theta()
    log_z = 0.5 * (LOG_2_PI - jnp.log(precision))
    wide = ebm.Normalized(Quadratic(precision), log_z)
    observe(ebm.Mixture([wide, Known(jnp.array(9.0))], [0.5, 0.5]))


def distribution_with_latents():
    observe(dist.Normal(0, theta()))


def own_support_with_latents():
    site = ebm.EnergyDistribution(dist.Uniform(0.0, 3 + theta()))
    numpyro.sample("u", site, obs=jnp.array(0.5))


def moved():
    base = ebm.EnergyDistribution(network(), (2,))
    transform = AffineTransform(numpyro.sample("loc", dist.Normal(0, 1)), theta())
    numpyro.sample("x", dist.TransformedDistribution(base, transform))


def moved_inside():
    transform = AffineTransform(numpyro.sample("loc", dist.Normal(0, 1)), theta())
    latent(ebm.Transformed(ebm.as_energy(network(), (2,)), transform))


def opted_out():
    loc = numpyro.sample("loc", dist.Normal(0, 1))
    latent(lambda x: jnp.sum((x - loc) ** 4), constant_z=True)
    ebm.factor("f", lambda x: (x - loc) ** 4, 0.5, constant_z=True)


def coupled():
    with numpyro.plate("n", 4):
        x = numpyro.sample("x", dist.Normal(0, 1))
        y = numpyro.sample("y", dist.Normal(x, theta()))
        ebm.factor("f", lambda x, y: (x - y) ** 4, x, y)


def switched_off():
    with handlers.mask(mask=False):
        observe(Quadratic(theta()))


def conditioned():
    handlers.condition(leaf, {"theta": 1.0})()


def substituted():
    handlers.substitute(learned_weights, {"net$params": eqx.filter(network(), eqx.is_array)})()


def fixed_inside_a_scan():
    def body(carry, _):
        site = ebm.EnergyDistribution(lambda x: 0.5 * jnp.sum(x**2), (2,))
        x = numpyro.sample("x", site)
        numpyro.sample("y", dist.Normal(carry + x[0], theta_scale), obs=0.1)
        return carry + x[0], None

    theta_scale = theta()
    scan(body, 0.0, None, length=3)


FINE = [
    fixed,
    fixed_beside_latents,
    known_constant,
    given_constant,
    mixture_of_known,
    distribution_with_latents,
    own_support_with_latents,
    moved,
    moved_inside,
    opted_out,
    coupled,
    switched_off,
    conditioned,
    substituted,
    fixed_inside_a_scan,
]
each_trap = pytest.mark.parametrize("model", TRAPS, ids=lambda model: model.__name__)
each_fine = pytest.mark.parametrize("model", FINE, ids=lambda model: model.__name__)


def numpyros_kernels(model):
    """The first thing they do, as far as that is JAX's to trace."""
    initialize_model(jax.random.key(0), model)


def svi(model):
    guide = AutoNormal(model, init_loc_fn=init_to_uniform)
    state = SVI(model, guide, optax.adam(0.1), Trace_ELBO())
    start = state.init(jax.random.key(0))
    jax.eval_shape(state.update, start)


@each_trap
def test_provenance_sees_a_trap(model):
    with pytest.raises(ebm.UnnormalizedError, match=r"\(site `(x|f)`: `(theta|z|net)"):
        ebm.sites.check_normalization(model)


@each_trap
def test_numpyros_kernels_meet_the_trap(model):
    if model is learned_weights:  # MCMC takes a `param` for a constant.
        return numpyros_kernels(model)
    with pytest.raises(ebm.UnnormalizedError, match="is differentiated with respect to"):
        numpyros_kernels(model)


@each_trap
def test_svi_meets_the_trap(model):
    with pytest.raises(ebm.UnnormalizedError):
        svi(model)


@each_fine
def test_no_false_alarm(model):
    ebm.sites.check_normalization(model)
    numpyros_kernels(model)
    # SVI learns what a `param` is, substituted or not; AutoNormal knows no `scan`.
    if model not in (conditioned, substituted, fixed_inside_a_scan):
        svi(model)


def half_a_constant():
    a, b = theta(), numpyro.sample("b", dist.Gamma(2.0, 1.0))
    log_z = 0.5 * (LOG_2_PI - jnp.log(a))
    observe(ebm.Normalized(lambda x: 0.5 * (a + b) * x**2, log_z))


def test_provenance_knows_which_parameters_a_constant_counts():
    with pytest.raises(ebm.UnnormalizedError, match=r"\(site `x`: `b`\)"):
        ebm.sites.check_normalization(half_a_constant)
    numpyros_kernels(half_a_constant)  # What differentiation alone does not see.


@pytest.mark.parametrize("Kernel", [ebm.MALA, ebm.NUTS, NUTS], ids=["MALA", "NUTS", "NumPyro"])
@pytest.mark.parametrize("method", ["sequential", "parallel", "vectorized"])
def test_mcmc_refuses_to_start(Kernel, method):
    mcmc = MCMC(
        Kernel(leaf),
        num_warmup=5,
        num_samples=5,
        num_chains=2,
        chain_method=method,
        **QUIET,
    )
    with pytest.raises(
        ebm.UnnormalizedError, match=r"site `x`: `theta`" if Kernel is not NUTS else "is diff"
    ):
        mcmc.run(jax.random.key(0))


POTENTIALS = {
    "a model": lambda: ebm.ModelEnergy(leaf),
    "a model in a sum": lambda: (
        ebm.ModelEnergy(leaf) + ebm.OnSite(lambda t: t**2, "theta", ebm.ModelEnergy(leaf))
    ),
    "a model in a closure": lambda: lambda z: ebm.ModelEnergy(leaf)(z),
}


@pytest.mark.parametrize("make", POTENTIALS.values(), ids=POTENTIALS)
@pytest.mark.parametrize("Kernel", [ebm.RandomWalkMetropolis, ebm.MALA])
def test_a_potential_of_a_trap_is_refused_with_and_without_gradients(Kernel, make):
    energy, start = make(), {"theta": jnp.zeros(2)}
    mcmc = MCMC(
        Kernel(potential_fn=energy),
        num_warmup=1,
        num_samples=1,
        num_chains=2,
        chain_method="vectorized",
        **QUIET,
    )
    with pytest.raises(ebm.UnnormalizedError):
        mcmc.run(jax.random.key(0), init_params=start)
    one = MCMC(Kernel(potential_fn=energy), num_warmup=1, num_samples=1, **QUIET)
    with pytest.raises(ebm.UnnormalizedError):
        one.run(jax.random.key(0), init_params={"theta": jnp.zeros(())})
    with pytest.raises(ebm.UnnormalizedError):
        ebm.sample(jax.random.key(0), energy, Kernel(), init_params=start, **QUIET)


class Opaque(ebm.AbstractEnergy):
    """Computed outside of JAX, without a derivative."""

    event_shape: tuple = eqx.field(static=True, default=(2,))

    def __call__(self, x):
        shape = jax.ShapeDtypeStruct((), x.dtype)
        value = lambda x: np.asarray(0.5 * (x**2).sum(-1), x.dtype)  # noqa: E731
        return jax.pure_callback(value, shape, x, vmap_method="expand_dims")


@pytest.mark.slow
def test_a_kernel_without_gradients_takes_what_has_none():
    settings = {"num_warmup": 5, "num_samples": 5, **QUIET}
    kernel = ebm.RandomWalkMetropolis()
    assert ebm.sample(jax.random.key(0), Opaque(), kernel, **settings).finite.all()
    fine = ebm.ModelEnergy(known_constant)
    start = {"theta": jnp.zeros(4)}
    assert ebm.sample(
        jax.random.key(0), fine, kernel, init_params=start, **settings
    ).finite.all()
    MCMC(ebm.RandomWalkMetropolis(potential_fn=Opaque()), **settings).run(jax.random.key(0))


def test_a_kernel_of_ours_sees_what_has_no_gradient():
    """A gradient stopped on its way hides the trap from everybody who differentiates."""

    def model():
        observe(Quadratic(jax.lax.stop_gradient(theta())))

    numpyros_kernels(model)
    with pytest.raises(ebm.UnnormalizedError, match="`theta`"):
        MCMC(ebm.MALA(model), num_warmup=1, num_samples=1).run(jax.random.key(0))


DERIVATIVES = {
    "grad": jax.grad,
    "jit outside": lambda f: jax.jit(jax.grad(f)),
    "jit inside": lambda f: jax.grad(jax.jit(f)),
    "jacfwd": jax.jacfwd,
    "vmap": lambda f: lambda t, x: jax.vmap(jax.grad(f), (0, None))(t[None], x),
    "scan": lambda f: jax.grad(
        lambda t, x: jax.lax.scan(lambda c, _: (c + f(t, x), None), 0.0, length=2)[0]
    ),
    "cond": lambda f: jax.grad(lambda t, x: jax.lax.cond(x > 0, f, f, t, x)),
    "checkpoint": lambda f: jax.grad(jax.checkpoint(f)),
    "linearize": lambda f: lambda t, x: jax.linearize(lambda t: f(t, x), t),
}


@pytest.mark.parametrize("derive", DERIVATIVES.values(), ids=DERIVATIVES)
def test_log_prob_can_be_differentiated_in_the_point_only(derive):
    def log_prob(precision, x):
        return ebm.EnergyDistribution(Quadratic(precision), ()).log_prob(x)

    one, x = jnp.array(1.0), jnp.array(2.0)
    assert log_prob(one, x) == -2
    derive(lambda x, t: log_prob(t, x))(x, one)
    with pytest.raises(ebm.UnnormalizedError):
        derive(log_prob)(one, x)


@pytest.mark.slow
def test_an_energy_as_a_model_argument_under_jit():
    def model(energy, y):
        x = numpyro.sample("x", ebm.EnergyDistribution(energy, (2,)))
        numpyro.sample("y", dist.Normal(x, theta()).to_event(1), obs=y)

    for kernel in (ebm.MALA(model), HMC(model, trajectory_length=1.0)):
        mcmc = MCMC(kernel, num_warmup=5, num_samples=5, jit_model_args=True, **QUIET)
        for precision in (1.0, 2.0):
            mcmc.run(jax.random.key(0), Unnormalized(jnp.array(precision)), jnp.ones(2))


def test_predictive_and_log_likelihood_ask_for_no_constant():
    Predictive(leaf, num_samples=3)(jax.random.key(0))
    log_likelihood(leaf, {"theta": jnp.ones(3)})


def test_the_trap_is_a_wrong_posterior():
    """Gamma(a, b + S/2) without log Z, and Gamma(a + n/2, b + S/2) with it."""
    grid = jnp.linspace(1e-3, 12.0, 20_001)
    half = 0.5 * jnp.sum(X**2)

    def posterior_mean(energy_at, **kwargs):
        def log_joint(precision):
            site = ebm.EnergyDistribution(energy_at(precision), (), **kwargs)
            return dist.Gamma(2.0, 1.0).log_prob(precision) + site.log_prob(X).sum()

        return float(jax.nn.softmax(jax.vmap(log_joint)(grid)) @ grid)

    def with_log_z(precision):
        log_z = 0.5 * (LOG_2_PI - jnp.log(precision))
        return ebm.Normalized(Quadratic(precision), log_z)

    right, wrong = dist.Gamma(4.0, 1.0 + half).mean, dist.Gamma(2.0, 1.0 + half).mean
    np.testing.assert_allclose(posterior_mean(with_log_z), right, rtol=1e-4)
    np.testing.assert_allclose(posterior_mean(Quadratic, constant_z=True), wrong, rtol=1e-4)


def test_the_gradient_free_kernel_of_another_library_is_not_seen():
    """What the documentation says about kernels that never differentiate."""
    MCMC(SA(leaf), num_warmup=2, num_samples=2, **QUIET).run(jax.random.key(0))


def test_learned_params_are_fixed_once_they_are_substituted():
    with pytest.raises(ebm.UnnormalizedError, match=r"`net\$params`"):
        MCMC(ebm.MALA(learned_weights), num_warmup=1, num_samples=1).run(jax.random.key(0))
    mcmc = MCMC(ebm.MALA(substituted), num_warmup=1, num_samples=1, **QUIET)
    mcmc.run(jax.random.key(0))


def test_the_guard_costs_nothing():
    """It leaves nothing behind in compiled code but what was there."""

    def energy(x):
        return jnp.sum(jnp.sin(x) ** 2)

    def flops(function):
        cost = jax.jit(jax.grad(function)).lower(jnp.ones(2)).compile().cost_analysis()
        return cost["flops"], cost["transcendentals"]

    site = ebm.EnergyDistribution(energy, (2,), validate_args=False)
    assert flops(lambda x: -site.log_prob(x)) == flops(energy)
