"""How chains move: BlackJAX's algorithms as NumPyro kernels, and Gibbs kernels."""

from ..chains import (
    AbstractAdaptation as AbstractAdaptation,
    AbstractMove as AbstractMove,
    Adaptation as Adaptation,
    AdaptState as AdaptState,
    ChainState as ChainState,
    Report as Report,
    Sampler as Sampler,
    run_chains as run_chains,
)
from ._barker import BarkerMH as BarkerMH, BarkerMove as BarkerMove
from ._clipped import (
    ClippedLangevin as ClippedLangevin,
    ClippedLangevinMove as ClippedLangevinMove,
)
from ._default import default_kernel as default_kernel
from ._fitted import FittedGaussian as FittedGaussian
from ._ghmc import GHMC as GHMC, GHMCMove as GHMCMove
from ._gibbs import (
    BlockGibbs as BlockGibbs,
    BlockGibbsMove as BlockGibbsMove,
    GibbsWithGradients as GibbsWithGradients,
    GibbsWithGradientsMove as GibbsWithGradientsMove,
)
from ._hmc import HMC as HMC, HMCMove as HMCMove
from ._langevin import LangevinMove as LangevinMove, UnadjustedLangevin as UnadjustedLangevin
from ._mala import (
    MALA as MALA,
    AutoMALA as AutoMALA,
    AutoMALAMove as AutoMALAMove,
    MALAMove as MALAMove,
)
from ._mclmc import (
    AdjustedMCLMC as AdjustedMCLMC,
    AdjustedMCLMCMove as AdjustedMCLMCMove,
    UnadjustedMCLMC as UnadjustedMCLMC,
    UnadjustedMCLMCMove as UnadjustedMCLMCMove,
)
from ._numpyro import AbstractKernel as AbstractKernel
from ._nuts import NUTS as NUTS, NUTSMove as NUTSMove
from ._populations import (
    AbstractPopulation as AbstractPopulation,
    AnnealedLangevin as AnnealedLangevin,
    Population as Population,
    TemperedSMC as TemperedSMC,
)
from ._random_walk import (
    RandomWalkMetropolis as RandomWalkMetropolis,
    RandomWalkMove as RandomWalkMove,
)
from ._replicas import TemperingMove as TemperingMove, TemperingState as TemperingState
from ._sampler import (
    as_sampler as as_sampler,
    check_exact as check_exact,
    check_free_kernel as check_free_kernel,
    step_adaptation as step_adaptation,
)
from ._state import KernelState as KernelState
from ._tempering import ParallelTempering as ParallelTempering
from ._ties import TieNoTie as TieNoTie, TieNoTieMove as TieNoTieMove
