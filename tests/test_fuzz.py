"""Valid calls of public names, with one argument at a time replaced by nonsense.

No call may hang, none may return NaN in silence, and what refuses must say which argument.
"""

import contextlib
import io
import signal
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import numpyro_ebm as ebm

KEY = jr.key(0)
RNG = np.random.default_rng(0)
DATA = RNG.normal(size=(40, 2))
OTHER = RNG.normal(size=(40, 2))
GAUSS = ebm.Gaussian(np.zeros(2), np.eye(2))
NORMAL = dist.Normal(np.zeros(2), 1).to_event(1)
QUIET = {"progress_bar": False}
CHAINS = {
    "rng_key": KEY,
    "energy": GAUSS,
    "kernel": ebm.MALA(),
    "num_chains": 2,
    "num_warmup": 10,
    "num_samples": 20,
    **QUIET,
}
DRAWS = ebm.sample(**{**CHAINS, "num_samples": 60})
CONDITIONAL = ebm.ConditionalEnergy(lambda y, x: 5 * (y - x) ** 2, ())
OPTIM = optax.adam(1e-2)
MOVES = {"step_size": 0.1, "inverse_mass_matrix": np.ones(2)}
ADAPTS = {**MOVES, "adapt_step_size": True, "adapt_mass_matrix": True, "dense_mass": False}
SEVERAL = {"num_islands": 4, "num_particles": 20, "num_steps": 1, "target_ess": 0.5}


def run(**kwargs):
    return ebm.Estimator(ebm.ScoreMatching(), OPTIM).run(**kwargs).energy


