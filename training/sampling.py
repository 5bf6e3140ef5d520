"""What a step sees: which pictures, how they are turned, and which fakes are made.

All of it follows from (seed, step, purpose), so that nothing random has to be kept, resumed or sent to other processes.
"""

import functools
import hashlib
import inspect
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

W_AVG_SAMPLES = 4096


def seeded(seed: int, step: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """The random numbers of one purpose in one step: the same whenever they are asked for."""
    digest = hashlib.blake2b(f"{seed}/{step}/{purpose}".encode(), digest_size=4).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little"))


def real_indices(seed: int, step: int, batch_size: int, length: int, domain: str = "") -> list[int]:
    """Which pictures a step sees: each once in every round through the set, or independently from an endless one.

    domain: a name for each set that is drawn from independently of the others.
    """
    if length > 2**20:
        return torch.randint(length, (batch_size,), generator=seeded(seed, step, f"indices{domain}")).tolist()
    positions = range(step * batch_size, (step + 1) * batch_size)
    return [_round(seed, position // length, length, domain)[position % length] for position in positions]


@functools.lru_cache(maxsize=64)
def _round(seed: int, number: int, length: int, domain: str) -> list[int]:
    return torch.randperm(length, generator=seeded(seed, number, f"round{domain}")).tolist()


def turn(images: Tensor, quarters: Tensor, flips: Tensor) -> Tensor:
    """Turn pictures (N,C,S,S) by quarters (N,) of a full turn and mirror those where flips (N,) is true; exact."""
    turned = images.clone()
    for quarter in (1, 2, 3):
        chosen = quarters == quarter
        turned[chosen] = images[chosen].rot90(quarter, (2, 3))
    turned[flips] = turned[flips].flip(3)
    return turned


@dataclass
class Latents:
    """What decides a batch of fakes: z (N,z_dim), conditions (each (N,)), and for style mixing a second z and the row
    (N,) from which it rules."""

    z: Tensor
    conditions: dict[str, Tensor]
    mixing: tuple[Tensor, Tensor] | None = None

    def select(self, part: slice, device: torch.device) -> "Latents":
        """A part of the batch, on a device."""
        conditions = {name: value[part].to(device) for name, value in self.conditions.items()}
        mixing = None if self.mixing is None else (self.mixing[0][part].to(device), self.mixing[1][part].to(device))
        return Latents(self.z[part].to(device), conditions, mixing)


def draw_latents(generator: Any, count: int, seed: int, step: int, style_mixing: float = 0.0) -> Latents:
    """Draw what the generator's `conditions` name: order by its order_probs, phase uniform in [0, 2 pi)."""
    z = torch.randn(count, generator.z_dim, generator=seeded(seed, step, "z"))
    conditions: dict[str, Tensor] = {}
    if "order" in generator.conditions:
        probs = generator.config.order_probs or [1.0] * generator.config.max_order
        weights = torch.tensor(probs, dtype=torch.float64)
        conditions["order"] = torch.multinomial(weights, count, True, generator=seeded(seed, step, "order")) + 1
    if "phase" in generator.conditions:
        conditions["phase"] = torch.rand(count, generator=seeded(seed, step, "phase")) * (2 * math.pi)
    mixing = None
    if style_mixing > 0:
        rng = seeded(seed, step, "mixing")
        second = torch.randn(count, generator.z_dim, generator=rng)
        row = torch.randint(1, max(2, generator.style_ws), (count,), generator=rng)
        mixed = torch.rand(count, generator=rng) < style_mixing
        mixing = second, torch.where(mixed, row, generator.num_ws)
    return Latents(z, conditions, mixing)


def takes_noise(generator: Any) -> bool:
    """Whether a generator's synthesis, a method or a module, has per-layer noise."""
    synthesis = generator.synthesis
    return "noise_mode" in inspect.signature(getattr(synthesis, "forward", synthesis)).parameters


def styles(generator: Any, latents: Latents) -> Tensor:
    """What latents become before they are drawn: ws (N,num_ws,w_dim)."""
    given = latents.conditions
    order = {"order": given["order"]} if "order" in given else {}
    ws: Tensor = generator.broadcast(generator.mapping(latents.z, **order), **given)
    if latents.mixing is not None:
        second, first_row = latents.mixing
        rows = torch.arange(ws.shape[1], device=ws.device)
        replaced = (rows >= first_row[:, None]) & (rows < generator.style_ws)
        ws = torch.where(replaced[:, :, None], generator.broadcast(generator.mapping(second, **order), **given), ws)
    return ws


def draw_pictures(generator: Any, ws: Tensor, size: int, noise: list[torch.Generator] | None = None) -> Tensor:
    """Pictures (N,3,size,size) in [-1,1] of ws; those of a generator of pairs have six channels, domain A's and domain B's.

    noise: one random generator for each picture, for generators that take noise; None uses their fixed noise.
    """
    options: dict[str, Any] = {}
    if "output_size" in generator.conditions:
        options["output_size"] = size
    if takes_noise(generator):
        options["noise_mode"] = "const" if noise is None else "random"
        options["generator"] = noise
    pictures: Tensor = getattr(generator, "pairs", generator.synthesis)(ws, **options)
    return pictures.flatten(1, -3)


def generate(generator: Any, latents: Latents, size: int, noise: list[torch.Generator] | None = None) -> Tensor:
    """Pictures of latents, as draw_pictures has them; noise likewise."""
    return draw_pictures(generator, styles(generator, latents), size, noise)


@torch.no_grad()
def center_styles(generator: Any, seed: int) -> None:
    """Set w_avg, the centre of truncation, to the mean of w; with orders one centre for each, the unseen ones too.

    Karras et al. 2019, section B. Measured on the weights that are saved, where a running mean would lag behind them.
    """
    z = torch.randn(W_AVG_SAMPLES, generator.z_dim, generator=seeded(seed, 0, "w_avg")).to(generator.w_avg.device)
    if "order" not in generator.conditions:
        generator.w_avg.copy_(generator.mapping(z).mean(dim=0))
        return
    for index, center in enumerate(generator.w_avg):
        center.copy_(generator.mapping(z, order=torch.full((len(z),), index + 1, device=z.device)).mean(dim=0))
