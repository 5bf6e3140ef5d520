"""Pictures made ready for inversion: cut out, centred, their order found, drawings reduced to ink."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sharingan_hub.pipeline_sharingan import SharinganPipeline
from sharingan_hub.postprocess import circularize, estimate_order, symmetry_score
from sharingan_hub.postprocess.outline import border_color, outline
from sharingan_hub.postprocess.polar import check_images, shrink

SIDE = 256  # pixels at which the picture is kept
BLANK = 0.02  # standard deviation below which a picture shows nothing
USUAL_RADIUS = 0.93  # of an emblem's circle, in halves of the picture
SHIFT, SMALL = 0.03, 0.55  # of a circle farther from the middle, or smaller, the square about it is cut out
LARGE = 1.2  # what is larger is no circle on a ground of one colour
OUT_OF_ROUND = 0.02  # share of the radius by which a circle may be off
INSIDE = 0.8  # radius within which a drawing's order is looked for
ROUGHLY = 0.25  # by so much a drawing's score of symmetry may be below the best
CHROMA, BETWEEN = 0.06, 0.2  # a drawing has less colour and fewer grey pixels than these


@dataclass(frozen=True)
class Target:
    """What is looked for.

    Args:
        picture: (1, 3, S, S) in [0, 1], on the generator's device; of a drawing the ink, black on white.
        order: how often the pattern repeats; None where the generator has no orders.
        ink: of a drawing the colours of the generator's masks, (K, 3), 0 (ink) or 1 (paper); else None.
    """

    picture: Tensor
    order: int | None
    ink: Tensor | None

    @property
    def shown(self) -> Image.Image:
        """The picture, for people."""
        pixels = self.picture[0].mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
        return Image.fromarray(pixels)


def resize(x: Tensor, size: int) -> Tensor:
    """Pictures (N, C, H, W) at size x size, bilinear, anti-aliased."""
    return x if x.shape[2:] == (size, size) else F.interpolate(x, (size, size), mode="bilinear", antialias=True)


@torch.no_grad()
def prepare_target(
    pipe: SharinganPipeline, image: Image.Image | Tensor, order: int | None = None, drawing: bool | None = None
) -> Target:
    """Make a picture ready, as `invert` takes it.

    Raises:
        ValueError, TypeError: an argument is outside its range or of another type, or the picture is blank.
    """
    model = pipe.generator_model
    has_masks = "palette" in model.conditions
    if drawing and not has_masks:
        raise ValueError(f"drawing is True, but {type(model).__name__} has no palette to leave the colours to")
    if order is not None:
        order = pipe.check_order(order, 1)[0]
    x = _read(image)
    if x.std(dim=(2, 3)).max() < BLANK:
        raise ValueError("image is all of one colour; it must show an emblem or a drawing of one")
    x = cut_out(x)
    ink = None
    if has_masks and (is_drawing(x) if drawing is None else drawing):
        x = to_ink(x)
        ink = x.new_zeros(model.config.num_masks, 3)
        ink[[0, model.config.num_frame_masks]] = 1  # background and iris are paper
    x = make_round(x)
    if order is None and "order" in model.conditions:
        order = find_order(x, model.config.max_order, ink is not None)
    x = resize(x, SIDE).clamp(0, 1)
    return Target(x.to(pipe.device), order, None if ink is None else ink.to(pipe.device))


def _read(image: Image.Image | Tensor) -> Tensor:
    """A picture as (1, 3, H, W) in [0, 1], its shorter side at most 2 * SIDE."""
    if isinstance(image, Image.Image):
        from sharingan_hub.media.pictures import on_white

        image = on_white(image)
        scale = 2 * SIDE / min(image.size)
        if scale < 1:
            image = image.resize([max(1, round(side * scale)) for side in image.size], reducing_gap=2)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    if not isinstance(image, Tensor):
        raise TypeError(f"image is a {type(image).__name__}; it must be a PIL picture or a tensor (3, H, W) in [0, 1]")
    x = image[None] if image.ndim == 3 else image
    check_images(x, "image")
    if len(x) != 1:
        raise ValueError(f"image holds {len(x)} pictures; it must hold one")
    x = x.detach().cpu().float().clamp(0, 1)
    scale = 2 * SIDE / min(x.shape[2:])
    if scale < 1:
        x = F.interpolate(x, [max(1, round(side * scale)) for side in x.shape[2:]], mode="bilinear", antialias=True)
    return x.expand(-1, 3, -1, -1)


def is_drawing(x: Tensor) -> bool:
    """Whether a picture (1, 3, H, W) looks like ink on paper: hardly any colour, few greys, and a light border."""
    chroma = (x.amax(dim=1) - x.amin(dim=1)).mean().item()
    ink = to_ink(x)[:, 0]
    between = ((ink > 0.25) & (ink < 0.75)).float().mean().item()
    return chroma < CHROMA and between < BETWEEN and border_color(x).mean().item() > 0.6


def to_ink(x: Tensor) -> Tensor:
    """A drawing (1, 3, H, W) with its paper white and its darkest ink black."""
    gray = (x * x.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=1, keepdim=True)
    paper = gray.median()
    dark = gray.flatten().kthvalue(max(1, gray.numel() // 50)).values
    return ((gray - dark) / (paper - dark).clamp(min=1e-3)).clamp(0, 1).expand(-1, 3, -1, -1)


def cut_out(x: Tensor) -> Tensor:
    """The square about the emblem of a picture (1, 3, H, W); where the emblem fills the picture already, that itself."""
    size = x.new_tensor([x.shape[3], x.shape[2]])
    half = size.min() / 2
    center, radius = (found[0] for found in outline(x))
    if x.shape[2] == x.shape[3]:
        near = (center - size / 2).abs().max() <= SHIFT * half and SMALL * half <= radius
        if near or radius > LARGE * half or radius == 0:
            return x
    side = 2 * radius / USUAL_RADIUS if 0 < radius <= LARGE * half else size.max()
    axis = (torch.arange(SIDE) + 0.5) / SIDE - 0.5
    grid = (torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=2) * side + center) * (2 / size) - 1
    paper = border_color(x)
    out = F.grid_sample(
        shrink(x - paper, max(1, int(SIDE * float(size.min() / side)))), grid[None], align_corners=False
    )
    return (out + paper).clamp(0, 1)


def make_round(x: Tensor) -> Tensor:
    """A picture made round, if it is not so already."""
    x = resize(x, SIDE) if x.shape[2] > SIDE else x
    repaired = circularize(x)
    distortion = (repaired.scale(torch.linspace(0, 2 * math.pi, 180)) - 1).abs().max()
    return repaired.images if distortion > OUT_OF_ROUND else x


def find_order(x: Tensor, highest: int, rough: bool) -> int:
    """The order of a picture's symmetry; of a rough one, the largest that is nearly as good as the best."""
    if rough:  # its motifs are alike from afar only, and its outline, long and wobbly, says nothing
        small = resize(x, 32)
        axis = (torch.arange(32) + 0.5) / 16 - 1
        scores = symmetry_score(torch.where(torch.hypot(axis, axis[:, None]) < INSIDE, small, 1.0))[0]
        order = int(torch.nonzero(scores >= scores[1:].max() - ROUGHLY).max()) + 1 if scores[1:].max() >= 0.3 else 1
    else:
        order = int(estimate_order(resize(x, 64)))
    return max(n for n in range(1, highest + 1) if order % n == 0)
