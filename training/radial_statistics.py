"""Matching the few pictures' statistics over the radius: a loss that moves colours and radii long before a discriminator does.

Which colours lie on each circle about an emblem's middle, and how much of it each has, does not depend on how the emblem is
turned, and says where its motifs stand and how large they are. The generator is asked for the distribution of that which the
training pictures have, by the energy distance (Szekely and Rizzo 2004; as a generator's loss: Bellemare et al. 2017):

    2 E|x - y| - E|x - x'| - E|y - y'|,   x, x' fakes, y, y' training pictures,

which is 0 for equal distributions alone: copies of one picture are far from it. Shapes are left to the discriminator.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sharingan_hub.postprocess.polar import to_polar
from training.correspondence import GROUP

RADII, FINE, ANGLES, PARTS = 24, 3, 48, 8
AROUND, EXTREMES = 9, 8
STRANGEST = (1 / 18, 1 / 9, 2 / 9, 4 / 9)  # shares of the pixels
STRANGE = 0.2  # weight: gradients of a few pixels are steep, and a motif must not vanish because of its colour
LEVELS, MOST_COLORS = (24, 16, 12, 8), 1024


def circles_of(images: Tensor, count: int = RADII * FINE, angles: int = ANGLES) -> Tensor:
    """Pictures (N,C,S,S) -> their values at `angles` places of `count` circles, (N, C, count, angles)."""
    half = images.shape[2] / 2
    radii = (torch.arange(count, device=images.device, dtype=images.dtype) + 0.5) * (half / count)
    turns = torch.arange(angles, device=images.device, dtype=images.dtype) * (2 * math.pi / angles)
    return to_polar(images, radii, turns)


def radial_statistics(circles: Tensor) -> tuple[Tensor, ...]:
    """Three descriptions of pictures, none of which a turn changes; of what `circles_of` returns.

    Which colours lie at each radius: each channel's values along a circle, from the lowest to the highest, in means of PARTS
    equal parts, over RADII radii: (N, 3 * RADII * PARTS). Differences are Wasserstein distances circle by circle.
    Which rings there are: each channel's lowest and highest part on FINE times as many circles, less its median over AROUND
    circles, the EXTREMES lowest and highest of all radii: (N, 3 * 2 * EXTREMES * 2). A thin ring counts here wherever it lies;
    a motif that is no ring does not, nor the edge of a disc.
    Where motifs stand and how much room they take, whatever the colours: how far a circle's colours are from its median
    colour, in parts like the first: (N, RADII * PARTS).
    """
    away = (circles - circles.median(dim=3, keepdim=True).values).square().sum(dim=1, keepdim=True).add(1e-6).sqrt()
    parts, motifs = (some.sort(dim=3).values.unflatten(3, (PARTS, -1)).mean(dim=4) for some in (circles, away))
    colors, motifs = (some.unflatten(2, (RADII, FINE)).mean(dim=3) for some in (parts, motifs))
    outer = parts[..., [0, -1]]
    around = outer.unfold(2, AROUND, 1).median(dim=4).values
    contrast = (outer[:, :, AROUND // 2 : -(AROUND // 2)] - around).sort(dim=2).values
    rings = torch.cat([contrast[:, :, :EXTREMES], contrast[:, :, -EXTREMES:]], dim=2)
    return colors.flatten(1), rings.flatten(1), motifs.flatten(1)


def strangeness(circles: Tensor, colors: Tensor) -> Tensor:
    """How far the strangest pixels' colours are from the nearest of `colors` (M,3): means over shares of them, (N, 4).

    A small motif of a colour that no training picture has weighs little in all the other statistics.
    """
    points = circles[:, :, FINE // 2 :: FINE, ::2].flatten(2).transpose(1, 2)
    with torch.no_grad():
        near = colors[torch.cdist(points, colors.expand(len(points), -1, -1)).argmin(dim=2)]
    far = ((points - near).square().sum(dim=2) + 1e-6).sqrt().sort(dim=1, descending=True).values
    return torch.stack([far[:, : round(share * far.shape[1])].mean(dim=1) for share in STRANGEST], dim=1) * STRANGE


@dataclass(frozen=True)
class Wanted:
    """What fakes are matched to.

    Args:
        statistics: `radial_statistics` of the training pictures, and how strange each one's colours are beside the others'.
        colors: of all of them, (M, 3) in [-1, 1].
    """

    statistics: tuple[Tensor, ...]
    colors: Tensor


def wanted_of(pictures: Tensor) -> Wanted:
    """What fakes are matched to, of training pictures (N,3,S,S) in [-1,1]."""
    circles = circles_of(pictures)
    for levels in LEVELS:
        steps = ((circles + 1) * ((levels - 1) / 2)).round()
        own = [colors.flatten(1).t().unique(dim=0) * (2 / (levels - 1)) - 1 for colors in steps]
        colors, places = torch.cat(own).unique(dim=0, return_inverse=True)
        if len(colors) <= MOST_COLORS:
            break
    owners = places.bincount()  # how many pictures have each colour
    strange = []
    for circle, mine in zip(circles, places.split([len(some) for some in own])):
        others = owners - torch.zeros_like(owners).index_fill_(0, mine, int(len(own) > 1)) > 0
        strange.append(strangeness(circle[None], colors[others]))
    return Wanted((*radial_statistics(circles), torch.cat(strange)), colors)


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Root mean square differences (N,M) of rows of (N,F) and (M,F), safe to differentiate where they are 0."""
    return ((x[:, None] - y).square().mean(dim=2) + 1e-8).sqrt()


def statistics_loss(fakes: Tensor, wanted: Wanted) -> Tensor:
    """Each fake's share (N,) of the energy distances to what is wanted, less the terms that are the real pictures' own.

    fakes: (N,3,S,S) in [-1,1], N a multiple of GROUP.
    """
    circles = circles_of(fakes)
    own = (*radial_statistics(circles), strangeness(circles, wanted.colors))
    return torch.stack([energy(some, real) for some, real in zip(own, wanted.statistics)]).sum(dim=0)


def energy(own: Tensor, real: Tensor) -> Tensor:
    """Each row's share (N,) of the energy distance of (N,F) to (M,F), less the term that is `real`'s own.

    Rows are compared with one another in groups, so that how a batch is split changes nothing.
    """
    to_real = distances(own, real).mean(dim=1)
    groups = own.unflatten(0, (-1, GROUP))
    among = torch.stack([distances(group, group).sum(dim=1) for group in groups]).flatten() / (GROUP - 1)
    return 2 * to_real - among
