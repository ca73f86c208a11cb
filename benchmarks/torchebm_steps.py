"""torchebm's time per step for the same work as `overhead.py` and `steps.py`.

Needs torch and torchebm, which the library does not: run it in a separate environment,
alternating with `make bench` and `steps.py`. torchebm 0.8.9 has no MALA; HMC with one leapfrog
step is the same transition.
"""

import time

import torch
from torch import nn
from torchebm.core import BaseModel, DoubleWellModel
from torchebm.losses import (
    ContrastiveDivergence,
    DenoisingScoreMatching,
    ScoreMatching,
    SlicedScoreMatching,
)
from torchebm.samplers import HamiltonianMonteCarlo, LangevinDynamics


class Energy(BaseModel):
    def __init__(self, dim=2):
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Linear(dim, 128), nn.SiLU()),
            *(nn.Linear(128, 128), nn.SiLU()),
            *(nn.Linear(128, 128), nn.SiLU()),
            nn.Linear(128, 1),
        )

    def forward(self, x):
        return self.net(x).squeeze(-1) + 0.5 * (x**2).sum(-1)


class ConvEnergy(BaseModel):
    """`ebm.ConvEnergy` for 28 x 28 pixels, with its reference N(0, 4)."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, 1, 1), nn.SiLU()),
            *(nn.Conv2d(16, 32, 3, 2, 1), nn.SiLU()),
            *(nn.Conv2d(32, 32, 3, 2, 1), nn.SiLU()),
            *(nn.Flatten(), nn.Linear(7 * 7 * 32, 1)),
        )

    def forward(self, x):
        return self.net(x).squeeze(-1) + 0.125 * (x**2).flatten(1).sum(-1)


def milliseconds(run, num_steps):
    run(10)
    start = time.perf_counter()
    run(num_steps)
    return 1000 * (time.perf_counter() - start) / num_steps


def fitting(loss_of):
    energy, data = Energy(), torch.randn(8192, 2)
    loss_fn = loss_of(energy)
    optimiser = torch.optim.Adam(energy.parameters(), lr=1e-3)

    def run(num_steps):
        for _ in range(num_steps):
            loss = loss_fn(data[torch.randint(8192, (256,))])
            loss = loss[0] if isinstance(loss, tuple) else loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    return milliseconds(run, 200)


def persistent(energy):
    sampler = LangevinDynamics(model=energy, step_size=0.01)
    return ContrastiveDivergence(model=energy, sampler=sampler, k_steps=10, persistent=True)


def mala():
    sampler = HamiltonianMonteCarlo(model=Energy(), step_size=0.1**0.5, n_leapfrog_steps=1)
    start = torch.randn(1000, 2)
    return milliseconds(lambda n: sampler.sample(x=start, n_steps=n), 100)


def langevin(model, num_chains, shape, num_steps):
    sampler = LangevinDynamics(model=model, step_size=0.01)
    start = torch.randn(num_chains, *shape)
    return milliseconds(lambda n: sampler.sample(x=start, n_steps=n), num_steps)


def hmc():
    sampler = HamiltonianMonteCarlo(model=Energy(), step_size=0.1, n_leapfrog_steps=10)
    start = torch.randn(200, 2)
    return milliseconds(lambda n: sampler.sample(x=start, n_steps=n), 50)


ROWS = {
    "denoising score matching, batch 256": lambda: fitting(
        lambda energy: DenoisingScoreMatching(model=energy, noise_scale=0.1)
    ),
    "sliced score matching, batch 256": lambda: fitting(
        lambda energy: SlicedScoreMatching(model=energy, n_projections=1)
    ),
    "score matching, batch 256": lambda: fitting(lambda energy: ScoreMatching(model=energy)),
    "persistent CD-10 with Langevin, batch 256": lambda: fitting(persistent),
    "HMC with one leapfrog step, 1000 chains": mala,
    "Langevin, 1000 chains": lambda: langevin(Energy(), 1000, (2,), 200),
    "Langevin, 1 chain": lambda: langevin(Energy(), 1, (2,), 2000),
    "Langevin, 1000 chains, 784 dimensions": lambda: langevin(Energy(784), 1000, (784,), 50),
    "Langevin, double well, 10 dimensions": lambda: langevin(
        DoubleWellModel(), 1000, (10,), 1000
    ),
    "Langevin, 64 images of 28 x 28": lambda: langevin(ConvEnergy(), 64, (1, 28, 28), 60),
    "HMC with 10 leapfrog steps, 200 chains": hmc,
}

if __name__ == "__main__":
    for name, run in ROWS.items():
        print(f"{name:<42} {run():.4f} ms a step")
