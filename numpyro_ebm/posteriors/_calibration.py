r"""`calibrate_weight`: the scale of a generalised posterior from the data themselves."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.infer.initialization import init_to_median
from numpyro.infer.util import initialize_model

from .._checks import check_key
from .._guard import list_names
from .._types import Array, Float, Key, PyTree, Scalar
from ._losses import Loss
from ._minimum import minimize
from ._unknown import latent_sites
from ._variability import AbstractVariability, Godambe, Problem


class Calibration(eqx.Module):
    r"""What [`calibrate_weight`][numpyro_ebm.calibrate_weight] found.

    - **weight**: $\beta$, for [`loss_factor`][numpyro_ebm.loss_factor].
    - **minimizer**: the parameters that minimise the loss, by site.
    - **covariance**: theirs over repeated data, in flat unconstrained coordinates.
    - **spread**: the eigenvalues of that covariance relative to the one of the weighted
      posterior. They average to one; if they differ, no single weight is right in all
      directions, and `adjust` is needed.
    """

    weight: Scalar
    minimizer: dict[str, Array]
    covariance: Float[Array, "p p"]
    spread: Float[Array, " p"]
    _center: Float[Array, " p"]
    _matrix: Float[Array, "p p"]
    _transforms: dict[str, Any]

    def adjust(self, params: dict[str, Any]) -> dict[str, Any]:
        r"""$\hat\theta + C(\theta-\hat\theta)$, on unconstrained space.

        The curvature adjustment [Ribatet et al. 2012; Shaby 2014]: in the loss, in place of
        $\theta$ and with this `weight`, it gives the posterior the covariance of the estimate
        in all directions. The prior stays that of $\theta$.

        ```python
        def model(x):
            theta = numpyro.sample("theta", dist.Normal(0, 1).expand([2]).to_event())
            energy = make(calibration.adjust({"theta": theta})["theta"])
            ebm.loss_factor("x", objective, energy, x, weight=calibration.weight)
        ```

        - `params`: the values of all sites that the loss depends on.
        """
        if set(params) != set(self._transforms):
            raise ValueError(
                f"`params` must hold the sites {sorted(self._transforms)}, got "
                f"{sorted(params)}."
            )
        free = {name: self._transforms[name].inv(x) for name, x in params.items()}
        flat, unravel = ravel_pytree(free)
        moved = unravel(self._center + self._matrix @ (flat - self._center))
        return {name: self._transforms[name](x) for name, x in moved.items()}

    def __repr__(self) -> str:
        low, high = np.sqrt(np.asarray(self.spread))[[0, -1]]
        text = f"weight {float(self.weight):.4g}"
        if len(self.spread) > 1:
            text += f"; standard deviations come out right within factors {low:.2f}"
            text += f" to {high:.2f}"
        return text


def calibrate_weight(
    rng_key: Key,
    model: Callable[..., Any],
    *args: Any,
    method: AbstractVariability = Godambe(),
    init_params: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Calibration:
    r"""$\beta = p / (n\operatorname{tr} H\Sigma)$: the scale of a generalised posterior.

    Over repeated data, the minimiser of a loss has some covariance $\Sigma$, while the
    posterior under weight $\beta$ has $(\beta n H)^{-1}$, with $H$ the curvature of the mean
    loss at the minimum. With this weight the two agree on average over all directions
    [Pauli et al. 2011; Ribatet et al. 2012]; for one parameter, in which $\beta = H/J$, its
    intervals have their coverage, also if the energy is wrong and whatever the units of data
    and parameters. For several parameters, see `adjust` of the result.

    ```python
    def model(x, weight=1.0):
        precision = numpyro.sample("precision", dist.LogNormal(0, 1))
        energy = ebm.as_energy(lambda x: 0.5 * precision * jnp.sum(x**2))
        ebm.loss_factor("x", ebm.ScoreMatching(), energy, x, weight=weight)


    x = jnp.arange(-3.0, 4)
    calibration = ebm.calibrate_weight(jax.random.key(0), model, x)
    calibration.weight
    ```

    Asymptotic in $n$, for independent rows of data; the prior plays no part. Shown by
    `tests/posteriors/test_calibration.py`: closed forms, units, and coverage.

    **Arguments**

    - `model`: a NumPyro model with one [`loss_factor`][numpyro_ebm.loss_factor].
    - `args`, `kwargs`: its arguments.
    - `method`: [`Godambe`][numpyro_ebm.posteriors.Godambe],
      [`Bootstrap`][numpyro_ebm.posteriors.Bootstrap], or, for a single graph or lattice,
      [`Simulated`][numpyro_ebm.posteriors.Simulated].
    - `init_params`: where the search for the minimum starts, unconstrained, as in `MCMC.run`;
      by default at the median of the prior.

    **Raises** `ValueError` if the model has no loss factor or several, if the loss has no
    minimum or does not determine all sites, or if there are fewer rows than parameters.
    """
    check_key(rng_key)
    start_key, method_key = jr.split(rng_key)
    seeded = handlers.seed(model, start_key)
    info = initialize_model(
        start_key,
        model,
        init_strategy=init_to_median,
        model_args=args,
        model_kwargs=kwargs,
    )
    transforms = _transforms(info.model_trace)
    flat, unravel = ravel_pytree(info.param_info.z if init_params is None else init_params)

    def constrained(z: Array) -> dict[str, Array]:
        return {name: transforms[name](x) for name, x in unravel(z).items()}

    def at(z: Array) -> Loss:
        fixed = handlers.substitute(seeded, data=constrained(z))
        return _one_loss(handlers.trace(fixed).get_trace(*args, **kwargs))

    problem = Problem(at, len(_one_loss(info.model_trace).batch))
    center, slope, curvature = jax.jit(lambda z: _minimum(problem, z))(flat)
    _check_curvature(unravel, curvature)
    covariance = method.covariance(method_key, problem, center, curvature)
    _check_minimum(slope, curvature, covariance)
    total = _one_loss(info.model_trace).sizes.sum()
    weight = flat.size / (total * jnp.trace(curvature @ covariance))
    root = jnp.linalg.cholesky(weight * total * curvature)
    target = jnp.linalg.cholesky(jnp.linalg.inv(covariance))
    return Calibration(
        weight,
        constrained(center),
        covariance,
        jnp.linalg.eigvalsh(root.T @ covariance @ root),
        center,
        jnp.linalg.solve(root.T, target.T),
        transforms,
    )


def _minimum(problem: Problem, start: Array) -> tuple[Array, Array, Array]:
    """The minimiser, and the slope and curvature there."""
    z = minimize(lambda z: problem(z, None), start)
    return z, jax.grad(lambda z: problem(z, None))(z), problem.curvature(z)


def _transforms(trace: dict[str, Any]) -> dict[str, Any]:
    latent = latent_sites(trace)
    return {name: biject_to(site["fn"].support) for name, site in latent.items()}


def _one_loss(trace: dict[str, Any]) -> Loss:
    found = {n: s["infer"]["loss"] for n, s in trace.items() if "loss" in s.get("infer", {})}
    if len(found) != 1:
        names = ", ".join(f"`{name}`" for name in found) or "none"
        raise ValueError(
            "`model` must have one `ebm.loss_factor`, whose weight is calibrated, got "
            f"{names}. Calibrate several one by one, in models of their own."
        )
    return next(iter(found.values()))


def _check_curvature(unravel: Callable[[Array], PyTree], curvature: Array) -> None:
    spectrum, axes = np.linalg.eigh(np.asarray(curvature, float))
    if not np.isfinite(spectrum).all():
        raise ValueError(_NOT_FINITE)
    floor = 10 * np.finfo(np.asarray(curvature).dtype).eps * spectrum[-1]
    if spectrum[0] <= max(floor, 0):
        flat = np.abs(axes[:, 0]) > 0.1
        names = [n for n, x in unravel(jnp.asarray(flat)).items() if np.asarray(x).any()]
        raise ValueError(
            f"The loss does not determine {list_names(set(names))}: it has no curvature in "
            "some direction, so the data tell nothing about the weight there. Leave out or fix "
            "what does not enter the loss."
        )


def _check_minimum(slope: Array, curvature: Array, covariance: Array) -> None:
    spectrum = np.linalg.eigvalsh(np.asarray(covariance, float))
    if not np.isfinite(spectrum).all():
        raise ValueError(_NOT_FINITE)
    if not spectrum[0] > 0:
        raise ValueError(
            "The covariance of the estimate is singular: the data do not vary in some "
            "direction, or are too few."
        )
    moves = np.linalg.solve(np.asarray(curvature, float), np.asarray(slope, float))
    error = np.sqrt(moves @ np.linalg.solve(np.asarray(covariance, float), moves))
    if not error < _CLOSE:
        raise ValueError(
            f"The search for the minimum of the loss ended {error:.2g} standard errors from "
            "it. Start elsewhere by `init_params`, or set `jax_enable_x64`."
        )


_NOT_FINITE = (
    "The loss is not finite near its minimum, or has none: it may fall without end. Start "
    "elsewhere by `init_params`, or take another objective."
)
#: How far the end of the search may be from the minimum, in standard errors.
_CLOSE = 0.05
