"""Whether a classifier's probabilities are those of its hits."""

import jax.numpy as jnp
import numpy as np

from .._checks import as_numbers, check_count
from .._types import ArrayLike, Scalar


def expected_calibration_error(
    probs: ArrayLike, labels: ArrayLike, *, num_bins: int = 15
) -> Scalar:
    r"""$\sum_b \tfrac{n_b}{n}\,|\text{accuracy}_b - \text{confidence}_b|$.

    The confidence of a prediction is the largest of its probabilities; data are binned by it
    [Guo et al. 2017]. Zero for a calibrated classifier and infinitely many data; with few per
    bin it is above zero for every classifier.

    ```python
    # probs = jax.vmap(energy.probs)(held_out), of an `ebm.energies.ClassEnergy`
    ebm.diagnostics.expected_calibration_error(probs, labels)
    ```

    **Arguments**

    - `probs`: of the classes, one datum per row.
    - `labels`: the true ones, numbers from zero.
    - `num_bins`: bins of equal width.
    """
    check_count("num_bins", num_bins)
    probs, labels = as_numbers("probs", probs), as_numbers("labels", labels)
    if probs.ndim != 2 or labels.shape != probs.shape[:1] or not len(labels):
        raise ValueError(
            "`probs` must be of shape (data, classes) and `labels` of shape (data,), got "
            f"{probs.shape} and {labels.shape}."
        )
    if (np.abs(np.asarray(probs.sum(1)) - 1) > _ROUNDING).any() or (probs < 0).any():
        raise ValueError("`probs` must be probabilities, which sum to one in each row.")
    confidence, hit = probs.max(1), probs.argmax(1) == labels
    bins = jnp.minimum(jnp.ceil(confidence * num_bins) - 1, num_bins - 1).astype(int)
    gaps = jnp.zeros(num_bins).at[bins].add(hit - confidence)
    return jnp.abs(gaps).sum() / len(labels)


#: How far sums of probabilities in 32 bits may be from one.
_ROUNDING = 1e-3
