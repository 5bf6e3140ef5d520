"""Put two finished runs inside the package: the adapted model as `embedded/default`, its base as `embedded/source`.

    python -m training.embed --default runs/adapt_default --source runs/train_radial runs/train_radial_adversarial

Writes weights, cards (model_cards/, filled in from the runs' report.json, to which training/evaluate.py adds measurements)
and samples; and the adapted model once more as an adapter of its base, into model_cards/adapter-sharingan15. --stylegan2
writes the StyleGAN2 source model to model_cards/stylegan2-source.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from sharingan_hub import SharinganPipeline, hub
from sharingan_hub.adapters import make_adapter
from sharingan_hub.cards import metrics_table
from sharingan_hub.media import image_grid

ROOT = Path(__file__).resolve().parents[1]
SAMPLE_SEEDS, SAMPLE_SIZE = range(8), 512
GRID_SEEDS, GRID_SIZE = range(16), 256


def card_values(folder: Path) -> dict[str, Any]:
    """What a card's template may name, from the run's report and the model itself."""
    report = hub.read_json(folder / "report.json")
    model = SharinganPipeline.from_pretrained(folder).generator_model
    recipe = report["recipe"]
    return {
        **{name: report[name] for name in ("steps", "processes")},
        "images": f"{report['images']:,}",
        "minutes": round(report["minutes"]),
        "parameters": f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M",
        "masks": model.config.get("num_masks", 0),
        "orders": model.config.get("max_order", 0),
        "resolution": recipe["resolution"],
        "batch_size": recipe["batch_size"],
        "augmentations": ", ".join(recipe["augmentations"]),
        "frozen": recipe.get("freeze_discriminator", 0),
        "kept": ", ".join(recipe.get("freeze_generator", [])) or "none",
        "measurements": metrics_table(report["evaluation"]) if "evaluation" in report else "Not measured.",
    }


def summed_values(folders: Sequence[Path]) -> dict[str, Any]:
    """card_values of the last of several runs that went on from one another, pictures and minutes those of all."""
    reports = [hub.read_json(folder / "report.json") for folder in folders]
    return card_values(folders[-1]) | {
        "images": f"{sum(report['images'] for report in reports):,}",
        "minutes": round(sum(report["minutes"] for report in reports)),
    }


def embed(folder: Path, target: Path, card: str, values: dict[str, Any], truncation_psi: float) -> None:
    """Write one checkpoint folder with its card and samples to `target`, in place of what is there."""
    pipe = SharinganPipeline.from_pretrained(folder)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    pipe.save_pretrained(target)
    (target / "README.md").write_text(Template(card).substitute(values))
    samples = target / "samples"
    samples.mkdir()
    pictures: Any = pipe(seeds=SAMPLE_SEEDS, output_size=SAMPLE_SIZE)
    for seed, image in zip(SAMPLE_SEEDS, pictures.images):
        image.save(samples / f"seed{seed:07d}.png", optimize=True)
    pictures = pipe(seeds=GRID_SEEDS, output_size=GRID_SIZE, truncation_psi=truncation_psi)
    image_grid(pictures.images, columns=8, gap=8, background="white").save(samples / "grid.png", optimize=True)
    page = folder / "samples" / "evaluation.png"
    if page.is_file():
        shutil.copy(page, samples / page.name)


def embed_adapter(base: Path, model: Path, target: Path, values: dict[str, Any]) -> None:
    """Write what a model changed of its base as an adapter with its card, in place of what is at `target`."""
    adapted = SharinganPipeline.from_pretrained(model).generator_model
    shutil.rmtree(target, ignore_errors=True)
    report = make_adapter(
        SharinganPipeline.from_pretrained(base).generator_model,
        adapted,
        target,
        base_model="sharingan_hub/embedded/source",
    )
    values = values | {"kilobytes": round(report.size / 1000), "error": f"{report.error:.1e}"}
    (target / "README.md").write_text(Template(target.with_suffix(".md").read_text()).substitute(values))
    (target / "samples").mkdir()
    shutil.copy(model / "samples" / "grid.png", target / "samples" / "grid.png")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `python -m training.embed`."""
    parser = argparse.ArgumentParser(prog="python -m training.embed", description=__doc__.splitlines()[0])
    parser.add_argument("--default", type=Path, help="the adapted run")
    parser.add_argument("--source", type=Path, nargs="+", help="the source model's runs, first to last; with --default")
    parser.add_argument("--stylegan2", type=Path, nargs="+", help="the StyleGAN2 source model's runs, first to last")
    options = parser.parse_args(arguments)
    if (options.default is None) != (options.source is None) or not (options.default or options.stylegan2):
        parser.error("give --default and --source, or --stylegan2, or all three")
    cards, embedded = ROOT / "model_cards", ROOT / "sharingan_hub" / "embedded"
    if options.stylegan2:
        place = cards / "stylegan2-source"
        card = place.with_suffix(".md").read_text()
        embed(options.stylegan2[-1], place, card, summed_values(options.stylegan2), truncation_psi=1.0)
        shutil.copytree(options.stylegan2[-1] / "discriminator", place / "discriminator")
    if options.default is None:
        return

    source = summed_values(options.source)
    default = {f"source_{name}": value for name, value in source.items()} | card_values(options.default)

    card = (cards / "radial-source.md").read_text()
    embed(options.source[-1], embedded / "source", card, source, truncation_psi=1.0)
    shutil.copytree(options.source[-1] / "discriminator", embedded / "source" / "discriminator")
    embed(
        options.default,
        embedded / "default",
        (cards / "radial-sharingan15.md").read_text(),
        default,
        truncation_psi=0.7,
    )
    shutil.copy(embedded / "default" / "samples" / "grid.png", ROOT / "docs" / "pictures" / "grid.png")
    embed_adapter(embedded / "source", embedded / "default", cards / "adapter-sharingan15", default)
    size = sum(
        path.stat().st_size for name in ("default", "source") for path in (embedded / name).rglob("*") if path.is_file()
    )
    print(f"{embedded} holds both models, {size / 1e6:.1f} MB together")


if __name__ == "__main__":
    main()
