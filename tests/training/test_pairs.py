"""CoGAN's pairs: the ruler on what is known, true pairs against strangers, and the command with tiny numbers."""

import itertools
import json
import statistics

import pytest
import torch
from PIL import Image

from training.emblems import sample_emblems
from training.experiments import pairs, pairs_report
from training.targets import drawn_plainly


def test_a_ruler_finds_a_linear_law():
    rng = torch.Generator().manual_seed(0)
    features, law = torch.randn(4000, 5, generator=rng), torch.randn(5, 2, generator=rng)
    truth = features @ law + torch.tensor([3.0, -1.0])
    ruler = pairs.fit_ruler(features, truth)
    torch.testing.assert_close(ruler(features).float(), truth, atol=0.01, rtol=0)
    assert pairs.explained(ruler(features), truth).min() > 0.999
    assert pairs.explained(truth.mean(0).expand_as(truth), truth).abs().max() < 1e-5


def test_correlations_are_pearsons():
    x = torch.tensor([[0.0], [1.0], [2.0], [5.0]])
    one, other = torch.cat([x, x, x, x], dim=1), torch.cat([2 * x + 1, -x, x * 0 + 4, x.flip(0)], dim=1)
    found = pairs.correlations(one, other)
    expected = float(torch.corrcoef(torch.stack([x[:, 0], x.flip(0)[:, 0]]))[0, 1])
    assert found.tolist() == pytest.approx([1, -1, 0, expected])


def test_one_design_drawn_in_both_ways_corresponds_and_strangers_do_not():
    _, known = pairs.rulers_of(pairs.Size(resolution=32, pairs=60, emblems=240))
    order = known["attributes"].index("order")
    assert known["pairs"]["correlation"][order] > 0.8 > 0.5 > abs(known["strangers"]["correlation"][order])
    assert known["pairs"]["same_order"] > 0.9 > 0.5 > known["strangers"]["same_order"]
    assert known["pairs"]["correlation"][-1] > 0.8 > 0.1 > abs(known["strangers"]["correlation"][-1])  # ink
    assert all(known["r2"][domain][order] > 0.5 for domain in pairs.DOMAINS)


def test_a_plain_drawing_keeps_what_is_measured():
    for emblem in sample_emblems("sharingan", range(20)):
        assert pairs.attributes(drawn_plainly(emblem)) == pairs.attributes(emblem)


def test_what_seeds_find_is_averaged_with_the_error_of_their_scatter():
    found = [
        {
            "pairs": {"correlation": [value, 0.5], "same_order": value},
            "strangers": {"same_order": 0.25},
            "kid": {"sharingan": [value, 0.1], "plain": [2.0, 0.1]},
        }
        for value in (0.1, 0.3, 0.8)
    ]
    error = statistics.stdev([0.1, 0.3, 0.8]) / 3**0.5
    assert pairs_report.cells(found) == [
        f"0.40 ± {error:.2f}",
        "0.50 ± 0.00",
        "40 % (25 %)",
        "0.4 ± 0.2",
        "2.00 ± 0.06",  # no scatter: by the errors of the three
    ]
    assert pairs_report.cells(found[:1]) == ["0.10", "0.50", "10 % (25 %)", "0.10 ± 0.10", "2.00 ± 0.10"]


def test_the_command_in_two_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "QUICK", pairs.Size(16, (0, 3), steps=4, batch_size=4, pairs=20, emblems=40))
    monkeypatch.setattr(pairs, "CHANNELS", 4)
    monkeypatch.setattr(pairs, "SHARED", (0, 2))
    arguments, folder = ["--quick", "--work_dir", str(tmp_path)], tmp_path / "quick"
    pairs.main([*arguments, "--only", "2"])
    assert not (folder / "gan_family.md").exists() and not list(folder.glob("shared0*"))
    pairs.main(arguments)
    for shared, seed in itertools.product((0, 2), (0, 3)):
        found = json.loads((folder / f"shared{shared}-{seed}.json").read_text())
        assert (found["steps"], found["count"], found["shared_layers"], found["seed"]) == (4, 20, shared, seed)
        assert len(found["pairs"]["correlation"]) == len(pairs.attributes(sample_emblems("plain", [0])[0])) + 1
        with Image.open(folder / f"shared{shared}-{seed}.png") as strip:
            assert strip.size == (8 * 16, 2 * 16)
    page = (folder / "gan_family.md").read_text()
    assert "| no shared layer |" in page and "| 2 shared layers |" in page and "| *one design* |" in page
    assert len({line.count("|") for line in page.splitlines() if line.startswith("|")}) == 1
    with Image.open(folder / "pictures" / "pairs.png") as figure:
        assert min(figure.size) > 300
