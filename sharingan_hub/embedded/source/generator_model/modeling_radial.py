"""RadialGenerator: n-fold symmetric pictures drawn as soft masks and a palette, at any output size.

StyleGAN2-style layers (Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN") synthesise one polar
wedge (radius x angle). The wedge is periodic in angle and stands n times around the centre, so a picture of order n is
n-fold symmetric by construction. What the wedge holds is not colour but K logits: they are interpolated to the pixels
first and the softmax comes after, so edges stay one pixel wide at any output size. Between two whole orders one more
wedge opens like a fan, which is how a picture turns into one of another order.

Needs torch and diffusers only: the same file is shipped inside every checkpoint as remote code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

REFERENCE_SIZE = 64  # the output size in pixels at which the softmax temperature is the learned one
SHARP_SIZE = 128  # up to here outlines are drawn as they are; to larger sizes the cells of a wedge would show in them
SMOOTHING = 0.5  # there, in cells, for the largest


def normalize_2nd_moment(x: Tensor) -> Tensor:
    """Scale each row of (N, D) to a mean square of one."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


def wrap(x: Tensor, cells: int) -> Tensor:
    """Pad (N, C, R, A) in angle with the cells of the neighbouring wedges."""
    return torch.cat([x[..., -cells:], x, x[..., :cells]], dim=3)


def upsample_wedge(x: Tensor) -> Tensor:
    """Double (N, C, R, A) in both directions; bilinear, which is StyleGAN2's [1, 3, 3, 1] filter."""
    return F.interpolate(wrap(x, 1), scale_factor=2, mode="bilinear", align_corners=False)[..., 2:-2]


def upsample_rays(x: Tensor) -> Tensor:
    """Double (N, C, R, 1) in radius, bilinear."""
    return F.interpolate(x, size=(2 * x.shape[2], 1), mode="bilinear", align_corners=False)


