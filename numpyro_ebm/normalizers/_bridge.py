"""Bridge sampling, between the target and a proposal or between two targets."""

# Pyright mistakes an `AbstractVar` for a constructor argument.
# pyright: reportCallIssue=false, reportArgumentType=false

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.scipy.special import ndtri

from .._checks import as_floats, check_count
from .._types import Array, Float, Key, Scalar
from ..energies import (
    AbstractEnergy,
    Gaussian,
    LogZ,
    confined,
    is_discrete,
    judged,
    reference_for,
    unconstrained,
)
from ..kernels import NUTS, AbstractKernel, AbstractPopulation, check_exact
from ..sampling import sample
from ._base import BLOCK, AbstractLongMethod, rounding, with_common_checks
from ._reference import check_density, check_same_space


class BridgeSampling(AbstractLongMethod):
    r"""$\log Z = \log\frac{E_q[h e^{-E}]}{E_p[h q]}$, with the $h$ of minimum variance.

    Bridge sampling [[Meng and Wong
    1996](https://www3.stat.sinica.edu.tw/statistica/j6n4/j6n43/j6n43.htm)] uses draws from the
    target $p$ and from a proposal $q$. By default $q$ is a Gaussian fitted to one half of the
    target's draws and bridged to the other half [[Gronau et al.
    2017](https://doi.org/10.1016/j.jmp.2017.09.005)]. The estimate is only as good as the draws
    from the target: chains that do not cross between modes weight them wrongly, and the error
    reflects this only as far as chains differ. `lower` and `upper` are the means of the log
    ratio under $q$ and $p$. Shown by `tests/normalizers/test_estimates.py`.

    **Arguments**

    - `kernel`: draws from the target, as in [`sample`][numpyro_ebm.sample]; it must not be
      biased. If the energy has an exact `sampler`, that is used instead.
    - `proposal`: a NumPyro distribution, or an energy with `log_z` and `sampler`.
    - `num_chains`, `num_warmup`, `num_samples`: of the chains. Use many: the error is estimated
      from how they differ.
    """

    kernel: AbstractKernel | AbstractPopulation = eqx.field(static=True, default=NUTS())
    proposal: Any = None
    num_chains: int = eqx.field(static=True, default=32, kw_only=True)
    num_warmup: int = eqx.field(static=True, default=500, kw_only=True)
    num_samples: int = eqx.field(static=True, default=500, kw_only=True)

    def __check_init__(self) -> None:
        check_density("proposal", self.proposal)
        for name in ("num_chains", "num_samples"):
            check_count(name, getattr(self, name))
        check_count("num_warmup", self.num_warmup, 0)
        if isinstance(self.kernel, AbstractKernel):
            check_exact(self.kernel)
        if self.num_chains < 4:
            raise ValueError(
                f"`num_chains` must be at least 4, got {self.num_chains}: the error is how "
                "chains differ."
            )

    def run(self, rng_key: Key, energy: AbstractEnergy, *, progress_bar: bool) -> LogZ:
        draw_key, proposal_key = jr.split(rng_key)
        is_exact = jnp.asarray(energy.sampler is not None)
        proposal = self.proposal
        if proposal is not None:
            proposal = reference_for(proposal, energy, "proposal")
            check_same_space("proposal", proposal, energy)
        elif is_discrete(energy):
            raise ValueError(
                f"`proposal` is needed: {energy!r} is discrete, and `BridgeSampling` would fit "
                "a Gaussian. `ebm.Enumeration()` and `ebm.SequentialMonteCarlo()` need none."
            )
        draws, health = self._draw(draw_key, energy, progress_bar)
        log_z = bridge_from(proposal_key, energy, draws, proposal)
        log_z = judged(log_z, health)
        return eqx.tree_at(lambda z: z.upper_is_exact, log_z, is_exact)

    def ratio(
        self,
        rng_key: Key,
        energy: AbstractEnergy,
        other: AbstractEnergy,
        *,
        progress_bar: bool = False,
    ) -> LogZ:
        r"""$\log Z - \log Z'$ of two energies that overlap; neither $Z$ needs to be known."""
        check_same_space("other", other, energy)
        key, other_key = jr.split(rng_key)
        draws, health = self._draw(key, energy, progress_bar)
        others, health_there = self._draw(other_key, other, progress_bar)
        log_z, checks = _bridge(energy, other, draws, others)
        either = {text: failed | health_there[text] for text, failed in health.items()}
        return judged(log_z, {**either, **checks})

    def _draw(
        self, rng_key: Key, energy: AbstractEnergy, progress_bar: bool
    ) -> tuple[Float[Array, "c n *event"], dict[str, Array]]:
        """Draws of the target, and checks of the chains that made them."""
        shape = self.num_chains, self.num_samples
        if energy.sampler is not None:
            return as_floats(energy.sample(rng_key, shape)), {_STUCK: jnp.zeros((), bool)}
        draws = sample(
            rng_key,
            energy,
            self.kernel,
            num_chains=shape[0],
            num_warmup=self.num_warmup,
            num_samples=shape[1],
            progress_bar=progress_bar,
        )
        return draws.values, {_STUCK: (draws.stuck | ~draws.finite).any()}