CALLS = {
    "Gaussian": (ebm.Gaussian, {"loc": np.zeros(2), "covariance_matrix": np.eye(2)}),
    "Gaussian by precision": (
        ebm.Gaussian,
        {"loc": np.zeros(2), "precision_matrix": np.eye(2)},
    ),
    "Gaussian by root": (ebm.Gaussian, {"loc": np.zeros(2), "scale_tril": np.eye(2)}),
    "GaussianMixture": (
        ebm.GaussianMixture,
        {"weights": [0.5, 0.5], "locs": np.zeros((2, 2)), "covariance_matrices": np.eye(2)},
    ),
    "DoubleWell": (ebm.energies.DoubleWell, {"a": 1.0, "b": 2.0, "dim": 2}),
    "Ring": (ebm.energies.Ring, {"radius": 2.0, "width": 0.5}),
    "Banana": (ebm.energies.Banana, {"a": 1.0, "b": 0.5, "c": 0.5}),
    "Funnel": (ebm.energies.Funnel, {"scale": 3.0, "dim": 3}),
    "StudentT": (
        ebm.energies.StudentT,
        {"df": 3.0, "loc": np.zeros(2), "scale_tril": np.eye(2)},
    ),
    "IsingModel": (ebm.IsingModel, {"shape": (3, 3), "coupling": 0.1, "field": 0.2}),
    "PottsModel": (
        ebm.energies.PottsModel,
        {"shape": (3, 3), "num_states": 3, "coupling": 0.1, "field": [0.0, 0.1, 0.2]},
    ),
    "BernoulliRBM": (
        ebm.BernoulliRBM,
        {"weights": np.ones((2, 3)), "visible_bias": np.ones(2), "hidden_bias": np.ones(3)},
    ),
    "GaussianBernoulliRBM": (
        ebm.energies.GaussianBernoulliRBM,
        {"weights": np.ones((2, 3)), "visible_bias": np.ones(2), "hidden_bias": np.ones(3)},
    ),
    "MLPEnergy": (
        ebm.MLPEnergy,
        {"event_shape": 2, "width_size": 4, "depth": 1, "reference": NORMAL, "key": KEY},
    ),
    "ConvEnergy": (
        ebm.ConvEnergy,
        {"event_shape": (5, 5), "channels": (2,), "kernel_size": 3, "key": KEY},
    ),
    "Tilted": (ebm.Tilted, {"energy": GAUSS, "reference": NORMAL}),
    "Normalized": (ebm.Normalized, {"energy": GAUSS, "log_z": 1.0, "std_error": 0.1}),
    "Mixture": (ebm.Mixture, {"energies": [GAUSS, GAUSS], "weights": [0.5, 0.5]}),
    "Transformed": (
        ebm.Transformed,
        {"energy": GAUSS, "transform": ebm.energies.Standardize(0.0, 2.0)},
    ),
    "clamp": (
        ebm.clamp,
        {"energy": GAUSS, "mask": np.array([True, False]), "values": np.zeros(2)},
    ),
    "weight": (lambda weight: weight * GAUSS, {"weight": 2.0}),
    "temperature": (lambda temperature: GAUSS / temperature, {"temperature": 2.0}),
    "Standardize": (ebm.energies.Standardize, {"loc": np.zeros(2), "scale": np.ones(2)}),
    "Whiten": (
        ebm.energies.Whiten,
        {"loc": np.zeros(2), "covariance_matrix": np.eye(2)},
    ),
    "Logit": (ebm.energies.Logit, {"num_levels": 256.0, "alpha": 0.05}),
    "LogZ": (ebm.energies.LogZ, {"estimate": 1.0, "std_error": 0.1}),
    "as_energy": (ebm.as_energy, {"obj": GAUSS, "event_shape": (2,)}),
    "EnergyDistribution": (
        ebm.EnergyDistribution,
        {"energy": GAUSS, "event_shape": (2,), "batch_shape": (), "num_steps": 10},
    ),
    **{
        name: (getattr(ebm, name), ADAPTS)
        for name in ("MALA", "AutoMALA", "BarkerMH", "UnadjustedLangevin", "GHMC")
    },
    "RandomWalkMetropolis": (ebm.RandomWalkMetropolis, ADAPTS),
    "HMC": (ebm.HMC, {**ADAPTS, "trajectory_length": 1.0, "target_accept_prob": 0.8}),
    "NUTS": (ebm.NUTS, {**ADAPTS, "max_tree_depth": 5, "target_accept_prob": 0.8}),
    "AdjustedMCLMC": (ebm.AdjustedMCLMC, {**MOVES, "trajectory_length": 1.0}),
    "UnadjustedMCLMC": (ebm.UnadjustedMCLMC, {**MOVES, "trajectory_length": 1.0}),
    "ParallelTempering": (
        ebm.ParallelTempering,
        {"kernel": ebm.MALA(), "temperatures": [1.0, 2.0], "adapt_temperatures": True},
    ),
    "TemperedSMC": (
        ebm.TemperedSMC,
        {"kernel": ebm.MALA(), "reference": NORMAL, "num_steps": 2, "target_ess": 0.5},
    ),
    "AnnealedLangevin": (
        ebm.AnnealedLangevin,
        {"noise_scales": [1.0, 0.1], "kernel": ebm.MALA(), "num_steps": 2},
    ),
    "DenoisingScoreMatching": (ebm.DenoisingScoreMatching, {"noise_scale": 0.1}),
    "MultiscaleDenoisingScoreMatching": (
        ebm.MultiscaleDenoisingScoreMatching,
        {"noise_scales": [0.1, 1.0]},
    ),
    "SlicedScoreMatching": (ebm.SlicedScoreMatching, {"num_slices": 1}),
    "NoiseContrastiveEstimation": (ebm.NoiseContrastiveEstimation, {"num_noise": 2}),
    "ConditionalNoiseContrastiveEstimation": (
        ebm.objectives.ConditionalNoiseContrastiveEstimation,
        {"noise_scale": 0.1, "num_noise": 2},
    ),
    "FlowContrastiveEstimation": (ebm.objectives.FlowContrastiveEstimation, {"flow": NORMAL}),
    "ContrastiveDivergence": (
        ebm.ContrastiveDivergence,
        {"kernel": ebm.MALA(), "num_steps": 2, "start": ebm.FromData(), "energy_penalty": 0.1},
    ),
    "FromResampledNoise": (ebm.objectives.FromResampledNoise, {"num_proposals": 8}),
    "NormalizedConditional": (
        ebm.energies.NormalizedConditional,
        {"conditional": CONDITIONAL, "log_z": 1.0, "std_error": 0.1},
    ),
    "predict": (
        ebm.tasks.predict,
        {
            "rng_key": KEY,
            "conditional": CONDITIONAL,
            "conditions": DATA[:3, 0],
            "method": ebm.Quadrature(-5.0, 5.0),
            "num_samples": 10,
        },
    ),
    "Persistent": (ebm.Persistent, {"size": 100, "reinit": 0.05}),
    "MaximumLikelihood": (ebm.MaximumLikelihood, {"method": ebm.Quadrature(-5, 5)}),
    "EarlyStopping": (ebm.EarlyStopping, {"fraction": 0.1, "every": 10, "patience": 2}),
    "Estimator": (
        ebm.Estimator,
        {"objective": ebm.ScoreMatching(), "optim": OPTIM, "ema_decay": 0.9},
    ),
    "Estimator.run": (
        run,
        {
            "rng_key": KEY,
            "num_steps": 3,
            "energy": GAUSS,
            "data": DATA,
            "weights": np.ones(40),
            "batch_size": 10,
            **QUIET,
        },
    ),
    "Quadrature": (ebm.Quadrature, {"low": -5.0, "high": 5.0, "num_points": 50}),
    "ImportanceSampling": (ebm.ImportanceSampling, {"proposal": NORMAL, "num_samples": 100}),
    "AnnealedImportanceSampling": (
        ebm.AnnealedImportanceSampling,
        {"num_temperatures": 10, "num_particles": 20, "num_steps": 1},
    ),
    "SequentialMonteCarlo": (ebm.SequentialMonteCarlo, SEVERAL),
    "ThermodynamicIntegration": (ebm.ThermodynamicIntegration, SEVERAL),
    "BridgeSampling": (
        ebm.BridgeSampling,
        {"kernel": ebm.MALA(), "num_chains": 4, "num_warmup": 10, "num_samples": 20},
    ),
    "NestedSampling": (ebm.NestedSampling, {"num_live": 50, "num_steps": 5, "num_delete": 5}),
    "log_partition": (
        ebm.log_partition,
        {"rng_key": KEY, "energy": GAUSS, "method": ebm.ImportanceSampling(NORMAL, 500)},
    ),
    "log_likelihood": (ebm.log_likelihood, {"energy": GAUSS, "data": DATA}),
    "compare": (ebm.compare, {"energies": {"a": GAUSS, "b": GAUSS}, "data": DATA}),
    "sample": (ebm.sample, {**CHAINS, "thinning": 1, "init_params": np.ones((2, 2))}),
    "sample_moments": (ebm.sample_moments, CHAINS),
    "score": (ebm.score, {"energy": GAUSS, "x": np.ones(2)}),
    "dequantize": (ebm.energies.dequantize, {"rng_key": KEY, "data": np.ones((3, 2))}),
    "check_integrable": (
        ebm.normalizers.check_integrable,
        {"energy": GAUSS, "event_shape": (2,), "num_rays": 8},
    ),
    "maximum_mean_discrepancy": (
        ebm.diagnostics.maximum_mean_discrepancy,
        {"rng_key": KEY, "x": DATA, "y": OTHER, "num_permutations": 20},
    ),
    "sliced_wasserstein": (
        ebm.diagnostics.sliced_wasserstein,
        {"rng_key": KEY, "x": DATA, "y": OTHER, "num_projections": 5},
    ),
    "kernel_stein_discrepancy": (
        ebm.diagnostics.kernel_stein_discrepancy,
        {"rng_key": KEY, "energy": GAUSS, "draws": DATA, "num_bootstrap": 20},
    ),
    "energy_pit": (ebm.diagnostics.energy_pit, {"energy": GAUSS, "data": DATA, "draws": OTHER}),
    "fisher_divergence": (
        ebm.diagnostics.fisher_divergence,
        {"energy": GAUSS, "draws": DATA, "other_energy": GAUSS},
    ),
    "mixing_report": (ebm.mixing_report, {"source": DRAWS, "min_ess": 10}),
    "mode_report": (ebm.mode_report, {"source": DRAWS, "num_modes": 2, "min_ess": 10}),
    "drift_probe": (
        ebm.drift_probe,
        {
            "rng_key": KEY,
            "energy": GAUSS,
            "kernel": ebm.MALA(step_size=0.3),
            "starts": {"data": DATA, "noise": OTHER},
            "num_steps": 2,
            **QUIET,
        },
    ),
    "to_arviz": (ebm.to_arviz, {"source": DRAWS}),
}
NONSENSE = {
    "nan": float("nan"),
    "inf": float("inf"),
    "minus one": -1,
    "zero": 0,
    "two and a half": 2.5,
    "text": "text",
    "none": None,
    "empty": [],
    "an object": object(),
    "a cube": np.ones((3, 3, 3)),
    "nans": np.full((2, 2), np.nan),
    "complex": np.ones(2) * 1j,
}


