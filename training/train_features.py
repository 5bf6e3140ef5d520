"""Train the domain feature network on emblems whose attributes are known, and put it inside the package.

    python -m training.train_features --max_steps 6000

Half of the pictures are of the source distribution, half of the benchmark's targets; some are blurred, noisy or deformed, and the
network has to say how much. The attributes are those that the renderer drew from: nothing is labelled by hand.
"""

import argparse
import math
import os
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from sharingan_hub.features import EMBEDDED, SIDE, FeatureNetwork
from training.checkpoints import write_json
from training.emblems import BENCHMARK, FAMILIES, Emblem, render, sample_emblems
from training.sampling import seeded
from training.teacher import CHOICES, attributes

HELD_OUT = 2**31  # seeds from here on are for testing
FLAWS = 3  # blur, noise, deformation


def true_answers(emblems: Sequence[Emblem]) -> tuple[Tensor, Tensor]:
    """What the network has to say: classes (N, 3) (order, first and second family) and measures (N, M)."""
    names = list(FAMILIES)
    classes = [
        [e.order - 1, *(names.index(p.family) for p in e.patterns), len(names)][:3] for e in emblems
    ]  # the second family is len(FAMILIES) where there is no second pattern
    measures = torch.tensor(
        [attributes(e)[CHOICES:] + [math.copysign(1.0, p.swirl) for p in e.patterns[:1]] for e in emblems]
    )
    return torch.tensor(classes), measures


