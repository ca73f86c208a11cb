r"""`check_surrogate`: fresh $\log Z$ at posterior draws, whose weights correct or condemn."""

import math
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import MCMC
from scipy.special import logsumexp

from .._arviz import array_stats
from .._checks import check_count, check_key, user_level
from .._show import Printed, Rows
from .._types import Array, Float, Key, PyTree
from ..energies import has_few_states, is_discrete, is_real
from ..normalizers import AbstractExactMethod, Enumeration
from ._design import region_of
from ._draws import draws_of, thinned
from ._gradient_process import fit_process, independent
from ._normalized_by import normalized_by, quadrature_for
from ._surrogate import SurrogateLogZ


class SurrogateCheck(Printed, eqx.Module):
    r"""What fresh $\log Z$ say about a posterior under a surrogate; prints itself.

    - **log_weights**: of the draws at `indices`, normalised: an average with them is one over
      the exact posterior.
    - **pareto_k**: of the weights [Vehtari et al. 2024]; beyond 0.7 they correct nothing.
    - **ess**: the number of equal weights that carry the same information.
    - **shift**: by how many posterior standard deviations the weights move the mean of each
      unconstrained parameter, by its name; **ratio**: of the standard deviations.
    - **outside**: the share of draws outside of the region that the surrogate was fitted to.
    - **error**: the standard error of the fresh $n\log Z$ over the draws, up to a constant.
    - **method**: how they were computed.
    - **failures**: sentences; empty is good.
    """

    log_weights: Float[np.ndarray, " m"]
    indices: np.ndarray
    pareto_k: float
    ess: float
    shift: dict[str, float]
    ratio: dict[str, float]
    outside: float
    error: float
    method: str
    failures: tuple[str, ...]

    @property
    def weights(self) -> Float[np.ndarray, " m"]:
        """The weights of the draws at `indices`; they sum to one."""
        return np.exp(self.log_weights)

    @property
    def ok(self) -> bool:
        """Whether the weights correct what is left of an error."""
        return not self.failures

    def _parts(self) -> list[str | Rows]:
        rows = [["unconstrained", "shift in sd", "ratio of sd"]]
        for name, shift in self.shift.items():
            rows.append([name, f"{shift:.3f}", f"{self.ratio[name]:.3f}"])
        head = (
            f"fresh log Z by {self.method} at {len(self.indices)} draws: Pareto k "
            f"{self.pareto_k:.2f}, ESS of the weights {self.ess:.0f}, error of n log Z "
            f"{self.error:.2g}"
        )
        verdict = ["NOT ok:", *map("- {}".format, self.failures)] if self.failures else ["ok"]
        return [head, rows, *verdict]


def check_surrogate(
    rng_key: Key,
    posterior: MCMC | PyTree,
    surrogate: SurrogateLogZ,
    *,
    num_data: int | None = None,
    method: AbstractExactMethod | None = None,
    num_draws: int = 1000,
    num_points: int = 64,
) -> SurrogateCheck:
    r"""Compute $\log Z$ anew where the posterior is, and weigh its draws by the difference.

    ```python
    check = ebm.check_surrogate(jax.random.key(1), mcmc, surrogate)
    theta = mcmc.get_samples()["theta"][check.indices]
    mean = check.weights @ theta
    ```

    Draws under the surrogate $\hat A$ are from $p(\theta)\,e^{-\sum_i E_\theta(x_i) - n\hat
    A(\theta)}$; the weights $e^{-n(\log Z - \hat A)}$ make them draws of the posterior. The
    fresh $\log Z$ is exact up to 20 spins and in up to three dimensions. Otherwise, new chains
    at `num_points` of the draws give its gradients, and a Gaussian process the differences at
    all of them, up to a constant, with their error. Weights whose tail is too heavy (Pareto
    $k > 0.7$) condemn the surrogate: fit another one to where the posterior is,
    `ebm.surrogate_log_z(rng_key, family, draws)`.

    **Arguments**

    - `posterior`: an `MCMC` after `run`, whose sites have the names of the parameters, or draws
      of them, stacked along the first axis. If each datum has parameters of its own, a second
      axis counts them.
    - `num_data`: data with the same parameters; by default those of the surrogate's `data`.
    - `method`: an exact method for the fresh $\log Z$.
    - `num_draws`: the most draws that are weighted.
    - `num_points`: of them, those where chains run.

    **Raises** `ValueError` if `num_data` is not known. Warns if the check fails, and says why.
    """
    check_key(rng_key)
    check_count("num_draws", num_draws, 20)
    check_count("num_points", num_points, 8)
    if num_data is None and not surrogate.num_data:
        raise ValueError(
            "`num_data`, the number of data that share the parameters, is needed, because this "
            "surrogate was made without `data`."
        )
    count = surrogate.num_data if num_data is None else num_data
    check_count("num_data", count)
    draws, indices = thinned(draws_of(posterior, surrogate.parameters), num_draws)
    draws, z = _rows(surrogate, draws)
    flat = z.reshape(-1, z.shape[-1])
    exact = _exact_method(surrogate, draws) if method is None else method
    if exact is not None:
        found = _exact(surrogate, exact, flat), 0.0, type(exact).__name__
    else:
        found = (*_by_chains(rng_key, surrogate, flat, num_points), "chains")
    difference, error, name = found
    log_weights = -count * difference.reshape(z.shape[:2]).sum(1)
    outside = float(np.mean(~surrogate.region.contains(flat)))
    error = count * error * math.sqrt(z.shape[1])
    check = _judged(
        surrogate, z.mean(1), log_weights, np.asarray(indices), outside, error, name
    )
    if not check.ok:
        warnings.warn(f"`check_surrogate`: {check}", stacklevel=user_level())
    return check


