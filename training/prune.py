"""Find lottery tickets: sparse parts of a generator that adapt as well as all of it.

    accelerate launch training/prune.py --config training/recipes/prune_radial.yaml \
        --train_data my_pictures --output_dir runs/tickets

Iterative magnitude pruning with rewinding (Frankle and Carbin 2019; Frankle et al. 2020; on GANs Chen et al. 2021 and
Kalibhat et al. 2021), through torch.nn.utils.prune. Round 0 adapts the whole base model. Before each further round the
smaller half of what is left of the generator's weights is pruned, the rest goes back to its values at the rewinding point,
and the same adaptation begins again, the discriminator's too, with the pruned weights held at zero.

Each round is a checkpoint folder of its own, `output_dir/round_K`, with dense weights, `ticket.safetensors` beside them, and
the same budget; the last one is copied to output_dir. On the source distribution, rounds thin the source model, as Tang did
for sharinGAN; then `--rounds 0` with a round as base_model adapts that ticket to a few pictures, its mask held. On the
few pictures themselves, each round is an adaptation.
"""

import math
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

if __package__ in (None, ""):  # run as a file: Python put training/ on the path, the rooms are one folder up
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from torch import Tensor
from torch.nn.utils import prune as masks

from sharingan_hub import hub
from sharingan_hub.cards import write_card
from sharingan_hub.checkpoints import ticket
from training.adapt import AdaptConfig, freeze_parts
from training.checkpoints import list_checkpoints, replaced_folder, write_json
from training.sampling import seeded
from training.train import check_publishing, parse, publish_result, run, train

SHARE = 0.5  # of what is left, pruned before each round


