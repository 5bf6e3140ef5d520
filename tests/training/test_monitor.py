"""What is watched of a run: diversity against known sets, collapses forced and absent, curves and film."""

import json
import logging

import pytest
import torch
from PIL import Image

from sharingan_hub import hub
from training import train, trainer
from training.adapt import EMBEDDED_SOURCE
from training.checkpoints import list_checkpoints
from training.config import TrainConfig
from training.data import load_pictures
from training.monitor import COLLAPSED, Monitor, diversity


@pytest.fixture(scope="module")
def emblems():
    return load_pictures("emblems:source", 32)


def test_diversity_is_the_mean_distance_of_pairs():
    assert diversity(torch.tensor([[0.0], [1.0], [3.0]])) == pytest.approx((1 + 3 + 2) / 3)


def test_other_draws_are_as_diverse_and_closer_than_noise(emblems):
    monitor = Monitor(emblems)
    monitor.check(1, emblems.batch(range(500, 532))[0], True)
    monitor.check(2, torch.rand(32, 3, 32, 32) * 2 - 1, True)
    assert monitor.checks[0]["diversity"] == pytest.approx(1, abs=0.15)
    assert monitor.checks[0]["kid"] < monitor.checks[1]["kid"] / 10 and monitor.best == 1


def test_a_collapse_is_warned_of_once(emblems, caplog):
    """One picture with faint noise, at two checks running; two designs are few, and yet no collapse."""
    monitor, rng = Monitor(emblems), torch.Generator().manual_seed(0)
    one, two = (emblems.batch([0] * (32 // n) + [1] * (32 - 32 // n))[0] for n in (1, 2))
    with caplog.at_level(logging.WARNING):
        for step, fakes in enumerate((one, two, two, one, one, one)):
            monitor.check(step, fakes + 0.01 * torch.randn(fakes.shape, generator=rng), False)
    found = [check["diversity"] for check in monitor.checks]
    assert max(found[0], *found[3:]) < COLLAPSED / 3 and min(found[1:3]) > 2 * COLLAPSED
    assert monitor.collapsed == 4 and monitor.best is None
    assert [record.message.partition(":")[0] for record in caplog.records] == ["Step 4"]


def test_a_generator_without_variety_yet_has_not_collapsed(emblems):
    monitor = Monitor(emblems)
    for step, count in enumerate((1, 1, 1, 32, 1, 1)):
        monitor.check(step, emblems.batch(list(range(count)) * (32 // count))[0], False)
        assert monitor.collapsed == (5 if step == 5 else None)


def make(folder, **changes):
    """A run from the embedded source model that hardly moves it."""
    settings = {"train_data": "emblems:source", "output_dir": str(folder), "base_model": str(EMBEDDED_SOURCE)}
    settings |= {"resolution": 32, "batch_size": 4, "max_steps": 4, "learning_rate": 1e-6, "regularizers": []}
    settings |= {"report_to": "none", "sample_every": 1000, "checkpointing_steps": 1}
    return train.build_trainer(TrainConfig(**settings | changes))


def ignore_z(ours):
    for generator in (ours.generator, ours.average):
        with torch.no_grad():
            generator.fc[0].weight[:, : generator.z_dim] = 0


def test_a_healthy_run_goes_on_to_its_end(tmp_path):
    ours = make(tmp_path, stop_on_collapse=True)
    ours.train()
    assert ours.step == 4 and ours.monitor.collapsed is None
    assert min(check["diversity"] for check in ours.monitor.checks) > 0.5


def test_a_collapsed_run_stops_and_goes_back_to_its_best_checkpoint(tmp_path):
    ours = make(tmp_path, stop_on_collapse=True, max_steps=20, checkpoints_total_limit=1)
    for step, _ in enumerate(ours.steps(), 1):
        if step == 2:
            ignore_z(ours)
    best = ours.monitor.best
    assert best in (1, 2) and ours.monitor.collapsed == 4 and len(ours.monitor.checks) < 7
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["steps"] == best
    names = [path.name for path in list_checkpoints(tmp_path / "checkpoints")]
    assert names == [f"step_{best:08d}", f"step_{len(ours.monitor.checks):08d}"]
    kept = torch.load(tmp_path / "checkpoints" / names[0] / "state.pt", weights_only=True)["average"]
    result = hub.read_generator(tmp_path).state_dict()
    assert all(torch.equal(result[name], value) for name, value in kept.items() if name != "w_avg")
    assert result["fc.0.weight"][:, : ours.generator.z_dim].abs().min() > 0
    again = make(tmp_path, stop_on_collapse=True, max_steps=20, checkpoints_total_limit=1, resume_from="latest")
    assert list(again.steps()) == []  # it stays given up
    assert json.loads((tmp_path / "report.json").read_text())["steps"] == best


def test_curves_are_kept_over_resumes_and_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "LOG_EVERY", 2)
    make(tmp_path, checkpointing_steps=2).train()
    ours = make(tmp_path, checkpointing_steps=2, max_steps=8, resume_from="latest")
    ours.train()
    assert [row["step"] for row in ours.monitor.rows] == [2, 4, 6, 8]
    assert [check["step"] for check in ours.monitor.checks] == [2, 4, 6, 8]
    wanted = {"loss_d", "loss_g", "gradient_d", "gradient_g", "accuracy", "score_real", "score_fake"}
    assert all(wanted <= row.keys() and 0 <= row["accuracy"] <= 1 for row in ours.monitor.rows)
    with Image.open(tmp_path / "samples" / "training.png") as curves:
        assert curves.width > 800 and len(curves.convert("RGB").getcolors(1 << 24)) > 20
    with Image.open(tmp_path / "samples" / "training.gif") as film:
        frames = [film.info["duration"]] + [film.seek(i) or film.info["duration"] for i in range(1, film.n_frames)]
        assert sum(frames) == 4 * 250 and film.size == (8 * 32, 32)
