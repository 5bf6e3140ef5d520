"""Adapters: what a fine-tune changed of its base, in a file small enough to share, laid over the base at any weight.

An adapter is a folder of two files. `adapter.safetensors` holds each changed tensor NAME either whole (`NAME.delta`) or
as two factors (`NAME.up`, `NAME.down`) whose product is the change, as in LoRA (Hu et al. 2021), with the tensor seen as
a matrix (out, in * kernel). `adapter_config.json` says which tensors they are, of what rank, and for what base.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sharingan_hub.checkpoints.folder import KNOWN_GENERATORS, MAX_PARAMETERS
from sharingan_hub.checkpoints.strict import (
    MAX_HEADER_BYTES,
    CheckpointError,
    TensorFile,
    label,
    printable,
    read_json,
    read_weights,
    shown,
)

WEIGHTS, CONFIG = "adapter.safetensors", "adapter_config.json"
FORMAT = 1
# A base is known by its weights in each of these types, so that an adapter also fits it where it was loaded as bfloat16.
FINGERPRINT_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
KEYS = {"format", "base_class", "base_model", "base_fingerprints", "order_probs", "tensors"}
# Tensors of no more numbers than this stay whole: factors would save a few kilobytes and cost accuracy.
SMALL = 2**12
# Change left out that is less than what rounding to float16 leaves out anyway: half a unit in the 11th bit.
NEGLIGIBLE = 2**-12


@dataclass(frozen=True)
class AdapterReport:
    """What writing an adapter came to.

    Args:
        size: of adapter.safetensors, in bytes.
        error: Frobenius norm of what the adapter does not hold of the change, over that of the change.
        tensors: how many tensors it changes.
    """

    size: int
    error: float
    tensors: int


@dataclass(frozen=True)
class Adapter:
    """An adapter in memory.

    Args:
        changes: of each changed tensor its delta, or its factors up (out, rank) and down (rank, in); float32, CPU.
        order_probs: how often each order comes after adaptation; None where that did not change.
    """

    changes: dict[str, tuple[Tensor, ...]]
    order_probs: list[float] | None

    def delta(self, name: str, like: Tensor) -> Tensor:
        """The whole change of a tensor, with the shape, type and device of `like`."""
        parts = [part.to(like.device, like.dtype) for part in self.changes[name]]
        return (parts[0] if len(parts) == 1 else parts[0] @ parts[1]).reshape(like.shape)


def matrix_shape(shape: torch.Size) -> tuple[int, int]:
    """A weight's shape as that of a matrix: (out, in * kernel)."""
    return shape[0], math.prod(shape[1:])


def saves_space(shape: torch.Size, rank: int) -> bool:
    """Whether factors of this rank hold fewer numbers than the tensor itself."""
    return len(shape) >= 2 and rank * sum(matrix_shape(shape)) < math.prod(shape)


def is_factorized(shape: torch.Size, rank: int) -> bool:
    """Whether a change of rank `rank` at most is wanted of a tensor: it is a matrix, and one that is not small."""
    return math.prod(shape) > SMALL and saves_space(shape, rank)