@dataclass
class PruneConfig(AdaptConfig):
    """One search for tickets: the keys of an adaptation, whose max_steps and max_minutes are those of each round.

    Args:
        rounds: how often half of what is left is pruned; 1, 2, 3 rounds leave 50, 25, 12.5 %.
        rewind_step: steps after which the rewinding point lies; at 0 it is the base model itself.
        criterion: what decides which weights go. magnitude: the smallest of all layers together; layer_magnitude: the
            smallest of each layer; random: any, which shows what the magnitude is good for.
    """

    rounds: int = 3
    rewind_step: int = 0
    criterion: Literal["magnitude", "layer_magnitude", "random"] = "magnitude"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.designs:
            raise ValueError(
                f"designs must be 0 in a search for tickets: they fill pruned matrices; got {self.designs}."
            )
        for name in ("rounds", "rewind_step"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        if self.stop_on_collapse:
            raise ValueError("stop_on_collapse must be false: a round that went back would not have ended.")
        if self.resume_from not in (None, "latest"):
            raise ValueError(f"resume_from must be latest, which finds the round too; got {self.resume_from!r}.")
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise ValueError("prune.py runs in one process; start it with --num_processes 1.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `prune.py`. Exit code 2 and one sentence on wrong input, 1 where training cannot go on."""
    run(parse(PruneConfig, arguments), prune)


def prune(config: PruneConfig) -> Path:
    """Search for tickets as a config says; returns output_dir, or the folder of the round that was interrupted.

    A finished round is not run again.

    Raises:
        ValueError: the config does not fit the data or the base model, or output_dir holds an earlier search.
        TrainingError: training cannot go on.
    """
    check_publishing(config)
    output = Path(config.output_dir)
    if config.resume_from is None and any(output.glob("round_*")):
        raise ValueError(
            f"output_dir {output} holds rounds of an earlier search: give --resume_from latest to go on, "
            f"or another output_dir."
        )
    assert config.base_model is not None  # the embedded source, where none was given
    base = hub.locate(config.base_model)
    kept = masks_of_ticket(base)
    if config.rewind_step:
        if not run_round(config, base, output / "rewinding_point", kept, steps=config.rewind_step):
            return output / "rewinding_point"
        base = output / "rewinding_point"
    folder = output
    for number in range(config.rounds + 1):
        if number:
            trained = hub.read_generator(folder)
            kept = next_masks(hub.read_generator(base), trained, kept, config.criterion, config.seed + number)
        folder = output / f"round_{number}"
        if not run_round(config, base, folder, kept):
            return folder
        judge = base / "discriminator"
        if judge.is_dir() and not (folder / judge.name).is_dir():  # a round of teaching alone leaves it as it was
            copy_whole(judge, folder / judge.name)
        describe(folder, number, sparse=bool(kept))
    for path in sorted(folder.iterdir()):
        if path.name != "README.md":  # that of output_dir may have been edited
            copy_whole(path, output / path.name)
    write_card(output)
    publish_result(config, output)
    return output


def run_round(config: PruneConfig, base: Path, folder: Path, kept: dict[str, Tensor], steps: int | None = None) -> bool:
    """Adapt from the base with masks held, unless that is done; False where it was interrupted.

    steps: in place of max_steps and max_minutes.
    """
    end: dict[str, Any] = {} if steps is None else {"max_steps": steps, "max_minutes": None, "cooldown": 0.0}
    own = replace(config, base_model=str(base), output_dir=str(folder), resume_from="latest", push_to_hub=False, **end)
    if ended(own):
        return True

    def prepare(generator: Any, discriminator: Any) -> None:
        discriminator.freeze(config.freeze_discriminator)
        freeze_parts(generator, config.freeze_generator, config.train_only)
        hold(generator, kept)

    train(own, prepare)
    return ended(own)


def ended(config: PruneConfig) -> bool:
    """Whether a run has come to its end and written its result."""
    folder = Path(config.output_dir)
    checkpoints = list_checkpoints(folder / "checkpoints")
    if not checkpoints or not (folder / "report.json").is_file():
        return False
    report, progress = hub.read_json(folder / "report.json"), hub.read_json(checkpoints[-1] / "progress.json")
    if "sparsity" in report:
        return True
    if report["steps"] != progress["step"]:
        return False  # killed between the checkpoint and the result
    steps, minutes = config.max_steps or math.inf, config.max_minutes or math.inf
    return progress["step"] >= steps or progress["seconds"] >= 60 * minutes


@torch.no_grad()
def hold(generator: Any, kept: dict[str, Tensor]) -> None:
    """Hold weights at zero where their masks are: a number there gets no gradient, and every forward pass masks it.

    Without gradients, so that the generator can be copied (a masked weight is then no step of a computation).
    """
    modules = ticket.prunable(generator)
    for name, mask in kept.items():
        masks.custom_from_mask(modules[name], "weight", mask)


@torch.no_grad()
def next_masks(generator: Any, trained: Any, kept: dict[str, Tensor], criterion: str, seed: int) -> dict[str, Tensor]:
    """Masks that keep half of what the given ones keep: of each weight the name and 0 or 1 for each number.

    generator: any of the architecture; it is changed. trained: the one whose magnitudes count.
    kept: masks so far; none where nothing is pruned yet. seed: of a random choice.
    """
    hold(generator, kept)
    modules, scores = ticket.prunable(generator), {}
    for name, module in ticket.prunable(trained).items():
        if criterion == "random":
            scores[modules[name], "weight"] = torch.rand(module.weight.shape, generator=seeded(seed, 0, name))
        else:
            scores[modules[name], "weight"] = magnitude(module)
    if criterion == "layer_magnitude":
        for (module, name), score in scores.items():
            masks.l1_unstructured(module, name, SHARE, importance_scores=score)
    else:
        masks.global_unstructured(list(scores), masks.L1Unstructured, importance_scores=scores, amount=SHARE)
    return {name: module.weight_mask.clone() for name, module in modules.items()}


def magnitude(module: Any) -> Tensor:
    """How large a layer's numbers are, beside those of a fresh layer of its kind.

    With an equalised learning rate all layers are stored at unit variance, whatever their width, except where a layer learns
    more slowly and is stored larger, as StyleGAN2's mapping network; its gain at run time says by how much.
    """
    gain = getattr(module, "weight_gain", getattr(module, "gain", None))
    unit = 1.0 if gain is None else gain * math.sqrt(module.weight[0].numel())
    return module.weight.detach().abs() * unit


def masks_of_ticket(folder: Path) -> dict[str, Tensor]:
    """The masks of a checkpoint folder that is a ticket; none where it is not."""
    if not (folder / ticket.FILE).is_file():
        return {}
    generator = hub.read_generator(folder)
    tensors = ticket.read_ticket(folder / ticket.FILE, generator)
    return {name: (tensors[name] != 0).float() for name in ticket.prunable(generator)}


def describe(folder: Path, number: int, sparse: bool) -> None:
    """Write a round's ticket, where it is sparse, and into its report and card how sparse it is and what the file came to."""
    report = hub.read_json(folder / "report.json")
    if "sparsity" in report:
        return
    generator = hub.read_generator(folder)
    size = ticket.write_ticket(folder / ticket.FILE, generator) if sparse else None
    weights = {name: module.weight for name, module in ticket.prunable(generator).items()}
    left = {name: int(weight.count_nonzero()) for name, weight in weights.items()}
    count = sum(weight.numel() for weight in weights.values())
    report |= {
        "round": number,
        "sparsity": 1 - sum(left.values()) / count,
        "prunable": count,
        "layers": {name: round(1 - left[name] / weight.numel(), 4) for name, weight in weights.items()},
        "dense_bytes": (folder / "generator_model" / hub.WEIGHTS).stat().st_size,
        "ticket_bytes": size,
    }
    write_json(report, folder / "report.json")
    write_card(folder)


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file or folder of a result, whole or not at all; what is for resuming alone stays where it is."""
    if source.name in ("checkpoints", "logs") or source.name.startswith("."):
        return
    if source.is_dir():
        with replaced_folder(target) as temporary:
            shutil.copytree(source, temporary, dirs_exist_ok=True)
    else:
        draft = target.with_name(f".{target.name}.tmp")
        shutil.copy(source, draft)
        os.replace(draft, target)


if __name__ == "__main__":
    main()
