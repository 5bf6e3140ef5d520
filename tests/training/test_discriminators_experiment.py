"""Chang's comparison: what each run is, and the command with tiny numbers."""

import json

from PIL import Image

from training.config import TrainConfig
from training.experiments import discriminators


def test_runs_differ_in_what_their_names_say():
    size = discriminators.Size()
    settings = {name: discriminators.settings_of(run, size) for name, run in discriminators.RUNS.items()}
    base = settings["residual"]
    differences = {
        name: {key for key in base.keys() | own.keys() if own.get(key) != base.get(key)}
        for name, own in settings.items()
    }
    transformer = {"discriminator", "output_dir", "discriminator_learning_rate", "r1_gamma"}
    attention = {"generator", "output_dir"}
    assert differences == {
        "residual": set(),
        "domain": {"augmentations"},
        "vit": transformer,
        "hybrid": transformer,
        "attention": attention,
        "attention_replaces": attention,
    }
    assert settings["hybrid"]["discriminator"] == settings["vit"]["discriminator"] | {"stem_layers": 3}
    replaced = settings["attention"]["generator"] | {"attention_replaces": True}
    assert settings["attention_replaces"]["generator"] == replaced
    config = TrainConfig(**base)
    assert config.max_steps * config.batch_size == 30_000 and config.max_steps % config.checkpointing_steps == 0
    assert config.augment == "ada" and "color" not in config.augmentations


def test_the_command_in_parts(tmp_path, monkeypatch):
    size = discriminators.Size(steps=2, every=1, samples=20, final=20, reference=30)
    monkeypatch.setattr(discriminators, "QUICK", size)
    monkeypatch.setattr(discriminators, "RESOLUTION", 16)
    monkeypatch.setattr(discriminators, "BATCH", 8)
    monkeypatch.setattr(discriminators, "PICTURES", 12)
    three = {name: discriminators.RUNS[name] for name in ("residual", "vit", "attention_replaces")}
    monkeypatch.setattr(discriminators, "RUNS", three)
    arguments, folder = ["--quick", "--work_dir", str(tmp_path)], tmp_path / "quick"
    discriminators.main([*arguments, "--only", "vit"])
    assert sorted(path.name for path in folder.glob("*.json")) == ["floor.json", "vit.json"]
    discriminators.main(arguments)
    found = {name: json.loads((folder / f"{name}.json").read_text()) for name in three}
    assert all(run["pictures"] == 16 and len(run["looks"]) == 2 for run in found.values())
    assert found["attention_replaces"]["weights"]["generator"] < found["residual"]["weights"]["generator"]
    page = (folder / "gan_family.md").read_text()
    assert "| vision transformer |" in page and "| *true draws* |" in page and "Each run sees 16 pictures" in page
    with Image.open(folder / "pictures" / "discriminators.png") as figure:
        assert min(figure.size) > 300
