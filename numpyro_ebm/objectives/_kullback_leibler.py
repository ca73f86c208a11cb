"""Fitting a density by the Kullback-Leibler divergence, in its two directions."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import check_count
from .._trainable import constant
from .._types import Array, EnergyLike, Float, Key, Scalar
from ..energies import AbstractEnergy, as_energy
from ._base import AbstractObjective, AbstractPointwiseObjective
from ._batch import Batch, Data, as_batch
from ._drawn import check_drawn, no_data


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
        check_drawn(self, energy, self.energy)
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
