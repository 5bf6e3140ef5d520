"""CoGAN in the one loop: two domains of which no pictures belong together, layers shared by both, pairs at the end."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sharingan_hub import SharinganPipeline, hub
from training import augment, train
from training.checkpoints import list_checkpoints, picture_grid
from training.config import TrainConfig
from training.edges import EdgePictures
from training.emblems import order_probs, sample_emblems
from training.sampling import generate

BASE = {
    "resolution": 16,
    "generator": {"class_name": "CoGANGenerator", "z_dim": 8, "channels": 4, "shared_layers": 1},
    "discriminator": {"class_name": "CoGANDiscriminator", "channels": 4, "shared_layers": 1},
    "regularizers": [],
    "batch_size": 4,
    "max_steps": 4,
    "learning_rate": 0.01,
    "report_to": "none",
}


class Numbered:
    """Pictures of one colour each, which says their index."""

    order_probs = None

    def __init__(self, count: int, side: int = 16) -> None:
        self.count, self.side = count, side

    def __len__(self) -> int:
        return self.count

    def batch(self, indices):
        values = torch.tensor(list(indices), dtype=torch.float32).view(-1, 1, 1, 1) / self.count
        return values.expand(-1, 3, self.side, self.side).clone(), torch.zeros(len(values), dtype=torch.int64)


@pytest.fixture
def folders(tmp_path) -> list[Path]:
    found = []
    for name, count, low, high in (("a", 6, 0, 100), ("b", 5, 150, 256)):
        (tmp_path / name).mkdir()
        for i, pixels in enumerate(np.random.default_rng(0).integers(low, high, (count, 16, 16, 3), dtype=np.uint8)):
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
        found.append(tmp_path / name)
    return found


def config(folders: list[Path], output: Path, **changes) -> TrainConfig:
    data = dict(zip(("train_data", "train_data_b"), map(str, folders)))
    return TrainConfig(**BASE | data | {"output_dir": str(output)} | changes)


def step(ours):
    values = ours._train_step(ours._reals(ours.step))
    ours.step += 1
    return values


@pytest.mark.parametrize("count", [1, 2], ids=["one_folder", "two_folders"])
def test_a_run_ends_in_a_model_of_pairs(count, folders, tmp_path):
    ours = train.build_trainer(config(folders[:count], tmp_path / "run", sample_every=2, checkpointing_steps=2))
    output = ours.train()
    hub.validate(output)
    out = SharinganPipeline.from_pretrained(output)(seeds=[1, 2], output_type="pt")
    assert out.pairs.shape == (2, 2, 3, 16, 16) and torch.equal(out.images, out.pairs[:, 0])
    assert not torch.equal(out.pairs[:, 0], out.pairs[:, 1])
    for name, size in (("step_00000004.png", (8 * 16, 4 * 2 * 16)), ("preview.png", (8 * 16, 2 * 2 * 16))):
        assert Image.open(output / "samples" / name).size == size
    assert json.loads((output / "report.json").read_text())["pictures"] == 6
    card = (output / "README.md").read_text()
    assert "CoGANGenerator" in card and str(tmp_path) not in card and ("train_data_b: b" in card) == (count == 2)
    assert [check["step"] for check in ours.monitor.checks] == [2, 4]


def test_shared_layers_are_the_same_tensors_after_training(folders, tmp_path):
    """Each domain's picture, drawn by a plain DCGAN generator of the shared layers and its own; judged likewise."""
    ours = train.build_trainer(config(folders, tmp_path / "run"))
    first = {name: value.clone() for name, value in ours.generator.shared.state_dict().items()}
    before = [id(p) for network in (ours.generator.shared, ours.discriminator.shared) for p in network.parameters()]
    for _ in range(3):
        step(ours)
    after = [id(p) for network in (ours.generator.shared, ours.discriminator.shared) for p in network.parameters()]
    assert before == after
    assert all(not torch.equal(value, first[name]) for name, value in ours.generator.shared.state_dict().items())
    for model in (ours.generator.eval(), ours.average):
        pictures = generate(model, ours.checked, 16)
        for domain, end in enumerate(model.ends):
            alone = train.generator_class("DCGANGenerator")(z_dim=8, resolution=16, channels=4)
            layers = model.shared.state_dict() | end.state_dict()
            alone.load_state_dict({f"layers.{name}": value for name, value in layers.items()} | {"w_avg": model.w_avg})
            torch.testing.assert_close(alone(ours.checked.z), pictures[:, 3 * domain : 3 * domain + 3])


