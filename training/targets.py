"""Emblem distributions to adapt to: narrow ones, each with a look of its own, of which a few-shot set shows about 15.

"sharingan" is what the published models are made for. "frost", "solar" and "jade" were made for the benchmark and nothing is
tuned on them: other colours, layouts, families and mixes of orders. "violet" and "gold" are there to choose settings on.
All colours lie near the look's own; unlike the source distribution they are no function of a Gaussian latent. "plain" is the second
domain of CoGAN: designs of the same distribution as "sharingan", drawn in another way.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from .emblems import FAMILIES, Color, Emblem, Pattern, Ring, hsv, pattern


@dataclasses.dataclass(frozen=True)
class Target:
    """A distribution: how often each order 1 to 8 comes, and how an emblem of an order is drawn."""

    order_probs: list[float]
    draw: Callable[[np.random.Generator, int], Emblem]
    stream: int  # of random numbers: seeds of two targets have nothing in common


def sample_target(name: str, seed: int) -> Emblem:
    """The emblem of a seed."""
    target = TARGETS[name]
    rng = np.random.default_rng((target.stream, seed))
    return target.draw(rng, int(rng.choice(len(target.order_probs), p=target.order_probs)) + 1)


def _patterns(
    rng: np.random.Generator,
    order: int,
    bands: list[tuple[float, float]],
    inks: list[Color],
    families: tuple[str, ...] | list[str],
    pierced: float,
) -> tuple[Pattern, ...]:
    """One pattern in each band of radii; half of the time the second one stands between the first one's motifs."""
    patterns = [pattern(rng, order, float(a), float(b), ink, families, pierced) for (a, b), ink in zip(bands, inks)]
    if len(patterns) == 2 and rng.random() < 0.5:
        patterns[1] = dataclasses.replace(patterns[1], phase=math.pi / order)
    return tuple(patterns)


SHARINGAN_FAMILIES = tuple(name for name in FAMILIES if name not in ("spoke", "chevron", "arc"))


def _sharingan(rng: np.random.Generator, order: int) -> Emblem:
    """Red iris, dark rim, black pattern and pupil, a thin ring, white ground."""
    ink = hsv(rng.random(), 0.2, rng.uniform(0.02, 0.06))
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
    patterns = _patterns(rng, order, bands, [ink, ink], families, 0.3)
    white = rng.uniform(0.93, 0.98)
    return Emblem(
        order=order,
        phase=float(rng.uniform(0, 2 * math.pi)),
        patterns=patterns,
        rings=(Ring(float(ring), float(rng.uniform(0.014, 0.024)), ink),),
        iris_radius=float(iris_radius),
        iris_inner=hsv(hue, rng.uniform(0.88, 0.98), value),
        iris_outer=hsv(hue - 0.01, 0.97, value * rng.uniform(0.55, 0.75)),
        rim_width=float(rim_width),
        rim_color=ink,
        pupil_radius=float(pupil),
        pupil_color=ink,
        background_inner=(white, white, white),
        background_outer=(white, white, white),
    )


def drawn_plainly(design: Emblem) -> Emblem:
    """A sharingan's design in black on a white disc, on black: patterns and ring alone, no rim and no shading."""
    black, white = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return dataclasses.replace(
        design,
        patterns=tuple(dataclasses.replace(pattern, color=black) for pattern in design.patterns),
        rings=tuple(dataclasses.replace(ring, color=black) for ring in design.rings),
        iris_inner=white,
        iris_outer=white,
        rim_width=0.0,
        pupil_color=black,
        background_inner=black,
        background_outer=black,
    )


def _plain(rng: np.random.Generator, order: int) -> Emblem:
    return drawn_plainly(_sharingan(rng, order))


FROST_FAMILIES = ("petal", "kite", "spoke", "chevron", "shuriken", "lens", "arc", "ring")


