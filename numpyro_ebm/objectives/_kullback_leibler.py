"""Fitting a density by the Kullback-Leibler divergence, in its two directions."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from .._checks import check_count
from .._trainable import constant
from .._types import Array, Energy, EnergyLike, Float, Key, Scalar
from ..energies import (
    AbstractEnergy,
    GaussianMixture,
    Mixture,
    as_energy,
    is_conditional,
    is_within,
)
from ._base import AbstractObjective, AbstractPointwiseObjective
from ._batch import Batch, Data, as_batch


class ForwardKL(AbstractPointwiseObjective):
    r"""$\mathbb E[-\log q(x)]$ over data: $KL(p\,\|\,q)$ up to the entropy of $p$.

    Maximum likelihood for whatever knows its $\log Z$: a flow, a Gaussian, a mixture; and for
    a [`ConditionalFlow`][numpyro_ebm.energies.ConditionalFlow] on pairs `(y, x)`. It covers all
    modes that the data show. Consistent and efficient. Shown by
    `tests/objectives/test_kullback_leibler.py` against closed forms.

    ```python
    estimator = ebm.Estimator(ebm.objectives.ForwardKL(), optax.adam(1e-3))
    flow = estimator.run(jax.random.key(0), 1000, flow, data).energy
    ```

    **Raises** `ValueError` if the energy does not know its `log_z`.
    """

    needs_real = False

    def init(self, rng_key: Key, energy: Any, data: Data) -> tuple[Any, None]:
        first = as_energy(as_batch(data).energy_at(energy, 0))
        if first.log_z is None:
            raise ValueError(
                f"`ForwardKL` fits densities, and {first!r} does not know its `log_z`: use a "
                "flow, or `ebm.NoiseContrastiveEstimation()`, which learns the constant too."
            )
        return energy, None

    def at(self, rng_key: Key, energy: Any, x: Float[Array, "*event"]) -> Scalar:
        return energy(x) + energy.log_z


class ReverseKL(AbstractObjective):
    r"""$\mathbb E_q[\log q(x) + E(x)] = KL(q\,\|\,p) - \log Z$, the negative ELBO.

    Fits a density with reparameterised draws, such as a flow, to an energy, without data:
    `estimator.run(rng_key, num_steps, flow)`. It seeks modes: one that $q$ does not reach costs
    nothing, so $q$ may lose it. The gradient flows through the draws only ("sticking the
    landing" [Roeder, Wu and Duvenaud 2017]): unbiased, and without variance where $q = p$. The
    metric `elbo` is a lower bound of $\log Z$ in expectation. Shown by
    `tests/objectives/test_kullback_leibler.py` against closed forms.

    **Arguments**

    - `energy`: the target, anything [`as_energy`][numpyro_ebm.as_energy] takes.
    - `num_samples`: draws per step.

    **Raises** `ValueError` if what is fitted has no `log_z` and `sampler`, is a mixture, whose
    draws are not reparameterised, or reaches points outside the support of `energy`.
    """

    energy: AbstractEnergy
    num_samples: int = eqx.field(static=True)

    def __init__(self, energy: EnergyLike, num_samples: int = 256) -> None:
        check_count("num_samples", num_samples)
        self.energy, self.num_samples = as_energy(energy), num_samples

    def without_data(self, energy: Any) -> Batch:
        return no_data(energy)

    def init(self, rng_key: Key, energy: Any, data: Data) -> tuple[Any, None]:
        check_pair(self, energy, self.energy)
        if not is_reparametrised(energy):
            raise ValueError(
                f"`ReverseKL` differentiates draws, and those of {energy!r} choose among "
                "components, which has no derivative: use a flow, or `AlphaDivergence`, or "
                "`ForwardKL` on draws."
            )
        return energy, None

    def loss(
        self,
        rng_key: Key,
        trainable: Any,
        state: None,
        batch: Batch,
        weights: Float[Array, " n"] | None,
    ) -> tuple[Scalar, tuple[None, dict[str, Array]]]:
        draws = trainable.sample(rng_key, (self.num_samples,))
        density = constant(trainable)
        elbo = -jnp.mean(jax.vmap(lambda x: self._log_ratio(density, x))(draws))
        return -elbo, (state, {"elbo": elbo})

    def _log_ratio(self, density: Any, x: Any) -> Scalar:
        return self.energy(x) - density(x) - density.log_z

    def finalize(self, trainable: Any, state: None) -> Any:
        return trainable


def no_data(energy: Any) -> Batch:
    """What stands for data where an energy is all there is to learn from."""
    if is_conditional(energy) or energy.sampler is None:
        return Batch(jnp.zeros((1, *(energy.event_shape or ()))))
    # On its support, which data must be.
    return Batch(energy.sample(jr.key(0), (1,)))


def check_pair(objective: Any, density: Any, target: AbstractEnergy) -> None:
    """Raise unless `density` can be drawn from, on the points of `target`."""
    name = type(objective).__name__
    if is_conditional(density) or density.log_z is None or density.sampler is None:
        raise ValueError(
            f"`{name}` fits densities that can be drawn from, such as flows, and "
            f"{density!r} has no `log_z` or no `sampler`."
        )
    if not is_within(density.support, target.support):
        raise ValueError(
            f"{density!r} draws points of {density.support}, and the target lives on "
            f"{target.support}: fit it in unconstrained space, "
            "`ebm.Transformed(target, biject_to(target.support))`."
        )
    shapes = density.event_shape, target.event_shape
    if None not in shapes and shapes[0] != shapes[1]:
        raise ValueError(
            f"`energy` of `{name}` lives on points of shape {shapes[1]}, and what is "
            f"fitted on points of shape {shapes[0]}."
        )


def is_reparametrised(density: Energy) -> bool:
    """Whether draws of `density` are differentiable: those of a mixture choose components."""

    def is_choice(node: Any) -> bool:
        is_ours = isinstance(node, Mixture | GaussianMixture)
        return is_ours or type(node).__name__ in ("VmapMixture", "MixtureSameFamily")

    return not any(map(is_choice, jax.tree.leaves(density, is_leaf=is_choice)))
