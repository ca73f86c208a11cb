"""Parallel tempering: replicas along a path that swap places."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import as_finite, as_floats, check_count
from .._trainable import unfreeze
from .._types import Array, Energy, Point
from ..chains import Adaptation, Sampler
from ..energies import (
    AbstractEnergy,
    ModelEnergy,
    Referenced,
    as_energy,
    check_reference,
    energy_named,
    find_reference,
    is_discrete,
    unconstrained_from,
)
from ._fitted import FittedGaussian
from ._ladder import TemperingAdaptation
from ._numpyro import AbstractKernel
from ._replicas import KEPT, TemperingMove
from ._sampler import check_kernel, step_adaptation, with_arrays


class ParallelTempering(AbstractKernel):
    r"""Parallel tempering [Geyer 1991]: replicas between a reference and the target.

    A chain has one replica at each rung of the path
    $E_\beta = (1 - \beta)\,E_0 + \beta\,E$ from a reference $E_0$ to the target, at
    $1 = \beta_1 > \dots > \beta_R = 0$. In each transition all of them move, by the inner
    kernel, that at the reference by an independent draw. Then neighbours swap with probability
    $\min(1, e^{(\beta_k - \beta_{k+1})(\ell_{k+1} - \ell_k)})$, $\ell = E_0 - E$. So the target
    receives points that began anywhere, which crosses between modes.

    Even and odd pairs swap in turn, which sends replicas up and down instead of letting them
    diffuse [Okabe et al. 2001; Syed et al. 2022]. The warm-up has rounds of doubling length; at
    the end of each, the rungs move until all pairs swap equally often [Syed et al. 2022].
    [`tempering_report`][numpyro_ebm.tempering_report] says whether that worked, and gives the
    communication barrier and $\log Z$. Asymptotically exact if the inner kernel is. Shown by
    `tests/kernels/test_tempering.py` (barrier, $\log Z$ and rates against closed forms).

    ```python
    wide = dist.Normal(0, 5).expand([2]).to_event(1)
    kernel = ebm.ParallelTempering(ebm.MALA(), reference=wide)
    draws = ebm.sample(jax.random.key(0), energy, kernel)
    print(ebm.tempering_report(draws))
    ```

    Under `MCMC`, `ParallelTempering(ebm.NUTS(model))` begins at the prior of the model, and
    each chain learns its own ladder.

    **Arguments**

    - `kernel`: the inner kernel; under `MCMC`, with its model or potential. If its step size
      adapts, it does so at every rung; its metric stays fixed.
    - `temperatures`: instead of a reference, $E_\beta = \beta E$ with $\beta = 1/T$, from 1 to
      a temperature at which nothing separates the modes any more; or $T_{\max}$ alone, for a
      geometric ladder of `num_temperatures`. It has no $\log Z$.
    - `reference`: a NumPyro distribution, or an energy with `log_z` and `sampler`, on the
      support of the target and wider; or
      [`FittedGaussian()`][numpyro_ebm.kernels.FittedGaussian], which the warm-up fits. By
      default the reference of the energy, for a model its prior, for spins the uniform law.
    - `num_temperatures`: the number $R$ of rungs. About $2\Lambda + 2$ are best; the report
      gives the barrier $\Lambda$.
    - `adapt_temperatures`: move the rungs between the two ends in warm-up.

    **Raises** `ValueError` if there is no reference, or it does not live on the points of the
    target.
    """

    move: TemperingMove

    def __init__(
        self,
        kernel: AbstractKernel,
        temperatures: Sequence[float] | Array | float | None = None,
        *,
        reference: Any = None,
        num_temperatures: int = 10,
        adapt_temperatures: bool = True,
    ) -> None:
        check_kernel(kernel)
        check_count("num_temperatures", num_temperatures, 2)
        if temperatures is not None and reference is not None:
            raise ValueError(
                "Give only one of `temperatures` and `reference`: a path of temperatures has "
                "no reference."
            )
        self.reference = reference
        self.is_heated = temperatures is not None
        if temperatures is None:
            beta = np.linspace(1, 0, num_temperatures)
        else:
            beta = 1 / _ladder(temperatures, num_temperatures)
        num_moving = len(beta) if self.is_heated else len(beta) - 1
        inner = step_adaptation(kernel)
        fitted = reference if isinstance(reference, FittedGaussian) else None
        move = TemperingMove(
            inner=kernel.move,
            step_size=jnp.broadcast_to(as_floats(kernel.move.step_size), (num_moving,)),
            beta=as_floats(beta),
            inverse_mass_matrix=kernel.move.inverse_mass_matrix,
            fitted=fitted,
            is_heated=self.is_heated,
        )
        steps = Adaptation(inner.adapt_step_size, False, False, inner.target_tuning)
        adaptation = TemperingAdaptation(steps, adapt_temperatures, fitted)
        target = kernel.model, kernel.potential_fn
        super().__init__(*target, move, adaptation, kernel.init_strategy)

    def parts_by_value(self) -> tuple[Any, ...]:
        return (*super().parts_by_value(), self.reference)

    @property
    def default_fields(self) -> tuple[str, ...]:
        kept = (f"move_state.{name}" for name in KEPT)
        return (*super().default_fields, *kept)

    def as_target(self, energy: AbstractEnergy) -> AbstractEnergy:
        if self.is_heated:
            return energy
        if isinstance(self.reference, FittedGaussian):
            if is_discrete(energy):
                raise ValueError(
                    f"`FittedGaussian` has no density on the points of {energy!r}, which are "
                    "discrete: leave `reference` out."
                )
            return energy
        reference = find_reference(energy) if self.reference is None else self._given
        if reference is None:
            raise ValueError(
                f"`ParallelTempering` needs the start of a path, and {energy!r} has no "
                "reference: give `reference`, a NumPyro distribution wider than the target, or "
                "`reference=ebm.kernels.FittedGaussian()`; or give `temperatures`, without a "
                "log Z."
            )
        check_reference("reference", reference, energy)
        # Raises if they do not live in the same space.
        unconstrained_from(reference, energy)
        return Referenced(energy, reference)

    def get_potential_fn(
        self, model_args: tuple = (), model_kwargs: dict | None = None
    ) -> Energy:
        potential = super().get_potential_fn(model_args, model_kwargs)
        is_fitted = isinstance(self.reference, FittedGaussian)
        if self.model is None or self.is_heated or is_fitted:
            return potential
        energy = as_energy(potential)
        if self.reference is not None:
            _check_on_sites(self._given)
            check_reference("reference", self._given, energy)
            return Referenced(energy, self._given)
        model = ModelEnergy(self.model, *model_args, **(model_kwargs or {}))
        if model.reference is None:
            raise ValueError(
                f"The prior cannot be the start of a path: {model.no_prior}. Give "
                "`reference=ebm.kernels.FittedGaussian()`, or `temperatures`."
            )
        return Referenced(energy, model.reference)

    def _sampler(self, position: Point) -> Sampler:
        if not jax.tree.leaves(position):
            raise ValueError("This model has no latent sites, so there is nothing to temper.")
        return super()._sampler(position)

    @property
    def _given(self) -> AbstractEnergy:
        return with_arrays(energy_named("reference", unfreeze(self.reference)))

    def get_diagnostics_str(self, state: Any) -> str:
        return f"acc. prob={state.mean_accept_prob:.2f}"


def _check_on_sites(reference: AbstractEnergy) -> None:
    if reference.event_shape is not None:
        raise ValueError(
            f"`reference` lives on points of shape {reference.event_shape}, and a model on the "
            "dict of its unconstrained sites: leave it out, to start from the prior, or give "
            "an `ebm.energies.ModelPrior`."
        )


def _ladder(temperatures: Any, num_temperatures: int) -> np.ndarray:
    ladder = np.asarray(as_finite("temperatures", temperatures), float)
    if ladder.ndim == 0:
        ladder = np.geomspace(1, max(float(ladder), 1.0), num_temperatures)
    is_rising = ladder.ndim == 1 and len(ladder) > 1 and (np.diff(ladder) > 0).all()
    if not is_rising or ladder[0] != 1:
        raise ValueError(
            "`temperatures` must rise from 1, and be two or more, or one number above 1, "
            f"got {temperatures}."
        )
    return ladder
