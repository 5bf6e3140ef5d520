"""The diffusion baseline: one step against the papers' formulas, sampling against diffusers' own, resuming, its files."""

import json
import os
import signal
from copy import deepcopy

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline
from huggingface_hub import ModelCard
from PIL import Image

from sharingan_hub import hub
from training import diffusion
from training.checkpoints import list_checkpoints
from training.diffusion import DiffusionConfig, DiffusionTrainer, build_unet, read_unet, sample
from training.sampling import seeded

BASE = {
    "train_data": "",
    "resolution": 16,
    "channels": [8, 16],
    "batch_size": 4,
    "max_steps": 6,
    "sample_every": 1000,
    "checkpointing_steps": 1000,
    "report_to": "none",
}


class Pictures:
    """A few fixed pictures, and optionally something that happens when a batch is asked for."""

    order_probs = None

    def __init__(self, images=None, event=None):
        self.images = torch.rand(10, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
        if images is not None:
            self.images = images
        self.event, self.batches = event, 0

    def __len__(self):
        return len(self.images)

    def batch(self, indices):
        self.batches += 1
        if self.event is not None:
            self.event(self.batches)
        return self.images[list(indices)].clone(), torch.zeros(len(indices), dtype=torch.int64)


def make(folder, pictures=None, **changes):
    config = DiffusionConfig(**BASE | {"output_dir": str(folder)} | changes)
    torch.manual_seed(config.seed)
    return DiffusionTrainer(config, pictures or Pictures(), build_unet(config.resolution, config.channels))


def state(folder):
    """All tensors of the last checkpoint, as a flat list."""

    def leaves(value):
        if isinstance(value, dict):
            return [leaf for key in value for leaf in leaves(value[key])]
        if isinstance(value, (list, tuple)):
            return [leaf for item in value for leaf in leaves(item)]
        return [torch.as_tensor(value)] if isinstance(value, (int, float, torch.Tensor)) else []

    checkpoint = list_checkpoints(folder / "checkpoints")[-1]
    return leaves(torch.load(checkpoint / "state.pt", weights_only=True))


def assert_same_bits(first, second):
    first, second = state(first), state(second)
    assert len(first) == len(second) > 100 and all(torch.equal(a, b) for a, b in zip(first, second))


def test_a_step_is_the_papers_step(tmp_path):
    """Nichol and Dhariwal's cosine, Salimans and Ho's velocity and Adam's first step, written out."""
    ours = make(tmp_path, learning_rate=0.01)
    unet, reals = deepcopy(ours.unet), ours._reals(0)
    values = ours._train_step(reals)

    rng = seeded(0, 0, "noise")
    time = ((torch.rand((), generator=rng) + torch.arange(4) / 4) % 1 * 1000).long()
    assert time.sort().values.diff().min() >= 249  # one in every quarter of the schedule
    noise = torch.randn(4, 3, 16, 16, generator=rng)
    cosine = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    beta = np.minimum(1 - cosine[1:] / cosine[:-1], 0.999)
    kept = torch.tensor(np.cumprod(1 - beta)[time.numpy()], dtype=torch.float32).view(4, 1, 1, 1)
    noisy = kept.sqrt() * reals + (1 - kept).sqrt() * noise
    velocity = kept.sqrt() * noise - (1 - kept).sqrt() * reals
    loss = (unet(noisy, time).sample - velocity).square().mean()
    assert values["loss"] == pytest.approx(loss.item(), rel=1e-4)
    loss.backward()
    for before, after in zip(unet.parameters(), ours.unet.parameters()):
        clear = before.grad.abs() > 1e-4  # below that rounding decides Adam's sign
        torch.testing.assert_close((before - 0.01 * before.grad.sign())[clear], after[clear], rtol=1e-3, atol=1e-4)


def test_turned_and_mirrored_pictures_are_seen(tmp_path):
    picture = torch.rand(1, 3, 16, 16)
    seen = {
        flag: {
            tuple(image.flatten().tolist())
            for step in range(20)
            for image in make(tmp_path, Pictures(picture), real_rotations=flag, real_flips=flag)._reals(step)
        }
        for flag in (True, False)
    }
    assert len(seen[True]) == 8 and len(seen[False]) == 1


def test_the_network_learns_a_colour(tmp_path):
    """Pictures of one flat red: after a short run the samples are far nearer to it than at first."""
    red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1)
    ours = make(tmp_path, Pictures(red.expand(4, 3, 16, 16)), max_steps=60, learning_rate=3e-3)
    before = (ours.sample(8) - red).abs().mean()
    ours.train()
    assert (sample(tmp_path, range(8), steps=10) - red).abs().mean() < 0.4 * before


def test_the_result_is_a_plain_ddpm_pipeline(tmp_path):
    ours = make(tmp_path, sample_every=4)
    assert ours.train() == tmp_path
    pipe = DDPMPipeline.from_pretrained(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    for saved, averaged in zip(pipe.unet.parameters(), ours.averages.shadow_params, strict=True):
        assert torch.equal(saved, averaged)
    images = pipe(batch_size=2, num_inference_steps=2, output_type="np").images
    assert images.shape == (2, 16, 16, 3) and np.isfinite(images).all()
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["steps"] == 6 and report["images"] == 24 and report["recipe"]["channels"] == [8, 16]
    assert {path.name for path in tmp_path.glob("samples/*")} == {
        "step_00000004.png",
        "step_00000006.png",
        "preview.png",
    }
    assert not list(tmp_path.glob(".*"))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"README.md", "checkpoints", "model_index.json", "report.json", "samples", "scheduler", "unet"}
    assert "sharingan-hub" not in ModelCard.load(tmp_path / "README.md").data.tags  # our own loader does not open it


