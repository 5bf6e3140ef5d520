"""One differentiable chain of augmentations for real and generated pictures alike.

The keys `augment: diffaugment` (Zhao et al. 2020: always on) and `augment: ada` (Karras et al. 2020, "Training
Generative Adversarial Networks with Limited Data": as often as the discriminator over-fits) share it: one affine warp,
one colour matrix, one cut-out. Plain torch: kornia composes one warp per transform, each with its own resampling, and
draws its own random numbers, while the trainer draws for the global batch and slices.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

TRANSFORMS = ("rotation", "scale", "shift", "flip", "color", "cutout")
ADA_INTERVAL = 4  # steps between two moves of p

SCALE_DEVIATION = 0.2  # log2
SHIFT_RANGE = 0.125  # of the side, either way
BRIGHTNESS_DEVIATION, CONTRAST_DEVIATION, SATURATION_DEVIATION = 0.2, 0.5, 1.0  # the last two log2
CUTOUT_SIDE = 0.4  # of the picture's side


@dataclass
class Augmentation:
    """What happens to each picture of a batch; indexing selects pictures.

    warp: (N,2,3) from output to input coordinates in [-1,1]. warped: (N,) bool. color: (N,3,4) on colours in [-1,1].
    colored: (N,) bool. cutout: (N,2) centre in [0,1], x then y; NaN where nothing is cut. All on the CPU, where they
    were drawn: which of them apply is then known without waiting for the device.
    """

    warp: Tensor
    warped: Tensor
    color: Tensor
    colored: Tensor
    cutout: Tensor

    def __getitem__(self, part: slice | Tensor) -> "Augmentation":
        return Augmentation(self.warp[part], self.warped[part], self.color[part], self.colored[part], self.cutout[part])

    def __call__(self, images: Tensor) -> Tensor:
        """Apply to pictures (N,3,S,S) in [-1,1], or to both of pairs (N,6,S,S) alike; those not chosen come back bit for bit.

        Differentiable once.
        """
        device = images.device
        if self.warped.any():
            warp = self.warp.to(device, images.dtype)
            grid = F.affine_grid(warp, list(images.shape), align_corners=False)
            warped = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
            images = _choose(self.warped, warped, images)
        if self.colored.any():
            matrix = self.color.to(device, images.dtype)
            colors = images.unflatten(1, (-1, 3)).flatten(3)  # picture, domain, channel, pixel
            colored = (matrix[:, None, :, :3] @ colors + matrix[:, None, :, 3:]).view(images.shape)
            images = _choose(self.colored, colored, images)
        if not self.cutout.isnan().all():
            side = images.shape[2]
            pixel = (torch.arange(side) + 0.5) / side
            inside = (pixel - self.cutout[:, :, None]).abs() < CUTOUT_SIDE / 2  # (N,2,S); never true for NaN
            hole = inside[:, 0, None, :] & inside[:, 1, :, None]
            images = images.masked_fill(hole[:, None].to(device), 0.0)
        return images


def draw(count: int, transforms: Sequence[str], probability: float, generator: torch.Generator) -> Augmentation:
    """Draw parameters for a batch of `count`, each transform of each picture with the given probability.

    The same numbers are drawn whatever the transforms and the probability, above 0.

    Args:
        transforms: a choice of "rotation" (any angle), "scale" (log-normal), "shift" (up to 1/8 of the side), "flip"
            (left-right, half of the time), "color" (brightness, contrast, saturation, hue), "cutout" (a square hole).

    Raises:
        ValueError: an unknown transform or a probability outside [0,1].
    """
    check_transforms(transforms)
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must be in [0,1], got {probability}.")
    if probability == 0:
        never, nowhere = torch.zeros(count, dtype=torch.bool), torch.full((count, 2), math.nan)
        return Augmentation(torch.zeros(count, 2, 3), never, torch.zeros(count, 3, 4), never, nowhere)
    uniform = torch.rand(count, 8, generator=generator)
    normal = torch.randn(count, 4, generator=generator)
    chosen = torch.rand(count, len(TRANSFORMS), generator=generator) < probability
    on = {name: chosen[:, i] & (name in transforms) for i, name in enumerate(TRANSFORMS)}

    angle = torch.where(on["rotation"], (uniform[:, 0] * 2 - 1) * math.pi, 0.0)
    scale = torch.where(on["scale"], torch.exp2(normal[:, 0] * SCALE_DEVIATION), 1.0)
    shift = torch.where(on["shift"][:, None], (uniform[:, 1:3] * 2 - 1) * 2 * SHIFT_RANGE, 0.0)
    flip = torch.where(on["flip"] & (uniform[:, 3] < 0.5), -1.0, 1.0)
    cos, sin = angle.cos() / scale, angle.sin() / scale
    linear = torch.stack([torch.stack([cos * flip, -sin * flip], 1), torch.stack([sin, cos], 1)], 1)
    # The picture is scaled, turned and flipped, then shifted: the input is read at linear @ (output - shift).
    warp = torch.cat([linear, -linear @ shift[:, :, None]], dim=2)
    warped = on["rotation"] | on["scale"] | on["shift"] | (flip < 0)

    cutout = torch.where(on["cutout"][:, None], uniform[:, 4:6], math.nan)
    color = _color_matrix(
        normal[:, 1] * BRIGHTNESS_DEVIATION,
        torch.exp2(normal[:, 2] * CONTRAST_DEVIATION),
        torch.exp2(normal[:, 3] * SATURATION_DEVIATION),
        (uniform[:, 6] * 2 - 1) * math.pi,
    )
    return Augmentation(warp, warped, color, on["color"], cutout)


def check_transforms(transforms: Sequence[str]) -> None:
    """Raise ValueError where a transform is not known."""
    unknown = [name for name in transforms if name not in TRANSFORMS]
    if unknown:
        raise ValueError(f"augmentations must be among {', '.join(TRANSFORMS)}; got {', '.join(unknown)}.")


def adapt_probability(probability: float, sign: float, target: float, batch_size: int, ada_kimg: float) -> float:
    """Move ADA's probability after ADA_INTERVAL steps, by sign(r_t - target) and clamped to [0,1].

    Karras et al. 2020, section 3. `sign` is r_t, the mean sign of D(real) over these steps; from 0 to 1 takes ada_kimg
    thousand pictures.
    """
    step = batch_size * ADA_INTERVAL / (ada_kimg * 1000)
    return min(1.0, max(0.0, probability + math.copysign(step, sign - target) * (sign != target)))


def _choose(chosen: Tensor, changed: Tensor, unchanged: Tensor) -> Tensor:
    if chosen.all():
        return changed
    return torch.where(chosen.view(-1, 1, 1, 1).to(changed.device), changed, unchanged)


def _color_matrix(brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """(N,3,4): contrast, then brightness, then hue as a turn about the grey axis, then saturation off it."""
    count = len(hue)
    gray = torch.full((3, 3), 1 / 3)
    a, b, c = torch.eye(3)
    cross = torch.stack([b - c, c - a, a - b], 1) / math.sqrt(3)  # v -> axis x v, axis (1,1,1)/sqrt(3)
    turn = gray + hue.cos().view(-1, 1, 1) * (torch.eye(3) - gray) + hue.sin().view(-1, 1, 1) * cross
    saturate = gray + saturation.view(-1, 1, 1) * (torch.eye(3) - gray)
    linear = saturate @ turn
    offset = linear @ brightness.view(-1, 1, 1).expand(count, 3, 1)
    return torch.cat([linear * contrast.view(-1, 1, 1), offset], dim=2)
