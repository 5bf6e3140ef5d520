"""Runs that are looked at: stopped and gone on with, they find what a run finds that was never stopped."""

import numpy as np
import pytest
import torch
from PIL import Image

from training import monitor
from training.checkpoints import list_checkpoints
from training.config import TrainConfig
from training.experiments import watched


@pytest.fixture
def config(tmp_path):
    (tmp_path / "pictures").mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i}.png")

    def make(name: str, **changes) -> TrainConfig:
        settings = {
            "resolution": 16,
            "generator": {"class_name": "DCGANGenerator", "z_dim": 8, "channels": 4},
            "discriminator": {"class_name": "DCGANDiscriminator", "channels": 4},
            "regularizers": [],
            "batch_size": 4,
            "max_steps": 6,
            "checkpointing_steps": 2,
            "train_data": str(tmp_path / "pictures"),
            "output_dir": str(tmp_path / name),
        }
        return TrainConfig(**settings | watched.QUIET | changes)

    return make


def mean_of(trainer) -> dict:
    return {"mean": float(watched.samples(trainer, 5).mean())}


def test_a_stopped_run_finds_the_same(config, tmp_path):
    whole, found = watched.watch(config("whole"), mean_of)

    def stopping(trainer) -> dict:
        trainer.interrupted |= trainer.step == 2  # as a signal does; the step after it is still taken, and saved
        return mean_of(trainer)

    with pytest.raises(SystemExit, match="Stopped at step 3 of 6"):
        watched.watch(config("parts"), stopping)
    assert list_checkpoints(tmp_path / "parts" / "checkpoints")[-1].name == "step_00000003"
    parts, again = watched.watch(config("parts"), mean_of)
    assert [look["step"] for look in again] == [2, 4, 6] and all(look["rate"] > 0 for look in again)
    assert [look["mean"] for look in again] == [look["mean"] for look in found]
    weights = zip(whole.average.parameters(), parts.average.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in weights)


def test_a_checkpoint_that_nobody_looked_at_is_made_again(config):
    def failing(trainer) -> dict:
        if trainer.step == 4:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        watched.watch(config("run"), failing)
    seen = []
    _, looks = watched.watch(config("run"), lambda trainer: seen.append(trainer.step) or {})
    assert seen == [4, 6] and [look["step"] for look in looks] == [2, 4, 6]
    _, again = watched.watch(config("run"), lambda trainer: pytest.fail("the run is over"))
    assert again == looks


def test_a_smaller_folder_is_part_of_a_larger_one(tmp_path):
    small, large = (watched.emblem_folder(tmp_path, count, 16) for count in (3, 5))
    pictures = [[np.array(Image.open(path)) for path in sorted(folder.glob("*.png"))] for folder in (small, large)]
    assert [len(some) for some in pictures] == [3, 5]
    assert all(np.array_equal(one, other) for one, other in zip(*pictures))
    (large / "05.png").unlink()  # cut short
    assert len(list(watched.emblem_folder(tmp_path, 5, 16).glob("*.png"))) == 5


def test_a_collapse_may_end_a_run(config, monkeypatch):
    monkeypatch.setattr(monitor, "COLLAPSED", 1e-4)  # beside noise, an untrained network's pictures are much alike

    def collapsing(trainer) -> dict:
        for network in (trainer.generator, trainer.average):
            next(network.parameters()).data.zero_()  # z goes no further
        return {}

    trainer, looks = watched.watch(config("collapsed", stop_on_collapse=True, max_steps=40), collapsing)
    assert trainer.given_up() and len(looks) < 20 and trainer.step == trainer.monitor.best
