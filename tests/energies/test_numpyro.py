import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import assert_moments, count_traces, mixture
from numpyro.distributions import constraints
from numpyro.infer import MCMC
from numpyro.infer.util import initialize_model, potential_energy

import numpyro_ebm as ebm

Y = np.array([1.0, 2.0, -0.5])
Z = {"scale": np.array(0.3), "x": np.array([0.4, -1.0])}


def model(y, prior_scale=1.0):
    scale = numpyro.sample("scale", dist.HalfCauchy(prior_scale))
    x = numpyro.sample("x", dist.Normal(0, scale).expand([2]).to_event(1))
    numpyro.deterministic("total", x.sum())
    numpyro.sample("y", dist.Normal(x.sum(), 1.0), obs=y)


def test_it_is_numpyros_potential(x64):
    energy = ebm.ModelEnergy(model, Y, prior_scale=2.0)
    info = initialize_model(
        jax.random.key(0), model, model_args=(Y,), model_kwargs={"prior_scale": 2.0}
    )
    np.testing.assert_allclose(energy(Z), info.potential_fn(Z), rtol=1e-12)
    start = energy.init(jax.random.key(0))
    assert jax.tree.map(jnp.shape, start) == {"scale": (), "x": (2,)}
    sites = energy.constrain(Z)
    np.testing.assert_allclose(sites["scale"], np.exp(0.3), rtol=1e-12)
    np.testing.assert_allclose(sites["total"], -0.6, rtol=1e-12)
    again = energy.unconstrain(sites)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), again, Z)


def expert(scale):
    return 0.5 * (jnp.log(scale) - 1.0) ** 2


def with_factor(y):
    scale = numpyro.sample("scale", dist.HalfCauchy(1.0))
    x = numpyro.sample("x", dist.Normal(0, scale).expand([2]).to_event(1))
    numpyro.sample("y", dist.Normal(x.sum(), 1.0), obs=y)
    numpyro.factor("expert", -expert(scale) - 0.5 * mixture()(x))


def test_experts_on_the_sites_of_a_model_are_factors(x64):
    base = ebm.ModelEnergy(model, Y)
    total = base + ebm.OnSite(expert, "scale", base) + 0.5 * ebm.OnSite(mixture(), "x", base)
    truth = potential_energy(with_factor, (Y,), {}, Z)
    np.testing.assert_allclose(total(Z), truth, rtol=1e-10)
    # The site `x` is unconstrained, so that the name alone says the same.
    short = base + ebm.OnSite(expert, "scale", base) + 0.5 * ebm.OnSite(mixture(), "x")
    np.testing.assert_allclose(short(Z), truth, rtol=1e-10)
    assert repr(total) == ("-log p[model] + expert[scale] + 0.5 * GaussianMixture[x]")


def test_sites_of_their_own_bring_their_jacobian(x64):
    def joint(y):
        scale = numpyro.sample(
            "scale", ebm.EnergyDistribution(expert, (), support=constraints.positive)
        )
        x = numpyro.sample("x", ebm.EnergyDistribution(mixture()))
        numpyro.sample("y", dist.Normal(scale * x.sum(), 1.0), obs=y)

    def likelihood(z):
        mean = jnp.exp(z["scale"]) * z["x"].sum()
        return -dist.Normal(mean, 1.0).log_prob(Y).sum()

    prior = ebm.OnSite(expert, "scale", support=constraints.positive) + ebm.OnSite(
        mixture(), "x"
    )
    total = prior + likelihood
    np.testing.assert_allclose(total(Z), potential_energy(joint, (Y,), {}, Z), rtol=1e-10)
    mutant = ebm.OnSite(expert, "scale") + ebm.OnSite(mixture(), "x") + likelihood
    assert abs(mutant(Z) - total(Z)) > 0.1


def test_a_jacobian_cannot_count_twice_or_be_missing():
    base = ebm.ModelEnergy(model, Y)
    for site in (
        ebm.OnSite(expert, "scale"),
        ebm.OnSite(expert, "scale", support=constraints.positive),
        0.5 * ebm.OnSite(expert, "scale"),
    ):
        with pytest.raises(ValueError, match="Site `scale` is constrained"):
            base + site
    assert ebm.OnSite(mixture(), "x") + ebm.OnSite(mixture(), "x") + base


