"""Fit a flow to an energy, and say how good it is."""

import math
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from numpyro.distributions.transforms import PermuteTransform, Transform

from .._checks import check_count, check_key, check_positive
from .._show import Printed, Rows
from .._types import Array, ArrayLike, EnergyLike, Float, Key, Scalar, Shape
from ..energies import (
    AbstractEnergy,
    Flat,
    LogZ,
    Transformed,
    as_energy,
    energy_named,
    flattened,
    is_discrete,
    judged,
    unconstrained,
)
from ..estimation import Estimator, EstimatorRunResult, decaying_adam
from ..kernels import AbstractKernel
from ..normalizers import ImportanceSampling
from ..objectives import AbstractObjective, ForwardKL, is_reparametrised
from ._build import coupling_flow
from ._choice import kernel_for
from ._density import as_density, check_flow
from ._neck import neck_checks
from ._points import FEWEST, as_given, drawn
from ._two_sided import TwoSidedKL


class Approximation(Printed, eqx.Module):
    r"""A flow $q$ fitted to $p \propto e^{-E}$, and how far it is from it.

    - **density**: $q$ on the points of the energy (for a NumPyro model, on the vector of its
      unconstrained sites): an energy with `log_z` 0 and exact draws, which serves as
      `ImportanceSampling(proposal=...)` and as `reference=` everywhere.
    - **flow**: $q$ in unconstrained space, of the type that was fitted, for `FlowJump`; the
      sites of a model are in alphabetical order here, and in that of the model in `density`.
    - **log_z**: $\log Z$ of the energy by importance sampling from $q$, with its error and
      its checks.
    - **ess**: the effective sample size of these draws, as a fraction of their number:
      $1/(1 + \chi^2(p\,\|\,q))$.
    - **elbo**: $E_q[\log w] = \log Z - KL(q\,\|\,p)$, $w = e^{-E}/q$.
    - **eubo**: $E_p[\log w] = \log Z + KL(p\,\|\,q)$, over the draws of $p$ that the flow was
      not fitted to; a bound if they are right.
    - **missed**: the share of these draws whose weight is larger than that of any draw of $q$:
      above two per cent, $q$ misses part of the target, such as a mode.
    - **losses**: of the fit.
    """

    density: AbstractEnergy
    flow: Any
    log_z: LogZ
    ess: Scalar
    elbo: Scalar
    eubo: Scalar
    missed: Scalar
    losses: np.ndarray

    @property
    def ok(self) -> bool:
        """Whether the weights support an error, and no part of the target is missed."""
        return self.log_z.ok and self.is_covering

    @property
    def is_covering(self) -> bool:
        """Whether hardly any draw of the target lies beyond those of the flow."""
        return bool(self.missed <= _MOST_MISSED)

    def kernel(self, kernel: AbstractKernel) -> AbstractKernel:
        """`kernel` helped by the flow: by jumps to its draws, or in its base space as well.

        [`FlowJump`][numpyro_ebm.flows.FlowJump] if the ESS is a hundredth or more, else with
        [`FlowTransport`][numpyro_ebm.flows.FlowTransport] for the moves between jumps, if the
        flow is a transformed distribution of FlowJAX. Above, jumps mix a cheap energy better
        than transport, whose gradients go through the flow; below, they are rare.
        """
        return kernel_for(self.flow, self.ess, kernel)

    def _parts(self) -> list[str | Rows]:
        low, high = float(self.elbo), float(self.eubo)
        estimate = float(self.log_z.estimate)
        facts: Rows = [
            ["KL(q | p)", "KL(p | q)", "ESS", "missed"],
            [
                f"{estimate - low:.3g}",
                f"{high - estimate:.3g}",
                f"{100 * float(self.ess):.3g} %",
                f"{100 * float(self.missed):.2g} %",
            ],
        ]
        return [repr(self.log_z), facts]


#: The share of draws of the target that may lie beyond all draws of the flow.
_MOST_MISSED = 0.02


