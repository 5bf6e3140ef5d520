"""StyleGAN2Generator: the generator of StyleGAN2, written from the papers.

Karras et al. 2019, "A Style-Based Generator Architecture for Generative Adversarial Networks": mapping network, noise.
Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN": modulated convolutions, RGB skips.
Zhang et al. 2019, "Self-Attention Generative Adversarial Networks": self-attention, where it is asked for.

Parameters are stored un-scaled under the field's usual names (`mapping.fc0.weight`, `synthesis.b8.conv0.affine.weight`,
`synthesis.b8.torgb.bias`, ...), so that checkpoints of other implementations map one to one. Needs torch and diffusers
only: the same file is shipped inside every checkpoint as remote code.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

NOISE_MODES = ("const", "random", "none")


def fir_filter() -> Tensor:
    """The low-pass filter [1, 3, 3, 1] in two dimensions, (4, 4), with the gain of 4 that zero insertion takes away."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
    return taps[:, None] * taps[None, :]


class FullyConnected(nn.Module):
    """Linear layer with equalised learning rate (Karras et al. 2018, section 4.1), computed in float32.

    Stored weights have a standard deviation of 1 / lr_multiplier; run time scales by lr_multiplier / sqrt(fan_in).
    """

    def __init__(self, in_features: int, out_features: int, lr_multiplier: float = 1.0, bias_init: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), float(bias_init)))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return F.linear(x * self.weight_gain, self.weight.float(), self.bias.float() * self.bias_gain)


