"""What the three programs' files hold: every tensor of a network by its foreign name, in its foreign shape, with random values.

Written from the formats alone, not from the key maps that are tested with it. Biases, noise strengths and averages differ from
their first values, so that each of them matters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import writers


@dataclass(frozen=True)
class Sizes:
    """Of a generator and its discriminator."""

    resolution: int = 16
    z_dim: int = 8
    w_dim: int = 8
    layers: int = 3
    hidden: int = 8
    base: int = 96
    most: int = 7
    c_dim: int = 0
    embed: int = 0
    clamp: float | None = None
    noise: bool = True

    @property
    def sides(self) -> list[int]:
        return [2**i for i in range(2, self.resolution.bit_length())]

    def width(self, side: int) -> int:
        return min(self.base // side, self.most)

    @property
    def mapping(self) -> list[int]:
        return [self.z_dim + self.embed, *[self.hidden] * (self.layers - 1), self.w_dim]

    def but(self, **changes: Any) -> Sizes:
        return replace(self, **changes)


FIR = torch.tensor([1.0, 3.0, 3.0, 1.0])[:, None] * torch.tensor([1.0, 3.0, 3.0, 1.0]) / 64


class Draw:
    """Random values, of a standard deviation of 1 unless told."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, std: float = 1.0, mean: float = 0.0) -> Tensor:
        return torch.randn(shape, generator=self.generator) * std + mean


# NVIDIA's PyTorch programs


def nvidia_generator(sizes: Sizes, seed: int = 0) -> dict[str, Tensor]:
    """state_dict() of NVIDIA's Generator."""
    draw, state = Draw(seed), {}
    if sizes.c_dim:
        state["mapping.embed.weight"] = draw(sizes.embed, sizes.c_dim)
        state["mapping.embed.bias"] = draw(sizes.embed, std=0.3)
    for i, (before, after) in enumerate(zip(sizes.mapping, sizes.mapping[1:])):
        state[f"mapping.fc{i}.weight"], state[f"mapping.fc{i}.bias"] = draw(after, before, std=100), draw(after, std=30)
    state["mapping.w_avg"] = draw(sizes.w_dim)
    before = 0
    for side in sizes.sides:
        block, width = f"synthesis.b{side}", sizes.width(side)
        state[f"{block}.resample_filter"] = FIR.clone()
        if side == 4:
            state[f"{block}.const"] = draw(width, 4, 4)
        for name, width_in in [("conv1", width)] if side == 4 else [("conv0", before), ("conv1", width)]:
            layer = f"{block}.{name}"
            state[f"{layer}.weight"], state[f"{layer}.bias"] = draw(width, width_in, 3, 3), draw(width, std=0.3)
            state[f"{layer}.resample_filter"] = FIR.clone()
            if sizes.noise:
                state[f"{layer}.noise_const"] = draw(side, side)
                state[f"{layer}.noise_strength"] = draw(std=0.3)
            state[f"{layer}.affine.weight"] = draw(width_in, sizes.w_dim)
            state[f"{layer}.affine.bias"] = draw(width_in, std=0.3, mean=1)
        state[f"{block}.torgb.weight"], state[f"{block}.torgb.bias"] = draw(3, width, 1, 1), draw(3, std=0.3)
        state[f"{block}.torgb.affine.weight"] = draw(width, sizes.w_dim)
        state[f"{block}.torgb.affine.bias"] = draw(width, std=0.3, mean=1)
        before = width
    return state


