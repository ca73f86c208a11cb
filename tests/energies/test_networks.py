import statistics
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from helpers import mixture

import numpyro_ebm as ebm
from numpyro_ebm.energies import ConvNetwork, MLPNetwork, is_real
from numpyro_ebm.energies._networks import (
    _convolve_by_lax,
    _convolve_by_products,
    _norm_bound,
)

KEY = jax.random.key(0)


def conv2d_twin(energy):
    """The same network, built from `eqx.nn.Conv2d`."""
    convolutions = []
    for kernel, bias, stride in zip(energy.kernels, energy.biases, energy.strides, strict=True):
        size, _, c_in, c_out = kernel.shape
        layer = eqx.nn.Conv2d(c_in, c_out, size, stride, size // 2, key=KEY)
        weights = kernel.transpose(3, 2, 0, 1), bias[:, None, None]
        convolutions.append(eqx.tree_at(lambda c: (c.weight, c.bias), layer, weights))

    def twin(x):
        features = x.reshape(*energy.event_shape[:2], -1).transpose(2, 0, 1)
        for layer in convolutions:
            features = energy.activation(layer(features))
        return energy.head(features.transpose(1, 2, 0).ravel())

    return twin


@pytest.mark.parametrize(
    ("shape", "channels", "kernel_size", "strides"),
    [
        ((8, 8, 1), (4, 5), 3, None),
        ((7, 10, 3), (4, 5), 5, (2, 3)),
        ((9, 6), (4,), 1, (4,)),
    ],
)
def test_convolutions_are_equinoxs(shape, channels, kernel_size, strides):
    energy = ebm.ConvEnergy(shape, channels, kernel_size, strides, reference=None, key=KEY)
    assert energy.event_shape == shape
    batch, direction = jax.random.normal(jax.random.key(1), (2, 3, *shape))

    def look(f):
        """Value, score and curvature, as sampling and score matching need them."""

        def at(x, v):
            return f(x), jax.jvp(jax.grad(f), (x,), (v,))

        return jax.jit(jax.vmap(at))(batch, direction)

    for ours, equinoxs in zip(
        jax.tree.leaves(look(energy)), jax.tree.leaves(look(conv2d_twin(energy))), strict=True
    ):
        np.testing.assert_allclose(ours, equinoxs, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_forms_of_all_platforms_agree(stride):
    image, kernel = jax.random.normal(KEY, (7, 8, 3)), jax.random.normal(KEY, (3, 3, 3, 4))
    products = _convolve_by_products(image, kernel, stride)
    np.testing.assert_allclose(products, _convolve_by_lax(image, kernel, stride), atol=1e-5)


def test_a_cpu_runs_no_convolution():
    energy = ebm.ConvEnergy((8, 8, 1), key=KEY)
    compiled = jax.jit(jax.grad(energy)).lower(jnp.ones((8, 8, 1))).compile().as_text()
    assert " convolution(" not in compiled
    assert "dot(" in compiled or "__onednn" in compiled or "gemm" in compiled


def langevin(energy):
    """60 steps of 64 chains in one scan, written by hand."""

    @jax.jit
    def run(rng_key, x):
        def step(x, key):
            return x - 0.01 * jax.vmap(jax.grad(energy))(x) + 0.1 * jax.random.normal(
                key, x.shape
            ), None

        return jax.lax.scan(step, x, jax.random.split(rng_key, 60))[0]

    return run


def by_hand(energy, convolve):
    """The same network in plain JAX, with a convolution of choice."""

    def twin(x):
        for kernel, bias, stride in zip(
            energy.kernels, energy.biases, energy.strides, strict=True
        ):
            x = jax.nn.silu(convolve(x, kernel, stride) + bias)
        return energy.head.weight[0] @ x.ravel() + energy.head.bias[0]

    return twin


def patches_of(x, size, stride):
    margin = size // 2
    x = jnp.pad(x, ((margin, margin), (margin, margin), (0, 0)))
    height, width = ((n - size) // stride for n in x.shape[:2])
    return [
        x[i : i + height * stride + 1 : stride, j : j + width * stride + 1 : stride]
        for i in range(size)
        for j in range(size)
    ]


def im2col(x, kernel, stride):
    patches = jnp.concatenate(patches_of(x, len(kernel), stride), -1)
    return patches @ kernel.reshape(-1, kernel.shape[-1])


def shifts(x, kernel, stride):
    flat = kernel.reshape(-1, *kernel.shape[2:])
    return sum(p @ k for p, k in zip(patches_of(x, len(kernel), stride), flat, strict=True))


@pytest.mark.slow
@pytest.mark.timing
def test_langevin_on_images_runs_at_the_speed_of_the_fastest_form():
    energy = ebm.ConvEnergy((28, 28, 1), reference=None, key=KEY)
    forms = {
        "ours": energy,
        "im2col": by_hand(energy, im2col),
        "shifts": by_hand(energy, shifts),
        "lax": by_hand(energy, _convolve_by_lax),
        "equinox": conv2d_twin(energy),
    }
    x = jax.random.normal(KEY, (64, 28, 28, 1))
    runs = {name: langevin(form) for name, form in forms.items()}
    ends = {name: run(KEY, x) for name, run in runs.items()}
    for end in ends.values():
        np.testing.assert_allclose(end, ends["ours"], atol=1e-4)
    seconds = {name: [] for name in runs}
    for _ in range(7):
        for name, run in runs.items():
            start = time.perf_counter()
            run(KEY, x).block_until_ready()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {name: value / medians["ours"] for name, value in medians.items()}
    print("conv 28x28, 64 chains, 60 steps; times of ours:", ratios)
    assert 1 / min(ratios["im2col"], ratios["shifts"], ratios["lax"]) <= 1.1
    assert ratios["equinox"] >= 5


NETWORKS = {
    "MLPEnergy": (lambda **kwargs: ebm.MLPEnergy((2, 3), 4, 1, key=KEY, **kwargs), MLPNetwork),
    "ConvEnergy": (
        lambda **kwargs: ebm.ConvEnergy((6, 6), (2,), key=KEY, **kwargs),
        ConvNetwork,
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_on_a_reference_is_tilted(name):
    make, bare_class = NETWORKS[name]
    energy, bare = make(), make(reference=None)
    shape = bare.event_shape
    normal = dist.Normal(0.0, 2.0).expand(shape).to_event(len(shape))
    for reference in (2, normal, ebm.energies.from_distribution(normal), ebm.freeze(normal)):
        assert eqx.tree_equal(make(reference=reference), energy)
    assert isinstance(bare, bare_class)
    assert (bare.log_z, bare.reference, bare.sampler) == (None, None, None)
    assert is_real(bare.support)
    assert repr(bare) == name
    assert eqx.tree_equal(energy, ebm.Tilted(bare, normal))
    assert repr(energy) == f"{name} - log Normal"


@pytest.mark.parametrize("name", NETWORKS)
def test_the_support_is_that_of_the_reference(name):
    make, _ = NETWORKS[name]
    shape = make().event_shape
    gamma = dist.Gamma(2.0).expand(shape).to_event(len(shape))
    assert make(reference=gamma).support == gamma.support


@pytest.mark.slow
def test_the_reference_is_on_and_makes_it_proper():
    energy = ebm.MLPEnergy(2, reference=2.0, key=KEY)
    bare = ebm.MLPEnergy(2, reference=None, key=KEY)
    x = jnp.array([0.3, -1.2])
    log_q = dist.Normal(0, 2).log_prob(x).sum()
    np.testing.assert_allclose(energy(x), bare(x) - log_q, rtol=1e-6)
    assert ebm.normalizers.check_integrable(energy).ok
    assert not ebm.normalizers.check_integrable(bare).ok
    tilted = ebm.MLPEnergy(2, reference=mixture(), key=KEY)
    np.testing.assert_allclose(tilted(x), bare(x) + mixture()(x), rtol=1e-6)
    with pytest.raises(ValueError, match="`reference` must be normalised"):
        ebm.MLPEnergy(2, reference=bare, key=KEY)
    with pytest.raises(ValueError, match=r"points of shape \(3,\)"):
        ebm.MLPEnergy(2, reference=ebm.Gaussian(np.zeros(3), np.eye(3)), key=KEY)


@pytest.mark.parametrize(
    "make",
    [
        lambda **kwargs: ebm.MLPEnergy((2, 3), 32, 3, reference=None, key=KEY, **kwargs),
        lambda **kwargs: ebm.ConvEnergy((6, 6), (4, 8), reference=None, key=KEY, **kwargs),
    ],
    ids=["MLPEnergy", "ConvEnergy"],
)
def test_spectral_norm_bounds_every_matrix(make, x64):
    energy = eqx.tree_at(_weights, make(spectral_norm=True), replace_fn=lambda w: 7 * w)
    divided = eqx.tree_at(
        _weights, energy, replace_fn=lambda w: w / np.linalg.norm(_matrix(w), 2)
    )
    x = jax.random.normal(KEY, energy.event_shape)
    # Scaling the weights changes nothing, so the energy is a function of their directions.
    np.testing.assert_allclose(energy(x), divided(x), rtol=1e-9)
    for weight in _weights(energy):
        norm = np.linalg.norm(_matrix(weight), 2)
        assert 1 - 1e-9 <= _norm_bound(_matrix(weight)) / norm < 1.05


def _weights(energy):
    if isinstance(energy, MLPNetwork):
        return [layer.weight for layer in energy.network.layers]
    return [*energy.kernels, energy.head.weight]


def _matrix(weight):
    return weight.reshape(-1, weight.shape[-1])


def test_an_mlp_with_spectral_norm_is_lipschitz():
    energy = ebm.MLPEnergy(
        2, 32, 3, activation=jnp.tanh, spectral_norm=True, reference=None, key=KEY
    )
    energy = eqx.tree_at(_weights, energy, replace_fn=lambda w: 7 * w)
    points = 3 * jax.random.normal(KEY, (500, 2))
    assert jnp.linalg.norm(jax.vmap(jax.grad(energy))(points), axis=1).max() <= 1


def test_what_trains_and_what_does_not():
    energy = ebm.ConvEnergy((4, 4), (2,), key=KEY)
    data = jax.random.normal(KEY, (50, 4, 4))
    estimator = ebm.Estimator(ebm.DenoisingScoreMatching(0.1), optax.adam(1e-2))
    fitted = estimator.run(KEY, 3, energy, data, progress_bar=False).energy
    kernels = energy.energy.kernels, fitted.energy.kernels
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), *kernels)
    assert jax.tree.all(moved)
    assert eqx.tree_equal(energy.reference, fitted.reference)
    frozen = eqx.tree_at(lambda e: e.energy.kernels, energy, replace_fn=ebm.freeze)
    x = data[0]
    assert frozen(x) == energy(x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ebm.ConvEnergy((8,), key=KEY), "`event_shape` must be"),
        (lambda: ebm.ConvEnergy((8, 8), kernel_size=2, key=KEY), "`kernel_size` must be odd"),
        (lambda: ebm.ConvEnergy((8, 8), strides=(1, 1), key=KEY), "each of the 3 convolutions"),
        (lambda: ebm.MLPEnergy(2, reference=-1.0, key=KEY), "`reference` must be positive"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
