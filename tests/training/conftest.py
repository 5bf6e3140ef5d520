"""Small base models of both families, and runs of adaptation on them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from sharingan_hub import RadialGenerator, SharinganPipeline, StyleGAN2Generator
from training import train
from training.adapt import AdaptConfig
from training.discriminators import StyleGAN2Discriminator
from training.trainer import Trainer

ROOT = Path(__file__).parents[2]
FAMILIES = ["radial", "stylegan2"]
CDC = {"correspondence_weight": 100.0, "patch_level": 8, "anchor_every": 2, "anchors": 3}
METHODS = {
    "scale_shift": {"train_only": ["*.affine.*", "*bias"]},
    "freezeg": {"freeze_generator": ["fc|mapping", "*const"]},
    "diffaugment": {"augment": "diffaugment", "augmentations": ["rotation", "color", "cutout"]},
    "ewc": {"ewc_weight": 1e5},
    "cdc": CDC,
    "patches": {"patch_level": 16, "patch_size": [1, 5]},
    "picture_and_patches": {"patch_level": 4, "patch_size": [2, 1], "patch_share": 0.4},
    "cdc_patches": CDC | {"patch_size": [5, 1], "style_mixing": 0.5},
    "adam": {"fisher_freeze": 0.75, "fisher_zero": 0.1},
    "rick": {"fisher_freeze": 0.5, "fisher_zero": 0.2, "fisher_interval": 3, "adam_beta1": 0.5},
    "symmetry": {"symmetry_weight": 5.0},
    "statistics": {"statistics_weight": 10.0},
    "matching": {"statistics_weight": 10.0, "statistics_steps": 3},
}
EVERYTHING = CDC | {
    "patch_share": 0.5,
    "ewc_weight": 1e4,
    "fisher_freeze": 0.75,
    "fisher_zero": 0.1,
    "fisher_interval": 2,
    "symmetry_weight": 1.0,
    "statistics_weight": 10.0,
    "statistics_steps": 1,
    "style_mixing": 0.5,
}


BACKENDS = {backend: backend.is_available for backend in (torch.cuda, torch.accelerator)}


@pytest.fixture(scope="package", autouse=True)
def on_the_cpu() -> Iterator[None]:
    """What these tests compare with is worked out on the CPU, some of it to the bit, so they train there."""
    with pytest.MonkeyPatch.context() as patch:
        for backend in BACKENDS:
            patch.setattr(backend, "is_available", lambda: False)
        patch.setenv("CUDA_VISIBLE_DEVICES", "")  # of the processes that they start
        yield


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    """Accelerate allows one device and one precision for each process."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.fixture
def on_the_gpu(fresh_accelerate: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests marked gpu, which train there."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    for backend, is_available in BACKENDS.items():
        monkeypatch.setattr(backend, "is_available", is_available)


def networks(family: str, resolution: int = 16) -> tuple:
    torch.manual_seed(3)
    if family == "radial":
        generator = RadialGenerator(
            z_dim=8, w_dim=8, channels=(8, 8), base_radius=4, base_angle=8, mapping_layers=2, mapping_width=16
        )
    else:
        generator = StyleGAN2Generator(
            z_dim=8, w_dim=8, resolution=resolution, mapping_layers=2, channel_base=64, channel_max=8
        )
    return generator, StyleGAN2Discriminator(resolution, channel_base=128, channel_max=8, mbstd_group_size=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A base model of each family, and five pictures."""
    folder = tmp_path_factory.mktemp("adapt")
    for family in FAMILIES:
        generator, discriminator = networks(family)
        SharinganPipeline(generator_model=generator).save_pretrained(folder / family)
        discriminator.save_pretrained(folder / family / "discriminator")
    write_pictures(folder / "pictures", np.random.default_rng(0).integers(0, 256, (5, 20, 20, 3), dtype=np.uint8))
    return folder


def write_pictures(folder: Path, pictures) -> Path:
    folder.mkdir()
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{i:04}.png")
    return folder


def settings(folder: Path, family: str, output: Path, **changes) -> dict:
    return {
        "train_data": str(folder / "pictures"),
        "base_model": str(folder / family),
        "output_dir": str(output),
        "resolution": 16,
        "batch_size": 8,
        "max_steps": 4,
        "r1_interval": 2,
        "fisher_samples": 6,
        "sample_every": 1000,
        "checkpointing_steps": 1000,
        "report_to": "none",
    } | changes


@pytest.fixture
def make(folder, tmp_path):
    """Makes a trainer on the base model of a family."""

    def make(family: str = "stylegan2", **changes) -> Trainer:
        config = AdaptConfig(**settings(folder, family, tmp_path / "out", **changes))
        data = train.load_data(config)
        return Trainer(config, data, *train.build_networks(config, data.order_probs))

    return make


def take(trainer: Trainer, steps: int = 1, first: int = 0) -> list[dict[str, float]]:
    """Steps without what train() does around them; the statistics of each."""
    values = []
    for trainer.step in range(first, first + steps):
        values.append(trainer._train_step(trainer._reals(trainer.step)))
    return values