def _frost(rng: np.random.Generator, order: int) -> Emblem:
    """Ice crystals: white patterns on a blue disc, a thin white rim, no pupil or a white one, on midnight blue."""
    white = hsv(0.55, rng.uniform(0.02, 0.12), rng.uniform(0.92, 1.0))
    hue, value = rng.uniform(0.53, 0.61), rng.uniform(0.55, 0.8)
    iris_radius, rim_width = rng.uniform(0.84, 0.92), rng.uniform(0.02, 0.035)
    pupil = rng.uniform(0.05, 0.09) if rng.random() < 0.6 else 0.0
    top = iris_radius - rim_width
    middle = rng.uniform(0.48, 0.6) * top
    bands = [(0.06, top * 0.97)] if rng.random() < 0.4 else [(middle * 0.95, top * 0.97), (pupil * 0.8, middle * 0.9)]
    night = hsv(0.62, rng.uniform(0.65, 0.85), rng.uniform(0.12, 0.22))
    return Emblem(
        order=order,
        phase=float(rng.uniform(0, 2 * math.pi)),
        patterns=_patterns(rng, order, bands, [white, white], FROST_FAMILIES, 0.5),
        rings=(Ring(float(middle), float(rng.uniform(0.01, 0.02)), white),) if rng.random() < 0.5 else (),
        iris_radius=float(iris_radius),
        iris_inner=hsv(hue, rng.uniform(0.35, 0.5), min(1.0, value + 0.15)),
        iris_outer=hsv(hue + 0.02, rng.uniform(0.7, 0.85), value * 0.75),
        rim_width=float(rim_width),
        rim_color=white,
        pupil_radius=float(pupil),
        pupil_color=white,
        background_inner=night,
        background_outer=hsv(0.63, 0.8, 0.07),
    )


SOLAR_FAMILIES = ("ray", "pinwheel", "horn", "blade", "sickle", "drop", "shuriken")


def _solar(rng: np.random.Generator, order: int) -> Emblem:
    """Suns: a large golden pupil with a dark border, swirling brown flames on amber, no rim, on near black."""
    brown = hsv(rng.uniform(0.02, 0.06), rng.uniform(0.75, 0.9), rng.uniform(0.2, 0.32))
    gold = hsv(rng.uniform(0.12, 0.14), rng.uniform(0.55, 0.75), rng.uniform(0.92, 1.0))
    hue = rng.uniform(0.085, 0.115)
    iris_radius, pupil = rng.uniform(0.9, 0.96), rng.uniform(0.2, 0.3)
    border = rng.uniform(0.03, 0.05)
    bands = [(pupil * 0.95, iris_radius * rng.uniform(0.88, 0.98))]
    if rng.random() < 0.25:
        bands.append((pupil * 0.95, iris_radius * 0.62))
    dark = hsv(0.05, 0.5, rng.uniform(0.05, 0.1))
    return Emblem(
        order=order,
        phase=float(rng.uniform(0, 2 * math.pi)),
        patterns=_patterns(rng, order, bands, [brown, brown], SOLAR_FAMILIES, 0.2),
        rings=(Ring(float(pupil + border / 2), float(border), brown),),
        iris_radius=float(iris_radius),
        iris_inner=hsv(hue + 0.02, rng.uniform(0.8, 0.95), 1.0),
        iris_outer=hsv(hue - 0.05, rng.uniform(0.9, 1.0), rng.uniform(0.75, 0.9)),
        rim_width=0.0,
        rim_color=brown,
        pupil_radius=float(pupil),
        pupil_color=gold,
        background_inner=dark,
        background_outer=dark,
    )


JADE_FAMILIES = ("clover", "petal", "bead", "crescent", "tomoe", "kite", "lens")


def _jade(rng: np.random.Generator, order: int) -> Emblem:
    """Carved stone: cream patterns and a wide bronze rim on green, a dark pupil, on parchment."""
    cream = hsv(rng.uniform(0.12, 0.16), rng.uniform(0.12, 0.25), rng.uniform(0.86, 0.95))
    bronze = hsv(rng.uniform(0.08, 0.1), rng.uniform(0.5, 0.65), rng.uniform(0.42, 0.55))
    green = hsv(rng.uniform(0.4, 0.46), rng.uniform(0.6, 0.8), rng.uniform(0.4, 0.55))
    deep = hsv(0.43, 0.8, rng.uniform(0.14, 0.2))
    iris_radius, rim_width = rng.uniform(0.86, 0.94), rng.uniform(0.08, 0.12)
    pupil, top = rng.uniform(0.1, 0.15), iris_radius - rim_width
    inner = rng.uniform(0.3, 0.38)
    bands = [(inner * 1.02, top * 0.96)]
    if rng.random() < 0.5:
        bands.append((pupil * 1.1, inner * 0.98))
    parchment = hsv(0.11, rng.uniform(0.15, 0.25), rng.uniform(0.8, 0.88))
    return Emblem(
        order=order,
        phase=float(rng.uniform(0, 2 * math.pi)),
        patterns=_patterns(rng, order, bands, [cream, bronze], JADE_FAMILIES, 0.4),
        rings=(Ring(float(inner), float(rng.uniform(0.018, 0.03)), deep), Ring(float(top * 0.985), 0.02, deep)),
        iris_radius=float(iris_radius),
        iris_inner=green,
        iris_outer=hsv(0.43, 0.75, rng.uniform(0.25, 0.35)),
        rim_width=float(rim_width),
        rim_color=bronze,
        pupil_radius=float(pupil),
        pupil_color=deep,
        background_inner=parchment,
        background_outer=parchment,
    )


