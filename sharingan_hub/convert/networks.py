"""What is common to the three programs' files: tensors by our names, and the sizes of the networks that they make.

Every size is read from the tensors. What a file says of itself is not asked, for forks and later editors leave it behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharingan_hub.checkpoints.folder import build
from sharingan_hub.checkpoints.strict import CheckpointError, shown
from sharingan_hub.convert.errors import ConversionError

Tensors = dict[str, Tensor]
ONLY = "only StyleGAN2 of configurations e and f is converted"
FIR = torch.tensor([1.0, 3.0, 3.0, 1.0]).outer(torch.tensor([1.0, 3.0, 3.0, 1.0])) / 64
W_AVG_SAMPLES = 10_000


@dataclass
class Found:
    """What a file holds, by our names.

    Args:
        program: which program wrote it.
        generator: its tensors.
        settings: what tensors do not tell: mapping_lr_multiplier and conv_clamp, where they are not StyleGAN2Generator's
            own.
        discriminator: its tensors; None where it was not asked for.
        group_size: how many pictures its minibatch statistics compare.
        discriminator_clamp: its conv_clamp.
    """

    program: str
    generator: Tensors
    settings: dict[str, Any] = field(default_factory=dict)
    discriminator: Tensors | None = None
    group_size: int = 4
    discriminator_clamp: float | None = None


def refuse(what: str) -> ConversionError:
    """The error for a network of another kind; `what` says which, as in "a StyleGAN3 generator"."""
    return ConversionError(f"the file holds {what}; {ONLY}")


def is_one_of(value: Any, values: tuple[Any, ...]) -> bool:
    """Whether a stranger's value is one of some plain ones."""
    return repr(value) in map(repr, values)  # an array is not equal or unequal, but both


def number(name: str, value: Any) -> float | None:
    """A stranger's setting as an ordinary number, or None.

    Raises:
        ConversionError: it is something else.
    """
    if isinstance(value, np.number):
        value = value.item()
    if value is not None and not (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**30
    ):
        raise ConversionError(f"the file has {name} = {shown(value)}, which must be an ordinary number")
    return value


def squeezed(name: str, tensor: Tensor, before: int, after: int = 0) -> Tensor:
    """Without so many dimensions of size 1 at its start and end."""
    shape = tensor.shape
    ones = [*shape[:before], *shape[len(shape) - after :]]
    if len(shape) < before + after or any(size != 1 for size in ones):
        raise ConversionError(f"{shown(name)} has shape {tuple(shape)}, which StyleGAN2 does not have there")
    return tensor.reshape(shape[before : len(shape) - after])


def size(tensors: Mapping[str, Tensor], name: str, dimension: int, dimensions: int) -> int:
    """One size of a tensor that must be there and have so many dimensions."""
    if name not in tensors:
        raise ConversionError(f"the file's network lacks {name}: it is not a StyleGAN2 of configurations e or f")
    if tensors[name].ndim != dimensions:
        raise ConversionError(f"{name} has shape {tuple(tensors[name].shape)}; StyleGAN2's has {dimensions} dimensions")
    return tensors[name].shape[dimension]