def nvidia_discriminator(sizes: Sizes, seed: int = 1) -> dict[str, Tensor]:
    """state_dict() of NVIDIA's Discriminator."""
    draw, state = Draw(seed), {}
    for side in reversed(sizes.sides[1:]):
        width, after = sizes.width(side), sizes.width(side // 2)
        state[f"b{side}.resample_filter"] = FIR.clone()
        layers = [("conv0", width, width, 3), ("conv1", after, width, 3), ("skip", after, width, 1)]
        if side == sizes.resolution:
            layers.insert(0, ("fromrgb", width, 3, 1))
        for name, out, width_in, kernel in layers:
            state[f"b{side}.{name}.weight"] = draw(out, width_in, kernel, kernel)
            if name != "skip":
                state[f"b{side}.{name}.bias"] = draw(out, std=0.3)
            state[f"b{side}.{name}.resample_filter"] = FIR.clone()
    width = sizes.width(4)
    state["b4.conv.weight"], state["b4.conv.bias"] = draw(width, width + 1, 3, 3), draw(width, std=0.3)
    state["b4.conv.resample_filter"] = FIR.clone()
    state["b4.fc.weight"], state["b4.fc.bias"] = draw(width, 16 * width), draw(width, std=0.3)
    state["b4.out.weight"], state["b4.out.bias"] = draw(1, width), draw(1, std=0.3)
    return state


CLASSES = {
    "mapping": "MappingNetwork",
    "synthesis": "SynthesisNetwork",
    "torgb": "ToRGBLayer",
    "mbstd": "MinibatchStdLayer",
}
DENSE = ("affine", "embed", "out", "fc")


def nvidia_module(state: dict[str, Tensor], sizes: Sizes, kind: str, **attributes: dict[str, Any]) -> Any:
    """The module of a state dict, with the attributes that theirs have; more of them by module name, "" being the whole."""
    is_generator = kind == "Generator"

    def make(path: str, names: dict[str, Tensor]) -> Any:
        last = path.rpartition(".")[2]
        children: dict[str, dict[str, Tensor]] = {}
        own: dict[str, Tensor] = {}
        for name, tensor in names.items():
            head, dot, rest = name.partition(".")
            if dot:
                children.setdefault(head, {})[rest] = tensor
            else:
                own[name] = tensor
        modules = {name: make(f"{path}.{name}".strip("."), inner) for name, inner in children.items()}
        if path == "b4" and not is_generator:
            modules["mbstd"] = writers.nvidia_module("MinibatchStdLayer", group_size=4, num_channels=1)
        told: dict[str, Any] = {}
        linear = last in ("affine", "embed", "out", "skip")
        if last.startswith(DENSE):
            kind_here = "FullyConnectedLayer"
            gain = 0.01 if path.startswith("mapping.fc") else 1
            told = {"activation": "linear" if linear else "lrelu", "bias_gain": gain}
        elif last in ("conv0", "conv1") and is_generator:
            kind_here, told = (
                "SynthesisLayer",
                {"activation": "lrelu", "conv_clamp": sizes.clamp, "use_noise": sizes.noise},
            )
        elif last in ("conv", "conv0", "conv1", "skip", "fromrgb"):
            kind_here = "Conv2dLayer"
            told = {"activation": "linear" if linear else "lrelu", "conv_clamp": None if linear else sizes.clamp}
        elif last == "torgb":
            kind_here, told = "ToRGBLayer", {"conv_clamp": sizes.clamp}
        elif last[:1] == "b" and last[1:].isdecimal():
            kind_here = (
                "SynthesisBlock" if is_generator else "DiscriminatorBlock" if last != "b4" else "DiscriminatorEpilogue"
            )
            told = {"architecture": "skip" if is_generator else "resnet"}
        else:
            kind_here = CLASSES.get(last, kind)
        told |= attributes.get(path, {})
        buffers = {name: t for name, t in own.items() if name in ("resample_filter", "noise_const", "w_avg")}
        parameters = {name: t for name, t in own.items() if name not in buffers}
        return writers.nvidia_module(kind_here, parameters, buffers, modules, **told)

    return make("", state)


def write_nvidia(path: Path, sizes: Sizes, seed: int = 0, **attributes: dict[str, Any]) -> Path:
    """A snapshot of which G_ema is of `seed`, D of seed + 1 and G of seed + 2."""
    return writers.pickle_nvidia(
        path,
        G=nvidia_module(nvidia_generator(sizes, seed + 2), sizes, "Generator"),
        D=nvidia_module(nvidia_discriminator(sizes, seed + 1), sizes, "Discriminator"),
        G_ema=nvidia_module(nvidia_generator(sizes, seed), sizes, "Generator", **attributes),
        augment_pipe=None,
    )


# NVIDIA's TensorFlow programs


def tensorflow_generator(sizes: Sizes, seed: int = 0) -> dict[str, np.ndarray]:
    """All variables, those of the components under `mapping/` and `synthesis/`."""
    draw, variables = Draw(seed), {}
    variables["dlatent_avg"] = draw(sizes.w_dim)
    if sizes.c_dim:
        variables["mapping/LabelEmbed/weight"] = draw(sizes.c_dim, sizes.embed)
        variables["mapping/LabelEmbed/bias"] = draw(sizes.embed, std=0.3)
    for i, (before, after) in enumerate(zip(sizes.mapping, sizes.mapping[1:])):
        variables[f"mapping/Dense{i}/weight"] = draw(before, after, std=100)
        variables[f"mapping/Dense{i}/bias"] = draw(after, std=30)
    for n in range(2 * len(sizes.sides) - 1 if sizes.noise else 0):
        variables[f"synthesis/noise{n}"] = draw(1, 1, 2 ** ((n + 5) // 2), 2 ** ((n + 5) // 2))
    variables["synthesis/4x4/Const/const"] = draw(1, sizes.width(4), 4, 4)
    before = 0
    for side in sizes.sides:
        width = sizes.width(side)
        layers = (
            [("Conv", width, width, 3)] if side == 4 else [("Conv0_up", before, width, 3), ("Conv1", width, width, 3)]
        )
        for name, width_in, out, kernel in [*layers, ("ToRGB", width, 3, 1)]:
            layer = f"synthesis/{side}x{side}/{name}"
            variables[f"{layer}/weight"] = draw(kernel, kernel, width_in, out)
            variables[f"{layer}/mod_weight"] = draw(sizes.w_dim, width_in)
            variables[f"{layer}/mod_bias"] = draw(width_in, std=0.3)
            if name != "ToRGB" and sizes.noise:
                variables[f"{layer}/noise_strength"] = draw(std=0.3)
            variables[f"{layer}/bias"] = draw(out, std=0.3)
        before = width
    return {name: tensor.numpy() for name, tensor in variables.items()}


def tensorflow_discriminator(sizes: Sizes, seed: int = 1) -> dict[str, np.ndarray]:
    draw, variables = Draw(seed), {}
    top = sizes.resolution
    variables[f"{top}x{top}/FromRGB/weight"] = draw(1, 1, 3, sizes.width(top))
    variables[f"{top}x{top}/FromRGB/bias"] = draw(sizes.width(top), std=0.3)
    for side in reversed(sizes.sides[1:]):
        width, after = sizes.width(side), sizes.width(side // 2)
        variables[f"{side}x{side}/Conv0/weight"] = draw(3, 3, width, width)
        variables[f"{side}x{side}/Conv0/bias"] = draw(width, std=0.3)
        variables[f"{side}x{side}/Conv1_down/weight"] = draw(3, 3, width, after)
        variables[f"{side}x{side}/Conv1_down/bias"] = draw(after, std=0.3)
        variables[f"{side}x{side}/Skip/weight"] = draw(1, 1, width, after)
    width = sizes.width(4)
    variables["4x4/Conv/weight"], variables["4x4/Conv/bias"] = draw(3, 3, width + 1, width), draw(width, std=0.3)
    variables["4x4/Dense0/weight"], variables["4x4/Dense0/bias"] = draw(16 * width, width), draw(width, std=0.3)
    variables["Output/weight"], variables["Output/bias"] = draw(width, 1), draw(1, std=0.3)
    return {name: tensor.numpy() for name, tensor in variables.items()}


def tensorflow_network(
    name: str, variables: dict[str, np.ndarray], sizes: Sizes, version: int = 5, **kwargs: Any
) -> Any:
    """A network of variables, scalars as numpy's own, with what is under `mapping/` and `synthesis/` in components."""
    variables = {key: value if value.ndim else np.float32(value) for key, value in variables.items()}
    told = {
        "num_channels": 3,
        "resolution": sizes.resolution,
        "label_size": sizes.c_dim,
        "conv_clamp": sizes.clamp,
        **kwargs,
    }
    parts = {}
    for part in ("synthesis", "mapping"):
        inner = {key.removeprefix(f"{part}/"): value for key, value in variables.items() if key.startswith(f"{part}/")}
        if inner:
            parts[part] = writers.tensorflow_network(part, inner, told, None, f"G_{part}", version)
    own = {key: value for key, value in variables.items() if not key.startswith(("synthesis/", "mapping/"))}
    return writers.tensorflow_network(name, own, told, parts, "G_main", version)


def write_tensorflow(path: Path, sizes: Sizes, seed: int = 0, version: int = 5, **kwargs: Any) -> Path:
    """A snapshot of which Gs is of `seed`, D of seed + 1 and G of seed + 2."""
    return writers.pickle_tensorflow(
        path,
        tensorflow_network("G", tensorflow_generator(sizes, seed + 2), sizes, version, **kwargs),
        tensorflow_network("D", tensorflow_discriminator(sizes, seed + 1), sizes, version),
        tensorflow_network("Gs", tensorflow_generator(sizes, seed), sizes, version, **kwargs),
    )


# rosinality's program


def rosinality_generator(sizes: Sizes, seed: int = 0) -> dict[str, Tensor]:
    """state_dict() of rosinality's Generator."""
    draw, state = Draw(seed), {}
    for i, (before, after) in enumerate(zip(sizes.mapping, sizes.mapping[1:]), 1):
        state[f"style.{i}.weight"], state[f"style.{i}.bias"] = draw(after, before, std=100), draw(after, std=30)
    width = sizes.width(4)
    state["input.input"] = draw(1, width, 4, 4)

    def modulated(name: str, width_in: int, out: int, kernel: int) -> None:
        state[f"{name}.conv.weight"] = draw(1, out, width_in, kernel, kernel)
        state[f"{name}.conv.modulation.weight"] = draw(width_in, sizes.w_dim)
        state[f"{name}.conv.modulation.bias"] = draw(width_in, std=0.3, mean=1)

    def layer(name: str, width_in: int, out: int, up: bool) -> None:
        modulated(name, width_in, out, 3)
        if up:
            state[f"{name}.conv.blur.kernel"] = FIR * 4
        state[f"{name}.noise.weight"] = draw(1, std=0.3)
        state[f"{name}.activate.bias"] = draw(out, std=0.3)

    layer("conv1", width, width, up=False)
    modulated("to_rgb1", width, 3, 1)
    state["to_rgb1.bias"] = draw(1, 3, 1, 1, std=0.3)
    for k, side in enumerate(sizes.sides[1:]):
        before, width = sizes.width(side // 2), sizes.width(side)
        layer(f"convs.{2 * k}", before, width, up=True)
        layer(f"convs.{2 * k + 1}", width, width, up=False)
        modulated(f"to_rgbs.{k}", width, 3, 1)
        state[f"to_rgbs.{k}.bias"] = draw(1, 3, 1, 1, std=0.3)
        state[f"to_rgbs.{k}.upsample.kernel"] = FIR * 4
    for n in range(2 * len(sizes.sides) - 1):
        state[f"noises.noise_{n}"] = draw(1, 1, 2 ** ((n + 5) // 2), 2 ** ((n + 5) // 2))
    return state


def rosinality_discriminator(sizes: Sizes, seed: int = 1) -> dict[str, Tensor]:
    """state_dict() of rosinality's Discriminator."""
    draw, state = Draw(seed), {}
    width = sizes.width(sizes.resolution)
    state["convs.0.0.weight"], state["convs.0.1.bias"] = draw(width, 3, 1, 1), draw(width, std=0.3)
    for n, side in enumerate(reversed(sizes.sides[1:]), 1):
        width, after = sizes.width(side), sizes.width(side // 2)
        state[f"convs.{n}.conv1.0.weight"], state[f"convs.{n}.conv1.1.bias"] = (
            draw(width, width, 3, 3),
            draw(width, std=0.3),
        )
        state[f"convs.{n}.conv2.0.kernel"] = FIR.clone()
        state[f"convs.{n}.conv2.1.weight"], state[f"convs.{n}.conv2.2.bias"] = (
            draw(after, width, 3, 3),
            draw(after, std=0.3),
        )
        state[f"convs.{n}.skip.0.kernel"] = FIR.clone()
        state[f"convs.{n}.skip.1.weight"] = draw(after, width, 1, 1)
    width = sizes.width(4)
    state["final_conv.0.weight"], state["final_conv.1.bias"] = draw(width, width + 1, 3, 3), draw(width, std=0.3)
    state["final_linear.0.weight"], state["final_linear.0.bias"] = draw(width, 16 * width), draw(width, std=0.3)
    state["final_linear.1.weight"], state["final_linear.1.bias"] = draw(1, width), draw(1, std=0.3)
    return state


def write_rosinality(
    path: Path, sizes: Sizes, seed: int = 0, prefix: str = "", legacy: bool = False, average: bool = True
) -> Path:
    """A checkpoint of which g_ema is of `seed`, d of seed + 1 and g of seed + 2."""
    from argparse import Namespace

    networks = {
        "g": rosinality_generator(sizes, seed + 2),
        "d": rosinality_discriminator(sizes, seed + 1),
        "g_ema": rosinality_generator(sizes, seed),
    }
    content: dict[str, Any] = {
        key: writers.state_dict({prefix + name: tensor for name, tensor in state.items()})
        for key, state in networks.items()
    }
    content |= {"args": Namespace(size=sizes.resolution, latent=sizes.w_dim), "ada_aug_p": 0.0}
    if average:
        content["latent_avg"] = Draw(seed + 3)(sizes.w_dim)
    return writers.save_torch(path, content, legacy)
