"""Radial eye emblems from analytic signed distances: a data source whose true distribution is known and never runs out.

An `Emblem` is a plain description (order, patterns, rings, colours). `sample_emblems` draws descriptions, one seed each;
`render` turns a list of them into pictures, anti-aliased, on any device. Two distributions: "source" (any colours and
backgrounds, orders 1 to 8) to pre-train on, and "sharingan" (red iris, dark rim, black pattern and pupil, thin ring).

    python -m training.emblems --distribution sharingan --count 1000 --size 256 --output_dir emblems
"""

from __future__ import annotations

import argparse
import colorsys
import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .motifs import MOTIFS

Color = tuple[float, float, float]
Distribution = Literal["source", "sharingan"]

SOURCE_ORDER_PROBS = [1 / 8] * 8
SHARINGAN_ORDER_PROBS = [0.06, 0.12, 0.34, 0.20, 0.14, 0.14, 0.0, 0.0]
FAMILIES = tuple(MOTIFS)


@dataclasses.dataclass(frozen=True)
class Pattern:
    """A motif that stands `order` times around the centre. Lengths: 1 is half of the picture's edge; angles: radians."""

    family: str  # one of FAMILIES
    radius: float  # distance of the motif's middle from the centre
    size: float  # the motif's half length
    aspect: float  # half width over half length
    bend: float  # 0 to 1: how far a curved motif curls
    hole: float  # radius of a hole pierced through the motif over its size; 0 is none
    swirl: float  # twist about the centre per unit of radius; its sign is also the motif's handedness
    phase: float  # turn against the emblem's own phase
    color: Color


@dataclasses.dataclass(frozen=True)
class Ring:
    """A circle line around the centre."""

    radius: float
    width: float
    color: Color


@dataclasses.dataclass(frozen=True)
class Emblem:
    """All attributes of one emblem. Colours are RGB in [0, 1]."""

    order: int  # rotational order n, 1 to 8
    phase: float  # turn of the whole emblem, radians
    patterns: tuple[Pattern, ...]
    rings: tuple[Ring, ...]
    iris_radius: float
    iris_inner: Color  # colour of the iris at the pupil, shading to
    iris_outer: Color  # its colour at the rim
    rim_width: float
    rim_color: Color
    pupil_radius: float
    pupil_color: Color
    background_inner: Color  # colour of the background at the rim, shading to
    background_outer: Color  # its colour in the picture's corners

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary that `from_dict` takes back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Emblem:
        """The emblem that `to_dict` described; keys that no attribute has are ignored."""
        values = {f.name: values[f.name] for f in dataclasses.fields(cls)}
        for key, value in values.items():
            if key == "patterns":
                values[key] = tuple(Pattern(**{**p, "color": tuple(p["color"])}) for p in value)
            elif key == "rings":
                values[key] = tuple(Ring(**{**r, "color": tuple(r["color"])}) for r in value)
            elif isinstance(value, list):
                values[key] = tuple(value)
        return cls(**values)


# --------------------------------------------------------------------------------------------------------------- sampling


def sample_emblems(distribution: Distribution, seeds: Sequence[int]) -> list[Emblem]:
    """Emblem i is decided by seeds[i] (0 or more) alone. Raises ValueError for an unknown distribution."""
    if distribution not in SAMPLERS:
        raise ValueError(f"distribution is {distribution!r}; it must be one of {', '.join(SAMPLERS)}")
    draw, tag = SAMPLERS[distribution], list(SAMPLERS).index(distribution)
    return [draw(np.random.default_rng((tag, seed))) for seed in seeds]


def _hsv(h: float, s: float, v: float) -> Color:
    return colorsys.hsv_to_rgb(h % 1.0, min(max(s, 0.0), 1.0), min(max(v, 0.0), 1.0))


def _luma(c: Color) -> float:
    return 0.299 * c[0] + 0.587 * c[1] + 0.114 * c[2]


