"""Steps of the game with every objective, regulariser and optimiser, on small networks of torch's own layers."""

from copy import deepcopy

import pytest
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from tests.training.runs import assert_same, descend
from training import train
from training.checkpoints import list_checkpoints
from training.config import TrainConfig
from training.low_rank import merged
from training.objectives import OBJECTIVES, began
from training.regularizers import gradient_penalty, path_lengths, r1
from training.sampling import draw_latents, draw_pictures, generate, seeded, styles
from training.trainer import Trainer

BASE = {
    "train_data": "",
    "resolution": 8,
    "batch_size": 8,
    "max_steps": 4,
    "learning_rate": 0.01,
    "real_rotations": False,
    "real_flips": False,
    "regularizers": [],
    "sample_every": 1000,
    "checkpointing_steps": 1000,
    "report_to": "none",
}
STYLEGAN2 = {"class_name": "StyleGAN2Generator", "z_dim": 8, "w_dim": 8, "channel_base": 64, "channel_max": 8}
JUDGE = {"class_name": "StyleGAN2Discriminator", "channel_base": 64, "channel_max": 8, "mbstd_group_size": 2}


class Drawer(ModelMixin, ConfigMixin):
    """A generator of 8 x 8 pixels without a mapping."""

    z_dim = w_dim = 6
    num_ws = style_ws = 1
    resolution, conditions = 8, ()

    @register_to_config
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(6, width, 4), nn.LeakyReLU(0.2), nn.ConvTranspose2d(width, 3, 4, 2, 1), nn.Tanh()
        )
        self.register_buffer("w_avg", torch.zeros(6))

    def mapping(self, z):
        return z

    def broadcast(self, w):
        return w[:, None]

    def synthesis(self, ws):
        return self.layers(ws[:, 0, :, None, None])


class Judge(ModelMixin, ConfigMixin):
    """A discriminator of 8 x 8 pixels with a smooth activation."""

    @register_to_config
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, width, 4, 2, 1), nn.Softplus(), nn.Conv2d(width, 1, 4), nn.Flatten())

    def forward(self, images):
        return self.layers(images)


class Pictures:
    """Fixed noise."""

    order_probs = None

    def __init__(self, side=8, count=24):
        self.images = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1

    def __len__(self):
        return len(self.images)

    def batch(self, indices):
        return self.images[list(indices)].clone(), torch.zeros(len(list(indices)), dtype=torch.int64)


def make(folder, **changes):
    config = TrainConfig(**BASE | {"output_dir": str(folder)} | changes)
    torch.manual_seed(0)
    return Trainer(config, Pictures(), Drawer(), Judge())


def make_stylegan2(folder, **changes):
    config = TrainConfig(
        **BASE | {"output_dir": str(folder), "resolution": 16, "generator": STYLEGAN2, "discriminator": JUDGE} | changes
    )
    torch.manual_seed(0)
    return Trainer(config, Pictures(16), *train.build_networks(config, None))


def take(ours, count=1):
    """Steps as the loop takes them."""
    found = []
    for _ in range(count):
        found.append(ours._train_step(ours._reals(ours.step)))
        ours.step += 1
        ours._adapt(found[-1])
    return found


def copies(ours):
    return [deepcopy(network) for network in (ours.generator, ours.discriminator)]


# One step against one written from the papers.


@pytest.mark.parametrize("name", [*OBJECTIVES, "began"])
def test_a_step_is_that_of_its_objective(tmp_path, name):
    ours = make(tmp_path, objective=name, optimizer="sgd")
    ours.k = 0.3
    generator, judge = copies(ours)
    objective = OBJECTIVES.get(name) or began(0.3)
    reals, fakes = ours._reals(0), generate(generator, draw_latents(generator, 8, 0, 0), 8)
    (values,) = take(ours)
    loss = objective.discriminator(judge(reals), judge(fakes.detach())).mean()
    assert values["loss_d"] == pytest.approx(loss.item(), rel=1e-5)
    assert values["score_real"] == pytest.approx(judge(reals).mean().item(), rel=1e-4)
    assert values["score_fake"] == pytest.approx(judge(fakes).mean().item(), rel=1e-4)
    descend(judge, loss, 0.01)
    loss = objective.generator(judge(fakes), judge(reals)).mean()
    assert values["loss_g"] == pytest.approx(loss.item(), rel=1e-5)
    descend(generator, loss, 0.01)
    assert_same(ours.discriminator, judge)
    assert_same(ours.generator, generator)


