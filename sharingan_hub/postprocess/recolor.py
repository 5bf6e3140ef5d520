"""Other colours for an emblem: iris, pattern and sclera get the colours asked for, shading and soft edges stay.

1. `roles.find_roles` says which pixels are iris, pattern and sclera, and what colour each role has now (its anchor).
2. A pixel on an edge is a mixture of two roles. Its shares are the point nearest to its colour on the line between the
   two roles' colours nearby (encoded sRGB: that is where drawing programs blend), pulled a little towards how much of
   each role is near. What the line does not explain stays on top of every share.
3. Each share's colour is moved in OKLab as a whole: the part that is its role's anchor, lighter or darker, becomes the
   target, lighter or darker by the same factor (for anchors near black: by the same amount); what is left over is
   turned with the hue and added. So an anchor that is moved to itself leaves its whole role as it was.
4. Colours that no screen shows lose chroma, not lightness or hue.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .oklab import fit_to_screen, from_oklab, to_oklab
from .polar import check_images
from .roles import ROLES, Roles, find_roles

Color = str | Sequence[float] | Tensor


class Palette(NamedTuple):
    """Colours of an emblem, as names, "#rrggbb" or RGB in [0, 1]; None leaves a role as it is."""

    iris: Color | None = None
    pattern: Color | None = None
    sclera: Color | None = None


PALETTES: dict[str, Palette] = {
    "crimson": Palette("#c8102e", "#0d0a0b"),
    "ember": Palette("#f05a1a", "#1c0a05"),
    "gold": Palette("#e2a90f", "#1d1503"),
    "emerald": Palette("#0f9d58", "#04140b"),
    "cyan": Palette("#14b8d4", "#04161b"),
    "sapphire": Palette("#1f5fd6", "#050a1c"),
    "violet": Palette("#7d35c9", "#10061c"),
    "rose": Palette("#e8528f", "#22060f"),
    "silver": Palette("#b9bec6", "#15171a"),
    "amethyst": Palette("#b79be6", "#3b2360"),
    "midnight": Palette("#3d4fb8", "#e8ecff", "#05060f"),
    "eclipse": Palette("#16090b", "#d4142c", "#f4f1ee"),
}
MIXED = 0.01  # a role whose share nearby is below has no part in a pixel
PULL = 2e-3  # how strongly shares are drawn to those nearby
STRIP = 2**20  # pixels worked on at once


def recolor(
    images: Tensor,
    palette: str | Palette | Mapping[str, Color | None] | Sequence[Color | None] | None = None,
    *,
    reference: Tensor | None = None,
    iris: Color | None = None,
    pattern: Color | None = None,
    sclera: Color | None = None,
    hue_only: bool = False,
) -> Tensor:
    """Put other iris, pattern and sclera colours on emblems. Roles are found from each picture itself.

    Args:
        images: (N, 3, H, W) in [0, 1], or (N, 1, H, W) for grey ones.
        palette: a name in PALETTES; a mapping with keys of "iris", "pattern", "sclera"; those colours in this order;
            or one colour, for the iris. Roles that it does not name keep their colours.
        reference: (3, H, W), (1, 3, H, W) or (N, 3, H, W), any size: pictures to take all three colours from. A role
            that the reference has not is left alone.
        iris, pattern, sclera: a colour as CSS name, "#rrggbb" or three numbers in [0, 1]; goes before the palette's and
            the reference's.
        hue_only: turn the hues to those of the targets and keep each pixel's lightness and chroma. Greys stay grey.

    Returns:
        (N, 3, H, W) in [0, 1], of the dtype and on the device that came; differentiable in images (roles are taken as
        fixed). A role that a picture has not (no sclera around a disc that fills it) changes nothing.

    Raises:
        TypeError, ValueError: images or reference are no pictures, a palette or colour is unknown, or no colour at all
            is given.

    Source: OKLab and its gamut clipping at constant lightness and hue, B. Ottosson 2020 and 2021.
    """
    check_images(images)
    targets = _targets(palette, iris, pattern, sclera)
    if reference is None and all(target is None for target in targets):
        raise ValueError("nothing to recolor with: give palette, reference, iris, pattern or sclera")
    if isinstance(reference, Tensor) and reference.ndim == 3:
        reference = reference[None]
    if reference is not None:
        check_images(reference, "reference")
        if len(reference) not in (1, len(images)):
            raise ValueError(
                f"reference holds {len(reference)} pictures for {len(images)} images; give one, or one for each"
            )
    dtype = torch.promote_types(images.dtype, torch.float32)
    pictures = images.to(dtype).clamp(0, 1).expand(-1, 3, -1, -1)
    if len(images) == 0:
        return pictures.to(images.dtype)
    wanted, given = _wanted(targets, reference, len(images), pictures)
    found = find_roles(pictures.detach())
    rows = []
    for i, picture in enumerate(pictures):
        moves = given[i] & (found.share[i] > 0)
        rows.append(_recolor_one(picture, found, i, wanted[i], moves, hue_only))
    return torch.stack(rows).to(images.dtype)


def recolor_colors(colors: Tensor, picture: Tensor, palette: str | Palette | Mapping[str, Color | None]) -> Tensor:
    """What `recolor` makes of single colours, for those who draw a picture from a palette rather than change its pixels.

    Each colour is taken for the role whose colour in the picture it comes nearest to, in some light.

    Args:
        colors: (K, 3) in [0, 1], what the picture is painted with.
        picture: (1, 3, H, W) in [0, 1]; a small one will do.
        palette: as `recolor` takes it.

    Returns:
        (K, 3) in [0, 1].

    Raises:
        TypeError, ValueError: as `recolor`.
    """
    check_images(picture, "picture")
    wanted, given = _wanted(_targets(palette, None, None, None), None, 1, picture)
    found = find_roles(picture.clamp(0, 1))
    anchors, present = found.anchors[0].to(colors), found.share[0] > 0
    # Shading makes a colour darker than it is painted: `light` is by how much, if it comes to be a role's colour by that.
    seen = from_oklab(anchors).clamp(0, 1)
    light = ((colors @ seen.T) / colors.square().sum(dim=1, keepdim=True).clamp(min=1e-3)).clamp(0.3, 1)
    shaded = to_oklab(light[:, :, None] * colors[:, None])  # (K, roles, 3)
    distance = (shaded - anchors).norm(dim=2).masked_fill(~present, torch.inf)
    role_of = distance.argmin(dim=1)
    out = colors.clone()
    for role, moving in enumerate((given[0] & present).tolist()):
        mine = role_of == role
        if moving:
            moved = from_oklab(_move(shaded[mine, role], anchors[role], wanted[0, role]))
            # Not brighter than the screen can be, of the same hue.
            out[mine] = (moved / torch.maximum(light[mine, role, None], moved.amax(dim=1, keepdim=True))).clamp(0, 1)
    return out


def _targets(palette: Any, *given: Color | None) -> list[tuple[float, float, float] | None]:
    """What the palette and the single colours ask for, role by role, as RGB in [0, 1]."""
    colors: list[Any] = [None] * len(ROLES)
    if isinstance(palette, str):
        colors = list(PALETTES[palette.lower()]) if palette.lower() in PALETTES else [palette, None, None]
        if palette.lower() not in PALETTES:
            try:
                _color("palette", palette)
            except ValueError:
                names = ", ".join(PALETTES)
                raise ValueError(f"palette is {palette[:80]!r}; it must be one of {names}, or a colour") from None
    elif isinstance(palette, Mapping):
        unknown = [str(key) for key in palette if key not in ROLES]
        if unknown:
            raise ValueError(f"palette has the key {unknown[0][:80]!r}; its keys must be of {', '.join(ROLES)}")
        colors = [palette.get(role) for role in ROLES]
    elif isinstance(palette, Sequence | Tensor):
        colors = list(palette)
        if len(colors) == 3 and all(isinstance(c, int | float) or getattr(c, "ndim", 1) == 0 for c in colors):
            colors = [palette]  # one colour
        if not 1 <= len(colors) <= len(ROLES):
            raise ValueError(f"palette holds {len(colors)} colours; it must hold 1 to 3: iris, pattern, sclera")
        colors += [None] * (len(ROLES) - len(colors))
    elif palette is not None:
        raise TypeError(f"palette is a {type(palette).__name__}; it must be a name, a mapping or a list of colours")
    chosen = [own if own is not None else color for own, color in zip(given, colors, strict=True)]
    return [None if color is None else _color(role, color) for role, color in zip(ROLES, chosen, strict=True)]


def _color(name: str, value: Color) -> tuple[float, float, float]:
    from PIL import ImageColor

    allowed = 'a colour such as "red", "#c8102e" or (0.8, 0.1, 0.2)'
    if isinstance(value, str):
        try:
            red, green, blue = (channel / 255 for channel in ImageColor.getrgb(value)[:3])
        except ValueError:
            raise ValueError(f"{name} is {value[:80]!r}; it must be {allowed}") from None
        return red, green, blue
    try:
        red, green, blue = (float(channel) for channel in value)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} is {str(value)[:80]}; it must be {allowed}") from None
    if not all(math.isfinite(c) and 0 <= c <= 1 for c in (red, green, blue)):
        raise ValueError(f"{name} is {(red, green, blue)}; its numbers must be from 0 to 1")
    return red, green, blue


def _wanted(targets: list, reference: Tensor | None, count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """OKLab targets (N, 3, 3) of the roles, and which of them (N, 3) are given at all."""
    wanted, given = like.new_zeros(count, len(ROLES), 3), torch.zeros(count, len(ROLES), dtype=torch.bool)
    if reference is not None:
        theirs = find_roles(reference.detach().to(like).clamp(0, 1).expand(-1, 3, -1, -1))
        wanted, given = theirs.anchors.expand(count, -1, -1).clone(), (theirs.share > 0).expand(count, -1).clone()
    for role, target in enumerate(targets):
        if target is not None:
            wanted[:, role] = to_oklab(like.new_tensor(target))
            given[:, role] = True
    return wanted, given.to(like.device)


def _recolor_one(picture: Tensor, found: Roles, i: int, wanted: Tensor, moves: Tensor, hue_only: bool) -> Tensor:
    """A picture (3, H, W), strip by strip, so that a large one needs little memory beside itself."""
    _, height, width = picture.shape
    near, layers = _surroundings(found, i)
    maps = torch.cat((near, layers.flatten(0, 1)))[None]
    rows = max(1, STRIP // width)
    strips = []
    for top in range(0, height, rows):
        strip = picture[:, top : top + rows]
        here = maps
        if maps.shape[2:] != (height, width):
            y = (torch.arange(top, top + strip.shape[1], device=maps.device, dtype=maps.dtype) + 0.5) / height * 2 - 1
            x = (torch.arange(width, device=maps.device, dtype=maps.dtype) + 0.5) / width * 2 - 1
            grid = torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), dim=-1)[None]
            here = F.grid_sample(maps, grid, padding_mode="border", align_corners=False)
        elif rows < height:
            here = maps[:, :, top : top + rows]
        flat = here[0].flatten(1).T
        colors = strip.flatten(1).T
        with torch.no_grad():
            shares = _shares(colors, flat[:, 3:].unflatten(1, (3, 3)), flat[:, :3])
        moved = _move_mixed(colors, flat[:, 3:].unflatten(1, (3, 3)), shares, found.anchors[i], wanted, moves, hue_only)
        strips.append(moved.T.view_as(strip))
    return torch.cat(strips, dim=1)


def _surroundings(found: Roles, i: int) -> tuple[Tensor, Tensor]:
    """How much of each role is near each pixel (3, h, w), and each role's mean colour there (role, channel, h, w)."""
    image = found.images[i]
    member = torch.stack([(found.labels[i] == role) & found.sure[i] for role in range(len(ROLES))]).to(image)
    colored = (member[:, None] * image[None]).flatten(0, 1)
    near, layers = torch.zeros_like(member), torch.zeros_like(colored)
    anchors = from_oklab(found.anchors[i]).clamp(0, 1)
    # A wider window speaks only where narrower ones see nothing of the role.
    for reach, weight in ((3, 1.0), (8, 1e-3)):
        size = 2 * reach + 1
        for kept, values in ((near, member), (layers, colored)):
            # In two passes of a line each, which is some times faster than one over a square.
            rows = F.avg_pool2d(values[None], (size, 1), stride=1, padding=(reach, 0), count_include_pad=False)
            kept += weight * F.avg_pool2d(rows, (1, size), stride=1, padding=(0, reach), count_include_pad=False)[0]
    near = near.clamp(min=0)
    layers = layers.unflatten(0, (3, 3)) + 1e-6 * anchors[:, :, None, None]
    layers = layers / (near[:, None] + 1e-6)
    total = near.sum(dim=0, keepdim=True)
    # Far from all sure pixels the label itself has to do.
    plain = torch.stack([found.labels[i] == role for role in range(len(ROLES))]).to(image)
    near = torch.where(total > 1e-6, near / total.clamp(min=1e-6), plain)
    return near, layers


