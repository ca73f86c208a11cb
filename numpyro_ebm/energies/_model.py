"""NumPyro models as energies: the posterior, and the prior it comes from."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

import importlib
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.infer import init_to_uniform
from numpyro.infer.util import (
    constrain_fn,
    initialize_model,
    potential_energy,
    unconstrain_fn,
)

from .._checks import check_key
from .._trainable import Frozen, freeze, unfreeze
from .._types import Array, Key, Scalar, Shape
from ._base import AbstractEnergy
from ._fingerprint import fingerprint
from ._formula import name_of
from ._log_z import missing_level
from ._model_sites import ModelSites, Site, sites_of


class ModelEnergy(AbstractEnergy):
    r"""$-\log p(\theta, y) - \log\lvert T'\rvert$, the potential of a NumPyro model.

    Its point is the dict of the model's unconstrained latent sites, as for NumPyro's HMC: a
    model is an expert like any other, and `MCMC(ebm.NUTS(potential_fn=energy), ...)` samples
    it. Its $Z$ is the evidence $p(y)$, which
    [`log_partition`][numpyro_ebm.log_partition] estimates, and its `reference` is the prior.
    Discrete latent sites are summed out, by NumPyro. The arguments of the model are data; they
    don't train.

    ```python
    log_z = ebm.log_partition(jax.random.key(0), ebm.ModelEnergy(model, y))
    ```

    **Arguments**

    - `model`: a NumPyro model. Any subsample is drawn once and then fixed.
    - `args`, `kwargs`: the arguments of the model.
    """

    model: Callable[..., Any] = eqx.field(static=True)
    arguments: Frozen | tuple[tuple, dict]
    trace: ModelSites = eqx.field(static=True)

    def __init__(self, model: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        args, kwargs = jax.tree.map(_copied, (args, kwargs))
        self.model = model
        self.arguments = freeze((args, kwargs))
        self.trace = sites_of(model, args, kwargs)
        self.trace = self.trace._replace(fingerprint=self._fingerprint())

    @property
    def event_shape(self) -> None:
        """None: a dict has no single shape."""

    @property
    def sites(self) -> tuple[Site, ...]:
        return self.trace.latent

    @property
    def no_prior(self) -> str:
        """Why there is no proper prior that can be sampled; empty if there is one."""
        return self.trace.not_evidence or self.trace.not_drawn

    @property
    def reference(self) -> "ModelPrior | None":
        """The prior, unless it is improper or cannot be sampled."""
        return None if self.no_prior else ModelPrior(self)

    def check_evidence(self) -> None:
        """Raise if its integral is not an evidence."""
        if self.trace.not_evidence:
            raise ValueError(f"{self!r} has no evidence: {self.trace.not_evidence}.")
        if self.trace.relative:
            raise ValueError(missing_level(f"site `{self.trace.relative[0]}` of {self!r}"))

    def init(
        self, rng_key: Key, init_strategy: Callable[..., Any] = init_to_uniform
    ) -> dict[str, Array]:
        """A start for a chain, found by NumPyro's method."""
        check_key(rng_key)
        args, kwargs = unfreeze(self.arguments)
        info = initialize_model(
            rng_key,
            self.model,
            init_strategy=init_strategy,
            model_args=args,
            model_kwargs=kwargs,
        )
        return info.param_info.z

    def constrain(self, z: dict[str, Array]) -> dict[str, Array]:
        """The continuous latent and the deterministic sites at unconstrained `z`."""
        args, kwargs = unfreeze(self.arguments)
        values = constrain_fn(
            self._seeded, args, kwargs, self._own(z), return_deterministic=True
        )
        return {name: x for name, x in values.items() if name not in self.trace.discrete}

    def unconstrain(self, sites: dict[str, Array]) -> dict[str, Array]:
        """The inverse of `constrain`, for latent sites."""
        args, kwargs = unfreeze(self.arguments)
        return unconstrain_fn(self._seeded, args, kwargs, self._own(sites))

    def __call__(self, x: dict[str, Array]) -> Scalar:
        return self._potential(self._seeded, x)

    def prior(self, x: dict[str, Array]) -> Scalar:
        """The energy of the prior."""
        return self._potential(handlers.block(self._seeded, hide_fn=self._is_data), x)

    def draw_prior(self, rng_key: Key) -> dict[str, Array]:
        """One draw from the prior."""
        args, kwargs = unfreeze(self.arguments)
        seeded = handlers.seed(handlers.block(self.model, hide_fn=self._is_data), rng_key)
        trace = handlers.trace(seeded).get_trace(*args, **kwargs)
        return {site.name: _unconstrained(trace[site.name]) for site in self.sites}

    def _potential(
        self, model: Callable[..., Any], x: dict[str, Array], *arguments: Any
    ) -> Scalar:
        args, kwargs = arguments or unfreeze(self.arguments)
        is_summed, values = bool(self.trace.discrete), self._own(x)
        if is_summed:
            funsor = importlib.import_module("numpyro.contrib.funsor")
            first_dim = -self.trace.num_plates - 1
            model = funsor.enum(funsor.config_enumerate(model), first_dim)
        try:
            return jnp.asarray(potential_energy(model, args, kwargs, values, enum=is_summed))
        except _NEEDS_NUMBERS as error:
            raise ValueError(
                f"{self!r} needs the numbers of an argument while it is compiled, as in "
                "`int(groups.max())`, where arrays among the arguments have none. Bind it to "
                "the model, `ebm.ModelEnergy(functools.partial(model, groups), y)`."
            ) from error

    def _is_data(self, site: dict[str, Any]) -> bool:
        # Not by name: enumeration gives the sites of a `scan` other names.
        jacobians = {f"_{site.name}_log_det" for site in self.sites}
        is_observed = site["type"] == "sample" and site["is_observed"]
        return is_observed and site["name"] not in jacobians

    def _fingerprint(self) -> str:
        """Of all that a compiled program of this model would hold as constants."""
        dtype = jnp.result_type(float)
        point = {s.name: jax.ShapeDtypeStruct(s.shape or (), dtype) for s in self.sites}
        arrays, rest = eqx.partition(unfreeze(self.arguments), _is_array)

        def potential(arrays: Any, x: dict[str, Array]) -> Scalar:
            return self._potential(self._seeded, x, *eqx.combine(arrays, rest))

        return fingerprint(potential, arrays, point)

    @property
    def _seeded(self) -> Callable[..., Any]:
        return handlers.seed(self.model, jr.key(0))

    def _own(self, values: dict[str, Array]) -> dict[str, Array]:
        # A missing site would be drawn from its prior.
        missing = [site.name for site in self.sites if site.name not in values]
        if missing:
            raise ValueError(
                f"A point of this energy is a dict of the model's latent sites; `{missing[0]}` "
                f"is missing among {sorted(values)}."
            )
        return {site.name: values[site.name] for site in self.sites}

    def _formula(self) -> str:
        return f"-log p[{name_of(self.model)}]"