class Faded:
    """An augmentation that cannot be taken for another."""

    def __init__(self, factor):
        self.factor = factor

    def __getitem__(self, part):
        return self

    def __call__(self, images):
        return images * self.factor


@pytest.mark.parametrize("name", ["non_saturating", "relativistic"])
def test_no_network_is_judged_on_a_picture_that_is_not_augmented(tmp_path, monkeypatch, name):
    """Real or drawn, in D's part of a step and in G's; relativistic G sees real ones too."""
    ours = make(tmp_path, objective=name, optimizer="sgd", augment="diffaugment", augmentations=["color"])
    generator, judge = copies(ours)
    reals, fakes = ours._reals(0) * 0.5, generate(generator, draw_latents(generator, 8, 0, 0), 8) * 0.25
    changes = iter([Faded(0.5), Faded(0.25)])  # of reals, of fakes
    monkeypatch.setattr("training.game.augment.draw", lambda *_: next(changes))
    (values,) = take(ours)
    loss = OBJECTIVES[name].discriminator(judge(reals), judge(fakes.detach())).mean()
    assert values["loss_d"] == pytest.approx(loss.item(), rel=1e-5)
    descend(judge, loss, 0.01)
    loss = OBJECTIVES[name].generator(judge(fakes), judge(reals)).mean()
    assert values["loss_g"] == pytest.approx(loss.item(), rel=1e-5)
    descend(generator, loss, 0.01)
    assert_same(ours.discriminator, judge)
    assert_same(ours.generator, generator)


PENALTIES = {  # R1 and R2 look at every second picture
    "r1": lambda judge, reals, fakes, between: 0.7 / 2 * r1(reals, judge(reals))[1::2].mean(),
    "r2": lambda judge, reals, fakes, between: 0.7 / 2 * r1(fakes, judge(fakes))[1::2].mean(),
    "gradient_penalty": lambda judge, reals, fakes, between: 10 * gradient_penalty(between, judge(between)).mean(),
}


@pytest.mark.parametrize("chosen", [["r1"], ["r2"], ["r1", "r2"], ["gradient_penalty"]], ids="-".join)
def test_a_step_has_the_penalties_that_are_chosen(tmp_path, chosen):
    ours = make(
        tmp_path,
        regularizers=chosen,
        objective="relativistic",
        optimizer="sgd",
        r1_gamma=0.7,
        r1_interval=1,
        r1_batch_fraction=0.5,
    )
    generator, judge = copies(ours)
    reals, fakes = ours._reals(0), generate(generator, draw_latents(generator, 8, 0, 0), 8).detach()
    share = torch.rand(8, 1, 1, 1, generator=seeded(0, 0, "interpolation"))
    places = [place.requires_grad_() for place in (reals.clone(), fakes, share * reals + (1 - share) * fakes)]
    loss = OBJECTIVES["relativistic"].discriminator(judge(reals), judge(fakes)).mean()
    loss = loss + sum(PENALTIES[name](judge, *places) for name in chosen)
    (values,) = take(ours)
    assert values["loss_d"] == pytest.approx(loss.item(), rel=1e-5) and set(chosen) <= values.keys()
    lazy = 0.5 if "gradient_penalty" not in chosen else 1.0  # the rate of a network with R1 every interval + 1 = 2
    descend(judge, loss, 0.01 * lazy)
    assert_same(ours.discriminator, judge)


