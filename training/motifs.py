"""The motifs that patterns are made of, as signed distances (negative inside) in a motif's own coordinates.

u points away from the emblem's centre and v along the circle; the motif reaches from about -1 to 1. Distances may be
distorted: the renderer divides by their slope. Basic distances after I. Quilez, "2D distance functions" (the vesica and the
half-plane intersections); the rest are our own designs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

Distance = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class Motif:
    """A distance (u, v, aspect, bend) -> d and how the sampler may use it."""

    distance: Distance
    compact: (
        bool  # as wide as long, so that it is sized by the room between its neighbours; else it spans the whole band
    )
    aspect: tuple[float, float]  # half width over half length: range, or for those that are not compact 0 to the widest
    crowding: float = 0.9  # the share of its sector that it may fill
    overlaps: bool = False  # reaches into the next sector
    swirl: tuple[float, float] = (0.4, 1.6)  # radians per unit of radius
    swirled: float = 0.4  # how often it is twisted
    pierceable: bool = False
    pierced_at: float = 0.0  # u of the hole


def _vesica(along: Tensor, across: Tensor, width: Tensor) -> Tensor:
    """Two arcs that meet in points at along = -1 and 1; `width` is the half width."""
    arc = (1 + width * width) / (2 * width)
    return torch.hypot(along, across.abs() + arc - width) - arc


def tomoe(u: Tensor, v: Tensor, aspect: Tensor, bend: Tensor) -> Tensor:
    """A comma: a round head, and a tail whose outer edge is the circle that the head touches from within, tapering to a
    point on it."""
    head, outer = 0.36 + 0.12 * aspect, 0.86
    # The curl's centre; the head lies towards the outside or the side, the tail sweeps on from it.
    tilt = 0.9 - 1.2 * bend
    x, y = u - 0.05, v + 0.1
    cu, cv = torch.cos(tilt) * (outer - head), -torch.sin(tilt) * (outer - head)
    blob = torch.hypot(x - cu, y - cv) - head
    sweep = torch.remainder(torch.atan2(y, x) + tilt, 2 * math.pi)
    reach = 2.5 + 0.9 * bend
    width = 2 * head * (1 - sweep / reach).clamp(min=0) ** 1.15
    rho = torch.hypot(x, y)
    tail = torch.maximum(rho - outer, outer - width - rho)
    tail = torch.where(
        sweep < reach, tail, torch.hypot(x - outer * torch.cos(reach - tilt), y - outer * torch.sin(reach - tilt))
    )
    return torch.minimum(blob, tail)


def sickle(u: Tensor, v: Tensor, aspect: Tensor, bend: Tensor) -> Tensor:
    """An arc that tapers to both ends."""
    x, y = u + 0.3, v
    tilt = 0.5 * bend
    sweep = torch.remainder(torch.atan2(y, x) + tilt + 0.4, 2 * math.pi)
    reach = 2.2 + 0.8 * bend
    width = (0.18 + 0.22 * aspect) * torch.sin((sweep / reach).clamp(0, 1) * math.pi)
    away = (sweep > reach) * 0.2
    return (torch.hypot(x, y) - 0.85 + width * 0.6).abs() - width + away


def crescent(u: Tensor, v: Tensor, aspect: Tensor, bend: Tensor) -> Tensor:
    """A moon whose horns point outwards or to the side."""
    tilt = 2.2 * bend
    shift = 0.35 + 0.25 * aspect
    bite = torch.hypot(u - shift * torch.cos(tilt), v - shift * torch.sin(tilt)) - 0.78
    return torch.maximum(torch.hypot(u, v) - 0.95, -bite)


def blade(u: Tensor, v: Tensor, aspect: Tensor, bend: Tensor) -> Tensor:
    """A curved blade: a circle's cap cut by a second circle, pointed at both ends, bulging to one side."""
    bulge = aspect * (0.9 + 0.9 * bend)
    arc = (1 + bulge * bulge) / (2 * bulge)
    belly = torch.hypot(u, v + arc - bulge) - arc
    hollow = bulge - aspect * 0.85
    inner = (1 + hollow * hollow) / (2 * hollow)
    return torch.maximum(belly, inner - torch.hypot(u, v + inner - hollow))


