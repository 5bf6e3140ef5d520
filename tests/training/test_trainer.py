"""The training loop: one step against a textbook step, every way to split a batch, resuming, and what can go wrong."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from sharingan_hub import RadialGenerator, SharinganPipeline, StyleGAN2Generator, hub
from training import adapt, train, trainer
from training.checkpoints import list_checkpoints
from training.config import TrainConfig
from training.discriminators import StyleGAN2Discriminator
from training.sampling import draw_latents, generate, real_indices, turn
from training.trainer import Trainer, TrainingError

ROOT = Path(__file__).parents[2]
RECIPES = sorted(p for p in (ROOT / "training" / "recipes").glob("*.yaml") if p.stem.startswith(("train_", "adapt_")))
RADIAL = {
    "class_name": "RadialGenerator",
    "z_dim": 8,
    "w_dim": 8,
    "num_masks": 3,
    "num_frame_masks": 1,
    "num_ground_masks": 1,
    "channels": [8, 8],
    "base_radius": 4,
    "base_angle": 4,
    "mapping_layers": 2,
}
STYLEGAN2 = {"class_name": "StyleGAN2Generator", "z_dim": 8, "w_dim": 8, "channel_base": 64, "channel_max": 8}
DISCRIMINATOR = {"class_name": "StyleGAN2Discriminator", "channel_base": 64, "channel_max": 8, "mbstd_group_size": 2}
BASE = {
    "train_data": "",
    "resolution": 16,
    "generator": RADIAL,
    "discriminator": DISCRIMINATOR,
    "batch_size": 8,
    "max_steps": 6,
    "r1_interval": 3,
    "sample_every": 1000,
    "checkpointing_steps": 1000,
    "report_to": "none",
}


class Pictures:
    """A few fixed pictures, and optionally something that happens when a batch is asked for."""

    order_probs: list[float] | None = None

    def __init__(self, count=20, side=16, event=None):
        self.images = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1
        self.event, self.batches = event, 0

    def __len__(self):
        return len(self.images)

    def batch(self, indices):
        images = self.images[list(indices)].clone()
        if len(images) < len(self):  # a step's; otherwise the monitor looks at all of them
            self.batches += 1
            if self.event is not None:
                self.event(self.batches, images)
        return images, torch.zeros(len(images), dtype=torch.int64)


def make(folder, pictures=None, **changes):
    """A trainer on a few fixed pictures."""
    config = TrainConfig(**BASE | {"output_dir": str(folder)} | changes)
    torch.manual_seed(config.seed)
    pictures = pictures or Pictures(side=config.resolution)
    return Trainer(config, pictures, *train.build_networks(config, pictures.order_probs))


def weights(folder):
    """All tensors of a finished run: averaged generator and discriminator."""
    parts = (folder / part / "diffusion_pytorch_model.safetensors" for part in ("generator_model", "discriminator"))
    return {f"{path.parent.name}.{name}": value for path in parts for name, value in load_file(path).items()}


def state(folder):
    """The whole state of the last checkpoint, as a flat list of tensors and numbers."""
    loaded = torch.load(list_checkpoints(folder / "checkpoints")[-1] / "state.pt", weights_only=True)

    def leaves(value):
        if isinstance(value, dict):
            return [leaf for key in value for leaf in leaves(value[key])]
        return [leaf for item in value for leaf in leaves(item)] if isinstance(value, (list, tuple)) else [value]

    return leaves(loaded)


def assert_same_bits(first, second):
    assert len(first) == len(second) > 20
    for a, b in zip(first, second):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def assert_close(first, second):
    """Equal within float tolerance: a hundredth of what Adam moves a weight in one step."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(
            value, second[name], rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


# Randomness without state.


@given(length=st.integers(1, 50), batch=st.integers(1, 20), seed=st.integers(0, 2**62))
@settings(max_examples=30, deadline=None)
def test_each_picture_comes_once_in_every_round(length, batch, seed):
    seen = [index for step in range(3 * length) for index in real_indices(seed, step, batch, length)]
    for start in range(0, len(seen) - length + 1, length):
        assert sorted(seen[start : start + length]) == list(range(length))


