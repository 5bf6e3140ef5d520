"""Discriminators and attention for StyleGAN2-ADA: the comparison that Y. Chang planned, with FID, KID, speed and the same seeds.

    python -m training.experiments.discriminators              # about 2 hours of one core; goes on where it stopped
    python -m training.experiments.discriminators --only vit   # one run
    python -m training.experiments.discriminators --quick      # under 3 minutes

Six runs of 30,000 pictures at 64 px on 1,000 sharingan. Each is train.py with a recipe and the settings below laid over it. All have
one seed: the same pictures in the same order, and the same latents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from training.checkpoints import picture_grid, save_picture
from training.config import TrainConfig
from training.evaluate import UNSEEN, as_numbers
from training.experiments import discriminators_report
from training.experiments.results import ROOT, kept, read_flags
from training.experiments.watched import QUIET, Look, emblem_folder, picture_features, samples, true_features, watch
from training.metrics import Estimate, fid, kid, manifold_metrics
from training.trainer import Trainer

RECIPES = ROOT / "training" / "recipes"
RESOLUTION, BATCH = 64, 4
PICTURES = 1000
SHOWN = 10


@dataclass(frozen=True)
class Run:
    """A recipe, and what is laid over it."""

    recipe: str
    settings: Mapping[str, Any] = field(default_factory=dict)


RUNS = {
    "residual": Run("train_stylegan2_ada"),
    "domain": Run("train_stylegan2_ada", {"augmentations": ["rotation", "color"]}),
    "vit": Run("train_vit"),
    "hybrid": Run("train_vit_hybrid"),
    "attention": Run("train_stylegan2_attention"),
    "attention_replaces": Run("train_stylegan2_attention", {"generator": {"attention_replaces": True}}),
}


@dataclass(frozen=True)
class Size:
    """How much is run and measured."""

    steps: int = 7500  # 30,000 pictures
    every: int = 1500
    samples: int = 1000  # at each checkpoint
    final: int = 2000
    reference: int = 4000
    ema_decay: float = 0.998


QUICK = Size(steps=80, every=40, samples=50, final=100, reference=200, ema_decay=0.5)


def settings_of(run: Run, size: Size) -> dict[str, Any]:
    """The recipe with everything laid over it but where its files lie."""
    recipe: dict[str, Any] = yaml.safe_load((RECIPES / f"{run.recipe}.yaml").read_text())
    own = {key: recipe[key] | value if isinstance(value, dict) else value for key, value in run.settings.items()}
    common = {
        "resolution": RESOLUTION,
        "batch_size": BATCH,
        "ada_kimg": 20,  # p can rise from 0 to 1 within the run
        "ema_decay": size.ema_decay,
        "max_steps": size.steps,
        "checkpointing_steps": size.every,
    }
    return {**recipe, **QUIET, **common, **own}


def compare(fakes: Tensor, reference: Tensor) -> dict[str, Estimate]:
    """FID, KID, precision and recall of features (N,D)."""
    shapes = manifold_metrics(reference[: len(fakes)], fakes)
    found = {"fid": fid(reference, fakes), "kid": kid(reference, fakes)}
    return found | {name: shapes[name] for name in ("precision", "recall")}


def look(trainer: Trainer, count: int, reference: Tensor) -> Look:
    """KID of some samples, and ADA's p."""
    found = kid(reference, picture_features(samples(trainer, count)))
    return {"p": round(trainer.probability, 4)} | as_numbers({"kid": found})


def run_one(name: str, size: Size, file: Path, work: Path, reference: Tensor) -> dict[str, Any]:
    """Train one run -> KID over training, and all figures at its end; beside `file` a row of samples."""
    data, output = emblem_folder(work, PICTURES, RESOLUTION), work / f"run-{name}"
    config = TrainConfig(**settings_of(RUNS[name], size) | {"train_data": str(data), "output_dir": str(output)})
    trainer, looks = watch(config, partial(look, count=size.samples, reference=reference))
    images = samples(trainer, size.final)
    save_picture(picture_grid(images[:SHOWN], SHOWN), file.with_suffix(".png"))
    weights = {
        title: sum(p.numel() for p in network.parameters())
        for title, network in (("generator", trainer.generator), ("discriminator", trainer.discriminator))
    }
    metrics = as_numbers(compare(picture_features(images), reference))
    return {"pictures": trainer.step * BATCH, "weights": weights, "looks": looks, "metrics": metrics}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `python -m training.experiments.discriminators`."""
    given = read_flags("discriminators", __doc__, arguments, list(RUNS))
    size = QUICK if given.quick else Size()
    files = {name: given.results / f"{name}.json" for name in RUNS}
    wanted = [name for name, file in files.items() if name in given.only and not file.is_file()]
    if wanted:
        given.results.mkdir(parents=True, exist_ok=True)
        truth = partial(true_features, "emblems:sharingan", resolution=RESOLUTION)
        reference = truth(size.reference)
        floor = partial(truth, size.final, first=UNSEEN + size.reference)
        kept(given.results / "floor.json", lambda: as_numbers(compare(floor(), reference)))
        for name in wanted:
            kept(files[name], partial(run_one, name, size, files[name], given.work_dir, reference))
    if all(file.is_file() for file in files.values()):
        discriminators_report.write(files, given.docs)


if __name__ == "__main__":
    main()
