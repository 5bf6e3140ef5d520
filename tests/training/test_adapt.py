"""Every method of adaptation on both families: what it does to a step, that it resumes, and what it refuses."""

import json
import math
import os
import re
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from safetensors.torch import load_file

from sharingan_hub import RadialGenerator, SharinganPipeline, StyleGAN2Generator, symmetry_score
from training import adapt, train
from training.adapt import AdaptConfig, freeze_parts
from training.checkpoints import list_checkpoints
from training.correspondence import correspondence_loss, draw_layers, recorded, style_layers
from training.discriminators import StyleGAN2Discriminator
from training.radial_statistics import statistics_loss, wanted_of
from training.sampling import draw_latents, generate, seeded
from training.symmetry import asymmetry
from training.trainer import Trainer

ROOT = Path(__file__).parents[2]
FAMILIES = ["radial", "stylegan2"]
CDC = {"correspondence_weight": 100.0, "patch_level": 8, "anchor_every": 2, "anchors": 3}
METHODS = {
    "scale_shift": {"train_only": ["*.affine.*", "*bias"]},
    "freezeg": {"freeze_generator": ["fc|mapping", "*const"]},
    "diffaugment": {"augment": "diffaugment", "augmentations": ["rotation", "color", "cutout"]},
    "ewc": {"ewc_weight": 1e5},
    "cdc": CDC,
    "patches": {"patch_level": 16, "patch_size": [1, 5]},
    "picture_and_patches": {"patch_level": 4, "patch_size": [2, 1], "patch_share": 0.4},
    "cdc_patches": CDC | {"patch_size": [5, 1], "style_mixing": 0.5},
    "adam": {"fisher_freeze": 0.75, "fisher_zero": 0.1},
    "rick": {"fisher_freeze": 0.5, "fisher_zero": 0.2, "fisher_interval": 3, "adam_beta1": 0.5},
    "symmetry": {"symmetry_weight": 5.0},
    "statistics": {"statistics_weight": 10.0},
    "matching": {"statistics_weight": 10.0, "statistics_steps": 3},
}
EVERYTHING = CDC | {
    "patch_share": 0.5,
    "ewc_weight": 1e4,
    "fisher_freeze": 0.75,
    "fisher_zero": 0.1,
    "fisher_interval": 2,
    "symmetry_weight": 1.0,
    "statistics_weight": 10.0,
    "statistics_steps": 1,
    "style_mixing": 0.5,
}


