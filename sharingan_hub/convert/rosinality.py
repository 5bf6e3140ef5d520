"""rosinality's stylegan2-pytorch, and the programs that were made from it (CDC among them)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from sharingan_hub.checkpoints.strict import shown
from sharingan_hub.convert.errors import ConversionError
from sharingan_hub.convert.networks import FIR, Found, Tensors, refuse, squeezed

PROGRAM = "rosinality's stylegan2-pytorch, or a program made from it"
KEYS = {"ema": "g_ema", "raw": "g"}
PREFIX = "module."  # of networks that were saved inside DataParallel
LR_MULTIPLIER = 0.01
# Ours, theirs, and how many dimensions of size 1 theirs have before and after.
Row = tuple[str, str, int, int]


def is_rosinality(content: Any) -> bool:
    """Whether a file's content is of such a program."""
    if not isinstance(content, dict):
        return False
    return any(_is_state(content.get(key)) for key in (*KEYS.values(), "d")) or _is_state(content)


def _is_state(value: Any) -> bool:
    return isinstance(value, dict) and any(
        isinstance(name, str) and name.removeprefix(PREFIX) in ("conv1.conv.weight", "final_conv.0.weight")
        for name in value
    )


def find(content: dict[str, Any], which: str, with_discriminator: bool) -> Found:
    """Generator and discriminator of a file, by our names."""
    if _is_state(content):  # a state dict alone
        content = {KEYS["ema"]: content}
    state = _state(content, KEYS[which], f"{'averaged' if which == 'ema' else 'raw'} generator")
    if any(".iwt." in name or name.startswith("iwt.") for name in state):
        raise refuse("a wavelet generator (SWAGAN)")
    tensors = _ours(state, "generator", generator_rows(_sides(state, "convs.", 2), _depth(state)))
    average = content.get("latent_avg")
    if isinstance(average, Tensor) and average.ndim > 0 and average.numel() > 0:
        tensors["w_avg"] = average.reshape(-1, average.shape[-1])[0]  # some have one for each layer, all the same
    found = Found(PROGRAM, tensors, {"conv_clamp": None, "mapping_lr_multiplier": LR_MULTIPLIER})
    if with_discriminator:
        judge = _state(content, "d", "discriminator")
        found.discriminator = _ours(judge, "discriminator", discriminator_rows(_sides(judge, "convs.", 1)))
    return found


def _state(content: dict[str, Any], key: str, what: str) -> Tensors:
    """A network's state dict without the prefix of DataParallel and without filters, which are all the same."""
    state = content.get(key)
    if not _is_state(state):
        raise ConversionError(f"the file has no {key}, its {what}")
    assert isinstance(state, dict)
    tensors: Tensors = {}
    for name, value in state.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise ConversionError(f"{shown(name)} of the file's {what} is no tensor")
        if not name.endswith(".kernel"):
            tensors[name.removeprefix(PREFIX)] = value
        else:
            _check_filter(value)
    return tensors


def _check_filter(kernel: Tensor) -> None:
    """Where pictures grow, the filter makes up for the zeros with a gain of 4."""
    if kernel.shape != FIR.shape or not any(torch.allclose(kernel.float(), gain * FIR, atol=1e-5) for gain in (1, 4)):
        raise ConversionError("the file's network filters with another filter than [1, 3, 3, 1]")


