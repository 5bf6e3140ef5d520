"""DCGAN against WGAN at 28 px, after Menon and Dubey: samples side by side, five optimisers, and KID for what the eye compared.

    python -m training.experiments.dcgan_wgan            # about 20 minutes of one core; what is there already is not run again
    python -m training.experiments.dcgan_wgan --quick    # under 3 minutes

The same networks under three objectives, each with five optimisers at one rate each; every run sees as many pictures.
Their pictures were 21,552 faces scaled to 0..1; these are 4,000 sharingan in -1..1, which is what tanh gives.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from torch import Tensor

from training.checkpoints import picture_grid, save_picture
from training.config import TrainConfig
from training.evaluate import UNSEEN, as_numbers
from training.experiments import dcgan_wgan_report
from training.experiments.results import kept, read_flags
from training.experiments.watched import (
    QUIET,
    emblem_folder,
    picture_features,
    refuse_interrupted,
    samples,
    true_features,
)
from training.metrics import kid
from training.train import build_trainer

RESOLUTION = 28
OBJECTIVES: dict[str, dict[str, Any]] = {
    "dcgan": {"objective": "non_saturating"},
    "mse": {"objective": "mse"},
    "wgan": {"objective": "wasserstein", "regularizers": ["weight_clipping"], "critic_steps": 5},
}
# Adam's and RMSprop's are five times those of the papers on DCGAN and WGAN, whose networks have twice the channels.
RATES = {"adam": 1e-3, "rmsprop": 2.5e-4, "adagrad": 1e-2, "sgd": 5e-2, "momentum": 1e-2}
CHANNELS = 32
SHEET = 64


@dataclass(frozen=True)
class Size:
    """How much is run and measured."""

    pictures: int = 4000
    steps: int = 2000
    samples: int = 2000
    reference: int = 4000


QUICK = Size(pictures=200, steps=25, samples=200, reference=400)


def run_one(objective: str, optimizer: str, size: Size, file: Path, work: Path, reference: Tensor) -> dict[str, Any]:
    """Train one cell -> its KID; beside `file` is written a sheet of 64 samples."""
    output = work / f"{objective}-{optimizer}"
    shutil.rmtree(output, ignore_errors=True)
    settings: dict[str, Any] = {
        "train_data": str(emblem_folder(work, size.pictures, RESOLUTION)),
        "output_dir": str(output),
        "resolution": RESOLUTION,
        "generator": {"class_name": "DCGANGenerator", "channels": CHANNELS},
        "discriminator": {"class_name": "DCGANDiscriminator", "channels": CHANNELS},
        "regularizers": [],
        "optimizer": optimizer,
        "learning_rate": RATES[optimizer],
        "adam_beta1": 0.5,
        "adam_beta2": 0.999,
        "batch_size": 32,
        "ema_decay": 0.0,  # they had no average of weights
        "max_steps": size.steps,
        "checkpointing_steps": size.steps,
    }
    trainer = build_trainer(TrainConfig(**{**settings, **QUIET, **OBJECTIVES[objective]}))
    trainer.train()
    refuse_interrupted(trainer)
    images = samples(trainer, size.samples)
    save_picture(picture_grid(images[:SHEET], 8), file.with_suffix(".png"))
    found = kid(reference, picture_features(images))
    return {"objective": objective, "optimizer": optimizer, "steps": size.steps} | as_numbers({"kid": found})


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `python -m training.experiments.dcgan_wgan`."""
    given = read_flags("dcgan_wgan", __doc__, arguments)
    size = QUICK if given.quick else Size()
    files = {(o, r): given.results / f"{o}-{r}.json" for o, r in product(OBJECTIVES, RATES)}
    if not all(file.is_file() for file in files.values()):
        reference = true_features("emblems:sharingan", size.reference, RESOLUTION)
        floor = true_features("emblems:sharingan", size.samples, RESOLUTION, UNSEEN + size.reference)
        kept(given.results / "floor.json", lambda: as_numbers({"kid": kid(reference, floor)}))
        for (objective, optimizer), file in files.items():
            kept(file, partial(run_one, objective, optimizer, size, file, given.work_dir, reference))
    dcgan_wgan_report.write(given.results, given.docs)


if __name__ == "__main__":
    main()