def damp_harmonics(x: Tensor, order: Tensor, gain: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Multiply the angular harmonics of wedges (N, C, R, A) by gain(n m, r): the waves of harmonic m around the whole circle,
    (N, 1, 1, A / 2 + 1), order (N,) being n, and each row's radius in cells, (R, 1)."""
    rows, cells = x.shape[2:]
    harmonic = torch.arange(cells // 2 + 1, device=x.device) * order.float()[:, None, None, None]
    radius = torch.arange(rows, device=x.device)[:, None] + 0.5
    return torch.fft.irfft(torch.fft.rfft(x, dim=3) * gain(harmonic, radius), n=cells, dim=3)


@lru_cache(maxsize=8)
def pixel_polar(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Radius (1 at the middle of an edge) and angle (radians, counter-clockwise from +x) of each pixel's centre, (S, S)."""
    with torch.inference_mode(False):  # cached: a tensor made in inference mode could not be used in training
        axis = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) * (2 / size) - 1
        x, y = axis[None, :], -axis[:, None]
        return torch.sqrt(x * x + y * y), torch.atan2(y, x)


def unfold(wedges: Tensor, order: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
    """Place in the wedge of each pixel while one more wedge opens: order n + f is n wedges and one of f times their width.

    It opens on the side opposite the phase, between two motifs: these stand at turn 0, so at turn 0.5. In it the pattern
    grows out of what that border looks like, lest it begin as a needle.

    Args:
        wedges: angle from the phase, in wedges, (N, R, S).
        order: n + f, (N, 1, 1).
        turn: place in the wedge for whole orders, which keep it, (N, R, S).

    Returns:
        Place in the wedge, and how far the pattern has grown; both from 0 to 1, (N, R, S).
    """
    whole = order.floor()
    part = order - whole
    place = torch.remainder(wedges - (whole / 2).floor() - 0.5, order)
    new = place < part  # not so where part is 0
    opened = torch.where(new, place / part.clamp(min=1e-6), place - part)
    turn = torch.where(part > 0, torch.remainder(opened + 0.5, 1.0), turn)
    return turn, torch.where(new, 1 - (1 - part) ** 2, torch.ones_like(turn))


class EqualizedLinear(nn.Module):
    """Linear layer whose weights are stored at unit variance and scaled at run time (Karras et al. 2018, section 4.1)."""

    def __init__(self, in_features: int, out_features: int, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features))
        self.bias = nn.Parameter(torch.full((out_features,), float(bias)))
        self.gain = in_features**-0.5

    def forward(self, x: Tensor) -> Tensor:
        """(N, in) -> (N, out)."""
        return F.linear(x, self.weight * self.gain, self.bias)


class WedgeConv(nn.Module):
    """Modulated convolution over a wedge (Karras et al. 2020, equations 1 to 3), as a scaling before and after one shared
    convolution, which is the same sum and needs no grouped kernels. kernel: cells in radius and in angle, both odd."""

    def __init__(
        self, in_channels: int, out_channels: int, w_dim: int, kernel: tuple[int, int] = (3, 3), demodulate: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, *kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.affine = EqualizedLinear(w_dim, in_channels, bias=1.0)
        self.gain = (in_channels * kernel[0] * kernel[1]) ** -0.5
        self.demodulate = demodulate

    def forward(self, x: Tensor, w: Tensor, upsample: bool = False) -> Tensor:
        """(N, C, R, A) and (N, w_dim) -> (N, C', R, A), or twice that in both directions: convolving before the
        up-sampling costs a quarter of convolving after it."""
        style = self.affine(w)
        weight = self.weight * self.gain
        rows, cells = weight.shape[2] // 2, weight.shape[3] // 2
        x = x * style[:, :, None, None]
        x = F.conv2d(wrap(x, cells) if cells else x, weight, padding=(rows, 0))
        if self.demodulate:
            scale = (style.square() @ weight.square().sum(dim=(2, 3)).t() + 1e-8).rsqrt()
            x = x * scale[:, :, None, None]
        x = x + self.bias[None, :, None, None]
        return upsample_wedge(x) if upsample else x


class RadialGenerator(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """z -> w -> K soft masks in one polar wedge and a palette of K colours -> picture of any size.

    The masks are painted in three layers, as emblems are. The ground (iris, rings) lies below, the pattern on it, and the
    frame (background, rim, pupil) on top. Ground and frame depend on the radius alone: round by construction, and no
    pattern can fray them. Order of the masks: frame, ground, pattern.

    Args:
        z_dim: size of the latent z.
        w_dim: size of the style w.
        resolution: output size in pixels where none is asked for.
        max_order: rotational orders 1 to max_order are known.
        num_masks: K, the number of masks and of palette colours.
        num_frame_masks: how many of them make the frame.
        num_ground_masks: how many of them make the ground; the rest draw the pattern.
        channels: width of each level; each level doubles the wedge in both directions.
        base_radius, base_angle: cells of the first level.
        extent: radius at which the wedge ends (1 is the middle of a picture's edge); its last row goes on outside.
        mapping_layers: depth of the mapping network.
        mapping_width: width of its layers but the last, which has w_dim; None is w_dim.
        order_probs: how often each order comes in the training data (max_order numbers); None is uniform.
    """

    conditions: tuple[str, ...] = ("order", "phase", "palette", "output_size")

    @register_to_config
    def __init__(
        self,
        z_dim: int = 128,
        w_dim: int = 256,
        resolution: int = 256,
        max_order: int = 8,
        num_masks: int = 7,
        num_frame_masks: int = 3,
        num_ground_masks: int = 2,
        channels: tuple[int, ...] = (128, 96, 48),
        base_radius: int = 8,
        base_angle: int = 16,
        extent: float = 1.1,
        mapping_layers: int = 5,
        mapping_width: int | None = 512,
        order_probs: list[float] | None = None,
    ) -> None:
        super().__init__()
        if num_frame_masks < 0 or num_ground_masks < 1 or num_frame_masks + num_ground_masks >= num_masks:
            raise ValueError(
                f"num_frame_masks is {num_frame_masks} and num_ground_masks is {num_ground_masks}; at least one ground "
                f"mask is needed, and at least one of all {num_masks} must remain for the pattern"
            )
        if order_probs is not None and len(order_probs) != max_order:
            raise ValueError(
                f"order_probs has {len(order_probs)} numbers; it must have one for each order 1 to {max_order}"
            )
        self.z_dim, self.w_dim, self.resolution = z_dim, w_dim, resolution
        num_round_masks = num_frame_masks + num_ground_masks
        self.num_round_masks, self.extent = num_round_masks, extent
        self.layers = (num_frame_masks, num_ground_masks)
        layers = 2 * len(channels)
        # Rows of ws: one for each wedge layer, the round masks, the palette; then order and phase.
        self.style_ws = layers + 2
        self.num_ws = self.style_ws + 1

        self.order_embedding = nn.Embedding(max_order, z_dim)
        sizes = [2 * z_dim] + [mapping_width or w_dim] * (mapping_layers - 1) + [w_dim]
        self.fc = nn.ModuleList(EqualizedLinear(a, b) for a, b in zip(sizes, sizes[1:]))
        self.register_buffer("w_avg", torch.zeros(max_order, w_dim))

        self.const = nn.Parameter(torch.randn(1, channels[0], base_radius, base_angle))
        self.convs, self.heads = nn.ModuleList(), nn.ModuleList()
        width = channels[0]
        for out in channels:
            self.convs.append(WedgeConv(width, out, w_dim))
            self.convs.append(WedgeConv(out, out, w_dim))
            self.heads.append(WedgeConv(out, num_masks, w_dim, kernel=(1, 1), demodulate=False))
            width = out
        for head in self.heads:
            # Training starts from the round masks nearly alone; the pattern takes what is not round.
            torch.nn.init.constant_(head.bias[num_round_masks:], -2.0 / len(channels))  # type: ignore[index]
        # Rings are thinner than anything in the pattern: the round masks get twice the radial cells, in one dimension.
        self.round_conv = WedgeConv(width, width, w_dim, kernel=(3, 1))
        self.round_head = WedgeConv(width, num_round_masks, w_dim, kernel=(1, 1), demodulate=False)
        self.palette_hidden = EqualizedLinear(w_dim, w_dim)
        self.palette_head = EqualizedLinear(w_dim, num_masks * 6)
        self.log_temperature = nn.Parameter(torch.tensor(1.0))

    def mapping(self, z: Tensor, order: Tensor) -> Tensor:
        """Mapping network: z (N, z_dim) and order (N,), whole numbers from 1 to max_order -> w (N, w_dim)."""
        x = torch.cat([normalize_2nd_moment(z), normalize_2nd_moment(self.order_embedding(order - 1))], dim=1)
        for layer in self.fc[:-1]:
            x = F.leaky_relu(layer(x), 0.2) * math.sqrt(2)
        return self.fc[-1](x)  # linear, unlike StyleGAN2's: a style is a point like any other, and its negative another

    def broadcast(self, w: Tensor, order: Tensor, phase: Tensor | None = None) -> Tensor:
        """w (N, w_dim), order (N,), phase (N,) in radians -> ws (N, num_ws, w_dim); the last row is order, phase, zeros."""
        condition = w.new_zeros(len(w), 1, self.w_dim)
        condition[:, 0, 0] = order
        if phase is not None:
            condition[:, 0, 1] = phase
        return torch.cat([w[:, None].expand(-1, self.style_ws, -1), condition], dim=1)

    def forward(self, z: Tensor, order: Tensor, phase: Tensor | None = None, output_size: int | None = None) -> Tensor:
        """z (N, z_dim), order (N,), phase (N,) in radians -> pictures (N, 3, S, S) in [-1, 1]."""
        return self.synthesis(self.broadcast(self.mapping(z, order), order, phase), output_size)

    def synthesis(self, ws: Tensor, output_size: int | None = None, palette: Tensor | None = None) -> Tensor:
        """ws (N, num_ws, w_dim) -> pictures (N, 3, S, S) in [-1, 1].

        The order in ws may lie between two whole ones: order n + f shows n wedges and a part f of one more.
        `palette`, (K, 3) or (N, K, 3) in [0, 1], takes the place of the styles' own colours; the shading stays.
        """
        size = output_size or self.resolution
        logits = self._smooth(self.logits(ws), ws[:, -1, 0], size)
        colors = self._colors(ws, palette)
        if torch.is_grad_enabled():
            return self._paint(self._masks(logits, ws[:, -1], size, slice(None)), colors, slice(None))
        # Without gradients picture by picture, in bands: the working set stays in cache, and memory flat at any size.
        out = ws.new_empty(len(ws), 3, size, size)
        rows = max(1, 2**17 // size)
        for i in range(len(ws)):
            one = slice(i, i + 1)
            for top in range(0, size, rows):
                band = slice(top, top + rows)
                masks = self._masks((logits[0][one], logits[1][one]), ws[one, -1], size, band)
                out[one, :, band] = self._paint(masks, (colors[0][one], colors[1][one]), band)
        return out

    def masks(
        self, ws: Tensor, order: Tensor | None = None, output_size: int | None = None, phase: Tensor | None = None
    ) -> Tensor:
        """ws -> the K soft masks (N, K, S, S), which add up to one; order and phase (N,) replace those inside ws."""
        condition = ws[:, -1].clone()
        if order is not None:
            condition[:, 0] = order
        if phase is not None:
            condition[:, 1] = phase
        size = output_size or self.resolution
        logits = self._smooth(self.logits(ws, condition), condition[:, 0], size)
        return self._masks(logits, condition, size, slice(None))

    def paint(self, masks: Tensor, ws: Tensor, palette: Tensor | None = None) -> Tensor:
        """Masks (N, K, S, S), in the colours of ws or of a palette -> pictures (N, 3, S, S) in [-1, 1]."""
        return self._paint(masks, self._colors(ws, palette), slice(None))

    def palette(self, ws: Tensor) -> Tensor:
        """ws -> the K colours (N, K, 3) in [0, 1], each at its brightest: shading only darkens."""
        return self._colors(ws, None)[0]

    def logits(self, ws: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """ws -> logits of the round masks (N, K_round, 2R, 1) and of the pattern's (N, K - K_round, R, A)."""
        condition = ws[:, -1] if condition is None else condition
        dtype = self.const.dtype
        style = ws.to(dtype).unbind(dim=1)
        x = self.const.expand(len(ws), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        total: Tensor | None = None
        for level, head in enumerate(self.heads):
            for layer in (2 * level, 2 * level + 1):
                grow = level > 0 and layer == 2 * level
                x = F.leaky_relu(self.convs[layer](x, style[layer], upsample=grow), 0.2) * math.sqrt(2)
            skip = head(x, style[layer])
            total = skip if total is None else upsample_wedge(total) + skip
        assert total is not None
        k = self.num_round_masks
        ring = upsample_rays(x.mean(dim=3, keepdim=True))
        ring = F.leaky_relu(self.round_conv(ring, style[-3]), 0.2) * math.sqrt(2)
        fine = self.round_head(ring, style[-3]) + upsample_rays(total[:, :k].mean(dim=3, keepdim=True))
        return fine.float(), self._limit_frequency(total[:, k:].float(), condition[:, 0])

    def _limit_frequency(self, logits: Tensor, order: Tensor) -> Tensor:
        """Near the centre a cell's arc is far shorter than its depth: damp angular harmonics whose wavelength 2 pi r / (n m)
        is finer than the radial cells can draw, so that nothing pinches at the centre."""
        return damp_harmonics(logits, order, lambda harmonic, radius: 1 / (1 + (harmonic / (2.0 * radius)) ** 6))

    def _smooth(self, logits: tuple[Tensor, Tensor], order: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Where a cell spans many pixels, outlines wave from one cell to the next: blur the pattern's logits by up to half a
        radial cell, along the radius and along the arc.

        What is blurred is by how much each mask, and "nothing here", leads over the best other, limited, lest what is far from
        an outline push it away; the steepness that this takes from edges is given back.
        """
        sigma = SMOOTHING * math.sqrt(max(0.0, 1 - (SHARP_SIZE / size) ** 2))
        if sigma == 0:
            return logits
        values = F.pad(logits[1], (0, 0, 0, 0, 0, 1))  # "nothing here", whose logit is 0
        first, second = values.topk(2, dim=1).values.split(1, dim=1)
        limit = 4 / self.log_temperature.float().exp()
        lead = limit * torch.tanh((values - torch.where(values == first, second, first)) / limit)
        lead = damp_harmonics(lead, order, lambda harmonic, radius: (-0.5 * (sigma * harmonic / radius).square()).exp())
        side = math.exp(-0.5 / sigma**2)
        padded = F.pad(lead, (0, 0, 1, 1), mode="replicate")
        lead = (lead + side * (padded[:, :, :-2] + padded[:, :, 2:])) / (1 + 2 * side)
        return logits[0], (lead[:, :-1] - lead[:, -1:]) * ((1 + sigma / SMOOTHING) / 2)

    def _colors(self, ws: Tensor, palette: Tensor | None) -> tuple[Tensor, Tensor]:
        """Colours (N, K, 3) in [0, 1], and the coefficients of the shading (N, K, 3)."""
        w = ws[:, -2].to(self.const.dtype)
        hidden = F.leaky_relu(self.palette_hidden(w), 0.2) * math.sqrt(2)
        head = self.palette_head(hidden).float().reshape(len(ws), -1, 6)
        colors, shading = torch.sigmoid(head[:, :, :3]), head[:, :, 3:]
        if palette is not None:
            colors = palette.to(colors).expand_as(colors)
        return colors, shading

    def _masks(self, logits: tuple[Tensor, Tensor], condition: Tensor, size: int, rows: slice) -> Tensor:
        """Interpolate the logits to the pixels of `rows`, then softmax."""
        round_logits, pattern_logits = logits
        radius, angle = (grid[rows] for grid in pixel_polar(size, condition.device))
        order, phase = condition[:, 0, None, None].float(), condition[:, 1, None, None].float()
        wedges = (angle - phase) * (order / (2 * math.pi))
        pad, cells = 2, pattern_logits.shape[3]
        padded = wrap(pattern_logits, pad)

        def look_up(values: Tensor, turn: Tensor) -> Tensor:
            grid_x = (turn * cells + pad) * (2 / (cells + 2 * pad)) - 1
            grid = torch.stack([grid_x, (radius * (2 / self.extent) - 1).expand_as(grid_x)], dim=3)
            return F.grid_sample(values, grid, mode="bicubic", padding_mode="border", align_corners=False)

        turn = torch.remainder(wedges, 1.0)
        if (order == order.floor()).all():
            pattern = look_up(padded, turn)
        else:
            turn, grown = unfold(wedges, order, turn)
            pattern = torch.lerp(look_up(padded, torch.full_like(turn, 0.5)), look_up(padded, turn), grown[:, None])
        # Outside the inscribed circle there is background, which is round.
        pattern = pattern - 20 * (radius - 1).clamp(min=0)
        rings = look_up(round_logits, turn)
        sharpness = self.log_temperature.float().exp() * (size / REFERENCE_SIZE)
        frame, ground = torch.softmax(rings * sharpness, dim=1).split(self.layers, dim=1)
        # The pattern competes with "nothing here", whose logit is 0.
        pattern = torch.softmax(F.pad(pattern * sharpness, (0, 0, 0, 0, 0, 1)), dim=1)
        return torch.cat([frame, ground * pattern[:, -1:], ground.sum(dim=1, keepdim=True) * pattern[:, :-1]], dim=1)

    def _paint(self, masks: Tensor, colors: tuple[Tensor, Tensor], rows: slice) -> Tensor:
        """Masks (N, K, rows, S) times shaded colours -> (N, 3, rows, S) in [-1, 1]."""
        r = pixel_polar(masks.shape[3], masks.device)[0][rows].clamp(max=self.extent)
        color, (flat, linear, square) = colors[0], colors[1][..., None, None].unbind(dim=2)
        # A colour is at its brightest where the gain is one; sigmoid(3) is nearly that, so shading starts out flat.
        shaded = masks * torch.sigmoid(3 + flat + linear * (r - 0.5) + square * (r * r - 0.25))
        return (color.transpose(1, 2) @ shaded.flatten(2)).unflatten(2, r.shape) * 2 - 1
