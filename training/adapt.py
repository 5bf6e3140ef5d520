"""Adapt a trained generator to a few pictures.

    accelerate launch training/adapt.py --config training/recipes/adapt_default.yaml \
        --train_data my_pictures --output_dir runs/mine

The same loop as train.py, started from a pipeline that has its discriminator beside it, RadialGenerator or
StyleGAN2Generator. Every method is a few settings, has a recipe (adapt_NAME.yaml), and may be combined with the others:

- finetune: all weights (TransferGAN, Wang et al. 2018).
- ada, diffaugment: augmentation, `augment` (Karras et al. 2020; Zhao et al. 2020).
- freezed: the discriminator's early blocks stay as they are, `freeze_discriminator` (FreezeD, Mo et al. 2020).
- freezeg: the same for parts of the generator, `freeze_generator`.
- scale_shift: styles' affine layers and biases learn, and nothing else, `train_only` (Noguchi and Harada 2019).
- ewc: weights are held by their Fisher information, `ewc_weight` (Li et al. 2020).
- cdc: what is alike stays alike, `correspondence_weight`; whole pictures are judged near a few anchors alone,
  `anchor_every`, and patches elsewhere, `patch_level` (Ojha et al. 2021).
- patches, cdc_patches: patches of any size and shape at any level, without the rest of CDC or with it, `patch_size`
  (Tang's sharinGAN relaxed CDC's).
- rick: filters frozen, removed or fine-tuned by their Fisher information, `fisher_freeze`, `fisher_zero`,
  `fisher_interval` (AdAM, Zhao et al. 2022; RICK, Zhao et al. 2023).
- adapter: changes of low rank alone, `adapter_rank` (LoRA, Hu et al. 2021); a file of less than 1 MB.
- symmetry: a loss for what rotational symmetry forbids, `symmetry_weight`.
- statistics: colours over the radius brought to those of the pictures, `statistics_weight` (radial_statistics.py).
- designs: mapping and palette begin where the pictures say, `designs` (designs.py); RadialGenerator alone.
- default: what README recommends.
"""

import logging
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: Python put training/ on the path, the rooms are one folder up
    sys.path[0] = str(Path(__file__).resolve().parent.parent)


import sharingan_hub
from sharingan_hub import hub
from sharingan_hub.cards import write_card
from training.checkpoints import write_json
from training.config import TrainConfig
from training.low_rank import add_low_rank, write_adapter
from training.players import weights_of
from training.train import build_trainer, parse, run, train
from training.trainer import Trainer

logger = logging.getLogger("training.adapt")

ADAPTER_LIMIT = 1_000_000  # bytes; a larger change is no small file to share
EMBEDDED_SOURCE = Path(sharingan_hub.__file__).parent / "embedded" / "source"


@dataclass
class AdaptConfig(TrainConfig):
    """One adaptation: the keys of a training run, and how much of the base model to keep.

    Args:
        freeze_discriminator: blocks of the discriminator, from the picture on, that are not trained.
        freeze_generator: parts of the generator that are not trained, by the beginnings of their weights' names or by
            patterns ("*.affine.*"); | parts alternatives, of which one must fit.
        train_only: the only parts of the generator that are trained, named likewise; all where none is named.
        adapter_rank: train changes of this rank instead of whole matrices (LoRA). A change that is small enough, trained so
            or not, is also written as output_dir/adapter, to be laid over the base model.
    """

    freeze_discriminator: int = 0
    freeze_generator: list[str] = field(default_factory=list)
    train_only: list[str] = field(default_factory=list)
    adapter_rank: int | None = None

    def __post_init__(self) -> None:
        if self.base_model is None:
            self.base_model = str(EMBEDDED_SOURCE)
        super().__post_init__()
        if self.designs and self.adapter_rank is not None:
            raise ValueError(f"designs must be 0 with adapter_rank: they change whole matrices; got {self.designs}.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `adapt.py`. Exit code 2 and one sentence on wrong input, 1 where training cannot go on."""
    run(parse(AdaptConfig, arguments), adapt)


def adapt(config: AdaptConfig) -> Path:
    """Adapt as a config says; returns the checkpoint folder.

    Raises:
        ValueError: the config does not fit the data or the base model.
        TrainingError: training cannot go on, or its result could not be published.
    """

    def share_change(folder: Path) -> None:
        assert config.base_model is not None
        adapter = write_adapter(config.base_model, hub.read_generator(folder), folder / "adapter", config.adapter_rank)
        if adapter.size > ADAPTER_LIMIT:
            shutil.rmtree(folder / "adapter")
        else:
            describe_adapter(folder, adapter.error)
            logger.info("%s holds the change alone, %.0f kB.", folder / "adapter", adapter.size / 1000)

    return train(config, partial(freeze, config), share_change)


def build_adaptation(config: AdaptConfig) -> Trainer:
    """The trainer that `adapt` runs, for those who run it step by step.

    Raises:
        ValueError: the config does not fit the data or the base model.
    """
    return build_trainer(config, partial(freeze, config))


def freeze(config: AdaptConfig, generator: Any, discriminator: Any) -> None:
    """Leave of the networks to train what a config says."""
    discriminator.freeze(config.freeze_discriminator)
    freeze_parts(generator, config.freeze_generator, config.train_only)
    if config.adapter_rank is not None:
        add_low_rank(generator, config.adapter_rank, config.seed)


def describe_adapter(folder: Path, error: float) -> None:
    """Put a report, a grid of pictures and a card beside the adapter of a run, so that it can be published by itself.

    error: what the adapter leaves out of the change, as a share of it.
    """
    adapter = folder / "adapter"
    write_json(hub.read_json(folder / "report.json") | {"adapter": {"error": error}}, adapter / "report.json")
    grids = sorted((folder / "samples").glob("step_*.png"))
    if grids:
        (adapter / "samples").mkdir(exist_ok=True)
        shutil.copy(grids[-1], adapter / "samples" / "grid.png")
    write_card(adapter)


def freeze_parts(generator: Any, frozen: Sequence[str], only: Sequence[str] = ()) -> None:
    """Stop training the weights that `frozen` names, and where `only` names some, all others than those.

    Both name weights as `weights_of` does.

    Raises:
        ValueError: a name fits no weight, or nothing is left to train.
    """
    weights = dict(generator.named_parameters())
    names = list(weights)
    trained = {name for pattern in only for name in weights_of("train_only", pattern, names)} if only else set(names)
    trained -= {name for pattern in frozen for name in weights_of("freeze_generator", pattern, names)}
    for name in weights.keys() - trained:
        weights[name].requires_grad_(False)
    if not any(weight.requires_grad for weight in weights.values()):
        raise ValueError("freeze_generator leaves nothing to train.")


if __name__ == "__main__":
    main()