@pytest.mark.parametrize("silent", [0, 1])
def test_each_domain_teaches_the_shared_layers(silent, folders, tmp_path):
    """With one domain's judge seeing nothing, the other's gradient alone moves the shared layers of both networks."""

    def blind(generator, discriminator):
        discriminator.starts[silent].layer0.conv.weight.requires_grad_(False).zero_()

    ours = train.build_trainer(config(folders, tmp_path / "run", optimizer="sgd"), blind)
    before = {name: value.clone() for name, value in ours.generator.named_parameters()}
    judge = ours.discriminator.shared.end.conv.weight.clone()
    step(ours)
    changed = [name for name, p in ours.generator.named_parameters() if not torch.equal(p, before[name])]
    moved = {name[: len("ends.0")].removesuffix(".") for name in changed}
    assert moved == {"shared", f"ends.{1 - silent}"}
    assert not torch.equal(ours.discriminator.shared.end.conv.weight, judge)


def test_domains_are_drawn_independently(tmp_path):
    """Each picture of each domain comes once in a round of its own domain, and with no partner of its own."""
    a, b = Numbered(8), Numbered(8)
    settings = config([Path("a"), Path("b")], tmp_path, real_rotations=False, real_flips=False)
    ours = train.Trainer(settings, a, *train.build_networks(settings, None), b)
    drawn = torch.cat([ours._reals(i) for i in range(64)])
    assert drawn.shape == (256, 6, 16, 16)
    pairs = (drawn[:, [0, 3], 0, 0] * 8).round().long()
    for domain in (0, 1):
        rounds = pairs[:, domain].view(32, 8)
        assert torch.equal(rounds.sort(dim=1).values, torch.arange(8).expand(32, 8))
    assert len(set(map(tuple, pairs.tolist()))) > 55  # of 64 there are: 256 draws miss one in a hundred
    assert abs(np.corrcoef(pairs.t().numpy())[0, 1]) < 0.2


def test_domains_of_unlike_sizes(tmp_path):
    settings = config([Path("a"), Path("b")], tmp_path, real_rotations=False, real_flips=False)
    ours = train.Trainer(settings, Numbered(3), *train.build_networks(settings, None), Numbered(20))
    drawn = torch.cat([ours._reals(i) for i in range(15)])[:, [0, 3], 0, 0]
    assert (drawn[:, 0] * 3).round().long().bincount().tolist() == [20] * 3
    assert (drawn[:, 1] * 20).round().long().bincount().tolist() == [3] * 20


def test_a_run_goes_on_with_the_same_bits(folders, tmp_path):
    states = []
    for name, ends in (("whole", [4]), ("parts", [2, 4])):
        for end in ends:
            train.train(config(folders, tmp_path / name, max_steps=end, augment="diffaugment", resume_from="latest"))
        states.append(torch.load(list_checkpoints(tmp_path / name / "checkpoints")[-1] / "state.pt", weights_only=True))
    for network in ("generator", "discriminator", "average"):
        assert states[0][network].keys() == states[1][network].keys()
        assert all(torch.equal(value, states[1][network][name]) for name, value in states[0][network].items())


# Pictures of two domains.


