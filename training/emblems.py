"""Radial eye emblems from analytic signed distances: a data source whose true distribution is known and never runs out.

An `Emblem` is a plain description (order, patterns, rings, colours). `sample_emblems` draws descriptions, one seed each;
`render` turns a list of them into pictures, anti-aliased, on any device. The distribution "source" (any colours and
backgrounds, orders 1 to 8) is to pre-train on; those to adapt to are in training/targets.py.

    python -m training.emblems --distribution sharingan --count 1000 --size 256 --output_dir emblems
"""

from __future__ import annotations

import argparse
import colorsys
import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .motifs import MOTIFS

Color = tuple[float, float, float]
BENCHMARK = ("sharingan", "frost", "solar", "jade")  # what few-shot adaptation is measured on
DEVELOPMENT = ("violet", "gold")  # what its settings are chosen on, beside sharingan
DISTRIBUTIONS = ("source", *BENCHMARK, *DEVELOPMENT, "plain")
SOURCE_LATENT_DIM = 128  # source_emblem reads fewer

SOURCE_ORDER_PROBS = [1 / 8] * 8
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


def sample_emblems(distribution: str, seeds: Sequence[int]) -> list[Emblem]:
    """Emblem i is decided by seeds[i] (0 or more) alone. Raises ValueError for an unknown distribution."""
    if distribution not in DISTRIBUTIONS:
        raise ValueError(f"distribution is {distribution!r}; it must be one of {', '.join(DISTRIBUTIONS)}")
    if distribution == "source":
        return [source_emblem(*source_latent(seed)) for seed in seeds]
    from .targets import sample_target

    return [sample_target(distribution, seed) for seed in seeds]


def order_probs(distribution: str) -> list[float]:
    """How often each order 1 to 8 comes in a distribution."""
    if distribution == "source":
        return SOURCE_ORDER_PROBS
    from .targets import TARGETS

    return TARGETS[distribution].order_probs


class _Latent:
    """Reads a Gaussian latent as if it were a random generator, the same question at the same place every time.

    The normal distribution function makes a uniform number of a normal one; the angle of two normal numbers is uniform too.
    """

    def __init__(self, z: np.ndarray) -> None:
        self.z, self.at = z.tolist(), 0

    def next(self, count: int) -> list[float]:
        self.at += count
        return self.z[self.at - count : self.at]

    def random(self) -> float:
        return 0.5 * (1 + math.erf(self.next(1)[0] / math.sqrt(2)))

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self.random()

    def choice(self, options: Sequence[str]) -> str:
        y, x = self.next(2)  # each option has two neighbours, and a network has few borders to learn
        return options[int(math.atan2(y, x) / (2 * math.pi) % 1 * len(options)) % len(options)]


Numbers = np.random.Generator | _Latent


def sometimes(rng: Numbers, probability: float, low: float, high: float, otherwise: float) -> float:
    """Uniform from low to high with this probability, from one number."""
    u = rng.random()
    return low + (high - low) * u / probability if u < probability else otherwise


def hsv(h: float, s: float, v: float) -> Color:
    """A colour by hue (turns, any), saturation and value (clamped to [0, 1])."""
    return colorsys.hsv_to_rgb(h % 1.0, min(max(s, 0.0), 1.0), min(max(v, 0.0), 1.0))


def _luma(c: Color) -> float:
    return 0.299 * c[0] + 0.587 * c[1] + 0.114 * c[2]


def _any_color(latent: _Latent) -> Color:
    red, green, blue = (0.5 + 0.5 * math.erf(1.1 * x) for x in latent.next(3))  # bolder than uniform
    return red, green, blue


def _mixed(first: Color, second: Color, share: float) -> Color:
    red, green, blue = (a + (b - a) * min(max(share, 0.0), 1.0) for a, b in zip(first, second))
    return red, green, blue


def _contrasting(latent: _Latent, against: Color, least: float) -> Color:
    """A colour whose luma differs from `against`, if need be by going towards black or white, whichever is farther."""
    color = _any_color(latent)
    own, other = _luma(color), _luma(against)
    if abs(own - other) >= least:
        return color
    pole = 0.0 if other > 0.5 else 1.0
    wanted = other - least if other > 0.5 else other + least
    share = (wanted - own) / (pole - own)
    return _mixed(color, (pole, pole, pole), share)


