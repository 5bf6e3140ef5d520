"""How near inversion comes to pictures of four kinds, and how long it takes; draws the figures of docs/inversion.md.

OMP_NUM_THREADS=1 python -m benchmarks.inversion
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from sharingan_hub import SharinganPipeline, inversion_steps, place_in_eye
from sharingan_hub.media import image_grid, write_png
from tests.eyes import draw_eye
from training.emblems import render, sample_emblems

SIDE = 160
SEARCH = 12  # reports until the best of the seeds is known
PICTURES = Path(__file__).parent.parent / "docs" / "pictures"


def to_image(x: torch.Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] -> a picture."""
    return Image.fromarray(x.mul(255).round().byte().permute(1, 2, 0).numpy())


def sketch(order: int, motif: Callable[[float], list[tuple[float, float]]], seed: int, size: int = 400) -> Image.Image:
    """A drawing by an unsteady hand: a circle, a pupil, and a filled motif, given as polar points around its angle."""
    rng = random.Random(seed)
    image = Image.new("RGB", (2 * size, 2 * size), "white")
    draw = ImageDraw.Draw(image)
    wobble = [(rng.gauss(0, 0.012 / k), rng.uniform(0, 2 * math.pi)) for k in range(1, 5)]

    def point(r: float, angle: float) -> tuple[float, float]:
        r *= 0.85 * (1 + sum(a * math.cos((k + 1) * angle + b) for k, (a, b) in enumerate(wobble, 1)))
        return size * (1 + r * math.cos(angle)), size * (1 - r * math.sin(angle))

    draw.line([point(1, 0.08 * i) for i in range(80)], fill="black", width=size // 18, joint="curve")
    draw.polygon([point(0.14, 0.2 * i) for i in range(32)], fill="black")
    for k in range(order):
        at = 0.4 + 2 * math.pi * k / order + rng.gauss(0, 0.03)
        draw.polygon([point(r + rng.gauss(0, 0.008), at + a) for r, a in motif(2 * math.pi / order)], fill="black")
    return image.resize((size, size), Image.Resampling.LANCZOS)


def blade(_: float) -> list[tuple[float, float]]:
    """A curved blade."""
    out = [(0.2 + 0.65 * t / 12, 0.9 * t / 12) for t in range(13)]
    return out + [(r, a + 0.6 * max(0.0, 1 - (r - 0.2) / 0.65) ** 0.7) for r, a in reversed(out)]


def spike(wedge: float) -> list[tuple[float, float]]:
    """A point."""
    return [(0.18, 0.0), (0.3, 0.3 * wedge), (0.85, 0.0), (0.3, -0.3 * wedge)]


def main() -> None:
    pipe = SharinganPipeline.from_pretrained()
    draw_eyes(pipe)
    own = pipe(seeds=[1003, 1004], phase=[1.0, 0.3], output_type="pt").images
    targets = {
        "own": [to_image(x) for x in own],
        "sharingan": [to_image(x) for x in render(sample_emblems("sharingan", [0, 1]), 256)],
        "source": [to_image(x) for x in render(sample_emblems("source", [2, 3]), 256)],
        "drawing": [sketch(3, blade, 0), sketch(4, spike, 1)],
    }
    above, below = [], []
    for kind, images in targets.items():
        first, last, seconds = 0.0, 0.0, 0.0
        for image in images:
            began = time.process_time()
            reports = list(inversion_steps(pipe, image))
            seconds += (time.process_time() - began) / len(images)
            first += reports[SEARCH - 1].distance / len(images)
            last += reports[-1].distance / len(images)
            above.append(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS))
            below.append(reports[-1].image.resize((SIDE, SIDE), Image.Resampling.LANCZOS))
        print(f"{kind}: best seed {first:.3f}, found {last:.3f}, {seconds:.1f} s of processor time", flush=True)
    write_png(image_grid(above + below, columns=len(above), gap=4), PICTURES / "inversion.png")


def draw_eyes(pipe: SharinganPipeline) -> None:
    """Eyes above, and the same with emblems below."""
    emblems = pipe(seeds=[1004, 3, 7, 5], output_type="pt", output_size=512).images
    kinds: list[dict[str, Any]] = [
        {"radius": 0.25, "opening": 1.05},
        {"radius": 0.2, "skin": (0.35, 0.22, 0.15), "iris": (0.12, 0.08, 0.06), "opening": 1.2},
        {"radius": 0.2, "iris": (0.45, 0.6, 0.75), "opening": 0.75},
        {"radius": 0.2, "anime": True, "iris": (0.3, 0.4, 0.8), "skin": (0.98, 0.87, 0.8), "opening": 1.2},
    ]
    eyes = torch.cat([draw_eye(512, noise=0.0, **kind).picture for kind in kinds])
    placed = place_in_eye(eyes, emblems).images
    rows = [to_image(x[:, 96:416]).resize((256, 160), Image.Resampling.LANCZOS) for x in (*eyes, *placed)]
    write_png(image_grid(rows, columns=len(kinds), gap=4), PICTURES / "eyes.png")


if __name__ == "__main__":
    main()
