"""How often the chains of `FlowJump` jump: as often as it pays."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from .._types import Array, Scalar


class Share(NamedTuple):
    """The share of transitions that jump, and what it is learned from.

    - **value**: the share.
    - **accept_prob**: the mean acceptance probability of the jumps so far.
    - **paid**: the mean work of the inner moves, in units of that of the jumps.
    - **count**, **num_jumps**: of the transitions and of those that jumped.
    """

    value: Scalar
    accept_prob: Scalar
    paid: Scalar
    count: Scalar
    num_jumps: Scalar


def begin_share(share: Any) -> Share:
    value = jnp.asarray(share, jnp.result_type(float))
    return Share(value, *(jnp.zeros_like(value) for _ in Share._fields[1:]))


def learn_share(i: Array, at: Share, facts: list[Array], num_warmup: int) -> Share:
    """The share after transition `i`, of the last third of the warm-up.

    - `facts`: of each chain: whether it jumped, the acceptance probability of that, and the
      work of its inner move.
    """
    has_jumped, accept_prob, paid = (jnp.nan_to_num(x).mean() for x in facts)
    count, num_jumps = at.count + 1, at.num_jumps + has_jumped
    gain = has_jumped / jnp.maximum(num_jumps, 1)
    new = at._replace(
        accept_prob=at.accept_prob + gain * (accept_prob - at.accept_prob),
        paid=at.paid + (paid - at.paid) / count,
        count=count,
        num_jumps=num_jumps,
    )
    # The warm-up tries more often: a share that is too small by chance learns slowly.
    least = jnp.where(i == num_warmup - 1, _LEAST, _LEAST_OF_WARMUP)
    share = jnp.clip(share_of(new.accept_prob, new.paid), least, 1)
    new = new._replace(value=jnp.where(num_jumps > 0, share, at.value))
    is_learning = (i >= 2 * num_warmup // 3) & (i < num_warmup)
    return Share(*(jnp.where(is_learning, a, b) for a, b in zip(new, at, strict=True)))


def share_of(accept_prob: Array, paid: Array) -> Array:
    r"""The share at which jumps take $\sqrt a$ of the time, if they are accepted with $a$.

    All of it would be best for what only jumps can mix, and $a$ of it wastes least; this is the
    geometric mean.
    """
    root = jnp.sqrt(accept_prob)
    return paid * root / jnp.maximum(1 - root, jnp.finfo(root.dtype).eps)


#: A share of zero would never find out that the chains have come to where jumps succeed.
_LEAST, _LEAST_OF_WARMUP = 1 / 64, 1 / 8
