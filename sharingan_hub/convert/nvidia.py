"""NVIDIA's PyTorch programs: stylegan2-ada-pytorch, and stylegan3's repository for StyleGAN2.

Our tensors bear their names, so there is no map: what remains is to walk through the modules of a pickle, and to check that
they say nothing that StyleGAN2Generator does not do.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor

from sharingan_hub.checkpoints.strict import shown
from sharingan_hub.convert.errors import ConversionError
from sharingan_hub.convert.networks import FIR, Found, Tensors, is_one_of, number, refuse
from sharingan_hub.convert.unpickle import Record

PROGRAM = "NVIDIA's PyTorch program (stylegan2-ada-pytorch, or stylegan3's repository)"
KEYS = {"ema": "G_ema", "raw": "G"}
MODULES = 10_000
LINEAR = ("affine", "embed", "skip", "out")  # modules without activation


def is_nvidia(content: Any) -> bool:
    """Whether a file's content is of one of these programs."""
    return isinstance(content, dict) and any(_is_module(content.get(key)) for key in (*KEYS.values(), "D"))


def _is_module(value: Any) -> TypeGuard[Record]:
    return isinstance(value, Record) and value.module == "torch_utils.persistence" and isinstance(value.state, dict)


def find(content: dict[str, Any], which: str, with_discriminator: bool) -> Found:
    """Generator and discriminator of a file, by our names."""
    module = content.get(KEYS[which])
    if not _is_module(module):
        raise ConversionError(f"the file has no {KEYS[which]}, its {'averaged' if which == 'ema' else 'raw'} generator")
    tensors, modules = walk(module)
    if any(name.startswith(("synthesis.input.", "synthesis.L")) for name in tensors):
        raise refuse("a StyleGAN3 generator")
    if any(name.startswith("encoder.") for name in tensors):
        raise refuse("an encoder (such as pSp or e4e)")
    _check(modules, "skip")
    if "mapping.w_avg" in tensors:
        tensors["w_avg"] = tensors.pop("mapping.w_avg")
    settings: dict[str, Any] = {"conv_clamp": _same(modules, "conv_clamp", "synthesis.")}
    settings["mapping_lr_multiplier"] = number("bias_gain", modules.get("mapping.fc0", {}).get("bias_gain", 0.01))
    found = Found(PROGRAM, tensors, settings)
    if with_discriminator:
        _add_discriminator(found, content.get("D"))
    return found


def _add_discriminator(found: Found, module: Any) -> None:
    if not _is_module(module):
        raise ConversionError("the file has no D, its discriminator")
    tensors, modules = walk(module)
    _check(modules, "resnet")
    found.discriminator = {_our_name(name): tensor for name, tensor in tensors.items()}
    main = {name: state for name, state in modules.items() if not name.endswith(".skip")}  # which is never clamped
    found.discriminator_clamp = _same(main, "conv_clamp", "b")
    group = number("group_size", modules.get("b4.mbstd", {}).get("group_size"))
    found.group_size = int(group or found.group_size)


def _our_name(name: str) -> str:
    """b64.fromrgb.weight is our fromrgb.weight: there is but one."""
    block, _, rest = name.partition(".")
    return rest if block.startswith("b") and rest.startswith("fromrgb.") else name


def walk(module: Record) -> tuple[Tensors, dict[str, dict[str, Any]]]:
    """Tensors by name, as state_dict() names them, and the state of each module by its name; filters are left out."""
    tensors: Tensors = {}
    modules: dict[str, dict[str, Any]] = {}
    waiting: list[tuple[str, Any]] = [("", module)]
    while waiting:
        prefix, record = waiting.pop()
        if not _is_module(record) or len(modules) >= MODULES or prefix.count(".") > 8:
            raise ConversionError(f"the file's network has a part {shown(prefix)} that StyleGAN2 does not have")
        modules[prefix.removesuffix(".")] = record.state
        tensors |= _own(prefix, record.state)
        children = record.state.get("_modules")
        for name, child in (children if isinstance(children, dict) else {}).items():
            if child is not None:
                waiting.append((f"{prefix}{name}.", child))
    return tensors, modules


def _own(prefix: str, state: dict[str, Any]) -> Tensors:
    """The tensors of one module by their whole names. A frozen layer's weights (FreezeD) are buffers."""
    tensors: Tensors = {}
    for group in ("_parameters", "_buffers"):
        values = state.get(group)
        for name, value in (values if isinstance(values, dict) else {}).items():
            if value is None:
                continue
            if not isinstance(value, Tensor):
                raise ConversionError(f"{shown(f'{prefix}{name}')} of the file is no tensor")
            if name != "resample_filter":
                tensors[f"{prefix}{name}"] = value
            elif value.shape != FIR.shape or not torch.allclose(value.float(), FIR, atol=1e-5):
                raise ConversionError("the file's network filters with another filter than [1, 3, 3, 1]")
    return tensors


def _check(modules: dict[str, dict[str, Any]], architecture: str) -> None:
    """Refuse networks that do what ours does not."""
    for name, state in modules.items():
        told = state.get("architecture", architecture)
        if not is_one_of(told, (architecture,)):
            raise refuse(f"a network of the architecture {shown(told)} (where StyleGAN2 has {architecture!r})")
        expected = "linear" if name.rpartition(".")[2] in LINEAR else "lrelu"
        activation = state.get("activation", expected)
        if not is_one_of(activation, (expected,)):
            raise refuse(f"a network with the activation {shown(activation)} (where StyleGAN2 has {expected!r})")


def _same(modules: dict[str, dict[str, Any]], key: str, prefix: str) -> float | None:
    """A setting that all modules that have it have alike."""
    values = {number(key, state[key]) for name, state in modules.items() if name.startswith(prefix) and key in state}
    if len(values) > 1:
        raise ConversionError(f"the layers of the file's network have {key} of several values; only one is converted")
    return next(iter(values), None)