def approximate(
    rng_key: Key,
    energy: EnergyLike,
    flow: EnergyLike | None = None,
    *,
    draws: ArrayLike | None = None,
    reference: EnergyLike | None = None,
    event_shape: Shape | None = None,
    num_draws: int = 4096,
    num_steps: int = 1200,
    batch_size: int = 256,
    learning_rate: float = 1e-2,
    num_samples: int = 20_000,
    progress_bar: bool = True,
) -> Approximation:
    r"""Fit a flow to an energy, and measure how far it is from it.

    Draws of the energy come first: its exact ones if it has a `sampler`, else those of
    [`TemperedSMC`][numpyro_ebm.TemperedSMC] from a reference, which finds separate modes in
    their proportions. The flow is fitted to nine in ten of them by $KL(p\,\|\,q)$, maximum
    likelihood, which covers all modes that they show. If its ESS is below .9, a second fit
    also sees the energy, at new draws of its own in each step, by a divergence from
    $KL(q\,\|\,p)$ at first to $KL(p\,\|\,q)$ once their weights allow it; the better one is
    returned. Importance sampling from the flow then gives $\log Z$ with its error, and
    shows what the flow lacks. Biased as a density, exact after weighting. Shown by
    `tests/flows/test_approximate.py`.

    ```python
    wide = dist.Normal(0, 5).expand([2]).to_event(1)
    found = ebm.flows.approximate(jax.random.key(0), energy, reference=wide)
    print(found)
    ebm.flows.FlowJump(ebm.MALA(), found.flow)    # jumps between the modes
    ```

    **Arguments**

    - `energy`: anything [`as_energy`][numpyro_ebm.as_energy] takes, such as the
      [`ModelEnergy`][numpyro_ebm.ModelEnergy] of a NumPyro model.
    - `flow`: what is fitted, a flow of FlowJAX or another density with `log_z` and `sampler`,
      in unconstrained space; by default [`coupling_flow`][numpyro_ebm.flows.coupling_flow]
      with the means and scales of the draws.
    - `draws`: of the energy, one per row, instead of those made here; for a model, of the
      vector of its unconstrained sites.
    - `reference`: where the draws start: wider than the target, on its support; by default the
      energy's own, for a model its prior.
    - `event_shape`: the shape of one point, if the energy doesn't know it.
    - `num_draws`: made here, by four populations.
    - `num_steps`, `batch_size`, `learning_rate`: of each fit. A step of the second takes
      `batch_size` gradients of the energy. A mixture, whose draws have no derivative, is
      fitted once.
    - `num_samples`: draws of the flow that judge it.
    - `progress_bar`: show one for each of the parts that take long.

    **Raises** `ValueError` if the energy is discrete, or needs a reference and has none, or if
    the draws are not finite.
    """
    check_key(rng_key)
    counts = {"num_draws": num_draws, "num_steps": num_steps, "num_samples": num_samples}
    for name, count in counts.items():
        check_count(name, count, FEWEST if name == "num_draws" else 1)
    check_positive("learning_rate", learning_rate)
    flat, _ = flattened(as_energy(energy, event_shape))
    if is_discrete(flat):
        raise ValueError(
            f"A flow has no density on the points of {flat!r}, which are discrete: use "
            "`ebm.SequentialMonteCarlo()`."
        )
    free, transform = _as_chains_move(flat)
    draw_key, flow_key, fit_key, weigh_key = jr.split(rng_key, 4)
    if draws is None:
        points = drawn(draw_key, flat, reference, num_draws, progress_bar)
    else:
        points = as_given(draws, flat)
    points = jnp.asarray(points if transform is None else jax.vmap(transform.inv)(points))
    if flow is None:
        loc, scale = points.mean(0), _scales(points)
        flow = coupling_flow(flow_key, points.shape[1:], loc=loc, scale=scale)
    check_flow(flow, free)
    num_held = len(points) // 10
    held, fitted = points[:num_held], points[num_held:]

    def fit(objective: AbstractObjective) -> Approximation:
        optim = decaying_adam(num_steps, learning_rate, 10)
        result = Estimator(objective, optim).run(
            fit_key,
            num_steps,
            cast(EnergyLike, flow),
            fitted,
            batch_size=min(batch_size, len(fitted)),
            progress_bar=progress_bar,
        )
        return _judge(weigh_key, free, transform, result, held, num_samples)

    found = fit(ForwardKL())
    if (found.ok and found.ess > _ENOUGH) or not is_reparametrised(as_density(flow)):
        return found
    with np.errstate(over="ignore"):  # It may be worse, beyond all bounds.
        return max(found, fit(TwoSidedKL(free)), key=_rank)


#: With this effective sample size, a fit to the draws alone is good enough.
_ENOUGH = 0.9


def _rank(found: Approximation) -> tuple[bool, float]:
    return found.ok, float(jnp.nan_to_num(found.ess))


def _as_chains_move(energy: AbstractEnergy) -> tuple[AbstractEnergy, Transform | None]:
    """`energy` in unconstrained space, its sites in alphabetical order, and the way back."""
    if not isinstance(energy, Flat):
        return unconstrained(energy)
    # As JAX lays out a dict, and so the position of a chain.
    ends = np.cumsum([0, *(math.prod(shape) for _, shape in sorted(energy.shapes))])
    starts = dict(zip(sorted(name for name, _ in energy.shapes), ends, strict=False))
    rows = [starts[name] + np.arange(math.prod(shape)) for name, shape in energy.shapes]
    transform = PermuteTransform(jnp.asarray(np.concatenate(rows)))
    return Transformed(energy, transform, is_onto=True), transform


def _judge(
    rng_key: Key,
    energy: AbstractEnergy,
    transform: Any,
    result: EstimatorRunResult,
    held: Array,
    num_samples: int,
) -> Approximation:
    density = energy_named("flow", result.energy)
    weigh_key, neck_key = jr.split(rng_key)
    log_z = ImportanceSampling(density, num_samples).estimate(weigh_key, energy)
    log_z = judged(log_z, neck_checks(neck_key, energy, density))
    largest, of_held = _log_weights(rng_key, energy, density, held, num_samples)
    on_points = density
    if transform is not None:
        on_points = Transformed(density, transform.inv, is_onto=True)
    return Approximation(
        density=on_points,
        flow=result.energy,
        log_z=log_z,
        ess=log_z.ess / num_samples,
        elbo=log_z.lower,
        eubo=of_held.mean(),
        missed=(of_held > largest).mean(),
        losses=result.losses,
    )


@eqx.filter_jit
def _log_weights(
    rng_key: Key, energy: AbstractEnergy, density: Any, held: Array, num: int
) -> tuple[Scalar, Float[Array, " n"]]:
    """The largest log weight of draws of the density, and those of points held out."""

    def log_weight(x: Array) -> Scalar:
        return density(x) + density.log_z - energy(x)

    draws = density.sample(rng_key, (num,))
    largest = jnp.nanmax(jax.lax.map(log_weight, draws, batch_size=min(_BLOCK, num)))
    return largest, jax.vmap(log_weight)(held)


#: Draws at once.
_BLOCK = 8192


def _scales(points: Array) -> Array:
    scales = points.std(0)
    return jnp.where(scales > 0, scales, 1)
