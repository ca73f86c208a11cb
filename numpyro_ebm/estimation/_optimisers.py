"""An optimiser for contrasts."""

import optax

from .._checks import check_count, check_positive


def decaying_adam(
    num_steps: int, learning_rate: float = 1e-2, max_norm: float | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Adam, whose learning rate falls to zero as a cosine over `num_steps`.

    It is `optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps), b2=0.99)`, because
    objectives that contrast data with other points need no long memory of squared gradients.
    Gradients longer than `max_norm` are first shortened to it, by `optax.clip_by_global_norm`.
    """
    check_count("num_steps", num_steps)
    check_positive("learning_rate", learning_rate)
    adam = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps), b2=0.99)
    if max_norm is None:
        return adam
    check_positive("max_norm", max_norm)
    return optax.chain(optax.clip_by_global_norm(max_norm), adam)