def networks(family: str, resolution: int = 16) -> tuple:
    torch.manual_seed(3)
    if family == "radial":
        generator = RadialGenerator(
            z_dim=8, w_dim=8, channels=(8, 8), base_radius=4, base_angle=8, mapping_layers=2, mapping_width=16
        )
    else:
        generator = StyleGAN2Generator(
            z_dim=8, w_dim=8, resolution=resolution, mapping_layers=2, channel_base=64, channel_max=8
        )
    return generator, StyleGAN2Discriminator(resolution, channel_base=128, channel_max=8, mbstd_group_size=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A base model of each family, and five pictures."""
    folder = tmp_path_factory.mktemp("adapt")
    for family in FAMILIES:
        generator, discriminator = networks(family)
        SharinganPipeline(generator_model=generator).save_pretrained(folder / family)
        discriminator.save_pretrained(folder / family / "discriminator")
    write_pictures(folder / "pictures", np.random.default_rng(0).integers(0, 256, (5, 20, 20, 3), dtype=np.uint8))
    return folder


def write_pictures(folder: Path, pictures) -> Path:
    folder.mkdir()
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{i:04}.png")
    return folder


def settings(folder: Path, family: str, output: Path, **changes) -> dict:
    return {
        "train_data": str(folder / "pictures"),
        "base_model": str(folder / family),
        "output_dir": str(output),
        "resolution": 16,
        "batch_size": 8,
        "max_steps": 4,
        "r1_interval": 2,
        "fisher_samples": 6,
        "sample_every": 1000,
        "checkpointing_steps": 1000,
        "report_to": "none",
    } | changes


@pytest.fixture
def make(folder, tmp_path):
    """Makes a trainer on the base model of a family."""

    def make(family: str = "stylegan2", **changes) -> Trainer:
        config = AdaptConfig(**settings(folder, family, tmp_path / "out", **changes))
        data = train.load_data(config)
        return Trainer(config, data, *train.build_networks(config, data.order_probs))

    return make


def take(trainer: Trainer, steps: int = 1, first: int = 0) -> list[dict[str, float]]:
    """Steps without what train() does around them; the statistics of each."""
    values = []
    for trainer.step in range(first, first + steps):
        values.append(trainer._train_step(trainer._reals(trainer.step)))
    return values


def state(folder: Path) -> list:
    loaded = torch.load(list_checkpoints(folder / "checkpoints")[-1] / "state.pt", weights_only=True)

    def leaves(value):
        if isinstance(value, dict):
            return [leaf for key in value for leaf in leaves(value[key])]
        return [leaf for item in value for leaf in leaves(item)] if isinstance(value, (list, tuple)) else [value]

    return leaves(loaded)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    parts = (folder / part / "diffusion_pytorch_model.safetensors" for part in ("generator_model", "discriminator"))
    return {f"{path.parent.name}.{name}": value for path in parts for name, value in load_file(path).items()}


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


# Heads.


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_a_step_with_patches_is_the_textbook_step(make, share):
    """Each head has its part of both losses, and of R1; the patches' R1 is that of logits added up as independent ones."""
    ours = make(
        patch_level=8, patch_size=[2, 3], patch_share=share, r1_gamma=50.0, real_rotations=False, real_flips=False
    )
    generator, discriminator, head = (deepcopy(part) for part in (ours.generator, ours.discriminator, ours.patch_head))
    reals, latents = ours._reals(0), draw_latents(ours.generator, 8, 0, 0)
    noise = [seeded(0, 0, f"noise {i}") for i in range(8)]
    fakes = generate(generator, latents, 16, noise)
    judges = [(1 - share, discriminator), (share, lambda images: head(discriminator.features(images, 8)))]
    judges = [(part, judge) for part, judge in judges if part > 0]
    parameters = [*discriminator.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=2.5e-3 * 2 / 3, betas=(0.0, 0.99 ** (2 / 3)))
    images = reals[[2, 3, 6, 7]].requires_grad_()
    loss = torch.zeros(())
    for part, judge in judges:
        loss = loss + part * (F.softplus(-judge(reals)).mean() + F.softplus(judge(fakes.detach())).mean())
        logits = judge(images)
        (gradient,) = torch.autograd.grad(logits.sum() / math.sqrt(logits.shape[1]), images, create_graph=True)
        loss = loss + part * 2 * 50.0 / 2 * gradient.square().sum(dim=(1, 2, 3)).mean()
    loss.backward()
    optimizer.step()
    (values,) = take(ours)
    for mine, theirs in zip([*ours.discriminator.parameters(), *ours.patch_head.parameters()], parameters):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=2e-5)
    expected = sum(part * F.softplus(-judge(fakes)).mean() for part, judge in judges)
    assert values["loss_g"] == pytest.approx(expected.item(), rel=1e-3)
    assert values["r1"] > 0


def test_r1_reaches_both_heads_although_its_interval_is_a_multiple_of_theirs(make):
    """In the public code every 16th step has R1 and every 4th the picture's head, so the patch head never has it."""
    ours = make(**CDC | {"anchor_every": 4, "correspondence_weight": 0.0}, r1_interval=4)
    heads, with_r1 = [], []
    for step, values in enumerate(take(ours, 34)):
        ours.step = step
        heads.append(next(iter(ours._heads())))
        with_r1.append("r1" in values and values["r1"] > 0)
    assert heads == ["picture" if step % 4 == 0 else "patch" for step in range(34)]
    for head in ("picture", "patch"):
        turns = [r1 for own, r1 in zip(heads, with_r1) if own == head]
        assert turns == [i % 4 == 0 for i in range(len(turns))]  # as often as the weight of a lazy R1 assumes


