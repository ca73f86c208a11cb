"""How one moves: BlackJAX's algorithms as NumPyro kernels, and Gibbs for what is discrete."""

from ._adaptation import (
    AbstractAdaptation as AbstractAdaptation,
    Adaptation as Adaptation,
    AdaptState as AdaptState,
    Travel as Travel,
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
from ._chains import (
    NO_ADAPTATION as NO_ADAPTATION,
    ChainState as ChainState,
    advance_chains as advance_chains,
    run_chains as run_chains,
    start_chains as start_chains,
)
from ._kernel import (
    AbstractKernel as AbstractKernel,
    check_exact as check_exact,
    check_free_kernel as check_free_kernel,
    check_kernel as check_kernel,
    run_short_chain as run_short_chain,
    step_adaptation as step_adaptation,
)
from ._move import (
    AbstractMove as AbstractMove,
    Report as Report,
    as_position as as_position,
)
from ._state import HamiltonianState as HamiltonianState, KernelState as KernelState
from .barker import BarkerMH as BarkerMH, BarkerMove as BarkerMove
from .gibbs import (
    BlockGibbs as BlockGibbs,
    BlockGibbsMove as BlockGibbsMove,
    GibbsWithGradients as GibbsWithGradients,
    GibbsWithGradientsMove as GibbsWithGradientsMove,
)
from .hmc import GHMC as GHMC, HMC as HMC, GHMCMove as GHMCMove, HMCMove as HMCMove
from .langevin import LangevinMove as LangevinMove, UnadjustedLangevin as UnadjustedLangevin
from .mala import (
    MALA as MALA,
    AutoMALA as AutoMALA,
    AutoMALAMove as AutoMALAMove,
    MALAMove as MALAMove,
)
from .mclmc import (
    AdjustedMCLMC as AdjustedMCLMC,
    AdjustedMCLMCMove as AdjustedMCLMCMove,
    UnadjustedMCLMC as UnadjustedMCLMC,
    UnadjustedMCLMCMove as UnadjustedMCLMCMove,
)
from .nuts import NUTS as NUTS, NUTSMove as NUTSMove
from .populations import (
    AbstractPopulation as AbstractPopulation,
    AnnealedLangevin as AnnealedLangevin,
    Population as Population,
    TemperedSMC as TemperedSMC,
)
from .random_walk import (
    RandomWalkMetropolis as RandomWalkMetropolis,
    RandomWalkMove as RandomWalkMove,
)
from .tempering import ParallelTempering as ParallelTempering, TemperingMove as TemperingMove
