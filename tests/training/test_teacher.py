"""Teaching: the answers are right, the losses are what they say, and a taught generator knows more than an untaught one."""

import dataclasses
import json
import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from sharingan_hub import RadialGenerator, StyleGAN2Generator
from tests.training.runs import assert_same, descend
from training import teacher, train
from training.config import TrainConfig
from training.emblems import FAMILIES, LAYERS, render, render_masks, sample_emblems, source_emblem, source_latent
from training.sampling import draw_latents, draw_pictures, seeded, styles
from training.teacher import CHOICES, Teacher, answers, attributes, edges, from_latent_alone
from training.trainer import Trainer

SMALL = {"w_dim": 32, "channels": (16, 8), "base_radius": 4, "base_angle": 8, "mapping_layers": 2}
SMALL_STYLE = {"z_dim": 128, "w_dim": 32, "mapping_layers": 2, "channel_base": 256, "channel_max": 32}
STYLEGAN2 = {"class_name": "StyleGAN2Generator", **SMALL_STYLE}


@pytest.fixture(autouse=True)
def small_pool(monkeypatch):
    monkeypatch.setattr(teacher, "POOL", 2**10)


def make(folder, **changes):
    config = TrainConfig(
        **{
            "train_data": "emblems:source",
            "output_dir": str(folder),
            "resolution": 16,
            "generator": {"class_name": "RadialGenerator", **SMALL},
            "discriminator": {"class_name": "StyleGAN2Discriminator", "channel_base": 64, "channel_max": 8},
            "batch_size": 8,
            "teaching_steps": 6,
            "mapping_steps": 3,
            "max_steps": 6,
            "report_to": "none",
        }
        | changes
    )
    torch.manual_seed(config.seed)
    dataset = train.load_data(config)
    return Trainer(config, dataset, *train.build_networks(config, dataset.order_probs))


# The source as a function of a latent.


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_a_latent_decides_its_emblem(seed):
    z, order, phase = source_latent(seed)
    assert source_emblem(z, order, phase) == sample_emblems("source", [seed])[0]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(1, 8), st.floats(0, 6.28))
def test_order_and_phase_are_taken_as_given(seed, order, phase):
    emblem = source_emblem(source_latent(seed)[0], order, phase)
    assert emblem.order == order and emblem.phase == phase


def test_nearby_latents_make_nearby_pictures():
    """Nearly everywhere: only a change of family, side or layout is a jump."""
    jumps = 0
    for seed in range(60):
        z, order, phase = source_latent(seed)
        step = 1e-3 * np.random.default_rng(seed).standard_normal(len(z))
        first, second = render([source_emblem(z, order, phase), source_emblem(z + step, order, phase)], 32)
        jumps += bool((first - second).abs().mean() > 0.01)
    assert jumps <= 2


def test_masks_in_the_emblems_colours_are_the_picture():
    emblems = [
        dataclasses.replace(e, iris_outer=e.iris_inner, background_outer=e.background_inner)
        for e in sample_emblems("source", range(40))
    ]
    masks = render_masks(emblems, 48)
    torch.testing.assert_close(masks.sum(dim=1), torch.ones(40, 48, 48))
    grey = (0.5, 0.5, 0.5)
    for emblem, mask, picture in zip(emblems, masks, render(emblems, 48)):
        ring = emblem.rings[0].color if emblem.rings else grey
        second = emblem.patterns[1].color if len(emblem.patterns) > 1 else grey
        first = emblem.patterns[0].color
        colors = [emblem.background_inner, emblem.rim_color, emblem.pupil_color, emblem.iris_inner, ring, first, second]
        painted = torch.einsum("khw,kc->chw", mask, torch.tensor(colors))
        assert (painted - picture).abs().max() < 1e-5


# The teacher.


