"""`ExchangeMove`: a proposal of parameters, with auxiliary data in place of their constant."""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.flatten_util import ravel_pytree
from jax.scipy.special import logsumexp

from .._types import Array, Energy, Float, Key, Metric, Point, Scalar
from ..chains import (
    AbstractMove,
    Report,
    log_density,
)
from ..energies import AbstractEnergy
from ._auxiliary import AuxiliaryMove
from ._proposals import AbstractProposal
from ._unknown import Likelihood, UnknownConstants

#: Fields of the state that are kept of each draw.
KEPT = ("exchange_log_ratio", "exchange_log_ratio_half", "aux_accept_prob", "aux_step_size")


#: Auxiliary chains that accept less are still at the data that they started from, and would
#: accept any proposal; as far as possible from the 0.4 to 0.8 that they are tuned for.
_STUCK = 0.1


class ExchangeState(NamedTuple):
    r"""The state of a chain.

    - **position**, **logdensity**: of the unconstrained sites, the latter without the unknown
      constants.
    - **carried**: the auxiliary data of the drift, by site.

    And of the last proposal:

    - **exchange_log_ratio**: the log-likelihood ratio that it was judged by, $\log f(x \mid
      \theta')/f(x \mid \theta)$ plus the estimate of $\log Z(\theta)/Z(\theta')$; and
      **exchange_log_ratio_half**: the same, from chains of half the length.
    - **aux_accept_prob**: the mean acceptance of the auxiliary chains, of the site where it is
      least; NaN for exact draws.
    - **aux_step_size**: the geometric mean of their step sizes.
    """

    position: Point
    logdensity: Scalar
    carried: dict[str, Array] | None
    exchange_log_ratio: Scalar
    exchange_log_ratio_half: Scalar
    aux_accept_prob: Scalar
    aux_step_size: Scalar


class ExchangeInfo(NamedTuple):
    """What a transition reports; `tuning` is that of the auxiliary chains of each site."""

    acceptance_rate: Scalar
    is_divergent: Array
    num_gradients: Array
    tuning: Float[Array, " site"]


class Ratio(NamedTuple):
    r"""What auxiliary data tell of a proposal.

    - **change**: $\log f(x \mid \theta')/f(x \mid \theta)$.
    - **constants**: the estimates of $\log Z(\theta)/Z(\theta')$ after each leg.
    - **carried**: the data for the next drift.
    """

    change: Scalar
    constants: Float[Array, " leg"]
    carried: dict[str, Array] | None
    accept_prob: Scalar
    tuning: Float[Array, " site"]
    n_grad: Scalar


