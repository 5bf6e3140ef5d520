"""One picture of every kind, decoded: against colours and positions known beforehand."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.nasty_files import encoded
from training.data import decode


def in_a_file(image: Image.Image, kind: str = "PNG", **settings) -> io.BytesIO:
    return io.BytesIO(encoded(image, kind, **settings))


# colour mode and file format, the value stored, the RGB it shows over white
P_TRANSPARENT = "palette with a transparent entry"
MODES = [
    ("1", "PNG", 1, (255, 255, 255)),
    ("1", "PNG", 0, (0, 0, 0)),
    ("L", "PNG", 77, (77, 77, 77)),
    ("L", "BMP", 77, (77, 77, 77)),
    ("LA", "PNG", (100, 255), (100, 100, 100)),
    ("LA", "PNG", (100, 0), (255, 255, 255)),
    ("LA", "PNG", (0, 51), (204, 204, 204)),
    ("RGB", "PNG", (1, 2, 3), (1, 2, 3)),
    ("RGB", "PPM", (1, 2, 3), (1, 2, 3)),
    ("RGB", "TIFF", (1, 2, 3), (1, 2, 3)),
    ("RGB", "GIF", (1, 2, 3), (1, 2, 3)),
    ("RGBA", "PNG", (200, 100, 0, 255), (200, 100, 0)),
    ("RGBA", "PNG", (200, 100, 0, 0), (255, 255, 255)),
    ("RGBA", "PNG", (200, 100, 0, 51), (244, 224, 204)),
    ("RGBA", "TIFF", (200, 100, 0, 51), (244, 224, 204)),
    ("CMYK", "TIFF", (0, 0, 0, 0), (255, 255, 255)),
    ("CMYK", "TIFF", (255, 0, 0, 0), (0, 255, 255)),
    ("CMYK", "TIFF", (0, 0, 0, 255), (0, 0, 0)),
    ("CMYK", "TIFF", (0, 127, 255, 0), (255, 128, 0)),
    ("CMYK", "JPEG", (255, 0, 0, 0), (0, 255, 255)),
    ("I;16", "PNG", 65535, (255, 255, 255)),
    ("I;16", "PNG", 257 * 100, (100, 100, 100)),
    ("I;16", "PNG", 300, (1, 1, 1)),
    ("I;16", "TIFF", 257 * 100, (100, 100, 100)),
    ("I;16B", "TIFF", 257 * 100, (100, 100, 100)),
    ("I", "PPM", 257 * 100, (100, 100, 100)),
    ("I", "TIFF", 257 * 100, (100, 100, 100)),
    ("F", "TIFF", 0.5, (128, 128, 128)),
    ("F", "TIFF", 100.0, (100, 100, 100)),
]


@pytest.mark.parametrize(("mode", "format", "value", "shown"), MODES)
def test_every_colour_mode_shows_its_colour(mode, format, value, shown):
    file = in_a_file(Image.new(mode, (7, 5), value), format)
    pixels = decode(file, 3)
    assert pixels.dtype == np.uint8 and pixels.shape == (3, 3, 3)
    assert np.abs(pixels.astype(int) - shown).max() <= (3 if format == "JPEG" else 0)


def test_the_modes_above_are_read_back_as_such():
    """Else the table would not test what it says."""
    for mode, format, value, _ in MODES:
        read = Image.open(in_a_file(Image.new(mode, (7, 5), value), format)).mode
        assert read == mode or (mode, format, read) in {
            ("RGB", "GIF", "P"),
            ("L", "BMP", "P"),
            ("I", "PPM", "I;16"),
        }, (mode, format, read)


@pytest.mark.parametrize("format", ["PNG", "GIF", "WEBP"])
def test_transparent_palette_entries_show_white(format):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([250, 0, 0, 0, 0, 250])
    image.paste(0, (0, 0, 4, 2))
    image.info["transparency"] = 0
    options = {"transparency": 0} if format != "WEBP" else {"lossless": True}
    pixels = decode(in_a_file(image if format != "WEBP" else image.convert("RGBA"), format, **options), 4)
    assert (pixels[:2] == 255).all() and (pixels[2:] == (0, 0, 250)).all()


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_transparent_colour_shows_white(mode):
    colour = (9, 9, 9) if mode == "RGB" else 9
    image = Image.new(mode, (4, 4), colour)
    image.paste(0, (2, 0, 4, 4))
    pixels = decode(in_a_file(image, transparency=colour), 4)
    assert (pixels[:, :2] == 255).all() and (pixels[:, 2:] == 0).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_pictures_are_turned_as_exif_says(orientation, mode):
    """Rows and columns of the stored picture as EXIF 2.3, table "Orientation", names their sides."""
    upright = np.array([[10, 60], [110, 160]])
    # what has to be stored so that a viewer that obeys the tag shows `upright`
    stored = {
        1: upright,
        2: upright[:, ::-1],  # row 0 is the top, column 0 the right side
        3: upright[::-1, ::-1],  # bottom, right
        4: upright[::-1],  # bottom, left
        5: upright.T,  # left, top
        6: np.rot90(upright, 1),  # right, top
        7: upright[::-1, ::-1].T,  # right, bottom
        8: np.rot90(upright, -1),  # left, bottom
    }[orientation]
    if mode == "RGB":
        image = Image.fromarray(stored.astype(np.uint8)).convert("RGB")
    else:
        image = Image.fromarray((stored * 257).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert (decode(in_a_file(image, exif=exif), 2)[..., 0] == upright).all()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_broken_exif_block_does_not_cost_the_picture():
    file = in_a_file(Image.new("RGB", (4, 4), (1, 2, 3)), exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert (decode(file, 4) == (1, 2, 3)).all()


@given(width=st.integers(1, 40), height=st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_the_crop_is_the_centre_square(width, height):
    """At the crop's own size nothing is resampled: each pixel tells where it came from."""
    grid = np.zeros((height, width, 3), np.uint8)
    grid[..., 0] = np.arange(width)
    grid[..., 1] = np.arange(height)[:, None]
    side = min(width, height)
    pixels = decode(in_a_file(Image.fromarray(grid)), side)
    assert (pixels[0, :, 0] == np.arange(side) + (width - side) // 2).all()
    assert (pixels[:, 0, 1] == np.arange(side) + (height - side) // 2).all()


@given(
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]),
    width=st.integers(1, 50),
    height=st.integers(1, 50),
    resolution=st.integers(1, 33),
    value=st.integers(0, 255),
)
@settings(max_examples=60, deadline=None)
def test_one_colour_stays_one_colour_at_any_size(mode, width, height, resolution, value):
    shown = 255 * (value > 127) if mode == "1" else value
    stored = {"LA": (value, 255), "RGB": (value,) * 3, "RGBA": (value,) * 3 + (255,), "1": shown, "I;16": value * 257}
    image = Image.new(mode, (width, height), stored.get(mode, value))
    if mode == "P":
        image.putpalette([level for level in range(256) for _ in range(3)])
    assert (decode(in_a_file(image), resolution) == shown).all()


def test_resizing_is_lanczos():
    noise = np.random.RandomState(0).randint(0, 256, (32, 32, 3)).astype(np.uint8)
    expected = Image.fromarray(noise).resize((8, 8), Image.Resampling.LANCZOS)
    assert (decode(in_a_file(Image.fromarray(noise)), 8) == np.asarray(expected)).all()
