"""A checkpoint folder's StyleGAN2 for the other programs, so that nobody is locked in."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sharingan_hub.checkpoints.folder import WEIGHTS, component, read_generator
from sharingan_hub.checkpoints.strict import read_json, read_weights
from sharingan_hub.convert.errors import ConversionError
from sharingan_hub.convert.networks import FIR, Tensors, discriminator_shapes
from sharingan_hub.convert.rosinality import theirs_discriminator, theirs_generator

LAYOUTS = ("rosinality", "nvidia")


def export(folder: str | os.PathLike[str], path: str | os.PathLike[str], layout: str = "rosinality") -> Path:
    """Write the StyleGAN2 of a local checkpoint folder in the layout of another program.

    "rosinality": a .pt as its scripts take it, `g_ema`, `latent_avg` and, where the folder has a discriminator, `d`; plain
    tensors that `torch.load(..., weights_only=True)` opens. A conv_clamp is left out, which that program does not have.

    "nvidia": safetensors that NVIDIA's `Generator(**kwargs).load_state_dict` takes whole; kwargs are in the file's metadata
    under `init_kwargs`, as JSON. A discriminator goes into a file beside it, NAME-discriminator.safetensors. Their own
    pickles hold source code, which only their code can write.

    Args:
        folder: local checkpoint folder.
        path: file that is made.
        layout: "rosinality" or "nvidia".

    Returns:
        The file.

    Raises:
        ConversionError: the other program has no such network.
        CheckpointError: the folder is no checkpoint.
        ValueError: `layout` is neither, or the file is there already.
        OSError: it cannot be written.
    """
    folder, path = Path(folder).expanduser(), Path(path).expanduser()
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}; it must be 'rosinality' or 'nvidia'")
    beside = path.with_name(f"{path.stem}-discriminator{path.suffix}")
    for file in [path, beside] if layout == "nvidia" else [path]:
        if file.exists():
            raise ValueError(f"{str(file)!r} is there already; choose another name")
    model: Any = read_generator(folder)
    if type(model).__name__ != "StyleGAN2Generator":
        raise ConversionError(
            f"the folder's generator is a {type(model).__name__}; only a StyleGAN2Generator is exported"
        )
    if model.config.attention:
        raise ConversionError("the folder's generator has self-attention, which the other program's has not")
    tensors, config = model.state_dict(), dict(model.config)
    judge = read_discriminator(folder)
    if layout == "rosinality":
        content: dict[str, Any] = {"g_ema": OrderedDict(theirs_generator(tensors, config))}
        content["latent_avg"] = tensors["w_avg"]
        if judge is not None:
            content["d"] = OrderedDict(theirs_discriminator(judge[0], judge[1]["resolution"]))
        _write(path, lambda draft: torch.save(content, draft))
        return path
    if judge is not None:
        _write_safetensors(beside, *nvidia_discriminator(*judge))
    _write_safetensors(path, *nvidia_generator(tensors, config))
    return path


def read_discriminator(folder: Path) -> tuple[Tensors, dict[str, Any]] | None:
    """Tensors and configuration of a checkpoint folder's StyleGAN2Discriminator; None where it has no discriminator."""
    if not os.path.lexists(folder / "discriminator"):
        return None
    place = component(folder, "discriminator")
    config = {"mbstd_group_size": 4, "num_channels": 3, "conv_clamp": None, **read_json(place / "config.json")}
    try:
        shapes = discriminator_shapes(config)
    except (KeyError, TypeError, AttributeError) as error:
        raise ConversionError("the folder's discriminator is no StyleGAN2Discriminator") from error
    expected = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    return read_weights(place / WEIGHTS, expected), config


def nvidia_generator(tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> tuple[Tensors, dict[str, Any]]:
    """The state dict of NVIDIA's Generator, filters included, and the arguments that make it."""
    state = {("mapping.w_avg" if name == "w_avg" else name): tensor for name, tensor in tensors.items()}
    layers = [name.removesuffix("noise_const") for name in tensors if name.endswith(".noise_const")]
    blocks = {name.rpartition(".conv")[0] + "." for name in layers}
    state |= {f"{name}resample_filter": FIR.clone() for name in (*layers, *blocks)}
    mapping: dict[str, Any] = {"num_layers": config["mapping_layers"], "lr_multiplier": config["mapping_lr_multiplier"]}
    mapping |= {"layer_features": config["mapping_dim"], "embed_features": config["embed_dim"]}
    synthesis = {name: config[name] for name in ("channel_base", "channel_max", "conv_clamp")}
    kwargs = {name: config[name] for name in ("z_dim", "c_dim", "w_dim")}
    kwargs |= {"img_resolution": config["resolution"], "img_channels": 3}
    return state, {**kwargs, "mapping_kwargs": mapping, "synthesis_kwargs": synthesis}


def nvidia_discriminator(
    tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]
) -> tuple[Tensors, dict[str, Any]]:
    """The state dict of NVIDIA's Discriminator, filters included, and the arguments that make it."""
    top = f"b{config['resolution']}."
    state = {(top + name if name.startswith("fromrgb.") else name): tensor for name, tensor in tensors.items()}
    layers = [
        name.removesuffix("weight") for name, tensor in state.items() if name.endswith("weight") and tensor.ndim == 4
    ]
    blocks = {name.rpartition(".conv")[0] + "." for name in layers if ".conv" in name and not name.startswith("b4.")}
    state |= {f"{name}resample_filter": FIR.clone() for name in (*layers, *blocks)}
    kwargs = {"c_dim": 0, "img_resolution": config["resolution"], "img_channels": config["num_channels"]}
    kwargs |= {name: config[name] for name in ("channel_base", "channel_max", "conv_clamp")}
    group = config["mbstd_group_size"]
    epilogue = {"mbstd_group_size": group, "mbstd_num_channels": int(group > 1)}
    return state, {**kwargs, "epilogue_kwargs": epilogue}


def _write_safetensors(path: Path, tensors: Tensors, kwargs: dict[str, Any]) -> None:
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    metadata = {"format": "pt", "init_kwargs": json.dumps(kwargs)}
    _write(path, lambda draft: save_file(contiguous, draft, metadata=metadata))


def _write(path: Path, save: Any) -> None:
    """A file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.tmp")
    try:
        save(draft)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
