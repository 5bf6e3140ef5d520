"""Films between designs: drawn frame by frame, written as they come, and stopped where the visitor stops them."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from .checks import check_choice, check_number, check_whole, problem
from .models import Models, palette_of
from .recipe import Recipe, read_size

if TYPE_CHECKING:
    from ..pipeline_sharingan import SharinganPipeline

SPACES = ("w", "z")
EASINGS = ("linear", "smooth", "in", "out")
LOOPS = ("loop", "ping-pong", "once")
FORMATS = ("mp4", "webp")
MAX_KEYFRAMES = 24
MAX_FRAMES = {"mp4": 1200, "webp": 300}
MAX_SECONDS = 60
MAX_SIZE = 1024
WAITING = 8  # frames drawn and not yet written


class Stopped(Exception):
    """The visitor cancelled or left."""


@dataclass(frozen=True)
class Film:
    """What a film shows.

    Args:
        keyframes: at least two designs of one model, or one that turns.
        space: "w", a spline through the designs, or "z", great circles between seeds.
        easing, loop: as `sharingan_hub.interpolate` takes them.
        seconds, fps: how long, and frames per second.
        turns: of the first design's 1/order, so that what is repeated ends as it began.
        size: 256, 512 or 1024 pixels.
        format: "mp4" or "webp".
    """

    keyframes: tuple[Recipe, ...]
    space: str = "w"
    easing: str = "smooth"
    loop: str = "loop"
    seconds: float = 4.0
    fps: int = 30
    turns: int = 0
    size: int = 256
    format: str = "mp4"

    @classmethod
    def read(cls, keyframes: Any, **settings: Any) -> Film:
        """A film from what the page or an API client sent.

        Raises:
            gr.Error: a value is outside its range or of another kind.
        """
        if not isinstance(keyframes, list | tuple) or not 1 <= len(keyframes) <= MAX_KEYFRAMES:
            raise problem(f"Keyframes must be a list of 2 to {MAX_KEYFRAMES} recipes: pin two designs or more.")
        recipes = tuple(Recipe.read({"seed": one} if isinstance(one, int) else one) for one in keyframes)
        size = read_size(settings["size"])
        if size > MAX_SIZE:
            raise problem(f"A film's size must be at most {MAX_SIZE} pixels, got {size}.")
        film = cls(
            keyframes=recipes,
            space=check_choice("Space", settings["space"], SPACES),
            easing=check_choice("Easing", settings["easing"], EASINGS),
            loop=check_choice("Loop", settings["loop"], LOOPS),
            seconds=check_number("Seconds", settings["seconds"], 0.2, MAX_SECONDS),
            fps=check_whole("Frames per second", settings["fps"], 5, 60),
            turns=check_whole("Turns", settings["turns"], -8, 8),
            size=size,
            format=check_choice("Format", settings["format"], FORMATS),
        )
        if len(recipes) == 1 and not film.turns:
            raise problem("A film needs at least two keyframes: pin two designs or more.")
        if len({recipe.model for recipe in recipes}) > 1:
            raise problem("All keyframes of a film must come from one model.")
        most = MAX_FRAMES[film.format]
        if film.frames > most:
            raise problem(
                f"A film has at most {most} frames as {film.format.upper()}; this one would have {film.frames}."
            )
        return film

    @property
    def frames(self) -> int:
        """How many frames."""
        return max(2, round(self.seconds * self.fps))

    def to_dict(self) -> dict[str, Any]:
        """As JSON's types, for the file that carries it."""
        settings = {
            name: getattr(self, name) for name in ("space", "easing", "loop", "seconds", "fps", "turns", "size")
        }
        return {"keyframes": [recipe.to_dict() for recipe in self.keyframes], **settings}

    def path(self, models: Models) -> Path:
        """Where its file lies."""
        return models.place(self.keyframes[0], f".{self.format}", self.to_dict())


