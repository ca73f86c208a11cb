"""ebmkit's fits of two moons, evaluated as `estimators.py` evaluates ours.

Needs torch and ebmkit, which the library does not: run it in a separate environment. Data,
network, steps and batches are those of `estimators.py`; everything else is ebmkit's default or
what its README recommends.
"""

import math
import sys
import time

import ebm
import torch
from ebm.losses import (
    ContrastiveDivergence,
    DenoisingScoreMatching,
    ExactScoreMatching,
    NoiseContrastiveEstimation,
    SlicedScoreMatching,
)
from ebm.nets import MLPEnergy
from ebm.samplers import LangevinDynamics


def arcs(angle):
    upper = torch.stack([angle.cos(), angle.sin()], 1)
    return torch.cat([upper, torch.tensor([1.0, 0.5]) - upper]) - torch.tensor([0.5, 0.25])


def judge(energy, n=601):
    """KL from the truth, on a grid."""
    x, y = torch.linspace(-6.5, 6.5, n), torch.linspace(-6.25, 6.25, n)
    points = torch.cartesian_prod(x, y)
    centres = arcs((torch.arange(400) + 0.5) * math.pi / 400)
    log_area = torch.log((x[1] - x[0]) * (y[1] - y[0]))

    def log_p(part):
        squares = torch.cdist(part, centres) ** 2
        exponents = -squares / (2 * 0.01) - math.log(2 * math.pi * 0.01 * len(centres))
        return exponents.logsumexp(1)

    with torch.no_grad():
        log_p = torch.cat([log_p(part) for part in points.split(8192)])
        log_q = -torch.cat([energy(part) for part in points.split(8192)])
    log_z = (log_q + log_area).logsumexp(0)
    mass = (log_p + log_area).exp()
    return float((mass * (log_p - log_q + log_z)).sum()), float(log_z)


def losses():
    langevin = LangevinDynamics(step_size=0.01, steps=20)
    return {
        "ScoreMatching": ExactScoreMatching(),
        "SlicedScoreMatching": SlicedScoreMatching(),
        "DenoisingScoreMatching": DenoisingScoreMatching(0.05),
        "NoiseContrastiveEstimation": NoiseContrastiveEstimation(noise_ratio=5),
        "ContrastiveDivergence, from noise": ContrastiveDivergence(
            LangevinDynamics(step_size=0.01, steps=60)
        ),
        "ContrastiveDivergence, persistent": ContrastiveDivergence(
            langevin, ebm.ReplayBuffer(10_000, (2,))
        ),
    }


if __name__ == "__main__":
    for seed in map(int, sys.argv[1:] or ["0"]):
        for name, loss in losses().items():
            torch.manual_seed(seed)
            data = arcs(math.pi * torch.rand(4096)) + 0.1 * torch.randn(8192, 2)
            energy = MLPEnergy(2)
            trainer = ebm.Trainer(energy, loss, device="cpu")
            start = time.perf_counter()
            trainer.fit(data, steps=6000, batch_size=256, verbose=False)
            seconds = time.perf_counter() - start
            divergence, log_z = judge(energy)
            learned = f"{float(loss.log_z):.4f}" if hasattr(loss, "log_z") else ""
            print(f"{name:<40}{divergence:>8.4f}{log_z:>9.4f}{learned:>18}{seconds:>9.1f}")
            sys.stdout.flush()
