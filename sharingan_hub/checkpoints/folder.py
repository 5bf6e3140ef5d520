"""What a checkpoint folder may hold: known classes, settings within their ranges, and weights that fit them.

A folder may come from a stranger. Nothing of it is run, and nothing is believed before it is checked: a configuration
says how large a network is before any of it takes memory.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin

import sharingan_hub
from sharingan_hub.checkpoints.strict import (
    MAX_HEADER_BYTES,
    CheckpointError,
    TensorFile,
    check_place,
    check_weights,
    printable,
    read_json,
    read_weights,
    shown,
)
from sharingan_hub.checkpoints.strict import HubError as HubError

WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = "model_index.json"
MAX_PARAMETERS = 200_000_000  # 800 MB
MAX_RESOLUTION = 8192
# Numbers in the largest intermediate result for one picture: those of StyleGAN2's configuration F at 1024 px.
MAX_ACTIVATION = 2**25


@dataclass(frozen=True)
class Numbers:
    """The values that a setting may have: one number, or a list of them.

    Args:
        low, high: the smallest and the largest number.
        whole: whether they are whole numbers.
        optional: whether null is a value too.
        longest: of a list, the most numbers that it holds; 0 is one number and no list.
    """

    low: float
    high: float
    whole: bool = True
    optional: bool = False
    longest: int = 0

    def allow(self, value: Any) -> bool:
        """Whether a value is one of these."""
        if value is None:
            return self.optional
        if self.longest and not (isinstance(value, list) and 1 <= len(value) <= self.longest):
            return False
        kinds = (int,) if self.whole else (int, float)
        numbers = value if self.longest else [value]
        return all(type(number) in kinds and self.low <= number <= self.high for number in numbers)

    def __str__(self) -> str:
        kind = "whole number" if self.whole else "number"
        kind = f"a list of 1 to {self.longest} {kind}s" if self.longest else f"a {kind}"
        return f"{kind} from {self.low} to {self.high}{', or null' if self.optional else ''}"


class Switch:
    """The values that a setting may have which is on or off."""

    def allow(self, value: Any) -> bool:
        """Whether a value is one of these."""
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "true or false"


WIDTH = Numbers(1, 8192)
DEPTH = Numbers(1, 64)
SIDE = Numbers(4, 1024, optional=True)
DCGAN: dict[str, Numbers | Switch] = {
    "z_dim": WIDTH,
    "resolution": Numbers(16, 1024),
    "channels": WIDTH,
    "channel_max": WIDTH,
    "norm_first": Switch(),
    "attention": SIDE,
}
# Every class that is known, and each of its settings.
SETTINGS: dict[str, dict[str, Numbers | Switch]] = {
    "CoGANGenerator": {**DCGAN, "shared_layers": Numbers(0, 64)},
    "DCGANGenerator": DCGAN,
    "R3GANGenerator": {
        "z_dim": WIDTH,
        "resolution": Numbers(16, 1024),
        "channels": WIDTH,
        "channel_max": WIDTH,
        "blocks": Numbers(1, 16),
    },
    "RadialGenerator": {
        "z_dim": WIDTH,
        "w_dim": Numbers(2, 8192),  # order and phase have their places in a style
        "resolution": Numbers(4, MAX_RESOLUTION),
        "max_order": Numbers(1, 64),
        "num_masks": Numbers(2, 64),
        "num_frame_masks": Numbers(0, 62),
        "num_ground_masks": Numbers(1, 63),
        "channels": Numbers(1, 4096, longest=8),
        "base_radius": Numbers(1, 256),
        "base_angle": Numbers(2, 256),
        "extent": Numbers(0.5, 4.0, whole=False),
        "mapping_layers": DEPTH,
        "mapping_width": Numbers(1, 8192, optional=True),
        "order_probs": Numbers(0, 1, whole=False, optional=True, longest=64),
    },
    "StyleGAN2Generator": {
        "z_dim": WIDTH,
        "w_dim": WIDTH,
        "resolution": Numbers(4, 1024),
        "mapping_layers": DEPTH,
        "mapping_dim": Numbers(1, 8192, optional=True),
        "mapping_lr_multiplier": Numbers(1e-6, 1e3, whole=False),
        "channel_base": Numbers(1, 2**20),
        "channel_max": WIDTH,
        "conv_clamp": Numbers(1e-3, 2.0**20, whole=False, optional=True),
        "c_dim": Numbers(0, 8192),
        "embed_dim": Numbers(1, 8192, optional=True),
        "attention": SIDE,
        "attention_replaces": Switch(),
    },
}
KNOWN_GENERATORS = tuple(SETTINGS)


def radial_activation(settings: Any) -> int:
    """Numbers in the largest level of the wedge; each level has four times the cells of the one before."""
    cells = settings.base_radius * settings.base_angle
    return max(max(width, settings.num_masks) * cells * 4**level for level, width in enumerate(settings.channels))


def stylegan2_activation(settings: Any) -> int:
    """Numbers in the largest block, or in its attention, which compares each place with each."""
    sizes = [2**i for i in range(2, settings.resolution.bit_length())]
    drawn = max(size**2 * max(1, min(settings.channel_base // size, settings.channel_max)) for size in sizes)
    return max(drawn, (settings.attention or 0) ** 4)


def dcgan_activation(settings: Any) -> int:
    """Numbers in the picture, the layer before it, or the attention, which compares each place with each."""
    drawn = settings.resolution**2 * max(3, min(settings.channels, settings.channel_max) // 4)
    return max(drawn, (settings.attention or 0) ** 4)


def r3gan_activation(settings: Any) -> int:
    """Numbers inside a residual block at the picture's size."""
    return 2 * settings.resolution**2 * min(settings.channels, settings.channel_max)