def plan(film: Film, pipe: SharinganPipeline) -> tuple[Any, Any]:
    """Latents and, where a keyframe has a palette, colours of every frame.

    Raises:
        gr.Error, ValueError: the keyframes cannot be joined like that.
    """
    import torch

    from ..latents import interpolate, interpolate_palettes, interpolate_seeds

    recipes = film.keyframes * 2 if len(film.keyframes) == 1 else film.keyframes
    timing: dict[str, Any] = {"easing": film.easing, "loop": film.loop}
    keyframes = torch.cat([recipe.latents(pipe) for recipe in recipes])
    order = keyframes[0, -1, 0].item() if "order" in pipe.generator_model.conditions else 0
    spin = film.turns / order if order else 0.0
    if film.turns and not order:
        raise problem("Designs of this model cannot be turned: it draws pixels, not wedges.")
    if film.space == "z":
        psis, classes = {r.truncation_psi for r in recipes}, {r.class_label for r in recipes}
        if (
            len(psis) > 1
            or len(classes) > 1
            or any(r.variation is not None or r.styles or any(r.moves) or r.found for r in recipes)
        ):
            raise problem("In Z only plain seeds of one truncation and class can be joined; choose W for all others.")
        orders = [int(order) for order in keyframes[:, -1, 0].tolist()] if order else None
        seeds = [recipe.seed for recipe in recipes]
        latents = interpolate_seeds(
            pipe, seeds, film.frames, psis.pop(), orders, spin=spin, class_label=classes.pop(), **timing
        )
    else:
        latents = interpolate(keyframes, film.frames, spin=spin, **timing)
    if not any(recipe.palette for recipe in recipes):
        return latents, None
    if "palette" not in pipe.generator_model.conditions:
        raise problem("Films of this model keep its own colours: take the palettes off the keyframes.")
    colors = []
    for recipe, ws in zip(recipes, keyframes):
        chosen = palette_of(pipe, recipe)
        colors.append(pipe.generator_model.palette(ws[None])[0].float() if chosen is None else chosen)
    return latents, interpolate_palettes(torch.stack(colors), film.frames, **timing)


def render(film: Film, models: Models) -> Iterator[tuple[int, Image.Image]]:
    """Draw and write a film -> after each frame, how many there are and the frame. Memory does not grow with them.

    The file is at `film.path(models)` once this has ended. Where it is closed earlier, no file is left.

    Raises:
        gr.Error, ValueError: the keyframes cannot be joined like that.
    """
    recipe = {"film": film.to_dict(), "model": film.keyframes[0].model or models.title}
    with Writer(film, film.path(models), recipe) as writer:
        for count, image in enumerate(models.frames(film), 1):
            writer.add(image)
            yield count, image


@dataclass
class Writer:
    """Writes frames in a thread, as they are added; at most a few wait. An error or a stop leaves no file."""

    film: Film
    path: Path
    recipe: dict[str, Any]
    waiting: queue.Queue[Image.Image | None | Stopped] = field(default_factory=lambda: queue.Queue(WAITING))

    def __enter__(self) -> Writer:
        self.pool = ThreadPoolExecutor(1)
        self.done = self.pool.submit(self._write)
        return self

    def add(self, image: Image.Image) -> None:
        """Hand over one frame; waits while too many are waiting."""
        while not self.done.done():
            try:
                return self.waiting.put(image, timeout=0.5)
            except queue.Full:
                continue
        self.done.result()  # it ended early: say why

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        end = None if kind is None else Stopped()
        while not self.done.done():
            try:
                self.waiting.put(end, timeout=0.5)
                break
            except queue.Full:
                continue
        try:
            self.done.result()
        except Stopped:
            pass
        finally:
            self.pool.shutdown()

    def _frames(self) -> Iterator[Image.Image]:
        while (image := self.waiting.get()) is not None:
            if isinstance(image, Stopped):
                raise image
            yield image

    def _write(self) -> None:
        from ..media import write_animation, write_video

        if self.film.format == "mp4":
            write_video(self._frames(), self.path, self.film.fps, recipe=self.recipe)
        else:
            write_animation(self._frames(), self.path, self.film.fps, self.film.loop != "once", self.recipe)


def spinning(recipe: Recipe) -> Film:
    """A design that turns by one wedge, for ever: a small WebP."""
    return Film((recipe,), easing="linear", seconds=2.0, fps=24, turns=1, size=256, format="webp")


def thumbnail(image: Image.Image, size: int = 256) -> Image.Image:
    """A frame at the size at which it is previewed."""
    return image if image.width <= size else image.resize((size, size), Image.Resampling.BILINEAR)
