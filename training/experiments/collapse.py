"""Nazeri's four runs, the variant that he may have meant, and early stopping: spikes, collapse, and what remains.

    python -m training.experiments.collapse            # about 25 minutes of one core; what is there already is not run again
    python -m training.experiments.collapse --quick    # under 3 minutes

A DCGAN on 100 sharingan at 64 px. Each run is train.py with the recipe train_dcgan.yaml and the settings below laid over it: a
recipe would say the same. His networks have 64 channels; these have 16, so that all runs fit one core. One seed for all, so
runs whose gradients are the same have the same weights.
"""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from sharingan_hub import SharinganPipeline
from sharingan_hub.features import features_of
from sharingan_hub.media import image_grid
from training import evaluate
from training.checkpoints import save_picture
from training.config import TrainConfig
from training.evaluate import Reference
from training.experiments import collapse_report
from training.experiments.results import ROOT, kept, read_flags
from training.experiments.watched import QUIET, emblem_folder, refuse_interrupted
from training.train import build_trainer
from training.trainer import Trainer

RECIPE = ROOT / "training" / "recipes" / "train_dcgan.yaml"
RESOLUTION, PICTURES, BATCH = 64, 100, 10
SHOWN = (0.05, 0.25, 0.5, 1.0)  # of a run: where its pictures are shown


@dataclass(frozen=True)
class Run:
    """Settings laid over the recipe, for so many rounds through the pictures."""

    epochs: int
    settings: Mapping[str, Any] = field(default_factory=dict)


STABLE = {"clip_gradient_norm": 5.0}
RUNS = {
    "plain": Run(200),
    "beta": Run(1000, {"regularizers": ["distance_d"]}),
    "stable": Run(1000, {"regularizers": ["spectral_norm"], **STABLE}),
    "stable_beta": Run(300, {"regularizers": ["spectral_norm", "distance_d"], **STABLE}),
    "beta_corrected": Run(1000, {"regularizers": ["distance_g"]}),
    "early_stopping": Run(1000, {"regularizers": ["distance_d"], "stop_on_collapse": True}),
}
COMMON = {
    "generator": {"class_name": "DCGANGenerator", "norm_first": False, "channels": 16},
    "discriminator": {"class_name": "DCGANDiscriminator", "norm_first": False, "channels": 16},
    "batch_size": BATCH,
    "learning_rate": 1e-3,  # his 2e-4 leaves so narrow a generator without a shape for 100 epochs and more
    "ema_decay": 0.0,  # he had no average of weights
    "real_rotations": False,
    "real_flips": False,
    **QUIET,
}


@dataclass(frozen=True)
class Size:
    """How much of each run is run, and how many of its pictures are measured."""

    share: float = 1.0  # of its epochs
    check_every: int = 20  # epochs
    samples: int = 1000
    reference: int = 4000


QUICK = Size(share=0.02, check_every=2, samples=100, reference=300)


def run_one(name: str, size: Size, file: Path, work: Path, pictures: str, reference: Reference) -> dict[str, Any]:
    """Train one run -> its losses for each epoch, the checks, digests of the weights, and figures of the result.

    Beside `file` is written what the fixed latents gave, a row of pictures for each of the epochs `shown`.
    """
    run, per_epoch = RUNS[name], PICTURES // BATCH
    epochs, every = round(run.epochs * size.share), size.check_every
    output = work / name
    shutil.rmtree(output, ignore_errors=True)
    settings = yaml.safe_load(RECIPE.read_text()) | COMMON | run.settings
    settings |= {"train_data": pictures, "output_dir": str(output), "max_steps": epochs * per_epoch}
    trainer = build_trainer(TrainConfig(**settings, checkpointing_steps=every * per_epoch))
    losses: dict[str, list[float]] = {"loss_d": [], "loss_g": []}
    digests: dict[str, str] = {}
    window: list[dict[str, float]] = []
    for values in trainer.steps():
        window.append(values)
        if trainer.step % per_epoch == 0:
            for key, means in losses.items():
                means.append(round(sum(row[key] for row in window) / per_epoch, 4))
            window = []
        if trainer.step % (every * per_epoch) == 0:
            digests[str(trainer.step // per_epoch)] = digest(trainer)
    refuse_interrupted(trainer)
    epoch = trainer.step // per_epoch  # that which is kept
    shown = sorted({max(every, round(epoch * share / every) * every) for share in SHOWN})
    rows = [output / "checkpoints" / "previews" / f"{some * per_epoch:08d}.png" for some in shown]
    save_picture(image_grid([Image.open(row) for row in rows], columns=1), file.with_suffix(".png"))
    images = evaluate.draw(SharinganPipeline.from_pretrained(output), range(size.samples), 1.0)
    collapsed = trainer.monitor.collapsed
    return {
        "epochs": len(losses["loss_d"]),
        "kept": epoch,
        "collapsed": collapsed and collapsed // per_epoch,
        "shown": shown,
        **losses,
        "checks": [[int(check["step"]) // per_epoch, round(check["diversity"], 4)] for check in trainer.monitor.checks],
        "digests": digests,
        "metrics": evaluate.as_numbers(evaluate.compare(features_of(images, reference.network), reference)),
    }


def digest(trainer: Trainer) -> str:
    """Of all weights of both networks: one bit of difference gives another."""
    parts = [
        t.detach().cpu().contiguous().numpy().tobytes()
        for n in (trainer.generator, trainer.discriminator)
        for t in n.parameters()
    ]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `python -m training.experiments.collapse`."""
    given = read_flags("collapse", __doc__, arguments)
    size = QUICK if given.quick else Size()
    files = {name: given.results / f"{name}.json" for name in RUNS}
    if not all(file.is_file() for file in files.values()):
        given.results.mkdir(parents=True, exist_ok=True)
        truth = evaluate.true_draws("emblems:sharingan", size.reference)
        pictures = str(emblem_folder(given.work_dir, PICTURES, RESOLUTION))
        reference = evaluate.build_reference(evaluate.training_pictures(pictures), truth)
        for name, file in files.items():
            kept(file, partial(run_one, name, size, file, given.work_dir, pictures, reference))
    collapse_report.write(given.results, given.docs)


if __name__ == "__main__":
    main()
