"""The augmentation chain: what each transform does, how often, and that it can be sliced and differentiated."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.augment import CUTOUT_SIDE, TRANSFORMS, Augmentation, adapt_probability, draw

IDENTITY = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(count=8, side=16, seed=0):
    return torch.rand(count, 3, side, side, generator=seeded(seed)) * 2 - 1


def only_warp(warp):
    """An augmentation that does nothing but this warp (2,3)."""
    none = torch.zeros(1, dtype=torch.bool)
    return Augmentation(warp[None], ~none, torch.zeros(1, 3, 4), none, torch.full((1, 2), math.nan))


def test_probability_zero_changes_no_bit():
    images = pictures()
    assert draw(8, TRANSFORMS, 0.0, seeded())(images) is images


def test_no_transforms_change_no_bit():
    images = pictures()
    assert draw(8, [], 1.0, seeded())(images) is images


@given(probability=st.floats(0.05, 0.95), seed=st.integers(0, 2**20))
@settings(max_examples=20, deadline=None)
def test_pictures_not_chosen_keep_every_bit(probability, seed):
    images = pictures()
    change = draw(8, TRANSFORMS, probability, seeded(seed))
    untouched = ~change.warped & ~change.colored & change.cutout[:, 0].isnan()
    assert torch.equal(change(images)[untouched], images[untouched])


@given(start=st.integers(0, 7), length=st.integers(1, 8), probability=st.sampled_from([0.3, 1.0]))
@settings(max_examples=20, deadline=None)
def test_a_slice_of_the_batch_changes_alike(start, length, probability):
    """What makes two processes equal to one."""
    images, part = pictures(), slice(start, start + length)
    change = draw(8, TRANSFORMS, probability, seeded())
    torch.testing.assert_close(change[part](images[part]), change(images)[part], rtol=0, atol=1e-6)


def test_the_same_numbers_are_drawn_whatever_is_chosen():
    alone, all_of_them = draw(8, ["rotation"], 1.0, seeded()), draw(8, ["rotation", "color", "cutout"], 1.0, seeded())
    assert torch.equal(alone.warp, all_of_them.warp)


def test_each_transform_is_as_frequent_as_asked():
    change = draw(20_000, ["rotation", "color", "cutout"], 0.3, seeded())
    for chosen in (change.warped, change.colored, ~change.cutout[:, 0].isnan()):
        assert abs(chosen.float().mean() - 0.3) < 0.015  # more than 4 standard deviations
    together = (change.warped & change.colored).float().mean()
    assert abs(together - 0.09) < 0.01  # independently of one another


def test_warp_by_whole_pixels_is_exact():
    image = pictures(1)
    warp = IDENTITY.clone()
    warp[0, 2] = 2 * 3 / 16  # the output reads 3 pixels to the right
    shifted = only_warp(warp)(image)
    torch.testing.assert_close(shifted[..., :-3], image[..., 3:], rtol=0, atol=1e-5)
    torch.testing.assert_close(shifted[..., -3:], image[..., -1:].expand(-1, -1, -1, 3), rtol=0, atol=1e-5)  # border


def test_warp_by_a_quarter_turn_is_rot90():
    image = pictures(1)
    warp = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(only_warp(warp)(image), image.rot90(1, (2, 3)), rtol=0, atol=1e-5)


def test_linear_parts_are_what_their_names_say():
    eye = torch.eye(2).expand(500, 2, 2)
    rotation = draw(500, ["rotation"], 1.0, seeded()).warp
    linear = rotation[:, :, :2]
    torch.testing.assert_close(linear @ linear.mT, eye)
    torch.testing.assert_close(torch.linalg.det(linear), torch.ones(500))
    assert not rotation[:, :, 2].any()
    angle = torch.atan2(linear[:, 1, 0], linear[:, 0, 0])
    counts = torch.histc(angle, 8, -math.pi, math.pi)
    assert counts.min() > 30  # all the way round

    scale = draw(500, ["scale"], 1.0, seeded()).warp
    factor = scale[:, 0, 0]
    torch.testing.assert_close(scale[:, :, :2], eye * factor[:, None, None])
    assert abs(factor.log2().mean()) < 0.04 and abs(factor.log2().std() - 0.2) < 0.03

    shift = draw(500, ["shift"], 1.0, seeded()).warp
    assert torch.equal(shift[:, :, :2], eye)
    assert 0.24 < shift[:, :, 2].abs().max() <= 0.25  # 1/8 of the side, which is 2 long here

    flip = draw(500, ["flip"], 1.0, seeded())
    assert 200 < flip.warped.sum() < 300
    images = pictures(500, 8)
    torch.testing.assert_close(flip(images)[flip.warped], images[flip.warped].flip(3), rtol=0, atol=1e-5)


def test_scaling_up_reads_a_smaller_part():
    change = draw(200, ["scale"], 1.0, seeded())
    side = 32
    axis = (torch.arange(side) + 0.5) / side * 2 - 1
    cone = torch.hypot(axis[None, :], axis[:, None]).expand(200, 3, side, side)
    expected = cone * change.warp[:, 0, 0][:, None, None, None]
    inside = expected[:, 0] < 0.8
    inside &= cone[:, 0] > 0.1
    error = (change(cone) - expected).abs().amax(dim=1)
    assert error[inside].max() < 0.02


def test_cutout_is_a_grey_square_of_its_size():
    side = 50
    change = draw(200, ["cutout"], 1.0, seeded())
    holes = (change(torch.ones(200, 3, side, side)) == 0).all(dim=1)
    center = change.cutout
    inner = ((center > CUTOUT_SIDE / 2) & (center < 1 - CUTOUT_SIDE / 2)).all(dim=1)
    assert inner.sum() > 20
    area = holes[inner].float().mean(dim=(1, 2))
    assert (area.sqrt() - CUTOUT_SIDE).abs().max() < 1.5 / side
    columns = (holes.any(dim=1).float() * (torch.arange(side) + 0.5)).sum(1) / holes.any(dim=1).sum(1) / side
    torch.testing.assert_close(columns[inner], center[inner, 0], rtol=0, atol=1 / side)


def test_colour_keeps_grey_grey_and_hue_turns_about_it():
    change = draw(64, ["color"], 1.0, seeded())
    grey = change(torch.full((64, 3, 2, 2), 0.3))
    torch.testing.assert_close(grey, grey.mean(dim=1, keepdim=True).expand_as(grey))
    linear = change.color[:, :, :3]
    ones = torch.ones(64, 3, 1)
    contrast = (linear @ ones)[:, :1]
    torch.testing.assert_close(linear @ ones, contrast.expand(-1, 3, 1))
    # Off the grey axis it is a rotation times saturation: two equal singular values.
    off = torch.linalg.svdvals(linear - contrast / 3)[:, :2]
    torch.testing.assert_close(off[:, 0], off[:, 1], rtol=1e-3, atol=1e-4)


def test_gradients_pass_to_the_pictures():
    images = pictures(2, 6).double().requires_grad_()
    change = draw(2, TRANSFORMS, 1.0, seeded(3))
    assert torch.autograd.gradcheck(change, (images,))


def test_unknown_transform_is_named():
    with pytest.raises(ValueError, match="blur"):
        draw(2, ["blur"], 1.0, seeded())
    with pytest.raises(ValueError, match="1.5"):
        draw(2, [], 1.5, seeded())


@given(batch=st.sampled_from([4, 16, 64]), kimg=st.sampled_from([1.0, 100.0, 500.0]))
def test_ada_takes_ada_kimg_thousand_pictures_from_never_to_always(batch, kimg):
    probability, seen = 0.0, 0
    while probability < 1:
        probability = adapt_probability(probability, 0.9, 0.6, batch, kimg)
        seen += 4 * batch
    assert kimg * 1000 - 1 <= seen <= kimg * 1000 + 8 * batch


def test_ada_follows_the_sign_and_stays_in_bounds():
    step = 16 * 4 / 100_000
    assert adapt_probability(0.5, 0.7, 0.6, 16, 100) == pytest.approx(0.5 + step)
    assert adapt_probability(0.5, 0.5, 0.6, 16, 100) == pytest.approx(0.5 - step)
    assert adapt_probability(0.5, 0.6, 0.6, 16, 100) == 0.5
    assert adapt_probability(0.0, -1.0, 0.6, 16, 100) == 0.0
    assert adapt_probability(1.0, 1.0, 0.6, 16, 100) == 1.0