#: Few among many chains, as R-hat may not show.
_STUCK = "a chain of the target hardly moves, or is not finite"


def bridge_from(
    rng_key: Key,
    energy: AbstractEnergy,
    draws: Float[Array, "c n *event"],
    proposal: Any = None,
) -> LogZ:
    """From draws of the target by several chains, to a proposal or a Gaussian like them."""
    if proposal is None:
        energy, draws = _flat(energy, draws)
        proposal, draws = _fitted(draws)
    # Independent draws are chains of length one.
    others = proposal.sample(rng_key, (draws.shape[0] * draws.shape[1], 1))
    log_z = judged(*_bridge(energy, proposal, draws, others))
    moved = [x + proposal.log_z for x in (log_z.estimate, log_z.lower, log_z.upper)]
    return eqx.tree_at(lambda z: (z.estimate, z.lower, z.upper), log_z, tuple(moved))


class _Flat(AbstractEnergy):
    """An energy of arrays as an energy of vectors."""

    energy: AbstractEnergy
    shape: tuple[int, ...] = eqx.field(static=True)

    @property
    def event_shape(self) -> tuple[int]:
        return (int(np.prod(self.shape)),)

    def __call__(self, x: Array) -> Scalar:
        return self.energy(x.reshape(self.shape))


def _flat(energy: AbstractEnergy, draws: Array) -> tuple[AbstractEnergy, Array]:
    """The energy and draws as unconstrained vectors, with the same $Z$."""
    energy, transform = unconstrained(energy)
    draws = draws if transform is None else jnp.asarray(transform.inv(draws))
    return _Flat(energy=energy, shape=draws.shape[2:]), draws.reshape(*draws.shape[:2], -1)


def _fitted(draws: Float[Array, "c n d"]) -> tuple[Gaussian, Float[Array, "c m d"]]:
    """A Gaussian like the first half of each chain, and the second half."""
    half = draws.shape[1] // 2
    first = np.asarray(draws[:, :half], float).reshape(-1, draws.shape[-1])
    covariance = np.atleast_2d(np.cov(first.T))
    ridge = 1e-6 * max(np.trace(covariance) / len(covariance), 1e-12)
    covariance += ridge * np.eye(len(covariance))
    return Gaussian(first.mean(0), covariance_matrix=covariance), draws[:, half:]


