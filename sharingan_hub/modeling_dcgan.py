"""DCGANGenerator, from a latent to a picture by transposed convolutions, and CoGANGenerator, to two that correspond.

Written from the papers:

Radford et al. 2016, "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks".
Liu and Tuzel 2016, "Coupled Generative Adversarial Networks".
Zhang et al. 2019, "Self-Attention Generative Adversarial Networks": self-attention.

Needs torch and diffusers only: the same file is shipped inside every checkpoint as remote code.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

DEVIATION = 0.02  # of first weights, and of batch norm's first scales about 1 (Radford et al. 2016, section 4)


class BatchNorm(nn.Module):
    """Batch normalisation as nn.BatchNorm2d has it, without its counter of batches: no weight of ours is an integer."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(1 + DEVIATION * torch.randn(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape, normalised by the batch in training, by running statistics otherwise."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training)


class SelfAttention(nn.Module):
    """Each place looks at all places (Zhang et al. 2019, equations 1 to 3). gamma, how much that adds, begins at 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 8)
        self.query, self.key, self.value = (nn.Conv2d(channels, inner, 1, bias=False) for _ in range(3))
        self.out = nn.Conv2d(inner, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        query, key, value = (conv(x).flatten(2) for conv in (self.query, self.key, self.value))
        # written out, as it is to be differentiated twice, which fused attention is not
        shares = (query.transpose(1, 2) @ key).softmax(dim=2)
        seen = (value @ shares.transpose(1, 2)).unflatten(2, x.shape[2:])
        return x + self.gamma * self.out(seen)


def initialize(module: nn.Module) -> None:
    """First weights of a convolution: N(0, 0.02^2), and biases of 0 where it has them."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, std=DEVIATION)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def count_doublings(resolution: int) -> int:
    """How often a side of 4 to 7 doubles to reach `resolution`, 7 and a part being rounded up to 8."""
    return (resolution // 4).bit_length() - 1


def upward_layers(
    z_dim: int, resolution: int, channels: int, channel_max: int, norm_first: bool, attention: int | None
) -> OrderedDict[str, nn.Module]:
    """Layers from (N, z_dim, 1, 1) to (N, 3, S, S), named by their sides; S is `resolution`, or a little more.

    Raises:
        ValueError: no layer has the side `attention`.
    """
    doublings = count_doublings(resolution)
    first = -(-resolution // 2**doublings)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    width = z_dim
    for i in range(doublings):
        out, side = min(channels * 2 ** (doublings - 1 - i), channel_max), first * 2**i
        shape = {"kernel_size": 4, "stride": 2, "padding": 1} if i else {"kernel_size": first}
        conv = nn.ConvTranspose2d(width, out, bias=False, **shape)
        steps: list[tuple[str, nn.Module]] = [("norm", BatchNorm(out)), ("relu", nn.ReLU())]
        layers[f"b{side}"] = nn.Sequential(OrderedDict([("conv", conv), *(steps if norm_first else steps[::-1])]))
        if side == attention:
            layers["attention"] = SelfAttention(out)
        width = out
    if attention is not None and "attention" not in layers:
        sides = ", ".join(str(first * 2**i) for i in range(doublings))
        raise ValueError(f"attention is {attention}; it must be one of {sides}, the sides of the layers, or None")
    layers["torgb"] = nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False)
    return layers


class DCGANGenerator(ModelMixin, ConfigMixin):  # type: ignore[misc]  # the mixins' own config_name
    """z -> picture: transposed convolutions, each but the last with batch norm and ReLU; tanh at the end. No biases.

    The first gives 4 to 8 pixels, each of the others twice as many. 28 px are 7, doubled twice; a size like 30 px, which
    no such doubling reaches, is the middle of 32. z is the style itself, in a single row: there are no layers to mix.
    In training pictures depend on their batch; a new generator is in evaluation, like a loaded one.

    Args:
        z_dim: size of the latent z, and of w, which is the same.
        resolution: picture size in pixels, 16 to 1024.
        channels: of the last layer before RGB; each layer before it has twice as many ...
        channel_max: ... and never more than this.
        norm_first: batch norm, then ReLU, as in the paper; False is the other way round.
        attention: side of the layer after which self-attention comes; None is none.

    Raises:
        ValueError: a size is outside its range.
    """

    conditions: tuple[str, ...] = ()

    @register_to_config
    def __init__(
        self,
        z_dim: int = 100,
        resolution: int = 64,
        channels: int = 64,
        channel_max: int = 512,
        norm_first: bool = True,
        attention: int | None = None,
    ) -> None:
        super().__init__()
        if not 16 <= resolution <= 1024:
            raise ValueError(f"resolution is {resolution}; it must be from 16 to 1024")
        for name, value in {"z_dim": z_dim, "channels": channels, "channel_max": channel_max}.items():
            if not 1 <= value <= 8192:
                raise ValueError(f"{name} is {value}; it must be from 1 to 8192")
        self.z_dim = self.w_dim = z_dim
        self.num_ws = self.style_ws = 1
        self.resolution = resolution
        layers = upward_layers(z_dim, resolution, channels, channel_max, norm_first, attention)
        self.layers = nn.Sequential(layers).apply(initialize)
        self.register_buffer("w_avg", torch.zeros(z_dim))
        self.eval()

    def mapping(self, z: Tensor) -> Tensor:
        """z (N, z_dim) -> w (N, w_dim), which is z."""
        return z

    def broadcast(self, w: Tensor) -> Tensor:
        """w (N, w_dim) -> ws (N, 1, w_dim)."""
        return w[:, None]

    def synthesis(self, ws: Tensor) -> Tensor:
        """ws (N, 1, w_dim) -> pictures (N, 3, R, R) in [-1, 1], float32.

        Raises:
            ValueError: `ws` has another shape.
        """
        return self.finish(self.layers(self.start(ws)))

    def latent_weights(self) -> Tensor:
        """By what the latent enters the first layer, (outputs, w_dim)."""
        return next(self.layers.parameters()).flatten(1).t()

    def start(self, ws: Tensor) -> Tensor:
        """ws (N, 1, w_dim) -> what the first layer takes, (N, z_dim, 1, 1)."""
        if ws.ndim != 3 or ws.shape[1:] != (1, self.w_dim):
            raise ValueError(f"ws has shape {tuple(ws.shape)}; it must be (N, 1, {self.w_dim})")
        return ws.transpose(1, 2)[..., None].to(self.w_avg.dtype)

    def finish(self, x: Tensor) -> Tensor:
        """What the last layer gives -> pictures (N, 3, R, R): tanh of its middle."""
        left = (x.shape[3] - self.resolution) // 2
        inside = slice(left, left + self.resolution)
        return x[:, :, inside, inside].float().tanh()

    def forward(self, z: Tensor) -> Tensor:
        """z (N, z_dim) -> pictures (N, 3, R, R) in [-1, 1]."""
        return self.synthesis(self.broadcast(self.mapping(z)))


class CoGANGenerator(DCGANGenerator):
    """z -> one picture in each of two domains: two DCGANGenerators that share their first layers, and with them what is drawn.

    No pair of pictures is ever shown to it: as the shared layers decide what both have in common, the pictures that one z
    gives correspond.

    Args:
        z_dim, resolution, channels, channel_max, norm_first, attention: of both, as DCGANGenerator has them.
        shared_layers: how many layers they share, self-attention being one; 0 are two generators of their own.

    Raises:
        ValueError: a size is outside its range.
    """

    @register_to_config
    def __init__(
        self,
        z_dim: int = 100,
        resolution: int = 64,
        channels: int = 64,
        channel_max: int = 512,
        norm_first: bool = True,
        attention: int | None = None,
        shared_layers: int = 2,
    ) -> None:
        super().__init__(z_dim, resolution, channels, channel_max, norm_first, attention)
        settings = (z_dim, resolution, channels, channel_max, norm_first, attention)
        layers = [list(upward_layers(*settings).items()) for _ in range(2)]
        most = len(layers[0]) - 1
        if not 0 <= shared_layers <= most:
            raise ValueError(f"shared_layers is {shared_layers}; it must be from 0 to {most} at this resolution")
        del self.layers
        self.shared = nn.Sequential(OrderedDict(layers[0][:shared_layers]))
        self.ends = nn.ModuleList(nn.Sequential(OrderedDict(own[shared_layers:])) for own in layers)
        self.apply(initialize)
        self.eval()

    def pairs(self, ws: Tensor) -> Tensor:
        """ws (N, 1, w_dim) -> pictures of both domains (N, 2, 3, R, R) in [-1, 1], float32.

        Raises:
            ValueError: `ws` has another shape.
        """
        x = self.shared(self.start(ws))
        return torch.stack([self.finish(end(x)) for end in self.ends], dim=1)

    def latent_weights(self) -> Tensor:
        """By what the latent enters the first layer, (outputs, w_dim); of both domains where they share none."""
        firsts = [self.shared] if len(self.shared) else self.ends
        return torch.cat([next(layers.parameters()).flatten(1).t() for layers in firsts])

    def synthesis(self, ws: Tensor) -> Tensor:
        """The first domain's part of `pairs`, (N, 3, R, R)."""
        return self.finish(self.ends[0](self.shared(self.start(ws))))
