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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import prune

from sharingan_hub.checkpoints.strict import PIECE, CheckpointError, TensorFile, printable, shown

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
    shapes = {name: tuple(tensor.shape) for name, tensor in generator.state_dict().items()}
    pruned = prunable(generator).keys() & shapes.keys()
    expected = {f"{name}.{part}" for name in pruned for part in ("mask", "values")} | (shapes.keys() - pruned)
    with TensorFile(path) as file:
        if file.tensors.keys() != expected:
            odd = min(file.tensors.keys() ^ expected)
            problem = "has an unknown tensor" if odd in file.tensors else "lacks tensor"
            raise CheckpointError(f"{file.name} {problem} {shown(odd)}: it does not fit the generator")
        for name, shape in shapes.items():
            if name in pruned:
                _check_mask(file, name, shape)
            else:
                _check(file, name, shape)
        return {
            name: _unpack(file, name, shape) if name in pruned else file.read(name) for name, shape in shapes.items()
        }


def _check(file: TensorFile, name: str, shape: tuple[int, ...]) -> None:
    """Raise CheckpointError unless a tensor is of floating-point type and this shape."""
    found = file.tensors[name].shape
    if found != shape:
        raise CheckpointError(f"{file.name}: {name} has shape {printable(str(found))}, which must be {shape}")
    file.check_type(name)


def _check_mask(file: TensorFile, name: str, shape: tuple[int, ...]) -> None:
    """Raise CheckpointError unless a mask has a bit for each number of a weight, and a value for each bit that is set."""
    count, mask = math.prod(shape), file.tensors[f"{name}.mask"]
    size = (count + 7) // 8
    if mask.dtype != torch.uint8 or mask.shape != (size,):
        raise CheckpointError(
            f"{file.name}: {name}.mask is {mask.dtype} {printable(str(mask.shape))}, which must be {size} bytes for {shape}"
        )
    kept = 0
    for start, bits in _bits(file, name):
        kept += int(bits.sum())
        if bits[max(0, count - start) :].any():
            raise CheckpointError(f"{file.name}: {name}.mask has bits set beyond its {count} numbers")
    _check(file, f"{name}.values", (kept,))


def _bits(file: TensorFile, name: str) -> Iterator[tuple[int, Tensor]]:
    """The bits of a mask as booleans, some at a time, each time with the place of the first."""
    count = file.tensors[f"{name}.mask"].count
    for start in range(0, count, PIECE // 8):
        packed = file.part(f"{name}.mask", start, min(PIECE // 8, count - start))
        yield 8 * start, torch.from_numpy(np.unpackbits(packed.numpy(), bitorder="little")).view(torch.bool)


def _unpack(file: TensorFile, name: str, shape: tuple[int, ...]) -> Tensor:
    """A pruned weight from its mask, which has been checked, and its values."""
    weight = torch.zeros(math.prod(shape))
    taken = 0
    for start, bits in _bits(file, name):
        kept = int(bits.sum())
        values = file.part(f"{name}.values", taken, kept).float()
        file.check_finite(f"{name}.values", values)
        part = weight[start : start + len(bits)]
        part.masked_scatter_(bits[: len(part)], values)
        taken += kept
    return weight.reshape(shape)