ACTIVATION: dict[str, Callable[[Any], int]] = {
    "CoGANGenerator": dcgan_activation,
    "DCGANGenerator": dcgan_activation,
    "R3GANGenerator": r3gan_activation,
    "RadialGenerator": radial_activation,
    "StyleGAN2Generator": stylegan2_activation,
}


# Generators


def read_generator(folder: Path, dtype: torch.dtype = torch.float32) -> ModelMixin:
    """The generator of a checkpoint folder, on the CPU, ready for inference.

    Names and shapes of all tensors are compared with the configuration before any memory is taken.

    Raises:
        CheckpointError: a file is missing or malformed, the class is unknown, or the weights do not fit.
    """
    model = outline(folder)
    model.load_state_dict(
        read_weights(component(folder, "generator_model") / WEIGHTS, model.state_dict(), dtype), assign=True
    )
    return model.eval()


def outline(folder: Path) -> ModelMixin:
    """The generator that a checkpoint folder describes, without its weights: tensors on the meta device.

    Raises:
        CheckpointError: a file is missing or malformed, the class is unknown, or a setting is outside its range.
    """
    named = read_json(folder / INDEX).get("generator_model")
    if not (isinstance(named, list) and len(named) == 2 and isinstance(named[1], str)):
        raise CheckpointError(f"{INDEX} names no generator_model: this is no SharinGAN Hub checkpoint")
    kind = known(named[1])
    settings = read_json(component(folder, "generator_model") / "config.json")
    if settings.get("_class_name", kind) != kind:
        raise CheckpointError(
            f"generator_model/config.json is of a {shown(settings['_class_name'])}, {INDEX} says {kind}"
        )
    return build(kind, settings)


def known(kind: Any) -> str:
    """The name of a generator's class.

    Raises:
        CheckpointError: no class of this version is called so.
    """
    if not isinstance(kind, str) or kind not in SETTINGS:
        known = ", ".join(KNOWN_GENERATORS)
        raise CheckpointError(f"The checkpoint's generator is a {shown(kind)}; this version knows {known}")
    return kind


def expected_bytes(folder: Path) -> int:
    """How many bytes the weights file may have at most that generator_model/config.json describes.

    Nothing else need be in the folder.

    Raises:
        CheckpointError: the file is missing or malformed, its class is unknown, or a setting is outside its range.
    """
    settings = read_json(component(folder, "generator_model") / "config.json")
    if "_class_name" not in settings:
        return _bytes(outline(folder))
    return _bytes(build(known(settings["_class_name"]), settings))


def _bytes(model: ModelMixin) -> int:
    return 8 + MAX_HEADER_BYTES + sum(4 * tensor.numel() for tensor in model.state_dict().values())


def component(folder: Path, name: str) -> Path:
    """A folder inside a checkpoint folder.

    Raises:
        CheckpointError: it is a link that leads out of it.
    """
    check_place(folder / name)
    return folder / name


