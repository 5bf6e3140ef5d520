"""Keyframes in time: which frame lies where between which of them, and the curves that lead from one to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sharingan_hub.pipeline_sharingan import whole_number

LOOPS = ("once", "loop", "ping-pong")
# How far from one keyframe to the next a frame is at time t, both from 0 to 1.
EASINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda t: t,
    "smooth": lambda t: t * t * (3 - 2 * t),
    "in": lambda t: t * t,
    "out": lambda t: t * (2 - t),
}


class At(NamedTuple):
    """Where N frames are: their numbers, the stretch of the way in which each lies, and how far along it, 0 to below 1."""

    frame: Tensor
    stretch: Tensor
    t: Tensor


class Timeline:
    """Frames spread over the stretches between keyframes, evenly to a frame, so that every keyframe is a frame.

    Args:
        keyframes: how many, at least 2.
        frames, easing, loop: as in `interpolate`.

    Raises:
        ValueError, TypeError: an argument is outside its range or of another type.
    """

    def __init__(self, keyframes: int, frames: int, easing: str, loop: str) -> None:
        if easing not in EASINGS:
            raise ValueError(f"easing is {easing!r}; it must be one of {', '.join(EASINGS)}")
        if loop not in LOOPS:
            raise ValueError(f"loop is {loop!r}; it must be one of {', '.join(LOOPS)}")
        back = range(keyframes - 2, 0, -1) if loop == "ping-pong" else ()
        self.stops = torch.tensor([*range(keyframes), *back])  # the keyframes, in the order in which they are passed
        self.closed = loop != "once"
        self.stretches = len(self.stops) - (not self.closed)
        self.frames = whole_number("frames", frames, len(self.stops))
        self.span = self.frames - (not self.closed)
        self.ease = EASINGS[easing]

    def at(self, frame: Tensor) -> At:
        """Numbers of frames (N,) -> where they are."""
        stretch = ((frame + 1) * self.stretches - 1) // self.span  # the last one that begins at or before the frame
        start, end = (i * self.span // self.stretches for i in (stretch, stretch + 1))
        return At(frame, stretch, self.ease((frame - start) / (end - start).double()))

    def stop(self, stretch: Tensor) -> Tensor:
        """The keyframe at which each stretch begins; before and after an open way its first and last one."""
        count = len(self.stops)
        return self.stops[stretch % count if self.closed else stretch.clamp(0, count - 1)]


class Interpolation:
    """Frames of an animation. Each is made when it is asked for, so memory does not grow with their number.

    `len(frames)` is their number, `frames[i]` one of them, and `frames[a:b]` those from a to b - 1, stacked.
    """

    def __init__(self, timeline: Timeline, make: Callable[[At], Tensor]) -> None:
        self.timeline = timeline
        self.make = make

    def __len__(self) -> int:
        return self.timeline.frames

    def __getitem__(self, which: int | slice) -> Tensor:
        numbers = range(len(self))[which]  # IndexError where there is no such frame
        if isinstance(numbers, int):
            return self[numbers : numbers + 1][0]
        return self.make(self.timeline.at(torch.tensor(numbers, dtype=torch.int64)))


def catmull_rom(before: Tensor, start: Tensor, end: Tensor, after: Tensor, t: Tensor) -> Tensor:
    """The cubic from `start` at t = 0 to `end` at t = 1 with slopes (end - before) / 2 and (after - start) / 2."""
    slope, last = (end - before) / 2, (after - start) / 2
    way = end - start
    return start + t * (slope + t * (3 * way - 2 * slope - last + t * (slope + last - 2 * way)))


def slerp(start: Tensor, end: Tensor, t: Tensor | float) -> Tensor:
    """Spherical interpolation of vectors (..., D) that are not zero (Shoemake 1985): angle and length grow evenly with t.

    Opposite vectors have no shortest way between them; they are mixed on a straight line, as nearly parallel ones are.
    """
    a, b = start.norm(dim=-1, keepdim=True), end.norm(dim=-1, keepdim=True)
    u, v = start / a, end / b
    angle = torch.atan2((v - u).norm(dim=-1, keepdim=True), (v + u).norm(dim=-1, keepdim=True)) * 2
    sine = angle.sin()
    flat = sine < 1e-6
    safe = torch.where(flat, 1.0, sine)
    turned = (((1 - t) * angle).sin() * u + (t * angle).sin() * v) / safe
    return torch.where(flat, torch.lerp(start, end, torch.as_tensor(t).to(start)), turned * (a + t * (b - a)))
