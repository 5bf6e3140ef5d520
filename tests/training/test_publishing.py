"""Runs on a Hub that is played by this machine: checkpoints in the background, the result at the end, and a Hub that fails."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from sharingan_hub import RadialGenerator, SharinganPipeline, hub
from training import publishing, train
from training.adapt import AdaptConfig, adapt
from training.discriminators import StyleGAN2Discriminator
from training.evaluate import EvaluateConfig, evaluate
from training.train import TrainingError

REPO = "maker/eyes"


@pytest.fixture
def config(tmp_path, loopback, monkeypatch) -> AdaptConfig:
    """A short adaptation of a small base that publishes each second step, by a user who is logged in."""
    monkeypatch.setenv("HF_TOKEN", "hf_maker")
    (tmp_path / "pictures").mkdir()
    for i in range(2):
        Image.effect_noise((20, 20), 90).convert("RGB").save(tmp_path / "pictures" / f"{i}.png")
    torch.manual_seed(0)
    generator = RadialGenerator(z_dim=8, w_dim=8, channels=(8,), base_radius=4, base_angle=8, mapping_width=8)
    SharinganPipeline(generator).save_pretrained(tmp_path / "base")
    judge = StyleGAN2Discriminator(resolution=16, channel_base=64, channel_max=8, mbstd_group_size=2)
    judge.save_pretrained(tmp_path / "base" / "discriminator")
    return AdaptConfig(
        train_data=str(tmp_path / "pictures"),
        base_model=str(tmp_path / "base"),
        output_dir=str(tmp_path / "out"),
        resolution=16,
        batch_size=4,
        max_steps=4,
        checkpointing_steps=2,
        sample_every=1000,
        report_to="none",
        push_to_hub=True,
        hub_model_id=REPO,
    )


def test_checkpoints_and_the_result_are_published_and_open_as_they_are(config, loopback):
    folder = adapt(config)
    titles = [revision.title for revision in loopback.repos[REPO].revisions.values()]
    assert "Step 2" in titles and titles[-1] == "Training is complete"
    files = loopback.repos[REPO].files
    assert {
        "adapter/adapter.safetensors",
        "discriminator/config.json",
        "README.md",
        "samples/preview.png",
    } <= files.keys()
    assert not [name for name in files if name.startswith(("checkpoints", "logs"))]
    assert json.loads(files["report.json"])["steps"] == 4
    ours, theirs = (SharinganPipeline.from_pretrained(model)(seeds=[1], output_type="pt") for model in (folder, REPO))
    assert torch.equal(ours.images, theirs.images)


def test_a_hub_that_fails_neither_ends_a_run_nor_loses_it(config, loopback, caplog):
    loopback.fail("500", lambda request: "/commit/" in request.path, times=float("inf"))
    with pytest.raises(
        TrainingError, match=f"The model is complete in .*out; publish it later: sharingan publish .* {REPO}"
    ):
        adapt(config)
    assert "A checkpoint was not published: The Hub cannot be reached" in caplog.text
    assert hub.read_json(Path(config.output_dir) / "report.json")["steps"] == 4
    hub.validate(Path(config.output_dir))
    loopback.clear()
    hub.publish(config.output_dir, REPO)
    assert json.loads(loopback.repos[REPO].files["report.json"])["steps"] == 4


def test_who_is_not_logged_in_hears_of_it_before_training(config, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(hub.AccessError):
        adapt(config)
    assert not Path(config.output_dir).exists()


def test_a_hub_that_is_down_at_the_start_does_not_keep_from_training(config, loopback, caplog):
    loopback.fail("500", lambda request: "whoami" in request.path, times=float("inf"))
    train.check_publishing(config)
    assert "The run begins all the same" in caplog.text


def test_a_disk_that_is_full_does_not_end_the_run(config, tmp_path, monkeypatch, caplog):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    folder, copies = tmp_path / "folder", tmp_path / "copies"
    for made in (folder, copies):
        made.mkdir()
    (folder / "report.json").write_text('{"steps": 1}')
    monkeypatch.setattr(publishing.tempfile, "tempdir", str(copies))
    monkeypatch.setattr(publishing.shutil, "copytree", full)
    publisher = publishing.CheckpointPublisher(config)
    publisher.send(folder)
    publisher.close()
    assert "No space left on device. Training goes on." in caplog.text
    assert list(copies.iterdir()) == []


def test_one_checkpoint_is_sent_at_a_time_and_the_folder_may_change_meanwhile(config, tmp_path, monkeypatch):
    sent, started, go_on = [], threading.Event(), threading.Event()

    def publish(config, folder, message):
        started.set()
        assert go_on.wait(60)
        sent.append((message, (folder / "samples.txt").read_text()))

    monkeypatch.setattr(publishing, "publish", publish)
    folder = tmp_path / "folder"
    folder.mkdir()

    def step(number: int) -> None:
        (folder / "report.json").write_text(json.dumps({"steps": number}))
        (folder / "samples.txt").write_text(str(number))

    publisher = publishing.CheckpointPublisher(config)
    step(1)
    publisher.send(folder)
    assert started.wait(60)
    step(2)
    publisher.send(folder)
    go_on.set()
    publisher.sending.result()
    step(3)
    publisher.send(folder)
    publisher.close()
    assert sent == [("Step 1", "1"), ("Step 3", "3")]


def test_new_figures_are_published_with_their_card(config, loopback):
    folder = adapt(replace(config, push_to_hub=False))
    settings = {"model": str(folder), "samples": 100, "push_to_hub": True, "hub_model_id": REPO}
    evaluate(EvaluateConfig(**settings))
    files = loopback.repos[REPO].files
    assert [revision.title for revision in loopback.repos[REPO].revisions.values()][-1] == "Evaluated"
    assert json.loads(files["report.json"])["evaluation"]["samples"] == 100
    assert b"samples/nearest.png" in files["README.md"] and "samples/evaluation.png" in files
    for wrong, told in (({"hub_model_id": None}, "hub_model_id must be given"), ({"model": REPO}, "must be a folder")):
        with pytest.raises(ValueError, match=told):
            EvaluateConfig(**settings | wrong)
