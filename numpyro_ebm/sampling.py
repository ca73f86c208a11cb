"""What chains on an energy draw, and how they fared."""

import equinox as eqx
import jax.numpy as jnp

from ._types import Array, Float


class Draws(eqx.Module):
    """Independent draws, each the end of a chain of its own or exact, and their health.

    - **values**: of shape `(*sample_shape, *batch_shape, *event_shape)`.
    - **accept_prob**: the mean acceptance probability of each chain after its warm-up; one
      where a draw is exact.
    - **num_steps**: the length of each chain, `0` where draws are exact.
    """

    values: Array
    accept_prob: Float[Array, "*n"]
    num_steps: int = eqx.field(static=True)

    @property
    def finite(self) -> Array:
        """Which draws are finite."""
        axes = tuple(range(self.accept_prob.ndim, self.values.ndim))
        return jnp.isfinite(self.values).all(axes)

    @property
    def stuck(self) -> Array:
        """Which chains hardly moved: less than one proposal in ten accepted."""
        return ~(self.accept_prob >= 0.1)

    @property
    def ok(self) -> bool:
        """Whether every draw is finite, and no chain is stuck. It need not have mixed."""
        return bool(jnp.all(self.finite & ~self.stuck))

    def __repr__(self) -> str:
        if self.num_steps == 0:
            return f"{self.accept_prob.size} exact draws"
        accepted = float(jnp.mean(self.accept_prob))
        return (
            f"{self.accept_prob.size} draws, each the end of {self.num_steps} steps: "
            f"{accepted:.2f} accepted, {int(self.stuck.sum())} stuck, "
            f"{int((~self.finite).sum())} not finite"
        )