class Hang(Exception):
    """A call took too long."""


def ring(*_):
    raise Hang


def has_nan(result):
    arrays = jax.tree.leaves(eqx.filter(result, eqx.is_inexact_array_like))
    return any(bool(jnp.isnan(jnp.asarray(x)).any()) for x in arrays)


def outcome(call, arguments, name):
    """What a call does: returns, returns NaN, names the argument, or refuses otherwise."""
    previous = signal.signal(signal.SIGALRM, ring)
    signal.alarm(60)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with contextlib.redirect_stderr(io.StringIO()):
                result = call(**arguments)
        silent = not caught and has_nan(result)
        return "silent NaN" if silent else "accepted"
    except Hang:
        return "hang"
    except (ValueError, TypeError, NotImplementedError, ebm.estimation.NonFiniteError) as error:
        named = name in str(error)
        return "named" if named else f"unnamed: {type(error).__name__}: {error!s:.150}"
    except Exception as error:  # Anything else is an accident inside.
        return f"unnamed: {type(error).__name__}: {error!s:.150}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def fuzz(name):
    call, valid = CALLS[name]
    assert outcome(call, valid, "-") == "accepted"
    return {
        (name, argument, kind): outcome(call, {**valid, argument: value}, argument)
        for argument in valid
        for kind, value in NONSENSE.items()
    }


@pytest.mark.slow
def test_nonsense_is_refused_by_name():
    found = {}
    for name in CALLS:
        found |= fuzz(name)
    count = {"accepted": 0, "named": 0, "unnamed": 0}
    for case, what in found.items():
        assert what not in ("hang", "silent NaN"), (case, what)
        count[what.split(":")[0]] += 1
    share = count["named"] / (count["named"] + count["unnamed"])
    print(f"{len(found)} calls: {count}, {share:.1%} of the refusals name the argument")
    assert share >= 0.85