def test_answers_are_the_emblems_of_the_latents():
    generator = RadialGenerator(**SMALL)
    latents = draw_latents(generator, 5, 3, 4)
    for i, emblem in enumerate(answers(latents)):
        assert emblem.order == latents.conditions["order"][i]
        assert emblem.phase == pytest.approx(latents.conditions["phase"][i].item())
        assert emblem == source_emblem(latents.z[i].double().numpy(), emblem.order, emblem.phase)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_attributes_tell_families_and_colours(seed):
    (emblem,) = sample_emblems("source", [seed])
    values = attributes(emblem)
    assert all(math.isfinite(value) for value in values)
    assert values[0] == len(emblem.patterns)
    ones = [i for i, value in enumerate(values[1 : 1 + len(FAMILIES)]) if value]
    assert [FAMILIES[i] for i in ones] == [emblem.patterns[0].family]
    assert set(values[1:CHOICES]) <= {0.0, 1.0, -1.0}
    assert values[CHOICES : CHOICES + 3] == [emblem.iris_radius, emblem.rim_width, emblem.pupil_radius]


def test_the_losses_are_least_at_the_truth():
    """A generator that gives the right masks and colours has no difference, and the masks' own entropy as its loss."""

    class Perfect(RadialGenerator):
        def masks(self, ws, order=None, output_size=None, phase=None):
            return render_masks(self.emblems, output_size)

        def paint(self, masks, ws, palette=None):
            return render(self.emblems, masks.shape[-1]) * 2 - 1

    generator = Perfect(**SMALL)
    latents = draw_latents(generator, 4, 0, 0)
    generator.emblems = answers(latents)
    teach = Teacher(generator)

    def losses():
        values = teach.drawing_losses(generator, latents, 32, torch.Generator(), 4, slice(0, 4))
        return values["masks"], values["difference"]

    least, difference = losses()
    truth = render_masks(generator.emblems, 32)
    entropy = -(truth * (truth + 1e-4).log()).sum(dim=1).mean(dim=(1, 2))
    torch.testing.assert_close(least, entropy)
    assert difference.max() == 0
    generator.emblems = generator.emblems[::-1]
    wrong, difference = losses()
    assert (wrong > least).all() and difference.min() > 0.001


def test_the_mapping_network_comes_near_the_encoder(tmp_path):
    trainer = make(tmp_path, teaching_steps=60, mapping_steps=60, learning_rate=0.01, adam_beta1=0.9)
    before = {name: value.clone() for name, value in trainer.generator.state_dict().items()}
    first = trainer._teach_step()["mapping"]
    for trainer.step in range(1, 60):
        last = trainer._teach_step()
    assert last["mapping"] < 0.8 * first and "masks" not in last
    assert torch.equal(trainer.generator.const, before["const"])
    assert not torch.equal(trainer.generator.fc[0].weight, before["fc.0.weight"])


def test_styles_are_as_far_apart_as_attributes():
    """With room for all attributes the encoder only turns them; order and choices count as the rest."""
    generator = RadialGenerator(**SMALL | {"w_dim": 128})
    teach = Teacher(generator)
    emblems = sample_emblems("source", range(2000))
    w = teach.styles(emblems)
    assert w.var(dim=0).mean() == pytest.approx(1, abs=0.1)
    table = teach._scaled(torch.tensor([attributes(e) for e in emblems]), torch.tensor([e.order for e in emblems]))
    ratio = torch.cdist(w[:50], w[50:100]) / torch.cdist(table[:50], table[50:100])
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio))
    assert torch.equal(w, Teacher(generator).styles(emblems))  # it is the same in every run


def test_fading_takes_from_the_choices_alone():
    generator = RadialGenerator(**SMALL | {"w_dim": 128})
    teach = Teacher(generator)
    emblems = sample_emblems("source", range(5))
    lost = teach.styles(emblems) - teach.styles(emblems, torch.full((5, 1), 0.25))
    lost = lost @ teach.encoder / (128 / teach.table.shape[1])
    table = teach._scaled(torch.tensor([attributes(e) for e in emblems]), torch.tensor([e.order for e in emblems]))
    torch.testing.assert_close(lost[:, :CHOICES], 0.25 * table[:, :CHOICES], rtol=1e-3, atol=1e-4)
    assert lost[:, CHOICES:].abs().max() < 1e-4


