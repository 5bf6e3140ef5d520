"""How fast each family trains, beside a plain PyTorch loop that does the same arithmetic.

    OMP_NUM_THREADS=1 python -m benchmarks.training            # --quick for two rounds

The settings are those of the recipes, at 32 px, without augmentation, on the fifteen pictures. The plain loop is `Plain` below:
the same networks, objective, optimisers, penalties and average of the generator, the same layout in memory and the same process,
so what is left between the two is what the training loop does besides: random numbers that can be drawn again, statistics,
checks, logging, reading pictures. The loops take turns, a step each; the figures are pictures per second of processor time, and the
median over rounds of 16 steps of the one time over the other.
"""

from __future__ import annotations

import argparse
import io
import logging
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from training import train
from training.config import TrainConfig

ROOT = Path(__file__).parents[1]
FAMILIES = {
    "radial": "train_radial_adversarial",
    "stylegan2": "train_stylegan2_ada",
    "dcgan": "train_dcgan",
    "wgan_gp": "train_wgan_gp",
    "r3gan": "train_r3gan",
    "vit": "train_vit",
    "began": "train_began",
    "cogan": "train_cogan",
}
NEVER = 10**9


def settings(family: str, folder: Path) -> TrainConfig:
    """A family's recipe, made small."""
    recipe = yaml.safe_load((ROOT / "training" / "recipes" / f"{FAMILIES[family]}.yaml").read_text())
    pictures = str(ROOT / "training" / "data" / "sharingan15")
    never = {"max_steps": NEVER, "sample_every": NEVER, "checkpointing_steps": NEVER, "report_to": "none"}
    small = {"resolution": 32, "augment": "none", "real_rotations": False, "real_flips": False, "cooldown": 0.0}
    taught = {"base_model": None, "sharpen": 1.0, "teaching_weight": 0.0}
    data = {"train_data": pictures, "train_data_b": pictures if family == "cogan" else None}
    return TrainConfig(**recipe | never | small | taught | data | {"output_dir": str(folder)})