def test_an_endless_set_is_drawn_without_repeats():
    seen = [index for step in range(100) for index in real_indices(0, step, 16, 2**31)]
    assert len(set(seen)) > 1590 and max(seen) > 2**30


@given(quarters=st.lists(st.integers(0, 3), min_size=1, max_size=6), data=st.data())
@settings(max_examples=30, deadline=None)
def test_turns_and_flips_are_exact(quarters, data):
    flips = data.draw(st.lists(st.booleans(), min_size=len(quarters), max_size=len(quarters)))
    images = torch.randn(len(quarters), 3, 5, 5)
    turned = turn(images, torch.tensor(quarters), torch.tensor(flips))
    for image, quarter, flip, result in zip(images.numpy(), quarters, flips, turned.numpy()):
        expected = np.rot90(image, quarter, (1, 2))
        np.testing.assert_array_equal(result, expected[:, :, ::-1] if flip else expected)


def test_orders_follow_the_generators_mix_and_phases_fill_the_circle():
    mix = [0.5, 0.25, 0.25, 0, 0, 0, 0, 0]
    generator = RadialGenerator(**{k: v for k, v in RADIAL.items() if k != "class_name"}, order_probs=mix)
    latents = draw_latents(generator, 20_000, 0, 0)
    shares = torch.bincount(latents.conditions["order"], minlength=9)[1:] / 20_000
    assert (shares - torch.tensor(mix)).abs().max() < 0.015
    phase = latents.conditions["phase"]
    assert phase.min() >= 0 and phase.max() < 2 * math.pi and torch.histc(phase, 8).min() > 2200
    again, other = draw_latents(generator, 20_000, 0, 0), draw_latents(generator, 20_000, 0, 1)
    assert torch.equal(latents.z, again.z) and not torch.equal(latents.z, other.z)


def test_style_mixing_takes_the_later_rows_from_the_second_style():
    torch.manual_seed(0)
    generator = StyleGAN2Generator(resolution=16, **{k: v for k, v in STYLEGAN2.items() if k != "class_name"})
    latents = draw_latents(generator, 4, 0, 0, style_mixing=1.0)
    second, row = latents.mixing
    assert ((row >= 1) & (row < generator.style_ws)).all()
    ws = generator.broadcast(generator.mapping(latents.z)).clone()
    other = generator.broadcast(generator.mapping(second))
    for i in range(4):
        ws[i, row[i] :] = other[i, row[i] :]
    torch.testing.assert_close(generate(generator, latents, 16), generator.synthesis(ws, noise_mode="const"))


# One step.


def test_every_fake_has_its_own_noise(tmp_path):
    ours = make(tmp_path, generator=STYLEGAN2)
    with torch.no_grad():
        for name, parameter in ours.generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(1.0)
        latents = draw_latents(ours.generator, 8, 0, 0)
        latents.z[:] = latents.z[:1]
        images = ours._fakes(latents, slice(0, 8))
        again = ours._fakes(latents, slice(4, 8))
    assert len({image.sum().item() for image in images}) == 8
    torch.testing.assert_close(images[4:], again)


def textbook_step(generator, discriminator, reals, latents, penalized, gamma):
    """Two Adam steps as the papers have them: a fresh forward pass for each, R1 on its own pass."""
    softplus = torch.nn.functional.softplus
    lazy = 3 / 4
    d_adam = torch.optim.Adam(discriminator.parameters(), lr=2.5e-3 * lazy, betas=(0.0, 0.99**lazy))
    g_adam = torch.optim.Adam(generator.parameters(), lr=2.5e-3, betas=(0.0, 0.99))
    fakes = generate(generator, latents, 16).detach()
    loss = softplus(-discriminator(reals)).mean() + softplus(discriminator(fakes)).mean()
    images = reals[penalized].requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    loss = loss + 3 * gamma / 2 * gradient.square().sum(dim=(1, 2, 3)).mean()
    d_adam.zero_grad()
    loss.backward()
    d_adam.step()
    g_adam.zero_grad()
    softplus(-discriminator(generate(generator, latents, 16))).mean().backward()
    g_adam.step()


