"""CoGAN: how far the two pictures of a pair correspond, measured with the attributes that the renderer draws from.

    python -m training.experiments.pairs            # about an hour of one core; goes on where it stopped
    python -m training.experiments.pairs --only 2   # the runs with two shared layers
    python -m training.experiments.pairs --quick    # under 3 minutes

train_cogan.yaml at 32 px, with half its channels and R1, several times: with no shared layer and with more and more of them, with
three seeds each, for what comes to belong together is settled in the first steps. The ruler are ridge regressions, one for each
domain, from the features of the domain network to an emblem's attributes, fitted on true draws. It reads the attributes off both
pictures of a pair, and off pairs that are one design drawn in both ways. Where ink is, is compared pixel by pixel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from sharingan_hub.postprocess import estimate_order
from training.checkpoints import picture_grid, save_picture
from training.config import TrainConfig
from training.emblems import Emblem, render, sample_emblems
from training.evaluate import UNSEEN, as_numbers
from training.experiments import pairs_report
from training.experiments.results import ROOT, kept, read_flags
from training.experiments.watched import QUIET, picture_features, samples, watch
from training.metrics import kid
from training.targets import drawn_plainly

RECIPE = ROOT / "training" / "recipes" / "train_cogan.yaml"
DOMAINS = ("sharingan", "plain")
SHARED = (0, 1, 2, 3)  # of four layers, the last of which is never shared
CHANNELS = 32
PENALTY = 1.0  # of the ridge; the features have a variance of about 1
INSIDE = 0.8  # radius, within the rim of every sharingan
SHOWN = 8


@dataclass(frozen=True)
class Size:
    """How much is run and measured."""

    resolution: int = 32
    seeds: Sequence[int] = (0, 1, 2)
    steps: int = 2000
    batch_size: int = 32
    pairs: int = 1000
    emblems: int = 4000  # that a ruler is fitted on; a quarter as many more test it


QUICK = Size(seeds=(0,), steps=200, pairs=100, emblems=400)


# ---------------------------------------------------------------------------------------------------------------- the ruler


def attributes(emblem: Emblem) -> dict[str, float]:
    """What is measured of an emblem: numbers that vary in both domains and can be read off their features, by their titles."""
    first = emblem.patterns[0]
    return {
        "order": emblem.order,
        "ring's radius": emblem.rings[0].radius,
        "pattern's radius": first.radius,
        "pattern's length": 2 * first.size,
        "pattern's width": 2 * first.size * first.aspect,
        "number of patterns": len(emblem.patterns),
    }


@dataclass(frozen=True)
class Ruler:
    """Reads attributes off features of one domain: linear answers (D,A) and their offsets (A,).

    truth: the features (N,D) that it was fitted on.
    """

    weights: Tensor
    offset: Tensor
    truth: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        return features.double() @ self.weights + self.offset


def fit_ruler(features: Tensor, attributes: Tensor) -> Ruler:
    """Ridge regression of attributes (N,A) on features (N,D), the offset unpenalised."""
    x, y = features.double(), attributes.double()
    centred = x - x.mean(0)
    inner = centred.t() @ centred + PENALTY * torch.eye(x.shape[1], dtype=x.dtype)
    weights = torch.linalg.solve(inner, centred.t() @ (y - y.mean(0)))
    return Ruler(weights, y.mean(0) - x.mean(0) @ weights, features)


def explained(found: Tensor, truth: Tensor) -> Tensor:
    """R^2 of each column: the share of the truth's variance that is not left over."""
    return 1 - (found - truth).square().mean(0) / truth.double().var(0, correction=0)


def correlations(one: Tensor, other: Tensor) -> Tensor:
    """Pearson's r of each column of (N,A) with the same column of the other; 0 where one does not vary."""
    a, b = (x.double() - x.double().mean(0) for x in (one, other))
    return ((a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0)).clamp(min=1e-12)).clamp(-1, 1)


def ink(images: Tensor) -> Tensor:
    """Where pictures (N,3,S,S) of either domain differ from their mean, (N,P): red, of which ink has none and an iris has
    much, in the pixels well inside the iris."""
    axis = torch.linspace(-1, 1, images.shape[2])
    red = images[:, 0, torch.hypot(axis[:, None], axis) < INSIDE]
    return red - red.mean(0)