def _shares(colors: Tensor, layers: Tensor, near: Tensor) -> Tensor:
    """The roles' shares (P, 3) in pixels (P, 3): of every two roles' mixtures the one nearest to the colour."""
    shares = F.one_hot(near.argmax(dim=1), 3).to(colors)
    mixed = near.amax(dim=1) < 1 - MIXED
    colors, layers, near = colors[mixed], layers[mixed], near[mixed]
    cost = torch.where(near > MIXED, PULL, 10.0)
    best, chosen = torch.full_like(colors[:, 0], torch.inf), torch.zeros_like(colors)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        line = layers[:, one] - layers[:, other]
        offset = colors - layers[:, other]
        pull, against = cost[:, one], cost[:, other]
        above = (line * offset).sum(dim=1) + pull * near[:, one] + against * (1 - near[:, other])
        share = (above / (line.square().sum(dim=1) + pull + against)).clamp(0, 1)
        mix = torch.zeros_like(colors)
        mix[:, one], mix[:, other] = share, 1 - share
        error = (offset - share[:, None] * line).square().sum(dim=1) + (cost * (mix - near).square()).sum(dim=1)
        better = error < best
        best = torch.where(better, error, best)
        chosen = torch.where(better[:, None], mix, chosen)
    shares[mixed] = chosen
    return shares


