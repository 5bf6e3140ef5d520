"""What goes into the package: weights, samples, a report without machine's paths, and a card; the base need not be rebuilt."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

from sharingan_hub import RadialGenerator, SharinganPipeline, hub
from training import embed
from training.discriminators import StyleGAN2Discriminator

ROOT = Path(__file__).parents[2]
FEW_SHOT = ROOT / "training" / "data" / "sharingan15"


def run(folder: Path, shift: float, report: dict) -> Path:
    """A finished run with a tiny generator."""
    torch.manual_seed(0)
    generator = RadialGenerator(z_dim=8, w_dim=8, channels=(8,), base_radius=4, base_angle=8, resolution=64)
    with torch.no_grad():
        generator.palette_head.bias += shift
    SharinganPipeline(generator).save_pretrained(folder)
    StyleGAN2Discriminator(resolution=16, channel_base=64, channel_max=8).save_pretrained(folder / "discriminator")
    (folder / "report.json").write_text(json.dumps(report))
    (folder / "samples").mkdir()
    for name in ("preview.png", "nearest.png", "evaluation.png"):
        Image.new("RGB", (1024, 1536), "red").save(folder / "samples" / name)
    return folder


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A checkout with nothing in it but the words of the cards and an embedded source."""
    root = tmp_path / "checkout"
    (root / "docs" / "pictures").mkdir(parents=True)
    (root / "model_cards").mkdir()
    for path in (ROOT / "model_cards").glob("*.md"):
        shutil.copy(path, root / "model_cards")
    source = {"images": 112000, "minutes": 29, "base_model": None, "recipe": {"train_data": "emblems:source"}}
    run(root / "sharingan_hub" / "embedded" / "source", 0.0, source)
    monkeypatch.setattr(embed, "ROOT", root)
    monkeypatch.setattr(embed, "SAMPLE_SIZE", 32)
    monkeypatch.setattr("training.checkpoints.EMBLEM_SIZE", 32)
    return root


@pytest.fixture
def finished(tmp_path, checkout) -> Path:
    """A run of the time before reports told their origins."""
    recipe = {
        "train_data": str(FEW_SHOT),
        "base_model": str(checkout / "sharingan_hub" / "embedded" / "source"),
        "output_dir": str(tmp_path / "run"),
        "resolution": 128,
        "batch_size": 16,
    }
    return run(
        tmp_path / "run", 0.1, {"steps": 2000, "images": 32000, "minutes": 21.0, "processes": 2, "recipe": recipe}
    )


def test_the_default_is_embedded_without_the_sources_runs(checkout, finished):
    source = checkout / "sharingan_hub" / "embedded" / "source"
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    embed.main(["--default", str(finished)])
    assert before == {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    default = source.parent / "default"
    card, report = ModelCard.load(default / "README.md"), hub.read_json(default / "report.json")
    assert card.data.title == "Radial sharingan, from 15 pictures" and "few-shot" in card.data.tags
    for text in ("# Radial sharingan, from 15 pictures", "needs no download", "2,000 of 16 pictures at 128 px"):
        assert text.replace("needs no download", "without a download") in card.text
    assert "| pictures seen | 32,000; 112,000 before that" in card.text and "none is taken from the show" in card.text
    assert str(checkout.parent) not in card.text + json.dumps(report)
    assert report["pictures"] == 15 and report["before"] == {"images": 112000, "minutes": 29}
    assert {path.name for path in (default / "samples").iterdir()} == {
        "grid.png", "nearest.png", "preview.png", *(f"seed{seed:07d}.png" for seed in range(8))
    }  # fmt: skip
    with Image.open(default / "samples" / "preview.png") as strip:
        assert strip.size == (512, 768)
    pipe = SharinganPipeline.from_pretrained(default)
    with Image.open(default / "samples" / "seed0000003.png") as picture:
        made = pipe(seeds=[3], output_size=32).images[0]
        assert np.abs(np.asarray(picture).astype(int) - np.asarray(made)).max() <= 2
    assert (checkout / "docs" / "pictures" / "grid.png").is_file() and not (default / "discriminator").exists()


def test_the_default_is_there_as_an_adapter_too(checkout, finished):
    embed.main(["--default", str(finished)])
    adapter = checkout / "model_cards" / "adapter-sharingan15"
    card, report = ModelCard.load(adapter / "README.md"), hub.read_json(adapter / "report.json")
    assert card.data.title == "Radial sharingan, as an adapter" and "adapter" in card.data.tags
    assert report["base_model"] == "sharingan_hub/embedded/source" and 0 <= report["adapter"]["error"] < 1e-3
    assert report["steps"] == 2000 and "(samples/grid.png)" in card.text
    pipe = SharinganPipeline.from_pretrained(checkout / "sharingan_hub" / "embedded" / "source")
    pipe.load_adapter(adapter)
    whole = SharinganPipeline.from_pretrained(checkout / "sharingan_hub" / "embedded" / "default")
    pictures = [one(seeds=[1, 2], output_size=32, output_type="pt").images for one in (pipe, whole)]
    assert (pictures[0] - pictures[1]).abs().max() < 2 / 255


def test_a_source_goes_in_with_its_discriminator(checkout, tmp_path):
    report = {"steps": 3, "base_model": "first", "train_data": "emblems:source", "pictures": None, "before": None}
    embed.main(["--source", str(run(tmp_path / "run", 0.2, report | {"recipe": {"train_data": "emblems:source"}}))])
    source = checkout / "sharingan_hub" / "embedded" / "source"
    assert (source / "discriminator" / "config.json").is_file()
    card = (source / "README.md").read_text()
    assert "# Radial emblems, the source model" in card and "StyleGAN2Discriminator, in `discriminator/`" in card
    assert "few-shot" not in card.split("---")[1]


def test_nothing_to_embed_is_told(capsys):
    with pytest.raises(SystemExit):
        embed.main([])
    assert "--default" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        "radial-sharingan15",
        "radial-source",
        "stylegan2-source",
        "adapter-sharingan15",
        "ticket-sharingan15",
        "stylegan2-sharingan15",
    ],
)
def test_the_words_of_a_card_are_all_there(name):
    text = (ROOT / "model_cards" / f"{name}.md").read_text()
    words = embed.card_words(ROOT / "model_cards" / f"{name}.md")
    assert words.keys() == {"title", "introduction", "method", "limits"} and all(words.values())
    assert "".join(words.values()).replace("\n", "") == "".join(
        line.removeprefix("# ") for line in text.splitlines() if not line.startswith("##")
    )
