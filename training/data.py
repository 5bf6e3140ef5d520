"""Training pictures: a folder, a zip, a Hub data set, or emblems drawn on demand, all behind one `batch(indices)`.

Folders and zips are listed here and not by the image-folder builder of `datasets`, which leaves out pictures that
have no metadata row, lists rows whose picture is gone, and unpacks zips. Hub data sets and folders of Parquet
files do go through `datasets`, undecoded, so that one broken picture does not end the run.
"""

import io
import json
import logging
import os
import posixpath
import re
import warnings
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from sharingan_hub.media import SUFFIXES, eight_bits, open_known
from sharingan_hub.postprocess import circularize, estimate_order

logger = logging.getLogger("training.data")

MAX_ORDER = 8
MEMORY_LIMIT = 2 * 2**30  # bytes of decoded pictures kept; a larger set is decoded anew for each batch
MAX_FILE_BYTES = 512 * 2**20
MEASURED, MEASURED_SIDE = 256, 128  # pictures, and their side in pixels, that an unstated mix of orders is taken from


class PictureSet(Protocol):
    """What the trainer needs of its data.

    `order_probs` is the mix of the orders 1 to 8 in the data (8 floats that sum to 1), None where it is unknown.
    """

    @property
    def order_probs(self) -> list[float] | None: ...

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures (N, 3, S, S), float32 in [-1, 1], and their orders (N,), int64, 0 where unknown."""
        ...


def load_pictures(train_data: str, resolution: int) -> PictureSet:
    """Open a set of square RGB pictures of `resolution` pixels a side.

    Args:
        train_data: a folder or zip of pictures (nested folders too), the id of a data set on the Hub
            ("owner/name"), or "emblems:source" / "emblems:sharingan" / ... for emblems drawn on demand.
            An integer column `order` (1 to 8) in a `metadata.jsonl` beside the pictures, or in the data set,
            gives the orders; where none is given, their mix is what the pictures' symmetry shows.
        resolution: side S in pixels. Pictures are turned as their EXIF says, laid over white, cropped to the
            centre square, and resized (Lanczos).

    Returns:
        The set. The files that could not be read are left out and named in one UserWarning.

    Raises:
        ValueError: nothing is there, there is no picture in it, or none can be read.
    """
    if not isinstance(resolution, int) or isinstance(resolution, bool) or resolution < 1:
        raise ValueError(f"resolution must be a positive whole number of pixels, got {resolution!r}")
    if not isinstance(train_data, (str, os.PathLike)) or not str(train_data).strip():
        raise ValueError(f"train_data must name a folder, a zip or a Hub data set, got {train_data!r}")
    name = str(train_data)
    if name.startswith("emblems:"):
        return Emblems(name.removeprefix("emblems:"), resolution)
    path = Path(name).expanduser()
    if path.is_dir():
        return _load_folder(path, resolution)
    if path.is_file():
        return _load_zip(path, resolution)
    if path.is_absolute() or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) or name.endswith(".zip"):
        raise ValueError(
            f"train_data {name!r} does not exist here, and is not the id of a data set on the Hub (owner/name) either"
        )
    return _load_hub(name, resolution)


class Emblems:
    """Emblems drawn when asked for: the index is the seed, so the set never repeats and is the same everywhere."""

    def __init__(self, distribution: str, resolution: int) -> None:
        from training.emblems import DISTRIBUTIONS, order_probs

        if distribution not in DISTRIBUTIONS:
            raise ValueError(
                f"train_data must be one of {', '.join('emblems:' + name for name in DISTRIBUTIONS)} for drawn emblems, "
                f"got {'emblems:' + distribution!r}"
            )
        self.distribution = distribution
        self.order_probs: list[float] | None = order_probs(distribution)
        self.resolution = resolution

    def __len__(self) -> int:
        return 2**31

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        from training.emblems import render, sample_emblems

        emblems = sample_emblems(self.distribution, [int(i) for i in indices])
        orders = torch.tensor([emblem.order for emblem in emblems], dtype=torch.int64)
        return render(emblems, self.resolution) * 2 - 1, orders


class Pictures:
    """Pictures decoded from files: once, into memory, where they fit in MEMORY_LIMIT; else for each batch.

    Args:
        source: where they come from, for messages.
        names: one name per picture, for messages.
        open_file: opens picture i, an index into `names`, as a binary stream.
        orders: order of each picture, 0 where unknown.
        resolution: side S in pixels.

    Raises:
        ValueError: none of the pictures can be read.
    """

    def __init__(
        self,
        source: str,
        names: Sequence[str],
        open_file: Callable[[int], BinaryIO],
        orders: Sequence[int],
        resolution: int,
    ) -> None:
        self.source = source
        self.resolution = resolution
        self._names = names
        self._open = open_file
        self._pool = ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 16))
        self._lost: set[int] = set()
        self._memory: torch.Tensor | None = None

        in_memory = len(names) * 3 * resolution**2 <= MEMORY_LIMIT
        if in_memory:
            self._memory = torch.empty((len(names), 3, resolution, resolution), dtype=torch.uint8)
        check = self._remember if in_memory else self._look
        progress = tqdm(
            self._pool.map(check, range(len(names))),
            total=len(names),
            desc="Reading pictures",
            disable=None if len(names) > 2000 else True,
        )
        readable = torch.tensor(list(progress), dtype=torch.bool)
        self._kept = readable.nonzero().flatten().tolist()
        bad = [names[i] for i in (~readable).nonzero().flatten().tolist()]
        if not self._kept:
            raise ValueError(f"train_data {source!r}: none of its {_count(bad)} could be read ({_listed(bad)})")
        if bad:
            warnings.warn(f"{source}: {_count(bad)} could not be read and left out: {_listed(bad)}", stacklevel=4)
            if self._memory is not None:
                self._memory = self._memory[readable]
        self._orders = torch.tensor([orders[i] for i in self._kept], dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._kept)

    @cached_property
    def order_probs(self) -> list[float] | None:
        """The mix of the orders that are given; where none is, of those that the pictures show."""
        orders = self._orders if self._orders.any() else self._shown_orders()
        counts = torch.bincount(orders, minlength=MAX_ORDER + 1)[1:].double()
        return (counts / counts.sum()).tolist() if counts.sum() else None

    def _shown_orders(self) -> torch.Tensor:
        """The orders of some pictures by their symmetry, discs made round first; none where half of them show no symmetry.

        A picture without symmetry is of order 1, like one with a single motif. Among pictures that are symmetric it counts as
        such; where most have none (faces, drawings that are no emblems), nothing is known.
        """
        rows = range(0, len(self), -(-len(self) // MEASURED))
        found = [picture for picture in self._pool.map(self._small, rows) if picture is not None]
        if not found:
            return torch.zeros(0, dtype=torch.int64)
        parts = torch.stack(found).float().div(255).split(64)
        orders = torch.cat([estimate_order(circularize(part).images) for part in parts])
        if 2 * int((orders > 1).sum()) <= len(orders):
            return orders[:0]
        mix = ", ".join(f"{n} in {int((orders == n).sum())}" for n in orders.unique().tolist())
        logger.info("No orders are given; %s show order %s.", _count(found), mix)
        return orders

    def _small(self, index: int) -> torch.Tensor | None:
        try:
            return self._decode(self._kept[index], MEASURED_SIDE)
        except Exception:  # nearly anything, as below; whoever wants the picture itself is told
            return None

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures (N, 3, S, S), float32 in [-1, 1], and their orders (N,), int64, 0 where unknown.

        Raises:
            IndexError: an index is not in 0 .. len - 1.
        """
        wanted = [int(i) for i in indices]
        for i in wanted:
            if not 0 <= i < len(self):
                raise IndexError(f"indices must be from 0 to {len(self) - 1}, got {i}")
        if self._memory is not None:
            pictures = self._memory[wanted]
        else:
            found = list(self._pool.map(self._fetch, wanted))
            wanted = [i for i, _ in found]
            pictures = torch.stack([picture for _, picture in found])
        return pictures.float() / 127.5 - 1, self._orders[wanted]

    def _decode(self, i: int, side: int) -> torch.Tensor:
        with self._open(i) as file:
            return torch.from_numpy(decode(file, side)).permute(2, 0, 1)

    def _remember(self, i: int) -> bool:
        assert self._memory is not None
        try:
            self._memory[i] = self._decode(i, self.resolution)
        except Exception:  # damaged files make Pillow raise nearly anything
            return False
        return True

    def _look(self, i: int) -> bool:
        """Read the header alone: what is wrong further in shows when the picture is wanted."""
        try:
            with self._open(i) as file, open_known(file):
                return True
        except Exception:  # again: nearly anything
            return False

    def _fetch(self, index: int) -> tuple[int, torch.Tensor]:
        """Decode a picture of a set too large for memory; the next readable one stands in for a damaged one."""
        for i in range(index, index + len(self)):
            i %= len(self)
            try:
                return i, self._decode(self._kept[i], self.resolution)
            except Exception:  # again: nearly anything
                if i not in self._lost:
                    self._lost.add(i)
                    name = self._names[self._kept[i]]
                    warnings.warn(f"{self.source}: {name} could not be read; the next picture stands in", stacklevel=2)
        raise ValueError(f"train_data {self.source!r}: none of its {len(self)} pictures could be read")


