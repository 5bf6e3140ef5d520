"""Measure a model: quality, variety and originality, against the true distribution where it is known.

    accelerate launch training/evaluate.py --model runs/adapt_default

Writes the key `evaluation` of the model's report.json and brings its card up to date; draws samples/evaluation.png, nearest.png
(is it copying?) and, where there is none, grid.png. Beside the model's own figures stand floors and ceilings that say what
a figure means: the training pictures again and again, the same with augmentation, the model that training began from, and
fresh draws of the true distribution.
"""

import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

if __package__ in (None, ""):  # run as a file: Python put training/ on the path, the rooms are one folder up
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharingan_hub import SharinganPipeline, hub
from sharingan_hub.cards import metrics_table, write_card
from sharingan_hub.features import SIDE, feature_network, features_of, nearest
from training import augment, metrics
from training.checkpoints import emblem_grid, picture_grid, save_picture, write_json
from training.data import load_pictures
from training.metrics import Estimate
from training.sampling import seeded

logger = logging.getLogger("training.evaluate")

UNSEEN = 2**30  # seeds of true emblems from here on are for measuring, never for training
SHAPES = 256  # pictures whose symmetry and roundness are measured
STRIP_SIDE = 128  # pixels of a picture in nearest.png
TURNS = 8  # a copy is a copy whichever way it is turned

Model = SharinganPipeline | Path  # the folder of a diffusion model, made by diffusion.py