def test_a_style_never_goes_all_the_way_to_the_mapping_networks():
    """Or nothing would tell whose it is, and the synthesis network would learn blends."""
    seen = []

    class Watched(RadialGenerator):
        def broadcast(self, w, order, phase=None):
            seen.append(w)
            return super().broadcast(w, order, phase)

        def mapping(self, z, order):
            return torch.full((len(z), 32), 100.0)

    generator = Watched(**SMALL)
    teach = Teacher(generator)
    latents = draw_latents(generator, 64, 0, 0)
    with torch.no_grad():
        teach.drawing_losses(generator, latents, 16, torch.Generator().manual_seed(0), 64, slice(0, 64))
    share = seen[0].mean(dim=1) / 100
    assert share.max() < teacher.MOVED + 0.01 and share.max() > 0.7 and share.min() < 0.1


def test_each_network_learns_in_its_own_lesson(tmp_path):
    trainer = make(tmp_path, teaching_steps=2, mapping_steps=1)
    start = {name: value.clone() for name, value in trainer.generator.state_dict().items()}

    def changed():
        now = trainer.generator.state_dict()
        return {name.partition(".")[0] for name, value in start.items() if not torch.equal(value, now[name])}

    trainer._teach_step()
    assert changed() == {"fc", "order_embedding"}
    start = {name: value.clone() for name, value in trainer.generator.state_dict().items()}
    trainer.step = 1
    trainer._teach_step()
    assert "convs" in changed() and not changed() & {"fc", "order_embedding"}


def test_the_mapping_lesson_has_a_slope_of_its_own(tmp_path):
    trainer = make(tmp_path, teaching_steps=12, mapping_steps=8, max_steps=12, cooldown=1 / 6, learning_rate=0.01)
    rates = []
    for trainer.step in range(12):
        trainer._set_rates()
        rates.append(trainer.g_optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.01 * share for share in [1] * 5 + [0.75, 0.5, 0.25] + [1, 1, 1, 0.5]])


def test_a_taught_generator_draws_what_its_latents_mean(tmp_path):
    """Colours come first; a generator that ignores its latent cannot be better than the mean picture."""
    trainer = make(tmp_path, teaching_steps=400, mapping_steps=200, learning_rate=0.01, adam_beta1=0.9, batch_size=16)
    for trainer.step in range(400):
        trainer._teach_step()
    latents = draw_latents(trainer.generator, 64, 1, 1)
    truth = render(answers(latents), 16) * 2 - 1
    with torch.no_grad():
        made = trainer.generator(latents.z, latents.conditions["order"], latents.conditions["phase"], 16)
    assert (made - truth).square().mean() < 0.75 * (truth.mean(dim=0) - truth).square().mean()


@pytest.mark.parametrize(
    ("generator", "names"),
    [({"class_name": "RadialGenerator", **SMALL}, ["masks", "difference"]), (STYLEGAN2, ["edges", "difference"])],
    ids=["radial", "stylegan2"],
)
def test_a_drawing_lesson_descends_all_its_losses(tmp_path, generator, names):
    ours = make(tmp_path, teaching_steps=6, mapping_steps=0, generator=generator, optimizer="sgd", learning_rate=0.01)
    network = deepcopy(ours.generator)
    latents = draw_latents(network, 8, 0, 0)
    losses = ours.teacher.drawing_losses(network, latents, 16, seeded(0, 0, "styles"), 8, slice(0, 8))
    values = ours._teach_step()
    assert list(losses) == names
    for name, loss in losses.items():
        assert values[name] == pytest.approx(loss.mean().item(), rel=1e-5)
    descend(network, sum(loss.mean() for loss in losses.values()), 0.01)
    assert_same(ours.generator, network)


@pytest.mark.parametrize(
    "generator", [{"class_name": "RadialGenerator", **SMALL}, STYLEGAN2], ids=["radial", "stylegan2"]
)
def test_teaching_goes_on_beside_the_adversarial_loss(tmp_path, generator):
    """A step with it and one without differ by its gradient at its weight."""
    changes = {
        "teaching_steps": 0,
        "mapping_steps": 0,
        "generator": generator,
        "optimizer": "sgd",
        "learning_rate": 0.01,
    }
    plain = make(tmp_path / "plain", **changes)
    ours = make(tmp_path / "ours", teaching_weight=2.0, **changes)
    network = deepcopy(ours.generator)
    latents = draw_latents(network, 8, 0, 0)
    fakes = draw_pictures(network, styles(network, latents), 16, [seeded(0, 0, f"noise {i}") for i in range(8)])
    loss = (fakes - (render(answers(latents), 16) * 2 - 1)).square().mean()
    plain._train_step(plain._reals(0))
    values = ours._train_step(ours._reals(0))
    assert values["difference"] == pytest.approx(loss.item(), rel=1e-4)
    pull = torch.autograd.grad(2.0 * loss, list(network.parameters()), materialize_grads=True, allow_unused=True)
    moved = [a - b for a, b in zip(plain.generator.parameters(), ours.generator.parameters(), strict=True)]
    error = torch.cat([(a - 0.01 * b).flatten() for a, b in zip(moved, pull)]).norm()
    assert error < 0.01 * torch.cat([move.flatten() for move in moved]).norm()


