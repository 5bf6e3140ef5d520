"""Films and moving pictures: what was put in comes out again, whole or not at all, and memory does not grow."""

import errno
import itertools
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sharingan_hub import read_recipe, write_animation, write_video

WRITERS = {".mp4": write_video, ".webp": write_animation, ".gif": write_animation}
COLORS = [(200, 16, 30), (0, 0, 0), (255, 255, 255), (20, 90, 220), (250, 200, 10), (90, 20, 120), (128, 128, 128)]


def plain(count: int, size: tuple[int, int]) -> list[Image.Image]:
    """Frames of one colour each, no two in a row the same."""
    return [Image.new("RGB", size, color) for color in itertools.islice(itertools.cycle(COLORS), count)]


def noise(count: int, size: tuple[int, int] = (64, 48)) -> Iterator[Image.Image]:
    draw = np.random.RandomState(0)
    for _ in range(count):
        yield Image.fromarray(draw.randint(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def decoded(path: Path) -> tuple[av.VideoStream, list[np.ndarray], list[Fraction]]:
    """A film's stream, its frames (H, W, 3) and the seconds at which they are shown."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        frames = [
            (frame.to_ndarray(format="rgb24"), frame.pts * stream.time_base) for frame in container.decode(stream)
        ]
        return stream, [pixels for pixels, _ in frames], [time for _, time in frames]


@given(
    count=st.integers(1, 9),
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    fps=st.sampled_from([1, 12, 24, 30, 29.97, 30000 / 1001, 0.5, 240]),
)
@settings(max_examples=25, deadline=None)
def test_a_film_has_the_frames_in_their_colours_at_their_times(tmp_path_factory, count, width, height, fps):
    path = tmp_path_factory.mktemp("film") / "a.mp4"
    write_video(iter(plain(count, (width, height))), path, fps)
    stream, frames, times = decoded(path)
    even = (width + width % 2, height + height % 2)
    assert (stream.codec_context.width, stream.codec_context.height) == even
    assert len(frames) == stream.frames == count
    assert [float(time * Fraction(fps)) for time in times] == pytest.approx(range(count), abs=1e-3)
    for pixels, color in zip(frames, itertools.cycle(COLORS)):
        assert np.abs(pixels.astype(int) - color).max() <= 6
    assert os.listdir(path.parent) == ["a.mp4"]


def test_a_film_plays_in_browsers_and_starts_at_once(tmp_path):
    write_video(noise(10), tmp_path / "a.mp4", 25)
    stream, _, _ = decoded(tmp_path / "a.mp4")
    context = stream.codec_context
    assert (context.name, context.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 25)
    # BT.709 with levels 16 to 235: or else players guess.
    assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
    content = (tmp_path / "a.mp4").read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")


def test_an_odd_side_gets_its_last_row_or_column_again(tmp_path):
    image = Image.new("RGB", (33, 21), "black")
    image.paste("red", (32, 0, 33, 21))
    image.paste("blue", (0, 20, 33, 21))
    write_video([image] * 3, tmp_path / "a.mp4")
    _, (frame, *_), _ = decoded(tmp_path / "a.mp4")
    assert frame.shape == (22, 34, 3)
    assert frame[:18, 33, 0].min() > 200 and frame[21, :30, 2].min() > 200


def test_pictures_look_the_same_in_a_film(tmp_path):
    """A disc on a ground, as emblems are: sharp edges, gradients and pure red."""
    y, x = np.mgrid[:128, :128] - 63.5
    radius = np.hypot(x, y)
    pixels = np.where(radius[..., None] < 50, (230 - radius[..., None]) * [1, 0.05, 0.1], 245).astype(np.uint8)
    pixels[radius < 12] = 8
    write_video([Image.fromarray(pixels)] * 5, tmp_path / "a.mp4")
    write_animation([Image.fromarray(pixels), *noise(1, (128, 128))], tmp_path / "a.webp")
    write_animation([Image.fromarray(pixels), *noise(1, (128, 128))], tmp_path / "a.gif")
    found = {"mp4": decoded(tmp_path / "a.mp4")[1][2]}
    for name in ("webp", "gif"):
        with Image.open(tmp_path / f"a.{name}") as image:
            found[name] = np.asarray(image.convert("RGB"))
    for name, back in found.items():
        assert np.abs(back.astype(int) - pixels).mean() < 3, name


@given(
    suffix=st.sampled_from([".webp", ".gif"]),
    count=st.integers(2, 7),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    fps=st.sampled_from([1, 12, 24, 30, 29.97, 50]),
    loop=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_a_moving_picture_has_the_frames_in_their_colours_for_their_time(
    tmp_path_factory, suffix, count, width, height, fps, loop
):
    path = tmp_path_factory.mktemp("moving") / f"a{suffix}"
    write_animation(iter(plain(count, (width, height))), path, fps, loop)
    ends = []
    with Image.open(path) as image:
        assert image.size == (width, height) and image.n_frames == count
        assert image.info.get("loop") == (0 if loop else {".webp": 1, ".gif": None}[suffix])
        for i in range(count):
            image.seek(i)
            pixels = np.asarray(image.convert("RGB")).astype(int)
            assert np.abs(pixels - COLORS[i % len(COLORS)]).max() <= 4
            ends.append(image.info["duration"] + (ends[-1] if ends else 0))
    unit = {".webp": 1, ".gif": 10}[suffix]
    assert ends == [pytest.approx(1000 * (i + 1) / fps, abs=0.5 * unit + 0.01) for i in range(count)]
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("suffix", WRITERS)
def test_one_frame_is_enough(tmp_path, suffix):
    WRITERS[suffix](plain(1, (16, 16)), tmp_path / f"a{suffix}", recipe={"seed": 3})
    assert read_recipe(tmp_path / f"a{suffix}") == {"seed": 3}


def test_frames_that_are_the_same_make_one_longer(tmp_path):
    frames = [*plain(1, (8, 8)) * 10, Image.new("RGB", (8, 8), "blue")]
    for suffix in (".webp", ".gif"):
        write_animation(frames, tmp_path / f"a{suffix}", fps=10)
        with Image.open(tmp_path / f"a{suffix}") as image:
            assert image.n_frames == 2
            image.load()
            assert image.info["duration"] == 1000


@pytest.mark.parametrize("suffix", WRITERS)
def test_transparent_and_grey_frames_are_shown_on_white(tmp_path, suffix):
    frames = [Image.new("RGBA", (16, 16), (255, 0, 0, 51)), Image.new("L", (16, 16), 77), Image.new("P", (16, 16))]
    WRITERS[suffix](frames, tmp_path / f"a{suffix}")
    if suffix == ".mp4":
        first, second = (frame[8, 8] for frame in decoded(tmp_path / "a.mp4")[1][:2])
    else:
        with Image.open(tmp_path / f"a{suffix}") as image:
            first = image.convert("RGB").getpixel((8, 8))
            image.seek(1)
            second = image.convert("RGB").getpixel((8, 8))
    assert np.abs(np.subtract(first, (255, 204, 204), dtype=int)).max() <= 5
    assert np.abs(np.subtract(second, (77, 77, 77), dtype=int)).max() <= 5


class Stopped(Exception):
    pass


@pytest.mark.parametrize("error", [Stopped, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("after", [0, 1, 60])
@pytest.mark.parametrize("suffix", WRITERS)
def test_frames_that_break_off_leave_the_old_file_and_nothing_else(tmp_path, suffix, error, after):
    path = tmp_path / f"a{suffix}"
    WRITERS[suffix](plain(3, (16, 16)), path, recipe={"seed": 1})
    before = path.read_bytes()

    def broken() -> Iterator[Image.Image]:
        yield from noise(after)
        raise error

    with pytest.raises(error):
        WRITERS[suffix](broken(), path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]
    path.unlink()
    with pytest.raises(error):
        WRITERS[suffix](broken(), path)
    assert os.listdir(tmp_path) == []


@pytest.fixture
def little_room() -> Iterator[None]:
    """No file may grow beyond 20,000 bytes, as on a disk that is nearly full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_disk_that_is_full_leaves_nothing(tmp_path, little_room, suffix):
    with pytest.raises(OSError) as error:
        WRITERS[suffix](noise(20, (128, 128)), tmp_path / f"a{suffix}")
    assert error.value.errno == errno.EFBIG
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_folder_that_is_missing_is_an_error(tmp_path, suffix):
    with pytest.raises(FileNotFoundError):
        WRITERS[suffix](plain(2, (16, 16)), tmp_path / "missing" / f"a{suffix}")


def test_the_old_film_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    write_video(plain(2, (16, 16)), path, recipe={"seed": 1})
    seen = []
    replace = os.replace

    def watched(source, target):
        seen.append((len(decoded(source)[1]), read_recipe(source), read_recipe(target)))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    write_video(plain(7, (16, 16)), path, recipe={"seed": 2})
    assert seen == [(7, {"seed": 2}, {"seed": 1})]


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize(
    ("frames", "options", "error", "named"),
    [
        ([], {}, ValueError, "at least one picture"),
        ([Image.new("RGB", (4, 4)), Image.new("RGB", (4, 6))], {}, ValueError, r"\(4, 4\) and \(4, 6\)"),
        ([np.zeros((4, 4, 3))], {}, TypeError, "ndarray"),
        ([Image.new("RGB", (4, 4))], {"fps": 0}, ValueError, "fps is 0"),
        ([Image.new("RGB", (4, 4))], {"fps": float("nan")}, ValueError, "fps is nan"),
        ([Image.new("RGB", (4, 4))], {"fps": 241}, ValueError, "fps is 241"),
        ([Image.new("RGB", (4, 4))], {"fps": "30"}, ValueError, "fps is '30'"),
        ([Image.new("RGB", (4, 4))], {"recipe": {"psi": float("inf")}}, ValueError, "JSON"),
        ([Image.new("RGB", (4, 4))], {"recipe": {"image": object()}}, TypeError, "JSON"),
    ],
)
def test_wrong_input_is_refused_and_nothing_written(tmp_path, suffix, frames, options, error, named):
    with pytest.raises(error, match=named):
        WRITERS[suffix](frames, tmp_path / f"a{suffix}", **options)
    assert os.listdir(tmp_path) == []


def test_other_endings_and_a_gif_too_fast_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'.png'; it must end in .webp or .gif"):
        write_animation(plain(2, (4, 4)), tmp_path / "a.png")
    with pytest.raises(ValueError, match="fps is 60; it must be from 0.1 to 50"):
        write_animation(plain(2, (4, 4)), tmp_path / "a.gif", fps=60)


PEAK = """
import sys
from PIL import Image
from sharingan_hub.media.video import write_animation, write_video

def frames(count):
    for i in range(count):
        image = Image.linear_gradient("L").resize((400, 400)).convert("RGB")
        image.paste((i % 256, 0, 255), (i, i, i + 40, i + 40))
        yield image

path, count = sys.argv[1], int(sys.argv[2])
(write_video if path.endswith(".mp4") else write_animation)(frames(count), path)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("suffix", "bytes_per_pixel"), [(".mp4", 0.3), (".webp", 0.3), (".gif", 1.3)])
def test_memory_is_what_is_promised(tmp_path, suffix, bytes_per_pixel):
    """120 frames more, of 160,000 pixels each; as pictures they would take 3 bytes a pixel."""
    few, many = (
        int(
            subprocess.run(
                [sys.executable, "-c", PEAK, tmp_path / f"a{suffix}", count], check=True, capture_output=True
            ).stdout
        )
        for count in ("80", "200")
    )
    assert (many - few) * 1024 < bytes_per_pixel * 120 * 160_000
