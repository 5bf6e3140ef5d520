import errno
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sharingan_hub.media import image_grid, read_recipe, write_png


def noise(mode: str, width: int, height: int, seed: int = 0) -> Image.Image:
    shape = {"L": (height, width), "RGB": (height, width, 3), "RGBA": (height, width, 4)}[mode]
    return Image.fromarray(np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    recipe=st.dictionaries(st.text(), json_values, max_size=4),
    mode=st.sampled_from(["L", "RGB", "RGBA"]),
    width=st.integers(1, 20),
    height=st.integers(1, 20),
)
@settings(max_examples=60, deadline=None)
def test_picture_and_recipe_come_back_as_they_were(tmp_path_factory, recipe, mode, width, height):
    path = tmp_path_factory.mktemp("png") / "a.png"
    image = noise(mode, width, height)
    write_png(image, path, recipe)
    assert read_recipe(path) == recipe
    with Image.open(path) as back:
        assert back.format == "PNG" and back.mode == mode
        assert (np.asarray(back) == np.asarray(image)).all()
    assert os.listdir(path.parent) == ["a.png"]


def test_no_recipe_is_none(tmp_path):
    write_png(noise("RGB", 4, 4), tmp_path / "a.png")
    assert read_recipe(tmp_path / "a.png") is None


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", "null", "[" * 100_000])
def test_text_that_is_no_recipe_is_none(tmp_path, text):
    info = PngInfo()
    info.add_text("sharingan", text)
    noise("RGB", 4, 4).save(tmp_path / "a.png", pnginfo=info)
    assert read_recipe(tmp_path / "a.png") is None


def test_files_that_are_no_png_have_no_recipe(tmp_path):
    write_png(noise("RGB", 64, 64), tmp_path / "whole.png", {"seed": 1})
    content = (tmp_path / "whole.png").read_bytes()
    for name, damaged in {"empty": b"", "header": content[:30], "text": b"hello", "jpeg": b"\xff\xd8\xff\xe0"}.items():
        (tmp_path / name).write_bytes(damaged)
        assert read_recipe(tmp_path / name) is None, name
    with pytest.raises(FileNotFoundError):
        read_recipe(tmp_path / "missing.png")


@pytest.mark.parametrize("recipe", [{"psi": float("nan")}, {"image": object()}])
def test_what_json_cannot_hold_is_refused_before_anything_is_written(tmp_path, recipe):
    with pytest.raises((ValueError, TypeError)):
        write_png(noise("RGB", 4, 4), tmp_path / "a.png", recipe)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_midway_leaves_the_old_file(tmp_path, monkeypatch, error):
    path = tmp_path / "a.png"
    write_png(noise("RGB", 8, 8), path, {"seed": 1})
    before = path.read_bytes()

    def fail_midway(self, file, *args, **options):
        file.write(b"\x89PNG half a pict")
        raise error

    monkeypatch.setattr(Image.Image, "save", fail_midway)
    with pytest.raises(type(error)):
        write_png(noise("RGB", 8, 8, seed=1), path, {"seed": 2})
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.png"]


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_png(noise("RGB", 8, 8), path, {"seed": 1})
    seen = []
    replace = os.replace

    def watched(source, target):
        seen.append((read_recipe(source), read_recipe(target), Path(source).parent))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    write_png(noise("RGB", 8, 8), path, {"seed": 2})
    assert seen == [({"seed": 2}, {"seed": 1}, tmp_path)] and read_recipe(path) == {"seed": 2}


def test_files_get_the_permissions_the_user_gives_to_new_files(tmp_path):
    mask = os.umask(0o022)
    try:
        write_png(noise("RGB", 4, 4), tmp_path / "a.png")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == 0o644


@given(
    count=st.integers(1, 12),
    columns=st.integers(1, 15),
    gap=st.integers(0, 5),
    width=st.integers(1, 9),
    height=st.integers(1, 9),
)
@settings(max_examples=60, deadline=None)
def test_each_picture_stands_in_its_cell(count, columns, gap, width, height):
    images = [noise("RGB", width, height, seed) for seed in range(count)]
    grid = np.asarray(image_grid(images, columns, gap, (1, 2, 3)))
    columns = min(columns, count)
    rows = -(-count // columns)
    assert grid.shape == (rows * height + (rows - 1) * gap, columns * width + (columns - 1) * gap, 3)
    rest = np.ones(grid.shape[:2], bool)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        cell = np.s_[top : top + height, left : left + width]
        assert (grid[cell] == np.asarray(image)).all()
        rest[cell] = False
    assert (grid[rest] == (1, 2, 3)).all()


def test_a_grid_is_square_unless_told_otherwise():
    image = Image.new("RGB", (3, 2))
    assert [image_grid([image] * n).size for n in (1, 4, 5, 9)] == [(3, 2), (6, 4), (9, 4), (9, 6)]


def test_transparent_pictures_show_the_background():
    clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    half = Image.new("RGBA", (2, 2), (255, 0, 0, 51))
    grey = Image.new("L", (2, 2), 7)
    grid = image_grid([clear, half, grey], columns=3, background="blue")
    assert [grid.getpixel((x, 0)) for x in (0, 2, 4)] == [(0, 0, 255), (51, 0, 204), (7, 7, 7)]


@pytest.mark.parametrize(
    ("images", "options", "named"),
    [
        ([], {}, "images"),
        ([Image.new("RGB", (2, 2)), Image.new("RGB", (2, 3))], {}, "2 x 2 and 2 x 3"),
        ([Image.new("RGB", (2, 2))], {"columns": 0}, "columns"),
        ([Image.new("RGB", (2, 2))], {"gap": -1}, "gap"),
        ([Image.new("RGB", (2, 2))], {"background": "no colour"}, "no colour"),
    ],
)
def test_bad_grids_are_refused_by_name(images, options, named):
    with pytest.raises(ValueError, match=named):
        image_grid(images, **options)