def spoil(images: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Blur, deform or add noise to some of the pictures (N, 3, S, S) in [0, 1]; and how much, (N, 3) in [0, 1]."""
    count, side = len(images), images.shape[2]
    amount = torch.rand(count, FLAWS, generator=rng) * (torch.rand(count, FLAWS, generator=rng) < 0.25)
    images = deformed(images, 0.1 * amount[:, 2], rng)
    images = blurred(images, 2.0 * side / SIDE * amount[:, 0])
    noise = torch.randn(images.shape, generator=rng) * (0.2 * amount[:, 1])[:, None, None, None]
    return (images + noise).clamp(0, 1), amount


def deformed(images: Tensor, rms: Tensor, rng: torch.Generator) -> Tensor:
    """Circles out of round: radii scaled by a trigonometric series of harmonics 1 to 5 in the angle, (N,) its RMS."""
    side = images.shape[2]
    axis = (torch.arange(side) + 0.5) * (2 / side) - 1
    x, y = axis[None, :].expand(side, side), axis[:, None].expand(side, side)
    angle = torch.atan2(y, x)
    waves = torch.stack([f(k * angle) for k in range(1, 6) for f in (torch.cos, torch.sin)])
    series = torch.randn(len(images), len(waves), generator=rng)
    series *= (math.sqrt(2) * rms / series.norm(dim=1))[:, None]
    scale = torch.exp(torch.einsum("nk,kyx->nyx", series, waves))
    grid = torch.stack([x, y], dim=2) * scale[..., None]
    warped = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return torch.where((rms > 0)[:, None, None, None], warped, images)


def blurred(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with a deviation (N,) in pixels for each picture; 0 leaves it as it is."""
    reach = max(1, math.ceil(3 * float(sigma.max())))
    offsets = torch.arange(-reach, reach + 1)
    taps = torch.exp(-0.5 * (offsets / sigma.clamp(min=1e-3)[:, None]).square())
    taps = (taps / taps.sum(dim=1, keepdim=True)).repeat_interleave(3, dim=0)  # for each channel of each picture
    flat = F.pad(images, [reach] * 4, mode="replicate").flatten(0, 1)[None]
    flat = F.conv2d(flat, taps[:, None, :, None], groups=len(taps))
    return F.conv2d(flat, taps[:, None, None, :], groups=len(taps)).view(images.shape)


class Answers(nn.Module):
    """Linear answers from features: logits of the three choices, and standardised measures."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, num_features: int, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.sizes = [8, len(FAMILIES), len(FAMILIES) + 1, len(mean) + FLAWS]
        self.linear = nn.Linear(num_features, sum(self.sizes))
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def losses(self, features: Tensor, classes: Tensor, measures: Tensor, flaws: Tensor) -> dict[str, Tensor]:
        """Cross entropies of the choices, and the Huber loss of measures and flaws."""
        *choices, numbers = self.linear(features).split(self.sizes, dim=1)
        truth = torch.cat([(measures - self.mean) / self.deviation, flaws / 0.2], dim=1)
        losses = {
            name: F.cross_entropy(logits, classes[:, i])
            for i, (name, logits) in enumerate(zip(("order", "family", "second"), choices))
        }
        return losses | {"measures": F.smooth_l1_loss(numbers, truth, beta=0.5)}

    def right(self, features: Tensor, classes: Tensor) -> list[float]:
        """Share of right answers for order, first and second family."""
        choices = self.linear(features).split(self.sizes, dim=1)[:3]
        return [float((logits.argmax(1) == classes[:, i]).float().mean()) for i, logits in enumerate(choices)]


def examples(seed: int, step: int, count: int, first: int = 0, clean: bool = False) -> tuple[Tensor, ...]:
    """A batch: pictures, classes, measures, flaws."""
    draw = random.Random(f"{seed}/{step}")
    seeds = [first + draw.randrange(HELD_OUT) for _ in range(count)]
    targets = len(BENCHMARK)
    emblems = [
        emblem
        for i, name in enumerate(("source", *BENCHMARK))
        for emblem in sample_emblems(name, seeds[: count // 2] if i == 0 else seeds[count // 2 + i - 1 :: targets])
    ]
    images = render(emblems, SIDE)
    flaws = torch.zeros(len(images), FLAWS)
    if not clean:
        images, flaws = spoil(images, seeded(seed, step, "flaws"))
    return images, *true_answers(emblems), flaws


def train(max_steps: int, batch_size: int, learning_rate: float, seed: int) -> tuple[FeatureNetwork, dict[str, float]]:
    """Train by Adam, the rate falling to zero as a cosine; the network and how well it answers on unseen emblems."""
    torch.manual_seed(seed)
    _, _, measures, _ = examples(seed, -1, 2048)
    network = FeatureNetwork().to(memory_format=torch.channels_last)
    answers = Answers(network.num_features, measures.mean(0), measures.std(0) + 1e-3)
    weights = [*network.parameters(), *answers.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, max_steps, pct_start=0.05)
    started = time.monotonic()
    with ThreadPoolExecutor(1) as loader, tqdm(total=max_steps, unit="step", mininterval=10) as bar:
        coming = loader.submit(examples, seed, 0, batch_size)
        for step in range(max_steps):
            images, *truth = coming.result()
            coming = loader.submit(examples, seed, step + 1, batch_size)
            losses = answers.losses(network(images), *truth)
            optimizer.zero_grad(set_to_none=True)
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step()
            schedule.step()
            bar.update()
            if step % 50 == 0:
                bar.set_postfix_str(" ".join(f"{name} {float(loss.detach()):.3f}" for name, loss in losses.items()))
    network.eval()
    answers.eval()
    with torch.no_grad():
        images, classes, measures, _ = examples(seed, -2, 2000, first=HELD_OUT, clean=True)
        found = torch.cat([network(some) for some in images.split(250)])
        numbers = answers.linear(found)[:, -(measures.shape[1] + FLAWS) : -FLAWS]
        spread = ((measures - answers.mean) / answers.deviation - numbers).square().mean(0)
        explained = 1 - spread / ((measures - answers.mean) / answers.deviation).var(0).clamp(min=1e-6)
    order, family, second = answers.right(found, classes)
    calibrate(network, found)
    return network, {
        "minutes": round((time.monotonic() - started) / 60, 1),
        "order_right": order,
        "family_right": family,
        "second_family_right": second,
        "median_variance_explained": float(explained.median()),
    }


@torch.no_grad()
def calibrate(network: FeatureNetwork, features: Tensor) -> None:
    """Scale the features, which are (N, D) on pictures as they come, to a variance of 1 on average over the D."""
    scale = features.var(dim=0).mean().sqrt()
    network.project.weight.div_(scale)
    network.project.bias.div_(scale)


def save(network: FeatureNetwork, report: dict[str, float], folder: Path) -> None:
    """Weights in half precision, config.json and report.json, each file whole or not at all."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    network.save_config(folder)
    weights = {
        name: value.to(torch.float16).contiguous()
        for name, value in network.state_dict().items()
        if value.is_floating_point()  # batch norm counts its steps, which nobody needs
    }
    draft = folder / ".weights.tmp"
    save_file(weights, draft)
    draft.chmod(0o644)  # safetensors lets nobody else read what it writes
    os.replace(draft, folder / "diffusion_pytorch_model.safetensors")
    write_json(report, folder / "report.json")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `python -m training.train_features`."""
    parser = argparse.ArgumentParser(prog="python -m training.train_features", description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=EMBEDDED)
    parser.add_argument("--max_steps", type=int, default=6000)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    network, report = train(options.max_steps, options.batch_size, options.learning_rate, options.seed)
    report |= {"steps": options.max_steps, "batch_size": options.batch_size, "seed": options.seed}
    save(network, report, options.output_dir)
    print(f"{options.output_dir} holds the feature network: {report}")


if __name__ == "__main__":
    main()
