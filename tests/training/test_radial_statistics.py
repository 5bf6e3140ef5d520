import math

import pytest
import torch

from training.emblems import render, sample_emblems
from training.evaluate import rotated
from training.radial_statistics import (
    EXTREMES,
    FINE,
    GROUP,
    MOST_COLORS,
    PARTS,
    RADII,
    STRANGE,
    circles_of,
    distances,
    radial_statistics,
    statistics_loss,
    strangeness,
    wanted_of,
)


def pictures(name: str, count: int, first: int = 0) -> torch.Tensor:
    return render(sample_emblems(name, range(first, first + count)), 64) * 2 - 1


def statistics(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return radial_statistics(circles_of(images))


def test_a_disc_has_its_colour_in_all_parts_of_each_circle():
    axis = (torch.arange(64) + 0.5) / 32 - 1
    disc = (torch.hypot(axis[None, :], axis[:, None]) < 0.5).float()
    color = torch.tensor([1.0, 0.5, -1])
    parts = statistics(disc * color.view(1, 3, 1, 1))[0].view(3, RADII, PARTS)
    assert (parts[:, : RADII // 2 - 1] - color[:, None, None]).abs().max() < 1e-4
    assert parts[:, RADII // 2 + 1 :].abs().max() < 1e-4


def test_half_a_disc_fills_half_of_the_parts():
    half = torch.zeros(1, 3, 64, 64)
    half[..., 32:] = 1
    parts = statistics(half)[0].view(3, RADII, PARTS)[:, 4:]
    assert parts[..., : PARTS // 2 - 1].abs().max() < 1e-4 and (parts[..., PARTS // 2 + 1 :] - 1).abs().max() < 1e-4
    turned = statistics(half.rot90(1, (2, 3)))[0].view(3, RADII, PARTS)[:, 4:]
    assert torch.allclose(parts, turned, atol=1e-4)


def test_turning_a_picture_changes_next_to_nothing():
    some = pictures("jade", 8)
    own, quarter, turned = (statistics(images) for images in (some, some.rot90(1, (2, 3)), rotated(some, 0.7)))
    for first, second in zip(own, quarter):
        assert torch.allclose(first, second, atol=1e-4)
    assert (own[0] - turned[0]).square().mean().sqrt() < 0.25 * distances(own[0], own[0]).mean()


def test_a_ring_counts_by_its_width_wherever_it_lies_and_an_arc_or_a_disc_does_not():
    axis = (torch.arange(256) + 0.5) / 128 - 1
    radius = torch.hypot(axis[None, :], axis[:, None])

    def circles(picture: torch.Tensor) -> float:
        """How many dark circles there are."""
        rings = statistics(-picture.float().expand(1, 3, -1, -1))[1].view(3, 2 * EXTREMES, 2)
        return -float(rings[0, :, 1].clamp(max=0).sum())

    for width in (0.02, 0.05):
        for r in (0.4, 0.7):
            assert circles((radius - r).abs() < width / 2) == pytest.approx(width * RADII * FINE, abs=0.7)
    assert circles(((radius - 0.4).abs() < 0.025) & (axis > 0)) < 0.1 and circles(radius < 0.5) < 0.1


def test_motifs_count_by_their_place_and_contrast_and_not_by_their_colour():
    axis = (torch.arange(256) + 0.5) / 128 - 1
    radius = torch.hypot(axis[None, :], axis[:, None])
    between = math.pi / 48  # a circle is looked at every 7.5 degrees: edges lie in the middle
    quarter = (torch.atan2(axis[:, None], axis[None, :]) - between).abs() < math.pi / 4
    band = (radius - 0.5).abs() < 0.1

    def motifs(ground: tuple[float, ...], ink: tuple[float, ...]) -> torch.Tensor:
        colors = torch.tensor([ground, ink]).view(2, 3, 1, 1)
        return statistics(torch.where(band & quarter, colors[1], colors[0])[None])[2].view(RADII, PARTS)

    found = motifs((1.0, -1.0, -1.0), (-1.0, -1.0, -1.0))
    wanted = torch.zeros(RADII, PARTS)
    wanted[10:14, -PARTS // 4 :] = 2.0  # a quarter of the circles from 0.4 to 0.6 is the ink's; rows 9 and 14 are cut
    whole = [row for row in range(RADII) if row not in (9, 14)]
    assert (found - wanted)[whole].abs().max() < 0.01
    assert torch.allclose(found, motifs((-1.0, 1.0, -1.0), (-1.0, 1.0, 1.0)), atol=1e-4)
    assert torch.allclose(found / 2, motifs((0.0, 0.0, 0.0), (0.0, 1.0, 0.0)), atol=2e-3)


def test_a_colour_is_as_strange_as_it_is_far_from_the_nearest_that_is_known():
    circles = torch.rand(2, 3, RADII * FINE, 48) * 2 - 1
    colors = torch.rand(7, 3) * 2 - 1
    for picture, found in zip(circles, strangeness(circles, colors)):
        far = sorted(
            (
                min(math.dist(picture[:, row, column].tolist(), color) for color in colors.tolist())
                for row in range(1, RADII * FINE, FINE)
                for column in range(0, 48, 2)
            ),
            reverse=True,
        )
        wanted = [sum(far[:count]) / count * STRANGE for count in (32, 64, 128, 256)]
        assert found.tolist() == pytest.approx(wanted, abs=1e-4)


def test_a_small_motif_of_a_strange_colour_is_seen_and_one_of_a_known_colour_is_not():
    real = pictures("sharingan", 15)
    wanted = wanted_of(real)
    ground = pictures("sharingan", 1, 40)
    found = []
    for ink in ((0.09, 0.09, 0.09), (0.1, 0.6, 0.2)):
        spotted = ground.clone()
        spotted[:, :, 18:22, 30:34] = torch.tensor(ink).view(3, 1, 1) * 2 - 1
        found.append(float(strangeness(circles_of(spotted), wanted.colors)[0, 0]))
    usual = wanted.statistics[-1][:, 0]
    assert found[0] < usual.max() and found[1] > usual.max() + 0.01


def test_where_each_picture_has_its_own_colours_strange_ones_are_wanted():
    hues = torch.eye(3)[:, :, None, None].expand(3, 3, 64, 64) * 2 - 1
    strange = wanted_of(hues).statistics[-1]
    assert torch.allclose(strange, torch.full_like(strange, STRANGE * math.sqrt(8)), atol=1e-3)
    assert wanted_of(hues[:1]).statistics[-1].max() < 0.01  # no others: its own


def test_many_colours_are_taken_more_coarsely():
    noise = torch.rand(9, 3, 64, 64) * 2 - 1
    assert len(wanted_of(noise).colors) <= MOST_COLORS


def test_the_loss_is_the_energy_distance_of_a_plain_loop():
    fakes, real = pictures("frost", 2 * GROUP), wanted_of(pictures("frost", 5, 50))
    own_statistics = (*statistics(fakes), strangeness(circles_of(fakes), real.colors))

    def apart(a: torch.Tensor, b: torch.Tensor) -> float:
        return math.sqrt(float((a - b).square().mean()) + 1e-8)

    wanted = [0.0] * len(fakes)
    for own, others in zip(own_statistics, real.statistics, strict=True):
        for i, x in enumerate(own):
            group = [j for j in range(len(own)) if j // GROUP == i // GROUP and j != i]
            to_real = sum(apart(x, y) for y in others) / 5
            wanted[i] += 2 * to_real - (sum(apart(x, own[j]) for j in group) + 1e-4) / (GROUP - 1)
    assert statistics_loss(fakes, real).tolist() == pytest.approx(wanted, abs=1e-4)


def test_it_is_smallest_for_pictures_of_the_same_distribution():
    real = wanted_of(pictures("sharingan", 60, 1000))
    constant = sum(float(distances(some, some).sum()) for some in real.statistics) / (60 * 59)
    found = {
        name: float(statistics_loss(images, real).mean() - constant)
        for name, images in {
            "same": pictures("sharingan", 200),
            "one": pictures("sharingan", 1, 7).expand(200, -1, -1, -1),
            "other": pictures("jade", 200),
        }.items()
    }
    assert abs(found["same"]) < 0.02 < found["one"] < found["other"]


def test_descending_it_brings_colours_near():
    real = wanted_of(pictures("sharingan", 15))
    fakes = pictures("jade", 8).requires_grad_()
    before = statistics_loss(fakes, real).mean()
    before.backward()
    assert fakes.grad is not None and fakes.grad.isfinite().all()
    after = statistics_loss(fakes.detach() - 300 * fakes.grad, real).mean()
    assert after < before - 0.02
    same = torch.zeros(GROUP, 3, 32, 32, requires_grad=True)  # distances of 0 must not make gradients NaN
    statistics_loss(same, wanted_of(same.detach())).sum().backward()
    assert same.grad is not None and same.grad.isfinite().all()
