import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from sharingan_hub.postprocess.polar import check_images, to_polar


@given(
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    count=st.integers(0, 3),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
@settings(max_examples=30, deadline=None)
def test_pictures_of_any_size_and_dtype_are_taken(channels, height, width, count, dtype):
    check_images(torch.rand(count, channels, height, width).to(dtype))


@pytest.mark.parametrize("values", [[-1e-3, 1 + 1e-3], [0, 1]])
def test_rounding_is_forgiven(values):
    check_images(torch.tensor(values, dtype=torch.float64).view(1, 1, 1, 2))


@pytest.mark.parametrize(
    ("images", "error", "said"),
    [
        (np.zeros((1, 3, 4, 4)), TypeError, "a ndarray"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), TypeError, "torch.uint8"),
        (torch.zeros(3, 4, 4), ValueError, r"\(3, 4, 4\)"),
        (torch.zeros(1, 4, 4, 4), ValueError, r"\(1, 4, 4, 4\)"),
        (torch.zeros(1, 3, 0, 4), ValueError, r"\(1, 3, 0, 4\)"),
        (torch.full((1, 3, 4, 4), math.nan), ValueError, "NaN"),
        (torch.full((1, 3, 4, 4), math.inf), ValueError, "infinite"),
        (torch.full((1, 3, 4, 4), 255.0), ValueError, "255"),
        (torch.full((1, 3, 4, 4), -0.01), ValueError, "-0.01"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(images, error, said):
    with pytest.raises(error, match=f"painting .*{said}"):
        check_images(images, "painting")


@pytest.mark.parametrize(("mode", "order"), [("bilinear", 1)])
def test_samples_agree_with_scipy(mode, order):
    picture = torch.rand(2, 3, 20, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    radii, angles = torch.linspace(0, 8, 9), torch.linspace(-3, 3, 25)
    center = torch.tensor([[15.0, 10.0], [13.5, 9.2]], dtype=torch.float64)
    got = to_polar(picture, radii, angles, center, mode)
    for i in range(2):
        x = center[i, 0].item() + radii.numpy()[:, None] * np.cos(angles.numpy()) - 0.5
        y = center[i, 1].item() - radii.numpy()[:, None] * np.sin(angles.numpy()) - 0.5
        for c in range(3):
            wanted = map_coordinates(picture[i, c].numpy(), [y, x], order=order, mode="nearest")
            np.testing.assert_allclose(got[i, c].numpy(), wanted, atol=1e-6)


def test_angles_go_counter_clockwise_from_the_right():
    picture = torch.zeros(1, 1, 9, 9)
    picture[0, 0, 0, 4] = 1  # above the middle
    at = to_polar(picture, torch.tensor([4.0]), torch.arange(4) * (math.pi / 2))
    assert at.flatten().round().tolist() == [0, 1, 0, 0]


def test_outside_is_the_nearest_edge():
    picture = torch.rand(1, 1, 5, 5)
    assert to_polar(picture, torch.tensor([50.0]), torch.tensor([0.0])).item() == pytest.approx(
        picture[0, 0, 2, 4].item()
    )


def test_gradients_are_those_of_finite_differences():
    generator = torch.Generator().manual_seed(1)
    picture = torch.rand(1, 1, 6, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    center = torch.tensor([[3.1, 2.8]], dtype=torch.float64, requires_grad=True)
    radii = torch.tensor([0.7, 1.9], dtype=torch.float64)
    angles = torch.tensor([0.1, 2.0, 4.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda p, c: to_polar(p, radii, angles, c, "bicubic"), (picture, center))


def test_half_precision_comes_back_as_it_went_in():
    picture = torch.rand(1, 3, 8, 8)
    got = to_polar(picture.half(), torch.arange(3.0), torch.arange(4.0))
    assert got.dtype == torch.float16
    torch.testing.assert_close(got.float(), to_polar(picture, torch.arange(3.0), torch.arange(4.0)), atol=2e-3, rtol=0)