def test_a_step_is_the_textbook_step(tmp_path):
    """Making the fakes once, freezing D's weights and fusing R1 with the loss change no number."""
    ours = make(tmp_path, real_rotations=False, real_flips=False, r1_gamma=5.0)
    generator, discriminator = deepcopy(ours.generator), deepcopy(ours.discriminator)
    reals = ours._reals(0)
    latents = draw_latents(generator, 8, 0, 0)
    values = ours._train_step(reals)
    penalized = torch.tensor([2, 3, 6, 7])  # every second minibatch-std group of two
    textbook_step(generator, discriminator, reals, latents, penalized, 5.0)
    assert_close(dict(discriminator.named_parameters()), dict(ours.discriminator.named_parameters()))
    assert_close(dict(generator.named_parameters()), dict(ours.generator.named_parameters()))
    assert values["r1"] > 0 and all(p.requires_grad for p in ours.discriminator.parameters())


def test_r1_comes_every_interval(tmp_path):
    ours = make(tmp_path)
    seen = []
    for ours.step in range(7):
        seen.append("r1" in ours._train_step(ours._reals(ours.step)))
    assert seen == [True, False, False, True, False, False, True]


def test_the_rates_fall_in_a_line_at_the_end(tmp_path, monkeypatch):
    ours = make(tmp_path, max_steps=6, cooldown=4 / 6, learning_rate=0.01, discriminator_learning_rate=0.02)
    seen = []

    def look(reals):
        seen.append([optimizer.param_groups[0]["lr"] for optimizer in (ours.g_optimizer, ours.d_optimizer)])
        return Trainer._train_step(ours, reals)

    monkeypatch.setattr(ours, "_train_step", look)
    ours.train()
    shares = torch.tensor([1, 1, 1, 0.75, 0.5, 0.25])
    torch.testing.assert_close(torch.tensor(seen), shares[:, None] * torch.tensor([0.01, 0.02 * 3 / 4]))


def test_parts_learn_at_their_own_rates(tmp_path):
    """Adam's first step moves each weight by its rate, whatever the gradient."""
    ours = make(tmp_path, learning_rate=0.01, rate_factors={"palette_": 5.0, "palette_head": 0.5})
    before = {name: weight.detach().clone() for name, weight in ours.generator.named_parameters()}
    ours._train_step(ours._reals(0))
    moved = {name: (weight - before[name]).abs().amax().item() for name, weight in ours.generator.named_parameters()}
    assert moved["palette_hidden.weight"] == pytest.approx(0.05, rel=1e-3)
    assert moved["palette_head.weight"] == pytest.approx(0.005, rel=1e-3)  # the later one wins
    assert moved["round_head.weight"] == pytest.approx(0.01, rel=1e-3)


def test_a_rate_for_no_weight_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'palete', which fits no weight.*palette_head"):
        make(tmp_path, rate_factors={"palete": 2.0})


def test_a_run_does_not_go_on_with_other_parts_at_other_rates(tmp_path):
    make(tmp_path, max_steps=1).train()
    with pytest.raises(ValueError, match="rate_factors must be those of the run"):
        make(tmp_path, max_steps=2, resume_from="latest", rate_factors={"palette": 2.0}).train()


def test_the_average_has_its_closed_form(tmp_path):
    """Parameters and buffers alike: after k steps towards a constant, 1 - decay^k of the way."""
    ours = make(tmp_path, ema_decay=0.9)
    start = ours.average.const.clone()
    with torch.no_grad():
        ours.generator.const.fill_(1.0)
        ours.generator.w_avg.fill_(2.0)
    for _ in range(5):
        ours._average()
    torch.testing.assert_close(ours.average.const, 1 + (start - 1) * 0.9**5)
    torch.testing.assert_close(ours.average.w_avg, torch.full((8, 8), 2 * (1 - 0.9**5)))


