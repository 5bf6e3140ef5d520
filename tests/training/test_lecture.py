"""The lecture's experiments: what they measure against known answers, and the command with tiny numbers."""

import json

import pytest
import torch
from PIL import Image
from torch import nn

from training.experiments import lecture, lecture_report, toy
from training.objectives import OBJECTIVES
from training.train import build_trainer

RNG = torch.Generator().manual_seed(0)


def test_points_have_the_spread_of_their_distribution():
    grid = toy.gaussians_25(20_000, RNG).flatten(1)
    distance, nearest = torch.cdist(grid, toy.MODES).min(dim=1)
    assert torch.bincount(nearest).float().div(20_000).sub(1 / 25).abs().max() < 0.01
    assert distance.square().mean().sqrt() == pytest.approx(toy.DEVIATION * 2**0.5, rel=0.02)
    radii = toy.gaussians_8(1000, RNG).flatten(1).norm(dim=1)
    assert radii.mean() == pytest.approx(2**0.5, abs=0.01) and radii.std() == pytest.approx(0.02, rel=0.1)
    roll = toy.swiss_roll(20_000, RNG).flatten(1).norm(dim=1)  # a spiral: radii are spread evenly
    assert roll.quantile(0.5) == pytest.approx(3 * torch.pi / 7.5, rel=0.02)
    assert roll.max() == pytest.approx(4.5 * torch.pi / 7.5, abs=0.15)


def test_modes_are_counted():
    perfect = toy.gaussians_25(2500, RNG).flatten(1)
    modes, good = toy.count_modes(perfect)
    assert modes == 25 and good == pytest.approx(
        1 - torch.e**-4.5, abs=0.01
    )  # of a Gaussian in the plane within 3 deviations
    few = toy.MODES[[0, 7, 7, 7]].repeat(250, 1)
    assert toy.count_modes(few) == (2, 1.0)
    between = torch.full((900, 2), 0.5)
    assert toy.count_modes(torch.cat([few[:100], between])) == (2, pytest.approx(0.1))
    stray = torch.cat([toy.MODES[:1].expand(999, 2), toy.MODES[1:2]])  # one sample is no mode
    assert toy.count_modes(stray) == (1, 1.0)


def test_the_norm_of_a_known_gradient():
    """Of the loss of one logit w x: G's weights are x."""
    x = nn.Linear(1, 3, bias=False)
    with torch.no_grad():
        x.weight.fill_(2.0)
    logit = x(torch.ones(1, 1)).sum(dim=1, keepdim=True)  # 6, and each weight moves it by 1
    sure = torch.tensor(6.0).sigmoid().item()
    for name, slope in (("minimax", sure), ("non_saturating", 1 - sure), ("wasserstein", 1.0)):
        loss = OBJECTIVES[name].generator(logit, logit).mean()
        assert lecture.gradient_norm(loss, x) == pytest.approx(slope * 3**0.5, rel=1e-4)


def test_gradients_through_a_critic_whose_layers_multiply():
    """Layers that multiply by 2, and points where every ReLU is open: the gradient doubles with each layer down."""
    critic = toy.perceptron(2, 1, 4, width=1)
    for layer in critic:
        if isinstance(layer, nn.Linear):
            nn.init.constant_(layer.weight, 2.0)
            nn.init.ones_(layer.bias)
    real, fake = torch.ones(1, 2, 1, 1), torch.ones(1, 2, 1, 1)
    found = lecture.depth_gradients(critic, OBJECTIVES["wasserstein"], real, fake)
    assert found == pytest.approx([2**0.5 * 2**k for k in (3, 2, 1, 0)])


def test_a_held_generator_does_not_move_and_its_discriminator_learns(tmp_path, monkeypatch):
    trainers = []

    def build(config, prepare=None):
        trainers.append(build_trainer(config, prepare))
        return trainers[-1]

    monkeypatch.setattr(lecture, "build_trainer", build)
    found = lecture.vanishing_gradients(1, lecture.Size(pictures=32, judge_steps=6), tmp_path)
    trained, *held = ([w.detach().clone() for w in t.generator.parameters()] for t in trainers)
    assert len(held) == 2 and all(torch.equal(a, b) for weights in held for a, b in zip(trained, weights))
    assert found["steps"] == [1, 2, 3, 4, 5, 6]
    assert found["norms"].keys() == {"minimax", "non_saturating", "wasserstein"}
    minimax, other = (found["norms"][name] for name in ("minimax", "non_saturating"))
    assert minimax[-1] < minimax[0] / 3 and other[-1] > other[0] / 3


@pytest.mark.parametrize("limit", [0.05, None])
def test_a_critic_is_clipped_or_has_slope_one(limit):
    torch.manual_seed(0)
    critic = toy.perceptron(2, 1, 3, width=32)
    real, fake = lecture.fit_critic(critic, toy.gaussians_8, limit, 150)
    if limit is not None:
        assert max(w.abs().max().item() for w in critic.parameters()) == pytest.approx(limit)
    else:
        between = fake.lerp(real, 0.5).requires_grad_()
        (slope,) = torch.autograd.grad(critic(between).sum(), between)
        assert slope.flatten(1).norm(dim=1).mean() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("name", ["began", "relativistic-r1", "weight_clipping"])
def test_a_game_repeats_itself_and_moves(name):
    first, again = (toy.play(lecture.GAMES[name], toy.gaussians_25, 3, 50, 0) for _ in range(2))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    other = toy.play(lecture.GAMES[name], toy.gaussians_25, 3, 50, 1)
    assert first.shape == (50, 2) and not torch.equal(first, other)


def test_numbers_are_written_as_powers_of_ten():
    assert lecture_report.power(3.24e-5) == "3.2 · 10⁻⁵" and lecture_report.power(12.0) == "1.2 · 10¹"
    assert lecture_report.power(0.0) == "0" and lecture_report.orders(1.0, 0.0) == "−∞"
    assert lecture_report.orders(2.0, 2e-5) == "−5.0" and lecture_report.orders(1.0, 10.0) == "+1.0"


def test_the_command_draws_again_from_what_is_kept(tmp_path, monkeypatch):
    tiny = lecture.Size(pictures=32, epochs=(1,), judge_steps=2, critic_steps=2, toy_steps=2)
    monkeypatch.setattr(lecture, "QUICK", tiny)
    arguments = ["--quick", "--work_dir", str(tmp_path)]
    lecture.main(arguments)
    folder = tmp_path / "quick"
    page = (folder / "gan_family.md").read_text()
    assert (
        page.count("<!-- /") == 3
        and "| minimax, 1 epoch |" in page
        and "| gradient penalty |" in page
        and "| BEGAN |" in page
    )
    file = folder / "modes" / "hinge.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"modes": [21], "good": [0.5]}))
    (folder / "gan_family.md").write_text(f"# By hand\n\n{page}\nMore by hand\n")
    lecture.main(arguments)
    changed = (folder / "gan_family.md").read_text()
    assert "| hinge | 21 | 50 % |" in changed and changed.startswith("# By hand") and changed.endswith("More by hand\n")
    for name in ("vanishing", "clipping", "modes"):
        with Image.open(folder / "pictures" / f"lecture_{name}.png") as figure:
            assert min(figure.size) > 300
