"""Networks with defaults that work in practice, on top of a proper density."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
from jax import lax

from .._checks import as_shape, check_count, check_positive, is_count
from .._trainable import unfreeze
from .._types import Array, Float, Key, Scalar, Shape
from ._base import AbstractEnergy
from ._tilted import Tilted


def MLPEnergy(
    event_shape: Shape | int,
    width_size: int = 128,
    depth: int = 2,
    *,
    activation: Callable[[Array], Array] = jax.nn.silu,
    spectral_norm: bool = False,
    reference: Any = 2.0,
    key: Key,
) -> AbstractEnergy:
    r"""$f_\theta(x) - \log q(x)$, where $f_\theta$ is a multilayer perceptron on the flat $x$.

    A function that builds [`Tilted(network, reference)`][numpyro_ebm.Tilted]. The reference
    $q$ makes it a proper density if $f_\theta$ grows more slowly than $-\log q$ falls, and is
    the natural start of annealing; it doesn't train. The default suits data of unit scale: see
    [`Standardize`][numpyro_ebm.energies.Standardize].

    **Arguments**

    - `event_shape`: the shape of one point.
    - `width_size`, `depth`: the size of the hidden layers and their number.
    - `activation`: smooth, because score matching differentiates twice. A `relu` has no
      curvature to learn from.
    - `spectral_norm`: divide each weight matrix by its largest singular value (by a bound
      within a few per cent of it), so that $f_\theta$ is Lipschitz. This slows the divergence
      of contrastive divergence on images, at a cost in expressivity.
    - `reference`: a NumPyro distribution or an energy with a `log_z`; a number for
      independent normals of that scale; `None` for the bare network.
    - `key`: for the weights.
    """
    shape = _as_shape(event_shape)
    check_count("width_size", width_size)
    check_count("depth", depth, 0)
    size = math.prod(shape)
    network = eqx.nn.MLP(size, "scalar", width_size, depth, activation, key=key)
    return _tilted(MLPNetwork(network, shape, spectral_norm), reference)


def ConvEnergy(
    event_shape: Shape,
    channels: Sequence[int] = (16, 32, 32),
    kernel_size: int = 3,
    strides: Sequence[int] | None = None,
    *,
    activation: Callable[[Array], Array] = jax.nn.silu,
    spectral_norm: bool = False,
    reference: Any = 2.0,
    key: Key,
) -> AbstractEnergy:
    r"""$f_\theta(x) - \log q(x)$, where $f_\theta$ is a convolutional network on an image.

    A function that builds [`Tilted(network, reference)`][numpyro_ebm.Tilted]. The network
    consists of convolutions, each followed by `activation`, then one linear layer; no pooling,
    no batch norm. On a CPU a convolution is a sum of matrix products, because XLA runs
    `lax.conv` several times slower inside `lax.scan` than outside
    ([jax#12868](https://github.com/jax-ml/jax/issues/12868)); elsewhere it is `lax.conv`.

    **Arguments**

    - `event_shape`: `(height, width, channels)`, or `(height, width)` for one channel.
    - `channels`: the number of output channels of each convolution.
    - `kernel_size`: odd; edges are padded with zeros.
    - `strides`: one per convolution; by default 1, then 2s.
    - `activation`, `spectral_norm`, `reference`, `key`: see
      [`MLPEnergy`][numpyro_ebm.MLPEnergy]. The spectral norm of a kernel is that of its
      matrix of shape `(channels out, all else)` [Miyato et al. 2018].
    """
    shape = _as_shape(event_shape)
    if len(shape) not in (2, 3):
        raise ValueError(
            f"`event_shape` must be (height, width, channels) or (height, width), got {shape}."
        )
    channels = as_shape("channels", channels)
    check_count("channels", min(channels, default=0))
    check_count("kernel_size", kernel_size)
    if kernel_size % 2 == 0:
        raise ValueError(f"`kernel_size` must be odd, got {kernel_size}.")
    steps = _as_strides(strides, len(channels))
    layers = _conv_layers(shape, channels, kernel_size, steps, key)
    return _tilted(ConvNetwork(*layers, shape, steps, activation, spectral_norm), reference)


class MLPNetwork(AbstractEnergy):
    r"""$f_\theta(x)$, a multilayer perceptron on the flat $x$, built by `MLPEnergy`."""

    network: eqx.nn.MLP
    event_shape: Shape = eqx.field(static=True)
    spectral_norm: bool = eqx.field(static=True)

    def __call__(self, x: Float[Array, "*event"]) -> Scalar:
        network = unfreeze(self.network)
        if self.spectral_norm:
            network = eqx.tree_at(
                lambda n: [layer.weight for layer in n.layers],
                network,
                replace_fn=lambda weight: weight / _norm_bound(weight),
            )
        return network(jnp.ravel(x))

    def _formula(self) -> str:
        return MLPEnergy.__name__


class ConvNetwork(AbstractEnergy):
    r"""$f_\theta(x)$, a convolutional network on an image, built by `ConvEnergy`."""

    kernels: tuple[Float[Array, "k k c_in c_out"], ...]
    biases: tuple[Float[Array, " c_out"], ...]
    head: eqx.nn.Linear
    event_shape: Shape = eqx.field(static=True)
    strides: tuple[int, ...] = eqx.field(static=True)
    activation: Callable[[Array], Array] = eqx.field(static=True)
    spectral_norm: bool = eqx.field(static=True)

    def __call__(self, x: Float[Array, "*event"]) -> Scalar:
        kernels, biases, head = unfreeze((self.kernels, self.biases, self.head))
        if self.spectral_norm:
            kernels = [k / _norm_bound(k.reshape(-1, k.shape[-1])) for k in kernels]
            head = eqx.tree_at(
                lambda h: h.weight, head, replace_fn=lambda w: w / _norm_bound(w)
            )
        features = x.reshape(*self.event_shape[:2], -1)
        for kernel, bias, stride in zip(kernels, biases, self.strides, strict=True):
            features = self.activation(convolve(features, kernel, stride) + bias)
        return head(features.ravel())

    def _formula(self) -> str:
        return ConvEnergy.__name__


def convolve(
    image: Float[Array, "h w c_in"], kernel: Float[Array, "k k c_in c_out"], stride: int
) -> Float[Array, "h_out w_out c_out"]:
    """A zero-padded convolution, in the form that is fast on the current platform."""
    dtype = jnp.result_type(image, kernel)
    image, kernel = image.astype(dtype), kernel.astype(dtype)
    return lax.platform_dependent(
        image,
        kernel,
        cpu=lambda x, k: _convolve_by_products(x, k, stride),
        default=lambda x, k: _convolve_by_lax(x, k, stride),
    )


def _convolve_by_products(image: Array, kernel: Array, stride: int) -> Array:
    size, margin = len(kernel), len(kernel) // 2
    height, width = (stride * ((n - 1) // stride) + 1 for n in image.shape[:2])
    padded = jnp.pad(image, ((margin, margin), (margin, margin), (0, 0)))
    products = [
        padded[i : i + height : stride, j : j + width : stride] @ kernel[i, j]
        for i, j in np.ndindex(size, size)
    ]
    return sum(products[1:], products[0])


def _convolve_by_lax(image: Array, kernel: Array, stride: int) -> Array:
    margin = len(kernel) // 2
    padding = ((margin, margin), (margin, margin))
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        image[None], kernel, (stride, stride), padding, dimension_numbers=numbers
    )[0]


def _conv_layers(
    shape: Shape, channels: Shape, size: int, strides: tuple[int, ...], key: Key
) -> tuple[tuple[Array, ...], tuple[Array, ...], eqx.nn.Linear]:
    """Filters, biases and the linear layer on the image that they leave."""
    height, width, *depth = shape
    *conv_keys, head_key = jr.split(key, len(channels) + 1)
    inputs = [depth[0] if depth else 1, *channels[:-1]]
    layers = [
        _conv_weights(conv_key, size, c_in, c_out)
        for conv_key, c_in, c_out in zip(conv_keys, inputs, channels, strict=True)
    ]
    kernels, biases = zip(*layers, strict=True)
    for stride in strides:
        height, width = -(-height // stride), -(-width // stride)
    head = eqx.nn.Linear(height * width * channels[-1], "scalar", key=head_key)
    return kernels, biases, head


def _conv_weights(key: Key, size: int, c_in: int, c_out: int) -> tuple[Array, Array]:
    # Uniform, scaled by the fan-in, as in `eqx.nn.Conv2d`.
    kernel_key, bias_key = jr.split(key)
    limit = (size * size * c_in) ** -0.5
    kernel = jr.uniform(kernel_key, (size, size, c_in, c_out), minval=-limit, maxval=limit)
    return kernel, jr.uniform(bias_key, (c_out,), minval=-limit, maxval=limit)


def _norm_bound(matrix: Float[Array, "m n"]) -> Scalar:
    r"""$\lVert(A^\top A)^{32}\rVert_F^{1/64} \ge \lVert A\rVert_2$, by the Gram iteration.

    Exceeds the norm by a factor below $n^{1/128}$, without a state to carry or a singular
    vector to differentiate [[Delattre et al. 2023](https://arxiv.org/abs/2305.16173)].
    """
    gram = matrix @ matrix.T if len(matrix) < matrix.shape[1] else matrix.T @ matrix
    log_norm = jnp.zeros(())
    for power in range(6):
        scale = jnp.linalg.norm(gram)
        log_norm += jnp.log(scale) / 2 ** (power + 1)
        gram = (gram / scale) @ (gram / scale)
    return jnp.exp(log_norm)


def _as_shape(event_shape: Shape | int) -> Shape:
    return as_shape("event_shape", (event_shape,) if is_count(event_shape) else event_shape)


def _as_strides(strides: Sequence[int] | None, num_convolutions: int) -> tuple[int, ...]:
    strides = (1, *[2] * (num_convolutions - 1)) if strides is None else tuple(strides)
    if len(strides) != num_convolutions:
        raise ValueError(
            f"`strides` must hold one number for each of the {num_convolutions} convolutions, "
            f"got {len(strides)}."
        )
    return strides


def _tilted(network: AbstractEnergy, reference: Any) -> AbstractEnergy:
    """A network tilting its `reference`; unchanged if there is none."""
    if reference is None:
        return network
    if isinstance(reference, int | float):
        check_positive("reference", reference)
        shape = network.event_shape or ()
        reference = dist.Normal(0.0, reference).expand(shape).to_event(len(shape))
    return Tilted(network, reference)
