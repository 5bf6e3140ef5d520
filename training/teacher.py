"""Teach a generator the source distribution from known answers.

The source emblem is a function of a Gaussian latent (training/emblems.py), so for any z, order and phase the picture that
belongs to them is known, and so is what is seen where. A generator that is first shown these answers knows every motif
at every order; adversarial training alone, on two CPU cores, ends with a few designs of each order.

Two lessons go on side by side. An encoder turns an emblem's attributes into a style w, from which the synthesis network
learns to draw it: Dosovitskiy et al. 2015, "Learning to Generate Chairs with Convolutional Neural Networks". And the mapping
network learns to make that w of z, which takes many more latents, but no pictures. So the synthesis network never sees
a style that stands between two emblems and learns no blur; where the mapping network errs, a crisp shape comes out.
"""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.emblems import (
    FAMILIES,
    LAYERS,
    SOURCE_LATENT_DIM,
    Emblem,
    Pattern,
    Ring,
    render_with_masks,
    source_emblem,
    source_latent,
)
from training.sampling import Latents

POOL = 2**17  # latents that the mapping network learns from, drawn once: about twenty seconds
MAPPING_FACTOR = 32  # times as many latents as pictures in a step: they cost next to nothing
NO_RING = Ring(0.4, 0.0, (0.5, 0.5, 0.5))
NO_PATTERN = Pattern("", 0.5, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, (0.5, 0.5, 0.5))


class Teacher(nn.Module):
    """Knows what each latent of a RadialGenerator should become.

    Args:
        generator: with z_dim SOURCE_LATENT_DIM, masks as in LAYERS, and orders up to 8.

    Raises:
        ValueError: the generator is of another kind.
    """

    def __init__(self, generator: Any) -> None:
        super().__init__()
        check_teachable(generator)
        latents = [source_latent(seed) for seed in range(POOL)]
        table = torch.tensor([attributes(source_emblem(*latent)) for latent in latents])
        self.z = torch.from_numpy(np.stack([z for z, _, _ in latents])).float()
        self.orders = torch.tensor([order for _, order, _ in latents])
        self.mean, self.deviation = table.mean(dim=0), table.std(dim=0) + 1e-6
        self.table = self._scaled(table, self.orders)
        self.encoder = nn.Linear(self.table.shape[1], generator.w_dim)

    def _scaled(self, table: Tensor, orders: Tensor) -> Tensor:
        """Attributes at mean 0 and deviation 1, and the order one by one."""
        return torch.cat([(table - self.mean) / self.deviation, 2 * F.one_hot(orders - 1, 8)], dim=1)

    def mapping_loss(self, generator: Any, rng: torch.Generator, count: int, part: slice) -> Tensor:
        """How far the mapping network is from the encoder: squared distances over the styles' variance (len(part),), of
        `part` of `count` latents drawn from the pool."""
        rows = torch.randint(POOL, (count,), generator=rng)[part]
        device = self.encoder.weight.device
        with torch.no_grad():
            truth = self.encoder(self.table[rows].to(device))
        w = generator.mapping(self.z[rows].to(device), self.orders[rows].to(device))
        # Attributes are near independent and of deviation 1, so this is the variance of the encoder's styles.
        variance = self.encoder.weight.detach().square().sum(dim=1).mean()
        return (w - truth).square().mean(dim=1) / variance

    def drawing_losses(self, generator: Any, latents: Latents, size: int) -> tuple[Tensor, Tensor]:
        """Cross entropy of the masks, and mean squared difference of the pictures, made from encoded attributes, (N,) each."""
        emblems = answers(latents)
        order, phase = latents.conditions["order"], latents.conditions["phase"]
        table = torch.tensor([attributes(emblem) for emblem in emblems])
        w = self.encoder(self._scaled(table, order.cpu()).to(order.device))
        ws = generator.broadcast(w, order, phase)
        masks = generator.masks(ws, output_size=size)
        pictures, truth = render_with_masks(emblems, size, ws.device)
        entropy = -(truth * (masks + 1e-4).log()).sum(dim=1).mean(dim=(1, 2))
        return entropy, difference(generator.paint(masks, ws), pictures)


def check_teachable(generator: Any) -> None:
    """Raise ValueError for a generator whose latents do not stand for source emblems."""
    masks = getattr(generator.config, "num_masks", 0)
    if generator.z_dim != SOURCE_LATENT_DIM or masks != len(LAYERS) or generator.config.max_order != 8:
        raise ValueError(
            f"teaching needs a RadialGenerator with z_dim {SOURCE_LATENT_DIM}, {len(LAYERS)} masks and orders to 8, "
            f"got {type(generator).__name__} with z_dim {generator.z_dim} and {masks} masks."
        )


def difference(fakes: Tensor, pictures: Tensor) -> Tensor:
    """Mean squared difference (N,) of fakes (N,3,S,S) in [-1,1] to rendered pictures, which are in [0,1]."""
    return (fakes - (pictures * 2 - 1)).square().mean(dim=(1, 2, 3))


def answers(latents: Latents) -> list[Emblem]:
    """The source emblem of each latent."""
    orders, phases = latents.conditions["order"].tolist(), latents.conditions["phase"].tolist()
    return [source_emblem(z, n, phase) for z, n, phase in zip(latents.z.double().cpu().numpy(), orders, phases)]


def attributes(emblem: Emblem) -> list[float]:
    """An emblem as a list of numbers, families one by one; what it lacks is at a neutral value."""
    rings = [*emblem.rings, NO_RING, NO_RING][:2]
    patterns = [*emblem.patterns, NO_PATTERN][:2]
    values = [emblem.iris_radius, emblem.rim_width, emblem.pupil_radius, float(len(emblem.patterns))]
    for color in (
        emblem.background_inner,
        emblem.background_outer,
        emblem.iris_inner,
        emblem.iris_outer,
        emblem.rim_color,
        emblem.pupil_color,
        rings[0].color,
    ):
        values += color
    for ring in rings:
        values += [ring.radius, ring.width]
    for pattern in patterns:
        values += [float(pattern.family == family) for family in FAMILIES]
        values += [*pattern.color, pattern.radius, pattern.size, pattern.aspect, pattern.bend, pattern.hole]
        values += [math.copysign(1.0, pattern.swirl), pattern.swirl, float(pattern.phase > 0)]
    return values
