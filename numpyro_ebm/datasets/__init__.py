"""Small data sets; nothing is downloaded. Those in the plane have known densities."""

from ._images import (
    Split as Split,
    digit_labels as digit_labels,
    digits as digits,
    fashion_mnist as fashion_mnist,
    fashion_mnist_labels as fashion_mnist_labels,
    mnist as mnist,
    mnist_labels as mnist_labels,
)
from ._plane import (
    checkerboard as checkerboard,
    checkerboard_density as checkerboard_density,
    eight_gaussians as eight_gaussians,
    eight_gaussians_density as eight_gaussians_density,
    pinwheel as pinwheel,
    pinwheel_density as pinwheel_density,
    three_rings as three_rings,
    three_rings_density as three_rings_density,
    two_moons as two_moons,
    two_moons_density as two_moons_density,
)