def build(kind: str, settings: dict[str, Any]) -> ModelMixin:
    """A generator on the meta device, in a part of a second and without memory for its weights.

    kind: name of a known class.
    settings: as config.json holds them; keys that begin with an underscore are diffusers' own and are left out.

    Raises:
        CheckpointError: a setting is unknown or outside its range, or it would be too large.
    """
    wrong = f"generator_model/config.json does not describe a {kind}"
    settings = {name: value for name, value in settings.items() if not name.startswith("_")}
    for name, value in settings.items():
        allowed = SETTINGS[kind].get(name)
        if allowed is None:
            raise CheckpointError(f"{wrong}: it has no setting {shown(name)}")
        if not allowed.allow(value):
            raise CheckpointError(f"{wrong}: {name} = {shown(value)}, which no generator has; it must be {allowed}")
    if settings.get("order_probs") and not sum(settings["order_probs"]) > 0:
        raise CheckpointError(f"{wrong}: order_probs are all 0")
    try:
        with torch.device("meta"):
            model = getattr(sharingan_hub, kind)(**settings)
    except Exception as error:  # settings that do not go together
        raise CheckpointError(f"{wrong}: {printable(str(error), 200)}") from error
    count = sum(tensor.numel() for tensor in model.state_dict().values())
    asks = f"generator_model/config.json asks for a {kind}"
    if count > MAX_PARAMETERS:
        raise CheckpointError(f"{asks} of {count:,} weights; at most {MAX_PARAMETERS:,} are opened")
    activation = ACTIVATION[kind](model.config)
    if activation > MAX_ACTIVATION:
        raise CheckpointError(f"{asks} with {activation:,} numbers in a layer; at most {MAX_ACTIVATION:,} are opened")
    return model


# Whole folders


def validate(folder: str | os.PathLike[str]) -> None:
    """Check all that the loaders and the training read of a checkpoint folder, or of an adapter's.

    Of a checkpoint those are generator, discriminator, ticket, report and adapter. Other files are no reason to refuse a
    folder: nothing reads them.

    Raises:
        CheckpointError: something is missing, malformed or too large; the sentence says what.
    """
    from sharingan_hub.checkpoints import adapters, ticket  # which import from here

    folder = Path(folder)
    if adapters.is_adapter(folder):
        adapters.check_adapter(folder)
        return
    model = outline(folder)
    check_weights(component(folder, "generator_model") / WEIGHTS, model.state_dict())
    if os.path.lexists(folder / "discriminator"):
        check_discriminator(component(folder, "discriminator"))
    if os.path.lexists(folder / ticket.FILE):
        ticket.read_ticket(folder / ticket.FILE, model)
    if os.path.lexists(folder / "report.json"):
        report = read_json(folder / "report.json")
        try:
            json.dumps(report, allow_nan=False)
        except ValueError as error:
            raise CheckpointError("report.json holds NaN or infinite numbers") from error
    if os.path.lexists(folder / "adapter"):
        adapters.check_adapter(component(folder, "adapter"))


# Discriminators are known to the training alone. What can be said of any: plain settings of ordinary size, plain weights.
PLAIN = Numbers(-(2**20), 2**20, whole=False, optional=True)


def check_discriminator(folder: Path) -> None:
    """Raise CheckpointError unless a folder holds the settings and finite weights of a network of ordinary size."""
    for name, value in read_json(folder / "config.json").items():
        limit = Numbers(0, DEPTH.high, optional=True) if name.endswith("layers") else PLAIN
        for item in value if isinstance(value, list) and len(value) <= 64 else [value]:
            if not (limit.allow(item) or isinstance(item, bool) or (isinstance(item, str) and len(item) <= 256)):
                raise CheckpointError(f"discriminator/config.json has {shown(name)} = {shown(value)}, which none has")
    with TensorFile(folder / WEIGHTS) as file:
        if not file.tensors:
            raise CheckpointError(f"{file.name} holds no weights")
        count = sum(stored.count for stored in file.tensors.values())
        if count > MAX_PARAMETERS:
            raise CheckpointError(f"{file.name} holds {count:,} weights; at most {MAX_PARAMETERS:,} may be")
        for name in file.tensors:
            file.check_type(name)
            if not re.fullmatch(r"[A-Za-z0-9_.]{1,200}", name):
                raise CheckpointError(f"{file.name} has a tensor {shown(name)}, which is no weight's name")
        for name in file.tensors:
            file.check_values(name)
