"""ADA's experiment: what over-fitting is, what is asked of the discriminator, and the command with tiny numbers."""

import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from training import trainer
from training.experiments import ada, ada_report


def test_overfitting_is_where_unseen_pictures_lie_between_seen_ones_and_fakes():
    for unseen, expected in ((2.0, 0.0), (-2.0, 1.0), (0.0, 0.5)):
        assert ada_report.overfitting({"seen": 2.0, "unseen": unseen, "fake": -2.0}) == expected
    assert ada_report.overfitting({"seen": 1.0, "unseen": 0.0, "fake": 1.0}) == 0


class Three:
    """Pictures of one colour each, which is an eighth of their index."""

    def __len__(self) -> int:
        return 3

    def batch(self, rows):
        return torch.tensor(rows).view(-1, 1, 1, 1).expand(-1, 3, 16, 16) / 8, None


def test_the_discriminator_is_asked_about_all_three(monkeypatch):
    for name, value in (("generate", 0.125), ("samples", 0.0)):
        monkeypatch.setattr(ada, name, lambda *_, value=value: torch.full((6, 3, 16, 16), value))
    monkeypatch.setattr(ada, "draw_latents", lambda *_: SimpleNamespace(select=lambda *_: None))
    some = SimpleNamespace(
        dataset=Three(),
        generator=None,
        discriminator=lambda images: images.mean(dim=(1, 2, 3))[:, None],
        config=SimpleNamespace(seed=0, augmentations=["rotation"]),
        device=torch.device("cpu"),
        probability=0.0,
        step=4,
    )
    found = ada.look(some, torch.full((6, 3, 16, 16), -0.5), 6, torch.randn(20, 128))
    assert {name: found[name] for name in ada_report.SCORES} == {"seen": 0.125, "unseen": -0.5, "fake": 0.125}


def test_the_command_in_parts(tmp_path, monkeypatch):
    size = ada.Size(counts=(4, 8), steps=8, every=8, judged=8, samples=8, reference=20)
    monkeypatch.setattr(ada, "QUICK", size)
    monkeypatch.setattr(ada, "COUNTS", (15, 100))
    monkeypatch.setattr(ada, "RESOLUTION", 16)
    network = {"channel_base": 64, "channel_max": 8}
    small = {name: ada.SETTINGS[name] | network for name in ("generator", "discriminator")}
    monkeypatch.setattr(
        ada, "SETTINGS", ada.SETTINGS | small | {"resolution": 16, "ada_kimg": 0.05, "ada_target": -2.0}
    )
    monkeypatch.setattr(trainer, "LOG_EVERY", 2)
    arguments, folder = ["--quick", "--work_dir", str(tmp_path)], tmp_path / "quick"
    ada.main([*arguments, "--only", "15-none"])
    assert sorted(path.name for path in folder.glob("*.json")) == ["15-none.json", "floor.json"]
    ada.main(arguments)
    found = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("100-none", "100-ada")}
    assert all(run["pictures"] == 8 and run["logged"]["step"] == [2, 4, 6, 8] for run in found.values())
    assert [[look["step"] for look in run["looks"]] for run in found.values()] == [[8]] * 2
    assert set(found["100-none"]["logged"]["p"]) == {0.0}
    assert found["100-ada"]["logged"]["p"] == pytest.approx([0, 0.32, 0.32, 0.64])  # the mean sign of D is above -2
    page = (folder / "gan_family.md").read_text()
    assert "| 4 pictures |" in page and "| 8 pictures |" in page and "4, 8 sharingan, without" in page
    with Image.open(folder / "pictures" / "ada.png") as figure:
        assert min(figure.size) > 300
