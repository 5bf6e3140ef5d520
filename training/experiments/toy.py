"""The game in its smallest form: distributions in the plane, multilayer perceptrons, and a loop of a few lines.

The one training loop is for pictures. Here a point is a picture of one pixel with two channels, (N,2,1,1), so objectives and
regularisers are the very functions that the loop calls.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training import regularizers
from training.objectives import OBJECTIVES, Objective, began, next_k

Sampler = Callable[[int, torch.Generator], Tensor]
DEVIATION = 0.05  # of each of the 25 Gaussians
MODES = torch.cartesian_prod(torch.arange(-2.0, 3.0), torch.arange(-2.0, 3.0))  # their middles, (25,2)
BATCH = 128
WIDTH = 128
Z_DIM = 2
CRITIC_STEPS = 5  # of a Wasserstein critic for each of the generator, as both papers have it
GAMMA_K, RATE_K = 0.7, 0.001  # of BEGAN


def _points(x: Tensor) -> Tensor:
    return x[:, :, None, None]


def gaussians_25(count: int, rng: torch.Generator) -> Tensor:
    """Points (N,2,1,1) of 25 Gaussians of equal weight, on a square grid of distance 1."""
    middles = MODES[torch.randint(len(MODES), (count,), generator=rng)]
    return _points(middles + DEVIATION * torch.randn(count, 2, generator=rng))


def gaussians_8(count: int, rng: torch.Generator) -> Tensor:
    """Points (N,2,1,1) of eight Gaussians of deviation 0.02 on a circle of radius 1.4."""
    angles = torch.randint(8, (count,), generator=rng) * (math.pi / 4)
    middles = math.sqrt(2) * torch.stack([angles.cos(), angles.sin()], dim=1)
    return _points(middles + 0.02 * torch.randn(count, 2, generator=rng))


def swiss_roll(count: int, rng: torch.Generator) -> Tensor:
    """Points (N,2,1,1) along one and a half turns of a spiral, out to a radius of 1.9."""
    angles = 1.5 * math.pi * (1 + 2 * torch.rand(count, generator=rng))
    spiral = angles[:, None] * torch.stack([angles.cos(), angles.sin()], dim=1)
    return _points((spiral + 0.25 * torch.randn(count, 2, generator=rng)) / 7.5)


def perceptron(inputs: int, outputs: int, depth: int, width: int = WIDTH) -> nn.Sequential:
    """`depth` linear layers with ReLU between them, from (N,inputs,1,1) to (N,outputs); first weights as He et al. 2015."""
    layers: list[nn.Module] = [nn.Flatten()]
    for i in range(depth):
        linear = nn.Linear(width if i else inputs, width if i < depth - 1 else outputs)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Autoencoder(nn.Module):
    """BEGAN's judge: points (N,2,1,1) to reconstruction errors (N,1), through a code of one number."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(perceptron(2, 1, 3), perceptron(1, 2, 3))

    def forward(self, points: Tensor) -> Tensor:
        return (points.flatten(1) - self.layers(points)).abs().mean(dim=1, keepdim=True)


def discriminator_loss(
    judge: nn.Module,
    objective: Objective,
    real: Tensor,
    fake: Tensor,
    chosen: Collection[str],
    rng: torch.Generator,
    weight: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """What D minimises on points side by side, penalties included, and the logits (N,1) of reals and of fakes.

    chosen: any of r1, r2 and gradient_penalty, as in a recipe. weight: gamma of the first two, lambda of the last.
    """
    at_real, at_fake = judge(real), judge(fake)
    loss = objective.discriminator(at_real, at_fake).mean()
    for name, points in (("r1", real), ("r2", fake)):
        if name in chosen:
            own = points.detach().requires_grad_()
            loss = loss + weight / 2 * regularizers.r1(own, judge(own)).mean()
    if "gradient_penalty" in chosen:
        between = fake.detach().lerp(real, torch.rand(len(real), 1, 1, 1, generator=rng)).requires_grad_()
        loss = loss + weight * regularizers.gradient_penalty(between, judge(between)).mean()
    return loss, at_real, at_fake


@dataclass(frozen=True)
class Toy:
    """A game in the plane. regularizers: as for discriminator_loss, or weight_clipping. weight: theirs, or the limit."""

    objective: str
    regularizers: tuple[str, ...] = ()
    weight: float = 0.1  # lambda too: in the plane the authors of WGAN-GP took less than their 10


def play(toy: Toy, sample: Sampler, steps: int, count: int, seed: int) -> Tensor:
    """Train a generator of three hidden layers on a distribution -> `count` of its points (N,2).

    steps: of the generator.
    """
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    generator = nn.Sequential(perceptron(Z_DIM, 2, 4), nn.Unflatten(1, (2, 1, 1)))
    judge: nn.Module = Autoencoder() if toy.objective == "began" else perceptron(2, 1, 4)
    clipping = "weight_clipping" in toy.regularizers
    g_optimizer, d_optimizer = (make_optimizer(network, clipping) for network in (generator, judge))
    k = 0.0

    def fakes(some: int) -> Tensor:
        return generator(torch.randn(some, Z_DIM, 1, 1, generator=rng))

    for _ in range(steps):
        objective = began(k) if toy.objective == "began" else OBJECTIVES[toy.objective]
        for _ in range(CRITIC_STEPS if toy.objective == "wasserstein" else 1):
            with torch.no_grad():
                fake = fakes(BATCH)
            real = sample(BATCH, rng)
            loss, at_real, at_fake = discriminator_loss(judge, objective, real, fake, toy.regularizers, rng, toy.weight)
            d_optimizer.zero_grad()
            loss.backward()
            d_optimizer.step()
            if clipping:
                regularizers.clip(judge.parameters(), toy.weight)
        k = next_k(k, GAMMA_K, RATE_K, at_real.mean().item(), at_fake.mean().item())
        g_optimizer.zero_grad()
        objective.generator(judge(fakes(BATCH)), judge(real).detach()).mean().backward()
        g_optimizer.step()
    with torch.no_grad():
        return fakes(count).flatten(1)


def make_optimizer(network: nn.Module, clipping: bool) -> torch.optim.Optimizer:
    """Adam; RMSprop, which has no momentum, where weights are clipped (Arjovsky et al. 2017, section 4)."""
    if clipping:
        return torch.optim.RMSprop(network.parameters(), lr=5e-4)
    return torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.5, 0.9), fused=True)


def count_modes(points: Tensor) -> tuple[int, float]:
    """How many of the 25 Gaussians points (N,2) reach, and the share of good points.

    A point is good within three deviations of a middle. A mode is reached where it has a tenth of its share of good ones.
    """
    distance, nearest = torch.cdist(points, MODES).min(dim=1)
    good = distance <= 3 * DEVIATION
    found = torch.bincount(nearest[good], minlength=len(MODES))
    return int((found >= len(points) / len(MODES) / 10).sum()), float(good.float().mean())
