"""Matching the few pictures' statistics over the radius: a loss that moves colours and radii long before a discriminator does.

Which colours lie on each circle about an emblem's middle, and how much of it each has, does not depend on how the emblem is
turned, and little on its motif. The generator is asked for the distribution of that which the training pictures have, by
the energy distance (Szekely and Rizzo 2004; as a generator's loss: Bellemare et al. 2017):

    2 E|x - y| - E|x - x'| - E|y - y'|,   x, x' fakes, y, y' training pictures,

which is 0 for equal distributions alone. Motifs are left to the discriminator.
"""

import math

import torch
from torch import Tensor

from sharingan_hub.postprocess.polar import to_polar
from training.correspondence import GROUP

RADII, ANGLES, PARTS = 24, 48, 8


def radial_statistics(images: Tensor) -> Tensor:
    """The values of each colour channel along circles of RADII radii, from the lowest to the highest, in means of PARTS equal
    parts: pictures (N,3,S,S) -> (N, 3 * RADII * PARTS). Their differences are Wasserstein distances circle by circle."""
    half = images.shape[2] / 2
    radii = (torch.arange(RADII, device=images.device, dtype=images.dtype) + 0.5) * (half / RADII)
    angles = torch.arange(ANGLES, device=images.device, dtype=images.dtype) * (2 * math.pi / ANGLES)
    polar = to_polar(images, radii, angles)
    return polar.sort(dim=3).values.unflatten(3, (PARTS, -1)).mean(dim=4).flatten(1)


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Root mean square differences (N,M) of rows of (N,F) and (M,F), safe to differentiate where they are 0."""
    return ((x[:, None] - y).square().mean(dim=2) + 1e-8).sqrt()


def statistics_loss(fakes: Tensor, real: Tensor) -> Tensor:
    """Each fake's share (N,) of the energy distance to `real`, less the term that is the real pictures' own.

    Fakes are compared with one another in groups, so that how a batch is split changes nothing.

    fakes: (N,3,S,S) in [-1,1], N a multiple of GROUP. real: radial_statistics (M,F) of the training pictures.
    """
    own = radial_statistics(fakes)
    to_real = distances(own, real).mean(dim=1)
    groups = own.unflatten(0, (-1, GROUP))
    among = torch.stack([distances(group, group).sum(dim=1) for group in groups]).flatten() / (GROUP - 1)
    return 2 * to_real - among
