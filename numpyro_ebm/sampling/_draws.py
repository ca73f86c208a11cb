"""Draws, and the health of the chains behind them."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp

from .._show import as_html
from .._types import Array, Float, PyTree
from ..chains import ChainState
from ..energies import LogZ


class AbstractDraws(eqx.Module):
    """Draws of an energy, and whether the chains behind them are healthy."""

    values: eqx.AbstractVar[PyTree]
    accept_prob: eqx.AbstractVar[Float[Array, "*n"]]
    num_steps: eqx.AbstractVar[int]
    is_exact: eqx.AbstractVar[bool]

    @property
    @abc.abstractmethod
    def stuck(self) -> Array:
        """Which chains hardly moved."""

    @property
    def finite(self) -> Array:
        """Which chains drew only finite values."""

        def finite(leaf: Array) -> Array:
            return jnp.isfinite(leaf).all(tuple(range(self.accept_prob.ndim, leaf.ndim)))

        return jnp.stack([finite(leaf) for leaf in jax.tree.leaves(self.values)]).all(0)

    @property
    def ok(self) -> bool:
        """Whether every draw is finite, and no chain is stuck. This does not imply mixing."""
        return bool(jnp.all(self.finite & ~self.stuck))

    def __repr__(self) -> str:
        if self.num_steps == 0:
            return self._what()
        words = {name: f"{value} {name}".lstrip() for name, value in self._health().items()}
        return f"{self._what()}: {', '.join(words.values())}"

    def _repr_html_(self) -> str:
        health = {} if self.num_steps == 0 else self._health()
        return as_html([[["draws", *health], [self._what(), *health.values()]]])

    def _health(self) -> dict[str, str]:
        """What makes draws healthy or not, by its name; unadjusted kernels accept nothing."""
        accepted = {"accepted": f"{float(jnp.mean(self.accept_prob)):.2f}"}
        return {
            **(accepted if self.is_exact else {"unadjusted": ""}),
            "stuck": f"{int(self.stuck.sum())}",
            "not finite": f"{int((~self.finite).sum())}",
        }

    def _what(self) -> str:
        if self.num_steps == 0:
            return f"{self.accept_prob.size} exact draws"
        return f"{self.accept_prob.size} draws, each the end of {self.num_steps} steps"


class SiteDraws(AbstractDraws):
    """Draws of an [`EnergyDistribution`][numpyro_ebm.EnergyDistribution].

    - **values**: `(*sample_shape, *batch_shape, *event_shape)`, each draw exact or the end of
      its own chain.
    - **accept_prob**: the mean acceptance probability of each chain after its warm-up; one for
      an exact draw.
    - **num_steps**: the length of each chain, `0` if draws are exact.
    - **is_exact**: whether the method leaves the distribution of the energy invariant.
    - **is_tuned**: whether a step size was tuned. Kernels of discrete energies have none.
    """

    values: Array
    accept_prob: Float[Array, "*n"]
    num_steps: int = eqx.field(static=True)
    is_exact: bool = eqx.field(static=True, default=True)
    is_tuned: bool = eqx.field(static=True, default=True)

    @property
    def stuck(self) -> Array:
        """Which chains accepted less than one proposal in ten, if the kernel accepts at all.

        Without a step that is tuned for it, fewer than one in all.
        """
        least = 0.1 if self.is_tuned else 1 / max(self.num_steps, 1)
        return ~(self.accept_prob >= least) & self.is_exact


class Draws(AbstractDraws):
    """Draws of an energy by [`sample`][numpyro_ebm.sample], and the health of its chains.

    - **values**: `(chain, draw, *event)`.
    - **accept_prob**: the mean acceptance probability of each chain after its warm-up. For an
      unadjusted kernel, which accepts everything, the value in its `Report`.
    - **num_steps**: the length of each chain.
    - **stats**: statistics of each draw, `(chain, draw)`: `potential_energy`, the energy at the
      draw (with the Jacobian if the support is constrained), `accept_prob`, `diverging` (bool)
      and `n_grad` (int); for a Hamiltonian kernel also `energy`, which includes the momentum;
      for `ParallelTempering` those that `tempering_report` reads, over rungs or pairs of them.
    - **state**: the states of the chains, for `init_state`; `None` for a population.
    - **kernel**: the name of the kernel or population.
    - **is_exact**: whether that leaves the distribution of the energy invariant; an unadjusted
      kernel does not.
    - **is_transformed**: whether chains moved in a different space from the values.
    - **seconds**: how long it took, compilation included.
    - **log_z**: for a population on a path from a normalised reference, a
      [`LogZ`][numpyro_ebm.energies.LogZ] from how the populations differ.
    """

    values: PyTree
    accept_prob: Float[Array, " chain"]
    num_steps: int = eqx.field(static=True)
    stats: dict[str, Array] = eqx.field(default_factory=dict)
    state: ChainState | None = None
    kernel: str = eqx.field(static=True, default="")
    is_exact: bool = eqx.field(static=True, default=True)
    is_transformed: bool = eqx.field(static=True, default=False)
    seconds: float = float("nan")
    log_z: LogZ | None = None

    @property
    def stuck(self) -> Array:
        r"""Which chains hardly moved.

        With 50 draws per chain or more: if in some coordinate (for integers, in all of them)
        $\sum_t (x_{t+1}-x_t)^2 / 2\sigma^2 < 0.25$, where $\sigma$ is the spread of all chains;
        for independent draws the sum is their number. With fewer draws, or only the ends of
        chains: if less than one proposal in ten was accepted; for an unadjusted kernel, if
        more than nine transitions in ten diverged, as far as that is known.
        """
        if self.stats and self.stats["potential_energy"].shape[1] >= ENOUGH_DRAWS:
            return ~(moved(self.values) >= 0.25)
        if self.is_exact:
            return ~(self.accept_prob >= 0.1)
        if "diverging" in self.stats:
            return self.stats["diverging"].mean(1) > 0.9
        return jnp.zeros(self.accept_prob.shape, bool)

    def _what(self) -> str:
        size = self.accept_prob.size
        if not self.stats:
            return super()._what()
        num_draws = self.stats["potential_energy"].shape[1]
        return f"{size} chains of {num_draws} draws"


#: Number of draws from which their steps show whether a chain moves.
ENOUGH_DRAWS = 50


@eqx.filter_jit
def moved(values: PyTree) -> Float[Array, " chain"]:
    """How far each chain moved, in units of independent draws: see `Draws.stuck`."""
    flat = [x.reshape(*x.shape[:2], -1) for x in jax.tree.leaves(values)]
    ways = jnp.concatenate([_ways(x.astype(jnp.result_type(float))) for x in flat], 1)
    discrete = jnp.stack([(x[:, -1] == jnp.floor(x[:, -1])).all() for x in flat]).all()
    return jnp.where(discrete, ways.max(1), ways.min(1))


def _ways(x: Float[Array, "chain draw d"]) -> Float[Array, "chain d"]:
    means = x.mean(1)
    # Robust: one runaway chain must not make the others look stuck.
    low, high = jnp.nanquantile(means, jnp.array([0.25, 0.75]), axis=0)
    within = jnp.nanmedian(((x - means[:, None]) ** 2).mean(1), axis=0)
    variances = within + ((high - low) / _NORMAL_IQR) ** 2
    squares = ((x[:, 1:] - x[:, :-1]) ** 2).sum(1)
    # If nothing moves anywhere, nothing has a spread.
    return jnp.where(variances > 0, squares / (2 * variances), squares)


#: The interquartile range of a standard normal.
_NORMAL_IQR = 1.349