class ExchangeMove(AbstractMove):
    r"""Metropolis with $f(w \mid \theta)/f(w \mid \theta')$ for $Z(\theta)/Z(\theta')$."""

    step_size: float | Scalar
    auxiliary: AuxiliaryMove
    proposal: AbstractProposal
    inverse_mass_matrix: Metric | None = None
    num_sets: int = eqx.field(static=True, default=1)
    #: The step sizes of the auxiliary chains, one per site.
    aux_step_size: Array | float = 0.1
    kept: ClassVar[tuple[str, ...]] = KEPT

    @property
    def is_exact(self) -> bool:
        # Auxiliary chains never quite arrive.
        return False

    def check(self, energy: AbstractEnergy) -> None:
        raise TypeError(
            "`Exchange` moves the parameters of a NumPyro model, and not the points of an "
            "energy: use `ebm.MALA()` or `ebm.NUTS()` here."
        )

    def started(
        self, rng_key: Key, position: Point, energy: UnknownConstants
    ) -> "ExchangeMove":
        steps = jnp.full(len(energy.names), self.aux_step_size, jnp.result_type(float))
        return eqx.tree_at(lambda move: move.aux_step_size, self, steps)

    def init(self, rng_key: Key, position: Point, energy: UnknownConstants) -> ExchangeState:
        carried = None
        if self.proposal.num_carried:
            sites = energy.likelihoods(position)
            carried = self.ratio(rng_key, sites, sites).carried
        zero = jnp.zeros((), jnp.result_type(float))
        told = zero, zero, zero, self._mean_step
        return ExchangeState(position, log_density(energy)(position), carried, *told)

    def refresh(self, state: ExchangeState, energy: Energy) -> ExchangeState:
        return state._replace(logdensity=log_density(energy)(state.position))

    def step(
        self, rng_key: Key, state: ExchangeState, energy: UnknownConstants
    ) -> tuple[ExchangeState, ExchangeInfo]:
        noise_key, aux_key, accept_key = jr.split(rng_key, 3)
        flat, unravel = ravel_pytree(state.position)
        root = self.step_size * self._root(state.position)
        noise = jr.normal(noise_key, flat.shape, flat.dtype)
        drift = self.proposal.drift(state.position, state.carried, energy, root)
        position = unravel(flat + root @ (noise + drift))
        sites, others = energy.likelihoods(position), energy.likelihoods(state.position)
        ratio = self.ratio(aux_key, others, sites)
        back = noise + drift + self.proposal.drift(position, ratio.carried, energy, root)
        new = self._proposed(position, ratio, energy)
        log_accept = new.logdensity - state.logdensity + ratio.constants[-1]
        log_accept += 0.5 * (jnp.sum(noise**2) - jnp.sum(back**2))
        log_accept -= _rounding(new.logdensity, state.logdensity)
        stuck = ratio.accept_prob < _STUCK
        log_accept = jnp.where(stuck, -jnp.inf, log_accept)
        accept_prob = jnp.nan_to_num(jnp.exp(jnp.minimum(0, log_accept)), nan=0)
        accepted = jr.uniform(accept_key, (), accept_prob.dtype) < accept_prob
        kept = state._replace(**{name: getattr(new, name) for name in KEPT})
        state = jax.tree.map(lambda y, x: jnp.where(accepted, y, x), new, kept)
        bad = jnp.isnan(log_accept) | stuck
        return state, ExchangeInfo(accept_prob, bad, self._cost(ratio), ratio.tuning)

    def report(self, info: ExchangeInfo) -> Report:
        tuning = info.acceptance_rate, info.tuning
        return Report(info.acceptance_rate, info.is_divergent, info.num_gradients, tuning)

    def propose(self, rng_key: Key, position: Point) -> Point:
        """A random-walk proposal, without a drift."""
        flat, unravel = ravel_pytree(position)
        noise = jr.normal(rng_key, flat.shape, flat.dtype)
        return unravel(flat + self.step_size * self._root(position) @ noise)

    def ratio(
        self, rng_key: Key, old: dict[str, Likelihood], new: dict[str, Likelihood]
    ) -> Ratio:
        """Auxiliary data drawn at `new` parameters, and seen from the `old` ones."""
        num_carried = self.proposal.num_carried
        steps = jnp.broadcast_to(jnp.asarray(self.aux_step_size), (len(new),))
        pairs = zip(new, jr.split(rng_key, len(new)), steps, strict=True)
        drawn = {
            name: self.auxiliary.draw(key, new[name], old[name], self.num_sets + num_carried, h)
            for name, key, h in pairs
        }
        # Independent sites are one data set; the mean is over whole sets.
        parts = list(drawn.values())
        log_ratio = jnp.stack([one.log_ratio for one in parts]).sum(0)[:, num_carried:]
        carried = {name: one.values[:num_carried] for name, one in drawn.items()}
        return Ratio(
            _of_data(new) - _of_data(old),
            logsumexp(log_ratio, 1) - jnp.log(self.num_sets),
            carried if num_carried else None,
            jnp.nanmin(jnp.stack([one.accept_prob for one in parts])),
            jnp.stack([one.tuning for one in parts]),
            jnp.stack([one.n_grad for one in parts]).sum() * (self.num_sets + num_carried),
        )

    def _proposed(self, position: Point, ratio: Ratio, energy: Energy) -> ExchangeState:
        return ExchangeState(
            position=position,
            logdensity=log_density(energy)(position),
            carried=ratio.carried,
            exchange_log_ratio=ratio.change + ratio.constants[-1],
            exchange_log_ratio_half=ratio.change + ratio.constants[0],
            aux_accept_prob=ratio.accept_prob,
            aux_step_size=self._mean_step,
        )

    def _root(self, position: Point) -> Float[Array, "d d"]:
        metric = self.metric(position)
        return jnp.diag(jnp.sqrt(metric)) if metric.ndim == 1 else jnp.linalg.cholesky(metric)

    def _cost(self, ratio: Ratio) -> Array:
        return jnp.asarray(ratio.n_grad + 2 * self.proposal.num_carried, int)

    @property
    def _mean_step(self) -> Scalar:
        return jnp.exp(jnp.mean(jnp.log(jnp.asarray(self.aux_step_size))))


def _rounding(*log_densities: Scalar) -> Scalar:
    """What a difference of log densities may owe to rounding, if that matters.

    A proposal that is better by no more than this could be accepted far from all data.
    """
    error = jnp.finfo(jnp.result_type(float)).eps * jnp.abs(jnp.stack(log_densities)).sum()
    return jnp.where(error > _COARSE, error, 0)


#: Smaller errors of a log acceptance are ignored.
_COARSE = 0.1


def _of_data(sites: dict[str, Likelihood]) -> Scalar:
    terms = [site.log_density(site.value[None])[0] for site in sites.values()]
    return jnp.stack(terms).sum()
