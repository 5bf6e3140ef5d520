import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from training.emblems import (
    DISTRIBUTIONS,
    FAMILIES,
    Emblem,
    Pattern,
    main,
    order_probs,
    render,
    sample_emblems,
)
from training.motifs import MOTIFS

FEW_SHOT = Path(__file__).parents[2] / "training" / "data" / "sharingan15"
WHITE, BLACK = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)


def plain(order: int, *patterns: Pattern) -> Emblem:
    """Black patterns on a white disc that fills the picture; no ring, rim or pupil."""
    return Emblem(order, 0.0, patterns, (), 1.0, WHITE, WHITE, 0.0, BLACK, 0.0, BLACK, WHITE, WHITE)


def black_area(emblem: Emblem, size: int = 256) -> float:
    """In units in which the picture is 2 x 2."""
    return float((1 - render([emblem], size)[0, 0]).sum()) * (2 / size) ** 2


seeds = st.integers(0, 2**31 - 1)
distributions = st.sampled_from(DISTRIBUTIONS)


@settings(max_examples=25, deadline=None)
@given(distributions, seeds)
def test_a_seed_alone_decides_its_emblem_and_its_pixels(distribution, seed):
    alone = sample_emblems(distribution, [seed])
    among = sample_emblems(distribution, [seed ^ 5, seed, seed ^ 9])
    assert alone[0] == among[1]
    picture = render(alone, 32)[0]
    assert torch.equal(picture, render(alone, 32)[0])
    assert (picture - render(among, 32)[1]).abs().max() < 1e-5
    assert picture.min() >= 0 and picture.max() <= 1


@settings(max_examples=50, deadline=None)
@given(distributions, seeds)
def test_attributes_survive_json(distribution, seed):
    (emblem,) = sample_emblems(distribution, [seed])
    assert Emblem.from_dict(json.loads(json.dumps(emblem.to_dict()))) == emblem


@settings(max_examples=25, deadline=None)
@given(distributions, seeds)
def test_every_emblem_has_the_symmetry_of_its_order(distribution, seed):
    (emblem,) = sample_emblems(distribution, [seed])
    size = 128
    picture = render([emblem], size)
    turned = render([dataclasses.replace(emblem, phase=emblem.phase + 2 * math.pi / emblem.order)], size)
    assert (picture - turned).abs().mean() < 1e-4
    quarter = render([dataclasses.replace(emblem, phase=emblem.phase + math.pi / 2)], size)
    assert (picture.rot90(1, (2, 3)) - quarter).abs().mean() < 1e-4


def test_phase_turns_the_picture_counter_clockwise_by_its_angle():
    (emblem,) = sample_emblems("source", [3])
    angle, size = 0.7, 256
    turned = render([dataclasses.replace(emblem, phase=emblem.phase + angle)], size)
    matrix = torch.tensor([[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]])
    grid = F.affine_grid(matrix[None], [1, 3, size, size], align_corners=False)
    reference = F.grid_sample(render([emblem], size), grid, padding_mode="border", align_corners=False)
    axis = (torch.arange(size) + 0.5) * (2 / size) - 1
    inside = torch.hypot(axis[None], axis[:, None]) < 1  # the corners come from outside the picture
    assert (turned - reference)[..., inside].abs().mean() < 0.005


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("order", [1, 3, 8])
def test_each_family_draws_order_copies_that_fill_some_of_the_disc(family, order):
    reach = 0.5 * min(1.0, 2.0 * math.sin(math.pi / max(order, 2)))
    emblem = plain(order, Pattern(family, 0.5, 0.25 * reach, 0.5, 0.5, 0.0, 0.0, 0.0, BLACK))
    one = plain(1, *emblem.patterns)
    # Motifs this small stand apart, so n of them cover n times as much as one does.
    assert black_area(one) > 0.1 * (0.25 * reach) ** 2
    assert black_area(emblem) == pytest.approx(order * black_area(one), rel=0.03)


def test_areas_match_closed_forms():
    kite = Pattern("kite", 0.5, 0.3, 0.5, 0.5, 0.0, 0.0, 0.0, BLACK)
    assert black_area(plain(1, kite)) == pytest.approx(2 * 0.3 * 0.3 * 0.5, rel=0.02)
    hoop = Pattern("ring", 0.5, 0.3, 0.5, 0.5, 0.0, 0.0, 0.0, BLACK)
    thick = 0.09 + 0.1 * 0.5
    assert black_area(plain(1, hoop)) == pytest.approx(math.pi * 0.09 * (0.95**2 - (0.95 - 2 * thick) ** 2), rel=0.02)
    b = 0.5
    arc, half = (1 + b * b) / (2 * b), math.atan2(1, (1 - b * b) / (2 * b))
    leaf = Pattern("lens", 0.5, 0.3, (b - 0.35) / 0.3, 0.0, 0.0, 0.0, 0.0, BLACK)
    assert black_area(plain(1, leaf)) == pytest.approx(0.09 * arc**2 * (2 * half - math.sin(2 * half)), rel=0.02)
    disc = dataclasses.replace(plain(1), pupil_radius=0.37)
    assert black_area(disc) == pytest.approx(math.pi * 0.37**2, rel=0.002)


