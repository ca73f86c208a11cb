import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import mixture

import numpyro_ebm as ebm

KEY = jax.random.key(0)
TRANSFORMS = {
    "Standardize": lambda: ebm.energies.Standardize([1.0, -2.0], [3.0, 0.5]),
    "Logit": lambda: ebm.energies.Logit(17, alpha=0.1),
}


@pytest.mark.parametrize("make", TRANSFORMS.values(), ids=TRANSFORMS)
def test_inverse_and_log_determinant(make, x64):
    transform, x = make(), jnp.array([3.0, 11.5])
    y = transform(x)
    np.testing.assert_allclose(transform.inv(y), x, rtol=1e-12)
    jacobian = jax.jacobian(transform)(x)
    log_det = transform.log_abs_det_jacobian(x, y).sum()
    np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], rtol=1e-12)
    leaves, treedef = jax.tree.flatten(transform)
    assert treedef.unflatten(leaves) == transform
    assert transform != object()


def test_standardize_fits_the_data():
    data = np.random.default_rng(0).normal(size=(100, 2)) * [3.0, 0.0] + [5.0, 7.0]
    u = jax.vmap(ebm.energies.Standardize.fit(data))(jnp.asarray(data))
    np.testing.assert_allclose(u.mean(0), [0, 0], atol=1e-5)
    np.testing.assert_allclose(u.std(0), [1, 0], atol=1e-5)


def test_units_do_not_change_densities(x64):
    """log p(x) transforms by the log-determinant, so the mass stays."""
    energy = ebm.Transformed(mixture(), ebm.energies.Standardize([1.0, 2.0], [3.0, 0.5]))
    x = jnp.array([2.0, 2.2])
    u = (x - jnp.array([1.0, 2.0])) / jnp.array([3.0, 0.5])
    np.testing.assert_allclose(-energy(x), -mixture()(u) - np.log(1.5), rtol=1e-12)


def test_bits_per_dimension_of_uniform_pixels_are_their_levels():
    """The logit of uniform pixels is logistic between its margins: exactly log2(n) bits."""
    num_levels, alpha = 16, 0.05
    pixels = ebm.energies.dequantize(
        KEY, np.random.default_rng(0).integers(0, num_levels, (200, 4))
    )
    assert pixels.min() >= 0
    assert pixels.max() < num_levels
    transform = ebm.energies.Logit(num_levels, alpha)

    def uniform(y):
        p = jax.nn.sigmoid(y)
        return -jnp.sum(jnp.log(p * (1 - p) / (1 - 2 * alpha)))

    energy = ebm.Normalized(ebm.Transformed(uniform, transform), 0.0)
    bits = (jax.vmap(energy)(pixels) + energy.log_z) / (4 * jnp.log(2))
    np.testing.assert_allclose(bits, np.log2(num_levels), rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ebm.energies.Standardize(0.0, 0.0), "`scale` must be positive"),
        (lambda: ebm.energies.Logit(0), "`num_levels` must be positive"),
        (lambda: ebm.energies.Logit(alpha=0.5), "`alpha` must lie between 0 and 0.5"),
        (lambda: ebm.energies.dequantize(KEY, [[0.5]]), "must be integers"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