def test_edges_are_where_colours_change():
    picture = torch.full((1, 3, 16, 16), 0.5)
    picture[:, 0, 4:12, 6:10] = -0.5  # in one colour alone
    pictures = Numbered(3)
    pictures.batch = lambda indices: (picture.expand(len(indices), -1, -1, -1), torch.full((len(indices),), 4))
    edges, orders = EdgePictures(pictures, 16).batch([0, 2])
    assert edges.shape == (2, 3, 16, 16) and orders.tolist() == [4, 4]
    around = torch.full((16, 16), -1.0)
    around[3:13, 5:11] = 1.0
    around[4:12, 6:10] = -1.0
    strong = edges[0, 0] > -1
    assert (
        torch.equal(strong, around > 0) and edges.max() == 1 and torch.equal(edges[:, :1].expand(2, 3, 16, 16), edges)
    )


def test_edges_are_found_once_and_flat_pictures_have_none():
    pictures = Numbered(5)
    asked = []
    batch = pictures.batch
    pictures.batch = lambda indices: asked.append(list(indices)) or batch(indices)
    edges = EdgePictures(pictures, 16)
    assert (torch.cat([edges.batch([1, 3, 1])[0], edges.batch([3, 1])[0]]) == -1).all() and len(edges) == 5
    assert asked == [[1], [3]]


def test_pairs_are_shown_one_below_the_other():
    pairs = torch.linspace(-1, 1, 4)[:, None, None, None].expand(4, 6, 2, 2).clone()
    pairs[:, 3:] *= 0.5
    grid = np.array(picture_grid(pairs, 2))
    assert grid.shape == (8, 4, 3)
    parts = [[0, 1], [0, 1], [2, 3], [2, 3]]
    for row, (columns, factor) in enumerate(zip(parts, (1, 0.5, 1, 0.5))):
        for column, i in enumerate(columns):
            expected = round((factor * (-1 + 2 * i / 3) + 1) * 127.5)
            assert (grid[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] == expected).all()


def test_both_pictures_of_a_pair_are_augmented_alike():
    torch.manual_seed(0)
    pairs = torch.rand(16, 6, 16, 16) * 2 - 1
    change = augment.draw(16, augment.TRANSFORMS, 0.8, torch.Generator().manual_seed(0))
    apart = torch.cat([change(part) for part in pairs.split(3, dim=1)], dim=1)
    torch.testing.assert_close(change(pairs), apart)
    assert change.colored.any() and change.warped.any()


def test_plain_emblems_are_the_same_designs_in_black_and_white():
    assert order_probs("plain") == order_probs("sharingan")
    for emblem in sample_emblems("plain", range(50)):
        colors = {emblem.iris_inner, emblem.background_inner, *(p.color for p in emblem.patterns)}
        assert colors == {(0.0, 0.0, 0.0), (1.0, 1.0, 1.0)} and emblem.rings and emblem.rim_width == 0
    several = [{e.patterns[0].radius for e in sample_emblems(name, range(200))} for name in ("plain", "sharingan")]
    assert not several[0] & several[1]  # no two belong together


# What does not go together.


def test_pairs_need_a_judge_of_pairs(folders, tmp_path):
    single = {"class_name": "DCGANDiscriminator", "channels": 4}
    with pytest.raises(ValueError, match="6 channels, which CoGANGenerator draws; DCGANDiscriminator takes 3"):
        train.build_trainer(config(folders, tmp_path, discriminator=single))
    with pytest.raises(ValueError, match="3 channels, which DCGANGenerator draws; CoGANDiscriminator takes 6"):
        train.build_trainer(config(folders, tmp_path, generator={"class_name": "DCGANGenerator", "channels": 4}))


def test_a_second_domain_needs_a_generator_of_pairs(folders, tmp_path):
    networks = {"generator": {"class_name": "DCGANGenerator"}, "discriminator": {"class_name": "DCGANDiscriminator"}}
    with pytest.raises(ValueError, match="train_data_b must not be given with DCGANGenerator, which has one domain"):
        train.build_trainer(config(folders, tmp_path, **networks))
    with pytest.raises(ValueError, match="nowhere"):
        train.build_trainer(config(folders, tmp_path, train_data_b=os.path.join(tmp_path, "nowhere")))