def pattern(
    rng: Numbers, order: int, inner: float, outer: float, color: Color, families: Sequence[str], pierced: float
) -> Pattern:
    """A motif that fits between the radii `inner` and `outer` without running into its neighbours' middle."""
    motif = MOTIFS[family := str(rng.choice(families))]
    sector = math.sin(math.pi / max(order, 2))
    if motif.compact:
        room = (outer - inner) / 2
        radius = rng.uniform(inner + 0.75 * room, outer - 0.75 * room)
        widest = min(min(radius - inner, outer - radius) * 1.05, radius * sector * motif.crowding)
        size = widest * rng.uniform(0.85, 1.0)
        aspect = rng.uniform(*motif.aspect)
    else:
        low = inner + (outer - inner) * rng.uniform(0.0, 0.3)
        high = outer - (outer - inner) * rng.uniform(0.0, 0.2)
        radius, size = (low + high) / 2, (high - low) / 2
        aspect = min(radius * sector * motif.crowding / size, motif.aspect[1]) * rng.uniform(0.55, 1.0)
    side = rng.uniform(-1.0, 1.0)  # to which side it is turned, and how far: most not at all
    twisted = abs(side) > 1 - motif.swirled
    share = (abs(side) - 1 + motif.swirled) / motif.swirled
    twist = motif.swirl[0] + (motif.swirl[1] - motif.swirl[0]) * share if twisted else 0.02
    hole = sometimes(rng, pierced, 0.28, 0.42, otherwise=0.0) * min(aspect, 1.0) * motif.pierceable
    bend = rng.random()
    return Pattern(
        family,
        float(radius),
        float(size),
        float(aspect),
        float(bend),
        float(hole),
        float(math.copysign(twist, side)),
        0.0,
        color,
    )


def source_latent(seed: int) -> tuple[np.ndarray, int, float]:
    """What decides the source emblem of a seed: a latent (SOURCE_LATENT_DIM,) ~ N(0, I), the order, and the phase."""
    rng = np.random.default_rng((0, seed))
    return rng.standard_normal(SOURCE_LATENT_DIM), int(rng.integers(1, 9)), float(rng.uniform(0, 2 * math.pi))


def source_emblem(z: np.ndarray, order: int, phase: float) -> Emblem:
    """The source distribution, as a function of a Gaussian latent.

    So a generator can be shown for each of its latents the picture that it should make of it (training/teacher.py).
    Nearly everything in the emblem moves continuously with z.
    """
    latent = _Latent(z)
    black = (0.0, 0.0, 0.0)
    background, iris = _any_color(latent), _any_color(latent)
    iris_outer = _mixed(iris, black, latent.uniform(-0.25, 0.55))
    background_outer = _mixed(background, black, latent.uniform(-1.0, 0.5))
    iris_radius = latent.uniform(0.72, 0.97)
    rim_width = max(latent.uniform(-0.03, 0.09), 0.0)
    pupil = max(latent.uniform(-0.06, 0.22), 0.0)
    top = iris_radius - rim_width
    ink = _contrasting(latent, iris, 0.22)
    # Black ink in a black rim, round a black pupil, is what many emblems have: nearly half of these take the ink's colour.
    rim_color, pupil_color, ring_color = (_mixed(ink, _any_color(latent), latent.uniform(-1.0, 1.5)) for _ in range(3))
    rings = tuple(
        Ring(latent.uniform(pupil + 0.06, top - 0.05), max(latent.uniform(low, 0.06), 0.0), ring_color)
        for low in (-0.05, -0.25)  # a second one is rarer
    )
    layout, low, high = latent.random(), latent.random(), latent.random()
    if layout < 0.68:
        bands = [(pupil * 1.1 * low, top * (0.8 + 0.2 * high))]
    elif layout < 0.89:  # two patterns side by side in radius
        middle = (0.45 + 0.15 * low) * top
        bands = [(middle * 0.9, top), (pupil * 0.8, middle)]
    else:  # or one over the other
        bands = [(pupil, top), (pupil, top * 0.8)]
    between, second_ink = latent.random() < 0.5, _contrasting(latent, iris, 0.15)
    second_ink = _mixed(ink, second_ink, latent.uniform(-1.0, 1.5))
    patterns = [pattern(latent, order, *bands[0], ink, FAMILIES, 0.25)]
    if len(bands) == 2:
        second = pattern(latent, order, *bands[1], second_ink, FAMILIES, 0.25)
        patterns.append(dataclasses.replace(second, phase=math.pi / order if between else 0.0))
    return Emblem(
        order=order,
        phase=phase,
        patterns=tuple(patterns),
        rings=tuple(ring for ring in rings if ring.width > 0),
        iris_radius=iris_radius,
        iris_inner=iris,
        iris_outer=iris_outer,
        rim_width=rim_width,
        rim_color=rim_color,
        pupil_radius=pupil,
        pupil_color=pupil_color,
        background_inner=background,
        background_outer=background_outer,
    )


# -------------------------------------------------------------------------------------------------------------- rendering


LAYERS = ("background", "rim", "pupil", "iris", "ring", "pattern", "second pattern")


def render(emblems: Sequence[Emblem], size: int, device: torch.device | str = "cpu") -> Tensor:
    """Draw emblems -> pictures (N, 3, size, size) in [0, 1], float32. Order of painting: background, iris, rings, patterns
    (cut off at the rim), pupil, rim; edges are blended over one pixel."""
    if not emblems:
        return torch.empty(0, 3, size, size, device=device)
    radius, angle = _pixels(size, device)
    return _in_colors(emblems, radius, _paintings(emblems, radius, angle))