def _sides(state: Mapping[str, Tensor], prefix: str, each: int) -> list[int]:
    """The resolutions above 4, by the number of layers or blocks; of a discriminator the first of them is no block."""
    numbers = [name.removeprefix(prefix).partition(".")[0] for name in state if name.startswith(prefix)]
    count = max((int(n) for n in numbers if n.isdecimal() and len(n) < 4), default=-1) + 1
    return (
        [2**i for i in range(3, 3 + min(count, 64) // 2)] if each == 2 else [2**i for i in range(3, 2 + min(count, 64))]
    )


def _depth(state: Mapping[str, Tensor]) -> int:
    return sum(name.startswith("style.") and name.endswith(".weight") for name in state)


def _ours(state: Tensors, network: str, rows: Iterator[Row]) -> Tensors:
    """Tensors by our names and in our shapes; what no row names keeps its own name, for the error that it will be."""
    rest = dict(state)
    tensors = {}
    for ours, theirs, before, after in rows:
        if theirs in rest:
            tensors[ours] = squeezed(theirs, rest.pop(theirs), before, after)
    if rest:
        raise ConversionError(
            f"the file's {network} has an unknown tensor {shown(min(rest))}: it is not a StyleGAN2 of configurations e or f"
        )
    return tensors


def generator_rows(sides: list[int], depth: int) -> Iterator[Row]:
    """The map of a generator with resolutions 4 and `sides`, and `depth` layers of its mapping network."""
    for i in range(depth):
        yield f"mapping.fc{i}.weight", f"style.{i + 1}.weight", 0, 0
        yield f"mapping.fc{i}.bias", f"style.{i + 1}.bias", 0, 0
    yield "synthesis.b4.const", "input.input", 1, 0
    yield from _layer("synthesis.b4.conv1", "conv1", 0)
    yield from _torgb("synthesis.b4.torgb", "to_rgb1")
    for k, side in enumerate(sides):
        yield from _layer(f"synthesis.b{side}.conv0", f"convs.{2 * k}", 2 * k + 1)
        yield from _layer(f"synthesis.b{side}.conv1", f"convs.{2 * k + 1}", 2 * k + 2)
        yield from _torgb(f"synthesis.b{side}.torgb", f"to_rgbs.{k}")


def _layer(ours: str, theirs: str, noise: int) -> Iterator[Row]:
    yield f"{ours}.noise_const", f"noises.noise_{noise}", 2, 0
    yield f"{ours}.noise_strength", f"{theirs}.noise.weight", 1, 0
    yield f"{ours}.bias", f"{theirs}.activate.bias", 0, 0
    yield from _modulated(ours, theirs)


def _torgb(ours: str, theirs: str) -> Iterator[Row]:
    yield f"{ours}.bias", f"{theirs}.bias", 1, 2
    yield from _modulated(ours, theirs)


def _modulated(ours: str, theirs: str) -> Iterator[Row]:
    yield f"{ours}.weight", f"{theirs}.conv.weight", 1, 0
    yield f"{ours}.affine.weight", f"{theirs}.conv.modulation.weight", 0, 0
    yield f"{ours}.affine.bias", f"{theirs}.conv.modulation.bias", 0, 0


def discriminator_rows(sides: list[int]) -> Iterator[Row]:
    """The map of a discriminator with blocks for `sides`, ascending; theirs count from the largest on."""
    yield "fromrgb.weight", "convs.0.0.weight", 0, 0
    yield "fromrgb.bias", "convs.0.1.bias", 0, 0
    for n, side in enumerate(reversed(sides), 1):
        yield f"b{side}.conv0.weight", f"convs.{n}.conv1.0.weight", 0, 0
        yield f"b{side}.conv0.bias", f"convs.{n}.conv1.1.bias", 0, 0
        yield f"b{side}.conv1.weight", f"convs.{n}.conv2.1.weight", 0, 0
        yield f"b{side}.conv1.bias", f"convs.{n}.conv2.2.bias", 0, 0
        yield f"b{side}.skip.weight", f"convs.{n}.skip.1.weight", 0, 0
    for ours, theirs in (("conv", "final_conv.0"), ("fc", "final_linear.0"), ("out", "final_linear.1")):
        yield f"b4.{ours}.weight", f"{theirs}.weight", 0, 0
        yield f"b4.{ours}.bias", f"{theirs if ours != 'conv' else 'final_conv.1'}.bias", 0, 0


def theirs_generator(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Tensors:
    """The state dict of their Generator, filters included, for tensors by our names and a StyleGAN2Generator's config.

    Raises:
        ConversionError: their program has no such generator.
    """
    if config["c_dim"]:
        raise ConversionError("the generator has classes, which rosinality's program does not have")
    width = config["w_dim"] if config["mapping_dim"] is None else config["mapping_dim"]
    if config["z_dim"] != config["w_dim"] or (config["mapping_layers"] > 1 and width != config["w_dim"]):
        raise ConversionError(
            "the generator's z, w and mapping network differ in width, which rosinality's program cannot have"
        )
    sides = [2**i for i in range(3, config["resolution"].bit_length())]
    state = _theirs(tensors, generator_rows(sides, config["mapping_layers"]))
    factor = config["mapping_lr_multiplier"] / LR_MULTIPLIER
    if factor != 1:
        state |= {name: value * factor for name, value in state.items() if name.startswith("style.")}
    for k in range(len(sides)):
        state[f"convs.{2 * k}.conv.blur.kernel"] = FIR * 4
        state[f"to_rgbs.{k}.upsample.kernel"] = FIR * 4
    return state


def theirs_discriminator(tensors: Mapping[str, Tensor], resolution: int) -> Tensors:
    """The state dict of their Discriminator, filters included, for tensors by our names."""
    sides = [2**i for i in range(3, resolution.bit_length())]
    state = _theirs(tensors, discriminator_rows(sides))
    for n in range(1, len(sides) + 1):
        state |= {f"convs.{n}.conv2.0.kernel": FIR, f"convs.{n}.skip.0.kernel": FIR}
    return state


def _theirs(tensors: Mapping[str, Tensor], rows: Iterator[Row]) -> Tensors:
    state = {}
    for ours, theirs, before, after in rows:
        tensor = tensors[ours]
        state[theirs] = tensor.reshape((1,) * before + tuple(tensor.shape) + (1,) * after)
    return state
