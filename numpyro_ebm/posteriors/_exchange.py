"""`Exchange`: the posterior of an energy's parameters, by auxiliary data."""

from collections.abc import Callable
from typing import Any

from numpyro.infer.gibbs import GIBBS_SITES_KWARG
from numpyro.infer.initialization import init_to_uniform

from .._checks import check_count, check_probability
from .._guard import unguarded
from .._types import DenseMass, Key, Metric, Point
from ..chains import Adaptation
from ..kernels import AbstractKernel, KernelState, as_sampler, step_adaptation
from ._auxiliary import AuxiliaryMove
from ._exchange_adaptation import ExchangeAdaptation
from ._exchange_move import KEPT, ExchangeMove
from ._proposals import AbstractProposal, RandomWalkProposal
from ._unknown import UnknownConstants, unknown_sites


class Exchange(AbstractKernel):
    r"""The exchange algorithm [Murray, Ghahramani and MacKay 2006], on an unchanged model.

    ```python
    def model(x):
        precision = numpyro.sample("precision", dist.Gamma(2.0, 1.0))
        energy = ebm.as_energy(lambda x: 0.5 * precision * x**2, ())
        with numpyro.plate("n", len(x)):
            numpyro.sample("x", ebm.EnergyDistribution(energy), obs=x)

    mcmc = MCMC(
        ebm.Exchange(model, auxiliary=ebm.MALA()),
        num_warmup=500,
        num_samples=1000,
        num_chains=4,
        chain_method="vectorized",
    )
    ```

    The posterior of an energy's parameters, $p(\theta \mid x) \propto p(\theta)\,f(x \mid
    \theta)/Z(\theta)$ with $f = \prod_i e^{-E_\theta(x_i)}$, has a constant that is unknown.
    A transition proposes $\theta'$, draws auxiliary data $w$, as many as there are, at
    $\theta'$, and accepts with probability

    $$\min\left(1, \frac{p(\theta')\,f(x \mid \theta')}{p(\theta)\,f(x \mid \theta)}
    \frac{f(w \mid \theta)}{f(w \mid \theta')}\right),$$

    in which $Z$ cancels. All latent sites of the model move together, in unconstrained space.
    Those that are far from the energies (a hierarchy, another likelihood, a latent $x$) are
    better given to `numpyro.infer.NUTS` in another block of `numpyro.infer.Gibbs`.

    How exact it is:

    - *Asymptotically exact* if the energy has a `sampler`, whatever the proposal and the number
      of bridges.
    - *Biased* otherwise: chains that start at the data draw $w$ by `num_aux_steps` transitions
      of `auxiliary` (double Metropolis-Hastings [Liang 2010]). The posterior is too wide while
      they are too short; [`exchange_report`][numpyro_ebm.exchange_report] doubles them until
      nothing moves. A proposal is rejected, and counted as `diverging`, if those chains accept
      less than one in ten: still at the data, they would accept anything.
    - *Biased* with `num_aux_sets > 1`, which averages the ratios of several sets (noisy
      exchange [Alquier et al. 2016]): higher acceptance, and a bias that falls with their
      number.

    Shown by `tests/posteriors/test_exchange.py`, against a conjugate posterior, an enumerated
    Ising model, a quartic energy by quadrature, and by tests of Geweke and of simulation-based
    calibration.

    The data may be observed or latent. Discrete energies enter by
    [`factor`][numpyro_ebm.factor] of one value, which is divided by the normaliser of that
    energy alone, as if it knew its `log_z`. Energies may differ from point to point. All chain
    methods work. `potential_energy`, `lp` in ArviZ, leaves out the unknown constants: do not
    compare parameters by it. The state keeps the log-ratio of each proposal
    (`exchange_log_ratio`), the same after half of the transitions (`exchange_log_ratio_half`),
    and the acceptance and step size of the auxiliary chains.

    **Arguments**

    - `model`: a NumPyro model.
    - `auxiliary`: a kernel without a target, for the auxiliary chains. By default MALA for
      real points, and for discrete ones `BlockGibbs` if the energy knows its blocks, else
      `GibbsWithGradients`. Its step size adapts in warm-up; its metric does not. Every second
      transition takes an eighth or a 64th of it, which also moves chains from a tail. If the
      scale of the points varies much over the posterior, use `ebm.AutoMALA()`.
    - `num_aux_steps`: the number of transitions of each auxiliary chain.
    - `num_aux_sets`: the number of sets of auxiliary data whose ratios are averaged.
    - `num_bridges`: the number $K$ of distributions between $\theta'$ and $\theta$ through
      which $w$ is annealed, one transition each: higher acceptance, and as exact as without
      [Murray, Ghahramani and MacKay 2006, section 3.2] if the transitions are reversible, as
      MALA's are.
    - `proposal`: [`RandomWalkProposal()`][numpyro_ebm.posteriors.RandomWalkProposal] or
      [`LangevinProposal()`][numpyro_ebm.posteriors.LangevinProposal].
    - `step_size`, `inverse_mass_matrix`: of the proposals, where adaptation starts.
    - `adapt_step_size`, `adapt_mass_matrix`, `dense_mass`: as in
      [`RandomWalkMetropolis`][numpyro_ebm.RandomWalkMetropolis].
    - `target_accept_prob`: for the proposals; by default that of the proposal, for a random
      walk 0.44 in one dimension and 0.234 in many.
    - `init_strategy`: where the chains start.

    **Raises** `ValueError` without a model, and at the start of a run if no energy of the model
    lacks a normaliser, if a scale or a subsample multiplies one that does, if a latent site is
    discrete or decides which data are masked, or if its parameters are a `numpyro.param`.
    """

    move: ExchangeMove
    adaptation: ExchangeAdaptation

    def __init__(
        self,
        model: Callable[..., Any] | None = None,
        *,
        auxiliary: AbstractKernel | None = None,
        num_aux_steps: int = 100,
        num_aux_sets: int = 1,
        num_bridges: int = 0,
        proposal: AbstractProposal = RandomWalkProposal(),
        step_size: float = 1.0,
        inverse_mass_matrix: Metric | None = None,
        adapt_step_size: bool = True,
        adapt_mass_matrix: bool = True,
        dense_mass: DenseMass = True,
        target_accept_prob: float | None = None,
        init_strategy: Callable[..., Any] = init_to_uniform,
    ) -> None:
        if model is None:
            raise ValueError(
                "`Exchange` needs a `model`: it moves the parameters of energies in it."
            )
        check_count("num_aux_steps", num_aux_steps, 2)
        check_count("num_aux_sets", num_aux_sets)
        check_count("num_bridges", num_bridges, 0)
        inner, adapt_auxiliary, aux_target = None, True, _TARGET
        if auxiliary is not None:
            inner, steps = as_sampler(auxiliary).move, step_adaptation(auxiliary)
            adapt_auxiliary, aux_target = steps.adapt_step_size, steps.target_tuning
        half = num_aux_steps // 2
        move = ExchangeMove(
            step_size=step_size,
            auxiliary=AuxiliaryMove(inner, (half, num_aux_steps - half), num_bridges),
            proposal=proposal,
            inverse_mass_matrix=inverse_mass_matrix,
            num_sets=num_aux_sets,
            aux_step_size=0.1 if inner is None else inner.step_size,
        )
        if target_accept_prob is not None:
            check_probability("target_accept_prob", target_accept_prob)
        metric = Adaptation(False, adapt_mass_matrix, dense_mass, 0.5)
        adaptation = ExchangeAdaptation(
            adapt_step_size, adapt_auxiliary, metric, proposal, target_accept_prob, aux_target
        )
        self._names: tuple[str, ...] | None = None
        super().__init__(model, None, move, adaptation, init_strategy)

    @property
    def default_fields(self) -> tuple[str, ...]:
        return (*super().default_fields, *(f"move_state.{name}" for name in KEPT))

    def check_model(self, model: Callable[..., Any], args: tuple, kwargs: dict) -> None:
        if self.move.proposal.num_carried and GIBBS_SITES_KWARG in kwargs:
            raise ValueError(
                "`LangevinProposal` carries auxiliary data from one transition to the next, "
                "and other blocks of `Gibbs` would change their distribution: use "
                "`RandomWalkProposal()`."
            )
        self._names = unknown_sites(model, args, kwargs, self.move.auxiliary.check)

    def init(
        self,
        rng_key: Key,
        num_warmup: int,
        init_params: Point | None = None,
        model_args: tuple = (),
        model_kwargs: dict | None = None,
    ) -> KernelState:
        """Start one chain, or one per key if `rng_key` is a batch of keys.

        **Raises** `ValueError` if the model has no energy of unknown normaliser that changes
        with its latent sites, or one that auxiliary data cannot stand in for.
        """
        with unguarded():
            return super().init(rng_key, num_warmup, init_params, model_args, model_kwargs)

    def wrap_model(self, wrapper: Callable[..., Any]) -> AbstractKernel:
        kernel = super().wrap_model(wrapper)
        assert isinstance(kernel, Exchange)
        kernel._names = None
        return kernel

    def get_potential_fn(
        self, model_args: tuple = (), model_kwargs: dict | None = None
    ) -> UnknownConstants:
        """The potential without the unknown constants, and the sites to which they belong."""
        potential = super().get_potential_fn(model_args, model_kwargs)
        assert self._names is not None
        assert self.model is not None
        return UnknownConstants(
            potential, self.model, model_args, model_kwargs or {}, self._names
        )


#: What a random walk of auxiliary chains is tuned for, if they choose their own move.
_TARGET = 0.574
