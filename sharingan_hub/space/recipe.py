"""How a picture is made: the recipe that travels inside files, in links, in the visitor's pins and in API calls."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from .checks import check_choice, check_flag, check_number, check_whole, problem, shown

if TYPE_CHECKING:
    from torch import Tensor

    from ..pipeline_sharingan import SharinganPipeline

MAX_SEED = 2**32 - 1
MAX_PSI = 1.5
MAX_ORDER = 8
MAX_CLASS = 10**6
SIZES = (256, 512, 1024, 2048)
# Iris and pattern of sharingan_hub.postprocess.PALETTES, which brings torch and is not waited for as the page opens.
PALETTES = {
    "crimson": ("#c8102e", "#0d0a0b"),
    "ember": ("#f05a1a", "#1c0a05"),
    "gold": ("#e2a90f", "#1d1503"),
    "emerald": ("#0f9d58", "#04140b"),
    "cyan": ("#14b8d4", "#04161b"),
    "sapphire": ("#1f5fd6", "#050a1c"),
    "violet": ("#7d35c9", "#10061c"),
    "rose": ("#e8528f", "#22060f"),
    "silver": ("#b9bec6", "#15171a"),
    "amethyst": ("#b79be6", "#3b2360"),
    "midnight": ("#3d4fb8", "#e8ecff"),
    "eclipse": ("#16090b", "#d4142c"),
}
LAYERS = ("coarse", "middle", "fine", "rings", "palette")
DIRECTIONS = 6
MAX_MOVE = 4.0
MAX_LATENT = 1000.0
FOUND = re.compile(r"([1-9]\d?)x([1-9]\d{0,3}):([A-Za-z0-9+/]+={0,2})", re.ASCII)
MAX_FOUND = 2**16  # characters; the embedded model's designs take 6150


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One picture, exactly.

    Args:
        seed: of the design, 0 to 2**32 - 1.
        order: 1 to 8; None is what the seed draws.
        truncation_psi: 0 to 1.5.
        variation: a seed that says in which direction the design is varied; None: it is not.
        strength: how far, 0 to 1.
        styles: layers (one of LAYERS) that take their style from another seed.
        moves: how far it lies along the model's principal directions, in standard deviations.
        palette: a name in PALETTES; None keeps the model's own colours.
        circularize: whether the picture is made round.
        symmetry: order to which the picture is made symmetric; None: it is left as it is.
        output_size: width and height in pixels.
        found: latents that were found from a picture, as `found_text` writes them; they stand in place of the seed's.
            None: there are none.
        model: which model, as `models.ModelName` writes it; "" is the Space's own.
        class_label: of a model with classes, counted from 0. None: class 0, or there are none.
    """

    seed: int = 0
    order: int | None = None
    truncation_psi: float = 0.7
    variation: int | None = None
    strength: float = 0.3
    styles: tuple[tuple[str, int], ...] = ()
    moves: tuple[float, ...] = ()
    palette: str | None = None
    circularize: bool = False
    symmetry: int | None = None
    output_size: int = 512
    found: str | None = None
    model: str = ""
    class_label: int | None = None

    @classmethod
    def read(cls, value: Any) -> Recipe:
        """A recipe from what a file, link, browser or API client says; what it does not know is left out.

        Raises:
            gr.Error: a value is outside its range or of another kind.
        """
        if not isinstance(value, Mapping) or "seed" not in value:
            raise problem(f'A recipe must be an object with a seed, such as {{"seed": 7}}, got {shown(value)}.')

        def get(name: str) -> Any:
            return value.get(name)

        moves, styles, size = get("moves") or [], get("styles") or {}, get("output_size")
        if not isinstance(moves, list | tuple) or len(moves) > DIRECTIONS:
            raise problem(f"Moves must be a list of at most {DIRECTIONS} numbers, got {shown(moves)}.")
        if not isinstance(styles, Mapping):
            raise problem(f'Styles must be an object such as {{"palette": 7}}, got {shown(styles)}.')
        model = get("model") or ""
        if not isinstance(model, str) or len(model) > 1000:
            raise problem(f"Model must be a model's name, got {shown(model)}.")
        psi, strength = get("truncation_psi"), get("strength")
        palette = get("palette")
        return cls(
            seed=check_whole("Seed", get("seed"), 0, MAX_SEED),
            order=read_order(get("order")),
            truncation_psi=0.7 if psi is None else check_number("Truncation", psi, 0, MAX_PSI),
            variation=None if get("variation") is None else check_whole("Variation", get("variation"), 0, MAX_SEED),
            strength=0.3 if strength is None else check_number("Strength", strength, 0, 1),
            styles=tuple(
                (name, check_whole(f"Styles, {name},", styles[name], 0, MAX_SEED)) for name in LAYERS if name in styles
            ),
            moves=tuple(check_number("Moves", move, -MAX_MOVE, MAX_MOVE) for move in moves),
            palette=read_palette(palette),
            circularize=check_flag("Circularize", get("circularize")),
            symmetry=None if get("symmetry") is None else check_whole("Symmetry", get("symmetry"), 1, MAX_ORDER),
            output_size=512 if size is None else read_size(size),
            found=None if get("found") is None else read_found(get("found")),
            model=model,
            class_label=read_class(get("class_label")),
        )

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON's types: seed, order, truncation, size and model always, the rest where it says something."""
        own = dataclasses.asdict(self) | {"styles": dict(self.styles), "moves": list(self.moves)}
        if self.variation is None:
            del own["strength"]
        always = ("seed", "order", "truncation_psi", "output_size", "model")
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        return {
            name: value
            for name, value in own.items()
            if name in always or (value not in ({}, []) and value != defaults[name])
        }

    def to_query(self) -> str:
        """The same as the query of a link, "seed=7&order=3"; "" for found latents, which are too long for one."""
        if self.found is not None:
            return ""
        given = {name: value for name, value in self.to_dict().items() if value not in (None, "")}
        return urlencode(
            {
                name: value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
                for name, value in given.items()
            }
        )

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> Recipe | None:
        """The recipe in a link's query; None where there is none."""
        if "seed" not in query:
            return None
        names = {field.name for field in dataclasses.fields(cls)} - {"found"}
        value: dict[str, Any] = {}
        for name, text in query.items():
            if name in names:
                try:
                    value[name] = text if name in ("model", "palette") else json.loads(text[:2000])
                except ValueError:
                    value[name] = text
        return cls.read(value)

    def latents(self, pipe: SharinganPipeline) -> Tensor:
        """The design's latents (1, num_ws, w_dim).

        Raises:
            gr.Error, ValueError: the model has no such order, layers or directions, or its latents are of another shape.
        """
        from ..latents import layer_ranges, move, style_mix, vary

        psi = self.truncation_psi
        if self.found is not None:
            ws = self._found_latents(pipe)
        elif self.variation is None:
            ws = pipe.prepare_latents([self.seed], psi, self.order, class_label=self.class_label)
        else:
            ws = vary(pipe, self.seed, [self.variation], self.strength, psi, self.order, self.class_label)
        ranges = layer_ranges(pipe.generator_model)
        for name, other in self.styles:
            if name not in ranges:
                has = f"it has {', '.join(ranges)}" if ranges else "one style decides its whole picture"
                raise problem(f"This model has no layers called {name}; {has}.")
            ws = style_mix(ws, pipe.prepare_latents([other], psi, class_label=self.class_label), ranges[name])
        if any(self.moves):
            from .models import directions_of

            for direction, far in zip(directions_of(pipe), self.moves):
                ws = move(ws, direction, far)
        return ws

    def _found_latents(self, pipe: SharinganPipeline) -> Tensor:
        """What was found, and of a variation a part of the straight way from there to a seed's styles, in W."""
        import torch

        assert self.found is not None
        model = pipe.generator_model
        ws = torch.from_numpy(_decode(self.found))[None]
        if ws.shape[1:] != (model.num_ws, model.w_dim):
            raise problem(
                "This design was found with a model of another shape; load that one in the Community tab first."
            )
        ws = pipe.check_latents(ws, self.order, None)
        order = None
        if "order" in model.conditions:
            ws[:, -1, 2:] = 0
            order = round(ws[0, -1, 0].item())
        if self.variation is not None:
            other = pipe.prepare_latents([self.variation], self.truncation_psi, order, class_label=self.class_label)
            styles = slice(model.style_ws)
            ws[:, styles] = torch.lerp(ws[:, styles], other[:, styles], self.strength)
        return ws

    @property
    def title(self) -> str:
        """What it is called under a picture."""
        parts = [f"seed {self.seed}" if self.found is None else "from a picture"]
        if self.variation is not None:
            parts.append(f"variation {self.variation}")
        if self.styles or any(self.moves):
            parts.append("mixed")
        return " · ".join(parts)

    @property
    def file_name(self) -> str:
        """What its files are called, without the ending."""
        more = "" if self.variation is None else f"-{self.variation}"
        name = self.seed if self.found is None else "found"
        return f"sharingan-{name}{more}{'-mixed' if self.styles or any(self.moves) else ''}"


