"""Chains in the space of a flow's base distribution, where the target is nearly normal."""

# Pyright takes an `AbstractVar` for a field that the constructor asks for.
# pyright: reportCallIssue=false, reportArgumentType=false

from typing import Any

from numpyro.distributions.transforms import ComposeTransform, Transform

from .._types import EnergyLike
from ..energies import Transformed, as_energy, bijection, flattened, is_real, unconstrained
from ..kernels import AbstractKernel, step_adaptation
from ._density import check_flow
from ._flow import FlowMap
from ._transform import FlowTransform
from ._transport_move import TransportAdaptation, TransportMove


class FlowTransport(AbstractKernel):
    r"""The moves of another kernel on $E(T(z)) - \log\lvert T'(z)\rvert$, $x = T(z)$.

    $T$ is the bijection of a flow, from its base distribution [Parno and Marzouk 2018; Hoffman
    et al. 2019]. If the flow is near the target, chains move in a space in which that is
    nearly normal, without funnels and bent ridges. Step size and metric are learned there; the
    draws are those of $x$. Asymptotically exact if the inner kernel is, whatever the flow. It
    hardly connects separate modes: use [`FlowJump`][numpyro_ebm.flows.FlowJump]. Shown by
    `tests/flows/test_transport.py` (closed forms, a funnel, exact ranks).

    ```python
    kernel = ebm.flows.FlowTransport(ebm.NUTS(), flow)
    draws = ebm.sample(jax.random.key(1), energy, kernel)
    ```

    The flow lives in unconstrained space, for a NumPyro model on the vector of its latent
    sites, in alphabetical order: `FlowTransport(ebm.NUTS(model), flow)` runs under `MCMC`. To
    see the target in the space of $z$, or to temper it there, use
    [`transport`][numpyro_ebm.flows.transport].

    **Arguments**

    - `kernel`: the inner kernel; under `MCMC`, with its model or potential. A metric of its own
      is one of $z$, a vector.
    - `flow`: a FlowJAX distribution that transforms another one by a bijection of all real
      points, such as [`coupling_flow`][numpyro_ebm.flows.coupling_flow]. It is not changed.

    **Raises** `TypeError` if the flow has no such bijection, and `ValueError` if it lives on
    other points.
    """

    move: TransportMove

    def __init__(self, kernel: AbstractKernel, flow: Any) -> None:
        inner = step_adaptation(kernel)
        there = FlowMap.of(flow)
        move = TransportMove(kernel.move, there)
        travel = None if inner.travel is None else TransportMove(inner.travel.move, there)
        adaptation = TransportAdaptation(inner, there, travel)
        target = kernel.model, kernel.potential_fn
        super().__init__(*target, move, adaptation, kernel.init_strategy)


def transport(energy: EnergyLike, flow: Any) -> Transformed:
    r"""$E(T(z)) - \log\lvert T'(z)\rvert$, the energy in the space of a flow's base.

    $T$ is the bijection of the flow, followed by that onto the support of the energy. $Z$ is
    the same, and exact draws and the reference are mapped along. Any kernel, population or
    normaliser takes it; `push_forward` maps its draws to points of the energy.

    ```python
    base = ebm.flows.transport(energy, flow)
    draws = ebm.sample(jax.random.key(1), base, ebm.NUTS())
    x = base.push_forward(draws.values)
    ```

    **Arguments**

    - `energy`: anything [`as_energy`][numpyro_ebm.as_energy] takes.
    - `flow`: as in [`FlowTransport`][numpyro_ebm.flows.FlowTransport], which does this inside a
      kernel, for NumPyro models too.

    **Raises** `ValueError` if the flow lives on other points, or the energy on the sites of a
    model.
    """
    energy = as_energy(energy)
    if flattened(energy)[1] is not None:
        raise ValueError(
            f"The points of {energy!r} are dicts of sites, which no flow maps: transport the "
            "chains, `ebm.flows.FlowTransport(ebm.NUTS(model), flow)`."
        )
    check_flow(flow, unconstrained(energy)[0])
    transform: Transform = FlowTransform(FlowMap.of(flow))
    if not is_real(energy.support):
        transform = ComposeTransform([transform, bijection(energy.support)])
    return Transformed(energy, transform, is_onto=True)
