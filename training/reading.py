"""Which style a RadialGenerator would draw a picture with, whatever the colours: a network that reads it off, taught in a minute.

A generator that was taught can show any number of pictures whose styles are known. What a network trained on them answers is the
mean of the styles that a picture may have, and such means are nearly sufficient statistics, so that pictures are compared by them
(Fearnhead and Prangle 2012, "Constructing summary statistics for approximate Bayesian computation"). It sees each design in
another one's colours: of colours it can learn nothing.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from training import radial_statistics
from training.sampling import seeded

SIDE = 64  # pixels that pictures are read at
RADII, ANGLES = 32, 16  # cells of a wedge
TURNS = 4  # an angle is the mean over places no farther apart than 1 / (TURNS * ANGLES) of a turn
DRAWN = 25  # designs at once: their working set stays in cache
BATCH, PASSES, RATE, WARMUP = 32, 6, 2e-3, 50
NOISE = 0.02
PALETTES = 8192


@dataclass
class Designs:
    """Designs of a generator: latents z (M, z_dim), orders (M,), styles w (M, w_dim), and the masks' wedges (M, K, RADII, ANGLES) in
    half precision."""

    z: Tensor
    orders: Tensor
    styles: Tensor
    wedges: Tensor


def design_masks(generator: Any, w: Tensor, order: Tensor | int, phase: Tensor | None = None) -> Tensor:
    """Masks (N, K, SIDE, SIDE) of styles w (N, w_dim) at an order, or one for each."""
    orders = torch.as_tensor(order, device=w.device).expand(len(w))
    return generator.masks(generator.broadcast(w, orders, phase), output_size=SIDE)


def wedges_of(images: Tensor, order: int) -> Tensor:
    """The mean wedge of pictures (N, C, S, S) of one order, (N, C, RADII, ANGLES); where it begins is as in the picture."""
    fine = -(-TURNS // order)
    circles = radial_statistics.circles_of(images, RADII, order * ANGLES * fine)
    return circles.unflatten(3, (order, ANGLES, fine)).mean(dim=(3, 5))


@torch.no_grad()
def draw_designs(generator: Any, count: int, seed: int) -> Designs:
    """Designs of all orders alike."""
    z = torch.randn(count, generator.z_dim, generator=seeded(seed, 0, "designs")).to(generator.device)
    orders = torch.arange(count, device=z.device) % generator.config.max_order + 1
    styles = generator.mapping(z, orders)
    parts = [(n, rows) for n in orders.unique().tolist() for rows in (orders == n).nonzero().flatten().split(DRAWN)]
    drawn = [
        wedges_of(design_masks(generator, styles[rows], order), order).half()
        for order, rows in tqdm(parts, desc="Drawing designs", disable=None)
    ]
    wedges = torch.cat(drawn)[torch.cat([rows for _, rows in parts]).argsort()]
    return Designs(z, orders, styles, wedges)


def palette_values(generator: Any, w: Tensor) -> Tensor:
    """What the palette's last layer gives for styles w (N, w_dim), (N, 6 K): colours and shading before the sigmoid."""
    hidden = F.leaky_relu(generator.palette_hidden(w), 0.2) * math.sqrt(2)
    return generator.palette_head(hidden)


def paint_wedges(wedges: Tensor, values: Tensor) -> Tensor:
    """Wedges of masks (N, K, RADII, ANGLES) in colours (N, 6 K) -> (N, 3, RADII, ANGLES) in [-1, 1]; as the generator paints."""
    colors, shading = values.unflatten(1, (-1, 6)).split(3, dim=2)
    r = ((torch.arange(RADII, device=wedges.device) + 0.5) / RADII)[:, None]
    flat, linear, square = shading[..., None, None].unbind(dim=2)
    shaded = wedges * torch.sigmoid(3 + flat + linear * (r - 0.5) + square * (r * r - 0.25))
    return torch.einsum("nkra,nkc->ncra", shaded, torch.sigmoid(colors)) * 2 - 1


