"""The training loop: one step against a textbook step, every way to split a batch, and what a run leaves."""

import json
import math
import subprocess
import sys
from copy import deepcopy

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

from sharingan_hub import SharinganPipeline, hub
from tests.training.runs import (
    RADIAL,
    ROOT,
    STYLEGAN2,
    Pictures,
    assert_close,
    environment,
    make,
    weights,
    write_pictures,
    write_recipe,
)
from training import train
from training.checkpoints import list_checkpoints
from training.discriminators import StyleGAN2Discriminator
from training.sampling import draw_latents, generate
from training.trainer import Trainer

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


def test_the_rates_fall_by_minutes_where_those_end_the_run(tmp_path):
    ours = make(tmp_path, max_steps=1000, max_minutes=10, cooldown=0.5, learning_rate=0.01)
    seen = []
    for ours.clock in (0.0, 300.0, 450.0, 600.0, 601.0):
        ours._set_rates()
        seen.append(ours.g_optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx([0.01, 0.01, 0.005, 0.0, 0.0])


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
