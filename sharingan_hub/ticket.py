"""Lottery tickets: a generator of which most weights are zero, in a file that holds the others alone.

Frankle and Carbin 2019, "The Lottery Ticket Hypothesis"; on GANs Chen et al. 2021 and Kalibhat et al. 2021. Beside the dense
weights, zeros in their places, lies `ticket.safetensors`. Of each weight NAME that may be pruned it holds `NAME.mask`, one
bit for each number, and `NAME.values`, the numbers that the mask keeps; every other tensor is there under its own name.
So the file alone is the whole generator.

Bits and values are in the order of the flattened weight; bit i of the mask is bit i % 8 of byte i // 8.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import prune

from sharingan_hub.hub import CheckpointError

FILE = "ticket.safetensors"


def prunable(generator: nn.Module) -> dict[str, Any]:
    """The modules whose `weight` may be pruned, convolution kernels and linear layers, by the weight's name."""
    return {
        f"{name}.weight": module
        for name, module in generator.named_modules()
        if not isinstance(module, nn.Embedding) and getattr(getattr(module, "weight", None), "ndim", 0) >= 2
    }


@torch.no_grad()
def remove_masks(generator: nn.Module) -> None:
    """Make the masks of torch.nn.utils.prune permanent: plain weights under their plain names, zeros in place."""
    for module in prunable(generator).values():
        if prune.is_pruned(module):
            prune.remove(module, "weight")
            module.weight += 0.0  # of a negative number the mask leaves -0.0


def ticket_of(generator: nn.Module) -> dict[str, Tensor]:
    """The tensors of a generator's ticket: masks uint8, values and other tensors as they are, on the CPU.

    A number is kept where it is not zero. The generator has plain weights.
    """
    tensors: dict[str, Tensor] = {}
    names = prunable(generator).keys()
    for name, tensor in generator.state_dict().items():
        tensor = tensor.detach().cpu().contiguous()
        if name in names:
            kept = tensor.flatten() != 0
            tensors[f"{name}.mask"] = torch.from_numpy(np.packbits(kept.numpy(), bitorder="little"))
            tensors[f"{name}.values"] = tensor.flatten()[kept]
        else:
            tensors[name] = tensor.clone()
    return tensors


def write_ticket(path: Path, generator: nn.Module) -> int:
    """Write a generator's ticket, whole or not at all; returns its size in bytes."""
    new = path.with_name(f".{path.name}.tmp")
    try:
        save_file(ticket_of(generator), new)
        new.chmod(0o644)  # safetensors lets nobody else read what it writes
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
    return path.stat().st_size


def read_ticket(path: Path, generator: nn.Module) -> dict[str, Tensor]:
    """The weights, dense and float32, that a ticket holds for a generator of this architecture.

    They are what `generator.load_state_dict` takes. Sizes are compared with the generator's before any memory is taken.

    Raises:
        CheckpointError: the file is missing or damaged, its names, types or shapes do not fit the generator, a mask keeps
            another number of values than there are, or a value is not finite.
    """
    if not path.is_file():
        raise CheckpointError(f"{path.name} is missing from {path.parent.name}")
    shapes = {name: tuple(tensor.shape) for name, tensor in generator.state_dict().items()}
    pruned = prunable(generator).keys() & shapes.keys()
    expected = {f"{name}.{part}" for name in pruned for part in ("mask", "values")} | (shapes.keys() - pruned)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = set(file.keys())
            if names != expected:
                odd = min(names ^ expected)
                problem = "has an unknown tensor" if odd in names else "lacks tensor"
                raise CheckpointError(f"{path.name} {problem} {odd[:80]!r}: it does not fit the generator")
            return {
                name: _unpack(file, name, shape) if name in pruned else _read(file, name, shape)
                for name, shape in shapes.items()
            }
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path.name} is damaged or no safetensors file: {error}") from error


def _read(file: Any, name: str, shape: tuple[int, ...]) -> Tensor:
    """A finite floating-point tensor of this shape, as float32."""
    found = tuple(file.get_slice(name).get_shape())
    if found != shape:
        raise CheckpointError(f"{FILE}: {name} has shape {found}, which must be {shape}")
    tensor = file.get_tensor(name)
    if not tensor.is_floating_point():
        raise CheckpointError(f"{FILE}: {name} is of type {tensor.dtype}, not floating-point")
    tensor = tensor.to(torch.float32, copy=True)  # the tensor itself lives in the file
    if not tensor.isfinite().all():
        raise CheckpointError(f"{FILE}: {name} holds NaN or infinite values")
    return tensor


def _unpack(file: Any, name: str, shape: tuple[int, ...]) -> Tensor:
    """A pruned weight from its mask and values."""
    count, part = math.prod(shape), file.get_slice(f"{name}.mask")
    size = (count + 7) // 8
    if part.get_dtype() != "U8" or part.get_shape() != [size]:
        raise CheckpointError(
            f"{FILE}: {name}.mask is {part.get_dtype()} {part.get_shape()}, which must be {size} bytes for {shape}"
        )
    bits = np.unpackbits(file.get_tensor(f"{name}.mask").numpy(), bitorder="little").astype(bool)
    if bits[count:].any():
        raise CheckpointError(f"{FILE}: {name}.mask has bits set beyond its {count} numbers")
    weight = torch.zeros(count)
    weight[torch.from_numpy(bits[:count])] = _read(file, f"{name}.values", (int(bits.sum()),))
    return weight.reshape(shape)