@pytest.mark.parametrize("fraction", [0.0, 0.24, 0.25, 1.0])
def test_r1_of_less_than_one_group_is_refused(tmp_path, fraction):
    changes = {"regularizers": ["r1"], "r1_batch_fraction": fraction}
    if fraction >= 0.25:
        assert make_stylegan2(tmp_path, **changes).penalized.sum() == 8 * fraction
    else:
        with pytest.raises(
            ValueError, match=f"must be at least 0.25, one group of 2 in a batch of 8, .*got {fraction}"
        ):
            make_stylegan2(tmp_path, **changes)


def test_path_length_pulls_towards_its_running_mean(tmp_path):
    ours = make_stylegan2(tmp_path, regularizers=["path_length"], optimizer="sgd", learning_rate=1e-3)
    ours.path_length = 0.5
    generator, _ = copies(ours)
    latents = draw_latents(generator, 8, 0, 0)
    noise = [seeded(0, 0, f"noise {i}") for i in range(8)]
    ws = styles(generator, latents)
    images = draw_pictures(generator, ws, 16, noise)
    y = torch.stack([torch.randn(3, 16, 16, generator=seeded(0, 0, f"path {i}")) for i in range(8)])
    lengths = path_lengths(ws, images, y)
    (values,) = take(ours)
    judge = ours.discriminator
    loss = OBJECTIVES["non_saturating"].generator(judge(images), judge(images)).mean()
    loss = loss + 2 * 4 * (lengths - 0.5).square().mean()
    descend(generator, loss, 1e-3 * 4 / 5)
    assert_same(ours.generator, generator, rtol=1e-4, atol=1e-6)
    assert values["path_length"] == pytest.approx(lengths.mean().item(), rel=1e-4)
    assert ours.path_length == pytest.approx(0.5 + 0.01 * (lengths.mean().item() - 0.5), rel=1e-5)
    assert ["path_length" in values for values in take(ours, 5)] == [False, False, False, True, False]


def test_path_length_needs_a_generator_that_differentiates_twice(tmp_path):
    config = TrainConfig(**BASE | {"output_dir": str(tmp_path), "regularizers": ["path_length"]})
    with pytest.raises(ValueError, match="path_length is not for RadialGenerator"):
        Trainer(config, Pictures(), train.build_networks(config, None)[0], Judge())


def test_the_published_distance_changes_the_loss_and_no_gradient(tmp_path):
    """Nazeri's beta |fake - real|^2 in D's loss has no weight of D in it; in G's loss it has G's."""
    plain, published, mended = (
        make(tmp_path / str(i), regularizers=chosen, optimizer="sgd", distance_weight=0.5)
        for i, chosen in enumerate(([], ["distance_d"], ["distance_g"]))
    )
    fakes = generate(plain.generator, draw_latents(plain.generator, 8, 0, 0), 8)
    distance = (fakes - plain._reals(0)).square().sum(dim=(1, 2, 3)).mean()
    generator = deepcopy(plain.generator)
    (before,), (curve,), (other,) = take(plain), take(published), take(mended)
    assert curve["loss_d"] == pytest.approx(before["loss_d"] + 0.5 * distance.item(), rel=1e-5)
    assert curve["gradient_d"] == before["gradient_d"] and curve["gradient_g"] == before["gradient_g"]
    for network in ("generator", "discriminator"):
        assert_same(getattr(plain, network), getattr(published, network), rtol=0, atol=0)
    assert other["loss_d"] == before["loss_d"]
    fakes = generate(generator, draw_latents(generator, 8, 0, 0), 8)
    distance = (fakes - mended._reals(0)).square().sum(dim=(1, 2, 3)).mean()
    pull = torch.autograd.grad(0.5 * distance, list(generator.parameters()))
    for without, with_it, gradient in zip(plain.generator.parameters(), mended.generator.parameters(), pull):
        torch.testing.assert_close(without - with_it, 0.01 * gradient, rtol=1e-3, atol=1e-6)


def test_weights_are_clipped_after_each_step_of_d(tmp_path):
    ours = make(
        tmp_path, regularizers=["weight_clipping"], objective="wasserstein", optimizer="rmsprop", clip_value=0.02
    )
    take(ours, 3)
    largest = [weight.abs().max().item() for weight in ours.discriminator.parameters()]
    assert max(largest) == pytest.approx(0.02) and max(w.abs().max() for w in ours.generator.parameters()) > 0.05


