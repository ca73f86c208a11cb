import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from helpers import assert_moments, count_traces, mixture, network, quadrature
from numpyro.distributions import biject_to, constraints
from numpyro.infer import MCMC

import numpyro_ebm as ebm
from numpyro_ebm.energies import find_reference

ROOT = np.random.default_rng(0).normal(size=(5, 5))
PRECISION = ROOT @ ROOT.T + np.eye(5)
MASK = np.array([True, False, False, True, False])


def test_a_clamped_gaussian_is_its_conditional(x64):
    mean, values = np.arange(5.0), np.array([0.3, np.nan, np.nan, -1.0, np.nan])
    energy = ebm.clamp(ebm.Gaussian(mean, precision_matrix=PRECISION), MASK, values)
    free, fixed = np.flatnonzero(~MASK), np.flatnonzero(MASK)
    inner = PRECISION[np.ix_(free, free)]
    shift = PRECISION[np.ix_(free, fixed)] @ (values - mean)[fixed]
    conditional = ebm.Gaussian(
        mean[free] - np.linalg.solve(inner, shift), precision_matrix=inner
    )
    assert energy.event_shape == (3,)
    for z in jax.random.normal(jax.random.key(0), (4, 3)):
        np.testing.assert_allclose(ebm.score(energy, z), ebm.score(conditional, z), rtol=1e-9)


def test_clamping_goes_there_and_back():
    image = jnp.arange(6.0).reshape(2, 3)
    mask = np.array([[True, False, True], [False, True, False]])
    energy = ebm.clamp(lambda x: jnp.sum(x**2), mask, jnp.where(mask, image, jnp.nan))
    z = energy.free(image)
    assert jnp.array_equal(z, jnp.array([1.0, 3.0, 5.0]))
    assert jnp.array_equal(energy.complete(z), image)
    assert energy(z) == jnp.sum(image**2)


def test_other_values_do_not_recompile():
    gaussian = ebm.Gaussian(np.zeros(5), precision_matrix=PRECISION)
    evaluate, traces = count_traces(lambda energy, z: energy(z))
    evaluate = eqx.filter_jit(evaluate)
    for value in (1.0, 2.0):
        evaluate(ebm.clamp(gaussian, MASK, value), jnp.ones(3))
    assert len(traces) == 1
    many = jax.vmap(lambda v: ebm.clamp(gaussian, MASK, v)(jnp.ones(3)))(jnp.ones((4, 5)))
    assert many.shape == (4,)


TRANSFORMS = {
    "standardize": (
        lambda: ebm.energies.Standardize([1.0, -1.0], [2.0, 0.5]),
        lambda: mixture(),
    ),
    "whiten": (
        lambda: ebm.energies.Whiten([1.0, -1.0], [[2.0, 0.9], [0.9, 0.5]]),
        lambda: mixture(),
    ),
    "positive": (
        lambda: biject_to(constraints.positive),
        lambda: ebm.energies.from_distribution(dist.Gamma(4.0, 2.0).expand([2]).to_event(1)),
    ),
    "unit_interval": (
        lambda: biject_to(constraints.unit_interval),
        lambda: ebm.energies.from_distribution(dist.Beta(2.0, 3.0).expand([2]).to_event(1)),
    ),
}


@pytest.mark.parametrize(("transform", "make"), TRANSFORMS.values(), ids=TRANSFORMS)
def test_a_transformed_energy_keeps_its_normaliser(transform, make, x64):
    energy = ebm.Transformed(make(), transform())
    log_z, mean, variance = quadrature(energy, 30, 1201)
    np.testing.assert_allclose(energy.log_z, log_z, atol=1e-8)
    draws = energy.sample(jax.random.key(0), (400, 100))
    assert_moments(draws, mean, variance)


def test_without_its_log_determinant_it_would_not(x64):
    gamma = ebm.energies.from_distribution(dist.Gamma(4.0, 2.0).expand([2]).to_event(1))
    mutant = ebm.energies.FunctionEnergy(lambda z: gamma(jnp.exp(z)), (2,))
    assert abs(quadrature(mutant, 30, 1201)[0] - gamma.log_z) > 0.1


def test_transformed_shapes_follow_the_transform():
    simplex = biject_to(constraints.simplex)
    energy = ebm.Transformed(
        ebm.energies.from_distribution(dist.Dirichlet(jnp.ones(3))), simplex
    )
    assert energy.event_shape == (2,)
    assert energy(jnp.zeros(2)).shape == ()
    assert ebm.Transformed(network(), simplex).log_z is None


class Regression(eqx.Module):
    network: eqx.nn.MLP

    def __call__(self, y, x):
        return self.network(jnp.append(x, y))


