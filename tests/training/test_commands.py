"""train.py and adapt.py as commands: recipes, flags, and what they refuse."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.training.runs import (
    BASE,
    RADIAL,
    RECIPES,
    ROOT,
    STYLEGAN2,
    assert_trains_in_bf16,
    environment,
    make,
    run_small,
    weights,
    write_pictures,
    write_recipe,
)
from training import adapt, train, trainer
from training.config import TrainConfig
from training.discriminators import StyleGAN2Discriminator
from training.sampling import draw_latents


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


def test_a_mix_of_orders_fits_the_generator_or_is_refused(tmp_path):
    config = TrainConfig(**BASE | {"output_dir": str(tmp_path), "generator": RADIAL | {"max_order": 4}})
    mix = [0.25, 0.0, 0.75, 0.0]
    for given in (mix, mix + [0.0] * 4, mix[:3]):
        assert train.build_networks(config, given)[0].config.order_probs == mix
    assert train.build_networks(config, None)[0].config.order_probs is None
    with pytest.raises(ValueError, match="has pictures of order 6, and the generator knows orders 1 to 4: .*max_order"):
        train.build_networks(config, [0.5, 0, 0, 0, 0.25, 0.25, 0, 0])


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


def test_bf16_computes_in_bf16_and_keeps_weights_in_float32(tmp_path, fresh_accelerate):
    assert_trains_in_bf16(make(tmp_path, mixed_precision="bf16", max_steps=4))


@pytest.mark.parametrize("asked_for", [False, True])
def test_auto_is_no_on_a_cpu_also_beside_a_gpu(tmp_path, fresh_accelerate, monkeypatch, asked_for):
    if asked_for:  # accelerate launch --cpu
        monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
        for backend in (torch.cuda, torch.accelerator):
            monkeypatch.setattr(backend, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    ours = make(tmp_path)
    assert ours.device.type == "cpu" and ours.accelerator.mixed_precision == "no"


def test_a_missing_tracker_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install trackio"):
        make(tmp_path, report_to="trackio")


@pytest.mark.slow
def test_every_recipe_runs_small(tmp_path):
    pictures, base = write_pictures(tmp_path / "pictures", side=40), tmp_path / "train_radial"
    for recipe in sorted(RECIPES, key=lambda path: path.stem.startswith("adapt") or "_adversarial" in path.stem):
        pipe = run_small(recipe, tmp_path / recipe.stem, pictures, base)
        card = (tmp_path / recipe.stem / "README.md").read_text()
        assert type(pipe.generator_model).__name__ in card and "max_steps: 2" in card and "{{" not in card
