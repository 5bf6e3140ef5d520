"""Frames as a film (MP4) or a moving picture (WebP, GIF)."""

from __future__ import annotations

import itertools
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from sharingan_hub.media.files import DESCRIPTION, replacing, to_comment

SLOWEST, FASTEST = 0.1, 240.0  # frames per second
FASTEST_GIF = 50.0  # browsers slow down what shows a frame for less than 20 ms
CRF = 16  # quality of H.264: 0 is lossless, 51 the worst
WEBP_QUALITY = 90
BT709, STUDIO_RANGE = 1, 1  # as H.264 numbers them


def write_video(
    frames: Iterable[Image.Image],
    path: str | os.PathLike[str],
    fps: float = 30,
    recipe: dict[str, Any] | None = None,
) -> None:
    """Write frames, as they come, into an MP4 (H.264, 4:2:0) that browsers and phones play and start at once.

    Memory does not grow with the number of frames. What stands at `path` is at any moment the whole old file or the
    whole new one; where an error or Ctrl-C ends the frames, nothing is left.

    Args:
        frames: pictures of one size, at least one. H.264 has even sides only: an odd one gets one more row or column,
            the same as its last. Transparent pictures are shown on white.
        path: where to; its folder exists.
        fps: frames per second, 0.1 to 240.
        recipe: how the film was made, of JSON's types; read_recipe gives it back.

    Raises:
        ValueError, TypeError: frames or fps are none of these, or the recipe cannot be written as JSON.
        OSError: the file cannot be written.
    """
    import av

    rate = Fraction(checked_fps(fps, FASTEST)).limit_denominator(1001)
    comment = to_comment(recipe)
    first, rest = _checked(frames)
    with replacing(path) as temporary:
        with av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            container.metadata.update({"comment": comment} if comment else {})
            options = {"crf": str(CRF), "preset": "medium", "tune": "animation"}
            stream = container.add_stream("libx264", rate=rate, options=options)
            stream.pix_fmt = "yuv420p"
            stream.width, stream.height = _even(first).size
            # Without these players take a film for one or the other standard by its size.
            colors = stream.codec_context
            colors.colorspace = colors.color_primaries = colors.color_trc = BT709
            colors.color_range = STUDIO_RANGE
            for i, image in enumerate(itertools.chain([first], rest)):
                frame = av.VideoFrame.from_image(_even(image))
                frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
                frame.pts = i
                container.mux(stream.encode(frame))
            container.mux(stream.encode())


def write_animation(
    frames: Iterable[Image.Image],
    path: str | os.PathLike[str],
    fps: float = 30,
    loop: bool = True,
    recipe: dict[str, Any] | None = None,
) -> None:
    """Write frames as a moving WebP, or as a GIF (256 colours for each frame), whichever the path ends in.

    Frames that are the same as the one before lengthen it. As with write_video the file appears whole or not at all.

    Memory: a WebP waits for its last frame; until then frames lie in a file without a name among the system's temporary
    ones (3 bytes a pixel), and what grows in memory is the finished WebP. Of a GIF, Pillow keeps a byte for each pixel of
    all frames.

    Args:
        frames: pictures of one size, at least one. Transparent ones are shown on white.
        path: where to, ending in .webp or .gif; its folder exists.
        fps: frames per second, 0.1 to 240, of a GIF to 50. Both formats count time in whole units (WebP 1 ms, GIF 10 ms);
            each frame ends at the unit that is nearest.
        loop: play it again and again, or once.
        recipe: how it was made, of JSON's types; read_recipe gives it back.

    Raises:
        ValueError, TypeError: an argument is none of these, or the recipe cannot be written as JSON.
        OSError: the file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".webp", ".gif"):
        raise ValueError(f"path ends in {suffix!r}; it must end in .webp or .gif")
    fps = checked_fps(fps, FASTEST_GIF if suffix == ".gif" else FASTEST)
    comment = to_comment(recipe)
    first, rest = _checked(frames)
    with replacing(path) as temporary, temporary.open("wb") as file:
        if suffix == ".gif":
            timed = _timed(itertools.chain([first], rest), fps)
            repeat = {"loop": 0} if loop else {}
            next(timed).save(file, "GIF", save_all=True, append_images=timed, comment=comment.encode(), **repeat)
            return
        exif = Image.Exif()
        exif.update({DESCRIPTION: comment} if comment else {})
        with tempfile.TemporaryFile() as spool:
            pictures = _Spooled(itertools.chain([first], rest), spool)
            settings = {"duration": 1000 / fps, "loop": 0 if loop else 1, "quality": WEBP_QUALITY, "method": 4}
            pictures.save(file, "WEBP", save_all=True, exif=exif, **settings)


def checked_fps(fps: float, most: float) -> float:
    """fps, if it is a number from SLOWEST to `most`."""
    if isinstance(fps, bool | str) or not math.isfinite(fps) or not SLOWEST <= fps <= most:
        raise ValueError(f"fps is {fps!r}; it must be from {SLOWEST:g} to {most:g} frames per second")
    return float(fps)


def _checked(frames: Iterable[Image.Image]) -> tuple[Image.Image, Iterator[Image.Image]]:
    """The first frame and the others, each checked as it comes; all in mode RGB."""
    every = _checked_frames(frames)
    try:
        return next(every), every
    except StopIteration:
        raise ValueError("frames must hold at least one picture, got none") from None


def _checked_frames(frames: Iterable[Image.Image]) -> Iterator[Image.Image]:
    from sharingan_hub.media.pictures import on_white

    size = None
    for image in frames:
        if not isinstance(image, Image.Image):
            raise TypeError(f"frames holds a {type(image).__name__}; it must hold PIL pictures")
        size = size or image.size
        if image.size != size:
            raise ValueError(f"frames must all be of one size, got {size} and {image.size}")
        yield on_white(image)


def _even(image: Image.Image) -> Image.Image:
    """With one more column and row, the same as the last, where their number is odd."""
    width, height = image.width + image.width % 2, image.height + image.height % 2
    if (width, height) == image.size:
        return image
    even = Image.new("RGB", (width, height))
    for x, y in itertools.product((width - image.width, 0), (height - image.height, 0)):
        even.paste(image, (x, y))
    return even


def _timed(frames: Iterable[Image.Image], fps: float) -> Iterator[Image.Image]:
    """Frames that know their own duration, in whole hundredths of a second that add up to the right time."""
    for i, image in enumerate(frames):
        image.info = {"duration": 10 * (round(100 * (i + 1) / fps) - round(100 * i / fps))}
        yield image


class _Spooled(Image.Image):
    """Frames in a file that look to Pillow like one opened picture of many frames: it holds one at a time."""

    def __init__(self, frames: Iterable[Image.Image], file: BinaryIO) -> None:
        super().__init__()
        self.n_frames = 0
        self._file = file
        for image in frames:
            file.write(image.tobytes())
            self.n_frames += 1
            self._mode, self._size = image.mode, image.size
        self.seek(0)

    def seek(self, frame: int) -> None:
        """Show this frame."""
        length = 3 * self.width * self.height
        self._file.seek(frame * length)
        self.im = Image.frombytes("RGB", self.size, self._file.read(length)).im
        self._shown = frame

    def tell(self) -> int:
        """The frame that is shown."""
        return self._shown
