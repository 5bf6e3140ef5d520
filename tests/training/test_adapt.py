"""Every method of adaptation on both families: which weights learn, that it resumes, and what it refuses."""

import json
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

from sharingan_hub import RadialGenerator, SharinganPipeline, symmetry_score
from tests.training.conftest import CDC, EVERYTHING, FAMILIES, METHODS, ROOT, networks, settings, take, write_pictures
from tests.training.runs import state, weights
from training import adapt, train
from training.adapt import AdaptConfig, freeze_parts
from training.discriminators import StyleGAN2Discriminator
from training.trainer import Trainer

# Which weights learn.


@pytest.fixture
def generator() -> RadialGenerator:
    return RadialGenerator(z_dim=8, w_dim=8, channels=(8,), base_radius=4, base_angle=8)


def trained(generator) -> set[str]:
    return {name for name, weight in generator.named_parameters() if weight.requires_grad}


def test_the_named_parts_stop_training_and_the_others_go_on(generator):
    freeze_parts(generator, ["fc", "convs"])
    frozen = {name.partition(".")[0] for name, weight in generator.named_parameters() if not weight.requires_grad}
    assert frozen == {"fc", "convs"}
    assert {"palette_head", "heads", "round_head", "const"} <= {name.partition(".")[0] for name in trained(generator)}


@pytest.mark.parametrize("family", FAMILIES)
def test_scale_and_shift_are_the_affine_layers_and_biases(family):
    generator, _ = networks(family)
    freeze_parts(generator, [], ["*.affine.*", "*bias"])
    assert trained(generator) == {n for n, _ in generator.named_parameters() if ".affine." in n or n.endswith("bias")}
    freeze_parts(generator, ["fc|mapping"], ["*.affine.*", "*bias"])
    assert not any(name.startswith(("fc", "mapping")) for name in trained(generator))


@pytest.mark.parametrize("family", FAMILIES)
def test_one_of_several_alternatives_is_enough(family):
    generator, _ = networks(family)
    freeze_parts(generator, ["convs.0|synthesis.b4"])
    frozen = {name for name, weight in generator.named_parameters() if not weight.requires_grad}
    assert frozen and all(name.startswith(("convs.0", "synthesis.b4")) for name in frozen)


@pytest.mark.parametrize(
    ("frozen", "only", "told"),
    [
        (["palete"], [], "freeze_generator names 'palete'.*palette_head"),
        ([""], [], "nothing to train"),
        ([], ["*.afine.*"], "train_only names '\\*.afine.\\*'.*palette_head"),
        (["palette"], ["palette_head"], "nothing to train"),
    ],
)
def test_a_slip_is_told(generator, frozen, only, told):
    with pytest.raises(ValueError, match=told):
        freeze_parts(generator, frozen, only)


# Every method.


@pytest.fixture(scope="module")
def plain(folder, tmp_path_factory) -> dict[str, dict[str, torch.Tensor]]:
    """Weights after plain fine-tuning of each family."""
    outputs = {family: tmp_path_factory.mktemp(family) / "plain" for family in FAMILIES}
    return {f: weights(adapt.adapt(AdaptConfig(**settings(folder, f, out)))) for f, out in outputs.items()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_makes_a_difference_and_resumes_to_the_same_bits(folder, tmp_path, plain, family, method):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    adapt.adapt(AdaptConfig(**settings(folder, family, whole, **METHODS[method])))
    adapt.adapt(AdaptConfig(**settings(folder, family, parts, max_steps=2, **METHODS[method])))
    adapt.adapt(AdaptConfig(**settings(folder, family, parts, resume_from="latest", **METHODS[method])))
    first, second = state(whole), state(parts)
    assert len(first) == len(second) > 20
    assert all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(first, second))
    first, second = weights(whole), weights(parts)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert first.keys() == plain[family].keys()  # no patch head among them
    generator = [name for name in first if name.startswith("generator_model.") and not name.endswith("w_avg")]
    assert sum(not torch.equal(first[name], plain[family][name]) for name in generator) > len(generator) / 4
    assert np.isfinite(SharinganPipeline.from_pretrained(whole)(seeds=[1], output_type="np").images).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_accumulation_changes_nothing_with_everything_on(folder, tmp_path, family):
    results = []
    for parts in (1, 2):
        changes = EVERYTHING | {"gradient_accumulation_steps": parts, "max_steps": 3}
        results.append(weights(adapt.adapt(AdaptConfig(**settings(folder, family, tmp_path / str(parts), **changes)))))
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=1e-4, atol=1e-5)