def found_text(latents: Tensor) -> str:
    """Latents (1, num_ws, w_dim) as text: "9x256:" and their float16 values, little-endian, in base64."""
    values = latents[0].detach().cpu().numpy().astype("<f2")
    rows, width = values.shape
    return f"{rows}x{width}:{base64.b64encode(values.tobytes()).decode('ascii')}"


def read_found(value: Any) -> str:
    """Latents as `found_text` writes them, of whatever model.

    Raises:
        gr.Error: it is no such text, or a value is not finite or beyond 1000.
    """
    import numpy as np

    if isinstance(value, str) and len(value) <= MAX_FOUND and (parts := FOUND.fullmatch(value)):
        rows, width, data = int(parts[1]), int(parts[2]), parts[3]
        if len(data) % 4 == 0 and len(base64.b64decode(data)) == rows * width * 2:
            if not (np.abs(_decode(value)) <= MAX_LATENT).all():  # NaN is not, either
                raise problem(f"Found latents must hold numbers from -{MAX_LATENT:g} to {MAX_LATENT:g}.")
            return value
    raise problem(f'Found latents must be text such as "9x256:" and their values in base64, got {shown(value)}.')


def _decode(found: str) -> Any:
    """The values (num_ws, w_dim) of a text that `read_found` let through, float32."""
    import numpy as np

    shape, _, data = found.partition(":")
    rows, width = map(int, shape.split("x"))
    return np.frombuffer(base64.b64decode(data), "<f2").reshape(rows, width).astype(np.float32)


def read_order(value: Any) -> int | None:
    """An order from 1 to 8; "any" or None: what the seed draws."""
    return None if value in (None, "any") else check_whole("Order", value, 1, MAX_ORDER, '"any" or from 1 to 8')


def read_class(value: Any) -> int | None:
    """A class's number; None: class 0, or there are none."""
    return None if value is None else check_whole("Class", value, 0, MAX_CLASS)


def read_size(value: Any) -> int:
    """One of the sizes that are drawn."""
    expected = f"one of {', '.join(map(str, SIZES))}"
    size = check_whole("Output size", value, SIZES[0], SIZES[-1], expected)
    if size not in SIZES:
        raise problem(f"Output size must be {expected}, got {size}.")
    return size


def read_palette(value: Any) -> str | None:
    """A palette's name; "own" or None: the model's own colours."""
    return None if value in (None, "", "own") else check_choice("Palette", value, tuple(PALETTES))