def _any_color(rng: np.random.Generator) -> Color:
    kind = rng.random()
    if kind < 0.2:  # greys, with black and white often
        return _hsv(rng.random(), 0.06 * rng.random(), float(np.clip(rng.uniform(-0.3, 1.3), 0.01, 0.99)))
    return _hsv(rng.random(), rng.uniform(0.35, 1.0), rng.uniform(0.15, 1.0))


def _contrasting(rng: np.random.Generator, against: Color, least: float) -> Color:
    """A colour whose luma differs from `against`; after some tries black or white, whichever is farther."""
    for _ in range(8):
        color = _any_color(rng)
        if abs(_luma(color) - _luma(against)) >= least:
            return color
    return (0.02, 0.02, 0.02) if _luma(against) > 0.5 else (0.97, 0.97, 0.97)


def _pattern(
    rng: np.random.Generator,
    order: int,
    inner: float,
    outer: float,
    color: Color,
    families: Sequence[str],
    pierced: float,
) -> Pattern:
    """A motif that fits between the radii `inner` and `outer` without running into its neighbours' middle."""
    motif = MOTIFS[family := str(rng.choice(families))]
    sector = math.sin(math.pi / max(order, 2))
    if motif.compact:
        room = (outer - inner) / 2
        radius = rng.uniform(inner + 0.75 * room, outer - 0.75 * room)
        size = min(min(radius - inner, outer - radius) * 1.05, radius * sector * motif.crowding) * rng.uniform(
            0.85, 1.0
        )
        aspect = rng.uniform(*motif.aspect)
    else:
        low = inner + (outer - inner) * rng.uniform(0.0, 0.3)
        high = outer - (outer - inner) * rng.uniform(0.0, 0.2)
        radius, size = (low + high) / 2, (high - low) / 2
        widest = min(radius * sector * motif.crowding / size, motif.aspect[1])
        aspect = widest * rng.uniform(0.55, 1.0)
    hand = -1.0 if rng.random() < 0.5 else 1.0
    twist = rng.uniform(*motif.swirl) if rng.random() < motif.swirled else 0.02
    hole = rng.uniform(0.28, 0.42) * min(aspect, 1.0) if motif.pierceable and rng.random() < pierced else 0.0
    return Pattern(
        family,
        float(radius),
        float(size),
        float(aspect),
        float(rng.random()),
        float(hole),
        float(hand * twist),
        0.0,
        color,
    )


def _sample_source(rng: np.random.Generator) -> Emblem:
    order = int(rng.integers(1, 9))
    background, iris = _any_color(rng), _any_color(rng)
    shade = rng.uniform(0.45, 1.0)
    iris_outer = tuple(c * shade for c in iris) if rng.random() < 0.7 else iris
    fade = rng.uniform(0.5, 1.0)
    background_outer = tuple(c * fade for c in background) if rng.random() < 0.3 else background
    iris_radius = rng.uniform(0.72, 0.97)
    rim_width = rng.uniform(0.015, 0.09) if rng.random() < 0.75 else 0.0
    pupil = rng.uniform(0.06, 0.22) if rng.random() < 0.75 else 0.0
    top = iris_radius - rim_width
    color = _contrasting(rng, iris, 0.22)
    rings = tuple(
        Ring(
            float(rng.uniform(pupil + 0.06, top - 0.05)),
            float(rng.uniform(0.012, 0.06)),
            color if rng.random() < 0.5 else _any_color(rng),
        )
        for _ in range(int(rng.choice([0, 1, 2], p=[0.45, 0.4, 0.15])))
    )
    if rng.random() < 0.68:
        bands = [(pupil * rng.uniform(0.0, 1.1), top * rng.uniform(0.8, 1.0))]
    else:  # two patterns: side by side in radius, or one over the other
        middle = rng.uniform(0.45, 0.6) * top
        bands = (
            [(middle * 0.9, top), (pupil * 0.8, middle)] if rng.random() < 0.65 else [(pupil, top), (pupil, top * 0.8)]
        )
    patterns = []
    for i, (inner, outer) in enumerate(bands):
        ink = color if i == 0 or rng.random() < 0.45 else _contrasting(rng, iris, 0.15)
        pattern = _pattern(rng, order, float(inner), float(outer), ink, FAMILIES, 0.25)
        patterns.append(dataclasses.replace(pattern, phase=float(rng.choice([0.0, math.pi / order])) if i else 0.0))
    return Emblem(
        order=order,
        phase=float(rng.uniform(0, 2 * math.pi)),
        patterns=tuple(patterns),
        rings=rings,
        iris_radius=float(iris_radius),
        iris_inner=iris,
        iris_outer=iris_outer,  # type: ignore[arg-type]
        rim_width=float(rim_width),
        rim_color=_any_color(rng) if rng.random() < 0.5 else color,
        pupil_radius=float(pupil),
        pupil_color=color if rng.random() < 0.5 else _any_color(rng),
        background_inner=background,
        background_outer=background_outer,  # type: ignore[arg-type]
    )