VIOLET_FAMILIES = ("clover", "crescent", "kite", "petal", "bead", "sickle", "drop", "chevron")


def _violet(rng: np.random.Generator, order: int) -> Emblem:
    """Orchids: lilac patterns, silver ones within, on a purple disc with a silver rim, no pupil, on plum."""
    lilac = hsv(0.78, rng.uniform(0.1, 0.25), rng.uniform(0.85, 1.0))
    hue, value = rng.uniform(0.74, 0.82), rng.uniform(0.3, 0.5)
    iris_radius, rim_width = rng.uniform(0.86, 0.95), rng.uniform(0.03, 0.05)
    top = iris_radius - rim_width
    middle = rng.uniform(0.5, 0.62) * top
    bands = [(middle * 0.98, top * 0.98), (0.08, middle * 0.95)] if rng.random() < 0.75 else [(0.1, top * 0.95)]
    silver = hsv(0.7, 0.05, rng.uniform(0.7, 0.85))
    plum = hsv(0.83, 0.6, rng.uniform(0.08, 0.15))
    return Emblem(
        order=order,
        phase=float(rng.uniform(0, 2 * math.pi)),
        patterns=_patterns(rng, order, bands, [lilac, silver], VIOLET_FAMILIES, 0.3),
        rings=(Ring(float(middle), float(rng.uniform(0.012, 0.02)), silver),) if rng.random() < 0.6 else (),
        iris_radius=float(iris_radius),
        iris_inner=hsv(hue, 0.6, value + 0.1),
        iris_outer=hsv(hue, 0.75, value * 0.7),
        rim_width=float(rim_width),
        rim_color=silver,
        pupil_radius=0.0,
        pupil_color=silver,
        background_inner=plum,
        background_outer=hsv(0.83, 0.6, 0.05),
    )


GOLD_FAMILIES = ("horn", "sickle", "blade", "tomoe", "lens", "arc")


def _gold(rng: np.random.Generator, order: int) -> Emblem:
    """Coins: dark green patterns, pupil and rim on gold, a thin ring far out, on sand."""
    green = hsv(rng.uniform(0.38, 0.45), rng.uniform(0.6, 0.8), rng.uniform(0.1, 0.2))
    hue, value = rng.uniform(0.11, 0.145), rng.uniform(0.85, 0.98)
    iris_radius, rim_width = rng.uniform(0.82, 0.9), rng.uniform(0.05, 0.08)
    pupil, top = rng.uniform(0.18, 0.26), iris_radius - rim_width
    ring = rng.uniform(0.62, 0.7)
    bands = [(pupil * 1.05, ring * 0.98)] if rng.random() < 0.6 else [(ring * 0.98, top), (pupil, ring * 0.95)]
    sand = hsv(0.1, rng.uniform(0.25, 0.35), rng.uniform(0.9, 0.97))
    return Emblem(
        order=order,
        phase=float(rng.uniform(0, 2 * math.pi)),
        patterns=_patterns(rng, order, bands, [green, green], GOLD_FAMILIES, 0.1),
        rings=(Ring(float(ring), float(rng.uniform(0.014, 0.022)), green),),
        iris_radius=float(iris_radius),
        iris_inner=hsv(hue, 0.7, value),
        iris_outer=hsv(hue - 0.03, 0.9, value * 0.8),
        rim_width=float(rim_width),
        rim_color=green,
        pupil_radius=float(pupil),
        pupil_color=green,
        background_inner=sand,
        background_outer=sand,
    )


SHARINGAN_ORDERS = [0.06, 0.12, 0.34, 0.20, 0.14, 0.14, 0.0, 0.0]
TARGETS = {
    "sharingan": Target(SHARINGAN_ORDERS, _sharingan, 1),
    "frost": Target([0.0, 0.0, 0.1, 0.15, 0.1, 0.45, 0.0, 0.2], _frost, 2),
    "solar": Target([0.0, 0.0, 0.05, 0.1, 0.25, 0.2, 0.2, 0.2], _solar, 3),
    "jade": Target([0.05, 0.2, 0.25, 0.3, 0.2, 0.0, 0.0, 0.0], _jade, 4),
    "violet": Target([0.0, 0.05, 0.15, 0.2, 0.25, 0.25, 0.1, 0.0], _violet, 11),
    "gold": Target([0.1, 0.25, 0.3, 0.2, 0.15, 0.0, 0.0, 0.0], _gold, 12),
    "plain": Target(SHARINGAN_ORDERS, _plain, 21),
}