def resolution_of(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """The largest resolution r of which there are tensors `{prefix}b{r}.*`."""
    heads = {name.removeprefix(prefix).partition(".")[0] for name in tensors if name.startswith(f"{prefix}b")}
    sides = [int(head[1:]) for head in heads if head[1:].isdecimal() and len(head) < 8]
    resolution = max(sides, default=0)
    if sorted(sides) != [2**i for i in range(2, resolution.bit_length())] or resolution & (resolution - 1):
        raise ConversionError(
            f"the file's network has blocks for {sorted(sides)[:16]} px; they must be 4, 8, 16 and so on"
        )
    return resolution


def channel_settings(widths: Mapping[int, int]) -> dict[str, int]:
    """channel_base and channel_max such that resolution r has min(channel_base // r, channel_max) = widths[r] channels.

    Of the values that do so the smallest channel_base, which is the usual power of two where the original was one.
    """
    channel_max = max(widths.values())
    base = max(width * side for side, width in widths.items())
    if any(max(1, min(base // side, channel_max)) != width for side, width in widths.items()):
        listed = ", ".join(f"{side}: {width}" for side, width in widths.items())
        raise ConversionError(
            f"the file's network has these channels at each resolution, which no StyleGAN2 has: {listed}"
        )
    return {"channel_base": base, "channel_max": channel_max}


def generator_config(tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of StyleGAN2Generator for tensors by our names."""
    const = "synthesis.b4.const"
    if size(tensors, const, 1, 3) != 4 or size(tensors, const, 2, 3) != 4:
        raise refuse(f"a generator of pictures that are not square (it begins at {tuple(tensors[const].shape[1:])})")
    resolution = resolution_of(tensors, "synthesis.")
    if resolution > 1024:
        raise ConversionError(f"the file's generator draws pictures of {resolution} px; at most 1024 are converted")
    colors = size(tensors, f"synthesis.b{resolution}.torgb.weight", 0, 4)
    if colors != 3:
        raise ConversionError(f"the file's generator draws pictures of {colors} channels; only RGB is converted")
    sides = [2**i for i in range(2, resolution.bit_length())]
    widths = {side: size(tensors, f"synthesis.b{side}.conv1.weight", 0, 4) for side in sides}
    layers = sum(name.startswith("mapping.fc") and name.endswith(".weight") for name in tensors)
    entry, w_dim = size(tensors, "mapping.fc0.weight", 1, 2), size(tensors, f"mapping.fc{layers - 1}.weight", 0, 2)
    config: dict[str, Any] = {"resolution": resolution, "w_dim": w_dim, "mapping_layers": layers}
    if layers > 1:
        config["mapping_dim"] = size(tensors, "mapping.fc0.weight", 0, 2)
    if "mapping.embed.weight" in tensors:
        config["c_dim"] = size(tensors, "mapping.embed.weight", 1, 2)
        config["embed_dim"] = size(tensors, "mapping.embed.weight", 0, 2)
    z_dim = entry - config.get("embed_dim", 0)
    return {"z_dim": z_dim, **config, **channel_settings(widths), **settings}


def make_generator(found: Found) -> Any:
    """A StyleGAN2Generator of the tensors of a file; it takes them over, those of float32 without a copy.

    Raises:
        ConversionError: they do not make one.
    """
    tensors = dict(found.generator)
    try:
        model: Any = build("StyleGAN2Generator", generator_config(tensors, found.settings))
    except CheckpointError as error:
        raise ConversionError(str(error).replace("generator_model/config.json", "the file")) from error
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    average = tensors.get("w_avg") is not None
    _fill_noise(tensors, expected)
    if not average:
        tensors["w_avg"] = torch.zeros(expected["w_avg"])
    model.load_state_dict(fitted("generator", tensors, expected), assign=True)
    model.eval().requires_grad_(False)
    if not average:
        z = torch.randn(W_AVG_SAMPLES, model.z_dim, generator=torch.Generator().manual_seed(0))
        label = torch.arange(len(z)) % model.config.c_dim if model.config.c_dim else None
        model.w_avg.copy_(model.mapping(z, label).mean(dim=0))
    return model


def _fill_noise(tensors: Tensors, expected: Mapping[str, torch.Size]) -> None:
    """A generator without noise has noise of no strength. One that draws it always anew has no constant noise: any will do."""
    drawn = torch.Generator().manual_seed(0)
    for ending in ("noise_strength", "noise_const"):
        names = [name for name in expected if name.endswith(f".{ending}")]
        if not any(name in tensors for name in names):
            for name in names:
                strength = ending == "noise_strength"
                tensors[name] = torch.zeros(()) if strength else torch.randn(expected[name], generator=drawn)


def fitted(network: str, tensors: Mapping[str, Tensor], expected: Mapping[str, torch.Size]) -> Tensors:
    """The tensors in float32, if their names and shapes are exactly those expected.

    Raises:
        ConversionError: they are not, or a tensor is not floating-point.
    """
    odd = min(tensors.keys() ^ expected.keys(), default=None)
    if odd is not None:
        problem = "has an unknown tensor" if odd in tensors else "lacks tensor"
        raise ConversionError(
            f"the file's {network} {problem} {shown(odd)}: it is not a StyleGAN2 of configurations e or f"
        )
    for name, shape in expected.items():
        tensor = tensors[name]
        if tensor.shape != shape:
            raise ConversionError(
                f"the file's {network} has {name} of shape {tuple(tensor.shape)}, and not {tuple(shape)}"
            )
        if not tensor.is_floating_point():
            raise ConversionError(
                f"the file's {network} has {name} of type {tensor.dtype}, and not of floating-point numbers"
            )
    return {name: tensors[name].detach().to(torch.float32).contiguous() for name in expected}


# Discriminators


def discriminator_config(found: Found) -> dict[str, Any]:
    """Arguments of the StyleGAN2Discriminator of training/, with its class name, for tensors by our names."""
    assert found.discriminator is not None
    tensors = found.discriminator
    if any(name.startswith("mapping.") for name in tensors):
        raise ConversionError("the file's discriminator judges by class, which training here does not; leave it out")
    resolution = resolution_of(tensors, "")
    if resolution < 8:
        raise ConversionError("the file's discriminator is for 4 px; from 8 px on they are converted")
    sides = [2**i for i in range(3, resolution.bit_length())]
    widths = {side: size(tensors, f"b{side}.conv0.weight", 0, 4) for side in sides}
    widths[4] = size(tensors, "b4.conv.weight", 0, 4)
    statistics = size(tensors, "b4.conv.weight", 1, 4) - widths[4]
    if statistics not in (0, 1):
        raise ConversionError(
            f"the file's discriminator has {statistics} minibatch statistics; one or none is converted"
        )
    return {
        "_class_name": "StyleGAN2Discriminator",
        "resolution": resolution,
        **channel_settings(widths),
        "mbstd_group_size": max(2, found.group_size) if statistics else 1,
        "num_channels": size(tensors, "fromrgb.weight", 1, 4),
        "conv_clamp": found.discriminator_clamp,
    }


def discriminator_shapes(config: Mapping[str, Any]) -> dict[str, torch.Size]:
    """Names and shapes of a StyleGAN2Discriminator's tensors."""

    def width(side: int) -> int:
        return min(config["channel_base"] // side, config["channel_max"])

    top, last = config["resolution"], width(4)
    shapes: dict[str, tuple[int, ...]] = {"fromrgb.weight": (width(top), config["num_channels"], 1, 1)}
    shapes["fromrgb.bias"] = (width(top),)
    for side in [2**i for i in range(3, top.bit_length())]:
        before, after = width(side), width(side // 2)
        shapes[f"b{side}.conv0.weight"], shapes[f"b{side}.conv0.bias"] = (before, before, 3, 3), (before,)
        shapes[f"b{side}.conv1.weight"], shapes[f"b{side}.conv1.bias"] = (after, before, 3, 3), (after,)
        shapes[f"b{side}.skip.weight"] = (after, before, 1, 1)
    statistics = config["mbstd_group_size"] > 1
    shapes |= {"b4.conv.weight": (last, last + statistics, 3, 3), "b4.conv.bias": (last,)}
    shapes |= {
        "b4.fc.weight": (last, 16 * last),
        "b4.fc.bias": (last,),
        "b4.out.weight": (1, last),
        "b4.out.bias": (1,),
    }
    return {name: torch.Size(shape) for name, shape in shapes.items()}