def normalize(x: Tensor) -> Tensor:
    """(N, C) -> the same directions with a mean square of one."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class MappingNetwork(nn.Module):
    """z, normalised to a mean square of one, through `num_layers` layers to w. Always in float32.

    With classes, a linear embedding of the class, normalised likewise, stands beside z (Karras et al. 2020, "Training
    Generative Adversarial Networks with Limited Data", appendix on class-conditional training).
    """

    def __init__(
        self,
        z_dim: int,
        w_dim: int,
        num_layers: int,
        hidden_dim: int,
        lr_multiplier: float,
        c_dim: int = 0,
        embed_dim: int = 0,
    ) -> None:
        super().__init__()
        self.num_layers, self.c_dim = num_layers, c_dim
        if c_dim:
            self.embed = FullyConnected(c_dim, embed_dim)
        widths = [z_dim + (embed_dim if c_dim else 0)] + [hidden_dim] * (num_layers - 1) + [w_dim]
        for i in range(num_layers):
            setattr(self, f"fc{i}", FullyConnected(widths[i], widths[i + 1], lr_multiplier))

    def forward(self, z: Tensor, class_label: Tensor | None = None) -> Tensor:
        """(N, z_dim) -> (N, w_dim), float32; class_label (N,) holds whole numbers, and is class 0 unless given."""
        with torch.autocast(z.device.type, enabled=False):
            x = normalize(z.float())
            if self.c_dim:
                label = torch.zeros(len(z), dtype=torch.int64) if class_label is None else class_label
                one_hot = F.one_hot(label.to(z.device), self.c_dim).float()
                x = torch.cat([x, normalize(self.embed(one_hot))], dim=1)
            for i in range(self.num_layers):
                x = F.leaky_relu(getattr(self, f"fc{i}")(x), 0.2) * math.sqrt(2)
            return x


class SynthesisLayer(nn.Module):
    """Modulated and demodulated convolution, 3x3 unless told otherwise (Karras et al. 2020, equations 1 to 3), noise, bias, leaky ReLU.

    Scaling the input by the style, convolving with shared weights and scaling the output by the demodulation is the
    same sum as one kernel for each sample, without the grouped convolution that is slow on a CPU.
    With `up` the convolution is a transposed one of stride 2, followed by the low-pass filter.
    """

    noise_const: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, w_dim: int, resolution: int, up: bool, kernel: int = 3
    ) -> None:
        super().__init__()
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.gain = 1 / math.sqrt(in_channels * kernel**2)
        self.up = up

    def forward(
        self,
        x: Tensor,
        w: Tensor,
        noise_mode: str,
        generator: torch.Generator | list[torch.Generator] | None,
        clamp: float | None,
    ) -> Tensor:
        """(N, in, H, W) and w (N, w_dim) -> (N, out, R, R), R being 2 H with `up`, H without."""
        with torch.autocast(x.device.type, enabled=False):
            style = self.affine(w.float()) * self.gain
            power = self.weight.float().square().sum(dim=(2, 3))
            # leaky ReLU is positively homogeneous: its gain of sqrt(2) can go in front, into terms that are small
            demodulation = (style.square() @ power.t() + 1e-8).rsqrt() * math.sqrt(2)
        x = x * style.to(x.dtype)[:, :, None, None]
        if self.up:
            x = F.conv_transpose2d(x, self.weight.transpose(0, 1), stride=2)
            fir = fir_filter().to(x).expand(x.shape[1], 1, 4, 4)
            x = F.conv2d(x, fir, padding=1, groups=x.shape[1])
        else:
            x = F.conv2d(x, self.weight, padding=self.weight.shape[2] // 2)
        x = x * demodulation.to(x.dtype)[:, :, None, None]
        if noise_mode != "none":
            noise = self.noise_const
            if noise_mode == "random":
                noise = randn_tensor((len(x), 1, *x.shape[2:]), generator, device=x.device, dtype=torch.float32)
            x += (noise * (self.noise_strength * math.sqrt(2))).to(x.dtype)
        x += (self.bias * math.sqrt(2)).to(x.dtype)[:, None, None]
        x = F.leaky_relu_(x, 0.2)
        return x if clamp is None else x.clamp(-clamp, clamp)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to RGB, without demodulation, noise or activation."""

    def __init__(self, in_channels: int, w_dim: int) -> None:
        super().__init__()
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(3, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))
        self.gain = 1 / math.sqrt(in_channels)

    def forward(self, x: Tensor, w: Tensor, clamp: float | None) -> Tensor:
        """(N, in, H, W) and w (N, w_dim) -> (N, 3, H, W), float32."""
        with torch.autocast(x.device.type, enabled=False):
            style = self.affine(w.float()) * self.gain
            weight = (self.weight.float().flatten(1) * style[:, None, :]).to(x.dtype)
            # with channels last the pixels are rows of a matrix already: one product for each sample, no copy of x
            rgb = torch.bmm(x.permute(0, 2, 3, 1).flatten(1, 2), weight.transpose(1, 2)).float() + self.bias.float()
        if clamp is not None:
            rgb = rgb.clamp(-clamp, clamp)
        return rgb.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


