"""`sgmcmc`: stochastic-gradient Langevin dynamics over the weights of an energy."""

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._checks import as_finite, check_count, check_key, check_positive, user_level
from .._trainable import partition_trainable, unfreeze
from .._types import Array, ArrayLike, Float, Key, PyTree
from ..estimation._batches import as_batch_size
from ..estimation._inputs import check_shapes
from ..kernels import check_exact
from ..objectives import (
    AbstractObjective,
    ContrastiveDivergence,
    FromResampledNoise,
    KernelSteinDiscrepancy,
    Persistent,
    as_float_batch,
)
from ._sgmcmc_run import Problem, as_trainable, run
from ._weight_prior import WeightPrior, check_prior
from ._weights import EnergyDraws, check_trains, flattened


def sgmcmc(
    rng_key: Key,
    objective: AbstractObjective,
    energy: Any,
    data: Any,
    *,
    prior: WeightPrior,
    step_size: float,
    batch_size: int | None = None,
    weight: ArrayLike = 1.0,
    num_chains: int = 4,
    num_warmup: int = 1000,
    num_samples: int = 1000,
    thinning: int = 1,
    progress_bar: bool = True,
) -> EnergyDraws:
    r"""Draws from $p(\theta)\,e^{-\beta n D(\theta)}$ by noisy gradients, BlackJAX's `sgld`.

    $\theta + \eta\,\hat g(\theta) + \sqrt{2\eta}\,z$ with an unbiased $\hat g$ of the gradient
    [Welling and Teh 2011]. With [`ContrastiveDivergence`][numpyro_ebm.ContrastiveDivergence]
    the posterior is that of the likelihood, in any dimension: persistent chains estimate
    $\nabla\log Z = -\mathbb E_\theta[\nabla_\theta E]$ [Murray and Ghahramani 2004]. Restarts
    would bias them, so they must have `reinit=0.0`.

    ```python
    objective = ebm.ContrastiveDivergence(
        ebm.MALA(), 5, ebm.Persistent(1000, reinit=0.0)
    )
    draws = ebm.posteriors.sgmcmc(
        key,
        objective,
        energy,
        data,
        prior=dist.Normal(0, 1),
        step_size=1e-5,
        batch_size=100,
    )
    ```

    **Biased**: no step is rejected. If the posterior has curvature $h$, and the gradient noise
    of variance $V$, the variance is $(1 + \eta V/2)\,/\,h(1 - \eta h/2)$: too large by a share
    of $\tfrac\eta2\mathbb E[\hat g^2]$, which the result has as `excess_variance`. If gradients
    of rows have variance $s^2$, then $V = n^2s^2/b$ in batches of $b$. What it does not see:
    chains of the objective lag behind the weights. More `num_steps` of them show whether that
    matters. Shown by `tests/posteriors/test_sgmcmc.py` against closed forms, and by
    `test_networks.py` against the exact posterior of a network.

    **Arguments**

    - `objective`, `energy`, `data`: what was minimised, and where. Chains start at `energy`,
      which should be trained. With [`MaximumLikelihood`][numpyro_ebm.MaximumLikelihood] the
      posterior is that of the likelihood, too; with another objective it is a generalised one.
    - `prior`: a NumPyro distribution of each weight, such as `dist.Normal(0, 1)`, or a function
      of the name and the shape of an array, which returns one. What is frozen stays fixed.
    - `step_size`: $\eta$, stable below $2/h$, where $h$ is the largest curvature of the
      log-posterior, about $n$ times that of the loss.
    - `batch_size`: rows of each step, drawn with replacement; by default all of them, once. As
      many chains of contrastive divergence move.
    - `weight`: $\beta$, of [`loss_factor`][numpyro_ebm.loss_factor].
    - `num_chains`: chains of weights, each with its own chains of the objective.
    - `num_warmup`: steps before the first draw. If the objective has chains, weights wait for
      the first quarter of it until these have come to the energy.
    - `num_samples`, `thinning`: draws per chain, and steps per draw.

    **Warns** if variances are too large by more than 10 %, or chains of the objective hardly
    move. **Raises** `FloatingPointError` at the first step that is not finite, with its chain;
    `ValueError` if the gradient would be a biased one.
    """
    check_key(rng_key)
    check_unbiased(objective, batch_size)
    check_positive("weight", weight)
    check_positive("step_size", step_size)
    for name, value in (("num_chains", num_chains), ("num_samples", num_samples)):
        check_count(name, value)
    check_count("thinning", thinning)
    check_count("num_warmup", num_warmup, 0)
    flat, rebuild = flattened(energy)
    check_trains(flat)
    as_finite("energy", flat)
    batch = as_float_batch(data)
    check_shapes(as_trainable(energy), batch)
    check_prior(prior, rebuild(flat))
    problem = Problem(
        objective=objective,
        energy=energy,
        data=batch,
        prior=prior,
        weight=jnp.asarray(weight, flat.dtype),
        step_size=jnp.asarray(step_size, flat.dtype),
        batch_size=as_batch_size(batch_size, len(batch)),
        num_warmup=num_warmup,
        num_samples=num_samples,
        thinning=thinning,
    )
    init_key, run_key = jr.split(rng_key)
    states = [_first_state(problem, key) for key in jr.split(init_key, num_chains)]
    records, excess = run(problem, run_key, states, progress_bar)
    _warn(objective, jax.tree.map(np.asarray, records.metrics), excess)
    draw = eqx.filter_vmap(eqx.filter_vmap(lambda z: unfreeze(rebuild(z))))
    return EnergyDraws(draw(records.z), records.metrics, excess)