@pytest.mark.parametrize("step", [0, 1])
def test_r1_moves_the_head_in_use(make, step):
    heads = {}
    for gamma in (1e-6, 1e3):
        ours = make(**CDC | {"anchor_every": 2, "correspondence_weight": 0.0}, r1_gamma=gamma)
        take(ours, 1, step)
        heads[gamma] = {"picture": ours.discriminator.b4.out.weight, "patch": ours.patch_head.weight}
    moved = {name: not torch.allclose(heads[1e-6][name], heads[1e3][name]) for name in heads[1e3]}
    assert moved == {"picture": step == 0, "patch": step == 1}


def test_nothing_is_computed_twice(make):
    """In a step of CDC: the generator and the source model once, the discriminator thrice (fakes, reals, fakes for G), and
    of its blocks below the patches none. The public code runs parts of its residual blocks twice."""
    ours = make(**CDC, r1_gamma=0.0)
    calls: dict[str, int] = {}

    def count(name):
        return lambda *_: calls.update({name: calls.get(name, 0) + 1})

    for name, module in (
        ("generator", ours.generator.synthesis),
        ("source", ours.source.synthesis),
        ("b16", ours.discriminator.b16.conv0),
        ("b8", ours.discriminator.b8.conv0),
        ("head", ours.patch_head),
    ):
        module.register_forward_hook(count(name))
    take(ours, 1, first=1)
    assert calls == {"generator": 1, "source": 1, "b16": 3, "head": 3}
    calls.clear()
    take(ours, 1, first=2)  # near anchors
    assert calls == {"generator": 1, "source": 1, "b16": 3, "b8": 3}


def test_the_picture_is_judged_near_anchors_alone(make):
    ours = make(**CDC, r1_gamma=0.0)
    seen = {}
    for ours.step in range(6):
        seen[ours.step] = ours._draw_latents().z, ours._heads()
    near = [z for step, (z, heads) in seen.items() if heads == {"picture": 1.0} and step % 2 == 0]
    far = [z for step, (z, heads) in seen.items() if heads == {"patch": 1.0} and step % 2 == 1]
    assert len(near) == len(far) == 3
    distances = torch.cdist(torch.cat(near), torch.cat(near))
    assert ((distances < 1).float().mean() > 0.2) and torch.cdist(torch.cat(far), torch.cat(far)).fill_diagonal_(
        9
    ).min() > 0.5


# Losses.


@pytest.mark.parametrize("family", FAMILIES)
def test_correspondence_is_measured_on_the_steps_own_fakes(make, family):
    ours = make(family, correspondence_weight=1.0, r1_gamma=0.0)
    source = deepcopy(ours.generator)
    first, second = take(ours, 2)
    assert first["correspondence"] == pytest.approx(0, abs=1e-6)  # nothing is learnt yet
    adapted = deepcopy(ours.generator)
    layer = draw_layers(8, len(ours.layers), 0, 2)
    noise = [[seeded(0, 2, f"noise {i}") for i in range(8)] if ours.noisy else None for _ in range(2)]
    outputs = []
    for network, random in zip((adapted, source), noise):
        with torch.no_grad(), recorded(style_layers(network)) as found:
            generate(network, draw_latents(network, 8, 0, 2), 16, random)
        outputs.append(found)
    (third,) = take(ours, 1, 2)
    assert third["correspondence"] == pytest.approx(correspondence_loss(*outputs, layer).mean().item(), rel=1e-3)
    assert third["correspondence"] > second["correspondence"] / 100 > 0


