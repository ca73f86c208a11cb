"""`EnergyDistribution`: an energy as a NumPyro site."""

import math
import warnings
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.core import Tracer
from numpyro.distributions import Distribution, biject_to, constraints
from numpyro.distributions.util import validate_sample

from ._integrable import check_integrable
from ._types import Array, Key, Point, Scalar, Shape
from .energies import AbstractEnergy, Transformed, as_energy, check_energy, is_real
from .kernels import MALA, AbstractKernel, run_short_chain


class EnergyDistribution(Distribution):
    r"""$p(x) \propto e^{-E(x)}$ on a support, as a NumPyro distribution.

    ```python
    def model(y):
        x = numpyro.sample("x", ebm.EnergyDistribution(energy, (2,)))
        numpyro.sample("y", dist.Normal(x, 0.1).to_event(1), obs=y)
    ```

    `log_prob` is $-E(x)$, less $\log Z$ if the energy knows its `log_z`. While $Z$ is unknown
    the density is right up to a constant: good as a prior whose energy is fixed, wrong as soon
    as parameters *of the energy* are inferred, because their $Z$ differs.

    `sample` is exact where the energy has an exact sampler and no constraint cuts it off.
    Otherwise each draw is the end of its own chain of `num_steps` transitions of `sampler`,
    the first half of which adapt: approximate, as good as that chain has mixed. It starts from
    a uniform point in $[-2, 2]^d$ of the unconstrained space, as NumPyro's chains do. Outside
    of `jax.jit`, chains that run away are reported with what
    [`check_integrable`][numpyro_ebm.check_integrable] finds.

    **Arguments**

    - `energy`: what [`as_energy`][numpyro_ebm.as_energy] takes.
    - `event_shape`: the shape of one point, if the energy doesn't know it.
    - `support`: a NumPyro constraint on one point. The energy is a density on the support
      itself; samplers move in unconstrained space and add the Jacobian.
    - `sampler`: the kernel behind `sample`; with `None`, `sample` is not implemented.
    - `num_steps`: the length of the chain behind one draw.

    **Raises** `ValueError` if the energy cannot be evaluated on one point of shape
    `event_shape`, or is not a scalar there.
    """

    arg_constraints: ClassVar[dict] = {}
    pytree_data_fields = ("_arrays", "_support")
    pytree_aux_fields = ("_static", "sampler", "num_steps")

    def __init__(
        self,
        energy: Any,
        event_shape: Shape | None = None,
        *,
        support: constraints.Constraint = constraints.real,
        sampler: AbstractKernel | None = MALA(),
        num_steps: int = 1000,
        validate_args: bool | None = None,
    ) -> None:
        energy = as_energy(energy, event_shape)
        shape = _event_shape(energy, event_shape)
        check_energy(energy, shape)
        leaves, treedef = jax.tree.flatten(energy)
        # What isn't an array (an activation, say) goes where NumPyro hashes and compares it.
        self._arrays = [leaf if _is_data(leaf) else None for leaf in leaves]
        self._static = (tuple(None if _is_data(x) else x for x in leaves), treedef)
        self._support = constraints.independent(support, len(shape) - support.event_dim)
        self.sampler = sampler
        self.num_steps = num_steps
        super().__init__((), shape, validate_args=validate_args)

    @property
    def energy(self) -> AbstractEnergy:
        """The energy of one point."""
        static, treedef = self._static
        pairs = zip(self._arrays, static, strict=True)
        return treedef.unflatten([s if a is None else a for a, s in pairs])

    @constraints.dependent_property(is_discrete=False)  # pyright: ignore
    def support(self) -> Any:
        return self._support

    @property
    def has_rsample(self) -> bool:
        # NumPyro's default would differentiate through the chain behind `sample`.
        return False

    @validate_sample
    def log_prob(self, value: Array, intermediates: Any = None) -> Array:
        energy = self.energy
        log_z = getattr(energy, "log_z", 0.0)
        value = jnp.asarray(value, jnp.result_type(float))

        def log_density(x: Point) -> Scalar:
            return -energy(x) - log_z

        for _ in range(value.ndim - self.event_dim):
            log_density = jax.vmap(log_density)
        return log_density(value)

    def sample(self, key: Key, sample_shape: Shape = ()) -> Array:
        energy = self.energy
        exact = getattr(energy, "sample", None)
        if exact is not None and is_real(self._support):
            return exact(key, sample_shape)
        if self.sampler is None:
            raise NotImplementedError(
                "`EnergyDistribution(..., sampler=None)` cannot be sampled; pass a kernel, "
                "such as `sampler=ebm.NUTS()`."
            )
        size = math.prod(sample_shape)
        transform = biject_to(self._support)
        start_key, chain_key = jr.split(key)
        shape = transform.inverse_shape(self.event_shape)
        start = jr.uniform(
            start_key, (size, *shape), jnp.result_type(float), minval=-2, maxval=2
        )
        potential = Transformed(energy, transform)
        end = run_short_chain(
            jr.split(chain_key, size), self.sampler, potential, start, self.num_steps
        )
        _warn_of_runaways(end, potential, shape)
        return jax.vmap(transform)(end).reshape(sample_shape + self.event_shape)


def _event_shape(energy: AbstractEnergy, event_shape: Shape | None) -> Shape:
    shape = energy.event_shape if event_shape is None else tuple(event_shape)
    if shape is None:
        raise ValueError(
            "`event_shape`, the shape of one point, is needed because this energy doesn't know "
            "it: `EnergyDistribution(energy, (2,))`."
        )
    return shape


def _is_data(leaf: Any) -> bool:
    # Tracers and NumPy arrays included, and the placeholders JAX's transformations put here.
    return eqx.is_array_like(leaf) and not isinstance(leaf, bool | int | float | complex)


def _warn_of_runaways(end: Array, potential: AbstractEnergy, shape: Shape) -> None:
    # From a start in [-2, 2]^d, this far out is worth the second that a look takes.
    if isinstance(end, Tracer) or np.all(np.abs(end) < 30):
        return
    far = 100 * np.max(np.abs(end), initial=1e3, where=np.isfinite(end))
    seen = check_integrable(potential, shape, radius=float(far))
    if not (seen.ok and np.isfinite(end).all()):
        warnings.warn(
            f"The chains behind `sample` ran away; `ebm.check_integrable` calls it {seen}. "
            "Tilt a proper density, `ebm.Tilted(energy, reference)`, or subtract less.",
            stacklevel=3,
        )