def _rows(surrogate: SurrogateLogZ, draws: PyTree) -> tuple[PyTree, np.ndarray]:
    """All parameters along one axis, and their vectors, `(draw, datum, d)`."""
    leaves, shapes = jax.tree.leaves(draws), surrogate.parameters.shapes
    lead = {x.shape[: x.ndim - len(s)] for x, s in zip(leaves, shapes, strict=True)}
    if len(lead) != 1 or not 1 <= len(first := next(iter(lead))) <= 2:
        raise ValueError(
            "`posterior` must hold draws along the first axis, and data along a second one at "
            f"most, got {jax.tree.map(jnp.shape, draws)} for parameters of shapes {shapes}."
        )
    rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[len(first) :]), draws)
    z = surrogate.parameters.flatten_all(rows, "posterior")
    return rows, z.reshape(first[0], -1, z.shape[1])


def _exact_method(surrogate: SurrogateLogZ, draws: PyTree) -> AbstractExactMethod | None:
    energy = surrogate(jax.tree.map(lambda x: x[0], draws)).energy
    size = math.prod(surrogate.event_shape)
    if is_discrete(energy):
        return Enumeration() if has_few_states(energy, surrogate.event_shape) else None
    if not is_real(energy.support) or not 1 <= size <= _MOST_DIMENSIONS:
        return None
    return quadrature_for(surrogate.family, draws, surrogate.event_shape)


#: Dimensions of quadrature; one point has one, even if its shape is empty.
_MOST_DIMENSIONS = 3


def _exact(
    surrogate: SurrogateLogZ, method: AbstractExactMethod, z: np.ndarray
) -> Float[np.ndarray, " m"]:
    """Exact less surrogate log Z, up to the level."""
    family, shape = surrogate.chains.family, surrogate.event_shape

    @jax.jit
    def log_z(z: Array) -> Array:
        def one(z: Array) -> Array:
            return normalized_by(family(z), method, event_shape=shape).log_z

        return jax.lax.map(one, z, batch_size=16)

    exact = log_z(jnp.asarray(z, float))
    difference = np.asarray(exact, float) - surrogate.process.values(z)
    if not np.isfinite(difference).all():
        raise ValueError(
            f"log Z by {type(method).__name__} is not finite at "
            f"{np.sum(~np.isfinite(difference))} of {len(z)} draws."
        )
    return difference


def _by_chains(
    rng_key: Key, surrogate: SurrogateLogZ, z: np.ndarray, num_points: int
) -> tuple[np.ndarray, float]:
    """Fresh less surrogate log Z, up to a constant, and the error of the differences."""
    region = region_of(z)
    some = z[np.linspace(0, len(z) - 1, min(num_points, len(z))).round().astype(int)]
    fresh = surrogate.chains.slopes(rng_key, some, None)
    own = jax.vmap(jax.grad(surrogate.process.value))(jnp.asarray(some, float))
    rest = fresh.gradients - np.asarray(own, float)
    process = fit_process(some, rest, independent(fresh.noise), region.center, region.scale)
    errors = process.errors(z, region.center)
    return process.values(z), float(np.sqrt(np.mean(errors**2)))


def _judged(
    surrogate: SurrogateLogZ,
    z: np.ndarray,
    log_weights: np.ndarray,
    indices: np.ndarray,
    outside: float,
    error: float,
    method: str,
) -> SurrogateCheck:
    smoothed, pareto_k = _smoothed(log_weights)
    weights = np.exp(smoothed)
    mean, spread = z.mean(0), z.std(0) + 1e-30
    moved = weights @ z
    shift = (moved - mean) / spread
    ratio = np.sqrt(weights @ (z - moved) ** 2) / spread
    names = surrogate.parameters.labels
    return SurrogateCheck(
        log_weights=smoothed,
        indices=indices,
        pareto_k=pareto_k,
        ess=float(1 / np.sum(weights**2)),
        shift=dict(zip(names, map(float, shift), strict=True)),
        ratio=dict(zip(names, map(float, ratio), strict=True)),
        outside=outside,
        error=error,
        method=method,
        failures=tuple(_failures(pareto_k, outside, error)),
    )


def _smoothed(log_weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Normalised log weights, their tail smoothed, and its Pareto k."""
    if np.ptp(log_weights) < 1e-3:
        return np.full(len(log_weights), -math.log(len(log_weights))), -np.inf
    with np.errstate(all="ignore"):
        # ArviZ takes the negative log weights.
        smoothed, pareto_k = array_stats().psislw(-(log_weights - log_weights.max()))
    smoothed = np.asarray(smoothed, float)
    return smoothed - logsumexp(smoothed), float(pareto_k)


def _failures(pareto_k: float, outside: float, error: float) -> list[str]:
    failures = []
    remedy = (
        "fit another surrogate to where the posterior is, `ebm.surrogate_log_z(rng_key, "
        "family, draws)`, and sample again"
    )
    if not pareto_k <= _MOST_K:
        failures.append(
            f"the weights have a Pareto k of {pareto_k:.2f}, above {_MOST_K:g}: they cannot "
            f"correct the surrogate; {remedy}"
        )
    if outside > _MOST_OUTSIDE:
        failures.append(
            f"{outside:.1%} of the draws lie outside of the region that the surrogate was "
            f"fitted to: {remedy}"
        )
    if error > _MOST_ERROR:
        failures.append(
            f"the fresh n log Z is known to {error:.2g} only, so the weights are mostly noise: "
            "take more `num_points`, or make the surrogate with more `num_samples`"
        )
    return failures


#: Beyond these a surrogate is condemned, or cannot be judged.
_MOST_K, _MOST_OUTSIDE, _MOST_ERROR = 0.7, 0.05, 0.5