@pytest.mark.parametrize(
    ("method", "statistic"),
    [
        ({"correspondence_weight": 1e5}, "correspondence"),
        ({"symmetry_weight": 1e3}, "symmetry"),
        ({"ewc_weight": 1e9}, "ewc"),
    ],
    ids=["correspondence", "symmetry", "ewc"],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_loss_falls_where_it_has_weight(make, method, statistic, family):
    """The same steps with the term present but all but weightless, and with it heavy."""
    ends = {}
    for weight in (1e-9, next(iter(method.values()))):
        ours = make(family, **dict.fromkeys(method, weight), r1_gamma=0.0, learning_rate=0.01)
        ours._begin()
        ends[weight] = sum(values[statistic] for values in take(ours, 12)[6:])
    light, heavy = ends.values()
    assert heavy < 0.7 * light


@pytest.mark.parametrize("family", FAMILIES)
def test_radial_statistics_come_near_where_they_have_weight(make, family):
    ends = {}
    for weight in (0.0, 100.0):
        ours = make(family, statistics_weight=weight, r1_gamma=0.0, learning_rate=0.01)
        values = take(ours, 12)
        assert ("statistics" in values[0]) == (weight > 0)
        real = wanted_of(ours.dataset.batch(range(5))[0])
        fakes = generate(ours.generator, draw_latents(ours.generator, 64, 7, 0), 16)
        ends[weight] = float(statistics_loss(fakes.detach(), real).mean())
    assert ends[100.0] < ends[0.0] - 0.02


@pytest.mark.parametrize("family", FAMILIES)
def test_matching_learns_the_statistics_and_nothing_about_the_discriminator(folder, tmp_path, family):
    changes = {"statistics_weight": 10.0, "statistics_steps": 20, "max_steps": 20, "learning_rate": 0.01}
    out = adapt.adapt(AdaptConfig(**settings(folder, family, tmp_path / "out", **changes)))
    before, after = weights(folder / family), weights(out)
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"generator_model"}
    data = train.load_data(AdaptConfig(**settings(folder, family, tmp_path / "data")))
    real = wanted_of(data.batch(range(5))[0])
    far, near = (
        float(statistics_loss(torch.from_numpy(pipe(**draw).images.transpose(0, 3, 1, 2)) * 2 - 1, real).mean())
        for draw in [{"seeds": range(64), "truncation_psi": 1.0, "output_type": "np"}]
        for pipe in map(SharinganPipeline.from_pretrained, (folder / family, out))
    )
    assert near < far - 0.02


def test_a_run_of_low_rank_resumes_and_is_written_as_an_adapter_of_its_base(folder, tmp_path):
    torch.manual_seed(0)
    wide = RadialGenerator(z_dim=8, w_dim=96, channels=(64,), base_radius=4, base_angle=8, mapping_layers=2)
    SharinganPipeline(generator_model=wide).save_pretrained(tmp_path / "base")
    networks("radial")[1].save_pretrained(tmp_path / "base" / "discriminator")
    common = settings(tmp_path, "base", tmp_path, adapter_rank=2, learning_rate=0.02, ema_decay=0.0)
    common |= {"train_data": str(folder / "pictures")}
    whole = adapt.adapt(AdaptConfig(**common | {"output_dir": str(tmp_path / "whole")}))
    for steps in (2, 4):
        changes = {"output_dir": str(tmp_path / "parts"), "max_steps": steps, "resume_from": "latest"}
        parts = adapt.adapt(AdaptConfig(**common | changes))
    trained = load_file(whole / "generator_model" / "diffusion_pytorch_model.safetensors")
    assert_same(trained, load_file(parts / "generator_model" / "diffusion_pytorch_model.safetensors"))
    pipe = SharinganPipeline.from_pretrained(tmp_path / "base")
    before = pipe.generator_model.state_dict()["fc.0.weight"].clone()
    change = trained["fc.0.weight"] - before
    assert change.abs().max() > 0.01 and torch.linalg.matrix_rank(change, rtol=1e-4) == 2
    pipe.load_adapter(whole / "adapter")
    for name, value in pipe.generator_model.state_dict().items():
        assert torch.allclose(value, trained[name], atol=2e-3), name


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_change_too_large_to_share_is_not_written(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(adapt, "ADAPTER_LIMIT", 1000)
    result = adapt.adapt(AdaptConfig(**settings(folder, "stylegan2", tmp_path / "whole")))
    assert (result / "model_index.json").is_file() and not (result / "adapter").exists()


def test_ewc_holds_by_the_information_of_the_base_model(make):
    """Estimated anew here, from one group of fakes after the other."""
    ours = make("radial", ewc_weight=1.0, fisher_samples=6)
    ours._begin()
    generator, discriminator = deepcopy(ours.generator), deepcopy(ours.discriminator)
    latents = draw_latents(generator, 6, 0, -3)
    expected = [torch.zeros_like(weight) for weight in generator.parameters()]
    for start in (0, 2, 4):
        fakes = generate(generator, latents.select(slice(start, start + 2), torch.device("cpu")), 16)
        generator.zero_grad()
        F.softplus(-discriminator(fakes)).sum().backward()
        for total, weight in zip(expected, generator.parameters()):
            total += 0 if weight.grad is None else weight.grad**2 / 6
    for found, wanted in zip(ours.consolidation.information, expected):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-12)
    assert sum(f.sum() for f in ours.consolidation.information) > 0