class Reader(nn.Module):
    """Wedges (N, 3, RADII, ANGLES) of orders (N,) -> styles (N, w_dim), each number over its standard deviation among designs."""

    center: Tensor
    scale: Tensor

    def __init__(self, max_order: int, styles: Tensor) -> None:
        super().__init__()
        self.register_buffer("center", styles.mean(dim=0))
        self.register_buffer("scale", styles.std(dim=0).clamp(min=0.05))
        self.convs = nn.ModuleList(
            nn.Conv2d(*channels, 3, stride)
            for channels, stride in [((4, 32), (1, 1)), ((32, 48), (2, 1)), ((48, 64), (2, 2)), ((64, 64), (1, 1))]
        )
        self.order = nn.Embedding(max_order, 384)
        nn.init.zeros_(self.order.weight)
        self.hidden = nn.ModuleList([nn.Linear(2 * 64 * RADII // 4, 384), nn.Linear(384, 256)])
        self.last = nn.Linear(256, styles.shape[1])

    def forward(self, wedges: Tensor, orders: Tensor) -> Tensor:
        radius = (torch.arange(RADII, device=wedges.device, dtype=wedges.dtype) + 0.5) / RADII - 0.5
        x = torch.cat([wedges, radius[:, None].expand(len(wedges), 1, -1, wedges.shape[3])], dim=1)
        for conv in self.convs:
            x = F.pad(F.pad(x, (1, 1, 0, 0), mode="circular"), (0, 0, 1, 1))  # a wedge goes round, a radius ends
            x = F.leaky_relu(conv(x), 0.2)
        x = torch.cat([x.mean(dim=3), x.amax(dim=3)], dim=1).flatten(1)
        x = F.leaky_relu(self.hidden[0](x) + self.order(orders - 1), 0.2)
        return self.last(F.leaky_relu(self.hidden[1](x), 0.2))


@torch.enable_grad()
def learn_to_read(generator: Any, designs: Designs, seed: int) -> Reader:
    """A reader of a generator's designs, each seen PASSES times in other designs' colours and at any turn."""
    count, device = len(designs.z), designs.z.device
    rng = seeded(seed, 0, "reading")
    reader = _beginner(generator.config.max_order, designs.styles, seed)
    wanted = (designs.styles - reader.center) / reader.scale
    palettes = palettes_of(generator, seed)
    optimizer = torch.optim.AdamW(reader.parameters(), betas=(0.9, 0.99), weight_decay=0.02)
    order_of_sight = torch.cat([torch.randperm(count, generator=rng) for _ in range(PASSES)]).split(BATCH)
    for step, rows in enumerate(tqdm(order_of_sight, desc="Learning to read", disable=None)):
        optimizer.param_groups[0]["lr"] = RATE * min((step + 1) / WARMUP, 1.0, 2 * (1 - step / len(order_of_sight)))
        turns = torch.randint(ANGLES, (len(rows), 1), generator=rng)
        cells = ((torch.arange(ANGLES) + turns) % ANGLES).to(device)
        colors = palettes[torch.randint(len(palettes), (len(rows),), generator=rng).to(device)]
        noise = NOISE * torch.randn(len(rows), 3, RADII, ANGLES, generator=rng).to(device)
        rows = rows.to(device)
        masks = designs.wedges[rows].float()
        masks = masks.gather(3, cells[:, None, None].expand_as(masks))
        read = reader(paint_wedges(masks, colors) + noise, designs.orders[rows])
        loss = (read - wanted[rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return reader.eval().requires_grad_(False)


def _beginner(max_order: int, styles: Tensor, seed: int) -> Reader:
    """A reader with weights of its own seed, which leaves torch's random numbers as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Reader(max_order, styles.cpu()).to(styles.device)


@torch.no_grad()
def palettes_of(generator: Any, seed: int) -> Tensor:
    """The palette's values for PALETTES styles of the generator's own, (PALETTES, 6 K)."""
    z = torch.randn(PALETTES, generator.z_dim, generator=seeded(seed, 0, "palettes")).to(generator.device)
    orders = torch.arange(PALETTES, device=z.device) % generator.config.max_order + 1
    return palette_values(generator, generator.mapping(z, orders))


@torch.no_grad()
def read_designs(reader: Reader, generator: Any, designs: Designs, seed: int) -> Tensor:
    """What the reader says of the designs themselves, in random colours, (M, w_dim)."""
    rows = torch.arange(len(designs.z), device=designs.z.device)
    palettes = palettes_of(generator, seed + 1)
    parts = [
        reader(paint_wedges(designs.wedges[some].float(), palettes[some % PALETTES]), designs.orders[some])
        for some in rows.split(200)
    ]
    return torch.cat(parts)


@torch.no_grad()
def read_pictures(reader: Reader, pictures: Tensor, orders: Tensor) -> Tensor:
    """What it says of pictures (N, 3, SIDE, SIDE) of orders (N,), (N, w_dim): the mean over the wedge's turns."""
    wedges = torch.cat([wedges_of(one[None], int(n)) for one, n in zip(pictures, orders)])
    return torch.stack([reader(wedges.roll(turn, 3), orders) for turn in range(ANGLES)]).mean(dim=0)
