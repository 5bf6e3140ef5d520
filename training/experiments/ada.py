"""Adaptive discriminator augmentation: over-fitting, p and KID over training, for 15 to 10,000 pictures, with ADA and without.

    python -m training.experiments.ada                         # about 90 minutes of one core; goes on where it stopped
    python -m training.experiments.ada --only 15-none 15-ada   # two runs
    python -m training.experiments.ada --quick                 # under 3 minutes

After figures 1 and 5 of Karras et al. 2020: StyleGAN2 at 32 px on nested sets of sharingan. The runs are train.py's, with the
recipe train_stylegan2_ada.yaml and the settings below laid over it; what is shown over training is what the loop logs, and at each
checkpoint what the discriminator says of training pictures, of others that it never saw, and of fakes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from training import augment
from training.config import TrainConfig
from training.data import PictureSet, load_pictures
from training.evaluate import UNSEEN, as_numbers
from training.experiments import ada_report
from training.experiments.results import ROOT, kept, read_flags
from training.experiments.watched import (
    QUIET,
    SAMPLES_STEP,
    Look,
    emblem_folder,
    picture_features,
    samples,
    true_features,
    watch,
)
from training.metrics import kid
from training.sampling import draw_latents, generate, seeded
from training.trainer import Trainer

RECIPE = ROOT / "training" / "recipes" / "train_stylegan2_ada.yaml"
RESOLUTION = 32
COUNTS = (15, 100, 1000, 10_000)
KINDS = ("none", "ada")
NETWORK = {"channel_base": 1024, "channel_max": 64}
SETTINGS: dict[str, Any] = {
    "resolution": RESOLUTION,
    "generator": {"class_name": "StyleGAN2Generator", "z_dim": 64, "w_dim": 64, "mapping_layers": 2, **NETWORK},
    "discriminator": {"class_name": "StyleGAN2Discriminator", **NETWORK},
    "real_rotations": False,  # they would make 8 pictures of one
    "real_flips": False,
    "ada_kimg": 20,  # from never to always within the run
    "ema_decay": 0.998,
}


@dataclass(frozen=True)
class Size:
    """How much is run and measured."""

    counts: Sequence[int] = COUNTS  # of training pictures, one for each of COUNTS
    steps: int = 8000  # 32,000 pictures
    every: int = 1000
    judged: int = 500  # pictures that the discriminator is asked about
    samples: int = 1000
    reference: int = 4000


QUICK = Size(counts=(15, 30, 60, 120), steps=200, every=100, judged=60, samples=100, reference=300)


def look(trainer: Trainer, unseen: Tensor, count: int, reference: Tensor) -> Look:
    """Mean D of training pictures, of `unseen` ones (N,3,S,S) and of fakes, all augmented alike and as in training; and the
    KID of `count` samples."""
    data: PictureSet = trainer.dataset
    seen = data.batch([i % len(data) for i in range(len(unseen))])[0]
    latents = draw_latents(trainer.generator, len(unseen), trainer.config.seed, SAMPLES_STEP)
    rng = seeded(trainer.config.seed, trainer.step, "look")
    change = augment.draw(len(unseen), trainer.config.augmentations, trainer.probability, rng)
    with torch.no_grad():
        fakes = generate(trainer.generator, latents.select(slice(None), trainer.device), RESOLUTION)
        scores = {
            name: round(float(trainer.discriminator(change(images.to(trainer.device))).mean()), 4)
            for name, images in (("seen", seen), ("unseen", unseen), ("fake", fakes))
        }
    return scores | as_numbers({"kid": kid(reference, picture_features(samples(trainer, count)))})


def run_one(kind: str, count: int, size: Size, work: Path, unseen: Tensor, reference: Tensor) -> dict[str, Any]:
    """Train on so many pictures, with ADA or without -> what was logged and what was seen at the checkpoints."""
    run = {
        "train_data": str(emblem_folder(work, count, RESOLUTION)),
        "output_dir": str(work / f"run-{count}-{kind}"),
        "augment": kind,
        "max_steps": size.steps,
        "checkpointing_steps": size.every,
    }
    config = TrainConfig(**yaml.safe_load(RECIPE.read_text()) | SETTINGS | QUIET | run)
    trainer, looks = watch(config, partial(look, unseen=unseen, count=size.samples, reference=reference))
    logged = {
        name: [round(row[name], 4) for row in trainer.monitor.rows] for name in ("step", "p", "sign_real", "accuracy")
    }
    return {"pictures": count, "augment": kind, "batch_size": config.batch_size, "logged": logged, "looks": looks}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `python -m training.experiments.ada`."""
    runs = {f"{count}-{kind}": (i, kind) for i, count in enumerate(COUNTS) for kind in KINDS}
    given = read_flags("ada", __doc__, arguments, list(runs))
    size = QUICK if given.quick else Size()
    files = {name: given.results / f"{name}.json" for name in runs}
    wanted = [name for name, file in files.items() if name in given.only and not file.is_file()]
    if wanted:
        unseen = load_pictures("emblems:sharingan", RESOLUTION).batch(range(UNSEEN, UNSEEN + size.judged))[0]
        first = UNSEEN + size.judged
        reference = true_features("emblems:sharingan", size.reference, RESOLUTION, first)
        floor = true_features("emblems:sharingan", size.samples, RESOLUTION, first + size.reference)
        kept(given.results / "floor.json", lambda: as_numbers({"kid": kid(reference, floor)}))
        for name in wanted:
            i, kind = runs[name]
            kept(files[name], partial(run_one, kind, size.counts[i], size, given.work_dir, unseen, reference))
    if all(file.is_file() for file in files.values()):
        ada_report.write(files, given.docs)


if __name__ == "__main__":
    main()
