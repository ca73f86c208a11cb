r"""`surrogate_log_z`: $\log Z(\theta)$ of a family of energies, learned once, and smooth."""

import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._checks import (
    as_data,
    as_finite,
    as_floats,
    check_count,
    check_key,
    check_positive,
    user_level,
)
from .._show import Printed, Rows
from .._types import Array, Key, PyTree, Scalar, Shape
from ..energies import LogZ, Normalized, as_energy, check_energy
from ..kernels import (
    AbstractKernel,
    as_sampler,
    check_exact,
    check_free_kernel,
    default_kernel,
)
from ..normalizers import AbstractNormalizer
from ._design import Region, box_region, region_of
from ._gradient_process import GradientProcess
from ._level import level_along, level_by
from ._parameters import Parameters
from ._search import Search
from ._slopes import Chains, Family, Slopes, natural_coordinates, probes


class SurrogateLogZ(Printed, eqx.Module):
    r"""$\log Z(\theta)$ of a family of energies, as a smooth function with its own error.

    ```python
    def model(x):
        theta = numpyro.sample("theta", dist.Normal(0, 1))
        site = ebm.EnergyDistribution(surrogate(theta))
        with numpyro.plate("data", len(x)):
            numpyro.sample("x", site, obs=x)
    ```

    `surrogate(theta)` is the energy at `theta` with its constant. Made by
    [`surrogate_log_z`][numpyro_ebm.surrogate_log_z].

    - **slopes**: the gradients that it was fitted to, and where.
    - **region**: where in unconstrained space it was fitted.
    - **level**: $\log Z$ at the centre of the region; its error is infinite if it is unknown.
    - **num_data**: of the data that it was refined for; zero without.
    - **data_error**: $n$ times its error over the posterior as it sees it, the level aside.
    - **problems**: sentences that say what went wrong; empty is good.
    """

    family: Callable[[Any], Any]
    parameters: Parameters
    event_shape: Shape = eqx.field(static=True)
    process: GradientProcess
    region: Region
    level: LogZ
    chains: Chains
    slopes: Slopes
    num_data: int = eqx.field(static=True)
    data_error: float = eqx.field(static=True)
    problems: tuple[str, ...] = eqx.field(static=True)

    def __call__(self, theta: PyTree) -> Normalized:
        """The energy at `theta`, with its constant."""
        energy = as_energy(self.family(theta), self.event_shape)
        z = self.parameters.flatten(theta)
        error = jnp.hypot(self._error(z), self.level.std_error)
        method, is_relative = "Surrogate", self.level.is_relative
        return Normalized(
            energy, LogZ(self._at(z), error, method=method, is_relative=is_relative)
        )

    def log_z(self, theta: PyTree) -> Scalar:
        r"""$\log Z$ at `theta`; differentiable."""
        return self._at(self.parameters.flatten(theta))

    def std_error(self, theta: PyTree) -> Scalar:
        r"""The standard error of $\log Z$ at `theta`, that of the level included."""
        return jnp.hypot(self.relative_error(theta), self.level.std_error)

    def relative_error(self, theta: PyTree) -> Scalar:
        r"""The standard error of $\log Z(\theta) - \log Z$ at the centre of the region."""
        return self._error(self.parameters.flatten(theta))

    def contains(self, theta: PyTree) -> bool:
        """Whether `theta` lies in the region that the surrogate was fitted to."""
        z = np.asarray(self.parameters.flatten(theta), float)
        return bool(self.region.contains(z[None])[0])

    @property
    def ok(self) -> bool:
        return not self.problems

    def _at(self, z: Array) -> Scalar:
        base = self.process.value(as_floats(self.region.center))
        return self.level.estimate + self.process.value(z) - base

    def _error(self, z: Array) -> Scalar:
        return self.process.traced_error(z, as_floats(self.region.center))

    def _parts(self) -> list[str | Rows]:
        spread = np.sqrt(np.diag(self.region.scale @ self.region.scale.T))
        rows = [["unconstrained", "centre", "spread"]]
        for name, center, width in zip(
            self.parameters.labels, self.region.center, spread, strict=True
        ):
            rows.append([name, f"{center:.4g}", f"{width:.3g}"])
        level = "unknown" if np.isinf(self.level.std_error) else repr(self.level)
        known = f"log Z at the centre: {level}"
        error = [f"n log Z over the posterior +- {self.data_error:.2g} (n = {self.num_data})"]
        head = f"surrogate of log Z, from gradients at {len(self.slopes.points)} points"
        bad = ["NOT ok:", *map("- {}".format, self.problems)] if self.problems else ["ok"]
        return [head, rows, known, *(error if self.num_data else []), *bad]


