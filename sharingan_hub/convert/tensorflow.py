"""NVIDIA's TensorFlow programs: stylegan2 and stylegan2-ada. TensorFlow itself is not needed: variables come as arrays."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from sharingan_hub.checkpoints.strict import shown
from sharingan_hub.convert.errors import ConversionError
from sharingan_hub.convert.networks import Found, Tensors, is_one_of, number, refuse, squeezed
from sharingan_hub.convert.unpickle import Record

PROGRAMS = {4: "NVIDIA's TensorFlow program stylegan2", 5: "NVIDIA's TensorFlow program stylegan2-ada"}
NETWORKS = 16  # that a network is made of, at most
PLACES = {"raw": 0, "ema": 2}  # of (G, D, Gs)
LAYERS = {"Conv": "conv1", "Conv0_up": "conv0", "Conv1": "conv1", "ToRGB": "torgb"}
PARTS = {"mod_weight": "affine.weight", "mod_bias": "affine.bias"}  # others bear our names
JUDGES = {
    "FromRGB": "fromrgb",
    "Conv0": "conv0",
    "Conv1_down": "conv1",
    "Skip": "skip",
    "Conv": "conv",
    "Dense0": "fc",
}
# Settings by the names that they have had, and the only values of them that StyleGAN2 has.
ONE_VALUE: dict[str, tuple[Any, ...]] = {
    "nonlinearity": ("lrelu",),
    "act": ("lrelu",),
    "mapping_nonlinearity": ("lrelu",),
    "resample_kernel": ([1, 3, 3, 1], (1, 3, 3, 1)),
    "normalize_latents": (True, 1),
}


def is_tensorflow(content: Any) -> bool:
    """Whether a file's content is of one of these programs."""
    return isinstance(content, tuple | list) and len(content) == 3 and all(_is_network(item) for item in content)


def _is_network(value: Any) -> TypeGuard[Record]:
    return isinstance(value, Record) and value.name == "Network" and isinstance(value.state, dict)


def find(content: tuple[Any, ...], which: str, with_discriminator: bool) -> Found:
    """Generator and discriminator of a file, by our names."""
    network = content[PLACES[which]]
    version = network.state.get("version")
    if not (isinstance(version, int) and version >= 4):
        raise refuse("a StyleGAN1 generator, or an earlier one (of TensorFlow)")
    variables, kwargs = walk(network)
    _check(variables, kwargs, "skip", "ToRGB_lod")
    if "mapping/LabelConcat/weight" in variables:
        raise refuse("a generator with classes of the first TensorFlow release, which normalises class and z together")
    tensors: Tensors = {}
    for name, array in variables.items():
        key, tensor = _generator_tensor(name, array)
        tensors[key] = tensor
    settings = {"conv_clamp": number("conv_clamp", kwargs.get("conv_clamp"))}
    settings["mapping_lr_multiplier"] = number("mapping_lrmul", kwargs.get("mapping_lrmul", 0.01))
    found = Found(PROGRAMS.get(version, PROGRAMS[5]), tensors, settings)
    if with_discriminator:
        variables, kwargs = walk(content[1])
        _check(variables, kwargs, "resnet", "FromRGB_lod")
        found.discriminator = dict(_discriminator_tensor(name, array) for name, array in variables.items())
        found.discriminator_clamp = number("conv_clamp", kwargs.get("conv_clamp"))
        found.group_size = int(number("mbstd_group_size", kwargs.get("mbstd_group_size")) or found.group_size)
    return found


def walk(network: Record) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Variables by name, those of components with the component's name before theirs, and the settings of all of them."""
    variables: dict[str, np.ndarray] = {}
    kwargs: dict[str, Any] = {}
    waiting: list[tuple[str, Any]] = [("", network)]
    for prefix, part in waiting:  # which grows
        if not _is_network(part) or len(waiting) > NETWORKS:
            raise ConversionError(f"the file's network has a part {shown(prefix)} that StyleGAN2 does not have")
        components, own, items = (part.state.get(key) for key in ("components", "static_kwargs", "variables"))
        if isinstance(components, dict):
            waiting += [(f"{prefix}{name}/", inner) for name, inner in components.items()]
        if isinstance(own, dict):
            kwargs = own | kwargs  # what the whole says goes first
        for item in items if isinstance(items, list | tuple) else []:
            match item:
                case (str(name), np.ndarray() | float() as value):
                    variables[prefix + name] = np.asarray(value)
                case _:
                    raise ConversionError(f"the file's network has a variable {shown(item)} that is no array")
    return variables, kwargs


def _check(variables: dict[str, np.ndarray], kwargs: dict[str, Any], architecture: str, progressive: str) -> None:
    """Refuse networks that do what ours does not."""
    if any("/StyleMod/" in name for name in variables):
        raise refuse("a StyleGAN1 generator")
    if any(name.endswith("lod") or progressive in name for name in variables):
        raise refuse("a network that grew with its pictures (configurations a to d)")
    told = kwargs.get("architecture", architecture)
    if not is_one_of(told, (architecture,)):
        raise refuse(f"a network of the architecture {shown(told)} (where StyleGAN2 has {architecture!r})")
    for name, values in ONE_VALUE.items():
        if name in kwargs and not is_one_of(kwargs[name], (*values, None)):
            raise refuse(f"a network with {name} {shown(kwargs[name])} (where StyleGAN2 has {values[0]!r})")


