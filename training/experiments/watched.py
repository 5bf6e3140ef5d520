"""Runs of the training loop that an experiment looks at as they go, and that go on where they were stopped."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharingan_hub.features import features_of
from training.checkpoints import checkpoint_name, list_checkpoints, write_json
from training.config import TrainConfig
from training.data import load_pictures
from training.emblems import sample_emblems, write_folder
from training.evaluate import UNSEEN
from training.sampling import draw_latents, generate
from training.train import build_trainer
from training.trainer import Trainer

SAMPLES_STEP = -10  # the step that samples' latents are drawn for; training's steps begin at 0
QUIET: dict[str, Any] = {"sample_every": 10**9, "report_to": "none", "threads": 1}

Look = dict[str, Any]


def watch(config: TrainConfig, look: Callable[[Trainer], Look]) -> tuple[Trainer, list[Look]]:
    """Train as a config says -> the trainer at its end, and what `look` found at each checkpoint.

    To what it found are added `step` and `rate`, the pictures that training took on the way there in a second of processor
    time. A run that was stopped goes on from the last checkpoint that was looked at.

    Raises:
        SystemExit: a signal ended the run before its last step.
    """
    checkpoints = Path(config.output_dir) / "checkpoints"
    file = checkpoints / "looks.json"
    looks: list[Look] = json.loads(file.read_text())["looks"] if file.is_file() else []
    seen = {checkpoint_name(found["step"]) for found in looks}
    for checkpoint in list_checkpoints(checkpoints):
        if checkpoint.name not in seen:
            shutil.rmtree(checkpoint)
    trainer = build_trainer(replace(config, resume_from="latest"))
    begun = time.process_time()
    for _ in trainer.steps():
        if trainer.step % config.checkpointing_steps == 0:
            rate = config.checkpointing_steps * config.batch_size / (time.process_time() - begun)
            looks.append({"step": trainer.step, "rate": round(rate, 2)} | look(trainer))
            write_json({"looks": looks}, file)
            begun = time.process_time()
    refuse_interrupted(trainer)
    return trainer, looks


def refuse_interrupted(trainer: Trainer) -> None:
    """Raise SystemExit for a run that a signal ended before its last step: what it came to is no result. A collapse may end it."""
    if trainer.interrupted and not trainer.given_up():
        raise SystemExit(f"Stopped at step {trainer.step} of {trainer.config.max_steps}: the same command goes on.")


@torch.no_grad()
def samples(trainer: Trainer, count: int) -> Tensor:
    """Pictures (N,3,S,S) in [-1,1] of the averaged generator, or pairs (N,6,S,S): the same latents in every run of one seed."""
    latents = draw_latents(trainer.average, count, trainer.config.seed, SAMPLES_STEP)
    parts = [slice(i, i + 250) for i in range(0, count, 250)]
    return torch.cat(
        [
            generate(trainer.average, latents.select(part, trainer.device), trainer.config.resolution).cpu()
            for part in parts
        ]
    )


def picture_features(images: Tensor) -> Tensor:
    """Features (N,D) of pictures (N,3,S,S), about [-1,1]."""
    return features_of((images.clamp(-1, 1) + 1) / 2)


def true_features(train_data: str, count: int, resolution: int, first: int = UNSEEN) -> Tensor:
    """Features (N,D) of emblems that nobody trains on, drawn at the size of the others."""
    pictures = load_pictures(train_data, resolution)
    rows = range(first, first + count)
    return torch.cat([picture_features(pictures.batch(rows[i : i + 500])[0]) for i in range(0, count, 500)])


def emblem_folder(work: Path, count: int, resolution: int) -> Path:
    """A folder of the first sharingan there are, so many; of two sizes, the smaller is part of the larger."""
    folder = work / f"pictures{count}"
    if len(list(folder.glob("*.png"))) < count:
        write_folder(sample_emblems("sharingan", range(count)), resolution, folder)
    return folder
