"""The models that the page draws with: the Space's own, and those that visitors load, each under a name that pins it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import os
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import spaces
from gradio.utils import get_upload_folder

from .checks import check_number, problem, shown
from .recipe import DIRECTIONS, Recipe

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from ..inversion import Inversion
    from ..latents import Direction
    from ..pipeline_sharingan import SharinganPipeline
    from .film import Film

logger = logging.getLogger(__name__)

EMBEDDED = "embedded"
SHIPPED = Path(__file__).parents[1] / "embedded" / "default"
TRAINED = "trained-"  # the beginning of the names of visitors' own
MOST_LOADED = 4  # pipelines in memory besides the Space's own
MOST_ADAPTERS = 3
PART = re.compile(r"([\w.\-]+(?:/[\w.\-]+)?)(?:@([\w.\-]+))?(?:\*(-?[0-9.]{1,8}))?", re.ASCII)
MOST_SECONDS = 60  # that a design is looked for
ROLES_SIZE = 128  # pixels of the drawing in which a palette's roles are found


@dataclass(frozen=True)
class Part:
    """A checkpoint or an adapter: Hub id or local name, commit, and how strongly an adapter is laid over."""

    name: str
    sha: str | None = None
    weight: float = 1.0

    def __str__(self) -> str:
        sha = f"@{self.sha}" if self.sha else ""
        return f"{self.name}{sha}" + (f"*{self.weight:g}" if self.weight != 1 else "")


def parse_model(text: Any) -> tuple[Part, ...]:
    """A model's name, "user/eyes@1a2b…+user/adapter@3c4d…*0.5": a checkpoint or adapter, then adapters laid over it.

    Raises:
        gr.Error: it is none.
    """
    parts: list[Part] = []
    for word in text.strip().split("+") if isinstance(text, str) else [""]:
        found = PART.fullmatch(word.strip())
        if not found or ".." in word or len(parts) > MOST_ADAPTERS:
            raise problem(
                f"Model must be a Hub id such as user/their-sharingan, with at most {MOST_ADAPTERS} adapters, got {shown(text)}."
            )
        weight = 1.0
        if found[3] is not None:
            try:
                weight = check_number("An adapter's strength", float(found[3]), -2, 2)
            except ValueError:
                raise problem(f"An adapter's strength must be a number, got {shown(found[3])}.") from None
        parts.append(Part(found[1], found[2], weight))
    return tuple(parts)


class Models:
    """Pipelines by name; those of the Hub at most four at once, and the least used goes first.

    A pipeline is never changed once it is there: another strength of an adapter is another name, so no visitor's choice
    reaches another visitor.

    Args:
        start: Hub id or local folder of the Space's own checkpoint; None is the embedded model.
    """

    def __init__(self, start: str | None = None) -> None:
        self.start = start
        # Of a local folder the last part: the title travels with pictures that are shared.
        is_id = start is not None and re.fullmatch(r"\w[\w.\-]*/\w[\w.\-]*", start) and not Path(start).exists()
        self.title = EMBEDDED if start is None else start if is_id else Path(start).resolve().name
        self._loaded: OrderedDict[str, SharinganPipeline] = OrderedDict()
        self._trained: dict[str, Path] = {}  # checkpoint folders of visitors' own
        self._lock = Lock()
        # These borrow a GPU for the length of one call on ZeroGPU; anywhere else they are the methods themselves.
        self._draw = spaces.GPU(duration=drawing_seconds)(self._draw_here)
        self._frames = spaces.GPU(duration=film_seconds)(self._frames_here)
        self._inversions = spaces.GPU(duration=MOST_SECONDS + 15)(self._inversions_here)

    # Which model

    def is_own(self, name: str) -> bool:
        """Whether a name is that of the Space's own model."""
        return name in ("", self.title)

    def pipeline(self, name: str = "") -> SharinganPipeline:
        """The pipeline of a name; the first call loads it (seconds), from this disk alone unless it is the Space's own.

        Raises:
            gr.Error: it has not been loaded here.
            Exception: what `from_pretrained` raises.
        """
        from ..hub import UnreachableError
        from ..pipeline_sharingan import SharinganPipeline

        key = "" if self.is_own(name) else name
        with self._lock:
            if key in self._loaded:
                self._loaded.move_to_end(key)
                return self._loaded[key]
            if not key:
                pipe = SharinganPipeline.from_pretrained(self.start)
            else:
                try:
                    pipe = self._open(parse_model(key), local_files_only=True)
                except UnreachableError as error:
                    raise problem(
                        f"{key.partition('@')[0]} is not loaded here. Load it in the Community tab first."
                    ) from error
            return self._keep(key, pipe)

    def _keep(self, key: str, pipe: SharinganPipeline) -> SharinganPipeline:
        """Remember a pipeline, and forget the least used ones; only while the lock is held."""
        self._loaded[key] = pipe
        others = [other for other in self._loaded if other]
        for other in others[: max(0, len(others) - MOST_LOADED)]:
            del self._loaded[other]
        return pipe

    def _open(self, parts: Sequence[Part], local_files_only: bool) -> SharinganPipeline:
        from ..checkpoints.adapters import is_adapter, name_of
        from ..pipeline_sharingan import SharinganPipeline

        folder = self._folder(parts[0], local_files_only)
        pipe = SharinganPipeline.from_pretrained(folder, local_files_only=local_files_only)
        laid = [(self._folder(part, local_files_only), part.weight) for part in parts[1:]]
        if is_adapter(folder):
            laid.append((folder, parts[0].weight))
        for adapter, weight in laid:
            pipe.load_adapter(adapter, weight, name_of(adapter), local_files_only=local_files_only)
        return pipe

    def _folder(self, part: Part, local_files_only: bool) -> Path:
        """Where a part's files lie. A stranger's word for it is a Hub id, never a folder of this disk."""
        from .. import hub

        if part.name.startswith(TRAINED):
            if part.name not in self._trained:
                raise problem("This model was trained by a visitor and is gone: it is kept while their page is open.")
            return self._trained[part.name]
        if part.name == self.title:
            return hub.locate(self.start, local_files_only=local_files_only)
        return (
            hub.DEFAULT if part.name == EMBEDDED else hub.pull(part.name, part.sha, local_files_only=local_files_only)
        )

    def load(self, text: str) -> str:
        """Fetch, check and open a model, and give its name with every part pinned to a commit.

        Raises:
            gr.Error, HubError: no such model, none that is opened, or the Hub does not answer.
        """
        from .. import hub

        pinned = []
        for part in parse_model(text):
            if part.name not in (EMBEDDED, self.title) and not part.name.startswith(TRAINED):
                if "/" not in part.name:
                    raise problem(f"Model must be a Hub id such as user/their-sharingan, got {shown(part.name)}.")
                folder = hub.pull(part.name, part.sha)
                hub.validate(folder)
                part = Part(part.name, folder.name, part.weight)
            pinned.append(part)
        name = "+".join(map(str, pinned))
        if self.is_own(name):
            return ""
        if name not in self._loaded:
            pipe = self._open(pinned, local_files_only=False)
            with self._lock:
                self._keep(name, pipe)
        return name

    def add(self, folder: Path) -> str:
        """Let a checkpoint folder of this disk be drawn with -> its name, which nobody can guess."""
        name = TRAINED + secrets.token_hex(8)
        self._trained[name] = folder
        return name

    def remove(self, name: str) -> None:
        """Forget what `add` has added, and all that was laid over it."""
        with self._lock:
            self._trained.pop(name, None)
            for key in [key for key in self._loaded if name in key]:
                del self._loaded[key]

    def folder(self, name: str = "") -> Path:
        """Where a loaded model's card, report and samples lie; of several parts, the first one's."""
        return self._folder(Part(self.title) if self.is_own(name) else parse_model(name)[0], local_files_only=True)

    def warm_up(self) -> None:
        """Load now and draw one picture, so that the first visitor does not wait; a failure is logged, not raised."""
        try:
            self.pipeline()(seeds=[0])
        except Exception as error:  # whatever is wrong with the checkpoint, the visitor who presses a button is told
            logger.warning("Cannot load the model %s: %s", self.title, error)

    def samples(self) -> list[tuple[str, str | None]]:
        """Path and caption of the sample pictures that lie beside the weights; none for a model on the Hub."""
        folder = (Path(self.start) if self.start else SHIPPED) / "samples"
        found = []
        for path in sorted(folder.glob("*.png")):
            seed = re.search(r"(\d+)$", path.stem)
            if seed:
                found.append((int(seed[1]), str(path)))
        return [(path, f"seed {seed}") for seed, path in sorted(found)]

    # Drawing

    def pictures(self, recipes: Sequence[Recipe], progress: Any = None) -> list[tuple[str, str]]:
        """Path and title of a PNG for each recipe, which it carries. What was drawn lately is not drawn again.

        Args:
            progress: a gr.Progress, shown where there is more than one step.

        Raises:
            gr.Error, Exception: the model cannot be loaded, or does not take a recipe.
        """
        from ..pipeline_sharingan import chunks

        missing = [recipe for recipe in dict.fromkeys(recipes) if not _is_there(self.place(recipe, ".png"))]
        for recipe in missing:
            self.pipeline(
                recipe.model
            )  # on ZeroGPU the call runs in a fork of this process, which then has the weights
        parts = list(chunks(len(missing), max((recipe.output_size for recipe in missing), default=1)))
        for part in progress.tqdm(parts, unit="steps") if progress and len(parts) > 1 else parts:
            for recipe, image in zip(missing[part], self._draw(missing[part])):
                self.write(image, recipe)
        return [(str(self.place(recipe, ".png")), recipe.title) for recipe in recipes]

    def write(self, image: Image.Image, recipe: Recipe) -> Path:
        from ..media import write_png

        path = self.place(recipe, ".png")
        write_png(image, path, self.named(recipe))
        return path

    def named(self, recipe: Recipe) -> dict[str, Any]:
        """The recipe as it is written into files: with the model's name even where it is the Space's own."""
        return recipe.to_dict() | {"model": recipe.model or self.title}

    def place(self, recipe: Recipe, suffix: str, settings: Any = None) -> Path:
        """Where a recipe's file lies: the same for the same, in Gradio's own folder, which it serves and clears."""
        text = json.dumps([self.named(recipe), suffix, settings], sort_keys=True)
        folder = Path(get_upload_folder()) / hashlib.sha256(KEY + text.encode()).hexdigest()[:32]
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{recipe.file_name}{suffix}"

    def svg(self, recipe: Recipe) -> Path:
        """A drawing of a recipe's picture."""
        from ..media import draw_svg, write_svg

        path = self.place(recipe, ".svg")
        if not _is_there(path):
            pipe = self.pipeline(recipe.model)
            svg = draw_svg(pipe, recipe.latents(pipe), palette_of(pipe, recipe), recipe.output_size)
            write_svg(svg, path, self.named(recipe))
        return path

    def frames(self, film: Film) -> Iterator[Image.Image]:
        """The pictures of a film, one by one.

        Raises:
            gr.Error, ValueError: the keyframes cannot be joined like that.
        """
        self.pipeline(film.keyframes[0].model)
        yield from self._frames(film)

    def _frames_here(self, film: Film) -> Iterator[Image.Image]:
        from ..latents import animate
        from .film import plan

        # What travels to a borrowed GPU is the film's description, which pickles, and not its frames, which do not.
        pipe = self._on_device(film.keyframes[0].model)
        latents, palettes = plan(film, pipe)
        yield from animate(pipe, latents, palettes, film.size)

    def inversions(
        self, picture: Image.Image, order: int | None, drawing: bool | None, steps: int, model: str
    ) -> Iterator[Inversion]:
        """What draws a picture, the best so far each time, for at most a minute; the latents are on the CPU.

        Raises:
            gr.Error, ValueError, TypeError: as `pipeline` and `inversion_steps` raise.
        """
        self.pipeline(model)
        yield from self._inversions(picture, order, drawing, steps, model)

    def _inversions_here(
        self, picture: Image.Image, order: int | None, drawing: bool | None, steps: int, model: str
    ) -> Iterator[Inversion]:
        from ..inversion import inversion_steps

        end = time.monotonic() + MOST_SECONDS
        for found in inversion_steps(self._on_device(model), picture, order, drawing, steps):
            yield dataclasses.replace(found, latents=found.latents.cpu())
            if time.monotonic() > end:
                break

    def _draw_here(self, recipes: Sequence[Recipe]) -> list[Image.Image]:
        import torch

        images: list[Image.Image] = []
        for _, group in itertools.groupby(
            recipes, lambda r: (r.model, r.output_size, r.circularize, r.symmetry, r.palette)
        ):
            same = list(group)
            first = same[0]
            pipe = self._on_device(first.model)
            palettes: Any = None
            if first.palette and "palette" in pipe.generator_model.conditions:
                colors: list[Any] = [palette_of(pipe, recipe) for recipe in same]
                palettes = torch.stack(colors)
            output: Any = pipe(
                latents=torch.cat([recipe.latents(pipe) for recipe in same]),
                palette=palettes,
                recolor=first.palette if palettes is None else None,
                circularize=first.circularize,
                symmetry=first.symmetry,
                output_size=first.output_size,
            )
            images += output.images
        return images

    def _on_device(self, name: str) -> SharinganPipeline:
        import torch

        pipe = self.pipeline(name)
        if torch.cuda.is_available():
            pipe.to("cuda")
        return pipe