def test_a_resumed_lesson_ends_with_the_same_bits(tmp_path):
    whole = make(
        tmp_path / "whole", max_steps=8
    ).train()  # three for the mapping network, three of pictures, two of the game
    make(tmp_path / "parts", max_steps=4).train()
    parts = make(tmp_path / "parts", max_steps=8, resume_from="latest").train()
    for name in ("generator_model", "discriminator"):
        file = f"{name}/diffusion_pytorch_model.safetensors"
        assert (whole / file).read_bytes() == (parts / file).read_bytes()


def test_a_discriminator_that_has_learnt_nothing_is_not_saved(tmp_path):
    folder = make(tmp_path, max_steps=5).train()
    assert not (folder / "discriminator").exists()
    report = json.loads((folder / "report.json").read_text())
    assert report["steps"] == 5 and report["images"] == 2 * 8  # the first three were for the mapping network alone


def test_accumulation_changes_nothing(tmp_path):
    results = []
    for parts in (1, 2):
        trainer = make(tmp_path / str(parts), mapping_steps=0, gradient_accumulation_steps=parts)
        trainer._teach_step()
        results.append(trainer.generator.state_dict())
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=1e-4, atol=1e-5)


# A generator without conditions: its z decides order and phase too.


def test_z_alone_decides_an_emblem_and_its_length_does_not():
    z = source_latent(3)[0]
    scaled, order, phase = from_latent_alone(z)
    again = from_latent_alone(5 * z)
    assert again[1:] == pytest.approx((order, phase)) and np.allclose(again[0], scaled)
    assert np.square(scaled).mean() == pytest.approx(1)


def test_orders_and_turns_from_z_alone_are_uniform_and_apart_from_the_rest():
    rows = [from_latent_alone(source_latent(seed)[0]) for seed in range(4000)]
    orders = np.array([order for _, order, _ in rows])
    turns = np.array([order * phase / (2 * math.pi) for _, order, phase in rows])
    assert orders.min() == 1 and (abs(np.bincount(orders)[1:] - 500) < 5 * 500**0.5).all()
    for order in range(1, 9):  # uniform within every order
        assert kstest(turns[orders == order], "uniform").pvalue > 1e-4
    z, order, phase = rows[0]
    changed = np.concatenate([z[:124], np.random.default_rng(0).standard_normal(4)])
    assert source_emblem(changed, order, phase) == source_emblem(z, order, phase)


def test_answers_without_conditions_are_the_emblems_of_z_alone():
    latents = draw_latents(StyleGAN2Generator(**SMALL_STYLE, resolution=16), 4, 3, 4)
    assert latents.conditions == {}
    for z, emblem in zip(latents.z.double().numpy(), answers(latents)):
        assert emblem == source_emblem(*from_latent_alone(z))


def test_every_attribute_can_be_read_from_a_style_through_the_leaky_relu():
    """With room for all, an affine layer finds the order, the turn and everything else in w."""
    teach = Teacher(StyleGAN2Generator(**SMALL_STYLE | {"w_dim": 256}, resolution=16))
    emblems = answers(draw_latents(StyleGAN2Generator(**SMALL_STYLE, resolution=16), 1500, 0, 0))
    w = teach.styles(emblems)
    assert w.square().mean() == pytest.approx(1, abs=0.15) and (w < 0).any()
    third = [float(e.order == 3) for e in emblems]
    turned = [one * math.sin(3 * e.phase) for one, e in zip(third, emblems)]
    wanted = torch.tensor([[n, t, *e.patterns[0].color] for n, t, e in zip(third, turned, emblems)])
    inputs = torch.cat([w, torch.ones(len(w), 1)], dim=1).double()
    weights = torch.linalg.lstsq(inputs[:1000], wanted[:1000].double(), driver="gelsd").solution
    assert (inputs[1000:] @ weights - wanted[1000:]).abs().max() < 0.01


