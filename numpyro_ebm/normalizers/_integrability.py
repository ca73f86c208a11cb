"""Whether a density falls off fast enough to have a normaliser."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._checks import as_shape, check_count, check_positive
from .._types import Array, EnergyLike, Float, Scalar, Shape
from ..energies import AbstractEnergy, as_energy, check_energy, unconstrained
from ._search import downhill, unit, without_nan


class Integrability(eqx.Module):
    r"""The result of `check_integrable`; prints itself.

    - **ok**: whether $e^{-E}$ falls off in every direction tried; `None` if undecided.
    - **direction**: where the energy is least at `radius`, in unconstrained space.
    - **growth**: of the minimum energy on a sphere, in nats per $e$-fold growth of the radius;
      in a valley, plus the logarithm of how much narrower it gets. It must exceed `dim`,
      because only then is $\int r^{d-1} e^{-E(r)}\,dr$ finite.
    - **radius**: how far out the answer was found.
    """

    ok: bool | None
    direction: Float[Array, "*event"]
    growth: float
    dim: int
    radius: float

    def __repr__(self) -> str:
        verdict = "cannot tell whether it is integrable"
        if self.ok is not None:
            verdict = "integrable in every direction seen" if self.ok else "NOT integrable"
        along = np.array2string(np.asarray(self.direction), precision=3, threshold=8)
        if math.isnan(self.growth):
            what = f"the energy is NaN, as along {along}"
        elif self.growth == -math.inf:
            what = f"the energy falls to minus infinity along {along}"
        else:
            verb = "grows" if self.growth >= 0 else "falls"
            what = (
                f"the least energy {verb} by {abs(self.growth):.4g} nats per e-fold of the "
                f"radius, and must grow by more than {self.dim}; it lies along {along}"
            )
        return f"{verdict}: at radius {self.radius:.4g}, {what}"


def check_integrable(
    energy: EnergyLike,
    event_shape: Shape | None = None,
    *,
    radius: float | None = None,
    num_rays: int = 64,
) -> Integrability:
    r"""Look for a direction in which $e^{-E}$ does not fall off.

    A difference of energies, or a network without a reference, may have no normaliser, and then
    its chains diverge: $N(0, 1)$ minus $\alpha N(0, s^2)$ is improper for $\alpha \ge s^2$. The
    check compares the minimum energies on eleven spheres, from `radius` to a million times
    farther, or, for a constrained support, to 58 times farther in unconstrained space. Rays
    start along the axes and at random, and each is turned downhill, which also finds narrow
    escapes. In a valley that narrows, as along the axes of a product of Cauchys, less growth is
    enough. A pass is evidence, not proof.

    ```python
    print(ebm.normalizers.check_integrable(a - 0.5 * b))
    ```

    **Arguments**

    - `energy`: what [`as_energy`][numpyro_ebm.as_energy] takes.
    - `event_shape`: the shape of one point, if the energy does not know it.
    - `radius`: where to begin, farther out than the data; by default $10^3\sqrt d$, or $2\sqrt
      d$ in unconstrained space for a constrained support.
    - `num_rays`: the number of random rays; the axes are added if there are no more than that.
    """
    energy = as_energy(energy, event_shape)
    check_count("num_rays", num_rays)
    free, transform = unconstrained(energy)
    shape = free.event_shape
    if shape is None and event_shape is not None:
        shape = as_shape("event_shape", event_shape)
    if shape is None:
        raise ValueError("`event_shape` is needed because this energy doesn't know it.")
    check_energy(free, shape)
    dim = math.prod(shape)
    # Transforms such as the exponential reach far with small steps.
    near, factor = (1e3, 4.0) if transform is None else (2.0, 1.5)
    near = near * math.sqrt(dim) if radius is None else radius
    check_positive("radius", near)
    radii = float(near) * factor ** np.arange(_NUM_SPHERES)
    found = _descend(free, _rays(shape, num_rays), jnp.asarray(radii))
    lows, directions, is_clear = map(np.asarray, found)
    least = directions[np.arange(_NUM_SPHERES), np.argmin(lows, 1)]
    lows = np.where(is_clear, np.min(lows, 1), np.nan).astype(float)
    noise = np.asarray(_rounding(free, jnp.asarray(least), jnp.asarray(radii)), float)
    ok, sphere, growth = _judge(lows, noise, radii, dim)
    if ok is not True and 1 < dim <= _MOST_DIM:
        valleys = _narrowness(free, jnp.asarray(least), jnp.asarray(radii))
        lows = lows + np.nan_to_num(np.asarray(valleys), posinf=0)
        ok, sphere, growth = _judge(lows, noise, radii, dim)
    return Integrability(ok, jnp.asarray(least[sphere]), growth, dim, float(radii[sphere]))


def _judge(
    lows: np.ndarray, noise: np.ndarray, radii: np.ndarray, dim: int
) -> tuple[bool | None, int, float]:
    """Whether `lows` outgrow the volume, on which sphere this shows, and how fast they grow.

    Yes, if they do from every sphere to the last. The farthest answer counts, because a wide
    energy falls at first.
    """
    logs, last = np.log(radii), len(lows) - 1
    for k in range(last, 2, -1):
        if lows[k] == -np.inf:
            return False, k, -math.inf
        if lows[k] == np.inf:
            return True, k, math.inf
        seen = [j for j in range(k) if np.isfinite(lows[j])]
        if np.isnan(lows[k]) or len(seen) < 3:
            continue
        growth = (lows[k] - lows[seen]) / (logs[k] - logs[seen])
        error = (noise[k] + noise[seen]) / (logs[k] - logs[seen])
        if (growth - error > dim).all():
            return True, k, float(growth[-3])
        is_slow = growth + error < dim
        # Step by step, or in the long run if steps go up and down.
        if is_slow[-3:].all() or is_slow[: max(k - 3, 1)].all():
            return False, k, float(growth[-3])
    return None, last, float((lows[-1] - lows[-4]) / (logs[-1] - logs[-4]))


@eqx.filter_jit
def _rounding(
    energy: AbstractEnergy, directions: Array, radii: Array
) -> Float[Array, " radius"]:
    """The rounding error of an energy: its deviation from a line on a tiny piece of a ray.

    Large if terms cancel: in single precision x^2 - x^2 is zero up to 1e-7 x^2.
    """
    steps = jnp.arange(-3.0, 4.0)

    def one(u: Array, radius: Scalar) -> Scalar:
        values = jax.vmap(lambda step: energy((1 + 2.0**-18 * step) * radius * u))(steps)
        straight = values.mean() + (steps @ values) / (steps @ steps) * steps
        spread = jnp.sqrt(((values - straight) ** 2).sum() / (len(steps) - 2))
        return 4 * spread + jnp.finfo(values.dtype).eps * jnp.abs(values).max()

    return jnp.nan_to_num(jax.vmap(one)(directions, radii), posinf=0)


def _rays(shape: Shape, num_rays: int) -> Float[Array, "n *event"]:
    dim = math.prod(shape)
    rays = np.random.default_rng(0).normal(size=(num_rays, dim))
    if dim <= num_rays:
        rays = np.concatenate([rays, np.eye(dim), -np.eye(dim)])
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    return jnp.asarray(rays.reshape(-1, *shape), jnp.result_type(float))


@eqx.filter_jit
def _descend(energy: AbstractEnergy, rays: Array, radii: Array) -> tuple[Array, Array, Array]:
    """The minimum energies on spheres, and where: from each ray, `(radius, ray)`.

    NaN is skipped; the last array says whether few energies on each sphere were NaN.
    """

    def descend(u: Array, radius: Scalar) -> tuple[Array, Scalar, Array]:
        def turn(u: Array, angle: Scalar) -> Array:
            slope = jax.grad(energy)(radius * u)
            tangent = unit(slope - jnp.vdot(slope, u) * u)
            new = jnp.cos(angle) * u - jnp.sin(angle) * tangent
            return new / jnp.linalg.norm(new)

        height = without_nan(lambda u: energy(radius * u))
        angle = jnp.asarray(0.3, radius.dtype)
        return *downhill(height, turn, u, angle, _NUM_TURNS), jnp.isnan(energy(radius * u))

    def sphere(carry: Array, radius: Scalar) -> tuple[Array, tuple]:
        # From the rays again, and from where the last sphere was lowest.
        starts = jnp.concatenate([rays, carry])
        us, lows, is_nan = jax.vmap(lambda u: descend(u, radius))(starts)
        best = us[jnp.argsort(lows)[: len(carry)]]
        return best, (lows, us, is_nan.mean() < _MOST_NAN)

    _, (lows, directions, is_clear) = jax.lax.scan(sphere, rays[:_NUM_KEPT], radii)
    return lows, directions, is_clear


@eqx.filter_jit
def _narrowness(energy: AbstractEnergy, directions: Array, radii: Array) -> Array:
    r"""$\tfrac12\sum\log(1 + r^2 h_i/2\pi)$ of the curvatures $h_i$ across each direction."""

    def one(u: Array, radius: Scalar) -> Scalar:
        flat = u.ravel()
        curvature = jax.hessian(lambda x: energy(x.reshape(u.shape)))(radius * flat)
        across = jnp.eye(flat.size) - jnp.outer(flat, flat)
        widths = jnp.linalg.eigvalsh(across @ curvature @ across)
        return 0.5 * jnp.log1p(radius**2 * jnp.maximum(widths, 0) / (2 * jnp.pi)).sum()

    return jax.vmap(one)(directions, radii)


#: Spheres, downhill steps on each, and rays carried from one to the next.
_NUM_SPHERES, _NUM_TURNS, _NUM_KEPT = 11, 60, 8
#: The most coordinates for which a Hessian is computed; the largest share of NaN on a sphere.
_MOST_DIM, _MOST_NAN = 128, 0.1