def decode(file: BinaryIO, resolution: int) -> np.ndarray:
    """The centre square of a picture file, (S, S, 3) uint8: upright by EXIF, over white, resized by Lanczos.

    Raises:
        Exception: whatever Pillow raises for a file that is not a whole picture; ValueError for one too large.
    """
    with open_known(file) as image:
        image.load()
        try:
            upright = ImageOps.exif_transpose(image)
        except Exception:  # the picture is whole, its EXIF block is not
            upright = image.copy()
    side = min(upright.size)
    left, top = (upright.width - side) // 2, (upright.height - side) // 2
    rgb = _to_rgb(upright.crop((left, top, left + side, top + side)))
    if side != resolution:
        rgb = rgb.resize((resolution, resolution), Image.Resampling.LANCZOS)
    return np.array(rgb)


def _to_rgb(image: Image.Image) -> Image.Image:
    image = eight_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _load_folder(folder: Path, resolution: int) -> Pictures:
    files: dict[str, Path] = {}
    for root, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not _hidden(name)]
        for name in names:
            path = Path(root, name)
            # a pipe or device would block; a dangling link is listed, and reported as unreadable
            if path.is_file() or (path.is_symlink() and not path.exists()):
                files[path.relative_to(folder).as_posix()] = path
    pictures, metadata = _sort_names(files)
    if not pictures:
        tables = sorted(name for name in files if name.endswith(".parquet") and not _hidden(name))
        if tables:
            return _load_parquet(folder, [files[name] for name in tables], resolution)
        raise ValueError(f"train_data {str(folder)!r} holds no pictures ({', '.join(SUFFIXES)})")
    orders = _read_orders({name: files[name].read_bytes for name in metadata}, str(folder))
    return Pictures(
        str(folder), pictures, lambda i: files[pictures[i]].open("rb"), [orders.get(n, 0) for n in pictures], resolution
    )