def surrogate_log_z(
    rng_key: Key,
    family: Callable[[Any], Any],
    theta: PyTree,
    *,
    data: Any = None,
    support: Any = None,
    event_shape: Shape | None = None,
    level: AbstractNormalizer | tuple[PyTree, Any] | None = None,
    kernel: AbstractKernel | None = None,
    num_points: int = 32,
    num_chains: int = 32,
    num_warmup: int = 300,
    num_samples: int = 500,
    max_rounds: int = 8,
    tolerance: float = 0.1,
    progress_bar: bool = True,
) -> SurrogateLogZ:
    r"""Learn $\log Z(\theta)$ of a family of energies, once, for the posterior of $\theta$.

    ```python
    def family(theta):
        return ebm.IsingModel((8, 8), theta["K"], theta["h"])


    low, high = {"K": 0.0, "h": -0.5}, {"K": 0.5, "h": 0.5}
    surrogate = ebm.surrogate_log_z(
        jax.random.key(0), family, (low, high), data=spins
    )
    ```

    Chains at design points give gradients, $\nabla\log Z = -E[\nabla_\theta E_\theta(x)]$, with
    their errors; a Gaussian process with derivative observations [Solak et al. 2003] integrates
    them. Energies that are linear in $\theta$ or in its unconstrained vector share the draws of
    all points [Shirts and Chodera 2008]. With `data`, rounds of points approach the posterior,
    each as closely as the surrogate of the one before can be trusted, and end when $n\log Z$ is
    known to `tolerance` over the posterior. Without, the points fill the box or the prior once.
    Then `ebm.EnergyDistribution(surrogate(theta))` stands in the model, and NUTS runs at full
    speed.

    Asymptotically exact in the number of points and draws; its bias is estimated by
    [`check_surrogate`][numpyro_ebm.check_surrogate], which also corrects it. It must not be
    trusted outside of its region, where its error grows. Shown by
    `tests/posteriors/test_surrogate.py` against enumeration and quadrature.

    **Arguments**

    - `family`: a function from $\theta$, an array or a dict of arrays, to an energy.
    - `theta`: draws from the prior, stacked along a leading axis, or a box `(low, high)`.
    - `data`: points like those of the energy, along the first axis, which are independent draws
      given one $\theta$.
    - `support`: a NumPyro constraint on $\theta$, or a dict of them by name. The surrogate is
      fitted in unconstrained space, where $\log Z$ is closer to a quadratic: positive
      parameters in their logarithm.
    - `event_shape`: the shape of one point, if the energy does not know it.
    - `level`: the posterior needs $\log Z$ up to a constant only. For the evidence, the level
      is computed if it is exact (up to 20 spins, up to three dimensions); otherwise give a
      normaliser, such as `ebm.SequentialMonteCarlo()`, or a pair of one $\theta$ and its
      $\log Z$, from which a path leads to the rest.
    - `kernel`: how points move, by default [`HMC`][numpyro_ebm.HMC], or Gibbs sampling if they
      are discrete. It must leave its target invariant.
    - `num_points`, `num_chains`, `num_warmup`, `num_samples`: points of a round, chains at each
      point, and their transitions.
    - `max_rounds`: the most rounds; `tolerance`: the error of $n\log Z$ that ends them.

    **Raises** `ValueError` if no gradient at a design point is finite, or if shapes do not fit.
    Warns if rounds end before the tolerance is reached, or if chains did not mix.
    """
    check_key(rng_key)
    counts = num_points, num_chains, num_warmup, num_samples, max_rounds
    names = ("num_points", "num_chains", "num_warmup", "num_samples", "max_rounds")
    for name, count, least in zip(names, counts, (4, 4, 0, 1, 1), strict=True):
        check_count(name, count, least)
    check_positive("tolerance", tolerance)
    parameters, prior = _prior(theta, support)
    chains = _chains(family, parameters, prior, event_shape, kernel, counts)
    points = None if data is None else as_data(data)
    if points is not None and points.shape[1:] != chains.event_shape:
        raise ValueError(
            f"`data` must hold points of shape {chains.event_shape} along its first axis, got "
            f"shape {points.shape}."
        )
    search = Search(chains, prior, points, num_points, max_rounds, tolerance)
    slope_key, level_key = jr.split(rng_key)
    found = search.run(slope_key, progress_bar)
    center = found.region.center
    if isinstance(level, tuple):
        first = np.asarray(parameters.flatten(level[0]), float)
        at_center = level_along(level_key, chains, first, center, level[1], num_points)
    else:
        at_center = level_by(
            level_key, chains.family(jnp.asarray(center, float)), level, progress_bar
        )
    result = SurrogateLogZ(
        family,
        parameters,
        chains.event_shape,
        found.process,
        found.region,
        at_center,
        chains,
        found.slopes,
        0 if points is None else len(points),
        found.error,
        found.problems,
    )
    if not result.ok:
        warnings.warn(f"`surrogate_log_z`: {result}", stacklevel=user_level())
    return result