@pytest.mark.parametrize("network", [RADIAL, STYLEGAN2], ids=["radial", "stylegan2"])
def test_the_saved_w_avg_is_the_mean_of_w(tmp_path, network):
    ours = make(tmp_path, generator=network, max_steps=1)
    saved = hub.read_generator(ours.train())
    latents = draw_latents(saved, 65536, 5, 5)
    order = latents.conditions.get("order")
    with torch.no_grad():
        w = saved.mapping(latents.z, **({} if order is None else {"order": order}))
    truth = w.mean(dim=0) if order is None else torch.stack([w[order == n].mean(dim=0) for n in range(1, 9)])
    assert (saved.w_avg - truth).abs().max() < 5 * w.std() / math.sqrt(4096)


# Every way to split a batch gives the same result.


@pytest.mark.parametrize("network", [RADIAL, STYLEGAN2], ids=["radial", "stylegan2"])
def test_accumulation_changes_nothing(tmp_path, network):
    common = {
        "generator": network,
        "augment": "ada",
        "ada_kimg": 0.1,
        "ada_target": -1.0,
        "augmentations": ["rotation", "color", "cutout"],
        "style_mixing": 0.5,
        "max_steps": 10,
    }
    results = []
    for parts in (1, 2, 4):
        folder = tmp_path / str(parts)
        make(folder, gradient_accumulation_steps=parts, **common).train()
        results.append(weights(folder))
    assert_close(results[0], results[1])
    assert_close(results[0], results[2])


def write_pictures(folder, count=10, side=16):
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(folder / f"{i:02}.png")
    return folder


def write_recipe(tmp_path, **changes):
    import yaml

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(BASE | changes))
    return recipe


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.parametrize("network", [RADIAL, STYLEGAN2], ids=["radial", "stylegan2"])
def test_two_processes_equal_one(tmp_path, network):
    """The same global batch, launched as README says."""
    pictures = write_pictures(tmp_path / "pictures")
    changes = {"generator": network, "augment": "ada", "ada_kimg": 0.1, "ada_target": -1.0, "style_mixing": 0.5}
    if network is STYLEGAN2:
        changes |= {"regularizers": ["r1", "r2", "gradient_penalty", "path_length"], "critic_steps": 2}
    recipe = write_recipe(tmp_path, train_data=str(pictures), **changes)
    command = ["--config", str(recipe), "--output_dir"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    launched = [*launch, "training/train.py", *command, str(tmp_path / "two")]
    subprocess.run(launched, cwd=ROOT, env=environment(), check=True)
    train.main([*command, str(tmp_path / "one")])
    assert_close(weights(tmp_path / "one"), weights(tmp_path / "two"))
    first, second = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "two"))
    assert (first["processes"], second["processes"]) == (1, 2)
    first, second = (
        json.loads((list_checkpoints(tmp_path / name / "checkpoints")[-1] / "progress.json").read_text())
        for name in ("one", "two")
    )
    assert first["probability"] == second["probability"] > 0
    np.testing.assert_allclose(first["signs"], second["signs"])


def test_a_batch_that_does_not_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="batch_size must be a multiple .* 1 x 3 x 2, got 8"):
        make(tmp_path, gradient_accumulation_steps=3)


# Stopping and going on.

CHILD = """
import os, sys
sys.path[:0] = [{root!r}, {tests!r}]
import torch
torch.set_num_threads(1)
import test_trainer as t

def announce(number, images):
    print("batch", flush=True)

fsync = os.fsync
def announced_fsync(file):
    print("writing", flush=True)
    if {hang}:
        sys.stdin.read()  # killed here, in the middle of a checkpoint
    fsync(file)
os.fsync = announced_fsync

t.make({folder!r}, t.Pictures(event=announce), **t.RESUMED, resume_from="latest").train()
print("done", flush=True)
"""
RESUMED = {
    "augment": "ada",
    "ada_kimg": 0.1,
    "ada_target": -1.0,  # always below the mean sign of D(real): p rises
    "augmentations": ["rotation", "cutout"],
    "checkpointing_steps": 3,
    "max_steps": 13,
    "style_mixing": 0.5,
    "generator": STYLEGAN2,
}