def agreement(pairs: Tensor, rulers: Sequence[Ruler]) -> dict[str, Any]:
    """How far the pictures of pairs (N,6,S,S) in [-1,1] belong together, and the KID of each domain's.

    `pairs`: of each attribute the correlation of what is read off both, and of where ink is; and the share of pairs whose
    symmetry has one order.
    `strangers`: the same for pairs put together anew, each picture with the next one's partner.
    """
    parts = [part.clamp(-1, 1) for part in pairs.split(3, dim=1)]
    features = [picture_features(part) for part in parts]
    read = [ruler(own) for ruler, own in zip(rulers, features)]
    orders = [estimate_order((part + 1) / 2) for part in parts]
    inks = [ink(part) for part in parts]
    found: dict[str, Any] = {
        name: {
            "correlation": [
                *correlations(read[0], read[1].roll(shift, 0)).tolist(),
                float(correlations(inks[0].view(-1, 1), inks[1].roll(shift, 0).view(-1, 1))),
            ],
            "same_order": float((orders[0] == orders[1].roll(shift)).double().mean()),
        }
        for name, shift in (("pairs", 0), ("strangers", 1))
    }
    kids = {domain: kid(ruler.truth, own) for domain, ruler, own in zip(DOMAINS, rulers, features)}
    return found | {"count": len(pairs), "kid": as_numbers(kids)}


def rulers_of(size: Size) -> tuple[list[Ruler], dict[str, Any]]:
    """A ruler for each domain, and how good they are: R^2 on emblems that they were not fitted on, and what they find in
    pairs that are one design drawn in both ways."""
    rulers, known = [], {}
    for domain in DOMAINS:
        features, truth = [], []
        for first, count in ((UNSEEN, size.emblems), (UNSEEN + size.emblems, size.emblems // 4)):
            emblems = sample_emblems(domain, range(first, first + count))
            features.append(picture_features(pictures_of(emblems, size.resolution)))
            truth.append(torch.tensor([list(attributes(emblem).values()) for emblem in emblems]))
        rulers.append(fit_ruler(features[0], truth[0]))
        known[domain] = explained(rulers[-1](features[1]), truth[1]).tolist()
    first = UNSEEN + 2 * size.emblems
    designs = sample_emblems("sharingan", range(first, first + size.pairs))
    drawn = [pictures_of(emblems, size.resolution) for emblems in (designs, [drawn_plainly(e) for e in designs])]
    names = [*attributes(designs[0]), "where ink is"]
    return rulers, {"attributes": names, "r2": known} | agreement(torch.cat(drawn, dim=1), rulers)


def pictures_of(emblems: Sequence[Emblem], resolution: int) -> Tensor:
    """Pictures (N,3,S,S) in [-1,1] of emblems."""
    parts = [render(emblems[i : i + 500], resolution) for i in range(0, len(emblems), 500)]
    return torch.cat(parts) * 2 - 1


# ----------------------------------------------------------------------------------------------------------------- the runs


def run_one(shared: int, seed: int, size: Size, file: Path, work: Path, rulers: Sequence[Ruler]) -> dict[str, Any]:
    """Train with so many shared layers -> how far its pairs correspond; beside `file` some of them are shown."""
    recipe = yaml.safe_load(RECIPE.read_text())
    for network in ("generator", "discriminator"):
        recipe[network] |= {"shared_layers": shared, "channels": CHANNELS}
    run = {
        "seed": seed,
        "resolution": size.resolution,
        "batch_size": size.batch_size,
        "regularizers": ["r1"],
        "r1_gamma": 1.0,
        "learning_rate": 1e-3,  # the recipe's 2e-4 is for wider networks and more time
        "ema_decay": 0.99,
        "max_steps": size.steps,
        "checkpointing_steps": size.steps // 2,
        "output_dir": str(work / file.stem),
    }
    trainer, _ = watch(TrainConfig(**recipe | QUIET | run), lambda _: {})
    pairs = samples(trainer, size.pairs)
    save_picture(picture_grid(pairs[:SHOWN], SHOWN), file.with_suffix(".png"))
    return {"shared_layers": shared, "seed": seed, "steps": trainer.step} | agreement(pairs, rulers)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `python -m training.experiments.pairs`."""
    given = read_flags("pairs", __doc__, arguments, [str(shared) for shared in SHARED])
    size = QUICK if given.quick else Size()
    files = {(shared, seed): given.results / f"shared{shared}-{seed}.json" for shared in SHARED for seed in size.seeds}
    wanted = [run for run, file in files.items() if str(run[0]) in given.only and not file.is_file()]
    if wanted:
        given.results.mkdir(parents=True, exist_ok=True)
        rulers, known = rulers_of(size)
        kept(given.results / "ruler.json", lambda: known)
        for run in wanted:
            kept(files[run], partial(run_one, *run, size, files[run], given.work_dir, rulers))
    if all(file.is_file() for file in files.values()):
        pairs_report.write(files, given.docs, CHANNELS)


if __name__ == "__main__":
    main()
