"""Which pixels of an emblem are sclera (what lies around the disc), iris (its ground) and pattern (all that is drawn on it).

Found from the picture alone, in three steps:
1. Colours: k-means in OKLab over pixels away from edges; clusters that touch without an edge between them are one
   colour that shades, and are joined.
2. Sclera: what has the colour of the corners and hangs together with the picture's border. Where that runs right into
   the middle (no edge of that colour), the sharpest circle about the centre parts it; where there is none either, the
   picture has no sclera.
3. Iris: within the disc, the colour with the largest area, a colourful one before a grey one; the rest is pattern.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .oklab import to_oklab

ROLES = ("iris", "pattern", "sclera")
IRIS, PATTERN, SCLERA = range(3)
CLUSTERS = 10
MAX_SIDE = 320  # roles are found on pictures no larger
SAMPLES = 4096  # pixels that k-means sees
FLAT = 0.03  # OKLab step from pixel to pixel that is no edge yet
SAME = 0.07  # OKLab distance of colours that are taken for one
RINGS = 96  # of the ring profile at most; the last takes all that lies beyond the nearest border
SMALL = 0.003  # share of the picture below which a cluster is no colour of its own
COLORFUL = 0.6  # how much of the area one unit of chroma is worth, in the choice of the iris


@dataclasses.dataclass
class Roles:
    """Roles in N pictures, found at a size of h x w (the pictures' own, or smaller)."""

    images: Tensor  # N,3,h,w: the pictures at that size, encoded sRGB
    labels: Tensor  # N,h,w: IRIS, PATTERN or SCLERA
    sure: Tensor  # N,h,w: pixels that are not on the edge between two colours
    anchors: Tensor  # N,3,3: OKLab colour of each role, the mean of its most frequent colour
    share: Tensor  # N,3: share of the pixels that count


@torch.no_grad()
def find_roles(images: Tensor) -> Roles:
    """Roles of the pixels of pictures N,3,H,W in [0, 1], float32."""
    n, _, height, width = images.shape
    side = max(height, width)
    if side > MAX_SIDE:
        size = (max(1, round(height * MAX_SIDE / side)), max(1, round(width * MAX_SIDE / side)))
        images = F.interpolate(images, size, mode="area")
        height, width = size
    lab = to_oklab(images.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    # Colours are told apart by what is flat even when smoothed; that keeps off edges, and noise does not hide it.
    flat = _flat(F.avg_pool2d(F.pad(lab, (1, 1, 1, 1), mode="replicate"), 3, stride=1))
    ridge = _ridge(lab)
    seen = flat + 0.3 * (ridge & ~flat)
    labels = _joined(*_clusters(lab, seen), flat, seen)
    sclera = _sclera(lab, labels, flat)
    roles = torch.where(sclera, SCLERA, _iris_or_pattern(lab, labels, seen * ~sclera))
    sure = flat | _flat(lab) | ridge
    # Thin lines count for a role's colour only where it has nothing flat: they are blended with what is beside them.
    return Roles(images, roles, sure, *_anchors(lab, labels, roles, 0.01 * sure + 0.99 * flat))


def _flat(lab: Tensor) -> Tensor:
    """Where the colour moves by less than FLAT from pixel to pixel, up, down, left and right."""
    flat = torch.ones_like(lab[:, 0], dtype=torch.bool)
    for axis in (1, 2):
        step = lab.diff(dim=axis + 1).norm(dim=1) < FLAT
        yes = torch.ones_like(step.narrow(axis, 0, 1) if step.shape[axis] else flat.narrow(axis, 0, 1))
        flat &= torch.cat((step, yes), dim=axis) & torch.cat((yes, step), dim=axis)
    return flat


def _ridge(lab: Tensor) -> Tensor:
    """Where the colour stands out against both sides in some direction: thin lines, which have no flat inside."""
    height, width = lab.shape[2:]
    padded = F.pad(lab, (2, 2, 2, 2), mode="replicate")
    ridge = torch.zeros_like(lab[:, 0], dtype=torch.bool)
    for dy, dx in ((0, 2), (2, 0), (2, 2), (2, -2)):
        one = padded[:, :, 2 + dy : 2 + dy + height, 2 + dx : 2 + dx + width]
        other = padded[:, :, 2 - dy : 2 - dy + height, 2 - dx : 2 - dx + width]
        ridge |= ((lab - one) * (lab - other)).sum(dim=1) > SAME**2
    return ridge


def _clusters(lab: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """k-means over pixels weighted by `seen` (N,h,w), begun with the farthest points -> colours N,K,3 and the nearest one's index N,h,w."""
    n, _, height, width = lab.shape
    pixels, weight = lab.flatten(2).transpose(1, 2), seen.flatten(1)
    weight = torch.where(weight.sum(dim=1, keepdim=True) > 0, weight, 1.0)
    stride = -(-pixels.shape[1] // SAMPLES)
    stride += stride > 1 and width % stride == 0  # else whole columns would never be seen
    points, weight = pixels[:, ::stride], weight[:, ::stride] + 1e-6
    centers = (points * weight[:, :, None]).sum(dim=1, keepdim=True) / weight.sum(dim=1)[:, None, None]
    for _ in range(CLUSTERS):
        away = torch.cdist(points, centers).amin(dim=2) * weight
        farthest = away.argmax(dim=1)
        centers = torch.cat((centers, points[torch.arange(n), farthest][:, None]), dim=1)
    centers = centers[:, 1:]
    for _ in range(8):
        own = F.one_hot(torch.cdist(points, centers).argmin(dim=2), CLUSTERS) * weight[:, :, None]
        mass = own.sum(dim=1)[:, :, None]
        centers = torch.where(mass > 1e-3, own.transpose(1, 2) @ points / mass.clamp(min=1e-6), centers)
    return centers, torch.cdist(pixels, centers).argmin(dim=2).view(n, height, width)


def _joined(centers: Tensor, labels: Tensor, flat: Tensor, seen: Tensor) -> Tensor:
    """Labels in which clusters of one colour, and clusters with no edge between them, bear the lowest one's number."""
    own = F.one_hot(labels, CLUSTERS) * flat[..., None].float()
    size = (F.one_hot(labels, CLUSTERS) * seen[..., None]).sum(dim=(1, 2))
    down = torch.einsum("nhwi,nhwj->nij", own[:, 1:], own[:, :-1])
    right = torch.einsum("nhwi,nhwj->nij", own[:, :, 1:], own[:, :, :-1])
    touching = down + down.mT + right + right.mT
    apart = torch.cdist(centers, centers)
    smaller = torch.minimum(size[:, :, None], size[:, None, :])
    one = (apart < SAME) | ((touching > 2 * smaller.sqrt()) & (apart < 0.3))
    # A few pixels on an edge must not bridge it: such a cluster joins the nearest large one, and links nothing.
    large = size > SMALL * labels[0].numel()
    large |= size == size.amax(dim=1, keepdim=True)
    one &= large[:, :, None] & large[:, None, :]
    linked = one.float() + torch.eye(CLUSTERS, device=labels.device)
    for _ in range(4):  # chains of up to sixteen
        linked = ((linked @ linked) > 0).float()
    group = linked.argmax(dim=2)
    nearest = apart.masked_fill(~large[:, None, :], torch.inf).argmin(dim=2)
    group = torch.where(large, group, group.gather(1, nearest))
    return group.gather(1, labels.flatten(1)).view_as(labels)


def _sclera(lab: Tensor, labels: Tensor, flat: Tensor) -> Tensor:
    _, height, width = labels.shape
    radius, ring_means = _rings(height, width, labels.device)
    rings = torch.arange(_ring_count(height, width), device=labels.device)
    own = F.one_hot(labels, CLUSTERS).permute(0, 3, 1, 2).float()
    frame = torch.ones(height, width, dtype=torch.bool, device=labels.device)
    frame[1:-1, 1:-1] = False
    corner = frame | (radius > 1.02)
    in_corner = (own * (corner * flat)[:, None]).sum(dim=(2, 3))
    ground = in_corner > 0.2 * in_corner.sum(dim=1, keepdim=True).clamp(min=1)
    allowed = (own * ground[:, :, None, None]).sum(dim=1)
    reached = allowed * corner
    for _ in range(height + width):
        wider = F.max_pool2d(reached[:, None], 3, stride=1, padding=1)[:, 0] * allowed
        if torch.equal(wider, reached):
            break
        reached = wider
    # From outside inwards, the first ring that is mostly something else.
    inner = (ring_means(reached) < 0.5) & (rings < len(rings) - 1)
    edge = torch.where(inner, rings + 1, 0).amax(dim=1).float() / (len(rings) - 1)
    # No edge of that colour: the sharpest circle, if it is one.
    steps = ring_means(lab).diff(dim=2).norm(dim=1)
    steps = torch.where((rings[1:] > len(rings) // 2) & (rings[1:] < len(rings) - 1), steps, 0.0)
    sharpest, at = steps.max(dim=1)
    none = edge < 0.25
    parted = (sharpest > 0.02) & none
    circle = (at + 1).float() / (len(rings) - 1)
    by_circle = radius > circle[:, None, None]
    by_color = reached.bool() & (radius > 0.6 * edge[:, None, None])
    return torch.where(parted[:, None, None], by_circle, by_color & ~none[:, None, None])


def _ring_count(height: int, width: int) -> int:
    return max(2, min(RINGS, min(height, width) // 2))  # none without pixels


def _rings(height: int, width: int, device: torch.device) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Distance from the middle of each pixel, 1 at the nearest border, and a function (..., h, w) -> means (..., rings)."""
    count = _ring_count(height, width)
    y = torch.arange(height, device=device) + 0.5 - height / 2
    x = torch.arange(width, device=device) + 0.5 - width / 2
    radius = torch.hypot(y[:, None], x[None, :]) * (2 / min(height, width))
    ring = (radius.flatten() * (count - 1)).long().clamp(max=count - 1)
    pixels = torch.bincount(ring, minlength=count).clamp(min=1)

    def ring_means(values: Tensor) -> Tensor:
        values = values.flatten(-2)
        return values.new_zeros(*values.shape[:-1], count).index_add_(-1, ring, values) / pixels

    return radius, ring_means


def _iris_or_pattern(lab: Tensor, labels: Tensor, inside: Tensor) -> Tensor:
    own = F.one_hot(labels, CLUSTERS).permute(0, 3, 1, 2) * inside[:, None]
    size = own.sum(dim=(2, 3))
    share = size / size.sum(dim=1, keepdim=True).clamp(min=1)
    mean = torch.einsum("nkhw,nchw->nkc", own, lab) / size[:, :, None].clamp(min=1)
    chroma = mean[:, :, 1:].norm(dim=2)
    value = torch.where(share > 0.04, share + COLORFUL * chroma * share.sqrt(), 0.0)
    best = value.argmax(dim=1)
    # A ring may part an iris that shades into two colours: of one hue, and in no ring both.
    one = torch.arange(len(lab), device=lab.device)
    here = _rings(labels.shape[1], labels.shape[2], labels.device)[1](own)
    both = torch.minimum(here, here[one, best][:, None]).sum(dim=2)
    apart = both < 0.3 * torch.minimum(here.sum(dim=2), here[one, best].sum(dim=1)[:, None])
    hue = F.cosine_similarity(mean[:, :, 1:], mean[one, best, 1:][:, None], dim=2)
    alike = (hue > 0.97) & ((mean[:, :, 0] - mean[one, best, :1]).abs() < 0.22)
    alike &= (torch.minimum(chroma, chroma[one, best][:, None]) > 0.04) & (share > 0.02)
    iris = (alike & apart) | F.one_hot(best, CLUSTERS).bool()
    return torch.where(iris.gather(1, labels.flatten(1)).view_as(labels), IRIS, PATTERN)


def _anchors(lab: Tensor, labels: Tensor, roles: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Each role's most frequent colour (N,3,3; black if the role has no pixel of weight), and its share (N,3)."""
    anchors, shares = [], []
    for role in range(len(ROLES)):
        member = F.one_hot(labels, CLUSTERS).permute(0, 3, 1, 2) * ((roles == role) * weight)[:, None]
        size = member.sum(dim=(2, 3))
        largest = size.argmax(dim=1)
        chosen = member[torch.arange(len(lab)), largest]
        total = chosen.sum(dim=(1, 2))
        anchors.append(torch.einsum("nhw,nchw->nc", chosen, lab) / total[:, None].clamp(min=1e-6))
        shares.append(size.sum(dim=1) / weight.sum(dim=(1, 2)).clamp(min=1e-6))
    return torch.stack(anchors, dim=1), torch.stack(shares, dim=1)