def run_and_kill(folder, line, count, hang=False):
    """Train in another process and SIGKILL it when it has said `line` `count` times."""
    script = textwrap.dedent(CHILD).format(
        root=str(ROOT), tests=str(Path(__file__).parent), folder=str(folder), hang=hang
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, env=environment()
    )
    for said in child.stdout:
        count -= said.strip() == line
        if count == 0:
            break
    child.kill()
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    child.stdin.close()


def test_killed_runs_end_with_the_same_bits(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    make(tmp_path / "whole", **RESUMED).train()
    folder = tmp_path / "killed"
    run_and_kill(folder, "batch", 2)  # before there is a checkpoint
    assert list_checkpoints(folder / "checkpoints") == []
    run_and_kill(folder, "writing", 1, hang=True)  # while the first one is written
    assert list_checkpoints(folder / "checkpoints") == []
    assert list((folder / "checkpoints").glob(".*.tmp"))
    run_and_kill(folder, "batch", 9)  # somewhere after the first or second one
    assert list_checkpoints(folder / "checkpoints")
    make(folder, **RESUMED, resume_from="latest").train()
    torch.set_num_threads(threads)
    assert not list((folder / "checkpoints").glob(".*.tmp"))
    assert_same_bits(state(folder), state(tmp_path / "whole"))
    first, second = weights(folder), weights(tmp_path / "whole")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_interrupt_saves_and_the_run_goes_on(tmp_path):
    def interrupt(number, images):
        if number == 4:
            os.kill(os.getpid(), signal.SIGINT)

    make(tmp_path / "whole").train()
    handler = signal.getsignal(signal.SIGINT)
    make(tmp_path / "stopped", Pictures(event=interrupt)).train()
    assert signal.getsignal(signal.SIGINT) is handler
    report = json.loads((tmp_path / "stopped" / "report.json").read_text())
    assert 0 < report["steps"] < 6
    SharinganPipeline.from_pretrained(tmp_path / "stopped")
    make(tmp_path / "stopped", resume_from="latest").train()
    assert_same_bits(state(tmp_path / "stopped"), state(tmp_path / "whole"))


def test_minutes_count_over_resumes(tmp_path, monkeypatch):
    now = [0.0]

    def tick(number, images):
        now[0] += 10.0

    monkeypatch.setattr(trainer.time, "monotonic", lambda: now[0])
    limits = {"max_steps": None, "checkpointing_steps": 2}
    make(tmp_path, Pictures(event=tick), max_minutes=1, **limits).train()
    first = json.loads((tmp_path / "report.json").read_text())
    assert 1 <= first["minutes"] < 1.5
    now[0] = 5000.0  # another day
    make(tmp_path, Pictures(event=tick), max_minutes=2, resume_from="latest", **limits).train()
    second = json.loads((tmp_path / "report.json").read_text())
    assert 2 <= second["minutes"] < 2.5 and second["steps"] > first["steps"]


def test_old_checkpoints_make_room(tmp_path):
    make(tmp_path, checkpointing_steps=1, checkpoints_total_limit=2, max_steps=5).train()
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["step_00000004", "step_00000005"]


def test_starting_over_an_earlier_run_is_refused(tmp_path):
    make(tmp_path, max_steps=2, checkpointing_steps=1).train()
    with pytest.raises(ValueError, match="resume_from latest"):
        make(tmp_path).train()
    with pytest.raises(ValueError, match="older than other checkpoints"):
        make(tmp_path, resume_from=str(tmp_path / "checkpoints" / "step_00000001")).train()
    with pytest.raises(ValueError, match="no checkpoint"):
        make(tmp_path / "other", resume_from=str(tmp_path)).train()


def test_full_disk_keeps_earlier_checkpoints(tmp_path, monkeypatch):
    written = []

    def fill(file):
        written.append(file)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    make(tmp_path / "whole", checkpointing_steps=1).train()
    monkeypatch.setattr(trainer.os, "fsync", fill)
    with pytest.raises(TrainingError, match="No space left on device.*make room"):
        make(tmp_path / "full", checkpointing_steps=1).train()
    names = [path.name for path in (tmp_path / "full" / "checkpoints").glob("*step*")]
    assert sorted(names) == ["step_00000001", "step_00000002"]
    monkeypatch.undo()
    make(tmp_path / "full", checkpointing_steps=1, resume_from="latest").train()
    assert_same_bits(state(tmp_path / "full"), state(tmp_path / "whole"))


def test_nan_stops_with_a_sentence_and_keeps_earlier_checkpoints(tmp_path):
    def poison(number, images):
        if number == 4:
            images[0, 0, 0, 0] = math.nan

    with pytest.raises(TrainingError, match="Step 4 was not finite.*lower learning_rate or r1_gamma"):
        make(tmp_path, Pictures(event=poison), checkpointing_steps=1).train()
    last = list_checkpoints(tmp_path / "checkpoints")[-1]
    assert last.name == "step_00000003"
    assert all(value.isfinite().all() for value in weights(tmp_path).values())


def test_infinite_gradient_stops_too(tmp_path):
    ours = make(tmp_path)
    ours.generator.const.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(TrainingError, match="gradient_g"):
        ours.train()


# What a run leaves.


@pytest.mark.parametrize("network", [RADIAL, STYLEGAN2], ids=["radial", "stylegan2"])
def test_the_result_is_a_checkpoint_folder(tmp_path, network):
    ours = make(
        tmp_path, generator=network, sample_every=24, checkpointing_steps=4, report_to="tensorboard", max_steps=50
    )
    assert ours.train() == tmp_path
    pipe = SharinganPipeline.from_pretrained(tmp_path)
    for name, value in pipe.generator_model.named_parameters():
        assert torch.equal(value, ours.average.state_dict()[name])
    assert pipe(seeds=[1, 2], output_type="np").images.shape[0] == 2
    discriminator = StyleGAN2Discriminator.from_pretrained(tmp_path / "discriminator")
    assert torch.equal(discriminator.b8.conv0.weight, ours.discriminator.b8.conv0.weight)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["steps"] == 50 and report["images"] == 400 and report["recipe"]["resolution"] == 16
    samples = {path.name for path in (tmp_path / "samples").iterdir()}
    assert {"step_00000024.png", "step_00000048.png", "preview.png"} <= samples
    with Image.open(tmp_path / "samples" / "step_00000024.png") as grid:
        assert grid.size == (8 * 16, 4 * 16)
    with Image.open(tmp_path / "samples" / "preview.png") as strip:
        assert strip.size == (8 * 16, 12 * 16)
    assert list((tmp_path / "logs").rglob("events.out.tfevents*"))
    card = ModelCard.load(tmp_path / "README.md")
    assert "sharingan-hub" in card.data.tags and "| steps | 50 of 8 pictures at 16 px |" in card.text
    assert f"{report['hardware']['name']}, " in card.text and "(samples/preview.png)" in card.text
    assert "(samples/step_00000050.png)" in card.text and report["energy_wh"] is not None


def test_each_export_renews_the_card_and_keeps_what_its_owner_wrote(tmp_path):
    make(tmp_path, max_steps=2).train()
    readme = tmp_path / "README.md"
    card = readme.read_text()
    assert "| steps | 2 of 8" in card
    readme.write_text(card.replace("## Limits", "## My limits") + "Mine.\n")
    make(tmp_path, max_steps=4, resume_from="latest").train()
    after = readme.read_text()
    assert "| steps | 4 of 8" in after and "## My limits" in after and after.endswith("Mine.\n")


def test_the_generator_learns_a_colour(tmp_path):
    """Pictures of one flat red: after a short run the fakes are redder than they were."""
    pictures = Pictures(count=4)
    pictures.images = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).expand(4, 3, 16, 16).clone()
    ours = make(tmp_path, pictures, max_steps=120, learning_rate=1e-2, ema_decay=0.5)
    target = torch.tensor([1.0, -1.0, -1.0])
    before = (ours.sample(32).mean(dim=(0, 2, 3)) - target).abs().mean()
    ours.train()
    after = (ours.sample(32).mean(dim=(0, 2, 3)) - target).abs().mean()
    assert after < 0.4 * before


