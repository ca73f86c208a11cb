"""torchebm's time a step for the work of `overhead.py`, for the table in the README.

Needs torch and torchebm, which the library doesn't: run it in an environment of their own,
alternating with `make bench`. torchebm 0.8.9 has no MALA; HMC with one leapfrog step is the
same transition.
"""

import time

import torch
from torch import nn
from torchebm.core import BaseModel
from torchebm.losses import DenoisingScoreMatching
from torchebm.samplers import HamiltonianMonteCarlo


class Energy(BaseModel):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Linear(2, 128), nn.SiLU()),
            *(nn.Linear(128, 128), nn.SiLU()),
            *(nn.Linear(128, 128), nn.SiLU()),
            nn.Linear(128, 1),
        )

    def forward(self, x):
        return self.net(x).squeeze(-1) + 0.5 * (x**2).sum(-1)


def milliseconds(run, num_steps):
    run(10)
    start = time.perf_counter()
    run(num_steps)
    return 1000 * (time.perf_counter() - start) / num_steps


def denoising():
    energy, data = Energy(), torch.randn(8192, 2)
    loss_fn = DenoisingScoreMatching(model=energy, noise_scale=0.1)
    optimiser = torch.optim.Adam(energy.parameters(), lr=1e-3)

    def run(num_steps):
        for _ in range(num_steps):
            loss = loss_fn(data[torch.randint(8192, (256,))])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    return milliseconds(run, 300)


def langevin():
    sampler = HamiltonianMonteCarlo(model=Energy(), step_size=0.1**0.5, n_leapfrog_steps=1)
    start = torch.randn(1000, 2)
    return milliseconds(lambda n: sampler.sample(x=start, n_steps=n), 100)


if __name__ == "__main__":
    print(f"denoising score matching, batch 256: {denoising():.2f} ms a step")
    print(f"HMC with one leapfrog step, 1000 chains: {langevin():.2f} ms a step")