@pytest.mark.slow
def test_a_sum_with_a_model_is_sampled():
    """Normal prior, normal likelihood, normal expert: precisions 1, 1 and 2 on x."""

    def conjugate(y):
        x = numpyro.sample("x", dist.Normal(0, 1).expand([1]).to_event(1))
        numpyro.sample("y", dist.Normal(x, 1).to_event(1), obs=y)

    base = ebm.ModelEnergy(conjugate, jnp.array([2.0]))
    total = base + ebm.OnSite(ebm.Gaussian([1.0], precision_matrix=[[2.0]]), "x", base)
    mcmc = MCMC(
        ebm.MALA(potential_fn=total),
        num_warmup=300,
        num_samples=300,
        num_chains=800,
        chain_method="vectorized",
        progress_bar=False,
    )
    start = jax.vmap(base.init)(jax.random.split(jax.random.key(0), 800))
    mcmc.run(jax.random.key(1), init_params=start)
    draws = mcmc.get_samples(group_by_chain=True)["x"]
    assert_moments(draws, [(2.0 + 2.0) / 4], [0.25])


def test_new_data_does_not_recompile():
    evaluate, traces = count_traces(lambda energy, z: energy(z))
    evaluate = eqx.filter_jit(evaluate)
    values = [evaluate(ebm.ModelEnergy(model, Y + shift), Z) for shift in (0.0, 1.0)]
    assert values[0] != values[1]
    assert len(traces) == 1
    assert jax.grad(ebm.ModelEnergy(model, Y))(Z)["scale"].shape == ()


def test_supports_are_kept_by_their_energies():
    gamma = ebm.energies.from_distribution(dist.Gamma(3.0, 2.0))
    assert jnp.isinf(gamma(jnp.array(-1.0)))
    assert jnp.isfinite(jax.grad(gamma)(jnp.array(-1.0)))
    np.testing.assert_allclose(gamma(1.5), -dist.Gamma(3.0, 2.0).log_prob(1.5), rtol=1e-6)
    box = ebm.energies.from_distribution(dist.Uniform(0.0, 1.0).expand([2]).to_event(1))
    assert jnp.isinf(box(jnp.array([0.5, 1.5])))
    assert box(jnp.array([0.5, 0.5])) == 0


PROBS = jnp.array([0.2, 0.5, 0.3])
MIXTURE = dist.MixtureSameFamily(
    dist.Categorical(jnp.array([0.2, 0.8])), dist.Normal(jnp.arange(2.0), 0.5)
)


@pytest.mark.parametrize(
    ("distribution", "value"),
    [
        (dist.Categorical(PROBS), 2),
        (dist.Categorical(logits=PROBS).expand([2]).to_event(1), [2, 0]),
        (dist.OrderedLogistic(0.3, jnp.arange(2.0)), 1),
        (MIXTURE, 0.7),
        (dist.Binomial(4, 0.3), 3),
        (dist.Bernoulli(0.3), 1),
    ],
    ids=lambda x: type(x).__name__,
)
def test_values_are_floats_of_any_distribution(distribution, value):
    energy = ebm.as_energy(distribution)
    truth = -distribution.log_prob(jnp.asarray(value))
    np.testing.assert_allclose(energy(jnp.asarray(value, float)), truth, rtol=1e-6)
    np.testing.assert_allclose(energy(jnp.asarray(value)), truth, rtol=1e-6)


def discrete():
    numpyro.sample("k", dist.Poisson(0.5))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ebm.ModelEnergy(discrete), ValueError, "Site `k` is discrete"),
        (
            lambda: ebm.ModelEnergy(model, Y)({"x": jnp.zeros(2)}),
            ValueError,
            r"`scale` is missing among \['x'\]",
        ),
        (lambda: ebm.OnSite(expert, "s")(Z), ValueError, r"no site `s` among \['scale', 'x'\]"),
        (lambda: ebm.OnSite(expert, "s", model), TypeError, "`model` must be a `ModelEnergy`"),
        (
            lambda: ebm.OnSite(
                expert, "s", ebm.ModelEnergy(model, Y), support=constraints.real
            ),
            ValueError,
            "`support` is the model's",
        ),
        (
            lambda: ebm.energies.from_distribution(dist.Normal(jnp.zeros(2))),
            ValueError,
            r"`.to_event\(1\)`",
        ),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()