# Commands.


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_read(recipe, tmp_path):
    config_class = adapt.AdaptConfig if recipe.stem.startswith("adapt") else TrainConfig
    config = train.parse(config_class, ["--config", str(recipe), "--resolution", "32", "--output_dir", str(tmp_path)])
    assert config.resolution == 32
    if config_class is TrainConfig and config.base_model is None:
        train.build_networks(config, None)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--learning_rte", "1"], "learning_rte"),
        (["--batch_size", "many"], "batch_size"),
        (["--batch_size", "0"], "batch_size must be above 0, got 0"),
        (["--augmentations", "[blur]"], "blur"),
        (["--objective", "best"], "objective"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--ema_decay", "2"], "ema_decay"),
        (["--push_to_hub", "true"], "hub_model_id"),
    ],
)
def test_wrong_flags_end_with_code_2_and_one_sentence(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as stopped:
        train.main(["--train_data", "x", "--output_dir", "y", "--max_steps", "1", *arguments])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert sentence in message and message.count("\n") == 1 and message.startswith("error: ")


def test_arguments_of_networks_are_flags(tmp_path):
    recipe = str(ROOT / "training" / "recipes" / "train_stylegan2_attention.yaml")
    flags = ["--generator.attention_replaces", "true", "--discriminator.channel_max", "16"]
    config = train.parse(TrainConfig, ["--config", recipe, *flags])
    assert config.generator["attention"] == 16 and config.generator["attention_replaces"] is True
    generator, discriminator = train.build_networks(config, None)
    assert generator.config.attention_replaces and discriminator.config.channel_max == 16


def test_unknown_recipe_key_is_refused_by_name(tmp_path, capsys):
    recipe = write_recipe(tmp_path, learning_rte=0.1)
    with pytest.raises(SystemExit) as stopped:
        train.main(["--config", str(recipe), "--output_dir", str(tmp_path)])
    assert stopped.value.code == 2 and "learning_rte" in capsys.readouterr().err


def test_the_end_of_a_run_must_be_given():
    with pytest.raises(ValueError, match="max_steps or max_minutes"):
        TrainConfig(**BASE | {"output_dir": "x", "max_steps": None})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"generator": {"class_name": "Nothing"}}, "generator.class_name"),
        ({"discriminator": {"class_name": "Nothing"}}, "discriminator.class_name"),
        ({"generator": RADIAL | {"depth": 3}}, "depth"),
        ({"generator": STYLEGAN2 | {"resolution": 32}}, "resolution must be 32"),
    ],
)
def test_networks_that_do_not_exist_are_named(changes, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        make(tmp_path, **changes)


def test_adapting_keeps_what_is_frozen_and_takes_the_data_mix(tmp_path):
    """adapt.py from a folder, to pictures with orders, at the same and at twice the resolution."""
    make(tmp_path / "base").train()
    pictures = write_pictures(tmp_path / "pictures", count=3)
    rows = [{"file_name": f"{i:02}.png", "order": order} for i, order in enumerate((3, 3, 5))]
    (pictures / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = BASE | {"train_data": str(pictures), "base_model": str(tmp_path / "base"), "augment": "diffaugment"}
    config = adapt.AdaptConfig(**common | {"output_dir": str(tmp_path / "new"), "freeze_discriminator": 1})
    adapt.adapt(config)
    before, after = weights(tmp_path / "base"), weights(tmp_path / "new")
    for name in before:
        frozen = name.startswith(("discriminator.fromrgb", "discriminator.b16."))
        if frozen or name.startswith("discriminator."):
            assert torch.equal(before[name], after[name]) == frozen, name
    mix = json.loads((tmp_path / "new" / "generator_model" / "config.json").read_text())["order_probs"]
    np.testing.assert_allclose(mix, [0, 0, 2 / 3, 0, 1 / 3, 0, 0, 0])
    grown = common | {"output_dir": str(tmp_path / "grown"), "resolution": 32, "max_steps": 1}
    adapt.adapt(adapt.AdaptConfig(**grown))
    assert StyleGAN2Discriminator.from_pretrained(tmp_path / "grown" / "discriminator").config.resolution == 32


def test_sharpening_makes_edges_steeper_and_moves_none(tmp_path):
    config = TrainConfig(**BASE | {"output_dir": str(tmp_path)})
    torch.manual_seed(0)
    generator, _ = train.build_networks(config, None)
    latents = draw_latents(generator, 4, 0, 0)
    order, phase = latents.conditions["order"], latents.conditions["phase"]
    ws = generator.broadcast(generator.mapping(latents.z, order), order, phase)
    with torch.no_grad():
        before = generator.masks(ws, output_size=32)
        train.sharpen(generator, 4.0)
        after = generator.masks(ws, output_size=32)
    frame = slice(0, 1)  # against all others together: a softmax of two
    assert (after.amax(dim=1) >= before.amax(dim=1) - 1e-5).float().mean() > 0.99
    assert ((before[:, frame] > 0.5) == (after[:, frame] > 0.5)).all()
    with pytest.raises(ValueError, match="sharpen must be 1 with StyleGAN2Generator.*got 2"):
        train.train(
            TrainConfig(
                **BASE
                | {"output_dir": str(tmp_path), "generator": STYLEGAN2, "sharpen": 2.0, "train_data": "emblems:source"}
            )
        )


def test_a_base_model_that_is_none_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        pictures = write_pictures(tmp_path / "pictures", count=3)
        flags = ["--train_data", str(pictures), "--output_dir", str(tmp_path / "out"), "--max_steps", "1"]
        adapt.main([*flags, "--base_model", str(tmp_path)])
    assert stopped.value.code == 2 and "checkpoint" in capsys.readouterr().err


def test_commands_start_as_files_and_as_modules():
    for command in (["training/adapt.py"], ["-m", "training.train"]):
        text = subprocess.run(
            [sys.executable, *command, "--help"],
            cwd=ROOT,
            env=environment(),
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        assert "--checkpoints_total_limit" in text


@pytest.fixture
def fresh_accelerate():
    """Accelerate allows one precision for each process."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


def check_bf16(folder):
    seen = set()
    ours = make(folder, mixed_precision="bf16", max_steps=4)
    ours.discriminator.b8.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    ours.train()
    assert seen == {torch.bfloat16}
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in ours.generator.parameters())


def test_bf16_computes_in_bf16_and_keeps_weights_in_float32(tmp_path, fresh_accelerate, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    check_bf16(tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_bf16_on_a_gpu(tmp_path, fresh_accelerate):
    check_bf16(tmp_path)


def test_a_missing_tracker_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install trackio"):
        make(tmp_path, report_to="trackio")


@pytest.mark.slow
def test_every_recipe_runs_small(tmp_path):
    pictures = write_pictures(tmp_path / "pictures", side=40)
    small = ["--resolution", "32", "--train_data", str(pictures), "--max_steps", "2", "--report_to", "none"]
    base = tmp_path / "train_radial"
    for recipe in sorted(RECIPES, key=lambda path: path.stem.startswith("adapt") or "_adversarial" in path.stem):
        flags = ["--config", str(recipe), "--output_dir", str(tmp_path / recipe.stem), *small]
        if recipe.stem.startswith("adapt"):
            adapt.main([*flags, "--base_model", str(base)])
        else:
            train.main(flags + (["--base_model", str(base)] if "_adversarial" in recipe.stem else []))
        pipe = SharinganPipeline.from_pretrained(tmp_path / recipe.stem)
        assert np.isfinite(pipe(seeds=[1], output_type="np").images).all()
        card = (tmp_path / recipe.stem / "README.md").read_text()
        assert type(pipe.generator_model).__name__ in card and "max_steps: 2" in card and "{{" not in card


def test_the_rates_fall_by_minutes_where_those_end_the_run(tmp_path):
    ours = make(tmp_path, max_steps=1000, max_minutes=10, cooldown=0.5, learning_rate=0.01)
    seen = []
    for ours.clock in (0.0, 300.0, 450.0, 600.0, 601.0):
        ours._set_rates()
        seen.append(ours.g_optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx([0.01, 0.01, 0.005, 0.0, 0.0])
