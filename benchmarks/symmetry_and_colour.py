"""Draw the figures of docs/symmetry_and_colour.md, or measure how often orders are found.

python -m benchmarks.symmetry_and_colour
python -m benchmarks.symmetry_and_colour --orders 200 --size 256
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sharingan_hub.media import write_png
from sharingan_hub.postprocess import circularize, estimate_order, recolor, symmetrize
from training.emblems import Emblem, render, sample_emblems

SIZE = 128
PICTURES = Path(__file__).parent.parent / "docs" / "pictures"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, metavar="N", help="measure on N emblems of each order instead of drawing")
    parser.add_argument("--size", type=int, default=256, help="of those emblems (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.orders:
        measure(arguments.orders, arguments.size)
    else:
        draw()


def measure(each: int, size: int) -> None:
    """Print for each order how many of `each` single-pattern source emblems are recognised, and the PSNR after symmetrize."""
    print("order | undistorted | distorted by 3 % | then circularised | PSNR of symmetrize, undistorted, lowest")
    axis = (torch.arange(size) + 0.5) * 2 / size - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    angle = torch.atan2(-y, x)
    waves = torch.stack([f(k * angle) for k in range(1, 7) for f in (torch.cos, torch.sin)])
    for order in range(1, 9):
        generator = torch.Generator().manual_seed(order)
        seed, right, lowest = 100_000 * order, [0, 0, 0], float("inf")
        for start in range(0, each, 8):
            emblems: list[Emblem] = []
            while len(emblems) < min(8, each - start):
                emblems += [e for e in sample_emblems("source", [seed]) if e.order == order and len(e.patterns) == 1]
                seed += 1
            images = render(emblems, size)
            log_s = torch.einsum("nk,khw->nhw", torch.randn(len(images), 12, generator=generator), waves)
            s = torch.exp(0.03 * log_s / log_s.std(dim=(1, 2), keepdim=True))
            grid = torch.stack((x * s, y * s), dim=-1)
            bent = F.grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=False).clamp(0, 1)
            for i, pictures in enumerate((images, bent, circularize(bent).images)):
                right[i] += int((estimate_order(pictures) == order).sum())
            error = (symmetrize(images, order) - images).square().mean(dim=(1, 2, 3)).clamp(min=1e-12)
            lowest = min(lowest, (-10 * error.log10()).min().item())
        print(f"{order} | " + " | ".join(f"{count / each:.1%}" for count in right) + f" | {lowest:.1f} dB", flush=True)


def draw() -> None:
    shown = sample_emblems("sharingan", [103, 104, 110, 115]) + sample_emblems("source", [101, 104, 110, 113])
    emblems = render(shown, SIZE)
    rows = [emblems, *(recolor(emblems, name) for name in ("violet", "gold", "midnight"))]
    rows += [recolor(emblems, "cyan", hue_only=True), recolor(emblems, reference=emblems.roll(1, 0))]
    _draw(rows, "recolor.png")

    shown = sample_emblems("sharingan", [103, 107, 110, 104, 118, 115])
    orders = [emblem.order for emblem in shown]
    emblems = render(shown, SIZE)
    axis = torch.linspace(-1, 1, SIZE)
    spot = torch.hypot(axis[None, :] - 0.45, axis[:, None] + 0.1) < 0.16
    painted = torch.where(spot, torch.tensor([0.8, 0.1, 0.1])[:, None, None], emblems)
    _draw([painted, symmetrize(painted, orders, "average"), symmetrize(painted, orders, "wedge")], "symmetry.png")


def _draw(rows: list[Tensor], name: str) -> None:
    grid = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    image = Image.fromarray((grid.permute(1, 2, 0) * 255).round().byte().numpy())
    write_png(image, PICTURES / name)


if __name__ == "__main__":
    main()