KEY = secrets.token_bytes(16)  # nobody can guess where another visitor's files lie


def _is_there(path: Path) -> bool:
    """Whether a file is there; if it is, it counts as new, so that it is not cleared away while it is being shown."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def palette_of(pipe: SharinganPipeline, recipe: Recipe) -> Tensor | None:
    """The K colours that give a design its palette, for generators that paint with such; None where there is no palette."""
    if not recipe.palette or "palette" not in pipe.generator_model.conditions:
        return None
    from ..postprocess import recolor_colors

    ws = recipe.latents(pipe)
    small: Any = pipe(latents=ws, output_size=ROLES_SIZE, output_type="pt")
    return recolor_colors(pipe.generator_model.palette(ws)[0].float(), small.images, recipe.palette)


@functools.lru_cache(maxsize=MOST_LOADED)
def directions_of(pipe: SharinganPipeline) -> list[Direction]:
    """A model's principal directions; the first time costs a second."""
    from ..latents import directions

    return directions(pipe.generator_model, min(DIRECTIONS, pipe.generator_model.w_dim))


def drawing_seconds(recipes: Sequence[Recipe]) -> int:
    """Seconds for which a GPU is borrowed to draw pictures."""
    return min(60, 10 + sum(recipe.output_size**2 for recipe in recipes) // 2**21)


def film_seconds(film: Film) -> int:
    """Seconds for which a GPU is borrowed to draw a film."""
    return min(120, 15 + film.frames * film.size**2 // 2**22)
