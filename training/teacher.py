"""Teach a generator the source distribution from known answers.

The source emblem is a function of a Gaussian latent (training/emblems.py), so for any z, order and phase the picture that
belongs to them is known, and so is what is seen where. A generator that is first shown these answers knows every motif
at every order; adversarial training alone, on two CPU cores, ends with a few designs of each order.

There are two lessons. A fixed encoder turns an emblem's attributes into a style w. First the mapping network learns to make
that w of z, which takes many latents, but no pictures. Then the synthesis network learns to draw the emblem from w:
Dosovitskiy et al. 2015, "Learning to Generate Chairs with Convolutional Neural Networks".

The mapping network is never quite sure: near the border of two families its w lies between theirs, and truncation moves it
farther in. If the synthesis network were shown nothing else, it would learn to draw blends. It sees the encoder's style moved
by a random part of the way to the mapping network's, with its choices faded: so whose style it is can always be told, and
it learns to decide.

A StyleGAN2Generator is asked for no order and no phase; its z decides them too (`from_latent_alone`), and w carries them.
It has no masks: its drawing lesson compares pictures and their edges.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sharingan_hub import StyleGAN2Generator
from training.emblems import (
    FAMILIES,
    LAYERS,
    SOURCE_LATENT_DIM,
    Emblem,
    Pattern,
    Ring,
    render,
    render_with_masks,
    source_emblem,
    source_latent,
)
from training.sampling import Latents

POOL = 2**18  # latents that the mapping network learns from, drawn once: under a minute
MAPPING_FACTOR = 32  # times as many latents as pictures in a step: they cost next to nothing
MOVED, FADED = 0.8, 0.4  # at most: part of the way to the mapping network's style; part that the choices lose
EDGE_WEIGHT = 4.0  # in a drawing lesson without masks
NO_RING = Ring(0.4, 0.0, (0.5, 0.5, 0.5))
NO_PATTERN = Pattern("", 0.5, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, (0.5, 0.5, 0.5))


class Teacher:
    """Knows what each latent of a generator should become.

    Args:
        generator: with z_dim SOURCE_LATENT_DIM; a RadialGenerator with masks as in LAYERS and orders up to 8, or a
            StyleGAN2Generator.

    Raises:
        ValueError: the generator is of another kind.
    """

    def __init__(self, generator: Any) -> None:
        check_teachable(generator)
        self.alone = not generator.conditions  # z decides order and phase too
        latents = [source_latent(seed) for seed in range(POOL)]
        if self.alone:
            latents = [from_latent_alone(z) for z, _, _ in latents]
        table = torch.tensor([self._attributes(source_emblem(*latent)) for latent in latents])
        self.z = torch.from_numpy(np.stack([z for z, _, _ in latents])).float()
        self.orders = torch.tensor([order for _, order, _ in latents])
        self.mean, self.deviation = table.mean(dim=0), table.std(dim=0) + 1e-6
        self.table = self._scaled(table, self.orders)
        # Directions at right angles where there is room, so that distances of styles are those of attributes.
        rows = -(-generator.w_dim // 2) if self.alone else generator.w_dim
        directions = torch.empty(rows, self.table.shape[1])
        torch.nn.init.orthogonal_(directions, generator=torch.Generator().manual_seed(0))
        self.encoder = directions * (rows / self.table.shape[1]) ** 0.5  # w of variance 1
        if self.alone:
            self.encoder = torch.cat([self.encoder, -self.encoder])[: generator.w_dim]

    def _attributes(self, emblem: Emblem) -> list[float]:
        values = attributes(emblem)
        if self.alone:
            # Channels that hold waves cos(order angle) and sin(order angle) make, scaled by these two numbers, a turned
            # wave. A style's affine layer is linear: the two must come apart for each order already.
            turn = emblem.order * emblem.phase
            for order in range(1, 9):
                values += [math.cos(turn), math.sin(turn)] if order == emblem.order else [0.0, 0.0]
        return values

    def _scaled(self, table: Tensor, orders: Tensor) -> Tensor:
        """Attributes at mean 0 and deviation 1, and the order one by one."""
        return torch.cat([(table - self.mean) / self.deviation, 2 * F.one_hot(orders - 1, 8)], dim=1)

    def _encode(self, table: Tensor) -> Tensor:
        """Scaled attributes (N, A) -> w (N, w_dim).

        The mapping network of StyleGAN2 ends with a leaky ReLU, and so does its encoder: each direction comes with its
        opposite, so that one of the two is positive and an affine layer can still read every attribute.
        """
        w = table @ self.encoder.to(table.device).t()
        return F.leaky_relu(w, 0.2) * math.sqrt(2) if self.alone else w

    def mapping_loss(self, generator: Any, rng: torch.Generator, count: int, part: slice) -> Tensor:
        """How far the mapping network is from the encoder: mean squared distances (len(part),) of styles of variance 1, of
        `part` of `count` latents drawn from the pool."""
        rows = torch.randint(POOL, (count,), generator=rng)[part]
        device = generator.w_avg.device
        truth = self._encode(self.table[rows].to(device))
        order = {} if self.alone else {"order": self.orders[rows].to(device)}
        w = generator.mapping(self.z[rows].to(device), **order)
        return (w - truth).square().mean(dim=1)

    def styles(self, emblems: Sequence[Emblem], faded: Tensor | float = 0.0) -> Tensor:
        """The encoder's w (N, w_dim) of emblems; `faded`, (N, 1), is the part that their choices lose."""
        table = self._scaled(
            torch.tensor([self._attributes(emblem) for emblem in emblems]),
            torch.tensor([emblem.order for emblem in emblems]),
        )
        table[:, :CHOICES] *= 1 - faded
        return self._encode(table)

    def drawing_losses(
        self, generator: Any, latents: Latents, size: int, rng: torch.Generator, count: int, part: slice
    ) -> dict[str, Tensor]:
        """What is wrong with pictures made from styles between the encoder's and the mapping network's, (N,) each: the mean
        squared difference, and before it the cross entropy of the masks, or without masks `edges`. Latents are those of
        `part` of a batch of `count`."""
        emblems = answers(latents)
        conditions = latents.conditions
        order = {} if self.alone else {"order": conditions["order"]}
        moved, faded = torch.rand(2, count, 1, generator=rng)[:, part]
        device = latents.z.device
        w = self.styles(emblems, FADED * faded).to(device)
        with torch.no_grad():
            w = torch.lerp(w, generator.mapping(latents.z, **order), MOVED * moved.to(device))
        ws = generator.broadcast(w, **conditions)
        if self.alone:
            pictures = render(emblems, size, device)
            fakes = generator.synthesis(ws, noise_mode="none")  # noise could only be wrong here
            return {"edges": EDGE_WEIGHT * edges(fakes, pictures), "difference": difference(fakes, pictures)}
        masks = generator.masks(ws, output_size=size)
        pictures, truth = render_with_masks(emblems, size, ws.device)
        entropy = -(truth * (masks + 1e-4).log()).sum(dim=1).mean(dim=(1, 2))
        return {"masks": entropy, "difference": difference(generator.paint(masks, ws), pictures)}