def petal(u: Tensor, v: Tensor, aspect: Tensor, bend: Tensor) -> Tensor:
    """A leaf along the radius, its widest place moved outwards by bend."""
    return _vesica(u, v * (1 + 0.45 * (bend - 0.3) * (0.4 - u)), aspect)


def lens(u: Tensor, v: Tensor, aspect: Tensor, bend: Tensor) -> Tensor:
    """A leaf along the circle."""
    return _vesica(v, u + 0.25 * bend * v * v, 0.35 + 0.3 * aspect)


def ray(u: Tensor, v: Tensor, aspect: Tensor, bend: Tensor) -> Tensor:
    """A triangle with its tip outside; n of them are a star."""
    slope = aspect / 2
    return torch.maximum((v.abs() - (1 - u) * slope) / torch.sqrt(1 + slope * slope), -1 - u)


def shuriken(u: Tensor, v: Tensor, aspect: Tensor, bend: Tensor) -> Tensor:
    """A ray with hollow sides."""
    width = aspect * ((1 - u) / 2).clamp(0, 1.2) ** (1.7 + bend)
    return torch.maximum(v.abs() - width, torch.maximum(u - 1, -1 - u))


def pinwheel(u: Tensor, v: Tensor, aspect: Tensor, bend: Tensor) -> Tensor:
    """A sail: one edge along the radius, the other falling to the tip in a curve."""
    t = ((1 - u) / 2).clamp(0, 1)
    sail = 1.7 * aspect * torch.sqrt(t + 1e-4) * (1 - (0.55 + 0.35 * bend) * t)
    return torch.maximum(torch.maximum(-v - 0.5 * aspect, v + 0.5 * aspect - sail), torch.maximum(u - 1, -1 - u))


def kite(u: Tensor, v: Tensor, aspect: Tensor, bend: Tensor) -> Tensor:
    """Four straight edges, widest nearer to the centre or farther out."""
    waist = 0.8 * (bend - 0.5)
    outer = v.abs() / aspect + (u - waist) / (1 - waist) - 1
    inner = v.abs() / aspect - (u - waist) / (1 + waist) - 1
    return torch.maximum(outer, inner)


def ring(u: Tensor, v: Tensor, aspect: Tensor, bend: Tensor) -> Tensor:
    """A hoop; neighbours interlock."""
    thick = 0.09 + 0.1 * aspect
    return (torch.hypot(u, v) - 0.95 + thick).abs() - thick


def drop(u: Tensor, v: Tensor, aspect: Tensor, bend: Tensor) -> Tensor:
    """A disc drawn out to a point, towards the centre or away from it."""
    u = torch.where(bend < 0.5, u, -u)
    head = 0.38 + 0.2 * aspect
    x = u - (1 - head)
    t = (-x / (2 - head)).clamp(0, 1)
    tail = torch.maximum(v.abs() - head * (1 - t) ** 1.4, torch.maximum(x, -1 - u))
    return torch.minimum(torch.hypot(x, v) - head, tail)


def bead(u: Tensor, v: Tensor, aspect: Tensor, bend: Tensor) -> Tensor:
    """A disc with a smaller companion farther in."""
    return torch.minimum(torch.hypot(u - 0.35, v) - 0.6, torch.hypot(u + 0.72, v) - 0.12 - 0.14 * bend)


def spoke(u: Tensor, v: Tensor, aspect: Tensor, bend: Tensor) -> Tensor:
    """A bar with a wider head at its outer end."""
    bar = torch.maximum(v.abs() - aspect * 0.4, u.abs() - 1)
    head = torch.maximum(v.abs() - aspect, (u - 0.8 + 0.3 * bend).abs() - 0.2)
    return torch.minimum(bar, head)


