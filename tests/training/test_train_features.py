import json
import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from sharingan_hub.features import feature_network, features_of
from training import train_features
from training.emblems import BENCHMARK, FAMILIES, render, sample_emblems


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_blur_is_gaussian_and_each_picture_has_its_own():
    images = torch.rand(3, 3, 32, 32, generator=seeded())
    found = train_features.blurred(images, torch.tensor([0.0, 1.0, 1.7]))
    assert torch.allclose(found[0], images[0], atol=1e-6)
    for i, sigma in ((1, 1.0), (2, 1.7)):
        truth = gaussian_filter(images[i].numpy(), (0, sigma, sigma), mode="nearest", radius=6)
        assert np.abs(found[i].numpy() - truth).max() < 2e-3


def test_deformation_has_the_rms_that_was_asked_for():
    side = 801
    axis = (torch.arange(side) + 0.5) * (2 / side) - 1
    radius = torch.hypot(axis[None, :], axis[:, None])
    discs = (radius < 0.6).float().expand(4, 3, side, side).contiguous()
    rms = torch.tensor([0.0, 0.02, 0.05, 0.08])
    bent = train_features.deformed(discs, rms, seeded())
    assert torch.equal(bent[0], discs[0])
    angle = torch.atan2(axis[:, None].expand(side, side), axis[None, :].expand(side, side))
    for picture, wanted in zip(bent[1:], rms[1:]):
        sectors = ((angle + math.pi) / (2 * math.pi) * 36).long().clamp(0, 35)
        area = torch.stack([picture[0][sectors == s].sum() for s in range(36)]) * (2 / side) ** 2
        outline = (area / (math.pi / 36)).sqrt()  # mean radius in each sector
        assert float(outline.log().std()) == pytest.approx(float(wanted), rel=0.3)


def test_answers_are_those_of_the_renderer():
    emblems = [e for name in ("source", *BENCHMARK) for e in sample_emblems(name, range(20))]
    classes, measures = train_features.true_answers(emblems)
    for row, emblem in zip(classes.tolist(), emblems):
        assert row[0] == emblem.order - 1 and FAMILIES[row[1]] == emblem.patterns[0].family
        second = emblem.patterns[1].family if len(emblem.patterns) > 1 else None
        assert row[2] == (len(FAMILIES) if second is None else FAMILIES.index(second))
    assert measures.shape[0] == len(emblems) and measures.isfinite().all()
    assert torch.allclose(measures[:, 0], torch.tensor([e.iris_radius for e in emblems]))


def test_examples_are_of_all_distributions_and_testing_ones_are_unseen(monkeypatch):
    asked = []
    real = train_features.sample_emblems
    monkeypatch.setattr(
        train_features, "sample_emblems", lambda name, seeds: asked.append((name, seeds)) or real(name, seeds)
    )
    images, classes, measures, flaws = train_features.examples(0, 3, 16)
    assert len(images) == len(classes) == len(measures) == len(flaws) == 16
    assert [name for name, _ in asked] == ["source", *BENCHMARK]
    assert max(max(seeds) for _, seeds in asked) < train_features.HELD_OUT
    asked.clear()
    *_, flaws = train_features.examples(0, 3, 16, first=train_features.HELD_OUT, clean=True)
    assert min(min(seeds) for _, seeds in asked) >= train_features.HELD_OUT and not flaws.any()


def test_spoiling_says_what_it_did():
    images = render(sample_emblems("frost", range(64)), 32)
    spoilt, amount = train_features.spoil(images, seeded())
    untouched = (amount == 0).all(dim=1)
    assert 10 < untouched.sum() < 50
    change = (spoilt - images).abs().mean(dim=(1, 2, 3))
    assert change[untouched].max() < 1e-6 and change[(amount > 0.3).any(dim=1)].min() > 1e-4


def test_training_learns_and_what_is_saved_is_what_was_trained(tmp_path):
    train_features.main(["--output_dir", str(tmp_path), "--max_steps", "12", "--batch_size", "16"])
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["steps"] == 12 and 0 <= report["order_right"] <= 1
    images = render(sample_emblems("source", range(64)), 64)
    found = features_of(images, feature_network(tmp_path))
    assert found.shape == (64, 128) and found.min() >= 0
    assert 0.3 < float(found.var(dim=0).mean()) < 3  # of one scale, whatever was learnt


def test_losses_fall_to_zero_for_right_answers_only():
    answers = train_features.Answers(4, torch.zeros(2), torch.ones(2))
    torch.nn.init.zeros_(answers.linear.weight)
    torch.nn.init.zeros_(answers.linear.bias)
    features = torch.zeros(1, 4)
    classes, measures, flaws = torch.tensor([[2, 3, 4]]), torch.zeros(1, 2), torch.zeros(1, 3)
    chance = answers.losses(features, classes, measures, flaws)
    assert float(chance["order"].detach()) == pytest.approx(math.log(8))
    assert float(chance["measures"].detach()) == 0
    starts = [0, 8, 8 + len(FAMILIES)]
    with torch.no_grad():
        for start, label in zip(starts, classes[0].tolist()):
            answers.linear.bias[start + label] = 20
    right = answers.losses(features, classes, measures, flaws)
    assert all(float(loss.detach()) < 1e-4 for loss in right.values())
    assert answers.right(features, classes) == [1.0, 1.0, 1.0]
    assert float(answers.losses(features, classes, measures + 1, flaws)["measures"].detach()) > 0.1
    assert float(answers.losses(features, classes, measures, flaws + 0.2)["measures"].detach()) > 0.1