def test_a_turn_by_one_sector_changes_no_style():
    teach = Teacher(StyleGAN2Generator(**SMALL_STYLE, resolution=16))
    emblem = sample_emblems("source", [4])[0]
    turned = dataclasses.replace(emblem, phase=emblem.phase + 2 * math.pi / emblem.order)
    other = dataclasses.replace(emblem, phase=emblem.phase + 1 / emblem.order)
    w = teach.styles([emblem, turned, other])
    torch.testing.assert_close(w[0], w[1], atol=1e-4, rtol=1e-4)
    assert (w[0] - w[2]).abs().max() > 0.1


def test_edges_count_the_steps_both_ways():
    picture = torch.full((1, 3, 8, 8), 0.5)
    fake = torch.zeros(1, 3, 8, 8)
    assert edges(fake, picture).item() == 0 == edges(fake + 0.5, picture).item()  # no step is wrong
    fake[..., 4:] = 0.5  # one step of seven is off by a half
    torch.testing.assert_close(edges(fake, picture), torch.tensor([0.25 / 7]))
    torch.testing.assert_close(edges(fake.transpose(2, 3), picture), torch.tensor([0.25 / 7]))


def test_each_part_of_a_stylegan2_learns_in_its_own_lesson(tmp_path):
    trainer = make(tmp_path, teaching_steps=2, mapping_steps=1, generator=STYLEGAN2)
    for trainer.step, (lesson, name) in enumerate([("mapping", "mapping"), ("edges", "synthesis")]):
        start = {key: value.clone() for key, value in trainer.generator.state_dict().items()}
        values = trainer._teach_step()
        assert values[lesson] > 0 and ("difference" in values) == (name == "synthesis")
        now = trainer.generator.state_dict()
        assert {key.partition(".")[0] for key, value in start.items() if not torch.equal(value, now[key])} == {name}


def test_the_drawing_lesson_makes_no_noise(tmp_path):
    trainer = make(tmp_path, teaching_steps=1, mapping_steps=0, generator=STYLEGAN2)
    trainer._teach_step()
    assert trainer.generator.synthesis.b8.conv0.noise_strength == 0


def test_a_taught_stylegan2_draws_what_its_latents_mean(tmp_path):
    trainer = make(
        tmp_path,
        teaching_steps=300,
        mapping_steps=150,
        learning_rate=0.02,
        rate_factors={"mapping": 400},
        adam_beta1=0.9,
        batch_size=16,
        generator=STYLEGAN2 | {"w_dim": 64},
    )
    for trainer.step in range(300):
        trainer._teach_step()
    latents = draw_latents(trainer.generator, 64, 1, 1)
    truth = render(answers(latents), 16) * 2 - 1
    with torch.no_grad():
        made = trainer.generator(latents.z)
    assert (made - truth).square().mean() < 0.75 * (truth.mean(dim=0) - truth).square().mean()


@pytest.mark.parametrize("generator", [RadialGenerator(**SMALL, z_dim=64), RadialGenerator(**SMALL, num_masks=9)])
def test_other_generators_are_refused(generator):
    with pytest.raises(
        ValueError, match=f"z_dim 128, {len(LAYERS)} masks.*got RadialGenerator with z_dim {generator.z_dim}"
    ):
        Teacher(generator)
    with pytest.raises(ValueError, match="got StyleGAN2Generator"):
        Teacher(StyleGAN2Generator(resolution=8, z_dim=8, w_dim=8, channel_base=64, channel_max=8))


def test_more_mapping_steps_than_teaching_steps_are_refused():
    with pytest.raises(ValueError, match="first of teaching_steps, 5; got 6"):
        TrainConfig(train_data="x", output_dir="y", max_steps=1, teaching_steps=5, mapping_steps=6)
