"""Networks fitted to known densities, judged on a grid, by `benchmarks/estimators.py`."""

import importlib.util
from pathlib import Path

import pytest

import numpyro_ebm as ebm

PATH = Path(__file__).parents[2] / "benchmarks" / "estimators.py"
SPEC = importlib.util.spec_from_file_location("estimators", PATH)
bench = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(bench)

#: The most that the divergence may be, in nats: of the ring, and of two moons.
LIMITS = {
    "ScoreMatching": (0.003, 0.03),
    "SlicedScoreMatching": (0.003, 0.03),
    "PlainSlicedScoreMatching": (0.004, 0.04),
    "DenoisingScoreMatching": (0.006, 0.05),
    "VarianceReducedDenoisingScoreMatching": (0.004, 0.04),
    "ConditionalNoiseContrastiveEstimation": (0.004, 0.03),
    "NoiseContrastiveEstimation": (0.005, 0.025),
    "ContrastiveDivergence, from data": (0.005, 0.03),
    "ContrastiveDivergence, persistent": (0.006, 0.045),
    "MaximumLikelihood": (0.004, 0.03),
}
#: One of each kind.
KINDS = [
    "SlicedScoreMatching",
    "DenoisingScoreMatching",
    "NoiseContrastiveEstimation",
]


def check(table, name, limit):
    truth, *_, noise_scale, box = bench.TABLES[table]
    energy, seconds = bench.fit(*bench.rows(noise_scale)[name], table)
    divergence, log_z = bench.Judge(truth, box)(ebm.unfreeze(energy))
    print(f"{table}, {name}: KL {divergence:.4f}, {seconds:.1f} s")
    assert divergence < limit
    if isinstance(energy, ebm.Normalized):
        print(f"log Z {energy.log_z:.4f} +- {energy.std_error:.4f}, on the grid {log_z:.4f}")
        assert abs(energy.log_z - log_z) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_the_ring(name):
    check("ring", name, LIMITS[name][0])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(LIMITS) - set(KINDS)))
def test_the_ring_by_the_others(name):
    check("ring", name, LIMITS[name][0])


@pytest.mark.slow
@pytest.mark.parametrize("name", LIMITS)
def test_two_moons(name):
    check("moons", name, LIMITS[name][1])