class Plain:
    """The loop that one would write for a family by hand."""

    def __init__(self, config: TrainConfig, generator: Any, discriminator: Any, pictures: Tensor) -> None:
        self.config, self.pictures = config, pictures
        self.generator, self.discriminator = (
            network.to(memory_format=torch.channels_last).train() for network in (generator, discriminator)
        )
        self.average = deepcopy(generator).eval().requires_grad_(False)
        lazy = config.r1_interval / (config.r1_interval + 1) if "r1" in config.regularizers else 1.0
        d_rate = config.discriminator_learning_rate or config.learning_rate
        self.g_optimizer = self.adam(generator, config.learning_rate, 1.0)
        self.d_optimizer = self.adam(discriminator, d_rate, lazy)
        self.step, self.k = 0, 0.0

    def adam(self, network: Any, rate: float, lazy: float) -> torch.optim.Optimizer:
        betas = (self.config.adam_beta1**lazy, self.config.adam_beta2**lazy)
        return torch.optim.Adam(network.parameters(), rate * lazy, betas, fused=True)

    def draw(self) -> Tensor:
        generator, count = self.generator, self.config.batch_size
        z = torch.randn(count, generator.z_dim)
        if "order" in generator.conditions:
            order, phase = torch.randint(1, 9, (count,)), torch.rand(count) * 2 * math.pi
            ws = generator.broadcast(generator.mapping(z, order=order), order=order, phase=phase)
            return generator.synthesis(ws, output_size=self.config.resolution)
        ws = generator.broadcast(generator.mapping(z))
        if hasattr(generator, "pairs"):
            return generator.pairs(ws).flatten(1, 2)
        return generator.synthesis(ws)

    def d_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        if self.config.objective == "wasserstein":
            return fake.mean() - real.mean()
        if self.config.objective == "relativistic":
            return F.softplus(fake - real).mean()
        if self.config.objective == "began":
            return real.mean() - self.k * fake.mean()
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    def g_loss(self, fake: Tensor, reals: Tensor) -> Tensor:
        if self.config.objective == "wasserstein":
            return -fake.mean()
        if self.config.objective == "relativistic":
            return F.softplus(self.discriminator(reals) - fake).mean()
        if self.config.objective == "began":
            return fake.mean()
        return F.softplus(-fake).mean()

    def judge(self, images: Tensor, penalize: bool) -> tuple[Tensor, Tensor | float]:
        """Logits, and R1 of the first r1_batch_fraction of the pictures where it is its turn."""
        if not penalize:
            return self.discriminator(images), 0.0
        config = self.config
        count = int(len(images) * config.r1_batch_fraction)
        own, rest = images[:count].detach().requires_grad_(), images[count:]
        logits = self.discriminator(own)
        (gradient,) = torch.autograd.grad(logits.sum(), own, create_graph=True)
        penalty = gradient.square().sum((1, 2, 3)).mean() * (config.r1_gamma / 2 * config.r1_interval)
        return (torch.cat([logits, self.discriminator(rest)]) if len(rest) else logits), penalty

    def gradient_penalty(self, reals: Tensor, fakes: Tensor) -> Tensor:
        between = fakes.lerp(reals, torch.rand(len(reals), 1, 1, 1)).requires_grad_()
        (gradient,) = torch.autograd.grad(self.discriminator(between).sum(), between, create_graph=True)
        return self.config.gradient_penalty_weight * (gradient.flatten(1).norm(dim=1) - 1).square().mean()

    def take_step(self) -> None:
        config, chosen = self.config, self.config.regularizers
        reals = self.pictures[torch.randint(len(self.pictures), (config.batch_size,))]
        learning = (self.step + 1) % config.critic_steps == 0
        penalize = self.step % config.r1_interval == 0

        with torch.set_grad_enabled(learning):
            fakes = self.draw()
        self.d_optimizer.zero_grad()
        real, penalty = self.judge(reals, penalize and "r1" in chosen)
        fake, other = self.judge(fakes.detach(), penalize and "r2" in chosen)
        loss = self.d_loss(real, fake) + penalty + other
        if "gradient_penalty" in chosen:
            loss = loss + self.gradient_penalty(reals, fakes.detach())
        loss.backward()
        self.d_optimizer.step()
        if config.objective == "began":
            balance = config.began_gamma * real.mean().item() - fake.mean().item()
            self.k = min(1.0, max(0.0, self.k + config.began_rate * balance))

        if learning:
            self.g_optimizer.zero_grad()
            self.discriminator.requires_grad_(False)
            self.g_loss(self.discriminator(fakes), reals).backward()
            self.discriminator.requires_grad_(True)
            self.g_optimizer.step()
            with torch.no_grad():
                for averaged, weight in zip(self.average.parameters(), self.generator.parameters()):
                    averaged.lerp_(weight, 1 - config.ema_decay)
                for averaged, buffer in zip(self.average.buffers(), self.generator.buffers()):
                    averaged.lerp_(buffer, 1 - config.ema_decay)
        self.step += 1


def seconds(act: Callable[[], Any]) -> float:
    """Processor time of a step."""
    start = time.process_time()
    act()
    return time.process_time() - start


def compare(family: str, rounds: int) -> tuple[float, float, float]:
    """Pictures per second of the training loop and of the plain one, and the median over rounds of how they compare."""
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(io.StringIO()):  # of the bar
        config = settings(family, Path(folder))
        ours = train.build_trainer(config)
        generator, discriminator = train.build_networks(config, ours.dataset.order_probs)
        data = ours._real_pictures(lambda _, length: range(length))
        plain = Plain(config, generator, discriminator, data)
        loop = ours.steps()
        count = 15 if config.critic_steps > 1 else 16  # whole rounds of R1, or of the generator's turns
        acts: tuple[Callable[[], Any], ...] = (lambda: next(loop), plain.take_step)
        times = []
        for step in range(-2, rounds * count):  # the first steps are slower
            first = step % 2
            spent = {i: seconds(acts[i]) for i in (first, 1 - first)}
            times.append((spent[0], spent[1]))
        loop.close()
    sums = [[sum(own) for own in zip(*times[i : i + count])] for i in range(2, len(times), count)]
    own, theirs = (statistics.median(some[i] for some in sums) for i in (0, 1))
    pictures = count * config.batch_size
    return pictures / own, pictures / theirs, statistics.median(b / a for a, b in sums)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--rounds", type=int, default=9, help="of 15 or 16 steps")
    parser.add_argument("--quick", action="store_true", help="two rounds")
    options = parser.parse_args()
    logging.disable()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| family | recipe | pictures per second | plain loop | of the plain loop's speed |\n|---|---|---|---|---|")
    for family in options.families:
        own, theirs, ratio = compare(family, 2 if options.quick else options.rounds)
        print(f"| {family} | `{FAMILIES[family]}.yaml` | {own:.1f} | {theirs:.1f} | {ratio:.3f} |", flush=True)


if __name__ == "__main__":
    main()