@eqx.filter_jit
def _bridge(
    energy: AbstractEnergy, other: AbstractEnergy, draws: Array, others: Array
) -> tuple[LogZ, dict[str, Array]]:
    r"""$\log(Z/Z')$ from chains on both energies, `(chain, draw, *event)`."""
    log_ratio, noise = _log_ratio(energy, other, draws)
    log_ratio_there, _ = _log_ratio(energy, other, others)
    share, share_there = draws.shape[0] * draws.shape[1], others.shape[0] * others.shape[1]
    log_odds = jnp.log(share / share_there)

    def weights(log_z: Scalar) -> tuple[Array, Array]:
        # Of q and of f over s f + s' r q, where f = r p [Meng and Wong 1996].
        here = -jnp.logaddexp(log_odds + log_ratio, log_z)
        there = log_ratio_there - jnp.logaddexp(log_odds + log_ratio_there, log_z)
        return here, there

    def update(carry: tuple[Array, Scalar, Scalar]) -> tuple[Array, Scalar, Scalar]:
        i, log_z, _ = carry
        here, there = weights(log_z)
        return i + 1, _log_mean(there) - _log_mean(here), log_z

    def is_moving(carry: tuple[Array, Scalar, Scalar]) -> Array:
        i, log_z, before = carry
        return (i < _MOST_ROUNDS) & (jnp.abs(log_z - before) > 1e-6)

    start = jnp.zeros((), int), jnp.median(log_ratio), jnp.asarray(jnp.inf)
    _, log_z, _ = jax.lax.while_loop(is_moving, update, start)
    here, there = weights(log_z)
    square, ess, df = _relative_error(here)
    square_there, ess_there, df_there = _relative_error(there)
    total = square + square_there
    result = LogZ(
        log_z,
        jnp.sqrt(total),
        lower=log_ratio_there.mean(),
        upper=log_ratio.mean(),
        ess=jnp.minimum(ess, ess_there),
        # Welch-Satterthwaite degrees of freedom.
        df=total**2 / (square**2 / df + square_there**2 / df_there),
        method="BridgeSampling",
    )
    checks = {
        "target and proposal hardly overlap, the relative error passes one half": total > 0.25,
        "the chains are too short or disagree, their effective size is below 50": ess < 50,
        "chains of the target are in different places, R-hat of the log ratio passes 1.1": (
            _rhat(log_ratio) > 1.1
        ),
    }
    return with_common_checks(result, noise), checks


#: Maximum fixed-point iterations; a handful usually suffices.
_MOST_ROUNDS = 1000


def _log_ratio(
    energy: AbstractEnergy, other: AbstractEnergy, draws: Array
) -> tuple[Float[Array, "c n"], Scalar]:
    points = draws.reshape(-1, *draws.shape[2:])
    energy, other = confined(energy), confined(other)

    def both(x: Array) -> tuple[Scalar, Scalar]:
        return other(x), energy(x)

    values = jax.lax.map(both, points, batch_size=min(BLOCK, len(points)))
    return (values[0] - values[1]).reshape(draws.shape[:2]), rounding(*values)


#: Log ratios closer than this differ by rounding alone.
_EQUAL = 1e-5


def _log_mean(log_values: Array) -> Scalar:
    return jax.nn.logsumexp(log_values) - jnp.log(log_values.size)


def _relative_error(log_values: Float[Array, "c n"]) -> tuple[Scalar, Scalar, Array]:
    """Squared, of the mean of $e^v$, between chains; effective size, degrees of freedom."""
    values = jnp.exp(log_values - _log_mean(log_values))
    num_chains = len(values)
    square = values.mean(1).var(ddof=1) / num_chains
    is_constant = values.var() < 1e-12
    ess = jnp.where(is_constant, values.size, jnp.minimum(values.var() / square, values.size))
    return square, ess, jnp.asarray(num_chains - 1.0)


def _rhat(values: Float[Array, "c n"]) -> Scalar:
    """Rank-normalised R-hat [Vehtari et al. 2021]: the log ratio may have long tails."""
    ordered = jnp.sort(values.ravel())
    # Ties share a rank.
    first, last = (jnp.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    values = ndtri((0.5 * (first + last - 1) + 0.625) / (values.size + 0.25))
    within, between = values.var(1, ddof=1).mean(), values.mean(1).var(ddof=1)
    rhat = jnp.sqrt(1 + between / within)
    return jnp.where(ordered[-1] - ordered[0] < _EQUAL, 1, rhat)