def _first_state(problem: Problem, rng_key: Key) -> PyTree:
    flat, rebuild = flattened(problem.energy)
    start = as_trainable(rebuild(flat))
    trainable, state = problem.objective.init(rng_key, start, problem.data)
    sizes = [sum(map(jnp.size, _params(tree))) for tree in (start, trainable)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"`{type(problem.objective).__name__}` trains more than the energy, and `prior` "
            "says nothing about it: use `ebm.ContrastiveDivergence(...)`, or "
            "`ebm.ScoreMatching()` for a generalised posterior."
        )
    return state


def _params(tree: Any) -> list:
    return jax.tree.leaves(partition_trainable(tree)[0])


def check_unbiased(objective: Any, batch_size: int | None) -> None:
    """Raise if the objective's gradient is not that of a log-density, or biased in batches."""
    if not isinstance(objective, AbstractObjective):
        raise TypeError(
            "`objective` must be one of this library, such as "
            f"`ebm.ContrastiveDivergence(...)`, got {objective!r:.80}."
        )
    if isinstance(objective, KernelSteinDiscrepancy) and batch_size is not None:
        raise ValueError(
            "`KernelSteinDiscrepancy` compares all pairs of rows, so a batch of them has a "
            "biased gradient: leave `batch_size` out."
        )
    if isinstance(objective, ContrastiveDivergence):
        _check_chains(objective)


def _check_chains(objective: ContrastiveDivergence) -> None:
    start = objective.start
    is_persistent = isinstance(start, Persistent) and start.reinit == 0
    if not (is_persistent or isinstance(start, FromResampledNoise)):
        raise ValueError(
            "`objective` must let its chains come to the energy, or its gradient is biased: "
            "use `start=ebm.Persistent(reinit=0.0)`, or, for a conditional energy, "
            f"`start=ebm.objectives.FromResampledNoise()`, got {start!r:.80}."
        )
    check_exact(objective.kernel)
    if objective.energy_penalty or objective.kl_weight:
        raise ValueError(
            "`energy_penalty` and `kl_weight` of the objective must be zero: with them its "
            "gradient is not that of a log-likelihood."
        )


def _warn(
    objective: AbstractObjective,
    metrics: dict[str, np.ndarray],
    excess: Float[Array, " chain"],
) -> None:
    largest = float(np.max(excess))
    if largest > _MOST_EXCESS:
        warnings.warn(
            f"`sgmcmc`: the step size and the noise of the gradient make variances up to "
            f"{largest:.0%} too large. Use a smaller `step_size`, or a larger `batch_size`.",
            stacklevel=user_level(),
        )
    remark = objective.remark({name: values.mean(0) for name, values in metrics.items()})
    if remark is not None:
        warnings.warn(f"`{type(objective).__name__}`: {remark}", stacklevel=user_level())


#: A run warns if variances are too large by a larger share.
_MOST_EXCESS = 0.1