class ModelPrior(AbstractEnergy):
    r"""$-\log p(\theta) - \log\lvert T'\rvert$: what a NumPyro model says without its data.

    A normalised energy with exact draws, from which chains are annealed to the posterior.
    Discrete latent sites are summed out.

    **Arguments**

    - `model`: the [`ModelEnergy`][numpyro_ebm.ModelEnergy] of the posterior.

    **Raises** `ValueError` if the prior is improper, or cannot be sampled.
    """

    model: ModelEnergy

    def __check_init__(self) -> None:
        if self.model.no_prior:
            raise ValueError(f"There is no prior to start from: {self.model.no_prior}.")

    @property
    def event_shape(self) -> None:
        """None: a dict has no single shape."""

    @property
    def sites(self) -> tuple[Site, ...]:
        return self.model.sites

    @property
    def log_z(self) -> Scalar:
        return jnp.zeros(())

    def sampler(self, rng_key: Key, sample_shape: Shape = ()) -> dict[str, Array]:
        keys = jr.split(rng_key, math.prod(sample_shape))
        draws = jax.vmap(self.model.draw_prior)(keys)
        return jax.tree.map(lambda x: x.reshape(*sample_shape, *x.shape[1:]), draws)

    def __call__(self, x: dict[str, Array]) -> Scalar:
        return self.model.prior(x)

    def _formula(self) -> str:
        return f"-log prior[{name_of(self.model.model)}]"


def _copied(x: Any) -> Any:
    """What the caller cannot change; NumPy's whole numbers as Python's, to be shapes."""
    if isinstance(x, np.integer | np.bool_):
        return x.item()
    return x.copy() if isinstance(x, np.ndarray) else x


#: What a model raises that cannot be traced.
_NEEDS_NUMBERS = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray)


def models_in(energy: AbstractEnergy) -> list[ModelEnergy]:
    """The models that an energy contains."""

    def is_model(node: Any) -> bool:
        return isinstance(node, ModelEnergy)

    return [x for x in jax.tree.leaves(energy, is_leaf=is_model) if is_model(x)]


def _unconstrained(site: dict[str, Any]) -> Array:
    z = biject_to(site["fn"].support).inv(site["value"])
    # A draw may be rounded to the boundary. This is beyond all that are not.
    far = -float(np.log(jnp.finfo(z.dtype).tiny))
    return jnp.nan_to_num(z, nan=jnp.nan, posinf=far, neginf=-far)