def test_a_conditional_energy_at_one_condition():
    conditional = ebm.ConditionalEnergy(Regression(network()), event_shape=())
    y, x = jnp.array(0.3), jnp.array([1.0])
    energy = conditional.given(x)
    assert energy.event_shape == ()
    assert energy(y) == conditional(y, x) == network()(jnp.array([1.0, 0.3]))
    evaluate, traces = count_traces(lambda x: conditional.given(x)(y))
    evaluate = jax.jit(evaluate)
    assert evaluate(x) != evaluate(2 * x)
    assert len(traces) == 1
    assert ebm.EnergyDistribution(energy + dist.Normal(0, 1)).log_prob(y).shape == ()
    assert repr(energy + dist.Normal(0, 1)) == "Regression(y; x) - log Normal"
    with pytest.raises(TypeError, match=r"`fn` must be a callable `fn\(y, x\)`, got int"):
        ebm.ConditionalEnergy(3)


def test_a_latent_variable_is_summed_out(x64):
    """x given z in {0, 1} is N(3z, 1), and z is Bernoulli(0.3)."""
    logits = jnp.log(jnp.array([0.7, 0.3]))
    joint = ebm.LatentEnergy(lambda x, z: 0.5 * jnp.sum((x - 3 * z) ** 2) - logits[z], (1,))
    marginal = joint.marginal(np.arange(2))
    truth = ebm.GaussianMixture([0.7, 0.3], [[0.0], [3.0]], np.eye(1))
    x = jnp.array([0.4])
    np.testing.assert_allclose(ebm.score(marginal, x), ebm.score(truth, x), rtol=1e-10)
    np.testing.assert_allclose(marginal(x), truth(x) - 0.5 * np.log(2 * np.pi), rtol=1e-10)


def test_a_latent_variable_is_integrated_out_by_a_rule(x64):
    joint = ebm.LatentEnergy(lambda x, z: 0.5 * jnp.sum((x - z) ** 2), (1,))
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    marginal = joint.marginal(nodes, np.log(weights))
    # The rule has N(0, 1) in its weights: x is N(0, 2).
    truth = ebm.Gaussian([0.0], [[2.0]])
    x = jnp.array([1.4])
    np.testing.assert_allclose(ebm.score(marginal, x), ebm.score(truth, x), rtol=1e-9)


@pytest.mark.slow
def test_point_and_latent_variable_are_sampled_together():
    precision = np.array([[1.0, 0.6], [0.6, 2.0]])
    truth = ebm.Gaussian(np.zeros(2), precision_matrix=precision)
    joint = ebm.LatentEnergy(lambda x, z: truth(jnp.append(x, z)), (1,))
    mcmc = MCMC(
        ebm.MALA(potential_fn=joint),
        num_warmup=300,
        num_samples=300,
        num_chains=800,
        chain_method="vectorized",
        progress_bar=False,
    )
    start = {"x": jnp.zeros((800, 1)), "z": jnp.zeros((800, 1))}
    mcmc.run(jax.random.key(0), init_params=start)
    draws = mcmc.get_samples(group_by_chain=True)
    assert_moments(jnp.concatenate([draws["x"], draws["z"]], -1), truth.mean, truth.variance)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ebm.clamp(mixture(), [1, 0], 0.0), TypeError, "`mask` must be boolean"),
        (lambda: ebm.clamp(mixture(), [True] * 3, 0.0), ValueError, "the shape of one point"),
        (lambda: ebm.clamp(mixture(), [True] * 2, 0.0), ValueError, "clamps every coordinate"),
        (
            lambda: ebm.clamp(mixture(), [True, False], np.nan),
            ValueError,
            "must be finite where",
        ),
        (
            lambda: jax.jit(lambda m: ebm.clamp(mixture(), m, 0.0)(jnp.ones(1)))(
                jnp.ones(2, bool)
            ),
            TypeError,
            "`mask` must not be traced",
        ),
        (lambda: ebm.Transformed(mixture(), jnp.exp), TypeError, "must be a NumPyro transform"),
        (
            lambda: ebm.LatentEnergy(lambda x, z: z).marginal(0.0),
            ValueError,
            "`values` must hold one value of z or more",
        ),
        (
            lambda: ebm.LatentEnergy(lambda x, z: z).marginal([0.0, 1.0], [0.0] * 3),
            ValueError,
            "one number for each of the 2 values",
        ),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()


NORMAL = dist.Normal(0, 2.0).expand([5]).to_event(1)
NARROW = dist.Normal(1.0, 0.5).expand([5]).to_event(1)
GAMMA = dist.Gamma(3.0, 1.0).expand([5]).to_event(1)
SCALE = ebm.energies.Standardize(np.arange(5.0), [1.0, 2.0, 3.0, 4.0, 5.0])
RAW = dist.Normal(np.arange(5.0), 2 * np.arange(1.0, 6.0)).to_event(1)
#: Of a Gamma variable, the logarithm.
LOG_GAMMA = dist.TransformedDistribution(GAMMA, dist.transforms.ExpTransform().inv)