def chevron(u: Tensor, v: Tensor, aspect: Tensor, bend: Tensor) -> Tensor:
    """An arrow head."""
    line = u - 0.45 + (0.5 + 0.8 * bend) * v.abs()
    return torch.maximum(line.abs() - 0.22 - 0.1 * aspect, v.abs() - 0.85)


def clover(u: Tensor, v: Tensor, aspect: Tensor, bend: Tensor) -> Tensor:
    """Three discs and a stem."""
    side = torch.hypot(u - 0.05, v.abs() - 0.42) - 0.36 - 0.06 * aspect
    stem = torch.maximum(v.abs() - 0.05 - 0.1 * (0.2 - u).clamp(min=0), (u + 0.5).abs() - 0.5)
    return torch.minimum(torch.minimum(side, torch.hypot(u - 0.55, v) - 0.4), stem)


def arc(u: Tensor, v: Tensor, aspect: Tensor, bend: Tensor) -> Tensor:
    """A piece of a thick circle line, round the emblem's centre when bend is one half."""
    bow = u + (0.1 + 0.5 * bend) * v * v
    return torch.maximum(bow.abs() - 0.2 - 0.15 * aspect, v.abs() - 0.95)


def horn(u: Tensor, v: Tensor, aspect: Tensor, bend: Tensor) -> Tensor:
    """A fang that leans over to one side, broad at its foot."""
    t = ((u + 1) / 2).clamp(0, 1)
    lean = (0.5 + 0.9 * bend) * aspect * t * t
    width = aspect * (1 - t) ** 0.8
    return torch.maximum((v - lean).abs() - width, torch.maximum(u - 1, -1 - u))


MOTIFS: dict[str, Motif] = {
    "tomoe": Motif(tomoe, True, (0.0, 1.0), crowding=1.0, overlaps=True, swirled=0.3, swirl=(0.2, 0.8)),
    "sickle": Motif(sickle, True, (0.0, 1.0), crowding=1.15, overlaps=True),
    "crescent": Motif(crescent, True, (0.0, 1.0), crowding=0.95, overlaps=True),
    "blade": Motif(blade, False, (0.0, 0.7), crowding=0.75, overlaps=True, swirl=(0.5, 2.0), swirled=0.5),
    "petal": Motif(petal, False, (0.0, 0.62), pierceable=True, pierced_at=0.1),
    "lens": Motif(lens, True, (0.0, 1.0), pierceable=True, overlaps=True),
    "ray": Motif(ray, False, (0.0, 1.0), swirl=(0.5, 2.2), swirled=0.5, pierceable=True, pierced_at=-0.3),
    "shuriken": Motif(
        shuriken, False, (0.0, 1.4), crowding=1.0, swirl=(0.5, 2.0), swirled=0.5, pierceable=True, pierced_at=-0.5
    ),
    "pinwheel": Motif(pinwheel, False, (0.0, 0.8), crowding=0.8, overlaps=True, swirl=(0.6, 2.4), swirled=0.7),
    "kite": Motif(kite, False, (0.0, 0.75), pierceable=True),
    "ring": Motif(ring, True, (0.0, 1.0), crowding=1.5, overlaps=True, swirled=0.1),
    "drop": Motif(drop, True, (0.0, 1.0), overlaps=True, pierceable=True, pierced_at=0.3),
    "bead": Motif(bead, True, (0.0, 1.0), overlaps=True, swirled=0.1),
    "spoke": Motif(spoke, False, (0.0, 0.5)),
    "chevron": Motif(chevron, True, (0.0, 1.0), overlaps=True, swirled=0.3),
    "clover": Motif(clover, True, (0.0, 1.0), overlaps=True),
    "arc": Motif(arc, True, (0.0, 1.0), crowding=0.95, overlaps=True, swirled=0.2),
    "horn": Motif(horn, False, (0.0, 0.7), crowding=0.75, overlaps=True, swirl=(0.4, 1.8), swirled=0.6),
}