SHARINGAN_FAMILIES = tuple(name for name in FAMILIES if name not in ("spoke", "chevron", "arc"))


def _sample_sharingan(rng: np.random.Generator) -> Emblem:
    order = int(rng.choice(len(SHARINGAN_ORDER_PROBS), p=SHARINGAN_ORDER_PROBS)) + 1
    ink = _hsv(rng.random(), 0.2, rng.uniform(0.02, 0.06))
    hue, value = rng.uniform(-0.025, 0.012), rng.uniform(0.78, 0.95)
    iris_radius, rim_width = rng.uniform(0.88, 0.93), rng.uniform(0.045, 0.075)
    pupil = rng.uniform(0.10, 0.17)
    top = iris_radius - rim_width
    ring = rng.uniform(0.42, 0.62)
    # Every third emblem is of tomoe for certain; the rest draw from all families.
    families = ["tomoe"] if rng.random() < 0.3 else SHARINGAN_FAMILIES
    layout = rng.random()
    if layout < 0.4:  # the motifs sit on the ring
        reach = min(ring - pupil, top - ring) - 0.02
        bands = [(ring - reach, ring + reach)]
    elif layout < 0.82:  # they grow out of the pupil
        bands = [(pupil * rng.uniform(0.2, 0.9), top * rng.uniform(0.86, 0.98))]
    else:  # a pattern outside the ring and a smaller one inside
        bands = [(ring * 0.97, top * 0.97), (pupil * 0.7, ring * 0.92)]
    patterns = [_pattern(rng, order, float(a), float(b), ink, families, 0.3) for a, b in bands]
    if len(patterns) == 2 and rng.random() < 0.5:
        patterns[1] = dataclasses.replace(patterns[1], phase=math.pi / order)
    white = rng.uniform(0.93, 0.98)
    return Emblem(
        order=order,
        phase=float(rng.uniform(0, 2 * math.pi)),
        patterns=tuple(patterns),
        rings=(Ring(float(ring), float(rng.uniform(0.014, 0.024)), ink),),
        iris_radius=float(iris_radius),
        iris_inner=_hsv(hue, rng.uniform(0.88, 0.98), value),
        iris_outer=_hsv(hue - 0.01, 0.97, value * rng.uniform(0.55, 0.75)),
        rim_width=float(rim_width),
        rim_color=ink,
        pupil_radius=float(pupil),
        pupil_color=ink,
        background_inner=(white, white, white),
        background_outer=(white, white, white),
    )


SAMPLERS: dict[str, Callable[[np.random.Generator], Emblem]] = {
    "source": _sample_source,
    "sharingan": _sample_sharingan,
}

# -------------------------------------------------------------------------------------------------------------- rendering