def render_masks(emblems: Sequence[Emblem], size: int, device: torch.device | str = "cpu") -> Tensor:
    """What is seen where: the share of each pixel that each of LAYERS has, (N, 7, size, size), which add up to one.

    All rings count as one layer, and all patterns after the first.
    """
    return _in_layers(emblems, size, device, _paintings(emblems, *_pixels(size, device)))


def render_with_masks(
    emblems: Sequence[Emblem], size: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """`render` and `render_masks` of one or more emblems, for little more than one of them."""
    radius, angle = _pixels(size, device)
    paintings = list(_paintings(emblems, radius, angle))
    return _in_colors(emblems, radius, paintings), _in_layers(emblems, size, device, paintings)


Painting = tuple[str, list[int], Tensor]


def _in_colors(emblems: Sequence[Emblem], radius: Tensor, paintings: Iterable[Painting]) -> Tensor:
    def colors(values: Sequence[Color]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=radius.device)[:, :, None, None]

    iris_radius = _column([e.iris_radius for e in emblems], radius)
    outside = ((radius - iris_radius) / (math.sqrt(2) - iris_radius)).clamp(0, 1)[:, None]
    image = torch.lerp(
        colors([e.background_inner for e in emblems]), colors([e.background_outer for e in emblems]), outside
    )
    inside = (radius / iris_radius).clamp(0, 1).square()[:, None]
    iris = torch.lerp(colors([e.iris_inner for e in emblems]), colors([e.iris_outer for e in emblems]), inside)
    for layer, rows, coverage in paintings:
        some = [emblems[i] for i in rows]
        if layer == "iris":
            color = iris
        elif layer == "rim":
            color = colors([e.rim_color for e in some])
        elif layer == "pupil":
            color = colors([e.pupil_color for e in some])
        else:
            name, slot = layer.split()
            color = colors([(e.rings if name == "ring" else e.patterns)[int(slot)].color for e in some])
        if len(rows) == len(emblems):
            image = torch.lerp(image, color, coverage[:, None])
        else:
            image[rows] = torch.lerp(image[rows], color, coverage[:, None])
    return image


def _in_layers(
    emblems: Sequence[Emblem], size: int, device: torch.device | str, paintings: Iterable[Painting]
) -> Tensor:
    masks = torch.zeros(len(emblems), len(LAYERS), size, size, device=device)
    masks[:, 0] = 1
    for layer, rows, coverage in paintings:
        name, _, slot = layer.partition(" ")
        index = LAYERS.index("second pattern" if name == "pattern" and slot != "0" else name)
        masks[rows] *= (1 - coverage)[:, None]
        masks[rows, index] += coverage
    return masks


def _pixels(size: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Radius and angle of each pixel's middle, (S, S)."""
    axis = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) * (2 / size) - 1
    x, y = axis[None, :], -axis[:, None]
    return torch.sqrt(x * x + y * y), torch.atan2(y, x)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device)[:, None, None]


def _paintings(emblems: Sequence[Emblem], radius: Tensor, angle: Tensor) -> Iterator[Painting]:
    """What is painted on the background, in order: a name, the emblems that have it, and its coverage (len(rows), S, S).

    Names are iris, "ring 0" and on, "pattern 0" and on, pupil, rim.
    """
    everyone, size = list(range(len(emblems))), len(radius)

    def disc(values: Sequence[float]) -> Tensor:
        edge = _column(values, radius)
        return torch.where(edge > 0, ((edge - radius) * (size / 2) + 0.5).clamp(0, 1), 0.0)

    full = disc([e.iris_radius for e in emblems])
    yield "iris", everyone, full
    for slot in range(max((len(e.rings) for e in emblems), default=0)):
        rows = [i for i in everyone if slot < len(emblems[i].rings)]
        rings = [emblems[i].rings[slot] for i in rows]
        line = (
            _column([r.width / 2 for r in rings], radius) - (radius - _column([r.radius for r in rings], radius)).abs()
        )
        yield f"ring {slot}", rows, (line * (size / 2) + 0.5).clamp(0, 1) * full[rows]
    flat = [(i, slot) for i, e in enumerate(emblems) for slot in range(len(e.patterns))]
    coverage = _pattern_coverage([(emblems[i], emblems[i].patterns[slot]) for i, slot in flat], radius, angle)
    for slot in range(max((slot for _, slot in flat), default=-1) + 1):
        chosen = [k for k, (_, own) in enumerate(flat) if own == slot]
        rows = [flat[k][0] for k in chosen]
        yield f"pattern {slot}", rows, coverage[chosen] * full[rows]
    yield "pupil", everyone, disc([e.pupil_radius for e in emblems])
    yield "rim", everyone, full - disc([e.iris_radius - e.rim_width for e in emblems])


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
    parser.add_argument("--distribution", choices=DISTRIBUTIONS, default="sharingan")
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
