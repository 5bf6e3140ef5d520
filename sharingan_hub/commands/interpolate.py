"""`sharingan interpolate`: an animation between seeds. Nothing heavy is imported until it runs."""

from __future__ import annotations

import argparse
import math
import os
import shutil
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharingan_hub import cli

if TYPE_CHECKING:
    from PIL import Image

VIDEO, ANIMATIONS = ".mp4", (".webp", ".gif")
MAX_KEYFRAMES = 1000


def add_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command; `command(name, summary, example, more)` makes one."""
    parser = command(
        "interpolate",
        "write an animation between seeds",
        "sharingan interpolate --seeds 1,7,12 --frames 120 --fps 30 --output walk.mp4\n"
        "  sharingan interpolate --seeds 7 --orders 2,3,6 --loop ping-pong --spin 1 --output orders.webp",
        "Every seed is one of\nthe frames; where two seeds differ in order, motifs grow between those that are there.",
    )
    parser.set_defaults(run=_interpolate)
    add = parser.add_argument
    add("--model", help="local folder or Hub id (default: the model that came with the package)")
    add(
        "--adapter",
        type=cli._parse_adapter,
        action="append",
        default=[],
        metavar="FOLDER[:WEIGHT]",
        help="a small fine-tune of the model, as in mine:0.5; may be given several times",
    )
    add("--seeds", type=parse_keyframes, required=True, help="in the order of the animation, such as 1,7,12 or 0-5")
    add("--frames", type=cli._parse_count, default=120, metavar="N", help="how many in all (default: %(default)s)")
    add("--fps", type=cli._parse_number, default=30.0, help="frames per second (default: 30)")
    orders = parser.add_mutually_exclusive_group()
    orders.add_argument("--order", type=cli._parse_order, default="any", help="of all seeds: 1 to 8, or any (default)")
    orders.add_argument(
        "--orders", type=_parse_orders, metavar="N,N,...", help="one for each seed, or many for one seed"
    )
    add(
        "--class",
        dest="class_label",
        type=cli._parse_class,
        metavar="N",
        help="of a model with classes: 0 (default), 1 ...",
    )
    add("--space", choices=("w", "z"), default="w", help="a spline in w (default), or great circles in z")
    add("--easing", choices=("linear", "smooth", "in", "out"), default="linear", help="(default: %(default)s)")
    add("--loop", choices=("once", "loop", "ping-pong"), default="loop", help="(default: %(default)s)")
    add("--spin", type=_parse_turns, default=0.0, metavar="TURNS", help="counter-clockwise, in all, such as 1 or 1/3")
    add("--truncation-psi", type=cli._parse_number, default=0.7, metavar="PSI", help="(default: %(default)s)")
    add(
        "--palette",
        type=lambda text: text.split(","),
        action="append",
        metavar="COLOUR,...",
        help='one colour for each mask, such as red or "#c8102e"; given several times, one palette for each seed',
    )
    add("--output-size", type=cli._parse_count, metavar="PIXELS", help="width and height (default: the model's own)")
    add(
        "--output",
        type=Path,
        default="out.mp4",
        metavar="FILE",
        help="ends in .mp4, .webp or .gif; without an ending a new folder of PNG files (default: %(default)s)",
    )
    add("--overwrite", action="store_true", help="replace a file that exists")
    add("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: %(default)s)")


def _interpolate(arguments: argparse.Namespace) -> None:
    import torch
    from tqdm.auto import tqdm

    from sharingan_hub.checkpoints.adapters import fingerprint
    from sharingan_hub.latents import animate, interpolate, interpolate_palettes, interpolate_seeds

    output: Path = arguments.output
    check_output(output, arguments.overwrite)
    pipe = cli._load(arguments.model)
    for adapter, weight in arguments.adapter:
        pipe.load_adapter(adapter, weight)
    try:
        pipe.to(("cuda" if torch.cuda.is_available() else "cpu") if arguments.device == "auto" else arguments.device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {arguments.device!r} cannot be used: {cli._first_line(error)}") from error
    if arguments.palette and "palette" not in pipe.generator_model.conditions:
        raise ValueError(f"--palette was given, but {type(pipe.generator_model).__name__} does not take it")

    seeds: list[int] = arguments.seeds
    order = arguments.orders or arguments.order
    palettes = arguments.palette or []
    if len(seeds) == 1:  # then the rest changes, or it spins
        seeds = seeds * max(2, len(arguments.orders or []), len(palettes))
    psi, timing = arguments.truncation_psi, {"easing": arguments.easing, "loop": arguments.loop}
    classes = {} if arguments.class_label is None else {"class_label": arguments.class_label}
    if arguments.space == "z":
        latents = interpolate_seeds(pipe, seeds, arguments.frames, psi, order, spin=arguments.spin, **classes, **timing)
    else:
        keyframes = pipe.prepare_latents(seeds, psi, order, **classes)
        latents = interpolate(keyframes, arguments.frames, spin=arguments.spin, **timing)
    colors: Any = None
    if palettes:
        colors = pipe.prepare_palette(palettes if len(palettes) > 1 else palettes[0], len(seeds))
        colors = interpolate_palettes(colors, arguments.frames, **timing) if len(palettes) > 1 else colors[0]

    recipe = {
        "model": cli._model_name(arguments.model),
        "weights": fingerprint(pipe.generator_model.state_dict())[:16],
        "seeds": seeds,
        "order": order,
        **classes,
        "truncation_psi": psi,
        "space": arguments.space,
        **timing,
        "spin": arguments.spin,
        "palette": palettes or None,
        "frames": arguments.frames,
        "fps": arguments.fps,
        "output_size": arguments.output_size or pipe.generator_model.resolution,
    }
    if arguments.adapter:
        recipe["adapters"] = pipe.adapters
    frames = animate(pipe, latents, colors, arguments.output_size)
    with tqdm(frames, total=len(latents), desc="Drawing", unit=" frames") as progress:
        write_frames(progress, output, arguments.fps, arguments.loop != "once", recipe)
    print(f"{len(latents)} frames written to {output}")


def check_output(output: Path, overwrite: bool) -> None:
    """Refuse a place where nothing can be written, before anything is drawn.

    Raises:
        ValueError: it ends in something else, exists and is not to be replaced, or is a folder with files.
    """
    if output.suffix.lower() in (VIDEO, *ANIMATIONS):
        if output.exists() and not overwrite:
            raise ValueError(f"{output} exists: choose another --output, or add --overwrite")
    elif output.is_dir():
        if any(output.iterdir()):
            raise ValueError(f"{output} is a folder with files in it: choose another --output")
    elif output.suffix:
        raise ValueError(
            f"--output ends in {output.suffix!r}; it must be {VIDEO}, .webp, .gif, or nothing for a folder"
        )
    elif output.exists():
        raise ValueError(f"{output} exists and is no folder: choose another --output")


def write_frames(
    frames: Iterable[Image.Image], output: Path, fps: float, loop: bool, recipe: dict[str, Any] | None = None
) -> None:
    """Write frames as they come into a video or an animation, or as frame0000000.png and so on into a new folder.

    What stops on the way leaves nothing behind.
    """
    from sharingan_hub import media

    output = output.absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix.lower() == VIDEO:
        media.write_video(frames, output, fps, recipe=recipe)
    elif output.suffix.lower() in ANIMATIONS:
        media.write_animation(frames, output, fps, loop=loop, recipe=recipe)
    else:
        temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
        temporary.mkdir()
        try:
            for i, image in enumerate(frames):
                media.write_png(image, temporary / f"frame{i:07d}.png", {**(recipe or {}), "frame": i})
            if output.is_dir():
                output.rmdir()  # an empty one, or it stays
            os.replace(temporary, output)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def parse_keyframes(text: str) -> list[int]:
    """Seeds such as "1,7,12" or "0-5" in the order they stand in, repetitions included.

    Raises:
        argparse.ArgumentTypeError: not such a list, a seed above 2**32 - 1, or more than 1000.
    """
    spans = [span for part in text.split(",") for span in cli.parse_seeds(part)]
    if sum(map(len, spans)) > MAX_KEYFRAMES:
        raise argparse.ArgumentTypeError(f"must be at most {MAX_KEYFRAMES} seeds, got {text[:80]!r}")
    return [seed for span in spans for seed in span]


def _parse_orders(text: str) -> list[int]:
    return [cli._parse_count(part.strip(), "whole numbers from 1 on, such as 2,3,6") for part in text.split(",")]


def _parse_turns(text: str) -> float:
    try:
        turns = float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError):
        turns = math.nan
    if not abs(turns) <= 1000:
        raise argparse.ArgumentTypeError(f"must be turns such as 1, -0.5 or 1/3, got {text[:80]!r}")
    return turns