def render(emblems: Sequence[Emblem], size: int, device: torch.device | str = "cpu") -> Tensor:
    """Draw emblems -> pictures (N, 3, size, size) in [0, 1], float32. Order of painting: background, iris, rings, patterns
    (cut off at the rim), pupil, rim; edges are blended over one pixel."""
    if not emblems:
        return torch.empty(0, 3, size, size, device=device)
    axis = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) * (2 / size) - 1
    x, y = axis[None, :], -axis[:, None]
    radius, angle = torch.sqrt(x * x + y * y), torch.atan2(y, x)

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]

    def colors(values: Sequence[Color]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)[:, :, None, None]

    def disc(values: Sequence[float]) -> Tensor:
        """Coverage of discs of these radii."""
        edge = column(values)
        return torch.where(edge > 0, ((edge - radius) * (size / 2) + 0.5).clamp(0, 1), 0.0)

    def paint(image: Tensor, color: Tensor, coverage: Tensor) -> Tensor:
        return torch.lerp(image, color, coverage[:, None])

    iris_radius = column([e.iris_radius for e in emblems])
    outside = ((radius - iris_radius) / (math.sqrt(2) - iris_radius)).clamp(0, 1)[:, None]
    image = torch.lerp(
        colors([e.background_inner for e in emblems]), colors([e.background_outer for e in emblems]), outside
    )
    inside = (radius / iris_radius).clamp(0, 1).square()[:, None]
    iris = torch.lerp(colors([e.iris_inner for e in emblems]), colors([e.iris_outer for e in emblems]), inside)
    full = disc([e.iris_radius for e in emblems])
    image = paint(image, iris, full)
    for slot in range(max(len(e.rings) for e in emblems)):
        rings = [e.rings[slot] if slot < len(e.rings) else Ring(9.0, 0.0, (0, 0, 0)) for e in emblems]
        line = column([r.width / 2 for r in rings]) - (radius - column([r.radius for r in rings])).abs()
        coverage = (line * (size / 2) + 0.5).clamp(0, 1) * full
        image = paint(image, colors([r.color for r in rings]), coverage)
    flat = [(i, slot, e, p) for i, e in enumerate(emblems) for slot, p in enumerate(e.patterns)]
    coverage = _pattern_coverage([(e, p) for _, _, e, p in flat], radius, angle)
    for slot in range(max((s for _, s, _, _ in flat), default=-1) + 1):
        rows = [k for k, item in enumerate(flat) if item[1] == slot]
        where = [flat[k][0] for k in rows]
        painted = paint(image[where], colors([flat[k][3].color for k in rows]), coverage[rows] * full[where])
        image = (
            painted if len(where) == len(emblems) else image.index_copy(0, torch.tensor(where, device=device), painted)
        )
    image = paint(image, colors([e.pupil_color for e in emblems]), disc([e.pupil_radius for e in emblems]))
    within = disc([e.iris_radius - e.rim_width for e in emblems])
    return paint(image, colors([e.rim_color for e in emblems]), full - within)


def _pattern_coverage(items: Sequence[tuple[Emblem, Pattern]], radius: Tensor, angle: Tensor) -> Tensor:
    """How much of each pixel (S, S) each pattern covers -> (len(items), S, S) in [0, 1]."""
    out = torch.empty(len(items), *radius.shape, device=radius.device)
    for family in FAMILIES:  # one call a family: its members share their formula
        rows = [i for i, (_, p) in enumerate(items) if p.family == family]
        if not rows:
            continue

        def column(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=radius.device)[:, None, None]

        of = [items[i] for i in rows]
        motif, middle = MOTIFS[family], column([p.radius for _, p in of])
        sector = column([2 * math.pi / e.order for e, _ in of])
        hand = column([math.copysign(1.0, p.swirl) for _, p in of])
        turned = (
            angle - column([e.phase + p.phase for e, p in of]) - column([p.swirl for _, p in of]) * (radius - middle)
        )
        folded = (torch.remainder(turned + sector / 2, sector) - sector / 2) * hand
        size, aspect, bend = (column([getattr(p, name) for _, p in of]) for name in ("size", "aspect", "bend"))
        hole = column([p.hole for _, p in of])
        # A motif that reaches out of its own sector shows in the next one too.
        copies = [folded, folded - torch.copysign(sector, folded)] if motif.overlaps else [folded]
        distance: Tensor | None = None
        for theta in copies:
            u, v = (radius * torch.cos(theta) - middle) / size, radius * torch.sin(theta) / size
            d = motif.distance(u, v, aspect, bend)
            if motif.pierceable:
                d = torch.where(hole > 0, torch.maximum(d, hole - torch.hypot(u - motif.pierced_at, v)), d)
            distance = d if distance is None else torch.minimum(distance, d)
        assert distance is not None
        out[rows] = _coverage(distance)
    return out


