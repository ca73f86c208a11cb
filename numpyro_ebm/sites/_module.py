"""The network that SVI has trained."""

from collections.abc import Mapping
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp

_Module = TypeVar("_Module")


def trained_module(params: Mapping[str, Any], name: str, template: _Module) -> _Module:
    """The network that `eqx_module(name, template)` in a model became by SVI.

    ```python
    from numpyro.contrib.module import eqx_module
    from numpyro.infer import SVI, Trace_ELBO

    template = eqx.nn.MLP(1, "scalar", 8, 1, key=jax.random.key(0))


    def model(x, y):
        network = eqx_module("net", template)
        with numpyro.plate("data", len(x)):
            numpyro.sample("y", dist.Normal(jax.vmap(network)(x), 0.1), obs=y)


    svi = SVI(model, lambda x, y: None, optax.adam(1e-2), Trace_ELBO())
    x = jnp.linspace(-1, 1, 20)[:, None]
    found = svi.run(
        jax.random.key(1), 10, x, jnp.sin(3 * x[:, 0]), progress_bar=False
    )
    network = ebm.sites.trained_module(found.params, "net", template)
    ```

    **Arguments**

    - `params`: those of SVI, `svi.run(...).params` or `svi.get_params(state)`.
    - `name`: the first argument of `eqx_module`.
    - `template`: its second argument.

    **Raises** `ValueError` if `params` hold no such network, or one of other shapes.
    """
    found = params.get(f"{name}$params")
    if found is None:
        known = [key.removesuffix("$params") for key in params if key.endswith("$params")]
        raise ValueError(f"`params` hold no network named {name!r}, only {known}.")
    wanted, static = eqx.partition(template, eqx.is_inexact_array)
    if _shapes(found) != _shapes(wanted):
        raise ValueError(
            "`template` must be the network that the model gave to "
            f"`eqx_module({name!r}, ...)`: its arrays have other shapes or places."
        )
    return eqx.combine(found, static)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): jnp.shape(x) for path, x in leaves}