def _load_zip(path: Path, resolution: int) -> Pictures:
    """Members are read in place, so what their names say about folders does not matter."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"train_data {str(path)!r} is neither a folder nor a zip that can be read: {error}") from error
    members = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    pictures, metadata = _sort_names(members)
    if not pictures:
        raise ValueError(f"train_data {str(path)!r} holds no pictures ({', '.join(SUFFIXES)})")

    def open_member(i: int) -> BinaryIO:
        info = members[pictures[i]]
        if info.file_size > MAX_FILE_BYTES:
            raise ValueError(f"{info.filename} unpacks to {info.file_size} bytes")
        return io.BytesIO(archive.read(info))  # seeking within a compressed member would unpack it again

    def reader(name: str) -> Callable[[], bytes]:
        return lambda: archive.read(members[name]) if members[name].file_size <= MAX_FILE_BYTES else b""

    orders = _read_orders({name: reader(name) for name in metadata}, str(path))
    return Pictures(str(path), pictures, open_member, [orders.get(name, 0) for name in pictures], resolution)


def _load_parquet(folder: Path, tables: list[Path], resolution: int) -> Pictures:
    import datasets

    try:
        rows = datasets.load_dataset("parquet", data_files=[str(path) for path in tables], split="train")
    except Exception as error:
        raise ValueError(f"train_data {str(folder)!r}: its Parquet files cannot be read: {_brief(error)}") from error
    return _load_rows(str(folder), rows, resolution)


def _load_hub(repo: str, resolution: int) -> Pictures:
    import datasets

    try:
        splits = datasets.load_dataset(repo)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise ValueError(
            f"train_data {repo!r}: there is no such folder or zip here and no such data set on the Hub "
            f"(if it is private or gated, log in with `hf auth login`)"
        ) from error
    except Exception as error:  # no network, a damaged table, several configurations …
        raise ValueError(
            f"train_data {repo!r}: there is no such folder or zip here, and loading it as a Hub data set failed: "
            f"{_brief(error)}"
        ) from error
    return _load_rows(repo, splits["train"] if "train" in splits else next(iter(splits.values())), resolution)


def _load_rows(source: str, rows: Any, resolution: int) -> Pictures:
    """Pictures from the first image column of a `datasets.Dataset`; one called "image" comes first."""
    import datasets

    columns = [name for name, feature in rows.features.items() if isinstance(feature, datasets.Image)]
    if not columns:
        raise ValueError(f"train_data {source!r} has no image column, but {', '.join(rows.column_names) or 'nothing'}")
    if len(rows) == 0:
        raise ValueError(f"train_data {source!r} holds no pictures: it has no rows")
    column = "image" if "image" in columns else columns[0]
    orders = [_order(value) for value in rows["order"]] if "order" in rows.column_names else [0] * len(rows)
    rows = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))

    def open_row(i: int) -> BinaryIO:
        cell = rows[i][column]
        return io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else open(cell["path"], "rb")

    return Pictures(source, [f"row {i}" for i in range(len(rows))], open_row, orders, resolution)


def _hidden(name: str) -> bool:
    """Files such as ".cache/x.png" and "__MACOSX/._x.png" are nobody's pictures."""
    return any((part.startswith(".") and part not in (".", "..")) or part == "__MACOSX" for part in name.split("/"))


