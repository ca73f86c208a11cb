"""Inputs of the checks: draws of chains, or a sample of independent points."""

from typing import Any

from .._checks import as_data
from .._types import Array, EnergyLike, Float, Shape
from ..energies import AbstractEnergy, as_energy, check_energy
from ..sampling import AbstractDraws


def as_energy_and_chains(
    energy: EnergyLike, draws: Any, event_shape: Shape | None, name: str = "draws"
) -> tuple[AbstractEnergy, Float[Array, "chain draw *event"]]:
    """The energy, and its draws per chain; independent points are chains of one draw each."""
    energy = as_energy(energy, event_shape)
    shape = energy.event_shape if event_shape is None else tuple(event_shape)
    if shape is None:
        raise ValueError("`event_shape` is needed because this energy doesn't know it.")
    check_energy(energy, shape)
    points = as_data(draws.values if isinstance(draws, AbstractDraws) else draws, name)
    lead = points.ndim - len(shape)
    if lead not in (1, 2) or points.shape[lead:] != shape:
        raise ValueError(
            f"`{name}` must be of shape `(n, *event)` or `(chain, draw, *event)` with points "
            f"of shape {shape}, got shape {points.shape}."
        )
    chains = points if lead == 2 else points[:, None]
    _check_size(name, chains.shape[0] * chains.shape[1])
    return energy, chains


def as_energy_and_points(
    energy: EnergyLike, draws: Any, event_shape: Shape | None, name: str = "draws"
) -> tuple[AbstractEnergy, Float[Array, "n *event"]]:
    """The energy, and its draws with all chains concatenated."""
    energy, chains = as_energy_and_chains(energy, draws, event_shape, name)
    return energy, chains.reshape(-1, *chains.shape[2:])


def as_samples(x: Any, y: Any) -> tuple[Float[Array, "n d"], Float[Array, "m d"]]:
    """Two samples of the same event shape, with each point as a vector."""
    samples = []
    for name, sample in (("x", x), ("y", y)):
        if isinstance(sample, AbstractDraws):
            raise TypeError(
                f"`{name}` must be an array of independent points, `(n, *event)`, got "
                f"{sample}. Thin the draws of chains and put them end to end first."
            )
        samples.append(as_data(sample, name))
        _check_size(name, len(samples[-1]))
    x, y = samples
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"`x` and `y` must hold points of one shape, got {x.shape[1:]} and {y.shape[1:]}."
        )
    return x.reshape(len(x), -1), y.reshape(len(y), -1)


def _check_size(name: str, size: int) -> None:
    if size < 2:
        raise ValueError(f"`{name}` must hold at least two points, got {size}.")