def test_a_hole_takes_away_its_own_area():
    solid = Pattern("kite", 0.5, 0.4, 0.7, 0.5, 0.0, 0.0, 0.0, BLACK)
    pierced = dataclasses.replace(solid, hole=0.2)
    lost = black_area(plain(3, solid)) - black_area(plain(3, pierced))
    assert lost == pytest.approx(3 * math.pi * (0.2 * 0.4) ** 2, rel=0.03)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_small_picture_is_the_average_of_a_large_one(distribution):
    emblems = sample_emblems(distribution, range(12))
    small, large = render(emblems, 64), F.avg_pool2d(render(emblems, 256), 4)
    assert (small - large).abs().mean() < 0.008


def test_distributions_are_what_they_say():
    source = sample_emblems("source", range(4000))
    orders = np.bincount([e.order for e in source], minlength=9)[1:] / 4000
    assert np.abs(orders - 1 / 8).max() < 0.025
    assert {p.family for e in source for p in e.patterns} == set(MOTIFS) and len(MOTIFS) >= 12
    sharingan = sample_emblems("sharingan", range(2000))
    orders = np.bincount([e.order for e in sharingan], minlength=9)[1:] / 2000
    assert np.abs(orders - order_probs("sharingan")).max() < 0.03
    for name in DISTRIBUTIONS[2:]:
        orders = np.bincount([e.order for e in sample_emblems(name, range(2000))], minlength=9)[1:] / 2000
        assert np.abs(orders - order_probs(name)).max() < 0.03
    for e in sharingan:
        assert e.iris_inner[0] > 4 * max(e.iris_inner[1:]) * 0.8 and e.iris_inner[0] > e.iris_outer[0]
        assert max(e.pupil_color) < 0.1 and e.rings and all(max(p.color) < 0.1 for p in e.patterns)


def test_the_fifteen_are_drawn_from_their_attributes_and_differ():
    rows = [json.loads(line) for line in (FEW_SHOT / "metadata.jsonl").read_text().splitlines()]
    assert sorted(p.name for p in FEW_SHOT.glob("*.png")) == [f"{i:02d}.png" for i in range(1, 16)]
    pictures = render([Emblem.from_dict(row) for row in rows], 256)
    for row, picture in zip(rows, pictures):
        stored = np.asarray(Image.open(FEW_SHOT / row["file_name"]))
        drawn = (picture * 255).round().byte().permute(1, 2, 0).numpy()
        assert np.abs(stored.astype(int) - drawn).max() <= 1
    assert {row["order"] for row in rows} == {1, 2, 3, 4, 5, 6}
    small = F.avg_pool2d(pictures, 4).flatten(1)
    distance = torch.cdist(small, small) / math.sqrt(small.shape[1])
    assert distance[~torch.eye(15, dtype=torch.bool)].min() > 0.05


def test_the_command_writes_a_folder_that_datasets_opens(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    main(
        ["--distribution", "source", "--count", "5", "--size", "32", "--seed", "7", "--output_dir", str(tmp_path / "a")]
    )
    from datasets import load_dataset

    rows = load_dataset("imagefolder", data_dir=str(tmp_path / "a"), split="train", cache_dir=str(tmp_path / "cache"))
    assert [row["order"] for row in rows] == [e.order for e in sample_emblems("source", range(7, 12))]
    assert all(row["image"].size == (32, 32) for row in rows)


@pytest.mark.parametrize("arguments", [["--count", "0"], ["--size", "4"], ["--seed", "-1"], ["--distribution", "x"]])
def test_bad_arguments_end_with_code_2(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--output_dir", str(tmp_path / "a")])
    assert stopped.value.code == 2 and not (tmp_path / "a").exists()
    assert arguments[0].strip("-") in capsys.readouterr().err


def test_an_unknown_distribution_is_named():
    with pytest.raises(ValueError, match="'cats'.*source, sharingan"):
        sample_emblems("cats", [0])  # type: ignore[arg-type]
