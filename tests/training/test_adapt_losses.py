"""What patch heads and the losses of adaptation do to a step."""

import math
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from sharingan_hub import RadialGenerator, SharinganPipeline, symmetry_score
from tests.training.conftest import CDC, FAMILIES, networks, settings, take
from tests.training.runs import weights
from training import adapt, train
from training.adapt import AdaptConfig
from training.correspondence import correspondence_loss, draw_layers, recorded, style_layers
from training.radial_statistics import statistics_loss, wanted_of
from training.sampling import draw_latents, generate, seeded
from training.symmetry import asymmetry

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
    changes = {"statistics_weight": 10.0, "statistics_steps": 60, "max_steps": 60, "learning_rate": 0.01}
    out = adapt.adapt(AdaptConfig(**settings(folder, family, tmp_path / "out", **changes)))
    before, after = weights(folder / family), weights(out)
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"generator_model"}
    data = train.load_data(AdaptConfig(**settings(folder, family, tmp_path / "data")))
    real = wanted_of(data.batch(range(5))[0])
    far, near = (
        float(statistics_loss(torch.from_numpy(pipe(**draw).images.transpose(0, 3, 1, 2)) * 2 - 1, real).mean())
        for draw in [{"seeds": range(64), "truncation_psi": 1.0, "output_type": "np", "output_size": 16}]
        for pipe in map(SharinganPipeline.from_pretrained, (folder / family, out))
    )
    assert near < far - 0.04


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