@dataclass
class EvaluateConfig:
    """One evaluation.

    Args:
        model: checkpoint folder or Hub id, or the folder of a diffusion model; a folder gets the results.
        train_data: the pictures that the model was adapted to; by default those of its report.json.
        reference: draws of the true distribution that nobody trained on: emblems:NAME, or a folder of at least 100
            pictures. By default emblems:sharingan where train_data is the 15 sharingan, else what train_data names
            if that is emblems:NAME; without one, only what needs none is measured.
        samples: pictures of the model.
        reference_samples: pictures of the true distribution.
        truncation_psi: of the model's pictures; 1 is its whole variety.
        seed: first seed of the model's pictures.
        features: domain (the project's own network), or inception (needs torch-fidelity, and its weights).
        threads: CPU threads; torch decides where not given.
        push_to_hub: publish the folder with its new figures.
        hub_model_id: where to publish it.
        hub_private_repo: publish it privately.
    """

    model: str
    train_data: str | None = None
    reference: str | None = None
    samples: int = 2000
    reference_samples: int = 10_000
    truncation_psi: float = 1.0
    seed: int = 0
    features: Literal["domain", "inception"] = "domain"
    threads: int | None = None
    push_to_hub: bool = False
    hub_model_id: str | None = None
    hub_private_repo: bool = False

    def __post_init__(self) -> None:
        for name, least in (("samples", 100), ("reference_samples", 100), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        if not math.isfinite(self.truncation_psi):
            raise ValueError(f"truncation_psi must be a finite number, got {self.truncation_psi}.")
        if self.push_to_hub and not self.hub_model_id:
            raise ValueError("hub_model_id must be given with push_to_hub.")
        if self.push_to_hub and not Path(self.model).is_dir():
            raise ValueError(f"model must be a folder with push_to_hub, got {self.model!r}.")


@dataclass
class Reference:
    """What a model is measured against.

    Args:
        network: makes features of pictures.
        training_pictures: (N, 3, S, S) in [0, 1].
        training: features (N * 2 * TURNS, D) of them, turned and mirrored; row i is of picture i % N.
        real: features (M, D) of true draws; None where the true distribution is not known.
        real_kernel: KID's mean kernel among them.
    """

    network: nn.Module
    training_pictures: Tensor
    training: Tensor
    real: Tensor | None = None
    real_kernel: float = math.nan


def build_reference(
    training_pictures: Tensor, true_draws: Tensor | None, network: nn.Module | None = None
) -> Reference:
    """Features of the training pictures, in all turns, and of true draws (M, 3, S, S), all in [0, 1]."""
    network = network or feature_network()
    turned = torch.cat(
        [
            rotated(pictures, 2 * math.pi * i / TURNS)
            for pictures in (training_pictures, training_pictures.flip(3))
            for i in range(TURNS)
        ]
    )
    reference = Reference(network, training_pictures, features_of(turned, network))
    if true_draws is not None:
        reference.real = features_of(true_draws, network)
        reference.real_kernel = metrics.mean_kernel(reference.real)
    return reference


def rotated(images: Tensor, angle: float) -> Tensor:
    """Pictures turned about their middle by an angle in radians, the corners filled with what is at the border."""
    c, s = math.cos(angle), math.sin(angle)
    warp = torch.tensor([[c, -s, 0.0], [s, c, 0.0]]).expand(len(images), 2, 3)
    grid = F.affine_grid(warp, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def measure(images: Tensor, reference: Reference) -> dict[str, Estimate]:
    """All figures of pictures (N, 3, S, S) in [0, 1]. Those that need true draws are missing where there are none.

    fid, kid, precision, recall, density, coverage; diversity; copying, data_copying; novelty: how far, in the
    median, the nearest training picture is, in units of how far true draws have it (or, where none are known, the other
    training pictures); symmetry; deformation in percent.
    """
    return compare(features_of(images, reference.network), reference) | shapes(images)


def compare(fake: Tensor, reference: Reference) -> dict[str, Estimate]:
    """Those figures of `measure` that depend on the features (N, D) of the pictures alone."""
    training, real = reference.training, reference.real
    found: dict[str, Estimate] = {}
    apart = torch.cdist(fake, training).amin(dim=1)
    if real is not None:
        found["fid"] = metrics.fid(real, fake)
        found["kid"] = metrics.kid(real, fake, reference.real_kernel)
        found |= metrics.manifold_metrics(real[: len(fake)], fake[: len(real)])
        found["copying"] = metrics.copying(real, fake, training)
        found["data_copying"] = metrics.data_copying(real, fake, training, len(reference.training_pictures))
        usual = torch.cdist(real, training).amin(dim=1).median()
    else:
        count = len(reference.training_pictures)
        own = torch.cdist(training[:count], training)
        own[torch.arange(len(training)).expand_as(own) % count == torch.arange(count)[:, None]] = math.inf
        usual = own.amin(dim=1).median() if count > 1 else torch.tensor(math.nan)
    found["diversity"] = metrics.intra_cluster_diversity(fake, training[: len(reference.training_pictures)])
    median = float(apart.median() / usual)
    # The error of a median is about 1.25 times that of a mean.
    found["novelty"] = Estimate(median, float(1.2533 * (apart / usual).std() / math.sqrt(len(apart))))
    return found


def shapes(images: Tensor) -> dict[str, Estimate]:
    """Those that are measured on the pictures themselves, on the first SHAPES of them."""
    return {"symmetry": metrics.symmetry(images[:SHAPES]), "deformation": metrics.deformation(images[:SHAPES])}


def floors(
    reference: Reference, count: int, source: Model | None, fresh: Tensor | None
) -> dict[str, dict[str, Estimate]]:
    """What the same figures are for pictures whose worth is known."""
    pictures = reference.training_pictures
    repeated = pictures[torch.arange(count) % len(pictures)]
    rng = seeded(0, 0, "floors")
    change = augment.draw(count, ["rotation", "scale", "shift", "flip"], 1.0, rng)
    rows = {"training pictures": repeated, "training pictures, augmented": (change(repeated * 2 - 1) + 1) / 2}
    if source is not None:
        rows["source model"] = draw(source, range(count), 1.0)
    if fresh is not None:
        rows["true draws"] = fresh
    return {name: measure(images, reference) for name, images in rows.items()}


def opened(model: str | Path) -> Model:
    """A model to draw from: the pipeline of a folder or Hub id; the folder of a diffusion model as it is.

    Raises:
        HubError: there is none.
    """
    return Path(model) if (Path(model) / "unet").is_dir() else SharinganPipeline.from_pretrained(model)


def draw(model: Model, seeds: Sequence[int], truncation_psi: float, size: int = SIDE) -> Tensor:
    """A model's pictures (N, 3, size, size) in [0, 1], drawn on an accelerator where there is one.

    A diffusion model knows no truncation and draws at its own size, which is brought to the one asked for.
    """
    if isinstance(model, Path):
        from training import diffusion

        images = (diffusion.sample(model, seeds) + 1) / 2
        return F.interpolate(images, (size, size), mode="bilinear", antialias=True)
    if torch.accelerator.is_available():
        model.to(torch.accelerator.current_accelerator())
    drawn: Any = model(seeds=list(seeds), truncation_psi=truncation_psi, output_size=size, output_type="pt")
    return drawn.images.cpu()


def true_draws(reference: str, count: int, first: int = UNSEEN) -> Tensor:
    """Pictures (N, 3, SIDE, SIDE) in [0, 1] of emblems:NAME from a seed on, or of a folder.

    Raises:
        ValueError: there are too few.
    """
    pictures = load_pictures(reference, SIDE)
    if reference.startswith("emblems:"):
        rows: Sequence[int] = range(first, first + count)
    else:
        rows = range(min(count, len(pictures)))
        if len(rows) < 100:
            raise ValueError(f"reference must have at least 100 pictures to measure against, got {len(rows)}.")
    parts = [pictures.batch(rows[i : i + 500])[0] for i in range(0, len(rows), 500)]
    return (torch.cat(parts) + 1) / 2


def training_pictures(train_data: str) -> Tensor:
    """The pictures of a few-shot set, (N, 3, SIDE, SIDE) in [0, 1]; the first 1000 of a larger one."""
    pictures = load_pictures(train_data, SIDE)
    return (pictures.batch(range(min(1000, len(pictures))))[0] + 1) / 2


def usual_reference(train_data: str) -> str | None:
    """The true distribution that a few-shot set comes from, as far as it is known."""
    if train_data.startswith("emblems:"):
        return train_data
    return "emblems:sharingan" if Path(train_data).name == "sharingan15" else None


def source_model(base: str | None) -> Model | None:
    """The model that training began from, a folder or a Hub id; None, with a warning, where it cannot be had."""
    if not base:
        return None
    try:
        return opened(base)
    except (hub.HubError, ValueError, OSError) as error:
        logger.warning("The table is without the source model, which cannot be had: %s", error)
        return None


def choose_network(features: str) -> nn.Module:
    """The domain network, or torchmetrics' Inception.

    Raises:
        ValueError: Inception needs torch-fidelity.
    """
    if features == "domain":
        return feature_network()
    from torchmetrics.image.fid import FrechetInceptionDistance

    try:
        inception = FrechetInceptionDistance(normalize=True).inception
    except ModuleNotFoundError:
        raise ValueError("features inception needs a package: pip install torch-fidelity.") from None

    class Inception(nn.Module):
        """Pictures in [0, 1] in, as the domain network takes them."""

        def __init__(self) -> None:
            super().__init__()
            self.inception = inception

        def forward(self, images: Tensor) -> Tensor:
            return self.inception((images * 255).byte())

    return Inception()


def evaluate(config: EvaluateConfig) -> Path:
    """Measure a model and write the results into its folder (or, for a Hub id, into ./evaluation); returns the folder.

    Raises:
        ValueError, HubError: the model, its training data or the reference cannot be used, or nobody is logged in to publish.
        TrainingError: the folder is complete, but could not be published.
    """
    from training.train import check_publishing, publish_result

    check_publishing(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    folder = hub.locate(config.model)
    report = hub.read_json(folder / "report.json") if (folder / "report.json").is_file() else {}
    recipe = report.get("recipe", {})
    train_data = config.train_data or recipe.get("train_data")
    if not train_data:
        raise ValueError("train_data must be given: the model's report.json does not say what it was trained on.")
    where = config.reference or usual_reference(train_data)
    model = opened(folder)
    if isinstance(model, Path) and config.truncation_psi != 1:
        raise ValueError(f"truncation_psi must be 1 with a diffusion model, got {config.truncation_psi:g}.")
    source = source_model(recipe.get("base_model"))
    logger.info("Measuring against %s.", where or "the training pictures alone")
    truth = fresh = None
    if where is not None:
        truth = true_draws(where, config.reference_samples)
        if where.startswith("emblems:"):
            fresh = true_draws(where, config.samples, UNSEEN + config.reference_samples)
    reference = build_reference(training_pictures(train_data), truth, choose_network(config.features))
    images = draw(model, range(config.seed, config.seed + config.samples), config.truncation_psi)
    fake = features_of(images, reference.network)
    rows = {"this model": compare(fake, reference) | shapes(images)} | floors(reference, config.samples, source, fresh)
    result: dict[str, Any] = {
        "features": config.features,
        "samples": config.samples,
        "seeds": [config.seed, config.seed + config.samples - 1],
        "truncation_psi": config.truncation_psi,
        "train_data": train_data,
        "reference": where,
        "reference_samples": 0 if truth is None else len(truth),
        "rows": {name: as_numbers(row) for name, row in rows.items()},
    }
    target = folder if Path(config.model).is_dir() else Path("evaluation")
    target.mkdir(exist_ok=True)
    write_json(report | {"evaluation": result}, target / "report.json")
    from training.plots import evaluation_picture, nearest_picture

    close, which = nearest(fake, reference.training)
    likest, samples = close[:, 0].argsort()[:8], target / "samples"
    own = which[likest, 0] % len(reference.training_pictures)
    owners = reference.training_pictures[own]
    evaluation_picture(result["rows"], images[:32], images[likest], owners, samples / "evaluation.png")
    large = draw(model, [config.seed + int(i) for i in likest], config.truncation_psi, STRIP_SIDE)
    large_owners = (load_pictures(train_data, STRIP_SIDE).batch(own.tolist())[0] + 1) / 2
    nearest_picture(large, large_owners, samples / "nearest.png")
    if not (samples / "grid.png").is_file():
        grid = picture_grid(images[:16] * 2 - 1, 8) if isinstance(model, Path) else emblem_grid(model)
        save_picture(grid, samples / "grid.png")
    if target == folder:
        write_card(folder)
    logger.info("%s", metrics_table(result))
    publish_result(config, folder, "Evaluated")
    return target


def as_numbers(row: dict[str, Estimate]) -> dict[str, list[float | None]]:
    """Value and error of each figure, None for what could not be told: JSON has no NaN."""
    return {
        name: [round(x, 6) if math.isfinite(x) else None for x in (estimate.value, estimate.error)]
        for name, estimate in row.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `evaluate.py`. Exit code 2 and one sentence on wrong input."""
    from training.train import parse, run

    run(parse(EvaluateConfig, arguments), evaluate)


if __name__ == "__main__":
    main()
