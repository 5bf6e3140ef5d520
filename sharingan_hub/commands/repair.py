"""`sharingan circularize | recolor | symmetrize`: repairs for files. Nothing heavy is imported until one runs."""

from __future__ import annotations

import argparse
import glob
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

HOW_FILES_GO = (
    "Files, folders (with\ntheir subfolders) and quoted patterns such as 'pictures/*.jpg' become PNG files of the same\n"
    "names and sizes in --output-dir; transparency is kept, and EXIF says which way is up."
)


def add_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the three commands; `command(name, summary, example, more)` makes one."""
    circularize = command(
        "circularize",
        "make the circles of pictures round",
        "sharingan circularize pictures --output-dir round",
        HOW_FILES_GO,
    )
    circularize.add_argument(
        "--harmonics",
        type=_parse_harmonics,
        metavar="N",
        help="waves around the circle to fit (default: from the data)",
    )
    circularize.add_argument(
        "--center",
        type=_parse_center,
        default="auto",
        metavar="auto|image|X,Y",
        help="auto finds it, image is the middle, X,Y are pixels (default: %(default)s)",
    )
    circularize.add_argument("--per-ring", action="store_true", help="let the distortion change with the radius")
    circularize.add_argument("--method", choices=("warp", "ratio"), default="warp", help="(default: %(default)s)")

    recolor = command(
        "recolor",
        "give iris, pattern and sclera other colours",
        "sharingan recolor eye.png --palette violet --output-dir violet\n"
        "  sharingan recolor 'eyes/*.jpg' --iris '#12a4d9' --pattern black --sclera ivory",
        HOW_FILES_GO,
    )
    recolor.add_argument(
        "--palette", metavar="NAME", help="crimson, violet, cyan, gold ... (a wrong name lists them all)"
    )
    recolor.add_argument("--reference", metavar="FILE", help="picture to take the colours from")
    for role in ("iris", "pattern", "sclera"):
        recolor.add_argument(f"--{role}", metavar="COLOUR", help='such as red or "#c8102e"')
    recolor.add_argument("--hue-only", action="store_true", help="keep lightness and chroma, turn the hues")

    symmetrize = command(
        "symmetrize",
        "make pictures symmetric about their middle",
        "sharingan symmetrize round --order 3 --output-dir symmetric",
        HOW_FILES_GO,
    )
    symmetrize.add_argument(
        "--order", type=_parse_order, default="auto", metavar="N", help="1, 2, 3 ... or auto (default: %(default)s)"
    )
    symmetrize.add_argument(
        "--method",
        choices=("auto", "average", "wedge"),
        default="auto",
        help="average all parts, repeat the best one, or what suits each picture (default: %(default)s)",
    )
    options = {
        circularize: ("harmonics", "center", "per_ring", "method"),
        recolor: ("palette", "reference", "iris", "pattern", "sclera", "hue_only"),
        symmetrize: ("order", "method"),
    }
    for parser, names in options.items():
        parser.set_defaults(run=_run, step=parser.prog.split()[-1], options=names)
        parser.add_argument("inputs", nargs="+", metavar="IN", help="picture, folder or pattern")
        parser.add_argument(
            "--output-dir", type=Path, default="out", metavar="FOLDER", help="made if missing (default: %(default)s)"
        )
        parser.add_argument("--overwrite", action="store_true", help="replace files that exist, originals too")
        parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: %(default)s)")


def _run(arguments: argparse.Namespace) -> None:
    import torch
    from tqdm.auto import tqdm

    from sharingan_hub.media import read_recipe, write_png
    from sharingan_hub.postprocess.steps import postprocess, postprocess_with_alpha

    options: dict[str, Any] = {name: getattr(arguments, name) for name in arguments.options}
    recipe: dict[str, Any] = {arguments.step: {name: value for name, value in options.items() if value is not None}}
    if options.get("reference") is not None:
        recipe[arguments.step]["reference"] = Path(options["reference"]).name
        try:
            options["reference"] = _to_tensor(open_picture(options["reference"]))[0]
        except Exception as error:
            raise ValueError(f"--reference {options['reference']} could not be read: {_reason(error)}") from error
    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    steps = [{arguments.step: options}]
    try:
        blank = torch.full((1, 3, 8, 8), 0.5, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r} cannot be used: {_reason(error)}") from error
    if options.get("reference") is not None:
        options["reference"] = options["reference"].to(device)
    postprocess(blank, steps)  # wrong options are refused before any file is touched
    jobs = plan_files(arguments.inputs, arguments.output_dir, arguments.overwrite)
    unreadable = 0
    progress = tqdm(jobs, desc=arguments.step.capitalize(), unit=" pictures")
    for source, target in progress:
        try:
            image = open_picture(source)
        except Exception as error:  # damaged files make Pillow raise nearly anything
            progress.write(f"{source}: could not be read: {_reason(error)}", file=sys.stderr)
            unreadable += 1
            continue
        colors, alpha = _to_tensor(image)
        colors = colors.to(device)
        if alpha is None:
            colors = postprocess(colors, steps)
        else:
            colors, alpha = postprocess_with_alpha(colors, alpha.to(device), steps)
        repaired = _to_image(colors, alpha)
        repaired.info.update({key: image.info[key] for key in ("icc_profile", "dpi") if key in image.info})
        before = read_recipe(source) or {"source": source.name}
        target.parent.mkdir(parents=True, exist_ok=True)
        write_png(repaired, target, {**before, "steps": [*_earlier_steps(before), recipe]})
    print(f"{len(jobs) - unreadable} pictures written to {arguments.output_dir}")
    if unreadable:
        raise ValueError(f"{unreadable} of {len(jobs)} pictures could not be read")


def plan_files(inputs: list[str], output_dir: Path, overwrite: bool) -> list[tuple[Path, Path]]:
    """Pictures and where each one's repaired copy goes.

    Raises:
        ValueError: an input is not there or holds no pictures, or a file would be replaced without `overwrite`.
    """
    from sharingan_hub.media import SUFFIXES

    found: dict[Path, tuple[Path, Path]] = {}  # by real path: the source, and its name below the output folder
    for text in inputs:
        path = Path(text).expanduser()
        matches = [path] if path.exists() else [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        if not matches:
            raise ValueError(f"{text[:200]!r} is no file or folder, and no pattern that matches any")
        before = len(found)
        repeated = False
        for match in matches:
            pictures = _in_folder(match, output_dir) if match.is_dir() else [(match, Path(match.name))]
            for source, name in pictures:
                repeated |= source.resolve() in found
                found.setdefault(source.resolve(), (source, name))
        if len(found) == before and not repeated:
            raise ValueError(f"{text[:200]!r} holds no pictures ({', '.join(SUFFIXES)})")
    jobs: list[tuple[Path, Path]] = []
    taken: set[str] = set()
    # A PNG keeps its name, and a JPEG beside it of the same name gets another.
    for source, name in sorted(found.values(), key=lambda pair: pair[1].suffix.lower() != ".png"):
        choices = [name.with_suffix(".png"), name.with_name(name.name + ".png")]
        choices += [name.with_name(f"{name.stem}-{i}.png") for i in range(2, len(found) + 2)]
        # Some disks take A.png and a.png for one file.
        target = next(choice for choice in choices if str(choice).lower() not in taken)
        taken.add(str(target).lower())
        jobs.append((source, output_dir / target))
    existing = [target for _, target in jobs if target.exists()]
    if existing and not overwrite:
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        exist = "exist" if more else "exists"
        raise ValueError(f"{existing[0]}{more} {exist}: choose another --output-dir, or add --overwrite")
    return jobs


def _in_folder(folder: Path, output_dir: Path) -> list[tuple[Path, Path]]:
    """Pictures in a folder, with their paths in it; hidden ones and those that an earlier run put there are left out."""
    from sharingan_hub.media import SUFFIXES

    own = output_dir.resolve() if output_dir.resolve() != folder.resolve() else None
    pictures = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
        if hidden or path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        if own is None or own not in path.resolve().parents:
            pictures.append((path, name))
    return pictures


def open_picture(path: str | os.PathLike[str]) -> Image.Image:
    """A picture file, upright by EXIF, of mode L, LA, RGB or RGBA; of an animation the first frame.

    Raises:
        Exception: whatever Pillow raises for a file that is not a whole picture; ValueError for one too large.
    """
    from PIL import ImageOps

    from sharingan_hub.media import eight_bits, open_known

    with open_known(path) as image:
        image.load()
        try:
            upright = ImageOps.exif_transpose(image)
        except Exception:  # the picture is whole, its EXIF block is not
            upright = image.copy()
    info = upright.info
    upright = eight_bits(upright)
    if upright.has_transparency_data:
        upright = upright.convert("LA" if upright.mode == "LA" else "RGBA")
    else:
        upright = upright.convert("L" if upright.mode in ("1", "L") else "RGB")
    upright.info = {key: value for key, value in info.items() if key != "transparency"}
    if info.get("icc_profile") and image.mode == "CMYK":
        del upright.info["icc_profile"]  # it spoke of inks
    return upright


def _to_tensor(image: Image.Image) -> tuple[Any, Any]:
    """Colours (1, C, H, W) in [0, 1] with C of 1 or 3, and alpha (1, 1, H, W) or None."""
    import numpy as np
    import torch

    array = np.array(image)
    values = torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)[None].float() / 255
    return (values[:, :-1], values[:, -1:]) if image.mode in ("LA", "RGBA") else (values, None)


def _to_image(colors: Any, alpha: Any) -> Image.Image:
    import torch
    from PIL import Image

    values = colors if alpha is None else torch.cat((colors, alpha.to(colors)), dim=1)
    array = values[0].mul(255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def _earlier_steps(recipe: dict[str, Any]) -> list[Any]:
    earlier = recipe.get("steps")
    return earlier if isinstance(earlier, list) else []


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if type(error).__name__ == "UnidentifiedImageError":
        return "no picture of a known kind"
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _parse_harmonics(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 5 and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, got {text[:80]!r}")
    return int(text)


def _parse_order(text: str) -> int | str:
    if text == "auto":
        return text
    if not (text.isascii() and text.isdecimal() and len(text) < 4 and 1 <= int(text) <= 360):
        raise argparse.ArgumentTypeError(f'must be a whole number from 1 to 360, or "auto", got {text[:80]!r}')
    return int(text)


def _parse_center(text: str) -> str | tuple[float, float]:
    if text in ("auto", "image"):
        return text
    try:
        x, y = (float(part) for part in text.split(","))
        if not (abs(x) < 1e6 and abs(y) < 1e6):
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be auto, image or X,Y in pixels, got {text[:80]!r}") from None
    return x, y
