"""SharinganPipeline: seeds -> latents -> pictures, for every generator of the project.

Needs torch, numpy, diffusers and Pillow only: this file is shipped inside every checkpoint as `pipeline.py`, where
`DiffusionPipeline.from_pretrained(..., trust_remote_code=True)` runs it without the sharingan-hub package.
"""

import importlib
import inspect
import json
import math
import operator
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import __version__
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import BaseOutput
from PIL import Image, ImageColor
from torch import Tensor

MAX_SEED = 2**32 - 1
MIN_SIZE, MAX_SIZE = 16, 8192
# Synthesis draws at most this many pixels and pictures at once, so that memory does not grow with the batch.
CHUNK_PIXELS, CHUNK_PICTURES = 2**22, 16


@dataclass
class SharinganPipelineOutput(BaseOutput):
    """What a call returns.

    Args:
        images: list of PIL pictures, float array (N, H, W, 3) in [0, 1] or tensor (N, 3, H, W) in [0, 1].
        latents: tensor (N, num_ws, w_dim), float32; as `latents=` it gives the same pictures again.
        seeds: the seed of each picture; None where the pictures came from `latents=`.
        pairs: from a generator of two domains, the pictures of both: a list of tuples, (N, 2, H, W, 3) or (N, 2, 3, H, W),
            whose first ones are `images`; None otherwise.
    """

    images: list[Image.Image] | np.ndarray | Tensor
    latents: Tensor
    seeds: list[int] | None = None
    pairs: list[tuple[Image.Image, Image.Image]] | np.ndarray | Tensor | None = None


