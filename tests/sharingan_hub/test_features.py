"""The embedded feature network: what it is for, and that it measures."""

import math

import pytest
import torch
from safetensors.torch import save_file

from sharingan_hub import hub
from sharingan_hub.features import EMBEDDED, FeatureNetwork, feature_network, features_of, nearest
from training import metrics
from training.emblems import render, sample_emblems
from training.evaluate import UNSEEN, rotated
from training.train_features import blurred, deformed

COUNT = 400
FIRST = UNSEEN + 5000


@pytest.fixture(scope="module")
def real() -> torch.Tensor:
    return features_of(render(sample_emblems("sharingan", range(UNSEEN, UNSEEN + 1000)), 64))


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return render(sample_emblems("sharingan", range(FIRST, FIRST + COUNT)), 64)


def hue_shifted(images: torch.Tensor, turn: float) -> torch.Tensor:
    c, s = math.cos(turn), math.sin(turn) / math.sqrt(3)
    matrix = torch.full((3, 3), (1 - c) / 3) + c * torch.eye(3)
    matrix += s * torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    return torch.einsum("ij,njyx->niyx", matrix, images).clamp(0, 1)


def dropped(images: torch.Tensor, share: float) -> torch.Tensor:
    """As many pictures, without those of the highest orders."""
    orders = [emblem.order for emblem in sample_emblems("sharingan", range(FIRST, FIRST + COUNT))]
    kept = torch.tensor(orders).sort(stable=True).indices[: round(COUNT * (1 - share))]
    return images[kept[torch.randperm(len(kept), generator=seeded()).repeat(9)[:COUNT]]]


def mixed(images: torch.Tensor, share: float) -> torch.Tensor:
    count = round(len(images) * share)
    others = render(sample_emblems("jade", range(count)), 64) if count else images[:0]
    return torch.cat([images[count:], others])


HARM = {
    "blur": (lambda x, a: blurred(x, torch.full((len(x),), a)), (0.0, 0.4, 0.8, 1.6)),
    "noise": (lambda x, a: (x + a * torch.randn(x.shape, generator=seeded())).clamp(0, 1), (0.0, 0.03, 0.08, 0.2)),
    "hue": (hue_shifted, (0.0, 0.2, 0.6, 1.8)),
    "deformation": (lambda x, a: deformed(x, torch.full((len(x),), a), seeded()), (0.0, 0.02, 0.05, 0.1)),
    "dropped modes": (dropped, (0.0, 0.3, 0.5, 0.8)),
    "another family": (mixed, (0.0, 0.1, 0.3, 0.9)),
}


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("harm", HARM)
def test_distances_grow_with_every_kind_of_harm(harm, real, pictures):
    do, amounts = HARM[harm]
    found = [features_of(do(pictures, amount)) for amount in amounts]
    kid = [metrics.kid(real, fake).value for fake in found]
    fid = [metrics.fid(real, fake).value for fake in found]
    assert kid == sorted(kid) and kid[-1] > 5 * abs(kid[0])
    assert fid == sorted(fid) and fid[-1] > 1.5 * fid[0]


def test_a_turned_picture_is_nearly_the_same(pictures):
    some = pictures[:64]
    own = features_of(some)
    others = torch.cdist(own, own) + 1e9 * torch.eye(64)
    for angle in (0.3, 1.0, 2.5):
        turned = features_of(rotated(some, angle))
        assert ((turned - own).norm(dim=1) < others.amin(dim=1)).float().mean() > 0.9


def test_the_nearest_picture_is_the_picture_itself(pictures):
    some = features_of(pictures[:50])
    distances, indices = nearest(some[:10] + 1e-4, some, count=3)
    assert distances.shape == indices.shape == (10, 3)
    assert indices[:, 0].tolist() == list(range(10)) and (distances.diff(dim=1) >= 0).all()


def test_any_size_is_looked_at(pictures):
    emblems = sample_emblems("sharingan", range(8))
    small, large = features_of(render(emblems, 64)), features_of(render(emblems, 256))
    assert (small - large).norm(dim=1).mean() < 0.5 * torch.pdist(small).mean()
    with pytest.raises(ValueError, match=r"images must be \(N,3,H,W\)"):
        feature_network()(torch.zeros(1, 64, 64))


def test_details_turn_with_the_picture(pictures):
    details = feature_network().details(pictures[:4])
    quarter = feature_network().details(pictures[:4].rot90(1, (2, 3)))
    assert details.shape == (4, 16, 20, 48)
    assert (quarter - details.roll(12, dims=3)).abs().max() < 1e-3 * details.max()
    assert (quarter - details).abs().max() > 0.1 * details.max()


def test_it_is_small_and_half_precision_loses_nothing():
    assert sum(path.stat().st_size for path in EMBEDDED.iterdir()) < 8e6
    assert not feature_network().training and not any(p.requires_grad for p in feature_network().parameters())


def test_a_damaged_file_is_refused(tmp_path):
    network = FeatureNetwork()
    network.save_config(tmp_path)
    weights = {name: value.half() for name, value in network.state_dict().items() if value.is_floating_point()}
    save_file(weights | {"project.bias": torch.full((128,), math.nan)}, tmp_path / hub.WEIGHTS)
    with pytest.raises(hub.CheckpointError, match="NaN"):
        feature_network(tmp_path)
