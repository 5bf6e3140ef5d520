"""Adapt a trained generator to a few pictures.

    accelerate launch training/adapt.py --config training/recipes/adapt_default.yaml \
        --train_data my_pictures --output_dir runs/mine

The same loop as train.py, started from a pipeline that has its discriminator beside it. Methods so far: plain
fine-tuning (TransferGAN, Wang et al. 2018), augmentation (`augment`), FreezeD (`freeze_discriminator`, Mo et al. 2020),
and the same for the generator (`freeze_generator`).
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: Python put training/ on the path, the rooms are one folder up
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import sharingan_hub
from training.config import TrainConfig
from training.game import weights_of
from training.train import parse, run, train

EMBEDDED_SOURCE = Path(sharingan_hub.__file__).parent / "embedded" / "source"


@dataclass
class AdaptConfig(TrainConfig):
    """One adaptation: the keys of a training run, and how much of the base model to keep.

    Args:
        freeze_discriminator: blocks of the discriminator, from the picture on, that are not trained.
        freeze_generator: parts of the generator that are not trained, by the beginning of their weights' names.
    """

    freeze_discriminator: int = 0
    freeze_generator: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base_model is None:
            self.base_model = str(EMBEDDED_SOURCE)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `adapt.py`. Exit code 2 and one sentence on wrong input, 1 where training cannot go on."""
    run(parse(AdaptConfig, arguments), adapt)


def adapt(config: AdaptConfig) -> Path:
    """Adapt as a config says; returns the checkpoint folder.

    Raises:
        ValueError: the config does not fit the data or the base model.
        TrainingError: training cannot go on.
    """

    def freeze(generator: Any, discriminator: Any) -> None:
        discriminator.freeze(config.freeze_discriminator)
        freeze_parts(generator, config.freeze_generator)

    return train(config, freeze)


def freeze_parts(generator: Any, beginnings: Sequence[str]) -> None:
    """Stop training the weights whose names begin so.

    Raises:
        ValueError: a beginning fits no weight, or nothing is left to train.
    """
    weights = dict(generator.named_parameters())
    for beginning in beginnings:
        for name in weights_of("freeze_generator", beginning, list(weights)):
            weights[name].requires_grad_(False)
    if not any(weight.requires_grad for weight in weights.values()):
        raise ValueError("freeze_generator leaves nothing to train.")


if __name__ == "__main__":
    main()