def _prior(theta: Any, support: Any) -> tuple[Parameters, Region]:
    """The map to unconstrained space, and the region of the prior there."""
    if isinstance(theta, tuple):
        if len(theta) != 2:
            raise ValueError(
                f"`theta` must be draws or a box `(low, high)`, got {theta!r:.80}."
            )
        parameters = Parameters(theta[0], support)
        ends = [_as_finite(x) for x in theta]
        low, high = (np.asarray(parameters.flatten(x), float) for x in ends)
        if not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
            raise ValueError(
                "`theta`, a box `(low, high)`, must be finite in unconstrained space, and "
                f"`low` below `high`, got {low} and {high} there."
            )
        return parameters, box_region(low, high)
    parameters = Parameters(jax.tree.map(lambda x: jnp.asarray(x)[0], theta), support)
    z = parameters.flatten_all(theta, "theta")
    if len(z) <= 2 * z.shape[1]:
        raise ValueError(
            f"`theta` must hold more than {2 * z.shape[1]} draws along its first axis, got "
            f"{len(z)}; a box is a tuple `(low, high)`."
        )
    # A prior may have heavy tails.
    inner = np.clip(z, *np.quantile(z, [0.01, 0.99], axis=0))
    return parameters, region_of(inner)


def _as_finite(theta: PyTree) -> PyTree:
    return jax.tree.map(lambda x: as_finite("theta", x), theta)


def _chains(
    family: Callable[[Any], Any],
    parameters: Parameters,
    prior: Region,
    event_shape: Shape | None,
    kernel: AbstractKernel | None,
    counts: tuple[int, ...],
) -> Chains:
    free = Family(family, parameters, event_shape)
    center = jnp.asarray(prior.center, float)
    energy = free(center)
    shape = energy.event_shape
    if shape is None:
        raise ValueError(
            "`event_shape`, the shape of one point, is needed because the energies of this "
            "family do not know it."
        )
    check_energy(energy, shape)
    kernel = default_kernel(energy) if kernel is None else kernel
    check_free_kernel(kernel)
    check_exact(kernel)
    as_sampler(kernel).move.check(energy)
    x = probes(kernel, energy, shape)
    some = prior.points(8, np.random.default_rng(0))
    natural = natural_coordinates(free, parameters.unflatten(center), some, x)
    return Chains(free, natural, kernel, shape, *counts[1:4])