@pytest.mark.parametrize("limit", [0.01, 1e6])
def test_a_long_gradient_of_d_is_cut(tmp_path, limit):
    ours = make(tmp_path, optimizer="sgd", learning_rate=1.0, clip_gradient_norm=limit)
    before = deepcopy(ours.discriminator)
    (values,) = take(ours)
    moved = torch.cat([(a - b).flatten() for a, b in zip(before.parameters(), ours.discriminator.parameters())]).norm()
    assert values["gradient_d"] > 0.02  # as it was
    assert moved.item() == pytest.approx(min(limit, values["gradient_d"]), rel=1e-3)


OPTIMIZERS = {
    "adam": lambda weights: torch.optim.Adam(weights, 0.01, (0.0, 0.99)),
    "rmsprop": lambda weights: torch.optim.RMSprop(weights, 0.01),
    "adagrad": lambda weights: torch.optim.Adagrad(weights, 0.01),
    "sgd": lambda weights: torch.optim.SGD(weights, 0.01),
    "momentum": lambda weights: torch.optim.SGD(weights, 0.01, momentum=0.9),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_are_torchs(tmp_path, name):
    ours = make(tmp_path, optimizer=name)
    judge, pair = deepcopy(ours.discriminator), OBJECTIVES["non_saturating"]
    theirs = OPTIMIZERS[name](judge.parameters())
    for step in range(3):
        reals, fakes = ours._reals(step), generate(ours.generator, draw_latents(ours.generator, 8, 0, step), 8).detach()
        theirs.zero_grad()
        pair.discriminator(judge(reals), judge(fakes)).mean().backward()
        theirs.step()
        take(ours)
    assert_same(ours.discriminator, judge, rtol=1e-4, atol=1e-6)


def test_d_learns_at_every_step_and_g_at_each_third(tmp_path):
    ours = make(tmp_path, critic_steps=3, ema_decay=0.5)
    moved = []
    for _ in range(7):
        before = [*copies(ours), deepcopy(ours.average)]
        (values,) = take(ours)
        after = (ours.generator, ours.discriminator, ours.average)
        moved.append([not torch.equal(next(a.parameters()), next(b.parameters())) for a, b in zip(before, after)])
        assert ("loss_g" in values) == moved[-1][0]
    assert moved == [[learns, True, learns] for learns in [False, False, True, False, False, True, False]]


# Every way to split a batch gives the same result.


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "relativistic", "regularizers": ["r1", "r2", "path_length"], "r1_interval": 2},
        {"objective": "wasserstein", "regularizers": ["gradient_penalty", "distance_g"], "critic_steps": 2},
        {"objective": "relativistic", "regularizers": ["r1", "r2"], "patch_level": 8, "patch_share": 0.5},
    ],
    ids=["r3gan", "wgan_gp", "patches"],
)
def test_accumulation_changes_nothing(tmp_path, changes):
    results = []
    for parts in (1, 2, 4):
        ours = make_stylegan2(tmp_path / str(parts), gradient_accumulation_steps=parts, optimizer="sgd", **changes)
        take(ours, 4)
        results.append(ours)
    for other in results[1:]:
        for network in ("generator", "discriminator", "average"):
            assert_same(getattr(results[0], network), getattr(other, network), rtol=1e-4, atol=1e-5)


def test_spectral_norms_do_not_depend_on_how_the_batch_is_split(tmp_path):
    results = [
        make(tmp_path / str(parts), gradient_accumulation_steps=parts, regularizers=["spectral_norm"], optimizer="sgd")
        for parts in (1, 4)
    ]
    for ours in results:
        take(ours, 5)
    for network in ("generator", "discriminator", "average"):
        assert_same(getattr(results[0], network), getattr(results[1], network))


# Spectral norm, and what else is kept.


