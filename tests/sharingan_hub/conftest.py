"""Small models for these tests; each folder is a new copy."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sharingan_hub import SharinganPipeline, StyleGAN2Generator
from sharingan_hub.checkpoints.adapters import make_adapter


def tiny_pipeline(seed: int = 0) -> SharinganPipeline:
    """16 px and 12 kB of random weights."""
    torch.manual_seed(seed)
    model = StyleGAN2Generator(z_dim=8, w_dim=8, resolution=16, mapping_layers=1, channel_base=64, channel_max=4)
    return SharinganPipeline(model.eval())


def files_of(folder: Path) -> dict[str, bytes]:
    """All files of a folder, by their names in it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints: `old` with two samples, and `new` with other weights, a discriminator and one other sample."""
    root = tmp_path_factory.mktemp("checkpoints")
    for seed, name, samples in ((0, "old", ("grid", "seed0")), (1, "new", ("grid", "seed1"))):
        folder = root / name
        tiny_pipeline(seed).save_pretrained(folder)
        (folder / "samples").mkdir()
        for sample in samples:
            Image.new("RGB", (16, 16), (seed * 255, 0, 0)).save(folder / "samples" / f"{sample}.png")
    (root / "new" / "discriminator").mkdir()
    (root / "new" / "discriminator" / "config.json").write_text('{"resolution": 16}\n')
    save_file({"weight": torch.ones(3, 4)}, root / "new" / "discriminator" / "diffusion_pytorch_model.safetensors")
    return root


@pytest.fixture
def checkpoint(checkpoints: Path, tmp_path: Path) -> Path:
    """A copy of `old`."""
    return Path(shutil.copytree(checkpoints / "old", tmp_path / "checkpoint"))


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """What changes the generator of `old` into that of `new`."""
    make_adapter(tiny_pipeline(0).generator_model, tiny_pipeline(1).generator_model, tmp_path / "adapter")
    return tmp_path / "adapter"