def _sort_names(names: Any) -> tuple[list[str], list[str]]:
    """Pictures and metadata files among the names of a folder or zip, each sorted."""
    shown = sorted(name for name in names if not _hidden(name))
    pictures = [name for name in shown if name.lower().endswith(SUFFIXES)]
    return pictures, [name for name in shown if posixpath.basename(name) == "metadata.jsonl"]


def _read_orders(metadata: dict[str, Callable[[], bytes]], source: str) -> dict[str, int]:
    """Orders by picture name, from every metadata.jsonl; its file names are relative to its own folder."""
    orders: dict[str, int] = {}
    for table, read in metadata.items():
        wrong = 0
        try:
            lines = read().decode("utf-8-sig").splitlines()
        except Exception as error:
            warnings.warn(f"{source}: {table} could not be read: {_brief(error)}", stacklevel=4)
            continue
        for line in lines:
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                name = posixpath.normpath(posixpath.join(posixpath.dirname(table), row["file_name"]))
                orders[name] = _order(row.get("order"))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                wrong += 1
        if wrong:
            warnings.warn(f"{source}: {wrong} lines of {table} are not rows with a file_name", stacklevel=4)
    return orders


def _order(value: object) -> int:
    """Orders outside 1 to 8 are unknown: a column called `order` may well hold something else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_ORDER else 0


def _count(names: Sequence[Any]) -> str:
    return f"{len(names)} picture{'s' if len(names) != 1 else ''}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _brief(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