def test_two_processes_equal_one_with_everything_on(folder, tmp_path):
    """The public code has its number of GPUs written into it."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(settings(folder, "radial", tmp_path, **EVERYTHING | {"max_steps": 3})))
    command = ["--config", str(recipe), "--output_dir"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    launched = [*launch, "training/adapt.py", *command, str(tmp_path / "two")]
    subprocess.run(launched, cwd=ROOT, env=environment, check=True)
    adapt.main([*command, str(tmp_path / "one")])
    first, second = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert json.loads((tmp_path / "two" / "report.json").read_text())["processes"] == 2
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-4, atol=1e-5)


# Filters.


@pytest.mark.parametrize("family", FAMILIES)
def test_filters_are_frozen_or_removed_in_the_result(folder, tmp_path, family):
    out = adapt.adapt(AdaptConfig(**settings(folder, family, tmp_path / "out", **METHODS["adam"])))
    before, after = weights(folder / family), weights(out)
    kinds = {}
    for part in ("generator_model", "discriminator"):
        names = [
            n for n in before if n.startswith(part) and before[n].ndim == 4 and "torgb" not in n and "head" not in n
        ]
        names = [n for n in names if before[n].shape[0] > 1]  # const is one
        kept = torch.cat([(before[n] == after[n]).flatten(1).all(1) for n in names])
        gone = torch.cat([(after[n] == 0).flatten(1).all(1) for n in names])
        kinds[part] = (kept.float().mean().item(), gone.float().mean().item())
    for kept, gone in kinds.values():
        assert kept == pytest.approx(0.25, abs=0.1) and gone == pytest.approx(0.1, abs=0.06)


def test_the_choice_is_made_again_at_its_interval(make):
    """And each time a fifth of the filters that are left is removed, for good."""
    ours = make(**METHODS["rick"], r1_gamma=0.0)
    ours._begin()
    learning, removed = [ours.filters[0].learning.clone()], [ours.filters[0].removed.clone()]
    for step in range(7):
        take(ours, 1, step)
        learning.append(ours.filters[0].learning.clone())
        removed.append(ours.filters[0].removed.clone())
    same = [torch.equal(a, b) for a, b in zip(learning, learning[1:])]
    assert same == [True, True, True, False, True, True, False]
    count = len(removed[0])
    for before, after in zip(removed, removed[1:]):
        assert not (before & ~after).any() and not (after & learning[-1]).any()
    shares = [some.sum().item() / count for some in removed]
    assert shares == pytest.approx([0.2] * 4 + [0.36] * 3 + [0.488], abs=2 / count)


def test_a_run_does_not_go_on_with_another_method(folder, tmp_path):
    adapt.adapt(AdaptConfig(**settings(folder, "radial", tmp_path / "out", max_steps=1, **METHODS["ewc"])))
    with pytest.raises(ValueError, match="ewc_weight.* must be on or off as in the run that made .*consolidation"):
        adapt.adapt(AdaptConfig(**settings(folder, "radial", tmp_path / "out", resume_from="latest")))


def test_a_run_does_not_go_on_with_other_patches(folder, tmp_path):
    adapt.adapt(AdaptConfig(**settings(folder, "radial", tmp_path / "out", max_steps=1, **METHODS["patches"])))
    changes = METHODS["patches"] | {"patch_size": [5, 5], "resume_from": "latest"}
    with pytest.raises(ValueError, match="patch_size must be those of the run that made .* patch_head does not fit"):
        adapt.adapt(AdaptConfig(**settings(folder, "radial", tmp_path / "out", **changes)))


# Orders, and what comes in.


def test_an_adapted_model_draws_orders_that_no_picture_has(tmp_path):
    """From the embedded source model."""
    pictures = write_pictures(
        tmp_path / "pictures", np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    )
    rows = [{"file_name": f"{i:04}.png", "order": order} for i, order in enumerate((3, 3, 5))]
    (pictures / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = AdaptConfig(
        train_data=str(pictures),
        output_dir=str(tmp_path / "out"),
        resolution=32,
        batch_size=8,
        max_steps=2,
        freeze_generator=["fc", "convs"],
        report_to="none",
    )
    pipe = SharinganPipeline.from_pretrained(adapt.adapt(config))
    np.testing.assert_allclose(pipe.generator_model.config.order_probs, [0, 0, 2 / 3, 0, 1 / 3, 0, 0, 0])
    images = pipe(seeds=[1, 2, 3], order=8, output_size=128, output_type="pt").images
    assert (symmetry_score(images, 8) > 0.9).all() and (symmetry_score(images, 7) < 0.5).all()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "adapted to 3 pictures" in card and re.search(r"\| pictures seen \| 16; [\d,]{5,} before that", card)
    adapter = (tmp_path / "out" / "adapter" / "README.md").read_text()  # it can be published by itself
    assert "- adapter\n" in adapter and "| steps | 2 of 8 pictures at 32 px |" in adapter
    assert "(samples/grid.png)" in adapter and (tmp_path / "out" / "adapter" / "samples" / "grid.png").is_file()
    assert "| made from | `sharingan_hub/embedded/source`, inside" in adapter


def grey(count: int) -> list[np.ndarray]:
    return [np.random.default_rng(i).integers(0, 256, (16, 16), dtype=np.uint8) for i in range(count)]


@pytest.mark.parametrize(
    "pictures", [grey(1), [grey(1)[0][..., None].repeat(3, 2)] * 2, grey(6)], ids=["one", "two identical", "grey"]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_few_and_grey_pictures_work(folder, tmp_path, family, pictures):
    data = write_pictures(tmp_path / "pictures", pictures)
    changes = EVERYTHING | {"train_data": str(data), "max_steps": 2}
    out = adapt.adapt(AdaptConfig(**settings(folder, family, tmp_path / "out", **changes)))
    assert np.isfinite(SharinganPipeline.from_pretrained(out)(seeds=[1], output_type="np").images).all()


def test_many_pictures_work(folder, tmp_path):
    data = write_pictures(tmp_path / "pictures", np.random.default_rng(0).integers(0, 256, (5000, 4, 4, 3), np.uint8))
    out = adapt.adapt(AdaptConfig(**settings(folder, "radial", tmp_path / "out", train_data=str(data), max_steps=2)))
    assert json.loads((out / "report.json").read_text())["steps"] == 2


@pytest.mark.parametrize(
    ("family", "changes", "told"),
    [
        ("stylegan2", {"resolution": 32}, "resolution must be 16 with this generator, got 32"),
        (
            "stylegan2",
            {"freeze_generator": ["convs"]},
            "freeze_generator names 'convs'.*name some of mapping, synthesis",
        ),
        ("radial", {"train_only": ["synthesis"]}, "train_only names 'synthesis'.*convs"),
        ("radial", {"freeze_discriminator": 3}, "freeze_discriminator must be 0 to 2 at this resolution"),
        ("radial", {"patch_level": 32}, "patch_level must be one of 16, 8, 4"),
        ("radial", {"patch_level": 4, "patch_size": [1, 5]}, "patch_size must be at most patch_level, 4"),
        ("stylegan2", CDC | {"batch_size": 6}, "batch_size must be a multiple of .* x 4 = 4 .* got 6"),
        ("radial", CDC | {"gradient_accumulation_steps": 4}, "batch_size must be a multiple of .* x 4 = 16 .* got 8"),
    ],
)
def test_what_does_not_fit_the_base_model_is_told(folder, tmp_path, family, changes, told):
    with pytest.raises(ValueError, match=told):
        adapt.adapt(AdaptConfig(**settings(folder, family, tmp_path / "out", **changes)))


def test_a_radial_base_goes_on_at_any_resolution(folder, tmp_path):
    changes = EVERYTHING | {"resolution": 32, "patch_level": 32, "max_steps": 2}
    adapt.adapt(AdaptConfig(**settings(folder, "radial", tmp_path / "out", **changes)))
    assert StyleGAN2Discriminator.from_pretrained(tmp_path / "out" / "discriminator").config.resolution == 32


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"patch_size": [3]}, "patch_size must be a height and a width"),
        ({"patch_size": [0, 3]}, "patch_size must be a height and a width, each at least 1"),
        ({"patch_share": 0}, "patch_share must be above 0"),
        ({"patch_share": 1.5}, "patch_share must be from 0 to 1"),
        ({"anchor_every": 4}, "anchor_every needs patch_level"),
        ({"anchor_every": 1, "patch_level": 8}, "anchor_every must be 0 or at least 2"),
        ({"ewc_weight": -1}, "ewc_weight must not be negative"),
        ({"symmetry_weight": math.nan}, "symmetry_weight must not be negative"),
        ({"fisher_freeze": 0.1, "fisher_zero": 0.2}, "fisher_zero must not be above fisher_freeze"),
        ({"fisher_interval": 5}, "fisher_interval needs fisher_freeze"),
        ({"statistics_weight": -1}, "statistics_weight must not be negative"),
        ({"statistics_steps": 5}, "statistics_steps is 5; they need a statistics_weight"),
    ],
)
def test_settings_that_contradict_each_other_are_told(changes, told):
    with pytest.raises(ValueError, match=told):
        AdaptConfig(train_data="x", output_dir="y", max_steps=1, **changes)


@pytest.mark.parametrize("name", ["correspondence_weight", "ewc_weight"])
def test_what_is_kept_needs_a_base_model(name):
    with pytest.raises(ValueError, match=f"{name} must be 0 without a base_model"):
        train.TrainConfig(train_data="x", output_dir="y", max_steps=1, **{name: 1.0})


RECIPES = sorted(path for path in (ROOT / "training" / "recipes").glob("adapt_*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_fits_a_base_of_either_family(folder, tmp_path, recipe):
    flags = ["--config", str(recipe), "--train_data", str(folder / "pictures"), "--output_dir", str(tmp_path)]
    config = train.parse(AdaptConfig, [*flags, "--resolution", "32", "--report_to", "none"])
    for family in FAMILIES[:1] if config.designs else FAMILIES:
        generator, discriminator = networks(family, 32)
        freeze_parts(generator, config.freeze_generator, config.train_only)
        discriminator.freeze(config.freeze_discriminator)
        assert Trainer(config, train.load_data(config), generator, discriminator).g_weights