def test_weights_divided_by_their_norm_are_exported_as_plain_ones(tmp_path):
    ours = make(tmp_path, regularizers=["spectral_norm"], ema_decay=0.8, learning_rate=1e-3)
    wanted = merged(ours.generator)
    assert_same(ours.average, wanted)
    for _ in range(5):
        take(ours)
        with torch.no_grad():
            for kept, weight in zip(wanted.parameters(), merged(ours.generator).parameters()):
                kept.lerp_(weight, 0.2)
    assert_same(ours.average, wanted)
    for network, plain in ((merged(ours.average), Drawer()), (merged(ours.discriminator), Judge())):
        assert network.state_dict().keys() == plain.state_dict().keys() and type(network) is type(plain)
    images = ours._reals(0)
    torch.testing.assert_close(merged(ours.discriminator)(images), ours.discriminator(images))


def test_spectral_norms_are_followed_while_weights_change(tmp_path):
    ours = make(tmp_path, regularizers=["spectral_norm"], learning_rate=0.003)
    take(ours, 60)
    for optimizer in (ours.g_optimizer, ours.d_optimizer):
        optimizer.param_groups[0]["lr"] = 0.0
    take(ours, 40)  # each with one power iteration; the weights stand still
    for network in (ours.generator, ours.discriminator):
        for layer in merged(network).layers:
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                weight = layer.weight if isinstance(layer, nn.Conv2d) else layer.weight.transpose(0, 1)
                assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1, abs=0.02)


RESUMED = {
    "spectral_norm": {"regularizers": ["spectral_norm"], "critic_steps": 2, "optimizer": "momentum"},
    "began": {"objective": "began", "began_rate": 0.1, "optimizer": "rmsprop"},
    "path_length": {"regularizers": ["path_length", "gradient_penalty"], "path_length_interval": 2},
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_stopped_run_goes_on_with_the_same_bits(tmp_path, name, monkeypatch):
    monkeypatch.setattr(Trainer, "_export", lambda ours: None)  # these networks are nobody's
    whole, stopped, resumed = (make(tmp_path / folder, **RESUMED[name]) for folder in ("a", "b", "b"))
    take(whole, 7)
    take(stopped, 3)
    stopped._save()
    resumed._load(list_checkpoints(tmp_path / "b" / "checkpoints")[-1])
    take(resumed, 4)
    assert (resumed.k, resumed.path_length) == (whole.k, whole.path_length)
    assert (name == "began") == (whole.k > 0) and (name == "path_length") == (whole.path_length > 0)
    for part, state in whole._stateful().items():
        other = resumed._stateful()[part].state_dict()
        torch.testing.assert_close(state.state_dict(), other, rtol=0, atol=0, msg=part)


def test_k_follows_its_rule(tmp_path):
    ours, k = make(tmp_path, objective="began", began_gamma=0.6, began_rate=0.05), 0.0
    for _ in range(5):
        (values,) = take(ours)
        real, fake = values["score_real"], values["score_fake"]
        k = min(1, max(0, k + 0.05 * (0.6 * real - fake)))
        assert values["k"] == ours.k == pytest.approx(k)
        assert values["convergence"] == pytest.approx(real + abs(0.6 * real - fake))


def test_a_run_does_not_go_on_with_another_optimizer(tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "_export", lambda ours: None)
    make(tmp_path)._save()
    with pytest.raises(ValueError, match="optimizer must be that of the run"):
        make(tmp_path, optimizer="rmsprop")._load(list_checkpoints(tmp_path / "checkpoints")[-1])
    with pytest.raises(ValueError, match="spectral_norm"):
        make(tmp_path, regularizers=["spectral_norm"])._load(list_checkpoints(tmp_path / "checkpoints")[-1])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"objective": "wasserstein", "augment": "ada"}, "augment must not be ada with wasserstein"),
        ({"critic_steps": 0}, "critic_steps must be above 0"),
        ({"clip_value": 0}, "clip_value must be above 0"),
        ({"began_gamma": 1.5}, "began_gamma must be from 0 to 1"),
        ({"critic_steps": 2, "anchor_every": 2, "patch_level": 8}, "anchor_every needs critic_steps 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        TrainConfig(**BASE | {"output_dir": "x"} | changes)