def fingerprint(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> str:
    """SHA-256, in hexadecimal, over names, types, shapes and bytes in the order of the names.

    dtype: floating-point tensors count as rounded to it.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if dtype is not None and tensor.is_floating_point():
            tensor = tensor.to(dtype)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def order_mix(generator: Any) -> list[float] | None:
    """How often each order comes, adding up to one; None for a generator without orders."""
    if "order" not in generator.conditions:
        return None
    probs = generator.config.order_probs or [1.0] * generator.config.max_order
    return [p / sum(probs) for p in probs]


# Writing


def make_adapter(
    base: Any,
    adapted: Any,
    folder: str | os.PathLike[str],
    rank: int | None = None,
    base_model: str | None = None,
) -> AdapterReport:
    """Write the difference of two generators as an adapter folder, each file whole or not at all.

    Numbers are float16 where that changes a tensor by less than a thousandth of its own change, else float32.

    Args:
        base, adapted: generators of one architecture.
        folder: made if missing; other files in it stay.
        rank: of what larger matrices change, the part of this rank that is nearest (truncated singular value
            decomposition). None keeps all of it. Changes that have a low rank anyway are stored as factors in any case.
        base_model: what the base is called, for people: a Hub id or a folder's name.

    Raises:
        ValueError: the architectures differ, a weight is not finite, or rank is below 1.
    """
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
        raise ValueError(f"rank is {rank!r}; it must be a whole number from 1 on, or None")
    check_same_architecture(base, adapted)
    before, after = base.state_dict(), adapted.state_dict()
    stored: dict[str, Tensor] = {}
    ranks: dict[str, int | None] = {}
    missed = changed = 0.0
    for name, old in before.items():
        if not old.is_floating_point():
            continue  # counters, which no picture depends on
        delta = after[name].detach().cpu().float() - old.detach().cpu().float()
        if not delta.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinite values in base or adapted; no adapter can be made of them")
        if not delta.any():
            continue
        factors = factorize(delta, rank)
        names = ("delta",) if factors is None else ("up", "down")
        parts = tuple(compact(part) for part in factors or (delta,))
        stored.update({f"{name}.{suffix}": part for suffix, part in zip(names, parts)})
        ranks[name] = None if factors is None else len(factors[1])
        kept = Adapter({name: tuple(part.float() for part in parts)}, None).delta(name, delta)
        missed += (delta - kept).double().square().sum().item()
        changed += delta.double().square().sum().item()
    mix = order_mix(adapted)
    config = {
        "format": FORMAT,
        "base_class": type(base).__name__,
        "base_model": base_model,
        "base_fingerprints": {name: fingerprint(before, dtype) for name, dtype in FINGERPRINT_TYPES.items()},
        "order_probs": None if mix == order_mix(base) else mix,
        "tensors": ranks,
    }
    folder = Path(folder)
    new = folder / ".saving"
    shutil.rmtree(new, ignore_errors=True)  # of a run that was killed
    try:
        new.mkdir(parents=True)
        (new / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file(stored, new / WEIGHTS)
        shutil.copymode(new / CONFIG, new / WEIGHTS)  # safetensors lets nobody else read what it writes
        for name in (WEIGHTS, CONFIG):
            os.replace(new / name, folder / name)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return AdapterReport((folder / WEIGHTS).stat().st_size, math.sqrt(missed / changed) if changed else 0.0, len(ranks))


def check_same_architecture(base: Any, adapted: Any) -> None:
    """Raise ValueError, which says what differs, where two generators do not have the same tensors."""
    kinds = [type(network).__name__ for network in (base, adapted)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"base is a {kinds[0]} and adapted a {kinds[1]}; an adapter keeps its base's architecture")
    first, second = (json.loads(json.dumps(dict(network.config))) for network in (base, adapted))
    for name in sorted(first.keys() | second.keys()):
        if name.startswith("_") or name == "order_probs" or first.get(name) == second.get(name):
            continue
        raise ValueError(
            f"base has {name} {first.get(name)} and adapted {second.get(name)}; "
            f"an adapter keeps its base's architecture"
        )
    shapes = [{name: tuple(t.shape) for name, t in network.state_dict().items()} for network in (base, adapted)]
    if shapes[0] != shapes[1]:
        odd = min(name for name, _ in shapes[0].items() ^ shapes[1].items())
        raise ValueError(f"base and adapted differ in the tensor {odd!r}; an adapter keeps its base's architecture")


def factorize(delta: Tensor, rank: int | None) -> tuple[Tensor, Tensor] | None:
    """Factors up (out, r) and down (r, in) of a change; None where the change itself takes no more space.

    r is the smallest rank that leaves out a negligible part; where the tensor is not small, `rank` at most.
    """
    if not saves_space(delta.shape, 1):
        return None
    u, s, v = torch.linalg.svd(delta.reshape(matrix_shape(delta.shape)), full_matrices=False)
    left_out = s.double().square().flip(0).cumsum(0).flip(0).sqrt()  # by each rank from 0 on
    r = int((left_out > NEGLIGIBLE * left_out[0]).sum())
    if rank is not None and is_factorized(delta.shape, rank):
        r = min(r, rank)
    if not saves_space(delta.shape, r):
        return None
    root = s[:r].sqrt()  # the same size on both sides, which suits float16
    return (u[:, :r] * root).contiguous(), (root[:, None] * v[:r]).contiguous()


def compact(tensor: Tensor) -> Tensor:
    """As float16 where that holds it (not below 6e-5 nor above 65504, say), else as float32."""
    half = tensor.half()
    return half if (half.float() - tensor).norm() <= 2**-10 * tensor.norm() else tensor.contiguous()


# Reading


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no checkpoint."""
    return os.path.lexists(folder / CONFIG) and not os.path.lexists(folder / "model_index.json")


def name_of(folder: Path) -> str:
    """What an adapter is called: its repository's Hub id, or its folder's name."""
    if folder.name == "adapter":  # beside a checkpoint it lies in a folder of this name: the checkpoint's says more
        folder = folder.parent
    if folder.parent.name == "snapshots":  # in the Hub's cache
        return folder.parent.parent.name.removeprefix("models--").replace("--", "/")
    return folder.name or str(folder)


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of an adapter, as far as it can be checked without its base.

    Raises:
        CheckpointError: it is missing or malformed.
    """
    if not os.path.lexists(folder / CONFIG):
        raise CheckpointError(f"{printable(name_of(folder))} holds no adapter: {CONFIG} is missing")
    config, where = read_json(folder / CONFIG), label(folder / CONFIG)
    if config.get("format") != FORMAT or isinstance(config["format"], bool):
        raise CheckpointError(f"{where} has format {shown(config.get('format'))}; this version reads {FORMAT}")
    if config.keys() != KEYS:
        odd = min(config.keys() ^ KEYS)
        raise CheckpointError(f"{where} {'lacks' if odd in KEYS else 'has an unknown key'} {shown(odd)}")
    kind, model, prints = config["base_class"], config["base_model"], config["base_fingerprints"]
    if not isinstance(kind, str) or not (model is None or isinstance(model, str)):
        raise CheckpointError(f"{where}: base_class must be a name, and base_model a name or null")
    if not (
        isinstance(prints, dict)
        and prints.keys() == FINGERPRINT_TYPES.keys()
        and all(isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) for value in prints.values())
    ):
        raise CheckpointError(f"{where}: base_fingerprints must be {len(FINGERPRINT_TYPES)} SHA-256 sums")
    if not isinstance(config["tensors"], dict):
        raise CheckpointError(f"{where}: tensors must be an object, not a {type(config['tensors']).__name__}")
    for name, rank in config["tensors"].items():
        if not (rank is None or (type(rank) is int and rank >= 1)):
            raise CheckpointError(
                f"{where}: {printable(name)} has rank {printable(str(rank))}; it must be null or a whole number from 1 on"
            )
    return config


def check_adapter(folder: Path) -> None:
    """Raise CheckpointError unless a folder holds an adapter, as far as that can be said without its base.

    No memory is taken for the weights.
    """
    config, where = read_config(folder), label(folder / CONFIG)
    if config["base_class"] not in KNOWN_GENERATORS:
        known = ", ".join(KNOWN_GENERATORS)
        raise CheckpointError(
            f"{where} is of an adapter for a {shown(config['base_class'])}; this version knows {known}"
        )
    check_order_probs(where, config["order_probs"], None)
    ranks = config["tensors"]
    with TensorFile(folder / WEIGHTS) as file:
        shapes = {name: stored.shape for name, stored in file.tensors.items()}
        for name, rank in ranks.items():
            if rank is None:
                continue
            up, down = (shapes.get(f"{name}.{part}", ()) for part in ("up", "down"))
            if not (len(up) == len(down) == 2 and up[1] == down[0] == rank):
                raise CheckpointError(f"{file.name} has no factors of rank {rank} for {printable(name)}")
        parts = {name: ("delta",) if rank is None else ("up", "down") for name, rank in ranks.items()}
        file.check({key: shapes.get(key, ()) for key in (f"{name}.{part}" for name in parts for part in parts[name])})
        count = sum(stored.count for stored in file.tensors.values())
        if count > MAX_PARAMETERS:
            raise CheckpointError(f"{file.name} holds {count:,} numbers; at most {MAX_PARAMETERS:,} are opened")
        for name in file.tensors:
            file.check_values(name)


def read_adapter(folder: str | os.PathLike[str], generator: Any, base: Mapping[str, Tensor] | None = None) -> Adapter:
    """An adapter from its folder, if it was made for this generator.

    Names, shapes and sizes are compared with the generator's own before any memory is taken. No code is run.

    Args:
        folder: holds adapter_config.json and adapter.safetensors.
        generator: what it is to change.
        base: the generator's state_dict before other adapters changed it; None where none did.

    Raises:
        CheckpointError: a file is missing, malformed or damaged, or the adapter is for another base.
    """
    folder = Path(folder)
    config, where = read_config(folder), label(folder / CONFIG)
    state = generator.state_dict() if base is None else base
    check_base(where, config, generator, state)
    order_probs, tensors = config["order_probs"], config["tensors"]
    check_order_probs(where, order_probs, len(order_mix(generator) or []))
    expected: dict[str, Tensor] = {}
    for name, rank in tensors.items():
        if name not in state or not state[name].is_floating_point():
            raise CheckpointError(f"{where} changes {shown(name)}, which is no weight of a {type(generator).__name__}")
        shape = state[name].shape
        if rank is None:
            expected[f"{name}.delta"] = torch.empty(shape, device="meta")
        elif saves_space(shape, rank):
            out, into = matrix_shape(shape)
            expected[f"{name}.up"] = torch.empty(out, rank, device="meta")
            expected[f"{name}.down"] = torch.empty(rank, into, device="meta")
        else:
            raise CheckpointError(
                f"{where}: {name} has rank {rank}; it must be null or a whole number from 1 on whose factors are smaller "
                f"than {tuple(shape)}"
            )
    size = sum(4 * tensor.numel() for tensor in expected.values()) + MAX_HEADER_BYTES + 8  # at most
    if (folder / WEIGHTS).is_file() and (folder / WEIGHTS).stat().st_size > size:
        raise CheckpointError(f"{label(folder / WEIGHTS)} is larger than the {size} bytes that {CONFIG} accounts for")
    stored = read_weights(folder / WEIGHTS, expected)
    changes: dict[str, tuple[Tensor, ...]] = {
        name: (stored[f"{name}.delta"],) if rank is None else (stored[f"{name}.up"], stored[f"{name}.down"])
        for name, rank in tensors.items()
    }
    return Adapter(changes, order_probs)


def check_base(where: str, config: dict[str, Any], generator: Any, state: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError where an adapter was made for another base."""
    kind, model, prints = config["base_class"], config["base_model"], config["base_fingerprints"]
    precision = str(generator.dtype).removeprefix("torch.")
    precision = precision if precision in FINGERPRINT_TYPES else "float32"
    here = type(generator).__name__
    own = fingerprint(state, FINGERPRINT_TYPES[precision])
    if (here, own) != (kind, prints[precision]):
        called = "" if model is None else f" {shown(model)}"
        raise CheckpointError(
            f"{where} is of an adapter for another base: it wants the {printable(kind)}{called} with weights "
            f"{prints[precision][:12]}, and this is a {here} with weights {own[:12]}"
        )


def check_order_probs(where: str, probs: Any, count: int | None) -> None:
    """Raise CheckpointError where order_probs is neither null nor a mix of `count` orders; None is any number of them."""
    if probs is None:
        return
    good = isinstance(probs, list) and 0 < len(probs) == (len(probs) if count is None else count)
    good = good and all(isinstance(p, int | float) and not isinstance(p, bool) and 0 <= p <= 1 for p in probs)
    if not (good and abs(sum(probs) - 1) < 1e-6):
        shares = "shares that add up to 1" if count is None else f"{count} shares that add up to 1"
        raise CheckpointError(
            f"{where}: order_probs must be {'null, as this generator has no orders' if count == 0 else f'null or {shares}'}"
        )