def test_a_radial_fake_is_held_to_the_order_it_was_asked_for(make):
    ours = make("radial", symmetry_weight=1.0, r1_gamma=0.0)
    latents = draw_latents(ours.generator, 8, 0, 0)
    with torch.no_grad():
        fakes = generate(ours.generator, latents, 16)
    asked, nearest = (asymmetry(fakes, order).mean().item() for order in (latents.conditions["order"], None))
    (values,) = take(ours)
    assert values["symmetry"] == pytest.approx(asked, rel=1e-3) != pytest.approx(nearest, rel=0.05)


def square_wave(order: int, side: int = 48) -> torch.Tensor:
    axis = (torch.arange(side) + 0.5) * 2 / side - 1
    angle = torch.atan2(-axis[:, None], axis[None, :])
    return (torch.cos(order * angle) * 0.8).expand(1, 3, side, side).clone()


def test_asymmetry_takes_the_order_asked_for_or_the_nearest():
    waves = torch.cat([square_wave(n) for n in (2, 3, 5)])
    assert asymmetry(waves, None).max() < 0.05
    asked = asymmetry(waves, torch.tensor([2, 2, 5]))
    assert asked[0] < 0.05 and asked[1] > 0.9 and asked[2] < 0.05
    # The score is fair to high orders: a picture of order 3 and a little of 7 is nearest to 3.
    mixed = 0.8 * square_wave(3) + 0.2 * square_wave(7)
    torch.testing.assert_close(asymmetry(mixed, None), asymmetry(mixed, torch.tensor([3])))


def test_descending_the_asymmetry_makes_a_picture_symmetric():
    torch.manual_seed(0)
    picture = (square_wave(3, 24) + 0.8 * torch.randn(1, 3, 24, 24)).clamp(-0.9, 0.9).requires_grad_()
    before = symmetry_score((picture.detach() + 1) / 2, 3)
    optimizer = torch.optim.Adam([picture], lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        asymmetry(picture, None).sum().backward()
        optimizer.step()
    assert before < 0.7 and symmetry_score((picture.detach().clamp(-1, 1) + 1) / 2, 3) > 0.95


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
    ours = make(**METHODS["rick"], r1_gamma=0.0)
    ours._begin()
    choices = [ours.filters[0].learning.clone()]
    for step in range(7):
        take(ours, 1, step)
        choices.append(ours.filters[0].learning.clone())
    same = [torch.equal(a, b) for a, b in zip(choices, choices[1:])]
    assert same == [True, True, True, False, True, True, False] and torch.equal(
        ours.filters[0].removed, ours.filters[0].removed & ~choices[-1]
    )


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
        ("stylegan2", {"freeze_generator": ["convs"]}, "freeze_generator names 'convs'.*there are mapping, synthesis"),
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
    for family in FAMILIES:
        generator, discriminator = networks(family, 32)
        freeze_parts(generator, config.freeze_generator, config.train_only)
        discriminator.freeze(config.freeze_discriminator)
        assert Trainer(config, train.load_data(config), generator, discriminator).g_weights