def test_samples_are_those_of_the_librarys_pipeline(tmp_path):
    make(tmp_path).train()
    ours = sample(tmp_path, range(3), seed=5, steps=4)
    assert ours.shape == (3, 3, 16, 16) and ours.abs().max() <= 1
    pipe = DDPMPipeline.from_pretrained(tmp_path)
    quick = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    theirs = DDIMPipeline(pipe.unet, quick)
    theirs.set_progress_bar_config(disable=True)
    draws = [seeded(5, i, "sample") for i in range(3)]
    pictures = theirs(batch_size=3, generator=draws, num_inference_steps=4, output_type="np").images
    np.testing.assert_allclose(ours.permute(0, 2, 3, 1) / 2 + 0.5, pictures, atol=1e-5)


def test_a_picture_depends_on_its_seed_and_place_alone(tmp_path, monkeypatch):
    make(tmp_path).train()
    many = sample(tmp_path, range(5), seed=1, steps=3)
    monkeypatch.setattr(diffusion, "SAMPLE_BATCH", 2)
    torch.testing.assert_close(sample(tmp_path, range(5), seed=1, steps=3), many, rtol=0, atol=1e-5)
    torch.testing.assert_close(sample(tmp_path, range(2), seed=1, steps=3), many[:2], rtol=0, atol=1e-5)
    assert (sample(tmp_path, range(5), seed=2, steps=3) - many).abs().amax(dim=(1, 2, 3)).min() > 0.1
    low = sample(tmp_path, range(5), seed=1, steps=3, dtype=torch.bfloat16)
    assert 0 < (low - many).abs().mean() < 0.05


def test_a_stopped_run_ends_with_the_same_bits(tmp_path):
    def stop(number):
        if number == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    make(tmp_path / "whole").train()
    make(tmp_path / "stopped", Pictures(event=stop)).train()
    report = json.loads((tmp_path / "stopped" / "report.json").read_text())
    assert 0 < report["steps"] < 6
    DDPMPipeline.from_pretrained(tmp_path / "stopped")
    make(tmp_path / "stopped", resume_from="latest").train()
    assert_same_bits(tmp_path / "stopped", tmp_path / "whole")


def test_a_failed_write_leaves_the_earlier_pipeline(tmp_path, monkeypatch):
    ours = make(tmp_path, max_steps=4, checkpointing_steps=2)
    write, writes = torch.save, []

    def full_disk(*arguments):
        writes.append(1)
        if len(writes) == 2:
            raise OSError(28, "No space left on device")
        write(*arguments)

    monkeypatch.setattr(diffusion.torch, "save", full_disk)
    with pytest.raises(diffusion.TrainingError, match="No space left"):
        ours.train()
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["step_00000002"]
    assert sample(tmp_path, range(1), steps=1).isfinite().all()


def test_weights_that_are_not_finite_stop_the_run(tmp_path):
    ours = make(tmp_path, learning_rate=1e30)
    with pytest.raises(diffusion.TrainingError, match="not finite: lower learning_rate"):
        ours.train()


def test_fine_tuning_starts_from_the_base(tmp_path):
    base = make(tmp_path / "base")
    base.train()
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(3):
        Image.effect_noise((20, 20), 90).convert("RGB").save(pictures / f"{i}.png")
    flags = ["--train_data", str(pictures), "--base_model", str(tmp_path / "base"), "--max_steps", "1"]
    flags += ["--batch_size", "4", "--report_to", "none", "--learning_rate", "1e-9"]
    diffusion.main([*flags, "--resolution", "16", "--output_dir", str(tmp_path / "new")])
    for tuned, averaged in zip(read_unet(tmp_path / "new").parameters(), base.averages.shadow_params, strict=True):
        torch.testing.assert_close(tuned, averaged, rtol=0, atol=1e-7)
    with pytest.raises(SystemExit) as stopped:
        diffusion.main([*flags, "--resolution", "32", "--output_dir", str(tmp_path / "other")])
    assert stopped.value.code == 2


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--learning_rte", "1"], "learning_rte"),
        (["--batch_size", "0"], "batch_size must be above 0, got 0"),
        (["--channels", "[8, 12]"], "channels must be multiples of 8"),
        (["--resolution", "65"], "resolution must be a multiple of 16"),
        (["--ema_decay", "2"], "ema_decay must be from 0 to 1"),
        (["--seed", "-1"], "seed must be from 0"),
        (["--base_model", "nowhere"], "unet/config.json is missing"),
    ],
)
def test_wrong_flags_end_with_code_2_and_one_sentence(flags, sentence, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        common = ["--train_data", "emblems:source", "--output_dir", str(tmp_path), "--max_steps", "1"]
        diffusion.main([*common, *flags])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert sentence in message and message.count("\n") == 1


def test_the_end_of_a_run_must_be_given():
    with pytest.raises(ValueError, match="max_steps or max_minutes"):
        DiffusionConfig(**BASE | {"output_dir": "x", "max_steps": None})


def test_a_base_that_is_damaged_is_refused(tmp_path):
    make(tmp_path, max_steps=1).train()
    weights = tmp_path / "unet" / hub.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-50])
    with pytest.raises(hub.CheckpointError, match="damaged"):
        read_unet(tmp_path)
    config = tmp_path / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"down_block_types": ["Nothing", "DownBlock2D"]}))
    with pytest.raises(hub.CheckpointError, match="does not describe a UNet2DModel"):
        read_unet(tmp_path)
