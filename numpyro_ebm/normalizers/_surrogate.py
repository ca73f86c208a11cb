r"""A surrogate for $\log Z$, for energies learned inside a NumPyro model."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.core import Tracer
from numpyro.handlers import trace
from numpyro.primitives import _PYRO_STACK, mutable

from .._checks import as_floats, check_count, check_noise
from .._types import Array, EnergyLike, Key, Scalar
from ..chains import run_chains
from ..energies import AbstractEnergy, as_energy, is_discrete
from ..kernels import MALA, AbstractKernel, as_sampler, step_adaptation


class MonteCarloLogZ(eqx.Module):
    r"""A number whose gradient is that of $\log Z$: $-\mathbb E_{p_\theta}[\nabla_\theta E]$.

    With it, the parameters of an energy can be learned *inside* a NumPyro model, by SVI:

    ```python
    surrogate = ebm.normalizers.MonteCarloLogZ(ebm.MALA(step_size=0.1), 10)


    def model(data):
        precision = numpyro.param(
            "precision", 1.0, constraint=constraints.positive
        )
        energy = ebm.as_energy(lambda x: 0.5 * precision * x**2, ())
        site = ebm.EnergyDistribution(
            ebm.Normalized(energy, surrogate.log_z(energy))
        )
        with numpyro.plate("data", len(data)):
            numpyro.sample("x", site, obs=data)
    ```

    The expectation is over chains that persist between SVI steps, in a mutable site. It is
    asymptotically exact as the learning rate goes to zero if the kernel is exact; a biased
    kernel, such as `UnadjustedLangevin`, biases what is learned. The value is not $\log Z$, so
    the SVI loss is meaningless. Outside SVI it is the constant zero, and the guard refuses to
    infer parameters with it. Parameters should be `numpyro.param`s, or have a point guide:
    chains can follow these, but not the draws of a wide guide. Shown by
    `tests/normalizers/test_surrogate.py`.

    **Arguments**

    - `kernel`, `num_steps`: the kernel that moves the chains, and its transitions per SVI step.
      The step size adapts to the kernel's own target, as in its warm-up, unless it has
      `adapt_step_size=False`.
    - `num_chains`: more chains, less noise.
    - `noise`: the distribution they start from; by default the standard normal.
    - `name`: of the site. Each energy of a model needs its own; a second one under the same
      name is refused.
    """

    kernel: AbstractKernel = eqx.field(static=True, default=MALA(step_size=0.1))
    num_steps: int = eqx.field(static=True, default=10)
    num_chains: int = eqx.field(static=True, default=1000, kw_only=True)
    noise: Any = eqx.field(default=None, kw_only=True)
    name: str = eqx.field(static=True, default="log_z_chains", kw_only=True)

    def __check_init__(self) -> None:
        as_sampler(self.kernel)  # Raises if it cannot be one.
        step_adaptation(self.kernel)
        check_count("num_steps", self.num_steps)
        check_count("num_chains", self.num_chains)

    def log_z(self, energy: EnergyLike) -> Scalar:
        """The surrogate, in a model under SVI; zero elsewhere.

        **Raises** `ValueError` if the energy does not know its event shape, or if the model
        already has chains of this name.
        """
        energy = as_energy(energy)
        rng_key = numpyro.prng_key()
        if rng_key is None:
            return jnp.zeros(())
        start_key, chain_key = jax.random.split(rng_key)
        begun = self._begin(start_key, energy)
        state = self._recall(begun)
        if isinstance(state, _Begun):
            # Automatic guides differentiate the model once during setup, outside `jit`.
            is_compiled = isinstance(begun["points"], Tracer)
            return jnp.zeros(()) if is_compiled else -jax.vmap(energy)(state["points"]).mean()
        move = self.kernel.move.with_step(state["step_size"])
        points = state["points"]
        constant = _without_closure(energy, points[0])
        ends, _, tuning = run_chains(chain_key, move, constant, points, self.num_steps)
        state["points"] = ends
        adaptation = step_adaptation(self.kernel)
        state["step_size"] = adaptation.follow(state["step_size"], tuning)
        return -jax.vmap(energy)(ends).mean()

    def _recall(self, begun: "_Begun") -> Any:
        """The chains of the previous step, from a site that is new in this run of the model."""
        traces = [handler.trace for handler in _PYRO_STACK if isinstance(handler, trace)]
        known = {name for sites in traces for name in sites}
        state: Any = mutable(self.name, begun)  # pyright: ignore[reportArgumentType]
        # A scope may have changed the name.
        sites = [item for sites in traces for item in sites.items()]
        if any(name in known and site["value"] is state for name, site in sites):
            raise ValueError(
                f"Two energies share the chains of `{self.name}`, which can follow one: give "
                "each a surrogate of its own, "
                '`ebm.normalizers.MonteCarloLogZ(..., name="...")`.'
            )
        return state

    def _begin(self, rng_key: Key, energy: AbstractEnergy) -> "_Begun":
        shape = energy.event_shape
        if shape is None:
            raise ValueError(
                "`energy` must know its event shape: `ebm.as_energy(energy, event_shape)`."
            )
        noise = self.noise
        if noise is None:
            noise = dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape))
        check_noise(noise, shape)
        points = as_floats(noise.sample(rng_key, (self.num_chains,)))
        return _Begun(points=points, step_size=as_floats(self.kernel.move.step_size))


class _Begun(dict):
    """Chains that are not yet carried between steps, and never will be under MCMC.

    SVI passes mutable state through JAX, which turns it into a plain `dict`; MCMC keeps the
    value from the first trace of the model. The difference has to be one of type: a counter in
    the site would be traced, so the value would be a `where` of surrogate and zero, which
    depends on the parameters. The guard would take it for their log Z, and let MCMC run.
    """

    def copy(self) -> "_Begun":
        return _Begun(self)


def _as_dict(names: tuple[str, ...], values: Any) -> Any:
    return dict(zip(names, values, strict=True))


jax.tree_util.register_pytree_node(
    _Begun,
    lambda begun: (tuple(begun.values()), tuple(begun)),
    _as_dict,
)


def _without_closure(energy: AbstractEnergy, point: Array) -> Any:
    """The energy with its closed-over arrays as leaves, so that chains can stop gradients."""
    if is_discrete(energy):
        return energy
    return eqx.filter_closure_convert(energy.__call__, point)
