"""The engine of chains: moves, their adaptation, and the loop. Knows no NumPyro model."""

from ._adaptation import (
    NO_ADAPTATION as NO_ADAPTATION,
    AbstractAdaptation as AbstractAdaptation,
    Adaptation as Adaptation,
    AdaptState as AdaptState,
    Travel as Travel,
    averaged as averaged,
    learns_metric as learns_metric,
)
from ._annealing import (
    MAX_LEVELS as MAX_LEVELS,
    Annealing as Annealing,
    Descent as Descent,
    Particles as Particles,
    begin as begin,
    descend as descend,
    keeping_ess as keeping_ess,
    next_descent as next_descent,
)
from ._blackjax import blackjax as blackjax
from ._calls import in_calls as in_calls
from ._engine import (
    BEFORE as BEFORE,
    Sampler as Sampler,
    advance as advance,
    finite_starts as finite_starts,
    refresh_chains as refresh_chains,
    run_alone as run_alone,
    run_chains as run_chains,
    start as start,
    start_alone as start_alone,
    transition as transition,
)
from ._metric import (
    begin_moments as begin_moments,
    by_blocks as by_blocks,
    check_metric as check_metric,
    learn_moments as learn_moments,
)
from ._move import (
    TUNED_ERROR as TUNED_ERROR,
    AbstractMove as AbstractMove,
    Report as Report,
    as_position as as_position,
    dimension as dimension,
    log_density as log_density,
    map_chains as map_chains,
    report as report,
    settle as settle,
    tuning_of_error as tuning_of_error,
)
from ._path import (
    GeometricPath as GeometricPath,
    caches_of as caches_of,
    cooled as cooled,
    heated as heated,
)
from ._resampled import can_resample as can_resample, resampled_starts as resampled_starts
from ._state import ChainState as ChainState
