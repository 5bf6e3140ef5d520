"""Small models for these tests; each folder that a test is given is a new copy."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sharingan_hub import RadialGenerator, SharinganPipeline, StyleGAN2Generator
from sharingan_hub.checkpoints.adapters import make_adapter

ORDER_PROBS = [0.0, 0.5, 0.25, 0.25]


SETTINGS: dict[str, dict[str, Any]] = {
    "radial": {
        "resolution": 32,
        "max_order": 4,
        "num_masks": 4,
        "num_frame_masks": 1,
        "num_ground_masks": 1,
        "channels": (8, 8),
        "base_radius": 4,
        "base_angle": 8,
        "mapping_layers": 3,
        "order_probs": ORDER_PROBS,
    },
    "stylegan2": {"resolution": 16, "mapping_layers": 2, "channel_base": 64, "channel_max": 8},
}


def tiny(family: str, **changes: Any) -> SharinganPipeline:
    """A pipeline of a small random generator, with averages that are not zero."""
    torch.manual_seed(0)
    generator = RadialGenerator if family == "radial" else StyleGAN2Generator
    model = generator(z_dim=16, w_dim=12, **SETTINGS[family] | changes)
    model.w_avg.normal_()
    return SharinganPipeline(model.eval())


PIPES = {family: tiny(family) for family in ("radial", "stylegan2")}


@pytest.fixture(params=list(PIPES))
def pipe(request) -> SharinganPipeline:
    return PIPES[request.param]


@pytest.fixture
def radial() -> SharinganPipeline:
    return PIPES["radial"]


@pytest.fixture
def stylegan2() -> SharinganPipeline:
    return PIPES["stylegan2"]


def pipeline_with_classes() -> SharinganPipeline:
    """Of three classes, 16 px."""
    torch.manual_seed(0)
    model = StyleGAN2Generator(
        z_dim=8, w_dim=8, resolution=16, mapping_layers=2, channel_base=64, channel_max=8, c_dim=3
    )
    return SharinganPipeline(model.eval())


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