def check_teachable(generator: Any) -> None:
    """Raise ValueError for a generator whose latents do not stand for source emblems."""
    masks = getattr(generator.config, "num_masks", 0)
    radial = masks == len(LAYERS) and generator.config.max_order == 8
    if generator.z_dim != SOURCE_LATENT_DIM or not (radial or isinstance(generator, StyleGAN2Generator)):
        raise ValueError(
            f"teaching needs a StyleGAN2Generator with z_dim {SOURCE_LATENT_DIM}, or a RadialGenerator with z_dim "
            f"{SOURCE_LATENT_DIM}, {len(LAYERS)} masks and orders to 8, "
            f"got {type(generator).__name__} with z_dim {generator.z_dim} and {masks} masks."
        )


def difference(fakes: Tensor, pictures: Tensor) -> Tensor:
    """Mean squared difference (N,) of fakes (N,3,S,S) in [-1,1] to rendered pictures, which are in [0,1]."""
    return (fakes - (pictures * 2 - 1)).square().mean(dim=(1, 2, 3))


def edges(fakes: Tensor, pictures: Tensor) -> Tensor:
    """Mean squared difference (N,) of fakes (N,3,S,S) in [-1,1] to rendered pictures, which are in [0,1], in their steps from
    each pixel to the next. The patterns weigh more here than the large discs."""
    error = fakes - (pictures * 2 - 1)
    return error.diff(dim=2).square().mean(dim=(1, 2, 3)) + error.diff(dim=3).square().mean(dim=(1, 2, 3))


def answers(latents: Latents) -> list[Emblem]:
    """The source emblem of each latent."""
    rows = latents.z.double().cpu().numpy()
    if not latents.conditions:
        return [source_emblem(*from_latent_alone(z)) for z in rows]
    orders, phases = latents.conditions["order"].tolist(), latents.conditions["phase"].tolist()
    return [source_emblem(z, n, phase) for z, n, phase in zip(rows, orders, phases)]


def from_latent_alone(z: np.ndarray) -> tuple[np.ndarray, int, float]:
    """Latent, order and phase for `source_emblem`, all from z: the last four numbers, which it does not read, are two points
    of a plane; the angle of one is the order, the angle of the other the turn of a sector.

    z counts as its mapping network sees it, at a mean square of one.
    """
    z = z / np.sqrt(np.square(z).mean())
    order, turn = (np.arctan2(z[[-3, -1]], z[[-4, -2]]) / (2 * math.pi)) % 1
    order = int(order * 8) % 8 + 1
    return z, order, float(turn % 1 * 2 * math.pi / order)


CHOICES = 1 + 2 * (len(FAMILIES) + 2)  # of attributes(), the first


def attributes(emblem: Emblem) -> list[float]:
    """An emblem as a list of numbers: first its choices, families one by one, then its measures; what it lacks is at a
    neutral value."""
    rings = [*emblem.rings, NO_RING, NO_RING][:2]
    patterns = [*emblem.patterns, NO_PATTERN][:2]
    values = [float(len(emblem.patterns))]
    for pattern in patterns:
        values += [float(pattern.family == family) for family in FAMILIES]
        values += [math.copysign(1.0, pattern.swirl), float(pattern.phase > 0)]
    values += [emblem.iris_radius, emblem.rim_width, emblem.pupil_radius]
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
        values += [
            *pattern.color,
            pattern.radius,
            pattern.size,
            pattern.aspect,
            pattern.bend,
            pattern.hole,
            pattern.swirl,
        ]
    return values