def _coverage(distance: Tensor) -> Tensor:
    """Signed distances (N, S, S), in any unit and even distorted, -> coverage: dividing by the slope per pixel makes every
    edge one pixel wide."""
    dx = torch.empty_like(distance)
    dx[..., 1:-1] = (distance[..., 2:] - distance[..., :-2]) / 2
    dx[..., 0], dx[..., -1] = distance[..., 1] - distance[..., 0], distance[..., -1] - distance[..., -2]
    dy = torch.empty_like(distance)
    dy[..., 1:-1, :] = (distance[..., 2:, :] - distance[..., :-2, :]) / 2
    dy[..., 0, :], dy[..., -1, :] = (
        distance[..., 1, :] - distance[..., 0, :],
        distance[..., -1, :] - distance[..., -2, :],
    )
    return (0.5 - distance / torch.hypot(dx, dy).clamp(min=1e-6)).clamp(0, 1)


# ------------------------------------------------------------------------------------------------------------ image folder


def write_folder(emblems: Sequence[Emblem], size: int, output_dir: Path, batch: int = 64) -> None:
    """Write PNG files and `metadata.jsonl` (file_name and all attributes), the image-folder convention of `datasets`."""
    from PIL import Image
    from tqdm import tqdm

    output_dir.mkdir(parents=True, exist_ok=True)
    digits = max(2, len(str(len(emblems))))
    with (output_dir / "metadata.jsonl").open("w") as metadata:
        for start in tqdm(range(0, len(emblems), batch), desc="emblems", unit="batch", disable=len(emblems) <= batch):
            some = emblems[start : start + batch]
            pixels = (render(some, size) * 255).round().byte().permute(0, 2, 3, 1).numpy()
            for i, (emblem, picture) in enumerate(zip(some, pixels), start + 1):
                name = f"{i:0{digits}d}.png"
                Image.fromarray(picture).save(output_dir / name)
                metadata.write(json.dumps({"file_name": name, **emblem.to_dict()}) + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    """The command `python -m training.emblems`."""
    parser = argparse.ArgumentParser(
        prog="python -m training.emblems",
        description="Write a folder of emblem pictures with metadata.jsonl (the image-folder convention of `datasets`).",
        epilog="example: python -m training.emblems --distribution sharingan --count 1000 --size 256 --output_dir emblems",
    )
    parser.add_argument("--distribution", choices=tuple(SAMPLERS), default="sharingan")
    parser.add_argument("--count", type=int, default=100, help="how many pictures (default 100)")
    parser.add_argument("--size", type=int, default=256, help="edge in pixels, 8 to 4096 (default 256)")
    parser.add_argument("--seed", type=int, default=0, help="first seed; picture i has seed + i (default 0)")
    parser.add_argument("--output_dir", type=Path, required=True)
    args = parser.parse_args(argv)
    if args.count < 1 or args.seed < 0 or not 8 <= args.size <= 4096:
        parser.error(
            f"--count must be 1 or more, --seed 0 or more, --size 8 to 4096; got {args.count}, {args.seed}, {args.size}"
        )
    emblems = sample_emblems(args.distribution, range(args.seed, args.seed + args.count))
    write_folder(emblems, args.size, args.output_dir)
    print(f"{args.count} pictures of {args.size} px and metadata.jsonl are in {args.output_dir}")


if __name__ == "__main__":
    main()