def based():
    return ebm.MLPEnergy(5, 8, key=jax.random.key(0))


def waves(x):
    return jnp.sum(jnp.cos(x))


def wavy():
    return ebm.as_energy(waves, (5,)) + NORMAL


#: Views of energies with a density inside, and what that becomes.
REFERENCES = {
    "network": (based, NORMAL),
    "Transformed": (lambda: ebm.Transformed(based(), SCALE), RAW),
    "Transformed twice": (
        lambda: ebm.Transformed(
            ebm.Transformed(based(), dist.transforms.AffineTransform(0.0, 2.0)), SCALE
        ),
        dist.Normal(np.arange(5.0), np.arange(1.0, 6.0)).to_event(1),
    ),
    "Transformed, a support": (
        lambda: ebm.Transformed(ebm.Tilted(waves, GAMMA), dist.transforms.ExpTransform()),
        LOG_GAMMA,
    ),
    "Sum": (wavy, NORMAL),
    "Sum, its own first": (lambda: based() + NARROW, NORMAL),
    "Sum, on one support": (lambda: based() + ebm.Tilted(waves, GAMMA), GAMMA),
    "Transformed sum": (lambda: ebm.Transformed(wavy(), SCALE), RAW),
    "Scaled": (lambda: 0.5 * based(), NORMAL),
    "Scaled sum": (lambda: wavy() / 2, NORMAL),
    "Scaled density": (lambda: 2.0 * ebm.as_energy(NORMAL), NORMAL),
    "Transformed, scaled": (lambda: ebm.Transformed(0.5 * wavy(), SCALE), RAW),
    "Normalized": (lambda: ebm.Normalized(based(), 1.5, 0.1), NORMAL),
    "Mixture": (
        lambda: ebm.Mixture([ebm.Normalized(based(), 1.5), NARROW], [1.0, 3.0]),
        dist.MixtureGeneral(dist.Categorical(jnp.array([0.25, 0.75])), [NORMAL, NARROW]),
    ),
    "frozen": (lambda: ebm.as_energy(ebm.freeze(wavy())), NORMAL),
    "Tilted": (lambda: ebm.Tilted(based(), NARROW), NARROW),
}


@pytest.mark.parametrize(("make", "truth"), REFERENCES.values(), ids=REFERENCES)
def test_the_reference_of_a_view_is_that_of_its_parts_pushed_forward(make, truth):
    """Draws and log-density; of 20,000 draws, means show a bias of .04 standard deviations."""
    reference = find_reference(make())
    draws = reference.sample(jax.random.key(1), (20_000,))
    log_density = -jax.vmap(reference)(draws[:50]) - reference.log_z
    np.testing.assert_allclose(log_density, truth.log_prob(draws[:50]), rtol=1e-4, atol=1e-3)
    others = truth.sample(jax.random.key(2), (20_000,))
    for statistic in (lambda x: x, lambda x: x**2):
        a, b = np.asarray(statistic(draws), float), np.asarray(statistic(others), float)
        z = (a.mean(0) - b.mean(0)) / np.sqrt((a.var(0) + b.var(0)) / len(a))
        assert np.abs(z).max() < 4.5, z


class Half(ebm.AbstractEnergy):
    """On positive points, with a reference on all."""

    reference = ebm.as_energy(NORMAL)
    event_shape = (5,)

    @property
    def support(self):
        return constraints.positive

    def __call__(self, x):
        return jnp.sum(x)


UNREFERENCED = {
    "clamped": lambda: ebm.clamp(based(), [True] + [False] * 4, np.zeros(5)),
    "cut off": lambda: ebm.Transformed(based(), dist.transforms.ExpTransform()),
    # An exponential reaches the support of the sum, and half of the reference's.
    "wider": lambda: ebm.Transformed(Half(), dist.transforms.ExpTransform()),
    "bare": lambda: ebm.Transformed(ebm.as_energy(waves, (5,)), SCALE),
}


@pytest.mark.parametrize("make", UNREFERENCED.values(), ids=UNREFERENCED)
def test_a_view_without_a_known_reference_has_none(make):
    assert find_reference(make()) is None


def test_a_standardized_network_is_normalised_from_its_own_reference():
    """In raw units, where log Z is the same."""
    base = ebm.as_energy(lambda x: 1.5 * jnp.sum((x / 2) ** 2), (5,)) + NORMAL
    log_z = ebm.log_partition(jax.random.key(0), ebm.Transformed(base, SCALE))
    assert log_z.method == "SequentialMonteCarlo"
    assert abs(log_z.estimate + 5 * np.log(2)) < 4 * log_z.std_error < 0.2