class SharinganPipeline(DiffusionPipeline):
    """Generates pictures with any generator that has `mapping`, `broadcast`, `synthesis` and `w_avg`.

    Args:
        generator_model: the generator. Its `conditions` say which of order, phase, palette, output_size and class_label
            it takes.
    """

    generator_model: Any

    def __init__(self, generator_model: ModelMixin) -> None:
        super().__init__()
        self.register_modules(generator_model=generator_model)
        self._laid: Any = None  # adapters over the generator's weights, once there were any

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | None = None,
        truncation_psi: float = 0.7,
        seeds: int | Sequence[int] | None = None,
        latents: Tensor | None = None,
        order: int | Sequence[int] | None = None,
        phase: float | Sequence[float] | None = None,
        palette: Tensor | np.ndarray | Sequence | None = None,
        circularize: bool = False,
        recolor: Any = None,
        symmetry: int | None = None,
        output_size: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        class_label: int | Sequence[int] | None = None,
    ) -> SharinganPipelineOutput | tuple:
        """Generate pictures.

        Args:
            batch_size: how many, at least 1. Follows from `seeds` or `latents` where they are given.
            generator: draws the seeds; without it torch's global generator does.
            truncation_psi: pulls the styles towards their average: 1 is none of it, 0 the average picture.
            seeds: one whole number from 0 to 2**32 - 1 for each picture, which alone decides that picture, whatever the
                rest of the batch: z is `numpy.random.RandomState(seed).randn(z_dim)`, as in other StyleGAN tools.
            latents: tensor (N, num_ws, w_dim), such as an earlier output's, in place of seeds. Ignores truncation.
            order: rotational order from 1 to the generator's max_order, one for all pictures or one for each. None:
                drawn by the seed (after z, from the same RandomState), or as it is in `latents`.
            phase: angle in radians by which the picture is turned, one for all or one for each. None: 0, or as it is in
                `latents`. So the same latents with growing phases are a spinning animation.
            palette: K colours in place of the generator's own: (K, 3) or (N, K, 3) in [0, 1], or colour names
                ("#c00010", "black").
            circularize: repair pictures that are not quite round.
            recolor: colours for the finished pictures, as `sharingan_hub.postprocess.recolor` takes them.
            symmetry: make the finished pictures symmetric of this order.
            output_size: side of the pictures in pixels, 16 to 8192; None is the generator's resolution. Where a
                generator knows one resolution only, its pictures are resized (bicubic, anti-aliased).
            output_type: "pil", "np" or "pt".
            return_dict: False returns the tuple (images, latents, seeds).
            class_label: class from 0 to the generator's c_dim - 1, one for all or one for each. None: class 0.

        Raises:
            ValueError, TypeError: an argument is outside its range, of another type, or unknown to this generator.
            ImportError: circularize, recolor and symmetry need the sharingan-hub package.
        """
        model = self.generator_model
        for name, given in [("order", order), ("phase", phase), ("palette", palette), ("class_label", class_label)]:
            if given is not None and name not in model.conditions:
                raise ValueError(f"{name} was given, but {type(model).__name__} does not take it")
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type is {output_type!r}; it must be 'pil', 'np' or 'pt'")
        if output_size is not None:
            output_size = whole_number("output_size", output_size, MIN_SIZE, MAX_SIZE)
        postprocess = import_room("postprocess") if circularize or recolor is not None or symmetry is not None else None

        if latents is None:
            drawn: list[int] | None = self.prepare_seeds(batch_size, generator, seeds)
            ws = self.prepare_latents(drawn or [], truncation_psi, order, phase, class_label)
        else:
            drawn = None
            if seeds is not None or generator is not None:
                other = "generator" if seeds is None else "seeds"
                raise ValueError(f"latents and {other} were both given; give one of them")
            if class_label is not None:
                raise ValueError("latents and class_label were both given; latents are of a class already")
            ws = self.check_latents(latents, order, phase)
            if whole_number("batch_size", batch_size, 1) not in (1, len(ws)):
                raise ValueError(f"batch_size is {batch_size}, but latents holds {len(ws)} pictures")
        colors = None if palette is None else self.prepare_palette(palette, len(ws))

        parts: list = []
        for chunk in chunks(len(ws), output_size or model.resolution):
            conditions: dict[str, Any] = {}
            if colors is not None:
                conditions["palette"] = colors[chunk]
            if output_size is not None and "output_size" in model.conditions:
                conditions["output_size"] = output_size
            # Both pictures of a pair (N, 2, 3, H, W) go on as two.
            x = getattr(model, "pairs", model.synthesis)(ws[chunk], **conditions).float().flatten(0, -4)
            if output_size is not None and output_size != x.shape[3]:
                x = F.interpolate(x, size=(output_size, output_size), mode="bicubic", antialias=True)
            x = x.mul(0.5).add_(0.5).clamp_(0, 1)
            if postprocess is not None:
                if circularize:
                    x = postprocess.circularize(x).images
                if symmetry is not None:
                    x = postprocess.symmetrize(x, symmetry)
                if recolor is not None:
                    x = postprocess.recolor(x, recolor)
            if output_type == "pt":
                parts.append(x)
            elif output_type == "np":
                parts.append(x.permute(0, 2, 3, 1).cpu().numpy())
            else:
                pixels = x.mul(255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
                parts.extend(Image.fromarray(p) for p in pixels)
        images: Any = parts
        if output_type != "pil":
            images = torch.cat(parts) if output_type == "pt" else np.concatenate(parts)
        pairs = None
        if hasattr(model, "pairs"):
            whole = output_type == "pil"
            pairs = list(zip(images[::2], images[1::2])) if whole else images.reshape(-1, 2, *images.shape[1:])
            images = images[::2]
        return SharinganPipelineOutput(images, ws, drawn, pairs) if return_dict else (images, ws, drawn)

    def prepare_seeds(
        self, batch_size: int = 1, generator: torch.Generator | None = None, seeds: int | Sequence[int] | None = None
    ) -> list[int]:
        """Check the seeds, or draw `batch_size` of them."""
        batch_size = whole_number("batch_size", batch_size, 1)
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(f"generator is a {type(generator).__name__}; it must be a torch.Generator")
        if seeds is None:
            device = "cpu" if generator is None else generator.device
            return torch.randint(0, MAX_SEED + 1, (batch_size,), generator=generator, device=device).tolist()
        if generator is not None:
            raise ValueError("seeds and generator were both given; give one of them")
        one = isinstance(seeds, str) or not hasattr(seeds, "__iter__") or getattr(seeds, "ndim", 1) == 0
        seeds = [whole_number("seeds", seed, 0, MAX_SEED) for seed in ([seeds] if one else seeds)]  # type: ignore[union-attr]
        if not seeds:
            raise ValueError("seeds is empty; give at least one")
        if batch_size not in (1, len(seeds)):
            raise ValueError(f"batch_size is {batch_size}, but seeds holds {len(seeds)}")
        return seeds

    def prepare_latents(
        self,
        seeds: Sequence[int],
        truncation_psi: float = 0.7,
        order: int | Sequence[int] | None = None,
        phase: float | Sequence[float] | None = None,
        class_label: int | Sequence[int] | None = None,
    ) -> Tensor:
        """Seeds -> truncated latents (N, num_ws, w_dim), float32, each of its seed alone."""
        z, orders = self.prepare_z(seeds, order)
        return self.map_z(z, truncation_psi, orders, phase, class_label)

    def prepare_z(
        self, seeds: Sequence[int], order: int | Sequence[int] | None = None
    ) -> tuple[Tensor, list[int] | None]:
        """Seeds -> z (N, z_dim), and the N orders, given or drawn after z; None where the generator has none."""
        model = self.generator_model
        draws = [np.random.RandomState(seed) for seed in seeds]
        z = torch.from_numpy(np.stack([draw.randn(model.z_dim) for draw in draws]))
        z = z.to(self.device, self.dtype)
        if order is not None:
            return z, self.check_order(order, len(seeds))
        if "order" not in model.conditions:
            return z, None
        probs = model.config.order_probs
        probs = None if probs is None else np.asarray(probs, dtype=np.float64) / np.sum(probs)
        return z, [int(draw.choice(model.config.max_order, p=probs)) + 1 for draw in draws]

    @torch.no_grad()
    def map_z(
        self,
        z: Tensor,
        truncation_psi: float = 0.7,
        order: int | Sequence[int] | None = None,
        phase: float | Sequence[float] | None = None,
        class_label: int | Sequence[int] | None = None,
    ) -> Tensor:
        """z (N, z_dim), with orders or classes where the generator has them -> truncated latents (N, num_ws, w_dim), float32.

        Truncation is w_avg + psi (w - w_avg) (Karras et al. 2019, section B), about the average of the picture's order
        where the generator has an average for each.
        """
        model = self.generator_model
        psi = finite("truncation_psi", truncation_psi)
        w_avg = model.w_avg.float()
        if order is None:
            c = None if class_label is None else torch.tensor(self.check_class(class_label, len(z)), device=z.device)
            w = (model.mapping(z) if c is None else model.mapping(z, c)).float()
            return model.broadcast(w_avg + psi * (w - w_avg)).contiguous()
        n = torch.tensor(self.check_order(order, len(z)), device=z.device)
        w = model.mapping(z, n).float()
        center = w_avg[n - 1]
        phases = per_picture("phase", 0.0 if phase is None else phase, len(z), finite)
        return model.broadcast(center + psi * (w - center), n, torch.tensor(phases, device=z.device))

    def check_class(self, class_label: int | Sequence[int], count: int) -> list[int]:
        """One class, or one for each picture, as a list of `count`."""
        if "class_label" not in self.generator_model.conditions:
            raise ValueError(f"class_label was given, but {type(self.generator_model).__name__} does not take it")
        last = self.generator_model.config.c_dim - 1
        return per_picture("class_label", class_label, count, lambda name, value: whole_number(name, value, 0, last))

    def check_order(self, order: int | Sequence[int], count: int) -> list[int]:
        """One order, or one for each picture, as a list of `count`."""
        if "order" not in self.generator_model.conditions:
            raise ValueError(f"order was given, but {type(self.generator_model).__name__} does not take it")
        max_order = self.generator_model.config.max_order
        return per_picture("order", order, count, lambda name, value: whole_number(name, value, 1, max_order))

    def check_latents(
        self, latents: Tensor, order: int | Sequence[int] | None, phase: float | Sequence[float] | None
    ) -> Tensor:
        """Check latents, put them on the model's device, and set the order and phase in their last row where given."""
        model = self.generator_model
        allowed = f"a tensor (N, {model.num_ws}, {model.w_dim}) with N at least 1"
        if not isinstance(latents, Tensor):
            raise TypeError(f"latents is a {type(latents).__name__}; it must be {allowed}")
        if latents.ndim != 3 or latents.shape[1:] != (model.num_ws, model.w_dim) or len(latents) == 0:
            raise ValueError(f"latents has shape {tuple(latents.shape)}; it must be {allowed}")
        ws = latents.to(self.device, torch.float32)
        if not ws.isfinite().all():
            raise ValueError("latents holds NaN or infinite values")
        if "order" not in model.conditions:
            return ws
        if order is not None or phase is not None:
            ws = ws.clone()
        if order is not None:
            ws[:, -1, 0] = torch.tensor(self.check_order(order, len(ws)), device=ws.device)
        if phase is not None:
            ws[:, -1, 1] = torch.tensor(per_picture("phase", phase, len(ws), finite), device=ws.device)
        orders, max_order = ws[:, -1, 0], model.config.max_order
        wrong = (orders < 1) | (orders > max_order)  # between whole orders lies a morph
        if wrong.any():
            raise ValueError(f"latents holds order {orders[wrong][0].item():g}; it must be from 1 to {max_order}")
        return ws

    def prepare_palette(self, palette: Tensor | np.ndarray | Sequence, count: int) -> Tensor:
        """Colours as numbers or names -> tensor (count, K, 3) in [0, 1]."""

        def numbers(value: Any) -> Any:
            if isinstance(value, str):
                return [channel / 255 for channel in ImageColor.getrgb(value)[:3]]
            return [numbers(v) for v in value] if isinstance(value, list | tuple) else value

        masks = self.generator_model.config.num_masks
        try:
            colors = torch.as_tensor(numbers(palette), dtype=torch.float32, device=self.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"palette cannot be read as {masks} colours: {error}") from error
        if colors.shape not in ((masks, 3), (count, masks, 3)):
            wanted = f"({masks}, 3), or ({count}, {masks}, 3) for {count} pictures"
            raise ValueError(f"palette has shape {tuple(colors.shape)}; it must be {wanted}")
        if not ((colors >= 0) & (colors <= 1)).all():
            raise ValueError("palette holds values outside 0 to 1")
        return colors.expand(count, masks, 3)

    @property
    def adapters(self) -> dict[str, float]:
        """Name and weight of each adapter that is loaded."""
        return {} if self._laid is None else self._blend().weights

    def load_adapter(
        self,
        folder: str | os.PathLike,
        weight: float = 1.0,
        name: str | None = None,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> None:
        """Lay a small fine-tune (sharingan_hub.checkpoints.adapters) over the generator's weights, beside those already there.

        Each adapter's change, times its weight, is added to the weights of the base. A generator with orders draws them
        in the adapter's mix, as far as the weight says.

        Args:
            folder: Hub id ("user/name") or local folder of an adapter (adapter_config.json and adapter.safetensors), or of
                a checkpoint that has one in its folder `adapter`.
            weight: 1 is the fine-tune itself, 0 the base; others are allowed.
            name: what to call it, the Hub id or the folder's name unless given. Loading it again by its name changes its
                weight.
            revision: branch, tag or commit on the Hub.
            token: Hub token, for private repositories.
            local_files_only: use the local cache of the Hub and no network.

        Raises:
            ValueError, TypeError: an argument is outside its range or of another type.
            sharingan_hub.hub.HubError: it cannot be fetched, is no adapter, or one for another base. Where it is the folder
                that is at fault, this is a ValueError too.
            ImportError: adapters need the sharingan-hub package.
        """
        self._blend().add(folder, finite("weight", weight), name, revision, token, local_files_only)

    def unload_adapter(self, name: str | None = None) -> None:
        """Take one adapter off, or all (None); without any, the weights are bit for bit those of the base.

        Raises:
            ValueError: no adapter of this name is loaded.
        """
        if name is not None or self.adapters:
            self._blend().remove(name)

    def _blend(self) -> Any:
        """What lays adapters over the generator; a new one where the generator is another than before."""
        if self._laid is None or self._laid.generator is not self.generator_model:
            self._laid = import_room("checkpoints.blend").Blend(self.generator_model)
        return self._laid

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | os.PathLike, safe_serialization: bool = True, variant: str | None = None
    ) -> None:
        """Write a checkpoint folder: model_index.json, pipeline.py and generator_model/ (configuration, weights, code).

        All files are written beside their places first and renamed then, so that an error or a full disk leaves an
        earlier checkpoint whole. Other files in the folder stay. The weights are saved as they are: while adapters are
        loaded, with these added to them.

        Raises:
            ValueError: `safe_serialization` is False or a `variant` is given.
        """
        if not safe_serialization:
            raise ValueError("safe_serialization is False; weights are published as safetensors only")
        if variant is not None:
            raise ValueError(f"variant is {variant!r}; this pipeline has none")
        model = self.generator_model
        source = Path(inspect.getsourcefile(type(model)) or "")
        folder = Path(save_directory)
        new = folder / ".saving"
        shutil.rmtree(new, ignore_errors=True)  # of a run that was killed
        component = new / "generator_model"
        try:
            component.mkdir(parents=True)
            model.save_pretrained(component, safe_serialization=True, max_shard_size="1TB")
            config = json.loads((component / "config.json").read_text(encoding="utf-8"))
            config.pop("_name_or_path", None)  # a path on the maker's own disk
            (component / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
            weights = component / "diffusion_pytorch_model.safetensors"
            shutil.copymode(component / "config.json", weights)  # safetensors lets nobody else read what it writes
            shutil.copyfile(source, component / source.name)
            shutil.copyfile(__file__, new / "pipeline.py")
            index = {
                "_class_name": ["pipeline", "SharinganPipeline"],
                "_diffusers_version": __version__,
                "generator_model": [source.stem, type(model).__name__],
            }
            (new / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
            (folder / "generator_model").mkdir(exist_ok=True)
            for path in sorted(component.iterdir()):
                os.replace(path, folder / "generator_model" / path.name)
            for old in (folder / "generator_model").glob("modeling_*.py"):
                if old.name != source.name:
                    old.unlink()
            for name in ("pipeline.py", "model_index.json"):
                os.replace(new / name, folder / name)
        finally:
            shutil.rmtree(new, ignore_errors=True)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None = None,
        *,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> "SharinganPipeline":
        """Open a checkpoint. Reads JSON and safetensors only: no code that came with the checkpoint is run.

        Of an adapter, the base that its configuration or card names is opened, and the adapter laid over it.

        Args:
            pretrained_model_name_or_path: Hub id ("user/name") or local folder, of a checkpoint or an adapter; None is the
                model inside the package, which needs no network.
            revision: branch, tag or commit on the Hub.
            dtype: of the weights, float32 unless given; `torch_dtype` is its older name.
            token: Hub token, for private repositories.
            local_files_only: use the local cache of the Hub and no network.

        Returns:
            The pipeline, on the CPU; `.to("cuda")` moves it.

        Raises:
            sharingan_hub.hub.HubError: it cannot be fetched, or is no checkpoint of this project.
        """
        hub = import_room("hub")
        dtype = torch_dtype if dtype is None else dtype
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise TypeError(f"dtype is {dtype!r}; it must be a floating-point torch.dtype, such as torch.bfloat16")
        folder = hub.locate(pretrained_model_name_or_path, revision, token, local_files_only)
        adapted = import_room("checkpoints.adapters").is_adapter(folder)
        base = import_room("checkpoints.blend").locate_base(folder, token, local_files_only) if adapted else folder
        pipe = cls(hub.read_generator(base, torch.float32 if dtype is None else dtype))
        if adapted:
            pipe.load_adapter(folder)
        return pipe


def import_room(name: str) -> Any:
    """Import sharingan_hub.`name`, which is not there where this file runs alone as a checkpoint's remote code."""
    try:
        return importlib.import_module(f"sharingan_hub.{name}")
    except ImportError as error:
        raise ImportError(f"This needs sharingan_hub.{name}: install or upgrade the sharingan-hub package") from error


def chunks(count: int, size: int) -> Iterator[slice]:
    """Slices of `count` pictures of `size` x `size` pixels that are small enough to draw at once."""
    step = max(1, min(CHUNK_PICTURES, CHUNK_PIXELS // (size * size)))
    for start in range(0, count, step):
        yield slice(start, start + step)


def whole_number(name: str, value: Any, low: int, high: int | None = None) -> int:
    """`value` as an int from low to high."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}; it must be a whole number") from None
    if number < low or (high is not None and number > high):
        allowed = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} is {number}; it must be {allowed}")
    return number


def finite(name: str, value: Any) -> float:
    """`value` as a finite float."""
    try:
        if isinstance(value, bool | str):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} is {value!r}; it must be a number") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} is {number}; it must be finite")
    return number


def per_picture(name: str, value: Any, count: int, check: Callable[[str, Any], Any]) -> list:
    """One value for all pictures, or one for each, checked -> a list of `count`."""
    if isinstance(value, str) or not hasattr(value, "__iter__") or getattr(value, "ndim", 1) == 0:
        return [check(name, value)] * count
    values = [check(name, v) for v in value]
    if len(values) != count:
        raise ValueError(f"{name} holds {len(values)} values for {count} pictures; give one, or one for each")
    return values
