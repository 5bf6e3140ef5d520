"""StyleGAN2's forward passes as plainly as the papers say them, on foreign tensors under their foreign names, in float64.

One for each program, with that program's own conventions, and nothing of sharingan_hub. Each sample has its own kernel; pictures
grow by zeros between their pixels, padding, and a convolution with the filter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FIR = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64)[:, None] * torch.tensor([1.0, 3.0, 3.0, 1.0]) / 64
State = Mapping[str, Any]


def doubles(state: State) -> dict[str, Tensor]:
    return {
        name: torch.from_numpy(np.asarray(v)).double() if not isinstance(v, Tensor) else v.double()
        for name, v in state.items()
    }


def spread(x: Tensor, before: int, after: int) -> Tensor:
    """Zeros behind each pixel, then padding."""
    n, c, h, w = x.shape
    z = x.new_zeros(n, c, h, 2, w, 2)
    z[:, :, :, 0, :, 0] = x
    return F.pad(z.reshape(n, c, 2 * h, 2 * w), (before, after, before, after))


def filtered(x: Tensor, gain: float = 1.0) -> Tensor:
    """Convolution with the filter, without padding, channel by channel."""
    n, c, h, w = x.shape
    kernel = (FIR * gain).flip(0, 1)[None, None].to(x)
    return F.conv2d(x.reshape(n * c, 1, h, w), kernel).reshape(n, c, h - 3, w - 3)


def doubled(x: Tensor) -> Tensor:
    return filtered(spread(x, 2, 1), 4)


def each(x: Tensor, kernels: Tensor, padding: int = 0) -> Tensor:
    """Correlation of each sample with its own kernel (N, out, in, k, k)."""
    return torch.cat([F.conv2d(sample[None], kernel, padding=padding) for sample, kernel in zip(x, kernels)])


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)


def normal(x: Tensor) -> Tensor:
    return x / (x.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()


def limited(x: Tensor, clamp: float | None) -> Tensor:
    return x if clamp is None else x.clamp(-clamp, clamp)


def statistics(x: Tensor) -> Tensor:
    """One more channel: the standard deviation over the batch, which is one group, averaged."""
    deviation = (x.var(dim=0, correction=0) + 1e-8).sqrt().mean()
    return torch.cat([x, deviation.expand(len(x), 1, *x.shape[2:])], dim=1)


# NVIDIA's PyTorch programs: gains at run time, demodulation of kernels without the gain, clamps after the activation


def nvidia(
    state: State, z: Tensor, psi: float = 1.0, label: int | None = None, noise: bool = True, clamp: float | None = None
) -> Tensor:
    """Pictures of their Generator."""
    s, x = doubles(state), normal(z.double())
    if label is not None:
        one = F.one_hot(torch.full((len(z),), label), s["mapping.embed.weight"].shape[1]).double()
        embedded = one @ s["mapping.embed.weight"].t() / math.sqrt(one.shape[1]) + s["mapping.embed.bias"]
        x = torch.cat([x, normal(embedded)], dim=1)
    for i in range(sum(name.startswith("mapping.fc") for name in s) // 2):
        x = leaky(x @ s[f"mapping.fc{i}.weight"].t() * (0.01 / math.sqrt(x.shape[1])) + s[f"mapping.fc{i}.bias"] * 0.01)
    w = s["mapping.w_avg"] + psi * (x - s["mapping.w_avg"])

    def style(name: str) -> Tensor:
        return w @ s[f"{name}.affine.weight"].t() / math.sqrt(w.shape[1]) + s[f"{name}.affine.bias"]

    def layer(name: str, x: Tensor, up: bool) -> Tensor:
        kernels = s[f"{name}.weight"] * style(name)[:, None, :, None, None]
        kernels = kernels / (kernels.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).sqrt()
        # their way of growing without a transposed convolution: grow, filter, and convolve (not correlate)
        x = each(filtered(spread(x, 3, 2), 4), kernels.flip(3, 4)) if up else each(x, kernels, padding=1)
        if noise and f"{name}.noise_const" in s:
            x = x + s[f"{name}.noise_const"] * s[f"{name}.noise_strength"]
        return limited(leaky(x + s[f"{name}.bias"][:, None, None]), clamp)

    x = s["synthesis.b4.const"].expand(len(w), -1, -1, -1)
    image: Tensor | None = None
    side = 4
    while f"synthesis.b{side}.conv1.weight" in s:
        block = f"synthesis.b{side}"
        if side > 4:
            x = layer(f"{block}.conv0", x, up=True)
        x = layer(f"{block}.conv1", x, up=False)
        kernels = s[f"{block}.torgb.weight"] * (style(f"{block}.torgb") / math.sqrt(x.shape[1]))[:, None, :, None, None]
        rgb = limited(each(x, kernels) + s[f"{block}.torgb.bias"][:, None, None], clamp)
        image = rgb if image is None else doubled(image) + rgb
        side *= 2
    assert image is not None
    return image


def nvidia_judge(state: State, images: Tensor, clamp: float | None = None) -> Tensor:
    """Logits of their Discriminator."""
    s, x = doubles(state), images.double()
    side = images.shape[2]

    def conv(name: str, x: Tensor, padding: int = 0, stride: int = 1, gain: float = 1.0) -> Tensor:
        weight = s[f"{name}.weight"]
        x = F.conv2d(x, weight / math.sqrt(weight[0].numel()), padding=padding, stride=stride)
        if f"{name}.bias" not in s:
            return x * gain
        return limited(leaky(x + s[f"{name}.bias"][:, None, None]) * gain, None if clamp is None else clamp * gain)

    x = conv(f"b{side}.fromrgb", x)
    while side > 4:
        skip = conv(f"b{side}.skip", filtered(F.pad(x, (1, 1, 1, 1)))[:, :, ::2, ::2], gain=math.sqrt(0.5))
        x = conv(f"b{side}.conv0", x, padding=1)
        x = conv(f"b{side}.conv1", filtered(F.pad(x, (2, 2, 2, 2))), stride=2, gain=math.sqrt(0.5)) + skip
        side //= 2
    x = conv("b4.conv", statistics(x), padding=1).flatten(1)
    x = leaky(x @ s["b4.fc.weight"].t() / math.sqrt(x.shape[1]) + s["b4.fc.bias"])
    return x @ s["b4.out.weight"].t() / math.sqrt(x.shape[1]) + s["b4.out.bias"]


# NVIDIA's TensorFlow programs: matrices (in, out), kernels (height, width, in, out), one added to styles; all kernels correlate


def tensorflow(
    variables: State,
    z: Tensor,
    psi: float = 1.0,
    label: int | None = None,
    noise: Mapping[str, Any] | None = None,
    clamp: float | None = None,
) -> Tensor:
    """Pictures of their generator; noise: what to draw with in place of the variables of these names."""
    s, x = doubles({**variables, **(noise or {})}), normal(z.double())
    if label is not None:
        one = F.one_hot(torch.full((len(z),), label), len(s["mapping/LabelEmbed/weight"])).double()
        embedded = one @ s["mapping/LabelEmbed/weight"] / math.sqrt(one.shape[1]) + s["mapping/LabelEmbed/bias"]
        x = torch.cat([x, normal(embedded)], dim=1)
    for i in range(sum(name.startswith("mapping/Dense") for name in s) // 2):
        x = leaky(
            x @ (s[f"mapping/Dense{i}/weight"] * (0.01 / math.sqrt(x.shape[1]))) + s[f"mapping/Dense{i}/bias"] * 0.01
        )
    w = s["dlatent_avg"] + psi * (x - s["dlatent_avg"])

    def kernels(name: str, demodulate: bool) -> Tensor:
        """(N, out, in, k, k)."""
        weight = s[f"{name}/weight"]
        weight = weight / math.sqrt(weight[..., 0].numel())
        style = w @ (s[f"{name}/mod_weight"] / math.sqrt(w.shape[1])) + s[f"{name}/mod_bias"] + 1
        all_kernels = weight[None] * style[:, None, None, :, None]
        if demodulate:
            all_kernels = all_kernels / (all_kernels.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        return all_kernels.permute(0, 4, 3, 1, 2)

    def layer(name: str, x: Tensor, number: int, up: bool) -> Tensor:
        own = kernels(name, demodulate=True)
        x = each(filtered(spread(x, 3, 2), 4), own) if up else each(x, own, padding=1)
        if f"synthesis/noise{number}" in s:
            x = x + s[f"synthesis/noise{number}"] * s[f"{name}/noise_strength"]
        return limited(leaky(x + s[f"{name}/bias"][:, None, None]), clamp)

    x = s["synthesis/4x4/Const/const"].expand(len(w), -1, -1, -1)
    image: Tensor | None = None
    log = 2
    while f"synthesis/{2**log}x{2**log}/ToRGB/weight" in s:
        place = f"synthesis/{2**log}x{2**log}"
        if log == 2:
            x = layer(f"{place}/Conv", x, 0, up=False)
        else:
            x = layer(f"{place}/Conv0_up", x, 2 * log - 5, up=True)
            x = layer(f"{place}/Conv1", x, 2 * log - 4, up=False)
        rgb = limited(
            each(x, kernels(f"{place}/ToRGB", demodulate=False)) + s[f"{place}/ToRGB/bias"][:, None, None], clamp
        )
        image = rgb if image is None else doubled(image) + rgb
        log += 1
    assert image is not None
    return image


def tensorflow_judge(variables: State, images: Tensor) -> Tensor:
    """Logits of their discriminator."""
    s, side = doubles(variables), images.shape[2]

    def conv(name: str, x: Tensor, padding: int = 0, stride: int = 1) -> Tensor:
        weight = s[f"{name}/weight"].permute(3, 2, 0, 1)
        return F.conv2d(x, weight / math.sqrt(weight[0].numel()), padding=padding, stride=stride)

    def active(name: str, x: Tensor) -> Tensor:
        return leaky(x + s[f"{name}/bias"][:, None, None])

    x = active(f"{side}x{side}/FromRGB", conv(f"{side}x{side}/FromRGB", images.double()))
    while side > 4:
        place = f"{side}x{side}"
        skip = conv(f"{place}/Skip", filtered(F.pad(x, (1, 1, 1, 1)))[:, :, ::2, ::2])
        x = active(f"{place}/Conv0", conv(f"{place}/Conv0", x, padding=1))
        x = active(f"{place}/Conv1_down", conv(f"{place}/Conv1_down", filtered(F.pad(x, (2, 2, 2, 2))), stride=2))
        x = (x + skip) / math.sqrt(2)
        side //= 2
    x = active("4x4/Conv", conv("4x4/Conv", statistics(x), padding=1)).flatten(1)
    x = leaky(x @ (s["4x4/Dense0/weight"] / math.sqrt(x.shape[1])) + s["4x4/Dense0/bias"])
    return x @ (s["Output/weight"] / math.sqrt(x.shape[1])) + s["Output/bias"]


# rosinality's program: transposed convolutions, then a blur; noise counts from the first layer on


def rosinality(state: State, z: Tensor, average: Tensor | None = None, psi: float = 1.0) -> Tensor:
    """Pictures of their Generator with constant noise."""
    s, x = doubles(state), normal(z.double())
    for i in range(1, 1 + sum(name.startswith("style.") for name in s) // 2):
        x = leaky(x @ s[f"style.{i}.weight"].t() * (0.01 / math.sqrt(x.shape[1])) + s[f"style.{i}.bias"] * 0.01)
    w = x if average is None else average.double() + psi * (x - average.double())
    numbers = iter(range(100))

    def kernels(name: str, demodulate: bool) -> Tensor:
        weight = s[f"{name}.conv.weight"]
        style = w @ s[f"{name}.conv.modulation.weight"].t() / math.sqrt(w.shape[1]) + s[f"{name}.conv.modulation.bias"]
        all_kernels = weight / math.sqrt(weight[0, 0].numel()) * style[:, None, :, None, None]
        if demodulate:
            all_kernels = all_kernels / (all_kernels.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).sqrt()
        return all_kernels

    def layer(name: str, x: Tensor, up: bool) -> Tensor:
        own = kernels(name, demodulate=True)
        if up:  # a transposed convolution gives 2 H + 1 pixels
            x = each(spread(x, 2, 1), own.flip(3, 4))
            x = filtered(F.pad(x, (1, 1, 1, 1)), 4)
        else:
            x = each(x, own, padding=1)
        x = x + s[f"{name}.noise.weight"] * s[f"noises.noise_{next(numbers)}"]
        return leaky(x + s[f"{name}.activate.bias"][:, None, None])

    def rgb(name: str, x: Tensor) -> Tensor:
        return each(x, kernels(name, demodulate=False)) + s[f"{name}.bias"]

    x = layer("conv1", s["input.input"].expand(len(w), -1, -1, -1), up=False)
    image = rgb("to_rgb1", x)
    k = 0
    while f"to_rgbs.{k}.bias" in s:
        x = layer(f"convs.{2 * k + 1}", layer(f"convs.{2 * k}", x, up=True), up=False)
        image = doubled(image) + rgb(f"to_rgbs.{k}", x)
        k += 1
    return image


def rosinality_judge(state: State, images: Tensor) -> Tensor:
    """Logits of their Discriminator."""
    s = doubles(state)

    def conv(name: str, x: Tensor, padding: int = 0, stride: int = 1) -> Tensor:
        weight = s[f"{name}.weight"]
        return F.conv2d(x, weight / math.sqrt(weight[0].numel()), padding=padding, stride=stride)

    def active(name: str, x: Tensor) -> Tensor:
        return leaky(x + s[f"{name}.bias"][:, None, None])

    x = active("convs.0.1", conv("convs.0.0", images.double()))
    n = 1
    while f"convs.{n}.skip.1.weight" in s:
        main = active(f"convs.{n}.conv1.1", conv(f"convs.{n}.conv1.0", x, padding=1))
        main = filtered(F.pad(main, (2, 2, 2, 2)))
        main = active(f"convs.{n}.conv2.2", conv(f"convs.{n}.conv2.1", main, stride=2))
        skip = conv(f"convs.{n}.skip.1", filtered(F.pad(x, (1, 1, 1, 1))), stride=2)
        x = (main + skip) / math.sqrt(2)
        n += 1
    x = active("final_conv.1", conv("final_conv.0", statistics(x), padding=1)).flatten(1)
    x = leaky(x @ s["final_linear.0.weight"].t() / math.sqrt(x.shape[1]) + s["final_linear.0.bias"])
    return x @ s["final_linear.1.weight"].t() / math.sqrt(x.shape[1]) + s["final_linear.1.bias"]
