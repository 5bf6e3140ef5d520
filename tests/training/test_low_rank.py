"""Training with factors: nothing changes at first, only factors and small tensors learn, and merging keeps the pictures."""

import json
import math
from copy import deepcopy

import pytest
import torch
from torch.nn.utils import parametrize

from sharingan_hub import RadialGenerator, SharinganPipeline, StyleGAN2Generator
from sharingan_hub.checkpoints.adapters import SMALL, matrix_shape
from training.adapt import freeze_parts
from training.config import TrainConfig
from training.discriminators import StyleGAN2Discriminator
from training.low_rank import LowRank, add_low_rank, merged, write_adapter
from training.sampling import center_styles, draw_latents, generate
from training.trainer import Trainer

RANK = 3


def network(family: str):
    torch.manual_seed(0)
    if family == "stylegan2":
        return StyleGAN2Generator(z_dim=8, w_dim=8, resolution=16, mapping_layers=2, channel_base=512, channel_max=32)
    sizes = {"num_masks": 3, "num_frame_masks": 1, "num_ground_masks": 1, "mapping_layers": 2}
    return RadialGenerator(z_dim=8, w_dim=8, channels=(32,), base_radius=4, base_angle=8, **sizes)


@pytest.fixture(params=["radial", "stylegan2"])
def family(request) -> str:
    return request.param


@pytest.fixture
def base(family):
    return network(family)


def pictures(generator, step: int = 0):
    return generate(generator, draw_latents(generator, 4, 0, step), 16)


def learn(generator, steps: int, rate: float = 1e-2) -> None:
    optimizer = torch.optim.Adam([p for p in generator.parameters() if p.requires_grad], lr=rate, betas=(0.0, 0.99))
    for step in range(steps):
        optimizer.zero_grad()
        (pictures(generator, step) - 0.5).square().mean().backward()
        optimizer.step()


def changes(generator, base) -> dict[str, torch.Tensor]:
    before = base.state_dict()
    return {name: tensor - before[name] for name, tensor in merged(generator).state_dict().items()}


def test_at_first_nothing_has_changed(base):
    generator = deepcopy(base)
    add_low_rank(generator, RANK, seed=0)
    assert torch.equal(pictures(generator), pictures(base))
    assert not any(change.any() for change in changes(generator, base).values())


def test_factors_and_small_tensors_learn_and_nothing_else(base):
    generator = deepcopy(base)
    add_low_rank(generator, RANK, seed=0)
    trained = {name for name, weight in generator.named_parameters() if weight.requires_grad}
    factored = {name.rpartition(".parametrizations.")[0] for name in trained if name.endswith((".up", ".down"))}
    assert len(factored) >= 2
    whole = {name for name in trained if not name.endswith((".up", ".down"))}
    for name, weight in base.named_parameters():
        assert (name in whole) == (name.removesuffix(".weight") not in factored), name
        if name not in whole:
            assert weight.numel() > SMALL
    learn(generator, 3)
    for name, change in changes(generator, base).items():
        if name.removesuffix(".weight") in factored:
            values = torch.linalg.svdvals(change.reshape(matrix_shape(change.shape)).double())
            assert values[RANK - 1] > 1e-4 and values[RANK] < 1e-5, name
    assert sum(p.numel() for p in generator.parameters() if p.requires_grad) < 0.5 * sum(
        p.numel() for p in base.parameters()
    )


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_a_first_step_moves_entries_as_far_as_training_the_weight_would(rank):
    weight = torch.nn.Linear(256, 128, bias=False)
    before, rate = weight.weight.detach().clone(), 1e-2
    parametrize.register_parametrization(weight, "weight", LowRank(before, rank, torch.Generator().manual_seed(rank)))
    weight.parametrizations["weight"].original.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in weight.parameters() if p.requires_grad], lr=rate, betas=(0.0, 0.99))
    # Adam's first step moves each entry of a weight by the rate
    weight(torch.randn(32, 256, generator=torch.Generator().manual_seed(0))).sin().sum().backward()
    optimizer.step()
    moved = (weight.weight - before).square().mean().sqrt().item()
    assert 0.8 * rate < moved < 1.25 * rate


def test_factors_follow_from_the_seed_and_touch_no_other_randomness(base):
    first, second, third = deepcopy(base), deepcopy(base), deepcopy(base)
    state = torch.get_rng_state()
    for generator, seed in ((first, 0), (second, 0), (third, 1)):
        add_low_rank(generator, RANK, seed)
    assert torch.equal(torch.get_rng_state(), state)
    downs = [[p for name, p in g.named_parameters() if name.endswith(".down")] for g in (first, second, third)]
    assert all(torch.equal(a, b) and not torch.equal(a, c) for a, b, c in zip(*downs))
    assert len({tuple(down.flatten()[:3].tolist()) for down in downs[0]}) == len(downs[0])


def test_frozen_parts_stay_frozen():
    generator = network("radial")
    freeze_parts(generator, ["convs", "const"])
    add_low_rank(generator, RANK, seed=0)
    assert not any(w.requires_grad for name, w in generator.named_parameters() if name.startswith(("convs", "const")))
    assert not parametrize.is_parametrized(generator.convs[0])