def _generator_tensor(name: str, array: np.ndarray) -> tuple[str, Tensor]:
    if name == "dlatent_avg":
        return "w_avg", _tensor(array)
    if match := re.fullmatch(r"mapping/(?:Dense(\d{1,2})|LabelEmbed)/(weight|bias)", name):
        layer = "embed" if match[1] is None else f"fc{match[1]}"
        return f"mapping.{layer}.{match[2]}", _tensor(_transposed(name, array))
    if name == "synthesis/4x4/Const/const":
        return "synthesis.b4.const", squeezed(name, _tensor(array), 1)
    if match := re.fullmatch(r"synthesis/noise(\d{1,2})", name):
        n = int(match[1])
        layer = "conv1" if n % 2 == 0 else "conv0"  # 4 px has one layer, all others have two
        return f"synthesis.b{2 ** ((n + 5) // 2)}.{layer}.noise_const", squeezed(name, _tensor(array), 2)
    match = re.fullmatch(r"synthesis/(\d{1,4})x\1/(Conv|Conv0_up|Conv1|ToRGB)/(\w+)", name)
    if match is None or (match[2] == "Conv") != (match[1] == "4" and match[2] != "ToRGB"):
        raise _unknown("generator", name)
    key = f"synthesis.b{match[1]}.{LAYERS[match[2]]}.{PARTS.get(match[3], match[3])}"
    if match[3] == "weight":
        return key, _tensor(_kernel(name, array, flip=match[2] == "Conv0_up"))
    if match[3] == "mod_weight":
        return key, _tensor(_transposed(name, array))
    return key, _tensor(array) + 1 if match[3] == "mod_bias" else _tensor(array)


def _discriminator_tensor(name: str, array: np.ndarray) -> tuple[str, Tensor]:
    if name.startswith(("LabelEmbed/", "Mapping", "LabelConcat/")):
        return f"mapping.{name}", _tensor(array)
    if match := re.fullmatch(r"Output/(weight|bias)", name):
        return f"b4.out.{match[1]}", _tensor(_transposed(name, array))
    match = re.fullmatch(r"(\d{1,4})x\1/(FromRGB|Conv0|Conv1_down|Skip|Conv|Dense0)/(weight|bias)", name)
    if match is None:
        raise _unknown("discriminator", name)
    block = "" if match[2] == "FromRGB" else f"b{match[1]}."
    turned = array
    if match[3] == "weight":
        turned = _transposed(name, array) if match[2] == "Dense0" else _kernel(name, array, flip=False)
    return f"{block}{JUDGES[match[2]]}.{match[3]}", _tensor(turned)


def _unknown(network: str, name: str) -> ConversionError:
    return ConversionError(
        f"the file's {network} has an unknown variable {shown(name)}: it is not a StyleGAN2 of configurations e or f"
    )


def _tensor(array: np.ndarray) -> Tensor:
    if array.dtype.kind != "f":
        raise ConversionError(f"the file's network has a variable of type {array.dtype}, not of floating-point numbers")
    return torch.from_numpy(np.asarray(array, dtype=np.float32, order="C"))


def _transposed(name: str, array: np.ndarray) -> np.ndarray:
    """A matrix (in, out) as (out, in); a vector as it is."""
    if array.ndim > 2:
        raise ConversionError(f"{shown(name)} has shape {array.shape}, which StyleGAN2 does not have there")
    return array.T


def _kernel(name: str, array: np.ndarray, flip: bool) -> np.ndarray:
    """A kernel (height, width, in, out) as (out, in, height, width); those of transposed convolutions are turned by 180 degrees."""
    if array.ndim != 4:
        raise ConversionError(f"{shown(name)} has shape {array.shape}, which StyleGAN2 does not have there")
    return (array[::-1, ::-1] if flip else array).transpose(3, 2, 0, 1)


def noise_layers(generator: Any) -> Iterator[Any]:
    """A StyleGAN2Generator's layers with noise, in the order of the TensorFlow programs' noise variables."""
    for side in generator.synthesis.resolutions:
        block = getattr(generator.synthesis, f"b{side}")
        yield from [block.conv1] if side == 4 else [block.conv0, block.conv1]


@torch.no_grad()
def set_noise(generator: Any, seed: int) -> None:
    """Give a StyleGAN2Generator the constant noise with which the TensorFlow programs draw a seed.

    Their scripts draw z from numpy's RandomState(seed), as the pipeline does, and then all noise anew from the same
    state, while NVIDIA's PyTorch programs keep the noise that is saved with the weights.
    """
    drawn = np.random.RandomState(seed)
    drawn.randn(1, generator.z_dim)
    for layer in noise_layers(generator):
        noise = drawn.randn(1, 1, *layer.noise_const.shape)[0, 0]
        layer.noise_const.copy_(torch.from_numpy(noise))
