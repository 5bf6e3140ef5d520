"""Put finished runs inside the package and into model_cards/: weights, samples, reports and cards.

    python -m training.embed --default runs/adapt_default

--default is the adapted model, which becomes `embedded/default` and, as an adapter of `embedded/source`,
model_cards/adapter-sharingan15. --source replaces its base, `embedded/source`; --stylegan2 the StyleGAN2 source model,
model_cards/stylegan2-source; --adapted NAME RUN any other adapted model, model_cards/NAME. What a card says beside the facts of
report.json stands in model_cards/NAME.md.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from sharingan_hub import SharinganPipeline, hub
from sharingan_hub.cards import public_report, write_card
from sharingan_hub.checkpoints import ticket
from sharingan_hub.checkpoints.adapters import make_adapter
from training.checkpoints import emblem_grid, write_json
from training.data import load_pictures
from training.report import origins

ROOT = Path(__file__).resolve().parents[1]
SAMPLE_SEEDS, SAMPLE_SIZE = range(8), 512
PREVIEW_WIDTH = 512  # of the strip that shows training: the package is to stay small
HEADINGS = {"## How it was made": "method", "## Limits": "limits"}


def card_words(path: Path) -> dict[str, str]:
    """Title, introduction, method and limits of a model from a file of model_cards/, as report.json holds them."""
    title, *lines = path.read_text(encoding="utf-8").splitlines()
    parts: dict[str, list[str]] = {"introduction": []}
    name = "introduction"
    for line in lines:
        name = HEADINGS.get(line, name)
        if line not in HEADINGS:
            parts.setdefault(name, []).append(line)
    return {"title": title.removeprefix("# ")} | {key: "\n".join(text).strip() for key, text in parts.items()}


def full_report(folder: Path, words: Path) -> dict[str, Any]:
    """A run's report for others to read, with the words of its card, and what an older run did not say of its origins."""
    report = hub.read_json(folder / "report.json")
    recipe = report["recipe"]
    if "base_model" not in report:
        endless = recipe["train_data"].startswith("emblems:")
        pictures = None if endless else len(load_pictures(recipe["train_data"], 16))
        report |= origins(recipe.get("base_model"), recipe["train_data"], pictures)
    return public_report(report) | {"card": card_words(words)}


def embed(folder: Path, target: Path, report: dict[str, Any], truncation_psi: float) -> None:
    """Write one checkpoint folder with report, samples and card to `target`, in place of what is there."""
    pipe = SharinganPipeline.from_pretrained(folder)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    pipe.save_pretrained(target)
    write_json(report, target / "report.json")
    if (folder / ticket.FILE).is_file():
        shutil.copy(folder / ticket.FILE, target / ticket.FILE)
    samples = target / "samples"
    samples.mkdir()
    pictures: Any = pipe(seeds=SAMPLE_SEEDS, output_size=SAMPLE_SIZE)
    for seed, image in zip(SAMPLE_SEEDS, pictures.images):
        image.save(samples / f"seed{seed:07d}.png", optimize=True)
    emblem_grid(pipe, truncation_psi).save(samples / "grid.png", optimize=True)
    made = folder / "samples"
    strip = next((made / name for name in ("nearest.png", "evaluation.png") if (made / name).is_file()), None)
    if strip is not None:  # the page holds the strip, and little else that the card does not
        shutil.copy(strip, samples / strip.name)
    if (made / "preview.png").is_file():
        with Image.open(made / "preview.png") as preview:
            height = max(1, round(preview.height * PREVIEW_WIDTH / preview.width))
            small = preview.convert("RGB").resize((PREVIEW_WIDTH, height), Image.Resampling.LANCZOS)
            small.quantize(256).save(samples / "preview.png", optimize=True)
    write_card(target)


def embed_adapter(base: Path, model: Path, target: Path, report: dict[str, Any]) -> None:
    """Write what a model changed of its base as an adapter with report and card, in place of what is at `target`."""
    adapted = SharinganPipeline.from_pretrained(model).generator_model
    shutil.rmtree(target, ignore_errors=True)
    base_model = f"sharingan_hub/embedded/{base.name}"
    made = make_adapter(SharinganPipeline.from_pretrained(base).generator_model, adapted, target, base_model=base_model)
    report = report | {"adapter": {"error": made.error}, "base_model": base_model}
    write_json(report, target / "report.json")
    (target / "samples").mkdir()
    for name in ("grid.png", "nearest.png"):
        if (model / "samples" / name).is_file():
            shutil.copy(model / "samples" / name, target / "samples" / name)
    write_card(target)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `python -m training.embed`."""
    parser = argparse.ArgumentParser(prog="python -m training.embed", description=__doc__.splitlines()[0])
    parser.add_argument("--default", type=Path, help="the adapted run")
    parser.add_argument("--source", type=Path, help="the source model's run, the last where it took several")
    parser.add_argument("--stylegan2", type=Path, help="the StyleGAN2 source model's run, likewise")
    parser.add_argument("--adapted", nargs=2, metavar=("NAME", "RUN"), help="a model of model_cards/, and its run")
    options = parser.parse_args(arguments)
    if not (options.default or options.source or options.stylegan2 or options.adapted):
        parser.error("give --default, --source, --stylegan2, --adapted, or several of them")
    cards, embedded = ROOT / "model_cards", ROOT / "sharingan_hub" / "embedded"
    sources = (
        (options.stylegan2, cards / "stylegan2-source", cards / "stylegan2-source.md"),
        (options.source, embedded / "source", cards / "radial-source.md"),
    )
    for run, place, words in sources:
        if run is not None:
            embed(run, place, full_report(run, words), truncation_psi=1.0)
            shutil.copytree(run / "discriminator", place / "discriminator")
            write_card(place)
    if options.adapted is not None:
        name, run = options.adapted[0], Path(options.adapted[1])
        embed(run, cards / name, full_report(run, cards / f"{name}.md"), truncation_psi=0.7)
    if options.default is None:
        return

    report = full_report(options.default, cards / "radial-sharingan15.md")
    embed(options.default, embedded / "default", report, truncation_psi=0.7)
    shutil.copy(embedded / "default" / "samples" / "grid.png", ROOT / "docs" / "pictures" / "grid.png")
    adapter = cards / "adapter-sharingan15"
    report["card"] = card_words(adapter.with_suffix(".md"))
    embed_adapter(embedded / "source", embedded / "default", adapter, report)
    size = sum(
        path.stat().st_size for name in ("default", "source") for path in (embedded / name).rglob("*") if path.is_file()
    )
    print(f"{embedded} holds both models, {size / 1e6:.1f} MB together")


if __name__ == "__main__":
    main()
