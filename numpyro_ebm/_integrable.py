"""Whether an energy falls off fast enough to have a normaliser."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._checks import check_positive
from ._types import Array, Float, Shape
from .energies import AbstractEnergy, as_energy, check_energy


class Integrability(eqx.Module):
    r"""What `check_integrable` saw, which it prints.

    The least energy on a sphere grows by `growth` nats as the radius grows $e$-fold. `ok` says
    whether that is more than `dim`, because $\int r^{d-1} e^{-E(r)}\,dr$ is finite only then.
    `direction` is where the energy is least at `radius`.
    """

    ok: bool
    direction: Float[Array, "*event"]
    growth: float
    dim: int
    radius: float

    def __repr__(self) -> str:
        along = np.array2string(np.asarray(self.direction), precision=3, threshold=8)
        if self.growth == -math.inf:
            what = f"the energy is NaN or falls to minus infinity along {along}"
        else:
            verb = "grows" if self.growth >= 0 else "falls"
            what = (
                f"the least energy {verb} by {abs(self.growth):.4g} nats per e-fold of the "
                f"radius, and must grow by more than {self.dim}; it lies along {along}"
            )
        verdict = "integrable in every direction seen" if self.ok else "NOT integrable"
        return f"{verdict}: at radius {self.radius:.4g}, {what}"


def check_integrable(
    energy: Any,
    event_shape: Shape | None = None,
    *,
    radius: float | None = None,
    num_rays: int = 64,
) -> Integrability:
    r"""Look for a direction in which $e^{-E}$ does not fall off.

    A difference of energies, or a network without a reference, may have no normaliser, and
    then its chains run away: $N(0, 1)$ minus $\alpha N(0, s^2)$ is improper from $\alpha = s^2$
    on. Compares the least energy on two spheres far out. Rays start along the axes and at
    random, and each is turned downhill, so that a narrow way out is found, too. That nothing
    escapes is evidence, not proof.

    ```python
    print(ebm.check_integrable(a - 0.5 * b))
    ```

    **Arguments**

    - `energy`: what [`as_energy`][numpyro_ebm.as_energy] takes.
    - `event_shape`: the shape of one point, if the energy doesn't know it.
    - `radius`: how far out to look, much farther than the data; by default $10^3\sqrt d$.
    - `num_rays`: how many rays at random; with the axes where there are no more than that.
    """
    energy = as_energy(energy, event_shape)
    shape = energy.event_shape if event_shape is None else tuple(event_shape)
    if shape is None:
        raise ValueError("`event_shape` is needed because this energy doesn't know it.")
    check_energy(energy, shape)
    dim = math.prod(shape)
    # Not farther: in float32, x^2 - x^2 is only zero up to 1e-7 x^2.
    radius = 1e3 * math.sqrt(dim) if radius is None else radius
    check_positive("radius", radius)
    rays = _rays(shape, num_rays)
    near, _ = _least(energy, rays, jnp.asarray(0.5 * radius, rays.dtype))
    far, direction = _least(energy, rays, jnp.asarray(radius, rays.dtype))
    growth = math.inf if far == math.inf else float((far - near) / math.log(2))
    growth = -math.inf if math.isnan(growth) else growth
    return Integrability(growth > dim, direction, growth, dim, float(radius))


def _rays(shape: Shape, num_rays: int) -> Float[Array, "n *event"]:
    dim = math.prod(shape)
    rays = np.random.default_rng(0).normal(size=(num_rays, dim))
    if dim <= num_rays:
        rays = np.concatenate([np.eye(dim), -np.eye(dim), rays])
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    return jnp.asarray(rays.reshape(-1, *shape), jnp.result_type(float))


@eqx.filter_jit
def _least(energy: AbstractEnergy, rays: Array, radius: Array) -> tuple[Array, Array]:
    """The least energy on a sphere, and where; NaN counts as minus infinity."""

    def height(u: Array) -> Array:
        value = energy(radius * u)
        return jnp.where(jnp.isnan(value), -jnp.inf, value)

    def turn(carry: tuple, _: None) -> tuple:
        u, low, angle = carry
        slope = jax.grad(energy)(radius * u)
        tangent = slope - jnp.vdot(slope, u) * u
        length = jnp.linalg.norm(tangent)
        tangent = jnp.where(jnp.isfinite(1 / length), tangent / length, 0)
        new = jnp.cos(angle) * u - jnp.sin(angle) * tangent
        new /= jnp.linalg.norm(new)
        high = height(new)
        better = high < low
        u, low = jnp.where(better, new, u), jnp.where(better, high, low)
        return (u, low, jnp.where(better, 1.5, 0.5) * angle), None

    def downhill(ray: Array) -> tuple[Array, Array]:
        start = height(ray), jnp.asarray(0.3, radius.dtype)
        (u, low, _), _ = jax.lax.scan(turn, (ray, *start), length=200)
        return low, u

    lows, directions = jax.vmap(downhill)(rays)
    return jnp.min(lows), directions[jnp.argmin(lows)]
