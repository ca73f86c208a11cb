"""Potts models against enumeration, the Ising model, and closed forms."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC, NUTS

import numpyro_ebm as ebm
from numpyro_ebm.energies import PottsModel

FIELD = np.array([0.1, -0.3, 0.4])
FIELDS = np.random.default_rng(0).normal(size=(2, 4, 3))
MODELS = {
    "ring": lambda: PottsModel((6,), 3, 0.7, FIELD),
    "chain": lambda: PottsModel((7,), 3, -0.4, FIELD, periodic=False),
    "ring of two": lambda: PottsModel((2,), 4, 0.5),
    "one label": lambda: PottsModel((1,), 3, 0.5, FIELD),
    "torus": lambda: PottsModel((3, 3), 3, 0.6, FIELD),
    "tall torus": lambda: PottsModel((4, 2), 3, 0.6, FIELDS.swapaxes(0, 1)),
    "strip of one row": lambda: PottsModel((1, 5), 3, 0.6, FIELD),
    "free lattice": lambda: PottsModel((3, 3), 3, 0.6, FIELD, periodic=False),
    "a field at each place": lambda: PottsModel((2, 4), 3, 0.6, FIELDS, periodic=False),
    "four states": lambda: PottsModel((2, 4), 4, -0.8),
    "graph": lambda: PottsModel((5,), 3, 0.6, FIELD, edges=[(0, 1), (0, 2), (0, 3), (1, 2)]),
}
each_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


@each_model
def test_log_z_and_probabilities_by_enumeration(make, x64):
    potts = make()
    states = ebm.Enumeration().states(potts)
    logits = -jax.vmap(potts)(states)
    np.testing.assert_allclose(potts.log_z, jax.nn.logsumexp(logits), rtol=1e-12)
    probs = jax.nn.softmax(logits)
    is_label = states[..., None] == np.arange(potts.num_states)
    np.testing.assert_allclose(
        potts.probs, jnp.tensordot(probs, is_label.astype(float), 1), atol=1e-12
    )
    mean = jnp.tensordot(probs, states, 1)
    np.testing.assert_allclose(potts.mean, mean, atol=1e-12)
    np.testing.assert_allclose(
        potts.variance, jnp.tensordot(probs, (states - mean) ** 2, 1), atol=1e-12
    )


def test_of_four_by_four_labels(x64):
    """Its 3^16 states are too many to list; the pairs of lines are not."""
    coupling = 0.5
    lines = np.indices((3,) * 4).reshape(4, -1)
    within = (lines == np.roll(lines, -1, 0)).sum(0)
    between = (lines[:, :, None] == lines[:, None]).sum(0)
    transfer = np.exp(coupling * (between + 0.5 * (within[:, None] + within)))
    truth = np.log(np.linalg.matrix_power(transfer, 4).trace())
    np.testing.assert_allclose(PottsModel((4, 4), 3, coupling).log_z, truth, rtol=1e-12)


def test_a_ring_in_closed_form(x64):
    r"""$(e^K + k - 1)^n + (k - 1)(e^K - 1)^n$."""
    n, k, coupling = 200, 5, 1.3
    terms = np.array([np.log(np.exp(coupling) + k - 1), np.log(np.expm1(coupling))]) * n
    truth = np.logaddexp(terms[0], np.log(k - 1) + terms[1])
    np.testing.assert_allclose(PottsModel((n,), k, coupling).log_z, truth, rtol=1e-12)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3), (1, 4), (5,)])
def test_two_states_are_spins(shape, x64):
    """[x = y] is (1 + st)/2."""
    ising, potts = ebm.IsingModel(shape, 0.35), PottsModel(shape, 2, 0.7)
    spins = jr.bernoulli(jr.key(0), shape=shape).astype(float)
    bonds = len(shape) * np.prod(shape)
    np.testing.assert_allclose(potts(spins), ising(2 * spins - 1) - 0.35 * bonds)
    np.testing.assert_allclose(potts.log_z, ising.log_z + 0.35 * bonds)


def test_a_large_lattice_has_no_constant():
    potts = PottsModel((30, 30), 3, 0.5)
    assert potts.log_z is potts.probs is potts.mean is potts.variance is potts.sampler is None
    assert ebm.sample(jr.key(0), potts, ebm.BlockGibbs(), num_samples=2).values.shape[2:] == (
        30,
        30,
    )


def test_opposed_fields_do_not_underflow():
    """The line that decides comes after another that says the opposite, e^200 times."""
    fields = np.zeros((4, 2, 3), np.float32)
    fields[0, :, 0], fields[3, :, 1] = 200.0, 400.0
    potts = PottsModel((4, 2), 3, 150.0, fields, periodic=False)
    same = 10 * 150.0 + np.array([2 * 200.0, 2 * 400.0])
    apart = 8 * 150.0 + 2 * 200.0 + 2 * 400.0
    truth = np.logaddexp.reduce([*same, apart + np.log(3)])
    np.testing.assert_allclose(potts.log_z, truth, rtol=1e-6)


def test_the_likelihood_of_an_image_sums_over_its_labels(x64):
    image = np.array([[0.1, 0.9], [1.1, 0.2]])
    field = dist.Normal(jnp.array([0.0, 1.0, 2.0]), 0.3).log_prob(image[..., None])
    prior = PottsModel((2, 2), 3, 0.4, periodic=False)
    given = PottsModel((2, 2), 3, 0.4, field, periodic=False)
    states = ebm.Enumeration().states(prior)
    likelihood = dist.Normal(states, 0.3).log_prob(image).sum((1, 2))
    truth = jax.nn.logsumexp(likelihood - jax.vmap(prior)(states)) - prior.log_z
    np.testing.assert_allclose(given.log_z - prior.log_z, truth, rtol=1e-12)


@pytest.mark.slow
def test_the_coupling_of_hidden_labels():
    """Eight by five, three labels: NUTS against a grid of the exact likelihood."""
    key, noise_key = jr.split(jr.key(1))
    chain = ebm.sample(
        key, PottsModel((8, 5), 3, 0.8, periodic=False), ebm.BlockGibbs(), num_samples=1
    )
    labels = chain.values[0, 0]
    image = labels + 0.5 * jr.normal(noise_key, labels.shape)
    field = dist.Normal(jnp.arange(3.0), 0.5).log_prob(image[..., None])

    def log_likelihood(coupling):
        given = PottsModel((8, 5), 3, coupling, field, periodic=False)
        return given.log_z - PottsModel((8, 5), 3, coupling, periodic=False).log_z

    def model():
        coupling = numpyro.sample("coupling", dist.HalfNormal(1.0))
        numpyro.factor("image", log_likelihood(coupling))

    mcmc = MCMC(NUTS(model), num_warmup=300, num_samples=1000, progress_bar=False)
    mcmc.run(jr.key(0))
    draws = mcmc.get_samples()["coupling"]
    grid = jnp.linspace(0, 2.5, 251)
    log_posterior = jax.lax.map(log_likelihood, grid) - grid**2 / 2
    weights = jax.nn.softmax(log_posterior)
    mean = weights @ grid
    sd = jnp.sqrt(weights @ (grid - mean) ** 2)
    ess = numpyro.diagnostics.effective_sample_size(np.asarray(draws)[None])
    assert ess > 200
    assert abs(draws.mean() - mean) < 4 * sd / np.sqrt(ess)
    assert abs(draws.std() / sd - 1) < 0.15


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: PottsModel((2, 2, 2), 3, 0.1),
            "one- or two-dimensional lattice, or come with",
        ),
        (lambda: PottsModel((2, 2), 1, 0.1), "`num_states` must be"),
        (lambda: PottsModel((2, 2), 3, 0.1, [0.0, 1.0]), r"of shape \(3,\) or \(2, 2, 3\)"),
        (lambda: PottsModel((2,), 3, 0.1, edges=[(0, 2)]), "indices from 0 to 1, got 0 to 2"),
        (lambda: PottsModel((2,), 3, 0.1, edges=[0, 1]), "pairs of integers"),
        (lambda: PottsModel((2,), 3, np.nan), "`coupling` must be finite"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
