"""Parallel tempering: replicas along a path that swap places."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._checks import as_finite, as_floats, check_count
from .._types import Array, Energy
from ..chains import Adaptation
from ..energies import (
    AbstractEnergy,
    ModelEnergy,
    Referenced,
    as_energy,
    find_reference,
    is_discrete,
    reference_for,
    unconstrained_from,
)
from ._ladder import TemperingAdaptation
from ._numpyro import AbstractKernel
from ._path import FittedGaussian
from ._replicas import KEPT, TemperingMove
from ._sampler import check_kernel, step_adaptation


class ParallelTempering(AbstractKernel):
    r"""Parallel tempering [Geyer 1991]: replicas between a reference and the target.

    DOC
    """

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
                "Give only one of `temperatures` and `reference`: a path of temperatures has no "
                "reference."
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
        if self.reference is None and find_reference(energy) is None:
            raise ValueError(
                f"`ParallelTempering` needs the start of a path, and {energy!r} has no "
                "reference: give `reference`, a NumPyro distribution wider than the target, or "
                "`reference=ebm.kernels.FittedGaussian()`; or give `temperatures`, without a "
                "log Z."
            )
        reference = reference_for(self.reference, energy, "reference")
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
            return Referenced(energy, reference_for(self.reference, energy, "reference"))
        model = ModelEnergy(self.model, *model_args, **(model_kwargs or {}))
        if model.reference is None:
            raise ValueError(
                f"The prior cannot be the start of a path: {model.trace.problem}. Give "
                "`reference=ebm.kernels.FittedGaussian()`, or `temperatures`."
            )
        return Referenced(energy, model.reference)

    def get_diagnostics_str(self, state: Any) -> str:
        return f"acc. prob={state.mean_accept_prob:.2f}"


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
