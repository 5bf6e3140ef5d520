"""A foreign checkpoint becomes a checkpoint folder: weights, card and samples, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image
from safetensors.torch import save_file

from sharingan_hub.cards import plain_text, write_card
from sharingan_hub.checkpoints.folder import WEIGHTS, validate
from sharingan_hub.checkpoints.strict import CheckpointError, shown
from sharingan_hub.convert import nvidia, rosinality, tensorflow
from sharingan_hub.convert.errors import ConversionError
from sharingan_hub.convert.networks import (
    Found,
    discriminator_config,
    discriminator_shapes,
    fitted,
    make_generator,
    refuse,
)
from sharingan_hub.convert.unpickle import Record, read
from sharingan_hub.media import image_grid, write_png
from sharingan_hub.pipeline_sharingan import MIN_SIZE, SharinganPipeline

WHICH = ("ema", "raw")
SAMPLES, SAMPLE_PIXELS, COLUMNS, SAMPLE_SIZE = 8, 2**17, 4, 256  # at most so many, and drawn pixels unless it is one


def convert(
    path: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    which: str = "ema",
    with_discriminator: bool = False,
) -> Path:
    """Make a checkpoint folder of a StyleGAN2 checkpoint of NVIDIA's programs or rosinality's. Nothing in it is run.

    Which program wrote the file is recognised from its content. The folder opens with SharinganPipeline.from_pretrained and
    draws what the original program drew.

    Args:
        path: of a .pkl or .pt file, of any name.
        output_dir: folder that is made; it may be there already if it is empty.
        which: "ema", the averaged generator, or "raw", the one that was trained.
        with_discriminator: write it too, for adaptation to begin from.

    Returns:
        The folder.

    Raises:
        ConversionError: the file is something else, is damaged, or holds what StyleGAN2Generator does not do.
        ValueError: `which` is neither, or output_dir is not empty.
        OSError: the file cannot be read, or the folder not written.
    """
    path, target = Path(path).expanduser(), Path(output_dir).expanduser()
    if which not in WHICH:
        raise ValueError(f"which is {which!r}; it must be 'ema' or 'raw'")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"output_dir {str(target)!r} is there and not empty; choose another")
    found = find(read(path), which, with_discriminator)
    pipe = SharinganPipeline(make_generator(found))
    with new_folder(target) as folder:
        pipe.save_pretrained(folder)
        if found.discriminator is not None:
            _save_discriminator(found, folder / "discriminator")
        try:
            validate(folder)
        except CheckpointError as error:
            raise ConversionError(f"{path.name} cannot be converted: {error}") from error
        (folder / "samples").mkdir()
        write_png(_samples(pipe), folder / "samples" / "grid.png")
        report = _report(path, target, found.program, which)
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        write_card(folder, target)
    return target


def find(content: Any, which: str = "ema", with_discriminator: bool = False) -> Found:
    """Generator and discriminator of a file's content, by our names.

    Raises:
        ConversionError: it is no StyleGAN2 of a known program.
    """
    if nvidia.is_nvidia(content):
        return nvidia.find(content, which, with_discriminator)
    if tensorflow.is_tensorflow(content):
        return tensorflow.find(tuple(content), which, with_discriminator)
    if rosinality.is_rosinality(content):
        return rosinality.find(content, which, with_discriminator)
    raise refuse(_kind(content))


def _kind(content: Any) -> str:
    """What a file holds that is not converted."""
    if isinstance(content, Record):
        return f"a {shown(f'{content.module}.{content.name}')} alone"
    if isinstance(content, dict):
        state = content.get("state_dict", content)
        names = [name for name in (state if isinstance(state, dict) else {}) if isinstance(name, str)]
        if any(name.startswith(("encoder.", "module.encoder.")) for name in names):
            return "an encoder (such as pSp or e4e)"
        if "g_running" in content or any(name.startswith("generator.progression.") for name in names):
            return "a StyleGAN1 generator"
        if any(name.startswith(("synthesis.input.", "synthesis.L0_")) for name in names):
            return "a StyleGAN3 generator"
        listed = ", ".join(shown(name) for name in list(content)[:4])
        return f"no network of a known program, but {listed or 'nothing'}"
    return f"no network of a known program, but a {type(content).__name__}"


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes `target`, which is missing or empty, on success, and vanishes on failure."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as temporary:
        folder = Path(temporary) / target.name
        folder.mkdir()
        yield folder
        if target.exists():
            target.rmdir()
        os.replace(folder, target)


def _save_discriminator(found: Found, folder: Path) -> None:
    assert found.discriminator is not None
    config = discriminator_config(found)
    tensors = fitted("discriminator", found.discriminator, discriminator_shapes(config))
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    shutil.copymode(folder / "config.json", folder / WEIGHTS)  # safetensors lets nobody else read what it writes


def _samples(pipe: Any) -> Image.Image:
    """What a card shows of a model first: the pictures of its first seeds."""
    resolution = pipe.generator_model.resolution
    seeds = range(max(1, min(SAMPLES, SAMPLE_PIXELS // resolution**2)))
    images = pipe(seeds=seeds, output_size=max(MIN_SIZE, min(resolution, SAMPLE_SIZE))).images
    return image_grid(images, columns=min(COLUMNS, len(images)), gap=4)


def _report(path: Path, target: Path, program: str, which: str) -> dict[str, Any]:
    """Where the weights are from, and what the card says of that."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    name = plain_text(path.name)
    return {
        "license": "other",
        "converted": {"file": path.name, "sha256": digest, "program": program, "generator": which},
        "card": {
            "title": target.resolve().name,
            "introduction": f"Pictures from a StyleGAN2Generator, converted from `{name}`.",
            "method": "Trained by others. The weights are those of the original file, in safetensors; nothing was trained further.",
        },
    }