class SelfAttention(nn.Module):
    """Each place looks at all places (Zhang et al. 2019, equations 1 to 3), with equalised learning rate and, as the weights
    are of unit size here, divided scores (Vaswani et al. 2017, equation 1). gamma, how much it adds, begins at 0.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 8)
        self.query, self.key, self.value = (FullyConnected(channels, inner) for _ in range(3))
        self.out = FullyConnected(inner, channels)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        with torch.autocast(x.device.type, enabled=False):
            places = x.float().permute(0, 2, 3, 1).flatten(1, 2)
            query, key, value = self.query(places), self.key(places), self.value(places)
            # written out, as path length regularisation differentiates it twice, which fused attention does not allow
            shares = (query @ key.transpose(1, 2) / math.sqrt(query.shape[2])).softmax(dim=2)
            seen = self.out(shares @ value) * self.gamma.float()
        return x + seen.to(x.dtype).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


class SynthesisBlock(nn.Module):
    """The layers of one resolution: `const` at 4x4, above it an up-sampling `conv0`; then `conv1` and `torgb`.

    With `attention` it comes after `conv1`, which sees single pixels where it is replaced.
    """

    def __init__(
        self, in_channels: int, out_channels: int, w_dim: int, resolution: int, attention: bool, replaces: bool
    ) -> None:
        super().__init__()
        if resolution == 4:
            self.const = nn.Parameter(torch.randn(out_channels, 4, 4))
        else:
            self.conv0 = SynthesisLayer(in_channels, out_channels, w_dim, resolution, up=True)
        kernel = 1 if attention and replaces else 3
        self.conv1 = SynthesisLayer(out_channels, out_channels, w_dim, resolution, up=False, kernel=kernel)
        self.attention = SelfAttention(out_channels) if attention else None
        self.torgb = ToRGB(out_channels, w_dim)


class SynthesisNetwork(nn.Module):
    """ws -> picture, as the sum of one RGB output at each resolution (Karras et al. 2020, figure 7)."""

    def __init__(
        self,
        resolution: int,
        w_dim: int,
        channel_base: int,
        channel_max: int,
        conv_clamp: float | None,
        attention: int | None = None,
        attention_replaces: bool = False,
    ) -> None:
        super().__init__()
        self.resolutions = [2**i for i in range(2, resolution.bit_length())]
        self.conv_clamp = conv_clamp
        width = 0
        for size in self.resolutions:
            out = max(1, min(channel_base // size, channel_max))
            block = SynthesisBlock(width, out, w_dim, size, size == attention, attention_replaces)
            setattr(self, f"b{size}", block)
            width = out

    def forward(
        self,
        ws: Tensor,
        noise_mode: str = "const",
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> Tensor:
        """ws (N, num_ws, w_dim) -> pictures (N, 3, R, R), about [-1, 1], float32, channels last.

        Args:
            noise_mode: "const" (the noise saved with the weights), "random" (drawn anew) or "none".
            generator: draws the random noise; a list holds one generator for each sample.

        Raises:
            ValueError: `noise_mode` is none of the three, or `ws` has another shape.
        """
        if noise_mode not in NOISE_MODES:
            raise ValueError(f"noise_mode is {noise_mode!r}; it must be one of {', '.join(NOISE_MODES)}")
        rows = 2 * len(self.resolutions)
        if ws.ndim != 3 or ws.shape[1] != rows:
            raise ValueError(f"ws has shape {tuple(ws.shape)}; it must be (N, {rows}, w_dim)")
        rgb: Tensor | None = None
        # A block's torgb shares its row of ws with the next block's conv0.
        row = 0
        for size in self.resolutions:
            block = getattr(self, f"b{size}")
            if size == 4:
                # Channels last from here on: twice as fast as contiguous on a CPU.
                x = block.const.expand(len(ws), -1, -1, -1).contiguous(memory_format=torch.channels_last)
            for layer in [block.conv1] if size == 4 else [block.conv0, block.conv1]:
                x = layer(x, ws[:, row], noise_mode, generator, self.conv_clamp)
                row += 1
            if block.attention is not None:
                x = block.attention(x)
            skip = block.torgb(x, ws[:, row], self.conv_clamp)
            rgb = skip if rgb is None else upsample(rgb) + skip
        assert rgb is not None
        return rgb


def upsample(x: Tensor) -> Tensor:
    """Double (N, C, H, W) in both directions: zero insertion, then the filter [1, 3, 3, 1]."""
    fir = fir_filter().to(x).expand(x.shape[1], 1, 4, 4)
    return F.conv_transpose2d(x, fir, stride=2, padding=1, groups=x.shape[1])


class StyleGAN2Generator(ModelMixin, ConfigMixin):  # type: ignore[misc]  # the mixins' own config_name
    """z -> w -> picture, with the architecture of StyleGAN2 (skip generator, configurations E and F).

    Resolution r has min(channel_base / r, channel_max) channels.

    Args:
        z_dim: size of the latent z.
        w_dim: size of the style w.
        resolution: picture size in pixels, a power of two from 4 to 1024.
        mapping_layers: depth of the mapping network.
        mapping_dim: width of its hidden layers; None is w_dim.
        mapping_lr_multiplier: the mapping network learns by this much more slowly than the rest.
        channel_base: channels times resolution at high resolutions (16384 is configuration E, 32768 is F).
        channel_max: channels at low resolutions.
        conv_clamp: limit of the activations' magnitude, as checkpoints trained in float16 have it; None is no limit.
        c_dim: number of classes; 0 is none.
        embed_dim: size of a class's embedding; None is w_dim.
        attention: resolution after whose convolutions self-attention comes; None is none.
        attention_replaces: the last of those convolutions is 1x1, so that attention is in its place and not beside it.

    Raises:
        ValueError: a size is outside its range.
    """

    conditions: tuple[str, ...] = ()

    @register_to_config
    def __init__(
        self,
        z_dim: int = 512,
        w_dim: int = 512,
        resolution: int = 256,
        mapping_layers: int = 8,
        mapping_dim: int | None = None,
        mapping_lr_multiplier: float = 0.01,
        channel_base: int = 16384,
        channel_max: int = 512,
        conv_clamp: float | None = None,
        c_dim: int = 0,
        embed_dim: int | None = None,
        attention: int | None = None,
        attention_replaces: bool = False,
    ) -> None:
        super().__init__()
        if resolution not in [2**i for i in range(2, 11)]:
            raise ValueError(f"resolution is {resolution}; it must be a power of two from 4 to 1024")
        sizes = {"z_dim": z_dim, "w_dim": w_dim, "mapping_dim": w_dim if mapping_dim is None else mapping_dim}
        sizes["embed_dim"] = w_dim if embed_dim is None else embed_dim
        limits = {**dict.fromkeys(sizes, 8192), "mapping_layers": 64, "channel_base": 2**20, "channel_max": 8192}
        sizes.update(mapping_layers=mapping_layers, channel_base=channel_base, channel_max=channel_max)
        for name, value in sizes.items():
            if not 1 <= value <= limits[name]:
                raise ValueError(f"{name} is {value}; it must be from 1 to {limits[name]}")
        if not 0 <= c_dim <= 8192:
            raise ValueError(f"c_dim is {c_dim}; it must be from 0 to 8192")
        if not mapping_lr_multiplier > 0:
            raise ValueError(f"mapping_lr_multiplier is {mapping_lr_multiplier}; it must be above 0")
        if conv_clamp is not None and not conv_clamp > 0:
            raise ValueError(f"conv_clamp is {conv_clamp}; it must be above 0, or None")
        if attention is not None and attention not in [2**i for i in range(2, resolution.bit_length())]:
            raise ValueError(f"attention is {attention}; it must be a power of two from 4 to {resolution}, or None")
        if attention_replaces and attention is None:
            raise ValueError("attention_replaces is True, but there is no attention")
        self.z_dim, self.w_dim, self.resolution = z_dim, w_dim, resolution
        self.conditions = ("class_label",) if c_dim else ()
        self.num_ws = self.style_ws = 2 * resolution.bit_length() - 4
        self.mapping = MappingNetwork(
            z_dim, w_dim, mapping_layers, sizes["mapping_dim"], mapping_lr_multiplier, c_dim, sizes["embed_dim"]
        )
        self.synthesis = SynthesisNetwork(
            resolution, w_dim, channel_base, channel_max, conv_clamp, attention, attention_replaces
        )
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def broadcast(self, w: Tensor) -> Tensor:
        """w (N, w_dim) -> ws (N, num_ws, w_dim): the same style for every layer."""
        return w[:, None].expand(-1, self.num_ws, -1)

    def forward(
        self,
        z: Tensor,
        noise_mode: str = "const",
        generator: torch.Generator | list[torch.Generator] | None = None,
        class_label: Tensor | None = None,
    ) -> Tensor:
        """z (N, z_dim) -> pictures (N, 3, R, R), about [-1, 1]; noise as in `synthesis`, class_label as in `mapping`."""
        return self.synthesis(self.broadcast(self.mapping(z, class_label)), noise_mode, generator)