@pytest.mark.parametrize("rank", [0, -2])
def test_a_rank_below_one_is_refused(rank):
    with pytest.raises(ValueError, match=f"adapter_rank must be at least 1, got {rank}"):
        add_low_rank(network("radial"), rank, seed=0)


def test_merging_keeps_the_pictures_and_leaves_the_original_in_training(base):
    generator = deepcopy(base)
    add_low_rank(generator, RANK, seed=0)
    learn(generator, 2)
    average = deepcopy(generator).eval().requires_grad_(False)
    plain = merged(average)
    assert plain.state_dict().keys() == base.state_dict().keys() and not plain.training
    settings = [{k: v for k, v in g.config.items() if not k.startswith("_")} for g in (plain, base)]
    assert type(plain) is type(base) and settings[0] == settings[1]
    assert [name for name, _ in plain.named_parameters()] == [name for name, _ in base.named_parameters()]
    assert torch.equal(pictures(plain), pictures(average)) and torch.equal(pictures(plain), pictures(generator))
    made = pictures(plain)
    learn(generator, 2)
    with torch.no_grad():
        for weight in average.parameters():
            weight.mul_(0.5)
    assert torch.equal(pictures(plain), made)
    assert not torch.equal(pictures(generator), made)


def test_merging_a_plain_generator_copies_it(base):
    plain = merged(base)
    assert plain.training
    assert torch.equal(pictures(plain), pictures(base))
    with torch.no_grad():
        plain.w_avg += 1
    assert not torch.equal(plain.w_avg, base.w_avg)


def test_the_change_keeps_its_precision_under_autocast():
    layer = torch.nn.Linear(256, 128)
    change = LowRank(layer.weight, 2, torch.Generator().manual_seed(0))
    torch.nn.init.normal_(change.up)
    expected = change(layer.weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(change(layer.weight), expected)


def test_what_was_trained_is_an_adapter_of_the_base(base, family, tmp_path):
    SharinganPipeline(base.eval()).save_pretrained(tmp_path / "base")
    generator = deepcopy(base)
    add_low_rank(generator, RANK, seed=0)
    learn(generator, 3)
    plain = merged(generator).eval()
    center_styles(plain, 0)
    report = write_adapter(str(tmp_path / "base"), plain, tmp_path / "mine", RANK)
    dense = 2 * sum(tensor.numel() for tensor in base.state_dict().values())
    assert report.error < 1e-3 and report.size < 0.6 * dense + 10_000
    pipe = SharinganPipeline.from_pretrained(tmp_path / "base")
    pipe.load_adapter(tmp_path / "mine")
    made, expected = (p(seeds=range(4), output_type="pt").images for p in (pipe, SharinganPipeline(plain)))
    assert (made - expected).abs().max() < 1 / 255
    assert '"base_model": "base"' in (tmp_path / "mine" / "adapter_config.json").read_text()


def test_a_change_too_small_to_show_its_rank_is_stored_at_that_rank(tmp_path):
    SharinganPipeline(network("radial").eval()).save_pretrained(tmp_path / "base")
    generator = network("radial")
    add_low_rank(generator, RANK, seed=0)
    learn(generator, 1, rate=1e-6)  # the rounding of weight + change is full-rank, and not small beside it
    write_adapter(str(tmp_path / "base"), merged(generator), tmp_path / "mine", RANK)
    assert json.loads((tmp_path / "mine" / "adapter_config.json").read_text())["tensors"]["convs.0.weight"] == RANK


class Pictures:
    order_probs = None
    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices):
        return self.images[list(indices)].clone(), torch.zeros(len(indices), dtype=torch.int64)


def trainer(folder, family, **changed) -> Trainer:
    config = TrainConfig(
        train_data="",
        output_dir=str(folder),
        resolution=16,
        batch_size=8,
        checkpointing_steps=1000,
        sample_every=1000,
        report_to="none",
        learning_rate=1e-2,
        ema_decay=0.5,
        **changed,
    )
    generator = network(family)
    add_low_rank(generator, RANK, config.seed)
    torch.manual_seed(0)
    return Trainer(config, Pictures(), generator, StyleGAN2Discriminator(resolution=16, channel_base=64))


def test_a_run_resumes_exactly_and_its_average_keeps_the_rank(family, tmp_path):
    whole = trainer(tmp_path / "whole", family, max_steps=4)
    whole.train()
    trainer(tmp_path / "parts", family, max_steps=2).train()
    resumed = trainer(tmp_path / "parts", family, max_steps=4, resume_from="latest")
    resumed.train()
    first, second = merged(whole.average).state_dict(), merged(resumed.average).state_dict()
    base = network(family)
    learnt = 0
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
        change = tensor - base.state_dict()[name]
        learnt += bool(change.any())
        if parametrize.is_parametrized(whole.average.get_submodule(name.rpartition(".")[0])) and "weight" in name:
            # the product of averaged factors: not the average of products, but of the same rank
            values = torch.linalg.svdvals(change.reshape(matrix_shape(change.shape)).double())
            assert values[RANK] < 1e-4 < values[0] and math.isfinite(values[0])
    assert learnt > 10
    # training moved no frozen weight
    for name, weight in whole.generator.named_parameters():
        if name.endswith(".original"):
            plain = name.replace("parametrizations.", "").removesuffix(".original")
            assert torch.equal(weight, base.state_dict()[plain])