def _move_mixed(
    colors: Tensor, layers: Tensor, shares: Tensor, anchors: Tensor, wanted: Tensor, moves: Tensor, hue_only: bool
) -> Tensor:
    unexplained = colors - (shares[:, :, None] * layers).sum(dim=1)
    out = torch.zeros_like(colors)
    for role, moving in enumerate(moves.tolist()):
        rows = (shares[:, role] > 1e-4).nonzero().flatten()
        own = layers[rows, role] + unexplained[rows]
        if moving:
            lab = to_oklab(own)
            moved = from_oklab(fit_to_screen((_turn if hue_only else _move)(lab, anchors[role], wanted[role])))
            # What no mixture explains may lie beyond the screen's colours; it stays there, to be added up again.
            beyond = ((own < 0) | (own > 1)).any(dim=1, keepdim=True)
            own = moved + torch.where(beyond, own - from_oklab(fit_to_screen(lab)), 0.0)
        out = out.index_add(0, rows, shares[rows, role, None] * own)
    return out.clamp(0, 1)


def _move(lab: Tensor, anchor: Tensor, target: Tensor) -> Tensor:
    """Colours (P, 3) moved so that `anchor` becomes `target`."""
    factor = lab[:, :1] / anchor[0].clamp(min=0.02)
    trust = _rise(anchor[0], 0.15, 0.35)  # a factor says little about what is nearly black
    factor = 1 + trust * (factor - 1)
    rest = lab - anchor * factor
    source, aim = anchor[1:].norm(), target[1:].norm()
    scale = ((aim + 0.05) / (source + 0.05)).clamp(max=1.5)
    rest = torch.cat((rest[:, :1], _rotate(rest[:, 1:], anchor, target) * scale), dim=1)
    return target * factor + rest


def _turn(lab: Tensor, anchor: Tensor, target: Tensor) -> Tensor:
    """Colours (P, 3) with hues turned as from `anchor` to `target`."""
    return torch.cat((lab[:, :1], _rotate(lab[:, 1:], anchor, target)), dim=1)


def _rotate(ab: Tensor, anchor: Tensor, target: Tensor) -> Tensor:
    angle = torch.atan2(target[2], target[1]) - torch.atan2(anchor[2], anchor[1])
    angle = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
    # Greys have no hue; their angle is chance.
    angle = angle * _rise(torch.minimum(anchor[1:].norm(), target[1:].norm()), 0.01, 0.03)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack((ab[:, 0] * cos - ab[:, 1] * sin, ab[:, 0] * sin + ab[:, 1] * cos), dim=1)


def _rise(value: Tensor, low: float, high: float) -> Tensor:
    """0 below `low`, 1 above `high`, smooth between."""
    t = ((value - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)
