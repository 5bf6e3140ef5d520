"""Recipes come back from every kind of file, and nothing that strangers put into one does harm."""

import os
import struct
import threading
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sharingan_hub import read_recipe, write_animation, write_png, write_svg, write_video
from sharingan_hub.media.files import replacing

SQUARE = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">\n<rect width="9" height="9"/>\n</svg>\n'
FRAMES = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
WRITERS = {
    ".png": lambda path, recipe: write_png(FRAMES[0], path, recipe),
    ".mp4": lambda path, recipe: write_video(FRAMES, path, recipe=recipe),
    ".webp": lambda path, recipe: write_animation(FRAMES, path, recipe=recipe),
    ".gif": lambda path, recipe: write_animation(FRAMES, path, recipe=recipe),
    ".svg": lambda path, recipe: write_svg(SQUARE, path, recipe),
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("suffix", WRITERS)
@given(recipe=st.dictionaries(st.text(), json_values, max_size=4))
@settings(max_examples=20, deadline=None)
def test_a_recipe_comes_back_as_it_was(tmp_path_factory, suffix, recipe):
    path = tmp_path_factory.mktemp("recipe") / f"a{suffix}"
    WRITERS[suffix](path, recipe)
    assert read_recipe(path) == recipe
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_long_recipe_comes_back_and_its_file_may_have_any_name(tmp_path, suffix):
    recipe = {"seeds": list(range(5000)), "name": "<&>\"'\u0000\x1f眼🙂" * 50, "metadata": "]]></metadata>--"}
    WRITERS[suffix](tmp_path / f"a{suffix}", recipe)
    (tmp_path / f"a{suffix}").rename(tmp_path / "without ending")
    assert read_recipe(tmp_path / "without ending") == recipe


@pytest.mark.parametrize("suffix", WRITERS)
def test_no_recipe_is_none_and_an_empty_one_is_empty(tmp_path, suffix):
    WRITERS[suffix](tmp_path / f"a{suffix}", None)
    assert read_recipe(tmp_path / f"a{suffix}") is None
    WRITERS[suffix](tmp_path / f"a{suffix}", {})
    assert read_recipe(tmp_path / f"a{suffix}") == {}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("suffix", WRITERS)
def test_a_damaged_file_has_a_whole_recipe_or_none(tmp_path, suffix):
    WRITERS[suffix](tmp_path / f"whole{suffix}", {"seed": 7})
    content = (tmp_path / f"whole{suffix}").read_bytes()
    damaged = tmp_path / "damaged"
    step = max(1, len(content) // 60)
    for end in range(0, len(content), step):
        damaged.write_bytes(content[:end])
        assert read_recipe(damaged) in (None, {"seed": 7})
        damaged.write_bytes(content[:end] + b"\xff\x00" + content[end + 2 :])
        found = read_recipe(damaged)
        assert found is None or isinstance(found, dict)


def test_pictures_with_comments_of_others_have_no_recipe(tmp_path):
    for comment in ("made with love", '{"seed": 1}', "[1]", '{"sharingan": [1]}', '{"sharingan": null}', "[" * 100_000):
        FRAMES[0].save(tmp_path / "a.gif", comment=comment.encode())
        assert read_recipe(tmp_path / "a.gif") is None
        exif = Image.Exif()
        exif[0x010E] = comment
        FRAMES[0].save(tmp_path / "a.webp", exif=exif)
        assert read_recipe(tmp_path / "a.webp") is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"<svg",
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        b'<svg xmlns="http://www.w3.org/2000/svg"><metadata id="sharingan"/></svg>',
        b'<svg xmlns="http://www.w3.org/2000/svg"><metadata id="sharingan">[1]</metadata></svg>',
        b'<svg xmlns="http://www.w3.org/2000/svg"><metadata>{"seed": 1}</metadata></svg>',
        b'<svg><metadata id="sharingan">{"seed": 1}</metadata></svg>',
        b"<svg>" * 200_000,
        b"\xff\xfe<\x00s\x00v\x00g\x00",
        b"\x00\x00\x00\x18ftypmp42",
        b"RIFF\x00\x00\x00\x00WEBP",
        b"GIF89a",
        b"\x89PNG\r\n\x1a\n",
    ],
)
def test_what_is_no_file_of_ours_has_no_recipe(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    assert read_recipe(tmp_path / "a") is None


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_recipe(tmp_path / "a.svg")


def test_entities_are_not_expanded(tmp_path):
    laughs = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 30))
    text = f'<!DOCTYPE svg [<!ENTITY a0 "ha">{laughs}<!ENTITY file SYSTEM "file:///etc/hostname">]>'
    for entity in ("a29", "file", "a1"):
        metadata = f'<metadata id="sharingan">{{"seed": "&{entity};"}}</metadata>'
        (tmp_path / "a.svg").write_text(f'{text}<svg xmlns="http://www.w3.org/2000/svg">{metadata}</svg>')
        assert read_recipe(tmp_path / "a.svg") is None


def test_a_text_chunk_that_grows_without_end_is_not_read(tmp_path):
    """64 MB of zeros in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    text = chunk(b"zTXt", b"sharingan\0\0" + zlib.compress(bytes(2**26)))
    end = chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + text + end)
    assert read_recipe(tmp_path / "a.png") is None


def test_one_path_can_be_written_by_many_at_once(tmp_path):
    """Each whole: the last one stays."""
    contents = [bytes([i]) * 100_000 for i in range(8)]
    ready = threading.Barrier(len(contents))

    def write(content: bytes) -> None:
        with replacing(tmp_path / "a") as temporary:
            ready.wait(10)
            temporary.write_bytes(content)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_bytes() in contents and os.listdir(tmp_path) == ["a"]


def test_a_folder_cannot_be_replaced_and_nothing_is_left(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError), replacing(tmp_path / "a") as temporary:
        temporary.write_text("new")
    assert os.listdir(tmp_path) == ["a"]
